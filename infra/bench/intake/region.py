"""A region's API and worker as processes that can be killed and started again, on whatever parts its settings name."""

import contextlib
import http.client
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from infra.bench.miss.node import install_release, make_settings
from infra.bench.serving.processes import HOST, Server
from infra.local.children import signal_group, start_child, tail
from infra.local.tiers import source_root
from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError
from region.settings import RegionSettings

PROGRAMS = {"api": "region", "worker": "region.worker"}
LIVE_WITHIN_S = 60.0
END_WITHIN_S = 15.0
_POLL_S = 0.05


@dataclass
class KillableRegion:
    """One node. Use `killable_region`."""

    settings: RegionSettings
    service_key: str
    place: Path
    python: str
    clock: Clock
    mark: str
    _running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def server(self) -> Server:
        """The API's process."""
        return Server("region", self.settings.port, self._running["api"].pid)

    def start(self, name: str) -> None:
        """Start `api` or `worker`; does not wait until it answers."""
        self._running[name] = start_child(
            [self.python, "-m", PROGRAMS[name], "--settings", str(self.place / "region.json")],
            working_directory=source_root(), mark=self.mark, output=self.output(name),
        )  # fmt: skip

    def kill(self, name: str) -> None:
        """SIGKILL it and what it started; returns when it is gone."""
        process = self._running[name]
        signal_group(process.pid, signal.SIGKILL)
        process.wait()

    def end(self) -> None:
        """End both, asking first."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_WITHIN_S)
            signal_group(process.pid, signal.SIGKILL)
            process.wait()

    def await_live(self, name: str) -> None:
        """Wait until it answers.

        Raises:
            UnavailableError: it ended, or does not answer in time; carries its last words.
        """
        port = self.settings.port if name == "api" else self.settings.worker_port
        ends_s = self.clock.monotonic_s() + LIVE_WITHIN_S
        while self._running[name].poll() is None and self.clock.monotonic_s() < ends_s:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection(HOST, port, timeout=2.0)
                try:
                    connection.request("GET", "/health/live")
                    if connection.getresponse().status == 200:
                        return
                finally:
                    connection.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._running[name].wait(_POLL_S)
        raise UnavailableError(f"the region's {name} did not come up: {tail(self.output(name))}")

    def output(self, name: str) -> Path:
        """What a process printed."""
        return self.place / f"{name}.out"


@contextlib.contextmanager
def killable_region(
    place: Path, *, python: str, clock: Clock, parts: Mapping[str, object], release: Path | None = None
) -> Iterator[KillableRegion]:
    """A region whose processes are started by `start`; whatever runs at the end of the block is ended.

    Args:
        place: a folder that is not there yet.
        python: the interpreter of the tier `region`.
        clock: for waiting.
        parts: further settings: `store`, `log`, `grid`, ...
        release: what it answers from, and takes the labels of events' items from; None: it has none.
    """
    settings, keys = make_settings(place, dict(parts))
    if release is not None:
        install_release(release, Path(settings.state_directory))
    (place / "region.json").write_bytes(msgspec.json.encode(settings))
    region = KillableRegion(
        settings=settings, service_key=keys.service_key, place=place, python=python, clock=clock,
        mark=f"bench-{settings.port}",
    )  # fmt: skip
    try:
        yield region
    finally:
        region.end()
