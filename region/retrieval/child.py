"""A child process that is started without holding up the event loop.

A loop's own `subprocess_exec` forks on the loop: uvloop copies the page tables of a process of two gigabytes meanwhile,
tens of milliseconds in which nobody is answered. `subprocess.Popen` does not copy them (vfork), and in a thread the
rest of it is waited for beside the loop.
"""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path


class Child:
    """A running or ended process, with its pipes. Belongs to one event loop. Make one with `start_child`."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self._popen = popen
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._handle = os.pidfd_open(popen.pid)
        # Readable once the process has ended (pidfd_open(2)): no thread and no signal handler is needed.
        self._loop.add_reader(self._handle, self._end)
        self.stdout, self.stderr = asyncio.StreamReader(), asyncio.StreamReader()
        self._transports: list[asyncio.ReadTransport] = []

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def listen(self) -> None:
        """Connect `stdout` and `stderr`."""
        for pipe, reader in ((self._popen.stdout, self.stdout), (self._popen.stderr, self.stderr)):
            speaking = partial(asyncio.StreamReaderProtocol, reader)
            transport, _ = await self._loop.connect_read_pipe(speaking, pipe)
            self._transports.append(transport)

    async def wait(self) -> int:
        """Until it has ended; returns how."""
        return await asyncio.shield(self._ended)

    def close_stdin(self) -> None:
        """It reads the end of its input."""
        if self._popen.stdin is not None:
            with contextlib.suppress(OSError):
                self._popen.stdin.close()

    def terminate(self) -> None:
        """Ask it to end."""
        self._popen.terminate()

    def kill(self) -> None:
        """End it."""
        self._popen.kill()

    def close(self) -> None:
        """Close the pipes of a process that has ended."""
        self.close_stdin()
        for transport in self._transports:
            transport.close()

    def _end(self) -> None:
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        self._ended.set_result(self._popen.wait())


async def start_child(words: Sequence[str], *, directory: Path) -> Child:
    """Start a process with pipes to all three of its streams.

    Raises:
        OSError: it cannot be started.
    """
    starting = asyncio.ensure_future(asyncio.to_thread(_popen, tuple(words), directory))
    try:
        popen = await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_abandon)
        raise
    child = Child(popen)
    await child.listen()
    return child


def _popen(words: tuple[str, ...], directory: Path) -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, cwd=directory)


def _abandon(started: "asyncio.Future[subprocess.Popen[bytes]]") -> None:
    """Nobody waits for the process any more that this has started."""
    if started.cancelled() or started.exception() is not None:
        return
    popen = started.result()
    popen.kill()
    popen.communicate()
