"""`ReleaseClient`: what a region or an edge may believe about the release repository.

Trust, in order (The Update Framework, https://theupdateframework.github.io/specification/latest/):

1. the root given at start signs its successors; it names the keys of the other roles;
2. timestamp, snapshot and targets must be signed, unexpired, not older than what this metadata directory has seen,
   and must fit each other by version, length and hash;
3. a file counts only with the length and hash that targets names, and a manifest only under its own hash.

All calls block; an event loop calls them by `asyncio.to_thread`. One metadata directory belongs to one process.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import msgspec

from infra.contracts.release import ChannelPointer, Manifest, blob_target, channel_target, delta_target, manifest_target
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.errors import ConflictError, InvalidInputError, NotFoundError
from infra.plumbing.http.tls import ClientTls
from infra.plumbing.tuf_client.delegation import Delegation, known_delegation, known_targets
from infra.plumbing.tuf_client.errors import RefusalReason, ReleaseRefusedError, from_tuf
from infra.plumbing.tuf_client.fetching import BoundedFetcher, FetchLimits, copy_bounded
from infra.plumbing.tuf_client.library import TargetFile, Updater, UpdaterConfig, exceptions
from infra.plumbing.tuf_client.manifests import MANIFEST_BYTES_MAX, check_release_id, decode_manifest

CHANNEL_BYTES_MAX = 4_096
CHANNELS_MAX = 64
"""How many are asked what they recommend."""
SMALL_BLOB_BYTES_MAX = 256 * 1024 * 1024
_METADATA = "the repository's metadata"
_HASH_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Published:
    """Ids of all releases of a repository, and by channel what it recommends."""

    releases: tuple[str, ...]
    channels: dict[str, str]


class ReleaseClient:
    """Reads one release repository. Close it, or use it as a context manager.

    Args:
        repository_url: `http(s)://...`, below which `metadata/` and `targets/` lie.
        trusted_root: the root metadata that the operator trusts, as published by `central.release`.
        metadata_dir: what was seen before, against replay; one process at a time.
        limits: bounds of every download.
        clock: for the whole time of a download.
        tls: whom to trust behind `https://`, and what to show; None: whom the machine trusts.

    Raises:
        InvalidInputError: the address is no HTTP address.
        ReleaseRefusedError: `trusted_root` is no root metadata.
        ConflictError: another process uses `metadata_dir`.
    """

    def __init__(
        self,
        *,
        repository_url: str,
        trusted_root: bytes,
        metadata_dir: Path,
        limits: FetchLimits | None = None,
        clock: Clock | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        if urlsplit(repository_url).scheme not in ("http", "https"):
            raise InvalidInputError(
                f"{repository_url!r} is no address of a repository.", fix="Use http:// or https://."
            )
        self._url = repository_url.rstrip("/")
        self._root = trusted_root
        self._metadata_dir = metadata_dir
        self._limits = limits or FetchLimits()
        self._fetcher = BoundedFetcher(limits=self._limits, clock=clock or SystemClock(), tls=tls)
        self._mutex = threading.Lock()
        self._view: Updater | None = None
        self._lock_descriptor = _own_directory(metadata_dir)
        try:
            self._updater()
        except BaseException:
            self.close()
            raise

    def refresh(self) -> None:
        """Look at the repository anew. Only after this succeeded does `channel` and the rest see what is new.

        Raises:
            ReleaseRefusedError: what the repository sent does not verify; what was seen before is forgotten as well,
                so that nothing is pulled from a repository that lies.
            RepositoryUnavailableError: it does not answer; what was seen before stays usable.
        """
        with self._mutex:
            self._refresh()

    def channel(self, name: str) -> ChannelPointer:
        """What the channel `name` recommends.

        Raises:
            NotFoundError: there is no such channel.
            ReleaseRefusedError, RepositoryUnavailableError: as `refresh`.
        """
        what = f"the channel {name!r}"
        content = self._read(channel_target(name), what=what, bytes_max=CHANNEL_BYTES_MAX)
        try:
            pointer = msgspec.json.decode(content, type=ChannelPointer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ReleaseRefusedError(what, reason=RefusalReason.UNREADABLE, detail=str(error)) from error
        if pointer.channel != name:
            raise ReleaseRefusedError(what, reason=RefusalReason.INCONSISTENT, detail=f"it says {pointer.channel!r}")
        check_release_id(pointer.release)
        return pointer

    def manifest(self, release_id: str) -> Manifest:
        """The manifest of a release, whose id is the hash of its content.

        Raises:
            InvalidInputError: `release_id` is not a release id.
            NotFoundError: the repository has no such release.
            ReleaseRefusedError, RepositoryUnavailableError: as `refresh`.
        """
        target = manifest_target(check_release_id(release_id))
        content = self._read(target, what=f"the manifest of release {release_id}", bytes_max=MANIFEST_BYTES_MAX)
        return decode_manifest(content, release_id=release_id)

    def published(self) -> Published:
        """What there is to be pulled, as last heard, and what each channel recommends.

        Raises:
            ReleaseRefusedError, RepositoryUnavailableError: as `refresh`.
        """
        with self._mutex:
            targets = known_targets(metadata_dir=self._metadata_dir, trusted_root=self._root)
        paths = sorted(targets.targets) if targets is not None else []
        channels = [name for path in paths if (name := _named(path, channel_target("")))][:CHANNELS_MAX]
        return Published(
            releases=tuple(name for path in paths if (name := _named(path, manifest_target("")))),
            channels={name: self.channel(name).release for name in channels},
        )

    def blob(self, sha256: str, length: int) -> bytes:
        """A small blob in memory (an edge takes the release's lists this way).

        Raises:
            as `fetch_blob`, less OSError.
        """
        target = self._blob_target(sha256, length)
        return self._read(target.path, what=f"blob {sha256[:12]}", bytes_max=SMALL_BLOB_BYTES_MAX)

    def fetch_blob(self, sha256: str, length: int, into: Path) -> int:
        """Bring one blob to `into`; returns how many bytes crossed the wire.

        A file that is there and has the right hash is kept (0 bytes). A download that was cut off goes on from
        `<into>.partial`; if the joined file does not verify, it is fetched once more from the start.

        Raises:
            NotFoundError: the repository does not list this blob.
            ReleaseRefusedError: wrong length, wrong hash, more bytes than signed, or larger than this machine accepts.
            RepositoryUnavailableError: it does not answer, or lacks the file.
            OSError: the disk (ENOSPC: the partial file is removed).
        """
        target = self._blob_target(sha256, length)
        if file_matches(into, sha256=sha256, length=length):
            return 0
        partial = into.with_name(f"{into.name}.partial")
        into.parent.mkdir(parents=True, exist_ok=True)
        try:
            return self._complete(target, partial, into)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                partial.unlink(missing_ok=True)
            raise

    def delta(self, before: str, after: str) -> bytes | None:
        """What makes the blob `after` of the blob `before`, verified; None when the repository has no such delta.

        Raises:
            ReleaseRefusedError, RepositoryUnavailableError: as `refresh`.
        """
        what = f"the delta to blob {after[:12]}"
        try:
            return self._read(delta_target(before, after), what=what, bytes_max=self._limits.blob_bytes_max)
        except NotFoundError:
            return None

    def delegation(self, region: str) -> Delegation | None:
        """What central leaves to `region`, as last heard; asks nobody. None: nothing.

        Raises:
            ReleaseRefusedError: what lies on this disk does not verify.
        """
        with self._mutex:
            return known_delegation(region, metadata_dir=self._metadata_dir, trusted_root=self._root)

    def close(self) -> None:
        """Give the metadata directory free and close all connections."""
        self._fetcher.close()
        descriptor, self._lock_descriptor = self._lock_descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refresh(self) -> Updater:
        try:
            view = self._updater()
            view.refresh()
        except (exceptions.RepositoryError, exceptions.DownloadError) as error:
            ours = from_tuf(error, what=_METADATA, during_refresh=True)
            if isinstance(ours, ReleaseRefusedError):
                self._view = None
            raise ours from error
        self._view = view
        return view

    def _updater(self) -> Updater:
        try:
            return Updater(
                metadata_dir=str(self._metadata_dir),
                metadata_base_url=f"{self._url}/metadata/",
                target_base_url=f"{self._url}/targets/",
                fetcher=self._fetcher,
                config=UpdaterConfig(max_root_rotations=32, max_delegations=0),
                bootstrap=self._root,
            )
        except exceptions.RepositoryError as error:
            raise ReleaseRefusedError(
                "the trusted root given to this process", reason=RefusalReason.UNREADABLE, detail=str(error)
            ) from error

    def _target(self, path: str, what: str) -> TargetFile:
        with self._mutex:
            view = self._view or self._refresh()
            info = view.get_targetinfo(path)
        if info is None or "sha256" not in info.hashes:
            raise NotFoundError(
                f"The repository has not published {what}.", fix="See what there is: `releases --published`."
            )
        return info

    def _blob_target(self, sha256: str, length: int) -> TargetFile:
        what = f"blob {sha256[:12]}"
        info = self._target(blob_target(sha256), what)
        if info.hashes["sha256"] != sha256 or info.length != length:
            raise ReleaseRefusedError(what, reason=RefusalReason.INCONSISTENT, detail="manifest and targets disagree")
        if length > self._limits.blob_bytes_max:
            raise ReleaseRefusedError(what, reason=RefusalReason.TOO_LARGE, detail=f"{length} bytes")
        return info

    def _url_of(self, info: TargetFile) -> str:
        parent, slash, name = info.path.rpartition("/")
        return f"{self._url}/targets/{parent}{slash}{info.hashes['sha256']}.{name}"

    def _read(self, path: str, *, what: str, bytes_max: int) -> bytes:
        info = self._target(path, what)
        if info.length > bytes_max:
            raise ReleaseRefusedError(what, reason=RefusalReason.TOO_LARGE, detail=f"{info.length} bytes")
        with _download_errors(what):
            content = self._fetcher.download_bytes(self._url_of(info), info.length)
            info.verify_length_and_hashes(content)
        return content

    def _complete(self, info: TargetFile, partial: Path, into: Path) -> int:
        what = f"blob {info.hashes['sha256'][:12]}"
        crossed = 0
        for start in (min(_size(partial), info.length), 0):
            crossed += self._append(info, partial, start, what)
            if file_matches(partial, sha256=info.hashes["sha256"], length=info.length):
                os.replace(partial, into)
                return crossed
            received = _size(partial)
            partial.unlink()
            if start == 0:
                break
        reason = RefusalReason.TAMPERED if received == info.length else RefusalReason.WRONG_LENGTH
        raise ReleaseRefusedError(what, reason=reason, detail=f"{received} bytes came, {info.length} were signed")

    def _append(self, info: TargetFile, partial: Path, start: int, what: str) -> int:
        """Write from byte `start` to the end; returns how many bytes came. Stops one byte past the signed length."""
        if start == info.length and start > 0:
            return 0
        with _download_errors(what):
            begins, chunks = self._fetcher.stream(
                self._url_of(info), start=start, deadline_s=self._limits.deadline_s(info.length)
            )
            with contextlib.closing(chunks) as source, partial.open("r+b" if begins else "wb") as file:
                file.seek(begins)
                file.truncate()
                try:
                    return copy_bounded(source, file.write, room=info.length - begins)
                except exceptions.DownloadLengthMismatchError:
                    partial.unlink()
                    raise
                finally:
                    file.flush()
                    os.fsync(file.fileno())


def _named(path: str, pattern: str) -> str:
    """The name in a target's path, where `pattern` is the path of no name ("channels/.json"); "" in another's."""
    folder, _, suffix = pattern.partition("/")
    inside = path.startswith(f"{folder}/") and path.endswith(suffix)
    return path[len(folder) + 1 : -len(suffix)] if inside else ""


def file_matches(path: Path, *, sha256: str, length: int) -> bool:
    """Whether the file at `path` exists and has exactly this length and hash."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != length:
                return False
            digest = hashlib.sha256()
            while chunk := file.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
            return digest.hexdigest() == sha256
    except FileNotFoundError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def _download_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (exceptions.RepositoryError, exceptions.DownloadError) as error:
        raise from_tuf(error, what=what, during_refresh=False) from error


def _own_directory(directory: Path) -> int:
    """Descriptor of a lock that ends with this process, however it ends."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConflictError(
            f"another process uses the metadata directory {directory}.",
            fix="Give every process a directory of its own.",
        ) from None
    return descriptor
