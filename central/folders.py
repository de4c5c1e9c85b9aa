"""Folders that appear whole or not at all: built under a hidden name beside their place, then renamed."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.plumbing.errors import ConflictError
from infra.plumbing.files import sync_directory

_LEFT_BEHIND = re.compile(r"(\d{1,9})\.(?:tmp|old)")


@contextmanager
def staged_folder(out: Path, *, marker: str) -> Iterator[Path]:
    """An empty folder to fill; on success it becomes `out`, on any error it is gone and `out` is as it was.

    Args:
        out: where the finished folder shall stand. A folder that holds `marker` there is replaced.
        marker: the file that tells a folder of ours from one of somebody else.

    Raises:
        ConflictError: `out` holds something that is not ours.
    """
    check_replaceable(out, marker=marker)
    remove_stale(out.parent, prefix=f".{out.name}.")
    staged = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        yield staged
        sync_tree(staged)
        _replace(staged, out)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def check_replaceable(out: Path, *, marker: str) -> None:
    """Whether `out` may be written: it is absent, empty, or ours.

    Raises:
        ConflictError: it is not.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / marker).is_file():
        raise ConflictError(f"{out} holds something else.", fix="Name a folder that is empty or does not exist yet.")
    if out.exists() and not out.is_dir():
        raise ConflictError(f"{out} is a file.", fix="Name a folder.")


def _replace(staged: Path, out: Path) -> None:
    # A rename cannot replace a folder that is not empty: the old one steps aside first. Between the two renames a
    # reader finds nothing, never a mixture.
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        os.rename(out, old)
    os.rename(staged, out)
    sync_directory(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_stale(parent: Path, *, prefix: str) -> None:
    """Removes what a killed process left in `parent`: `<prefix><pid>.tmp` and `.old` of processes that are gone."""
    if not parent.is_dir():
        return
    for path in parent.iterdir():
        left = _LEFT_BEHIND.fullmatch(path.name.removeprefix(prefix)) if path.name.startswith(prefix) else None
        if left and path.is_dir() and not _is_alive(int(left.group(1))):
            shutil.rmtree(path, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Makes every file below `folder` durable."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
