"""Reading a manifest that came from elsewhere: its own name, its format and its file names are checked."""

import hashlib
from pathlib import PurePosixPath

import msgspec

from infra.contracts.release import FORMAT_VERSION, RELEASE_ID_PATTERN, REQUIRED_FILES, Manifest
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.tuf_client.errors import RefusalReason, ReleaseRefusedError

FILES_MAX = 4_096
FILE_NAME_MAX = 200
MANIFEST_BYTES_MAX = 4 * 1024 * 1024
MANIFEST_FILE = "manifest.json"
# Unpickling runs whatever the file says: a release must not carry any, signed or not.
_PICKLES = frozenset({".pkl", ".pickle", ".joblib"})


def check_release_id(release_id: str) -> str:
    """`release_id`, if it is one.

    Raises:
        InvalidInputError: it is not 20 hexadecimal digits.
    """
    if not RELEASE_ID_PATTERN.fullmatch(release_id):
        raise InvalidInputError(
            f"{release_id[:60]!r} is not a release id.",
            fix="A release id is 20 hexadecimal digits, as listed by central.",
        )
    return release_id


def decode_manifest(content: bytes, *, release_id: str) -> Manifest:
    """The manifest in `content`, whose hash must be the name `release_id`.

    Raises:
        ReleaseRefusedError: the content is not the manifest of that release, has a format this version cannot read,
            lacks a required file, or names a file that would land outside of the release's directory.
    """
    what = f"the manifest of release {release_id}"
    if hashlib.sha256(content).hexdigest()[:20] != release_id:
        raise ReleaseRefusedError(what, reason=RefusalReason.TAMPERED, detail="its hash is not its name")
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReleaseRefusedError(what, reason=RefusalReason.UNREADABLE, detail=str(error)) from error
    # What is kept and passed on is the decoded manifest: a field that this version does not know must not be lost.
    problem = manifest_problem(manifest) or ("" if manifest.canonical_bytes() == content else "it is not canonical")
    if problem:
        raise ReleaseRefusedError(what, reason=RefusalReason.UNREADABLE, detail=problem)
    return manifest


def manifest_problem(manifest: Manifest) -> str:
    """What is wrong with `manifest`, or an empty string."""
    if manifest.format_version != FORMAT_VERSION:
        older = manifest.format_version < FORMAT_VERSION
        return (
            f"format version {manifest.format_version} is not {FORMAT_VERSION}: "
            + ("build and publish the release again" if older else "this software is older than the release")
        )  # fmt: skip
    if len(manifest.files) > FILES_MAX:
        return f"{len(manifest.files)} files are more than {FILES_MAX}"
    missing = sorted(REQUIRED_FILES - manifest.files.keys())
    if missing:
        return f"required files are missing: {', '.join(missing)}"
    bad = next((name for name in manifest.files if not is_safe_name(name)), None)
    if bad is not None:
        return f"the file name {bad[:FILE_NAME_MAX]!r} is not allowed in a release"
    negative = next((name for name, entry in manifest.files.items() if entry.length < 0), None)
    return f"{negative} has a negative length" if negative is not None else ""


def is_safe_name(name: str) -> bool:
    """Whether `name` stays inside of a release's directory, is portable, and is no pickle and no manifest."""
    path = PurePosixPath(name)
    plain = bool(name) and len(name) <= FILE_NAME_MAX and name.isascii() and name.isprintable()
    return (
        plain
        and "\\" not in name
        and str(path) == name
        and not path.is_absolute()
        and all(not part.startswith(".") for part in path.parts)
        and path.suffix.lower() not in _PICKLES
        and name != MANIFEST_FILE
    )


def total_bytes(manifest: Manifest) -> int:
    """Bytes of the distinct blobs of a release."""
    return sum({entry.sha256: entry.length for entry in manifest.files.values()}.values())
