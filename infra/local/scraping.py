"""Reading `/metrics` of every process of a world, the short-lived ones too."""

import contextlib
import http.client
from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

from infra.local.records import Part, ProcessState, ProcessStatus

METRICS_BYTES_MAX = 16 << 20
TIMEOUT_S = 5.0


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a region's `/metrics/targets`, as Prometheus' HTTP service discovery has it."""

    targets: tuple[str, ...]
    labels: dict[str, str] = {}


def scrape(processes: Iterable[ProcessStatus]) -> dict[str, str]:
    """The text of `/metrics` of every process that answers, by its name.

    A region's retrieval processes stand behind its API's name: `us-east/api/retrieval/<release>`.
    """
    texts = {}
    for process in processes:
        if ":" not in process.address or process.state not in (ProcessState.READY, ProcessState.LIVE):
            continue
        with contextlib.suppress(OSError, http.client.HTTPException):
            texts[process.name] = _get(process.address, "/metrics")
        if process.part is Part.API:
            texts |= _children(process)
    return texts


def _children(process: ProcessStatus) -> dict[str, str]:
    texts = {}
    with contextlib.suppress(OSError, http.client.HTTPException, msgspec.MsgspecError):
        found = msgspec.json.decode(_get(process.address, "/metrics/targets"), type=tuple[Target, ...])
        for target in found:
            name = "/".join((process.name, target.labels.get("process", ""), target.labels.get("release", "")))
            for address in target.targets:
                texts[name] = _get(address, "/metrics")
    return texts


def _get(address: str, path: str) -> str:
    parts = urlsplit(f"//{address}")
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().read(METRICS_BYTES_MAX).decode(errors="replace")
    finally:
        connection.close()
