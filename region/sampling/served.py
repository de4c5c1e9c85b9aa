"""What a request was answered with, sampled, bounded, on the node's own disk: it never leaves the region.

A sample holds the values of a row as the funnel read them, and where in the log the row stood; `region.batch` makes
the same values from the log and compares. At most one sample in `gap_min_s` is kept, in two files of `bytes_max / 2`
each, for `life_s` at most.
"""

from pathlib import Path

import msgspec

from infra.contracts.residency import Global, Regional, RegionalMessage
from region.keeping.files import FileKeys
from region.sampling.journal import Journal, read_records
from region.store.port import Session, SubjectCounters

FILE = "served-samples.ndjson"
GAP_MIN_S = 1.0
PENDING_MAX = 100
BYTES_MAX = 8 << 20
LIFE_MS = 7 * 86_400_000


class ServedSample(RegionalMessage, frozen=True, kw_only=True):
    """One request's features."""

    sample: Regional[str]
    subject: Regional[str]
    offset: Regional[int]
    """Where in its partition of the log the row stood."""
    now_ms: Regional[int]
    release: Global[str]
    imported: Regional[bool] = False
    items: Regional[tuple[str, ...]] = ()
    """The history, oldest first, in three columns."""
    strengths: Regional[tuple[int, ...]] = ()
    times_ms: Regional[tuple[int, ...]] = ()
    impressions: Regional[int] = 0
    counters: Regional[SubjectCounters] = SubjectCounters()
    session: Regional[Session | None] = None
    affinities: Regional[dict[str, dict[str, float]]] = msgspec.field(default_factory=dict)
    """By kind and name, as they stood at `now_ms`."""
    leanings: Regional[dict[str, float] | None] = None
    """The ranker's category affinity by category, those that are not zero; None when the release did not know an
    item of the history."""

    @property
    def written_ms(self) -> int:
        """When the request was answered."""
        return self.now_ms


class ServedSamples(Journal[ServedSample]):
    """The samples of one node."""

    def __init__(
        self, directory: Path, *, gap_min_s: float = GAP_MIN_S, bytes_max: int = BYTES_MAX, life_ms: int = LIFE_MS,
        keys: FileKeys | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            directory / FILE, ServedSample, pending_max=PENDING_MAX, bytes_max=bytes_max, life_ms=life_ms, keys=keys
        )  # fmt: skip
        self._gap_min_s = gap_min_s
        self._last_s = float("-inf")

    def wants(self, now_s: float) -> bool:
        """Whether a sample is due, by a monotonic clock; asking takes the turn."""
        if now_s - self._last_s < self._gap_min_s:
            return False
        self._last_s = now_s
        return True


def read_samples(directory: Path, keys: FileKeys | None = None) -> list[ServedSample]:
    """Every sample in a state directory, the oldest first; lines that cannot be read are passed over."""
    return read_records(directory / FILE, ServedSample, keys)
