"""Starting the supervisor on a leash: it ends with the process that started it, unless that lets it go."""

import contextlib
import fcntl
import subprocess
import sys
from collections.abc import Iterator

from infra.local.children import WORLD_VARIABLE
from infra.local.ending import DOWN_TIMEOUT_S
from infra.local.layout import Layout
from infra.local.records import WorldRecord
from infra.plumbing.environment import environment_with
from infra.plumbing.errors import ConflictError


class Leash:
    """The pipe by which a supervisor notices that the client that started it is gone."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def alive(self) -> bool:
        """Whether the supervisor runs."""
        return self._process.poll() is None

    def detach(self) -> None:
        """The supervisor may outlive this process."""
        if self._process.stdin and not self._process.stdin.closed:
            with contextlib.suppress(OSError):
                self._process.stdin.write(b"detach\n")
                self._process.stdin.close()

    def reap(self) -> None:
        """Let go of the pipe and of a supervisor that has ended, or ends now because of it."""
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(DOWN_TIMEOUT_S)


def start_supervisor(layout: Layout, record: WorldRecord) -> Leash:
    """Start the supervisor of a prepared world; it reads `record` from the state directory."""
    with layout.output("supervisor").open("ab") as output:
        return Leash(
            subprocess.Popen(
                [sys.executable, "-m", "infra.local", "--state", str(layout.state), "--attached"],
                cwd=record.working_directory,
                env=environment_with({WORLD_VARIABLE: layout.mark}),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the client's terminal is the client's to handle
            )
        )


@contextlib.contextmanager
def starting(layout: Layout) -> Iterator[None]:
    """Only one client at a time prepares a state directory.

    Raises:
        ConflictError: another one does.
    """
    with layout.starting.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                f"the world at {layout.state} is being started by another process.", fix="Wait for it, or end it."
            ) from error
        yield
