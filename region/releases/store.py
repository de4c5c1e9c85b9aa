"""Releases on a region's disk.

::

    blobs/<sha256>                 one copy of each file, shared between releases
    releases/<release>/<name>      hard links to blobs under the names of the manifest, and manifest.json
    state.json                     what is active, what was before, whether the region is pinned

A release directory appears by one rename, when all of it is there and verified. Whatever a killed pull left (blobs that
are whole, `.partial` files) is used by the next pull of the same release, or swept.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from infra.contracts.release import ChannelPointer, FileEntry, Manifest
from infra.contracts.residency import encode_global
from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError, ConflictError, InvalidInputError, NotFoundError, UnavailableError
from infra.plumbing.files import sync_directory, write_atomically
from infra.plumbing.progress import Progress, SilentProgress
from infra.plumbing.tuf_client.client import Published, file_matches
from infra.plumbing.tuf_client.errors import RefusalReason, ReleaseRefusedError
from infra.plumbing.tuf_client.manifests import MANIFEST_FILE, check_release_id, decode_manifest, total_bytes
from region.releases.messages import PullAnswer, VerifyAnswer
from region.releases.patching import patch
from region.releases.state import RegionReleases, collectable

KEPT_RELEASES = 4
RELEASE_BYTES_MAX = 32 << 30
DISK_MARGIN_BYTES = 256 * 1024
"""Left free beside a pull, for state, audit and metadata."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class DiskFullError(UnavailableError):
    """The disk has no room for the release; nothing of the attempt is left, the active release is untouched.

    Attributes:
        needed_bytes: what the pull still had to write.
    """

    def __init__(self, what: str, *, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(
            f"{what} needs {needed_bytes:,} more bytes on this disk, {free_bytes:,} are free.",
            fix="Free space or keep fewer releases, then pull again. Nothing was changed.",
        )
        self.needed_bytes = needed_bytes


class ReleaseDamagedError(AtollError):
    """Files of a pulled release no longer have the hashes that were signed."""


class ReleaseSource(Protocol):
    """Where releases come from; `infra.plumbing.tuf_client.client.ReleaseClient` is one. All calls block."""

    def refresh(self) -> None:
        """Look for what is new."""

    def channel(self, name: str) -> ChannelPointer:
        """What a channel recommends."""

    def published(self) -> Published:
        """All that there is, as last heard."""

    def manifest(self, release_id: str) -> Manifest:
        """A verified manifest."""

    def fetch_blob(self, sha256: str, length: int, into: Path) -> int:
        """Bring one verified blob; returns how many bytes crossed the wire."""

    def delta(self, before: str, after: str) -> bytes | None:
        """What makes the blob `after` of the blob `before`, verified; None when there is none."""


@dataclass(frozen=True, slots=True)
class ReleaseDirectory:
    """One pulled release: its files lie under `path` by the names of the manifest."""

    release_id: str
    path: Path
    manifest: Manifest


def free_disk_bytes(directory: Path) -> int:
    """Bytes that may still be written below `directory`."""
    return shutil.disk_usage(directory).free


class ReleaseStore:
    """The releases of one region node. Safe between threads; calls block (an event loop uses `asyncio.to_thread`).

    Args:
        root: the store's own directory.
        source: where releases come from.
        clock: for durations.
        keep: how many releases may stay on disk.
        free_bytes: how much room there is.
    """

    def __init__(
        self,
        root: Path,
        *,
        source: ReleaseSource,
        clock: Clock,
        keep: int = KEPT_RELEASES,
        free_bytes: Callable[[Path], int] = free_disk_bytes,
    ) -> None:
        if keep < 2:
            raise InvalidInputError("A region keeps at least 2 releases.", fix="One to run and one to roll back to.")
        self._root = root
        self._source = source
        self._clock = clock
        self._keep = keep
        self._free_bytes = free_bytes
        self._pulling = threading.Lock()
        self._mutex = threading.Lock()
        self._held: dict[str, int] = {}
        for directory in (self._blobs, self._releases):
            directory.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(".state.json.*"):
            leftover.unlink()
        self._state = self._load_state()

    @property
    def state(self) -> RegionReleases:
        """Which release is active, which was, and whether the region is pinned."""
        return self._state

    def save_state(self, state: RegionReleases) -> None:
        """Make `state` durable; only then is it what `state` says.

        Raises:
            DiskFullError: there is no room; the state is as it was.
        """
        content = encode_global(state)
        with self._reporting_full_disk("The state of the releases", needed_bytes=len(content)):
            write_atomically(self._root / "state.json", content)
        self._state = state

    def recommended(self, channel: str) -> str:
        """The release that a channel names, by a fresh look at the repository.

        Raises:
            NotFoundError, ReleaseRefusedError, RepositoryUnavailableError: see `ReleaseClient`.
            DiskFullError: the repository's metadata could not be written.
        """
        with self._reporting_full_disk("The repository's metadata", needed_bytes=DISK_MARGIN_BYTES):
            self._source.refresh()
            return self._source.channel(channel).release

    def published(self) -> Published:
        """What there is to be pulled, by a fresh look at the repository.

        Raises:
            as `recommended`.
        """
        with self._reporting_full_disk("The repository's metadata", needed_bytes=DISK_MARGIN_BYTES):
            self._source.refresh()
            return self._source.published()

    def pulled(self) -> tuple[ReleaseDirectory, ...]:
        """Every release on disk, newest first by creation. Directories that cannot be read are left out."""
        found = []
        for path in self._releases.iterdir():
            with contextlib.suppress(NotFoundError, ReleaseDamagedError, InvalidInputError):
                found.append(self.directory(path.name))
        return tuple(sorted(found, key=lambda item: (-item.manifest.created_at_ms, item.release_id)))

    def directory(self, release: str) -> ReleaseDirectory:
        """One pulled release.

        Raises:
            InvalidInputError: `release` is no release id.
            NotFoundError: it was not pulled.
            ReleaseDamagedError: its manifest does not verify.
        """
        path = self._releases / check_release_id(release)
        try:
            manifest = decode_manifest((path / MANIFEST_FILE).read_bytes(), release_id=release)
        except FileNotFoundError:
            raise NotFoundError(f"Release {release} is not on this region's disk.", fix="Pull it first.") from None
        except ReleaseRefusedError as error:
            raise ReleaseDamagedError(error.message, fix="Pull the release again; that repairs it.") from error
        return ReleaseDirectory(release, path, manifest)

    def verify(self, release: str) -> VerifyAnswer:
        """Hash every file of a pulled release anew.

        Raises:
            as `directory`.
        """
        with self.holding(release):
            directory = self.directory(release)
            damaged = tuple(sorted(_damaged(directory)))
        return VerifyAnswer(release=release, ok=not damaged, files=len(directory.manifest.files), damaged=damaged)

    def check(self, release: str) -> None:
        """`verify`, for whoever goes on only with a whole release.

        Raises:
            ReleaseDamagedError: a file changed since it was verified; as `directory`.
        """
        report = self.verify(release)
        if not report.ok:
            raise ReleaseDamagedError(
                f"Files of release {release} changed since they were verified: {', '.join(report.damaged[:5])}.",
                fix="Pull the release again; that repairs it.",
            )

    @contextlib.contextmanager
    def holding(self, release: str) -> Iterator[None]:
        """While this lasts `release` is not deleted."""
        with self._mutex:
            self._held[release] = self._held.get(release, 0) + 1
        try:
            yield
        finally:
            with self._mutex:
                self._held[release] -= 1
                if not self._held[release]:
                    del self._held[release]

    def pull(self, release: str, *, progress: Progress | None = None) -> PullAnswer:
        """Bring a release here, file by file what is missing. Pulling a release that is here repairs it if need be.

        Raises:
            NotFoundError, ReleaseRefusedError, RepositoryUnavailableError: see `ReleaseClient`; what was fetched and
                verified stays for the next attempt.
            DiskFullError: there is no room; nothing of the attempt stays.
            ConflictError: another pull is under way.
        """
        check_release_id(release)
        if not self._pulling.acquire(blocking=False):
            raise ConflictError("Another pull is under way.", fix="Wait until it is done, then pull again.")
        try:
            with self.holding(release):
                return self._pull(release, progress or SilentProgress())
        finally:
            self._pulling.release()

    def _collect(self) -> tuple[str, ...]:
        """Delete releases above the bound and blobs that no release has; returns the releases. Part of a pull."""
        with self._mutex:
            ages = [(path.name, path.stat().st_mtime_ns) for path in self._releases.iterdir() if path.name[0] != "."]
            gone = collectable(self._state, ages, keep=self._keep, held=self._held.keys())
            for release in gone:
                # Renamed first: a release is there as a whole or not at all, wherever this is killed.
                os.replace(self._releases / release, self._releases / f".gone-{release}")
        self._sweep()
        return gone

    def _pull(self, release: str, progress: Progress) -> PullAnswer:
        started_s = self._clock.monotonic_s()
        with self._leaving_nothing_on_full_disk(release, needed_bytes=DISK_MARGIN_BYTES):
            self._source.refresh()
            manifest = self._source.manifest(release)
        needed = self._needed_bytes(release, manifest)
        fetched = 0
        blobs = {entry.sha256: (name, entry) for name, entry in manifest.files.items()}
        here = [directory.manifest for directory in self.pulled()]
        with self._leaving_nothing_on_full_disk(release, needed_bytes=needed):
            for done, (name, entry) in enumerate(blobs.values(), start=1):
                fetched += self._bring(name, entry, here)
                progress.advance(done, len(blobs), "pulling files")
            self._assemble(release, manifest)
        return PullAnswer(
            release=release,
            bytes_fetched=fetched,
            bytes_reused=max(0, total_bytes(manifest) - fetched),
            took_ms=(self._clock.monotonic_s() - started_s) * 1000,
            collected=self._collect(),
        )

    def _bring(self, name: str, entry: FileEntry, here: Sequence[Manifest]) -> int:
        """One file of a release, made of the file of that name in another release where a delta exists."""
        if self._missing_bytes(entry) and not self._partial(entry).exists():
            bases = [manifest.files[name] for manifest in here if name in manifest.files]
            crossed = patch(self._source, entry, bases, self._blobs)
            if crossed is not None:
                return crossed
        return self._source.fetch_blob(entry.sha256, entry.length, self._blobs / entry.sha256)

    def _partial(self, entry: FileEntry) -> Path:
        return self._blobs / f"{entry.sha256}.partial"

    def _needed_bytes(self, release: str, manifest: Manifest) -> int:
        """What this pull must still write, checked against the disk before anything is fetched."""
        if total_bytes(manifest) > RELEASE_BYTES_MAX:
            raise ReleaseRefusedError(f"release {release}", reason=RefusalReason.TOO_LARGE)
        missing = {entry.sha256: self._missing_bytes(entry) for entry in manifest.files.values()}
        needed = sum(missing.values()) + DISK_MARGIN_BYTES
        free = self._free_bytes(self._root)
        if free < needed:
            self._sweep()
            free = self._free_bytes(self._root)
        if free < needed:
            raise DiskFullError(f"Release {release}", needed_bytes=needed, free_bytes=free)
        return needed

    def _missing_bytes(self, entry: FileEntry) -> int:
        path = self._blobs / entry.sha256
        present = path.exists() and path.stat().st_size == entry.length
        return 0 if present else entry.length

    def _assemble(self, release: str, manifest: Manifest) -> None:
        final = self._releases / release
        if final.exists() and not self._is_damaged(release):
            return
        building = self._releases / f".building-{release}"
        shutil.rmtree(building, ignore_errors=True)
        for name, entry in manifest.files.items():
            path = building / name
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(self._blobs / entry.sha256, path)
        # The canonical form is what was hashed and signed; `manifest` verified under this very id.
        write_atomically(building / MANIFEST_FILE, manifest.canonical_bytes())
        gone = self._releases / f".gone-{release}"
        shutil.rmtree(gone, ignore_errors=True)
        if final.exists():
            os.replace(final, gone)
        os.replace(building, final)
        sync_directory(self._releases)

    def _is_damaged(self, release: str) -> bool:
        try:
            return not self.verify(release).ok
        except (ReleaseDamagedError, NotFoundError):
            return True

    @contextlib.contextmanager
    def _reporting_full_disk(self, what: str, *, needed_bytes: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise
            free = self._free_bytes(self._root)
            raise DiskFullError(what, needed_bytes=needed_bytes, free_bytes=free) from error

    @contextlib.contextmanager
    def _leaving_nothing_on_full_disk(self, release: str, *, needed_bytes: int) -> Iterator[None]:
        try:
            with self._reporting_full_disk(f"Release {release}", needed_bytes=needed_bytes):
                yield
        except DiskFullError:
            self._sweep()
            raise

    def _sweep(self) -> None:
        """Remove whatever belongs to no release. Part of a pull, which is the only one to make such things.

        Blobs have one link more for each release that has them.
        """
        for path in self._releases.glob(".*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self._blobs.iterdir():
            if path.stat().st_nlink == 1:
                path.unlink(missing_ok=True)

    def _load_state(self) -> RegionReleases:
        path = self._root / "state.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=RegionReleases)
        except FileNotFoundError:
            return RegionReleases()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ReleaseDamagedError(
                f"{path} cannot be read: {error}.", fix="Restore it, or remove it and promote a release again."
            ) from error

    @property
    def _blobs(self) -> Path:
        return self._root / "blobs"

    @property
    def _releases(self) -> Path:
        return self._root / "releases"


def _damaged(directory: ReleaseDirectory) -> Iterator[str]:
    for name, entry in directory.manifest.files.items():
        if not file_matches(directory.path / name, sha256=entry.sha256, length=entry.length):
            yield name
    content = (directory.path / MANIFEST_FILE).read_bytes()
    if hashlib.sha256(content).hexdigest()[:20] != directory.release_id:
        yield MANIFEST_FILE
