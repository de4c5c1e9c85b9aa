"""An index of prefixes of one kind of thing: a trie of terms (marisa-trie), and ready answers for prefixes of many.

Files in a folder, written once: `terms.marisa` (every thing's text from each word on), `starts.npy`, `owners.npy` (by
term, which things it is of, most popular first), `heads.marisa` and `heads.npy` (prefixes with more than HEAVY terms
and their TOP things), `popularity.npy`. All but the tries are mapped; a question reads a few pages of them.
"""

import itertools
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import marisa_trie
import numpy as np

from infra.contracts.features import FloatArray, IntArray
from infra.plumbing.catalogue.columns import Texts
from infra.plumbing.text import folded, word_starts

HEAVY = 512
"""A prefix of more terms than this has its answer ready; of fewer they are all looked at."""
TOP = 50
OWNERS_MAX = 20
"""Things of one and the same term that can be found by it."""
WORDS_MAX = 6
TERM_MAX = 80
DEPTH_MAX = 32
TEXTS_AT_ONCE = 50_000
_LAST = "\U0010ffff"
_STRINGS = np.dtypes.StringDType()
Terms = np.ndarray[Any, Any]
"""`[terms]` of NumPy's own strings (StringDType)."""


def build_terms(texts: Sequence[str] | Texts, popularity: FloatArray, out: Path) -> int:
    """Write the index of `texts` (things by their number) into the folder `out`; returns how many terms it has."""
    out.mkdir(parents=True, exist_ok=True)
    terms, owners = _entries(texts)
    first = np.lexsort((owners, -popularity[owners]))
    terms, owners = terms[first], owners[first]
    order = np.argsort(terms, kind="stable")
    terms, owners = terms[order], owners[order]
    trie = marisa_trie.Trie(_each(terms))
    starts, kept = _postings(trie, terms, owners)
    trie.save(str(out / "terms.marisa"))
    np.save(out / "starts.npy", starts)
    np.save(out / "owners.npy", kept)
    np.save(out / "popularity.npy", popularity.astype(np.float32))
    _write_heads(terms, owners, popularity, out)
    return len(trie)


def _entries(texts: Sequence[str] | Texts) -> tuple[Terms, IntArray]:
    """Every term of every text, and whose it is. `[entries]` each; NumPy's strings take a tenth of Python's."""
    parts: list[Terms] = [np.empty(0, dtype=_STRINGS)]
    owners = array("i")
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        found: list[str] = []
        for number in range(start, min(start + TEXTS_AT_ONCE, len(texts))):
            own = [term for term in word_starts(folded(texts[number])[:TERM_MAX], limit=WORDS_MAX) if term]
            found += own
            owners.extend([number] * len(own))
        parts.append(np.asarray(found, dtype=_STRINGS))
    return np.concatenate(parts), np.frombuffer(owners, dtype=np.int32)


def _each(terms: Terms) -> Iterator[str]:
    """Every term as Python's own string, a part of them at a time."""
    for start in range(0, terms.size, TEXTS_AT_ONCE):
        yield from terms[start : start + TEXTS_AT_ONCE].tolist()


def _postings(trie: marisa_trie.Trie, terms: Terms, owners: IntArray) -> tuple[IntArray, IntArray]:
    """`starts [terms + 1]` and the owners of each term behind one another, by the trie's own numbers."""
    begins = np.flatnonzero(np.concatenate([np.ones(min(terms.size, 1), np.bool_), terms[1:] != terms[:-1]]))
    lengths = np.minimum(np.diff(np.append(begins, terms.size)), OWNERS_MAX)
    numbers = np.fromiter((trie[term] for term in _each(terms[begins])), dtype=np.int64, count=begins.size)
    order = np.argsort(numbers)
    begins, lengths = begins[order], lengths[order]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(starts[-1]) + np.repeat(begins - starts[:-1], lengths)
    return starts.astype(np.int32), owners[places].astype(np.int32)


def _write_heads(terms: Terms, owners: IntArray, popularity: FloatArray, out: Path) -> None:
    found = {prefix: _best(owners[low:high], popularity) for prefix, low, high in _heavy(terms)}
    heads = marisa_trie.Trie(list(found))
    table = np.full((len(heads), TOP), -1, dtype=np.int32)
    for prefix, best in found.items():
        table[heads[prefix], : best.size] = best
    heads.save(str(out / "heads.marisa"))
    np.save(out / "heads.npy", table)


def _heavy(terms: Terms) -> Iterator[tuple[str, int, int]]:
    """Prefixes of more than HEAVY of the sorted `terms`, the empty one too, and where their terms stand."""
    waiting = [("", 0, len(terms))]
    while waiting:
        prefix, low, high = waiting.pop()
        if high - low <= HEAVY and prefix:
            continue
        yield prefix, low, high
        place = bisect_left(terms, f"{prefix}\0", low, high)
        while place < high and len(prefix) < DEPTH_MAX:
            child = terms[place][: len(prefix) + 1]
            end = bisect_left(terms, child + _LAST, place, high)
            waiting.append((child, place, end))
            place = end


def _best(owners: IntArray, popularity: FloatArray) -> IntArray:
    unique = np.unique(owners)
    if unique.size > TOP:
        unique = unique[np.argpartition(-popularity[unique], TOP - 1)[:TOP]]
    return unique[np.argsort(-popularity[unique], kind="stable")].astype(np.int32)


@dataclass(frozen=True, slots=True)
class TermIndex:
    """A built index, ready to be asked. Safe between threads: nothing is changed."""

    trie: marisa_trie.Trie
    heads: marisa_trie.Trie
    table: IntArray
    starts: IntArray
    owners: IntArray
    popularity: FloatArray

    @classmethod
    def load(cls, folder: Path) -> "TermIndex":
        """Map the index in `folder`.

        Raises:
            OSError, ValueError: a file is missing or is none of an index.
        """
        terms, heads = marisa_trie.Trie(), marisa_trie.Trie()
        terms.mmap(str(folder / "terms.marisa"))
        heads.mmap(str(folder / "heads.marisa"))
        table, starts, owners, popularity = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("heads", "starts", "owners", "popularity")
        )
        return cls(terms, heads, table, starts, owners, popularity)

    def find(self, prefix: str) -> IntArray:
        """Things with a word that begins like `prefix` (folded), most popular first, at most TOP."""
        if prefix in self.heads:
            best = self.table[self.heads[prefix]]
            return np.asarray(best[best >= 0])
        keys = list(itertools.islice(self.trie.iterkeys(prefix), 2 * HEAVY))
        if not keys:
            return np.zeros(0, dtype=np.int32)
        places = [self.trie[key] for key in keys]
        rows = np.concatenate([self.owners[self.starts[place] : self.starts[place + 1]] for place in places])
        return _best(rows, self.popularity)
