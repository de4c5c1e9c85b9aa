"""Blocks of memory that are exchanged for large pages: which ones, and that it happens where the kernel can."""

import mmap
import re
from pathlib import Path

import pytest

from infra.plumbing.large_pages import BLOCK_BYTES, LargePages, anonymous_blocks, used_share

MAPS = """\
7f0000100000-7f0000700000 rw-p 00000000 00:00 0
7f0001000000-7f0001200000 rw-p 00000000 00:00 0                          [heap]
7f0002000000-7f0002200000 r--p 00000000 00:00 0
7f0003000000-7f0003200000 rw-p 00000000 fe:00 77                         /usr/lib/a library.so
7f0004000000-7f0004200000 rw-s 00000000 00:01 5                          /dev/zero (deleted)
7f0005000000-7f0005200000 rw-p 00000000 00:00 0                          [stack]
7f0006000000-7f00061ff000 rw-p 00000000 00:00 0
"""


def test_whole_blocks_of_memory_of_no_file_are_looked_at() -> None:
    assert list(anonymous_blocks(MAPS)) == [0x7F0000200000, 0x7F0000400000, 0x7F0001000000]


def test_used_is_what_is_in_memory() -> None:
    present, absent = b"\0" * 7 + b"\x81", b"\xff" * 7 + b"\x7f"
    assert used_share(present * 3 + absent) == 0.75
    assert used_share(b"") == 0.0


def _large_kb() -> int:
    found = re.search(r"AnonHugePages: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    return int(found.group(1)) if found else 0


def test_filled_memory_gets_large_pages_and_empty_memory_does_not() -> None:
    pages = LargePages()
    if not pages.supported:
        pytest.skip("this system has no large pages")
    with mmap.mmap(-1, 8 * BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as empty:
        while pages.turn(100):
            pass
        if not pages.supported:
            pytest.skip("this kernel cannot exchange pages")
        before_kb = _large_kb()
        with mmap.mmap(-1, 8 * BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as filled:
            filled.write(b"x" * len(filled))
            exchanged = pages.turn(100)
            assert exchanged >= 6  # its bounds need not be those of blocks
            assert _large_kb() - before_kb >= 6 * BLOCK_BYTES // 1024
            assert filled[:] == b"x" * len(filled)
        assert empty[:8] == bytes(8)
    assert pages.turn(100) == 0


def test_a_turn_is_bounded_and_the_next_goes_on() -> None:
    pages = LargePages()
    if not pages.supported:
        pytest.skip("this system has no large pages")
    with mmap.mmap(-1, 8 * BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as filled:
        filled.write(b"x" * len(filled))
        first = pages.turn(2)
        if not pages.supported:
            pytest.skip("this kernel cannot exchange pages")
        assert first == 2
        assert pages.turn(2) == 2
