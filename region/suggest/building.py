"""Building the suggestions of a release out of its catalogue: once per release and node, files that are mapped."""

import os
import shutil
from collections import defaultdict
from pathlib import Path

import msgspec
import numpy as np

from infra.contracts.features import FloatArray
from infra.contracts.release import CATALOGUE, ITEM_POPULARITY, CatalogueItem
from infra.plumbing.text import folded
from region.suggest.terms import build_terms
from region.suggest.typos import LENGTH_MIN, WORDS_KEPT_MAX

ITEMS, CATEGORIES, BRANDS = "items", "categories", "brands"
WORDS_FILE, NAMES_FILE, IDS_FILE = "words.json", "names.json", "ids.npy"


def build_index(release: Path, out: Path) -> dict[str, int]:
    """Write the index of the release in `release` to `out`, whole or not at all; returns terms by kind.

    Raises:
        OSError, msgspec.DecodeError: the release cannot be read, or the disk does not take the index.
    """
    catalogue = msgspec.msgpack.decode((release / CATALOGUE).read_bytes(), type=list[CatalogueItem])
    popularity = np.load(release / ITEM_POPULARITY, allow_pickle=False)
    work = out.with_name(f"{out.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    counts = {ITEMS: build_terms([item.title for item in catalogue], popularity, work / ITEMS)}
    np.save(work / IDS_FILE, np.asarray([item.item.encode() for item in catalogue]))
    names: dict[str, list[str]] = {}
    for kind in (CATEGORIES, BRANDS):
        names[kind], sums = _sums(catalogue, popularity, kind)
        counts[kind] = build_terms(names[kind], sums, work / kind)
    (work / NAMES_FILE).write_bytes(msgspec.json.encode(names))
    (work / WORDS_FILE).write_bytes(msgspec.json.encode(_words(catalogue, popularity, names)))
    shutil.rmtree(out, ignore_errors=True)
    os.replace(work, out)
    return counts


def _sums(catalogue: list[CatalogueItem], popularity: FloatArray, kind: str) -> tuple[list[str], FloatArray]:
    """Names of a kind and the popularity of all their items together."""
    sums: dict[str, float] = defaultdict(float)
    for item, value in zip(catalogue, popularity.tolist(), strict=True):
        for name in item.categories if kind == CATEGORIES else filter(None, (item.brand,)):
            sums[name] += value
    return list(sums), np.fromiter(sums.values(), dtype=np.float32, count=len(sums))


def _words(catalogue: list[CatalogueItem], popularity: FloatArray, names: dict[str, list[str]]) -> list[str]:
    """The words that typos are held against, those of names and of popular items first."""
    found: dict[str, None] = dict.fromkeys(word for own in names.values() for name in own for word in _split(name))
    for row in np.argsort(-popularity, kind="stable").tolist():
        found.update(dict.fromkeys(_split(catalogue[row].title)))
        if len(found) >= WORDS_KEPT_MAX:
            break
    return list(found)[:WORDS_KEPT_MAX]


def _split(text: str) -> list[str]:
    return [word for word in folded(text).split(" ") if len(word) >= LENGTH_MIN]
