"""Publishing releases: a checked bundle becomes signed, static files; and what is published can be looked at.

Order of a publish: blobs, manifest and channel pointer; then targets, snapshot, and last of all timestamp. Killed at
any point, readers go on seeing the state before; running again completes it.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from central.release.deltas import known_deltas, write_deltas
from central.release.publish_bundle import Bundle, copy_verified, read_bundle
from central.release.repository import Layout, RepositoryDamagedError, View, publishing, read_view, sweep, write_targets
from infra.contracts.release import (
    ChannelPointer,
    FileEntry,
    Manifest,
    blob_target,
    channel_target,
    manifest_target,
)
from infra.contracts.residency import encode_global
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError, NotFoundError
from infra.plumbing.files import sync_directory, write_atomically
from infra.plumbing.progress import Progress, SilentProgress
from infra.plumbing.releases.comparing import diff_manifests
from infra.plumbing.releases.contents import ContentError, ReleaseContents
from infra.plumbing.releases.messages import ReleaseDiff
from infra.plumbing.tuf_client.library import TargetFile
from infra.plumbing.tuf_client.manifests import check_release_id, decode_manifest, total_bytes

RELEASES_MAX = 64
"""Older releases that no channel names are taken back, so that the repository stays bounded."""
CHANNEL_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,31}")


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What a publish did. `changed` is False when all of it was there already."""

    release: str
    channel: str
    changed: bool
    version: int
    """Of the targets metadata that readers now see."""
    blobs_new: int
    bytes_new: int
    bytes_shared: int
    retired: tuple[str, ...] = ()


class ReleaseSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One published release."""

    release: str
    created_at_ms: int
    origin: str
    dataset: str
    parent: str | None
    channels: tuple[str, ...]
    metrics: dict[str, float]
    files: int
    bytes_total: int


class ReleaseInspection(msgspec.Struct, frozen=True, kw_only=True):
    """One published release with its whole manifest, bytes by part, and the hash of what it does."""

    summary: ReleaseSummary
    manifest: Manifest
    content_sha256: str
    sizes: dict[str, int]


def publish(
    *,
    bundle: Path,
    repository: Path,
    keys: Path,
    channel: str,
    clock: Clock,
    progress: Progress | None = None,
    releases_max: int = RELEASES_MAX,
) -> Published:
    """Check the bundle, publish it, and let `channel` recommend it.

    Raises:
        BundleError: the bundle is not whole.
        InvalidInputError: `channel` is not a channel's name.
        ConflictError: another publisher is at work.
        KeysError, KeysMissingError: the keys cannot sign.
        RepositoryDamagedError: the repository's present state does not verify.
    """
    check_channel(channel)
    reporter = progress or SilentProgress()
    checked = read_bundle(bundle, progress=reporter)
    layout = Layout(repository)
    with publishing(layout, clock=clock):
        view = read_view(layout, keys)
        new_blobs = _write_blobs(layout, checked, reporter)
        targets = dict(view.targets.targets)
        recommended = _pointers(layout, targets).get(channel)
        targets.update(_release_targets(layout, checked))
        if recommended is not None and recommended != checked.release_id:
            before = _manifest(layout, _require(targets, recommended), recommended)
            targets.update(write_deltas(layout, before, checked.manifest))
        _point(layout, targets, channel, checked.release_id, clock)
        retired = retire(_manifests(layout, targets), _pointers(layout, targets), releases_max=releases_max)
        kept = without_releases(targets, _manifests(layout, targets), retired)
        changed = kept != view.targets.targets
        after = write_targets(layout, keys=keys, clock=clock, view=view, targets=kept) if changed else view
        sweep(layout, before=view, after=after)
    return _published(checked, channel, after, new_blobs, changed=changed, retired=retired)


def point_channel(*, repository: Path, keys: Path, channel: str, release: str, clock: Clock) -> ChannelPointer:
    """Let `channel` recommend a release that is already published (a candidate that passed, say).

    Raises:
        NotFoundError: that release is not published.
        InvalidInputError, ConflictError, KeysMissingError, RepositoryDamagedError: as `publish`.
    """
    check_channel(channel)
    layout = Layout(repository)
    with publishing(layout, clock=clock):
        view = read_view(layout, keys)
        targets = dict(view.targets.targets)
        _require(targets, release)
        pointer = _point(layout, targets, channel, release, clock)
        if targets != view.targets.targets:
            after = write_targets(layout, keys=keys, clock=clock, view=view, targets=targets)
            sweep(layout, before=view, after=after)
    return pointer


def list_releases(*, repository: Path, keys: Path) -> tuple[ReleaseSummary, ...]:
    """Every published release, newest first.

    Raises:
        NotFoundError, RepositoryDamagedError: there is no repository, or it does not verify.
    """
    layout = Layout(repository)
    targets = read_view(layout, keys).targets.targets
    pointers = _pointers(layout, targets)
    summaries = [_summary(release, manifest, pointers) for release, manifest in _manifests(layout, targets).items()]
    return tuple(sorted(summaries, key=lambda summary: (-summary.created_at_ms, summary.release)))


def inspect_release(*, repository: Path, keys: Path, release: str) -> ReleaseInspection:
    """One published release with its manifest.

    Raises:
        NotFoundError: that release is not published.
    """
    layout = Layout(repository)
    targets = read_view(layout, keys).targets.targets
    manifest = _manifest(layout, _require(targets, release), release)
    return ReleaseInspection(
        summary=_summary(release, manifest, _pointers(layout, targets)), manifest=manifest,
        content_sha256=manifest.content_sha256, sizes=ReleaseContents(manifest, lambda _: b"").sizes,
    )  # fmt: skip


def release_contents(*, repository: Path, keys: Path, release: str) -> ReleaseContents:
    """What is inside one published release.

    Raises:
        NotFoundError: that release is not published.
    """
    layout = Layout(repository)
    targets = read_view(layout, keys).targets.targets
    manifest = _manifest(layout, _require(targets, release), release)

    def read(name: str) -> bytes:
        entry = manifest.files.get(name)
        if entry is None:
            raise ContentError(f"release {release} has no file {name}.")
        return _content(layout, targets[blob_target(entry.sha256)])

    return ReleaseContents(manifest, read)


def diff_releases(*, repository: Path, keys: Path, before: str, after: str) -> ReleaseDiff:
    """What changes from release `before` to release `after`.

    Raises:
        NotFoundError: one of them is not published.
    """
    older = inspect_release(repository=repository, keys=keys, release=before).manifest
    newer = inspect_release(repository=repository, keys=keys, release=after).manifest
    return diff_manifests(older, newer, before=before, after=after)


def retire(manifests: Mapping[str, Manifest], pointers: Mapping[str, str], *, releases_max: int) -> tuple[str, ...]:
    """Which releases to take back: the oldest above `releases_max`, never one that a channel names."""
    free = sorted(
        (release for release in manifests if release not in pointers.values()),
        key=lambda release: (manifests[release].created_at_ms, release),
    )
    return tuple(free[: max(0, len(manifests) - releases_max)])


def without_releases(
    targets: Mapping[str, TargetFile], manifests: Mapping[str, Manifest], retired: tuple[str, ...]
) -> dict[str, TargetFile]:
    """`targets` less the manifests of `retired`, the blobs that no other release has, and deltas between such blobs."""
    remaining = [manifest for release, manifest in manifests.items() if release not in retired]
    blobs = {blob_target(entry.sha256) for manifest in remaining for entry in manifest.files.values()}
    gone = {manifest_target(release) for release in retired}
    kept = {
        path: target
        for path, target in targets.items()
        if path not in gone and (not path.startswith("blobs/") or path in blobs)
    }
    deltas = known_deltas(kept)
    return {path: target for path, target in kept.items() if not path.startswith("deltas/") or path in deltas}


def check_channel(channel: str) -> None:
    """Refuse what cannot be a channel's name.

    Raises:
        InvalidInputError: it is not 1 to 32 lower-case letters, digits and hyphens.
    """
    if not CHANNEL_PATTERN.fullmatch(channel):
        raise InvalidInputError(
            f"{channel[:60]!r} is not a channel.", fix="Use lower-case letters, digits and hyphens, as in 'stable'."
        )


def _write_blobs(layout: Layout, bundle: Bundle, progress: Progress) -> dict[str, int]:
    """Copy what is not there yet; returns the lengths of the copied blobs by hash."""
    copied: dict[str, int] = {}
    files = sorted(bundle.manifest.files.items())
    for done, (name, entry) in enumerate(files, start=1):
        if copy_verified(bundle.directory / name, layout.target_path(_blob(entry)), entry):
            copied[entry.sha256] = entry.length
        progress.advance(done, len(files), "publishing files")
    sync_directory(layout.targets / "blobs")
    return copied


def _release_targets(layout: Layout, bundle: Bundle) -> dict[str, TargetFile]:
    blobs = {blob_target(entry.sha256): _blob(entry) for entry in bundle.manifest.files.values()}
    manifest = _write_small(layout, manifest_target(bundle.release_id), bundle.content)
    return {**blobs, manifest.path: manifest}


def _point(layout: Layout, targets: dict[str, TargetFile], channel: str, release: str, clock: Clock) -> ChannelPointer:
    """Put the pointer into `targets`, unless the channel names `release` already."""
    path = channel_target(channel)
    present = targets.get(path)
    if present is not None:
        pointer = msgspec.json.decode(_content(layout, present), type=ChannelPointer)
        if pointer.release == release:
            return pointer
    pointer = ChannelPointer(channel=channel, release=release, published_at_ms=clock.now_ms())
    targets[path] = _write_small(layout, path, encode_global(pointer))
    return pointer


def _blob(entry: FileEntry) -> TargetFile:
    return TargetFile(entry.length, {"sha256": entry.sha256}, blob_target(entry.sha256))


def _write_small(layout: Layout, path: str, content: bytes) -> TargetFile:
    target = TargetFile.from_data(path, content, ["sha256"])
    write_atomically(layout.target_path(target), content)
    return target


def _content(layout: Layout, target: TargetFile) -> bytes:
    """Content of a small target, verified.

    Raises:
        RepositoryDamagedError: it is missing or was changed.
    """
    try:
        content = layout.target_path(target).read_bytes()
        target.verify_length_and_hashes(content)
    except Exception as error:
        raise RepositoryDamagedError(
            f"the repository's file {target.path} is missing or was changed: {error}.",
            fix="Restore targets/ from a copy.",
        ) from error
    return content


def _require(targets: Mapping[str, TargetFile], release: str) -> TargetFile:
    target = targets.get(manifest_target(check_release_id(release)))
    if target is None:
        raise NotFoundError(f"release {release} is not published.", fix="List what is with `release list`.")
    return target


def _manifest(layout: Layout, target: TargetFile, release: str) -> Manifest:
    return decode_manifest(_content(layout, target), release_id=release)


def _manifests(layout: Layout, targets: Mapping[str, TargetFile]) -> dict[str, Manifest]:
    prefix, suffix = manifest_target("|").split("|")
    return {
        (release := path.removeprefix(prefix).removesuffix(suffix)): _manifest(layout, target, release)
        for path, target in targets.items()
        if path.startswith(prefix)
    }


def _pointers(layout: Layout, targets: Mapping[str, TargetFile]) -> dict[str, str]:
    """Release by channel."""
    prefix, _ = channel_target("|").split("|")
    found = [
        msgspec.json.decode(_content(layout, target), type=ChannelPointer)
        for path, target in targets.items()
        if path.startswith(prefix)
    ]
    return {pointer.channel: pointer.release for pointer in found}


def _summary(release: str, manifest: Manifest, pointers: Mapping[str, str]) -> ReleaseSummary:
    return ReleaseSummary(
        release=release,
        created_at_ms=manifest.created_at_ms,
        origin=manifest.origin,
        dataset=manifest.dataset,
        parent=manifest.parent,
        channels=tuple(sorted(channel for channel, named in pointers.items() if named == release)),
        metrics=manifest.metrics,
        files=len(manifest.files),
        bytes_total=total_bytes(manifest),
    )


def _published(
    bundle: Bundle, channel: str, after: View, new_blobs: Mapping[str, int], *, changed: bool, retired: tuple[str, ...]
) -> Published:
    bytes_new = sum(new_blobs.values())
    return Published(
        release=bundle.release_id,
        channel=channel,
        changed=changed,
        version=after.targets.version,
        blobs_new=len(new_blobs),
        bytes_new=bytes_new,
        bytes_shared=total_bytes(bundle.manifest) - bytes_new,
        retired=retired,
    )
