"""Building the suggestions of a release out of its catalogue: once per release and node, files that are mapped."""

import os
import shutil
from pathlib import Path

import msgspec
import numpy as np

from infra.contracts.release import ITEM_POPULARITY
from infra.plumbing.catalogue.reading import Catalogue, open_catalogue
from infra.plumbing.text import folded
from region.suggest.terms import build_terms
from region.suggest.typos import LENGTH_MIN, WORDS_KEPT_MAX

ITEMS, CATEGORIES, BRANDS = "items", "categories", "brands"
ROWS_AT_ONCE = 10_000
WORDS_FILE, NAMES_FILE, IDS_FILE = "words.json", "names.json", "ids.npy"


def build_index(release: Path, out: Path) -> dict[str, int]:
    """Write the index of the release in `release` to `out`, whole or not at all; returns terms by kind.

    Raises:
        CatalogueError, OSError, ValueError: the release cannot be read, or the disk does not take the index.
    """
    catalogue = open_catalogue(release)
    popularity = np.load(release / ITEM_POPULARITY, allow_pickle=False)
    work = out.with_name(f"{out.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    counts = {ITEMS: build_terms(catalogue.titles, popularity, work / ITEMS)}
    ids = catalogue.ids.texts
    np.save(work / IDS_FILE, np.asarray([ids.raw(row) for row in range(len(ids))], dtype=np.bytes_))
    names: dict[str, list[str]] = {}
    for kind, (own, sums) in (
        (CATEGORIES, catalogue.summed_by_category(popularity)), (BRANDS, catalogue.summed_by_brand(popularity)),
    ):  # fmt: skip
        names[kind] = own
        counts[kind] = build_terms(own, sums, work / kind)
    (work / NAMES_FILE).write_bytes(msgspec.json.encode(names))
    (work / WORDS_FILE).write_bytes(msgspec.json.encode(_words(catalogue, names)))
    shutil.rmtree(out, ignore_errors=True)
    os.replace(work, out)
    return counts


def _words(catalogue: Catalogue, names: dict[str, list[str]]) -> list[str]:
    """The words that typos are held against, those of names and of popular items first."""
    found: dict[str, None] = dict.fromkeys(word for own in names.values() for name in own for word in _split(name))
    for start in range(0, len(catalogue), ROWS_AT_ONCE):
        for row in catalogue.by_popularity[start : start + ROWS_AT_ONCE].tolist():
            found.update(dict.fromkeys(_split(catalogue.titles[row])))
        if len(found) >= WORDS_KEPT_MAX:
            break
    return list(found)[:WORDS_KEPT_MAX]


def _split(text: str) -> list[str]:
    return [word for word in folded(text).split(" ") if len(word) >= LENGTH_MIN]
