"""Starting child processes that cannot outlive their parent, and ending them with all they started."""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from infra.plumbing.environment import ONE_THREAD, environment_with
from infra.plumbing.errors import AtollError

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
WORLD_VARIABLE = "ATOLL_WORLD"
"""Carries `Layout.mark`: by it a later call finds what a killed supervisor's children left behind."""
EASED_NICENESS = 10

CHILD_ENVIRONMENT: Mapping[str, str] = {
    # One machine carries the whole world: no library may open a thread per core in each process.
    **ONE_THREAD,
    "MALLOC_ARENA_MAX": "2",
    "PYTHONUNBUFFERED": "1",
}


class ChildNotStartedError(AtollError):
    """The operating system refused to start a process."""


def start_child(
    command: Sequence[str],
    *,
    working_directory: Path,
    mark: str,
    output: Path,
    eased: bool = False,
    additions: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` in a process group of its own; it dies with this process.

    Call from the main thread only: the kernel ties the child to the thread that started it.

    Args:
        command: program and arguments.
        working_directory: where it runs; also where Python finds our packages.
        mark: put into its environment, see WORLD_VARIABLE.
        output: file that gets what it prints, appended.
        eased: start at lower priority, see `restore_priority`.
        additions: further environment variables.

    Raises:
        ChildNotStartedError: the program is missing or cannot be started.
    """
    parent = os.getpid()
    niceness = EASED_NICENESS if eased and can_restore_priority() else 0

    def prepare() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died between fork and prctl
            os._exit(1)
        if niceness:
            os.nice(niceness)

    environment = environment_with({**CHILD_ENVIRONMENT, **(additions or {}), WORLD_VARIABLE: mark})
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _append(output) as file:
            return subprocess.Popen(
                list(command),
                cwd=working_directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=prepare,  # noqa: PLW1509 - there is no other way to ask for the parent's death signal
            )
    except OSError as error:
        raise ChildNotStartedError(
            f"cannot start {command[0]}: {error.strerror}.", fix="Run ./atoll once to make the environments."
        ) from error


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a child's process group, if any of it is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def can_restore_priority() -> bool:
    """Whether a lowered priority can be raised again later; if not, it must not be lowered."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NICE)
    return os.geteuid() == 0 or soft >= 20 or soft == resource.RLIM_INFINITY


def restore_priority(pids: Sequence[int]) -> None:
    """Give every thread of `pids` this process's own priority again (niceness is kept per thread on Linux)."""
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, int(thread), own)


def marked_processes(mark: str) -> list[int]:
    """Processes, other than this one, whose environment carries `mark`: they belong to that world."""
    needle = f"{WORLD_VARIABLE}={mark}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if needle in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                found.append(int(entry))
    return found


def tail(path: Path, *, lines: int = 15) -> str:
    """The last lines of a file, for an error message; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 8192))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def _append(path: Path) -> IO[bytes]:
    return path.open("ab")
