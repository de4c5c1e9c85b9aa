"""Files that hold a secret: refused where others than their owner may use them, and made for the owner alone.

Looked at where a secret is read, each time: a key that was restored from a backup, copied for a moment or unpacked
under a generous umask is found at the next start, not at the next audit.
"""

import os
import stat
from pathlib import Path

from infra.plumbing.errors import SettingsError

PRIVATE = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class ExposedSecretError(SettingsError):
    """Others than its owner may read or change a file that holds a secret."""


def read_private(path: Path, *, bytes_max: int = -1) -> bytes:
    """The content of a file that holds a secret; no more than `bytes_max` of it, where that is given.

    Raises:
        ExposedSecretError: its group or others have any right to it.
        OSError: it cannot be read.
    """
    # Of the open file, not of the name: nobody can put another file in its place in between.
    with path.open("rb") as file:
        _check(path, os.fstat(file.fileno()).st_mode)
        return file.read(bytes_max)


def check_private(path: Path) -> None:
    """The same for a file that a library reads by its name. One that is not there is left to who reads it.

    Raises:
        ExposedSecretError: its group or others have any right to it.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    _check(path, mode)


def open_private(path: Path) -> int:
    """A descriptor for writing a file anew that holds what only its owner may read, from its first byte on.

    Raises:
        OSError: it cannot be made.
    """
    path.unlink(missing_ok=True)  # A mode is given to new files only.
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)


def write_private(path: Path, content: bytes) -> None:
    """Write a file anew that holds what only its owner may read.

    Raises:
        OSError: it cannot be written.
    """
    with os.fdopen(open_private(path), "wb") as file:
        file.write(content)


def _check(path: Path, mode: int) -> None:
    # What is handed over by a pipe or typed at a terminal lies nowhere.
    if stat.S_ISREG(mode) and mode & _OTHERS:
        raise ExposedSecretError(
            f"the key file {path} is open to others than its owner (mode {stat.S_IMODE(mode):04o}).",
            fix=f"Run: chmod 600 {path}",
        )
