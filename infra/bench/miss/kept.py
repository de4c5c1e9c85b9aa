"""Large synthetic releases that stay on the disk between runs: one of ten million items takes minutes and 12 GB.

They lie in `.atoll/bench/releases`, named after their size and a hash of the code that makes them, so that other code
makes a new one; of each size one is kept. The suggestions that a region builds of a release stay beside it.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from infra.bench.catalogue import BenchRequest
from infra.local.tiers import source_root
from infra.plumbing.errors import UnavailableError
from infra.plumbing.locking import locked

KEPT_ITEMS_MIN = 500_000
"""Smaller ones are made within seconds, each time anew."""
LOCK = "kept.lock"
BYTES_PER_ITEM = 1_600
"""Of disk: the release, and the suggestions built of it."""
_MADE_BY = (
    "infra/bench/miss/synthetic.py", "infra/bench/miss/vectors.py", "central/release/export.py",
    "central/training/retrieval.py", "central/training/towers.py", "central/training/ranker.py",
    "infra/contracts/release.py", "infra/contracts/features.py", "infra/plumbing/catalogue/writing.py",
)  # fmt: skip
_INDEXED_BY = ("central/release/index.py", "central/release/tuning.py")
COARSE_ITEMS_MIN = 2_000_001
"""From here on the index is the coarse one of `infra.bench.miss.synthetic`, not one of _INDEXED_BY."""
_SUGGESTED_BY = ("region/suggest", "infra/plumbing/text.py")
_NAME_DIGITS = 12


def kept_release(request: BenchRequest, num_items: int, make: Callable[[Path], Path]) -> Path:
    """The directory of a release of `num_items`, made by `make` (given an empty folder) if it is not there yet.

    Raises:
        UnavailableError: it could not be made, or the disk is too full for it.
    """
    if num_items < KEPT_ITEMS_MIN:
        return make(request.work / f"release-{num_items}")
    shelf = request.environments.parent / "bench" / "releases"
    shelf.mkdir(parents=True, exist_ok=True)
    made_by = _MADE_BY if num_items >= COARSE_ITEMS_MIN else (*_MADE_BY, *_INDEXED_BY)
    place = shelf / f"{num_items}-{_hash_of(made_by)}"
    with locked(shelf / LOCK):
        if not place.is_dir():
            for old in shelf.glob(f"{num_items}-*"):
                shutil.rmtree(old)
            _check_disk(shelf, num_items)
            building = shelf / "building"
            shutil.rmtree(building, ignore_errors=True)
            make(building)
            building.rename(place)
    return next(path for path in place.iterdir() if (path / "manifest.json").is_file())


@contextlib.contextmanager
def kept_suggestions(release: Path, state: Path) -> Iterator[None]:
    """Inside, a region with this state directory finds the suggestions that one before it built of the release.

    What it builds itself is kept when the block ends, if the release is kept.
    """
    kept = release.parent / f"suggest-{_hash_of(_SUGGESTED_BY)}"
    own = state / "suggest" / release.name
    if kept.is_dir():
        link_tree(kept, own)
    yield
    if (release.parent.parent / LOCK).is_file() and own.is_dir() and not kept.is_dir():
        os.replace(own, kept)


def link_tree(source: Path, target: Path) -> None:
    """The files of `source` under `target` too: linked, or copied where that is another disk."""

    def link(one: str, other: str) -> None:
        try:
            Path(other).hardlink_to(one)
        except OSError:
            shutil.copyfile(one, other)

    shutil.copytree(source, target, copy_function=link)


def _check_disk(shelf: Path, num_items: int) -> None:
    needed, free = num_items * BYTES_PER_ITEM, shutil.disk_usage(shelf).free
    if free < needed:
        raise UnavailableError(
            f"a release of {num_items:,} items takes {needed / 1e9:.0f} GB of disk; {free / 1e9:.0f} GB are free.",
            fix=f"Make room, or remove what is in {shelf}.",
        )


def _hash_of(names: Iterable[str]) -> str:
    """Of the contents of these files and of the Python files in these folders."""
    root, whole = source_root(), hashlib.sha256()
    for name in names:
        path = root / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            whole.update(file.read_bytes() + b"\0")
    return whole.hexdigest()[:_NAME_DIGITS]
