"""Words that were meant: the nearest known words to what was typed, by edits (optimal string alignment, rapidfuzz)."""

import heapq
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence

from rapidfuzz import process
from rapidfuzz.distance import OSA

WORDS_KEPT_MAX = 50_000
CORRECTIONS_MAX = 3
HEAD_MAX = 24
"""Of longer words no typo is mended while they are typed: so much the ready heads may take."""
SORTED_AT_ONCE = 2_000
LENGTH_MIN = 3
"""Shorter words are taken as they are: nearly everything is one edit away from them."""


class Speller:
    """Knows the most telling words of a catalogue.

    Args:
        words: folded, the most popular first.
    """

    def __init__(self, words: Iterable[str]) -> None:
        kept = list(words)[:WORDS_KEPT_MAX]
        self._rank = {word: place for place, word in enumerate(kept)}
        self._sorted = _sorted(kept)
        self._by_first: dict[str, list[str]] = defaultdict(list)
        self._heads: dict[tuple[str, int], list[str]] = {}
        for word in kept:
            self._by_first[word[0]].append(word)

    def corrections(self, text: str) -> list[str]:
        """What may have been meant by `text` (folded), nearest first; empty when every word of it is known."""
        words = text.split(" ")
        options = [
            [(0, word)] if self._is_known(word, is_last=place == len(words) - 1) else
            self._near(word, is_last=place == len(words) - 1)
            for place, word in enumerate(words)
        ]  # fmt: skip
        if all(len(own) == 1 and own[0][0] == 0 for own in options) or not all(options):
            return []
        best = [own[0][1] for own in options]
        doubtful = max(range(len(options)), key=lambda place: len(options[place]))
        return [
            " ".join([*best[:doubtful], word, *best[doubtful + 1 :]]) for _, word in options[doubtful]
        ][:CORRECTIONS_MAX]  # fmt: skip

    def _is_known(self, word: str, *, is_last: bool) -> bool:
        if not is_last or len(word) < LENGTH_MIN:
            return word in self._rank or len(word) < LENGTH_MIN
        place = bisect_left(self._sorted, word)
        return place < len(self._sorted) and self._sorted[place].startswith(word)

    def _near(self, word: str, *, is_last: bool) -> list[tuple[int, str]]:
        """Known words near `word`, or near whose beginning it is when more letters may follow; nearest first."""
        edits = 1 if len(word) <= 5 else 2
        found: dict[str, int] = {}
        lengths = range(len(word) - 1, len(word) + 2) if is_last else (None,)
        for first in dict.fromkeys(word[:2]):  # the first letter, or the second in its place: most typos come later
            for length in lengths:
                near = process.extract(
                    word, self._heads_of(first, length), scorer=OSA.distance, score_cutoff=edits, limit=CORRECTIONS_MAX
                )
                for match, distance, _ in near:
                    found[match] = min(found.get(match, edits), int(distance))
        return sorted((distance, match) for match, distance in found.items())[:CORRECTIONS_MAX]

    def _heads_of(self, first: str, length: int | None) -> Sequence[str]:
        """The known words that begin with a letter, cut to `length`, each once; made when first asked for."""
        own = self._by_first.get(first, [])
        if length is None:
            return own
        heads = self._heads.get((first, length))
        if heads is None and length <= HEAD_MAX:
            heads = list(dict.fromkeys(word[:length] for word in own if len(word) >= length))
            self._heads[first, length] = heads
        return heads or ()


def _sorted(words: Sequence[str]) -> list[str]:
    """As `sorted`, which would hold the interpreter for its whole length: beside it lists are made."""
    parts = [sorted(words[start : start + SORTED_AT_ONCE]) for start in range(0, len(words), SORTED_AT_ONCE)]
    return list(heapq.merge(*parts))
