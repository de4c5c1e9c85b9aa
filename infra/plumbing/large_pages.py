"""Large pages under a process that looks up small things all over its memory at every request.

A cached list is a few dozen small objects, spread over hundreds of megabytes. With pages of 4 KiB nearly each of them
has to be looked up in the page tables first, twice over inside a virtual machine; with pages of 2 MiB nearly none has.
Python asks the kernel for memory in pieces that get small pages (where `transparent_hugepage` is
`madvise`, as most systems have it), so blocks that have filled up are exchanged for large pages afterwards
(`MADV_COLLAPSE`, Linux 6.1), a few at a time and in a thread: nobody waits for it. Elsewhere nothing is done.

A process whose memory is filled once, an index say, exchanges all of it then (`exchange_all`): ScaNN's search at a
million items takes a sixth less.

Only blocks that are mostly in use are exchanged, so the process grows by less than the share that may be unused.
"""

import asyncio
import contextlib
import ctypes
import errno
import mmap
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

BLOCK_BYTES = 2 << 20
USED_SHARE_MIN = 0.75
"""Of a block's small pages; what is less full stays as it is."""
BLOCKS_PER_TURN = 4
BUSY_PAUSE_S, IDLE_PAUSE_S = 0.25, 5.0
_MADV_COLLAPSE = 25
_PAGES = BLOCK_BYTES // mmap.PAGESIZE
_ENTRY_BYTES = 8
_ABSENT = bytes(range(0x80))
"""Last bytes of entries of /proc/self/pagemap without the bit for present (`admin-guide/mm/pagemap.rst`)."""
PASSES_REMEMBERED = 60
"""How often all is looked through before what was exchanged is looked at again: it may have been given back since."""
_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


class LargePages:
    """Exchanges this process's filled blocks for large pages, some at every turn. For one thread at a time."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._seen: set[int] = set()
        self._large: set[int] = set()
        self._passes = 0
        self.supported = _is_allowed()
        """Whether this system does it; False after the first turn where its kernel does not know how."""

    def turn(self, blocks_max: int = BLOCKS_PER_TURN) -> int:
        """Exchange up to `blocks_max` blocks; returns how many. The turn after 0 looks at all of them again."""
        exchanged = 0
        try:
            with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
                for block in anonymous_blocks(Path("/proc/self/maps").read_text()):
                    if block in self._seen or block in self._large:
                        continue
                    self._seen.add(block)
                    pagemap.seek(block // mmap.PAGESIZE * _ENTRY_BYTES)
                    if used_share(pagemap.read(_PAGES * _ENTRY_BYTES)) >= USED_SHARE_MIN:
                        exchanged += self._exchange(block)
                        if exchanged >= blocks_max or not self.supported:
                            return exchanged
        except OSError:
            self.supported = False
        self._seen.clear()
        self._passes += 1
        if self._passes % PASSES_REMEMBERED == 0:
            self._large.clear()
        return exchanged

    def _exchange(self, block: int) -> bool:
        if self._libc.madvise(block, BLOCK_BYTES, _MADV_COLLAPSE) == 0:
            self._large.add(block)
            return True
        # Everything else passes: the block is busy, was given back meanwhile, or no large page is free.
        self.supported = ctypes.get_errno() != errno.EINVAL
        return False


def anonymous_blocks(maps: str) -> Iterator[int]:
    """Addresses of whole blocks of private, writable memory of no file, out of the text of /proc/self/maps."""
    for line in maps.splitlines():
        place, rights, _offset, _device, _inode, *name = line.split(maxsplit=5)
        if rights == "rw-p" and name in ([], ["[heap]"]):
            begin, end = (int(bound, 16) for bound in place.split("-"))
            yield from range(-(-begin // BLOCK_BYTES) * BLOCK_BYTES, end - BLOCK_BYTES + 1, BLOCK_BYTES)


def used_share(entries: bytes) -> float:
    """Share of small pages that are in memory, from a block's entries of /proc/self/pagemap."""
    flags = entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES]
    return len(flags.translate(None, _ABSENT)) / max(1, len(flags))


def _is_allowed() -> bool:
    try:
        return "[never]" not in _SWITCH.read_text()
    except OSError:
        return False  # not Linux, or built without large pages


def exchange_all() -> int:
    """Exchange all blocks that are filled by now; returns how many. Blocks, mostly without holding the interpreter."""
    pages = LargePages()
    return pages.turn(sys.maxsize) if pages.supported else 0


@contextlib.asynccontextmanager
async def large_pages() -> AsyncIterator[None]:
    """Keep at it inside the block."""
    task = asyncio.create_task(_keep_at_it(LargePages()))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _keep_at_it(pages: LargePages) -> None:
    while pages.supported:
        exchanged = await asyncio.to_thread(pages.turn)
        await asyncio.sleep(BUSY_PAUSE_S if exchanged else IDLE_PAUSE_S)
