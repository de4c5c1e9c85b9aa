"""Where the release's lists come from: the disk first, then the verified repository. Blocking; run in a thread.

What is kept on disk is the manifest and the lists file under their release's name. Both are content-addressed, so what
is read back is checked as strictly as what was downloaded: the manifest must have the name of the release, the lists
the hash that the manifest gives.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from edge.lists.release_lists import LoadedLists
from infra.contracts.release import LISTS, RELEASE_ID_PATTERN, ChannelPointer, Manifest, ReleaseLists
from infra.plumbing.errors import AtollError, ConflictError
from infra.plumbing.files import write_atomically

RELEASES_KEPT = 3
_CURRENT = "current"


class ReleaseSource(Protocol):
    """What `infra.plumbing.tuf_client.client.ReleaseClient` offers."""

    def refresh(self) -> None:
        """Look at the repository anew."""
        ...

    def channel(self, name: str) -> ChannelPointer:
        """What a channel recommends."""
        ...

    def manifest(self, release_id: str) -> Manifest:
        """A verified manifest."""
        ...

    def blob(self, sha256: str, length: int) -> bytes:
        """A small verified blob."""
        ...


class UnusableListsError(ConflictError):
    """A release's lists cannot be used: damaged on disk, or without any item."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Lists as they came from the repository, and the bytes to keep."""

    lists: LoadedLists
    manifest_raw: bytes
    lists_raw: bytes


class ListLibrary:
    """Loads lists; keeps the last RELEASES_KEPT releases on disk so that a roll-back needs no network.

    Args:
        directory: this edge's own.
        open_source: makes the client of the repository; called once, when the network is first needed.
        region: whose lists come first.
        channel: whose release to load when the region has not named one.
    """

    def __init__(self, *, directory: Path, open_source: Callable[[], ReleaseSource], region: str, channel: str) -> None:
        self._directory = directory
        self._open_source = open_source
        self._source: ReleaseSource | None = None
        self._region = region
        self._channel = channel

    def from_disk(self, release: str | None) -> LoadedLists | None:
        """The lists of `release`, or of the release that was current last; None when there are none that verify."""
        try:
            name = release or (self._directory / _CURRENT).read_text(encoding="utf-8").strip()
            if not RELEASE_ID_PATTERN.fullmatch(name):
                return None
            manifest = (self._directory / f"{name}.manifest.json").read_bytes()
            return self._checked(name, manifest, (self._directory / f"{name}.lists.json").read_bytes())
        except (OSError, UnicodeDecodeError, UnusableListsError):
            return None

    def from_repository(self, release: str | None) -> Fetched:
        """The lists of `release`, or of the channel's release, verified. Give them to `keep`.

        Raises:
            AtollError: the repository is away, or what it sent does not verify or cannot be used.
        """
        if self._source is None:
            self._source = self._open_source()
        self._source.refresh()
        name = release or self._channel_release(self._source)
        manifest = self._source.manifest(name)
        entry = manifest.files[LISTS]
        raw = self._source.blob(entry.sha256, entry.length)
        return Fetched(self._checked(name, manifest.canonical_bytes(), raw), manifest.canonical_bytes(), raw)

    def keep(self, fetched: Fetched) -> None:
        """Write what was fetched to the disk and forget the oldest releases.

        Raises:
            OSError: the disk is full or cannot be written; what was there before still is.
        """
        name = fetched.lists.release
        write_atomically(self._directory / f"{name}.lists.json", fetched.lists_raw)
        write_atomically(self._directory / f"{name}.manifest.json", fetched.manifest_raw)
        manifests = sorted(self._directory.glob("*.manifest.json"), key=lambda path: path.stat().st_mtime)
        for old in manifests[:-RELEASES_KEPT]:
            old.unlink(missing_ok=True)
            old.with_name(old.name.replace(".manifest.json", ".lists.json")).unlink(missing_ok=True)

    def mark_current(self, release: str) -> None:
        """Remember which release to load at the next start.

        Raises:
            OSError: as `keep`.
        """
        write_atomically(self._directory / _CURRENT, release.encode())

    def close(self) -> None:
        """Let go of the repository's metadata."""
        close = getattr(self._source, "close", None)
        if close is not None:
            close()
        self._source = None

    def _channel_release(self, source: ReleaseSource) -> str:
        return source.channel(self._channel).release

    def _checked(self, name: str, manifest_raw: bytes, lists_raw: bytes) -> LoadedLists:
        try:
            manifest = msgspec.json.decode(manifest_raw, type=Manifest)
            lists = msgspec.json.decode(lists_raw, type=ReleaseLists)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnusableListsError(f"the lists of release {name} cannot be read.") from error
        if manifest.release_id != name or hashlib.sha256(lists_raw).hexdigest() != manifest.files[LISTS].sha256:
            raise UnusableListsError(f"the lists of release {name} are not what its manifest names.")
        if not lists.popular.get("all"):
            raise UnusableListsError(f"release {name} has no list `popular`/`all`.", fix="Build the release again.")
        return LoadedLists(name, manifest.shape.dim, lists, self._region)


def why(error: AtollError | OSError) -> str:
    """A word for the counter of failed loads."""
    return type(error).__name__
