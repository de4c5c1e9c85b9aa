"""Processes of a measurement: started on loopback, pinned to a core, their CPU read from /proc, ended by the suite."""

import contextlib
import http.client
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError

HOST = "127.0.0.1"
UP_WITHIN_S = 30.0
DOWN_WITHIN_S = 5.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cores:
    """Where servers run and where the load runs: apart, and the same for every rival."""

    server: int
    load: int

    @classmethod
    def of_this_machine(cls) -> "Cores":
        """The first and the last core that this process may use; the same one if there is only one."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[-1])


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `pid` is the process that was started; its children count as it."""

    name: str
    port: int
    pid: int

    @property
    def base(self) -> str:
        """Its URL."""
        return f"http://{HOST}:{self.port}"

    def cpu_s(self) -> float:
        """User and system time of the process and its descendants so far, in seconds."""
        return sum(_cpu_ticks(pid) for pid in family(self.pid)) / _TICKS_PER_S

    def rss_bytes(self) -> int:
        """Resident memory of the process and its descendants (shared pages counted in each)."""
        return sum(_rss_bytes(pid) for pid in family(self.pid))

    def anonymous_bytes(self) -> int:
        """The same without mapped files: what nobody else could have and no disk holds."""
        return sum(_rss_bytes(pid) - _mapped_bytes(pid) for pid in family(self.pid))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def running(
    name: str, command: Sequence[str], *, port: int, core: int, log: Path, clock: Clock, ready: str = "/health/ready",
    cwd: Path | None = None,
) -> Iterator[Server]:  # fmt: skip
    """`command`, pinned to `core`, from the moment its `port` answers `ready` until the block ends.

    Raises:
        UnavailableError: it ended or did not answer in time; the message carries the end of its output.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],  # noqa: S607 - util-linux, part of every Debian
            stdout=output, stderr=subprocess.STDOUT, cwd=cwd, start_new_session=True,
        )  # fmt: skip
    try:
        _await(name, process, port, ready, log, clock)
        yield Server(name, port, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(DOWN_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(name: str, process: subprocess.Popen[bytes], port: int, ready: str, log: Path, clock: Clock) -> None:
    ends_s = clock.monotonic_s() + UP_WITHIN_S
    while process.poll() is None and clock.monotonic_s() < ends_s:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(HOST, port, timeout=2.0)
            try:
                connection.request("GET", ready)
                if connection.getresponse().status < 500:
                    return
            finally:
                connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    raise UnavailableError(f"{name} did not come up: {log.read_text(errors='replace')[-800:]}")


def family(pid: int) -> list[int]:
    """`pid` and its descendants, from /proc."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in task.read_text().split()]
    return found


def _cpu_ticks(pid: int) -> int:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    return 0


def _mapped_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _rss_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
