"""Deltas beside the blobs: what a region that has the release before need not fetch again."""

from collections.abc import Iterator, Mapping

from central.release.repository import Layout
from infra.contracts.release import Manifest, blob_target, delta_target
from infra.plumbing.deltas import make_delta
from infra.plumbing.files import write_atomically
from infra.plumbing.tuf_client.library import TargetFile

BYTES_MIN = 64 << 10
"""Smaller files are fetched whole."""
BYTES_MAX = 1 << 30
"""Larger ones too: both files and the delta are in memory while it is made."""
SHARE_MAX = 0.5
"""A delta that is larger than this share of its file is not published."""


def write_deltas(layout: Layout, before: Manifest, after: Manifest) -> dict[str, TargetFile]:
    """Write the deltas from release `before` to release `after` that are worth it; returns them as targets."""
    return dict(_deltas(layout, before, after))


def known_deltas(targets: Mapping[str, TargetFile]) -> dict[str, TargetFile]:
    """The deltas among `targets` whose two blobs are there too."""
    prefix, _ = delta_target("|", "|").split("|", 1)
    kept = {}
    for path, target in targets.items():
        if path.startswith(prefix):
            pair = path.removeprefix(prefix).split(".")
            if all(blob_target(sha256) in targets for sha256 in pair):
                kept[path] = target
    return kept


def _deltas(layout: Layout, before: Manifest, after: Manifest) -> Iterator[tuple[str, TargetFile]]:
    for name, entry in sorted(after.files.items()):
        old = before.files.get(name)
        if old is None or old.sha256 == entry.sha256 or not BYTES_MIN <= entry.length <= BYTES_MAX:
            continue
        if old.length > BYTES_MAX:
            continue
        contents = [
            layout.target_path(TargetFile(one.length, {"sha256": one.sha256}, blob_target(one.sha256))).read_bytes()
            for one in (old, entry)
        ]
        delta = make_delta(*contents)
        if delta is not None and len(delta) <= SHARE_MAX * entry.length:
            target = TargetFile.from_data(delta_target(old.sha256, entry.sha256), delta, ["sha256"])
            write_atomically(layout.target_path(target), delta)
            yield target.path, target
