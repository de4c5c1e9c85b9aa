"""Folders for the moment of a command that hold people's data in the clear: gone with the command, whatever ends it.

A folder goes with its block. A process that is killed leaves it: then it goes with the next block or look on the
machine, for its owner holds a lock on it as long as it lives, and one that nobody holds is nobody's.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.plumbing.errors import SettingsError


@contextmanager
def private_folder(root: Path | None = None) -> Iterator[Path]:
    """A new folder that only this user can look into; removed at the end of the block.

    Args:
        root: where such folders lie; None: a folder of this user's own in the machine's temporary one.

    Raises:
        SettingsError: the folder of them is somebody else's.
        OSError: the disk does not take it.
    """
    root = _checked(root if root is not None else _root())
    with _only_one(root):
        _remove(root)
        folder = Path(tempfile.mkdtemp(dir=root))
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def remove_left_over(root: Path | None = None) -> int:
    """Remove folders whose owners are gone; returns how many. Raises as `private_folder`."""
    root = root if root is not None else _root()
    if not root.exists():
        return 0
    with _only_one(_checked(root)):
        return _remove(root)


def _remove(root: Path) -> int:
    gone = 0
    for folder in root.iterdir():
        if not folder.is_dir():
            continue  # the lock
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            gone += 1
        except BlockingIOError:
            continue
        finally:
            os.close(held)
    return gone


def _root() -> Path:
    return Path(tempfile.gettempdir()) / f"atoll-private-{os.getuid()}"


def _checked(root: Path) -> Path:
    """The temporary folder is everybody's: somebody may have made this one first, to read along."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise SettingsError(
            f"{root} is not a folder of this user's own.", fix="Remove it, or set TMPDIR to a folder that is."
        )
    return root


@contextmanager
def _only_one(root: Path) -> Iterator[None]:
    """A folder that was just made and is not locked yet must not be taken for left over."""
    with (root / "lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
