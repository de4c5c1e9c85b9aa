"""Writing files so that a reader sees the whole of them or nothing."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes | bytearray, *, mode: int = 0o644) -> None:
    """Write `content` under a temporary name in the same directory, sync it, then rename it to `path`.

    Raises:
        OSError: the disk is full or the directory cannot be written; `path` is as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames inside `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
