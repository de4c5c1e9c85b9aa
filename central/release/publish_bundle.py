"""A bundle as the builder left it: checked file by file before anything of it is published."""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from infra.contracts.release import RELEASE_ID_PATTERN, FileEntry, Manifest
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.progress import Progress
from infra.plumbing.tuf_client.errors import ReleaseRefusedError
from infra.plumbing.tuf_client.manifests import MANIFEST_BYTES_MAX, MANIFEST_FILE, decode_manifest

_CHUNK_BYTES = 1 << 20


class BundleError(InvalidInputError):
    """The bundle is not whole; nothing of it was published."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A directory named by its release id, with `manifest.json` and the files that it lists."""

    directory: Path
    manifest: Manifest
    content: bytes
    """The manifest's bytes, whose hash is the release id."""

    @property
    def release_id(self) -> str:
        """Name of the release."""
        return self.directory.name


def read_bundle(directory: Path, *, progress: Progress) -> Bundle:
    """Read and check a bundle: its name, its manifest, and length and hash of every file.

    Raises:
        BundleError: anything is missing or differs; says which file.
    """
    directory = directory.resolve()
    path = directory / MANIFEST_FILE
    try:
        with path.open("rb") as file:
            content = file.read(MANIFEST_BYTES_MAX + 1)
    except OSError as error:
        raise BundleError(
            f"cannot read {path}: {error.strerror}.", fix="Name a directory that was built by `release build`."
        ) from error
    if not RELEASE_ID_PATTERN.fullmatch(directory.name):
        raise BundleError(
            f"{directory} is not named by a release id.", fix="Build the release again; do not rename it."
        )
    try:
        manifest = decode_manifest(content, release_id=directory.name)
    except ReleaseRefusedError as error:
        raise BundleError(error.message, fix="Build the release again; a bundle is never edited.") from error
    for done, (name, entry) in enumerate(sorted(manifest.files.items()), start=1):
        _check_file(directory / name, name, entry)
        progress.advance(done, len(manifest.files), "checking files")
    return Bundle(directory, manifest, content)


def _check_file(path: Path, name: str, entry: FileEntry) -> None:
    fix = "Build the release again; a bundle is never edited."
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"the bundle lacks the file {name}.", fix=fix)
    length = path.stat().st_size
    if length != entry.length:
        raise BundleError(f"{name} has {length} bytes, the manifest says {entry.length}.", fix=fix)
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            raise BundleError(f"{name} does not have the hash that the manifest says.", fix=fix)


def copy_verified(source: Path, destination: Path, entry: FileEntry) -> bool:
    """Copy `source` to `destination` unless it is there already; True if it was copied.

    What is copied is hashed on the way, so that a file which changed since it was checked is not published; what is
    there already is hashed too, so that publishing again repairs it.

    Raises:
        BundleError: `source` changed since it was checked.
        OSError: the disk; `destination` is as it was before.
    """
    if destination.exists() and destination.stat().st_size == entry.length:
        with destination.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256:
                return False
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=destination.parent, prefix=".blob.")
    try:
        with os.fdopen(handle, "wb") as target, source.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
        if digest.hexdigest() != entry.sha256:
            raise BundleError(f"{source} changed while it was published.", fix="Build the release again.")
        os.chmod(temporary, 0o644)
        os.replace(temporary, destination)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return True
