"""Making a file of a new release out of the same file of a release that is here, by a delta that the repository has."""

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from infra.contracts.release import FileEntry
from infra.plumbing.deltas import DeltaError, apply_delta
from infra.plumbing.files import write_atomically

BYTES_MAX = 1 << 30
"""Larger files are fetched whole: old file, new file and delta are in memory together."""
_log = logging.getLogger(__name__)


class DeltaSource(Protocol):
    """Where deltas come from."""

    def delta(self, before: str, after: str) -> bytes | None:
        """What makes the blob `after` of the blob `before`, verified; None when there is none."""
        ...


def patch(source: DeltaSource, entry: FileEntry, bases: Iterable[FileEntry], blobs: Path) -> int | None:
    """Make the blob of `entry` out of one of `bases`; returns how many bytes crossed the wire, None if none would do.

    What comes out has the signed hash or is thrown away: then the file is fetched whole.

    Raises:
        ReleaseRefusedError, RepositoryUnavailableError: see `ReleaseClient`.
        OSError: the disk.
    """
    if entry.length > BYTES_MAX:
        return None
    for base in bases:
        if base.sha256 == entry.sha256 or base.length > BYTES_MAX:
            continue
        delta = source.delta(base.sha256, entry.sha256)
        content = _applied(blobs / base.sha256, delta, entry) if delta is not None else None
        if delta is not None and content is not None:
            write_atomically(blobs / entry.sha256, content)
            return len(delta)
    return None


def _applied(base: Path, delta: bytes, entry: FileEntry) -> bytearray | None:
    try:
        content = apply_delta(base.read_bytes(), delta, length=entry.length)
    except (DeltaError, FileNotFoundError) as error:
        _log.warning("a delta does not fit what is here: %s", error)
        return None
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        _log.warning("a delta gave another file than the one that was signed")
        return None
    return content
