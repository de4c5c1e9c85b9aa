"""Memory after an erasure: what this process still holds of before goes, a moment behind it.

Three things keep names in the memory of a process that has forgotten them:

* freed memory. `overwrite_freed_memory` has it written over as it is freed (`infra.plumbing.environment.OVERWRITING`):
  about half as slow again for code that makes many small objects, and about a seventh more time for a list;
* connections to SQLite: pages in their caches, the values last bound to their statements. They are closed, and opened
  anew by the next call;
* what holds the last thing that was said: listeners (told an empty word behind it) and the loop's read buffer (read
  over with zeros).

`Wiper` watches the epoch of the subjects' keys, which every erasure of the region changes, whichever process did it.
"""

import asyncio
import gc
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

LOOK_S = 1.0
SETTLE_S = 1.0
"""After the last erasure: by then its request is answered, and its connections wait for the next."""
_OVER_BYTES = 1 << 20
_OVER_TIMEOUT_S = 5.0


class Renewable(Protocol):
    """A part with connections that can be opened anew."""

    async def renew(self) -> None:
        """Let go of connections and of all that they hold in memory."""
        ...


class Wiper:
    """Wipes when somebody was erased anywhere in the region.

    Args:
        epoch: changes with every erasure.
        parts: whose connections are opened anew.
        tell: says an empty word to whoever listens.
    """

    def __init__(
        self, *, epoch: Callable[[], Awaitable[object]], parts: Sequence[Renewable],
        tell: Callable[[], Awaitable[object]],
    ) -> None:  # fmt: skip
        self._epoch = epoch
        self._parts = tuple(parts)
        self._tell = tell
        self._wiped: object = None

    async def look(self) -> bool:
        """Wipe if somebody was erased since the last look and nobody is any more; whether it did.

        Raises:
            UnavailableError: the keys, or whom it tells, do not answer; the next look does it all.
        """
        epoch = await self._epoch()
        if epoch == self._wiped:
            return False
        await asyncio.sleep(SETTLE_S)
        if await self._epoch() != epoch:
            return False  # erasures go on
        await self._tell()
        for part in self._parts:
            await part.renew()
        await overwrite_read_buffer()
        gc.collect()
        self._wiped = epoch
        return True


async def overwrite_read_buffer() -> None:
    """Have the loop read zeros: uvloop reads into one buffer, which keeps the end of what was longer than the last.

    Raises:
        OSError: no descriptor is left.
        TimeoutError: the loop is too busy to read a megabyte.
    """
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    class Discard(asyncio.Protocol):
        def eof_received(self) -> bool:
            if not done.done():
                done.set_result(None)
            return False

    try:
        for one in (ours, theirs):
            one.setblocking(False)  # noqa: FBT003 - its own name for it
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _OVER_BYTES)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _OVER_BYTES)
        transport, _ = await loop.create_connection(Discard, sock=ours)
        async with asyncio.timeout(_OVER_TIMEOUT_S):
            await loop.sock_sendall(theirs, bytes(_OVER_BYTES))
            theirs.shutdown(socket.SHUT_WR)
            await done
        transport.close()
    finally:
        theirs.close()
