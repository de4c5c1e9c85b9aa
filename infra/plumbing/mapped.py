"""How much of its mapped files counts as a process's memory.

What is read of a mapped file stays in the page tables until somebody takes it out, and the kernel brings the fifteen
neighbours of a page along. A process that is asked about everything ends up with all of its files resident, though any
of it is only a view of the disk's cache. Pages that are let go of are found there again, a microsecond or two each.
"""

import ctypes
import errno
import mmap
from collections.abc import Iterable
from pathlib import Path

STEP_BYTES = 64 << 20
"""Let go of at a time: another thread that reads the mapping meanwhile waits for no more than this."""
FILL_BYTES = 4 << 20
_MADV_POPULATE_READ = 22
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
Span = tuple[int, int]
"""Address and length of a mapping, in bytes."""


def whole_pages(address: int, length: int) -> Span:
    """The pages that begin at `address` (the beginning of a mapping) and lie in its first `length` bytes whole."""
    return address, length - length % mmap.PAGESIZE


def pages_within(address: int, length: int) -> Span:
    """The whole pages among the `length` bytes from any `address` on."""
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    return first, max(0, (address + length) // mmap.PAGESIZE * mmap.PAGESIZE - first)


def fill(spans: Iterable[Span]) -> None:
    """Bring the pages into this process's memory, as reading them would. Blocks, without holding the interpreter.

    Before Linux 5.14 nothing happens.

    Raises:
        OSError: a span is none of a mapping, or its file cannot be read.
    """
    for address, length in spans:
        for start in range(0, length, FILL_BYTES):
            if _LIBC.madvise(address + start, min(FILL_BYTES, length - start), _MADV_POPULATE_READ):
                if ctypes.get_errno() == errno.EINVAL:
                    return
                raise OSError(ctypes.get_errno(), "madvise")


def let_go(spans: Iterable[Span]) -> None:
    """Take the pages out of this process's memory. Blocks, without holding the interpreter.

    Only for pages of files that were not written to: what is written to a private page would be lost.

    Raises:
        OSError: a span is none of a mapping.
    """
    for address, length in spans:
        for start in range(0, length, STEP_BYTES):
            if _LIBC.madvise(address + start, min(STEP_BYTES, length - start), mmap.MADV_DONTNEED):
                raise OSError(ctypes.get_errno(), "madvise")


def machine_memory_bytes(meminfo: Path = Path("/proc/meminfo"), limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Memory that this process has around it: the machine's, or its control group's where that is less.

    Raises:
        OSError, ValueError: the kernel does not say.
    """
    total = int(meminfo.read_text().split("MemTotal:")[1].split()[0]) << 10
    try:
        bound = limit.read_text().strip()
    except OSError:
        return total  # no control groups, or the first version of them
    return min(total, int(bound)) if bound.isdigit() else total


def resident_file_bytes(status: Path = Path("/proc/self/statm")) -> int:
    """How much of mapped files this process has in its memory (statm's third field, proc(5))."""
    return int(status.read_text().split()[2]) * mmap.PAGESIZE
