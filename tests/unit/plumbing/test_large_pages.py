"""Blocks of memory that are exchanged for large pages: which ones, and that it happens where the kernel can."""

import ctypes
import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import infra.plumbing.large_pages as module
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


@pytest.fixture
def pages() -> LargePages:
    made = LargePages()
    if not made.supported:
        pytest.skip("this system has no large pages")
    return made


@contextmanager
def memory(blocks: int) -> Iterator[tuple[mmap.mmap, list[int]]]:
    """Memory of no file, and the addresses of `blocks` whole blocks in it."""
    with mmap.mmap(-1, (blocks + 1) * BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as mapped:
        held = ctypes.c_char.from_buffer(mapped)
        first = -(-ctypes.addressof(held) // BLOCK_BYTES) * BLOCK_BYTES
        del held
        yield mapped, [first + number * BLOCK_BYTES for number in range(blocks)]


def large_kb(blocks: list[int]) -> int:
    """Of the mappings that hold `blocks`: what lies in large pages (proc_pid_smaps(5))."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = any(int(bounds[1], 16) <= block < int(bounds[2], 16) for block in blocks)
        elif inside and line.startswith("AnonHugePages:"):
            found += int(line.split()[1])
    return found


def test_filled_memory_gets_large_pages_and_empty_memory_does_not(
    pages: LargePages, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memory(8) as (filled, filled_blocks), memory(8) as (empty, empty_blocks):
        # Of this process the rest moves by itself: other tests' threads, what the collector gives back.
        blocks = [*filled_blocks, *empty_blocks]
        monkeypatch.setattr(module, "anonymous_blocks", lambda _maps: iter(blocks))
        before_kb = large_kb(blocks)
        filled.write(b"x" * len(filled))
        exchanged = pages.turn(100)
        if not pages.supported:
            pytest.skip("this kernel cannot exchange pages")
        assert exchanged == len(filled_blocks)
        assert large_kb(blocks) - before_kb == len(filled_blocks) * BLOCK_BYTES // 1024
        assert filled[:] == b"x" * len(filled)
        assert empty[:8] == bytes(8)
        assert pages.turn(100) == 0


def test_all_there_is_is_exchanged_at_once(pages: LargePages, monkeypatch: pytest.MonkeyPatch) -> None:
    with memory(8) as (filled, blocks):
        monkeypatch.setattr(module, "anonymous_blocks", lambda _maps: iter(blocks))
        filled.write(b"x" * len(filled))
        exchanged = module.exchange_all()
        if not exchanged:
            pytest.skip("this kernel cannot exchange pages")
        assert exchanged == len(blocks)
        assert filled[:] == b"x" * len(filled)


def test_a_turn_is_bounded_and_the_next_goes_on(pages: LargePages, monkeypatch: pytest.MonkeyPatch) -> None:
    with memory(8) as (filled, blocks):
        monkeypatch.setattr(module, "anonymous_blocks", lambda _maps: iter(blocks))
        filled.write(b"x" * len(filled))
        first = pages.turn(2)
        if not pages.supported:
            pytest.skip("this kernel cannot exchange pages")
        assert [first, pages.turn(2), pages.turn(100), pages.turn(100)] == [2, 2, 4, 0]
