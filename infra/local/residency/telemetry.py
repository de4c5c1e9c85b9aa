"""The same search over what a world wrote about itself: logs, spans, printed output, metrics (issue: no user id)."""

import os
from collections.abc import Mapping
from pathlib import Path

from infra.local.residency.scan import Findings, ResidencyReport, Searcher, Secrets

FILE_BYTES_MAX = 256 << 20


def grep_telemetry(state: Path, secrets: Secrets, *, metrics: Mapping[str, str] | None = None) -> ResidencyReport:
    """Search `<state>/logs` and `<state>/spans`, and the texts of `/metrics` by process name.

    `link` of a leak is the file or the process; `bytes_cut` counts what of a file was larger than FILE_BYTES_MAX.

    Raises:
        OSError: a file cannot be read.
    """
    searcher, findings = Searcher(secrets), Findings()
    scanned = cut = 0
    texts: list[tuple[str, bytes]] = [(f"metrics of {name}", text.encode()) for name, text in (metrics or {}).items()]
    files = [path for folder in ("logs", "spans") for path in sorted((state / folder).glob("*")) if path.is_file()]
    for path in files:
        with path.open("rb") as file:
            texts.append((f"{path.parent.name}/{path.name}", file.read(FILE_BYTES_MAX)))
        cut += max(0, os.stat(path).st_size - FILE_BYTES_MAX)
    for name, content in texts:
        scanned += len(content)
        for kind, place in searcher.search_bytes(content):
            findings.add(name, kind, place)
    return ResidencyReport(
        bytes_scanned=scanned, bytes_decoded=0, bytes_cut=cut, links=len(texts), connections=0, messages=0,
        streams_unparsed=0, bodies_undecodable=0, secrets=searcher.needles.count,
        leaks=tuple(sorted(findings.leaks)), leaks_total=findings.total,
    )  # fmt: skip
