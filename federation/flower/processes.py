"""Child processes that leave nothing behind: they end with their parent, and so does what they start.

Linux only: parent-death signals, and a supervisor that adopts orphans (child subreaper).
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)


class ProcessError(AtollError):
    """A child process did not do what it was started for."""


def die_with_parent(number: int = signal.SIGKILL, *, parent: int | None = None) -> None:
    """Have the kernel send this process a signal when its parent ends.

    Raises:
        ProcessError: the parent (of id `parent`, if given) has ended already.
    """
    _prctl(_PR_SET_PDEATHSIG, int(number))
    if parent is not None and os.getppid() != parent:
        raise ProcessError("the process that started this one has ended.")


def adopt_orphans() -> None:
    """Descendants whose parents end become children of this process, so that they can be found and ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def start(
    command: Sequence[str], *, log_file: Path, environment: Mapping[str, str], directory: Path
) -> subprocess.Popen[bytes]:
    """Start a child that is killed when this process ends. Call from the main thread of a single-threaded process."""
    with log_file.open("ab") as log:
        return subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=directory,
            env=dict(environment), preexec_fn=die_with_parent,  # noqa: PLW1509 - the caller has one thread
        )  # fmt: skip


def descendants(pid: int) -> list[int]:
    """Ids of all processes below `pid`, children before grandchildren."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found = list(children.get(pid, []))
    for one in found:
        found.extend(children.get(one, []))
    return found


def end_descendants(*, clock: Clock, within_s: float = 10.0) -> None:
    """Kill everything below this process, until nothing is left.

    Raises:
        ProcessError: something was still there after `within_s`.
    """
    ends_s = clock.monotonic_s() + within_s
    while below := descendants(os.getpid()):
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap()
        if clock.monotonic_s() > ends_s:
            raise ProcessError(f"{len(below)} processes could not be ended.")
        time.sleep(0.02)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _parents() -> Iterator[tuple[int, int]]:
    """(process id, parent id) of every process that can be seen."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in parentheses may hold anything; what follows the last one does not.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                yield int(entry.name), int(fields[1])


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")
