"""One signed file at a time, verified under what is trusted already."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from infra.plumbing.tuf_client.library import Metadata, Root, Snapshot, Targets, Timestamp, exceptions

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)

ROOTS_MAX = 1024
"""Successors of the first root that are followed: one a year for ever, and a rotation every day for two years."""


def verified(judge: Root | None, kind: type[S], content: bytes) -> S:
    """What `content` holds, signed as `judge` wants it; with no judge, a root vouches for itself.

    Raises:
        exceptions.RepositoryError: it is something else, or is not signed so.
    """
    metadata = Metadata[S].from_bytes(content)
    if not isinstance(metadata.signed, kind):
        raise exceptions.RepositoryError(f"a {metadata.signed.type} file lies where {kind.type} is expected")
    root = judge if judge is not None else metadata.signed
    if not isinstance(root, Root):
        raise exceptions.RepositoryError("only a root can vouch for itself")
    root.verify_delegate(kind.type, metadata.signed_bytes, metadata.signatures)
    return metadata.signed


def newest_root(trusted: bytes, successors: Path) -> Root:
    """Follow the chain of roots in the folder `successors`, each signed by the keys of the one before and its own.

    Raises:
        exceptions.RepositoryError: one of them does not follow the one before.
    """
    root = verified(None, Root, trusted)
    for content in _following(root, successors):
        successor = verified(root, Root, content)
        verified(successor, Root, content)
        if successor.version != root.version + 1:
            raise exceptions.RepositoryError(f"{root.version + 1}.root.json holds version {successor.version}")
        root = successor
    return root


def _following(root: Root, successors: Path) -> Iterable[bytes]:
    for version in range(root.version + 1, root.version + 1 + ROOTS_MAX):
        path = successors / f"{version}.root.json"
        if not path.exists():
            return
        yield path.read_bytes()
