"""A static web server on loopback that gives out a release repository, honestly or with a planned lie."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Fault = Callable[[bytes], bytes]
"""What is sent in place of a file's content."""


@dataclass(slots=True)
class StaticServer:
    """Serves `root`; `faults` by path suffix change content, `cut_after` closes the connection early."""

    root: Path
    url: str = ""
    faults: dict[str, Fault] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    redirects: dict[str, str] = field(default_factory=dict)
    cut_after: dict[str, int] = field(default_factory=dict)
    endless: set[str] = field(default_factory=set)
    requests: list[tuple[str, str]] = field(default_factory=list)
    """(path, Range header) of every request."""
    ranges: bool = True
    gate: Callable[[str], None] | None = None
    """Called with the path before each answer; may block, so that a test can act in the middle of a download."""

    def paths(self) -> list[str]:
        """Paths asked for so far."""
        return [path for path, _ in self.requests]


def _match(path: str, table: "dict[str, Fault] | dict[str, int] | dict[str, str] | set[str]") -> str | None:
    return next((suffix for suffix in table if path.endswith(suffix)), None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are two writes; without this the second waits for the reader's delayed acknowledgement.
    disable_nagle_algorithm = True
    plan: StaticServer

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.plan.requests.append((self.path, wanted))
        if self.plan.gate is not None:
            self.plan.gate(self.path)
        if (moved := _match(self.path, self.plan.redirects)) is not None:
            self.send_response(302)
            self.send_header("Location", self.plan.redirects[moved])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path = self.plan.root / self.path.lstrip("/")
        if _match(self.path, self.plan.missing) or not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        suffix = _match(self.path, self.plan.faults)
        if suffix is not None:
            content = self.plan.faults[suffix](content)
        self._answer(content, wanted)

    def _answer(self, content: bytes, wanted: str) -> None:
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.plan.ranges else 0
        if start >= len(content) and start:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if _match(self.path, self.plan.endless):
            self.close_connection = True
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"x" * 65_536)
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = _match(self.path, self.plan.cut_after)
        if cut is not None:
            self.wfile.write(body[: self.plan.cut_after[cut]])
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@contextlib.contextmanager
def serve_static(root: Path) -> Iterator[StaticServer]:
    """A running server over `root`."""
    plan = StaticServer(root)
    handler = type("Handler", (_Handler,), {"plan": plan})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    plan.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield plan
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
