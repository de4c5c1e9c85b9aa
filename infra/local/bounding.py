"""Keeping log, span and output files under a bound while their writers go on writing."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path


def cut_oversized(folders: Iterable[Path], *, bytes_max: int) -> int:
    """Drop the older half of every file in `folders` that is larger than `bytes_max`; returns how many were cut.

    Writers have the files open for appending, so they go on at the new end. A line written between our read and our
    write is lost: these are logs.
    """
    count = 0
    for folder in folders:
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                if entry.is_file(follow_symlinks=False) and entry.stat().st_size > bytes_max:
                    _keep_newer_half(Path(entry.path), bytes_max // 2)
                    count += 1
    return count


def _keep_newer_half(path: Path, keep: int) -> None:
    with path.open("r+b") as file:
        file.seek(-keep, os.SEEK_END)
        newer = file.read()
        _, _, newer = newer.partition(b"\n")
        file.seek(0)
        file.write(newer)
        file.truncate()
