"""Reading `/metrics` of every process of a world, the short-lived ones too."""

import contextlib
import http.client
import ssl
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from federation.flower.plan import TARGETS
from infra.local.records import Part, ProcessState, ProcessStatus

METRICS_BYTES_MAX = 16 << 20
TIMEOUT_S = 5.0
_WITHOUT_PAGES = frozenset({Part.SUPERLINK, Part.SUPERNODE})
"""Flower's; a run's exporter speaks for what runs below it."""
FEDERATION_TARGETS = Path("federation") / TARGETS
"""Below the world's state: where `./atoll federate` tells of its processes."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a region's `/metrics/targets`, as Prometheus' HTTP service discovery has it."""

    targets: tuple[str, ...]
    labels: dict[str, str] = {}


def scrape(
    processes: Iterable[ProcessStatus], short_lived: Path, tls: ssl.SSLContext | None = None
) -> dict[str, str]:  # fmt: skip
    """The text of `/metrics` of every process that answers, by its name.

    A region's retrieval processes stand behind its API's name: `us-east/api/retrieval/<release>`. Those that live for
    one federated run are named by what they are; `short_lived` is the folder that tells where they are. Those serve
    their pages on the loopback in plain; `tls` is for the others.
    """
    texts: dict[str, str] = {}
    for file in sorted(short_lived.glob("*.json")):
        texts |= _named(file.read_bytes(), prefix="")
    for process in processes:
        if (
            process.part in _WITHOUT_PAGES
            or ":" not in process.address
            or process.state not in (ProcessState.READY, ProcessState.LIVE)
        ):
            continue
        with contextlib.suppress(OSError, http.client.HTTPException):
            texts[process.name] = _get(process.address, "/metrics", tls)
        if process.part is Part.API:
            with contextlib.suppress(OSError, http.client.HTTPException):
                texts |= _named(_get(process.address, "/metrics/targets", tls).encode(), prefix=process.name, tls=tls)
    return texts


def _named(discovered: bytes, *, prefix: str, tls: ssl.SSLContext | None = None) -> dict[str, str]:
    """What the processes of a service discovery's answer say, by name; nothing of those that do not answer."""
    texts = {}
    with contextlib.suppress(OSError, http.client.HTTPException, msgspec.MsgspecError):
        for target in msgspec.json.decode(discovered, type=tuple[Target, ...]):
            name = "/".join(filter(None, (prefix, target.labels.get("process", ""), target.labels.get("release", ""))))
            path, secured = (
                target.labels.get("__metrics_path__", "/metrics"),
                target.labels.get("__scheme__") == "https",
            )
            for address in target.targets:
                texts[name] = _get(address, path, tls if secured else None)
    return texts


def open_connection(address: str, tls: ssl.SSLContext | None, *, timeout_s: float) -> http.client.HTTPConnection:
    """A connection to `host:port`, with TLS if there is a context."""
    parts = urlsplit(f"//{address}")
    host, port = parts.hostname or "", parts.port
    if tls is None:
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls)


def _get(address: str, path: str, tls: ssl.SSLContext | None = None) -> str:
    connection = open_connection(address, tls, timeout_s=TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().read(METRICS_BYTES_MAX).decode(errors="replace")
    finally:
        connection.close()
