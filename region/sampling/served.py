"""What a request was answered with, sampled, bounded, on the node's own disk: it never leaves the region.

A sample holds the values of a row as the funnel read them, and where in the log the row stood; `region.batch` makes
the same values from the log and compares. At most one sample in `gap_min_s` is kept, in two files of `bytes_max / 2`
each, for `life_s` at most.
"""

import asyncio
import os
import threading
from collections import deque
from pathlib import Path

import msgspec

from infra.contracts.residency import Global, Regional, RegionalMessage
from infra.plumbing.clock import Clock
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


class ServedSamples:
    """Takes samples beside the requests, and writes them when told to. `note` never waits for the disk."""

    def __init__(
        self, directory: Path, *, gap_min_s: float = GAP_MIN_S, bytes_max: int = BYTES_MAX, life_ms: int = LIFE_MS
    ) -> None:
        self._path = directory / FILE
        self._gap_min_s = gap_min_s
        self._bytes_max = bytes_max
        self._life_ms = life_ms
        self._last_s = float("-inf")
        self._pending: deque[ServedSample] = deque(maxlen=PENDING_MAX)
        self._lock = threading.Lock()

    def wants(self, now_s: float) -> bool:
        """Whether a sample is due, by a monotonic clock; asking takes the turn."""
        if now_s - self._last_s < self._gap_min_s:
            return False
        self._last_s = now_s
        return True

    def note(self, sample: ServedSample) -> None:
        """Keep a sample until the next `write`."""
        self._pending.append(sample)

    def write(self, *, now_ms: int) -> int:
        """Append what is kept to the file, and let go of what is old. Blocks; returns how many were written.

        Raises:
            OSError: the disk does not take it; what was kept is lost, and nothing else.
        """
        with self._lock:
            self._expire(now_ms)
            lines = []
            while self._pending:
                lines.append(msgspec.json.encode(self._pending.popleft()))
            if lines:
                with self._path.open("ab") as file:
                    file.write(b"\n".join(lines) + b"\n")
                if self._path.stat().st_size > self._bytes_max // 2:
                    os.replace(self._path, self._older)
            return len(lines)

    async def keep(self, clock: Clock) -> None:
        """Write on a thread. Raises as `write` does."""
        await asyncio.to_thread(self.write, now_ms=clock.now_ms())

    def of_subject(self, subject: str) -> list[ServedSample]:
        """Every sample of a subject, the oldest first. Blocks."""
        with self._lock:
            kept = [*_read(self._older), *_read(self._path), *self._pending]
        return [one for one in kept if one.subject == subject]

    def forget(self, subject: str) -> int:
        """Drop every sample of a subject; returns how many. Blocks."""
        with self._lock:
            self._pending = deque((one for one in self._pending if one.subject != subject), maxlen=PENDING_MAX)
            gone = 0
            for path in (self._older, self._path):
                samples = _read(path)
                kept = [one for one in samples if one.subject != subject]
                if len(kept) < len(samples):
                    gone += len(samples) - len(kept)
                    _rewrite(path, kept)
            return gone

    @property
    def _older(self) -> Path:
        return self._path.with_name(f"{FILE}.1")

    def _expire(self, now_ms: int) -> None:
        for path in (self._older, self._path):
            samples = _read(path, limit=1)
            if samples and samples[0].now_ms < now_ms - self._life_ms:
                _rewrite(path, [one for one in _read(path) if one.now_ms >= now_ms - self._life_ms])


def read_samples(directory: Path) -> list[ServedSample]:
    """Every sample in a state directory, the oldest first; lines that cannot be read are passed over."""
    return [*_read(directory / f"{FILE}.1"), *_read(directory / FILE)]


def _read(path: Path, *, limit: int | None = None) -> list[ServedSample]:
    samples: list[ServedSample] = []
    try:
        with path.open("rb") as file:
            for line in file:
                if limit is not None and len(samples) >= limit:
                    break
                try:
                    samples.append(msgspec.json.decode(line, type=ServedSample))
                except msgspec.DecodeError:
                    continue  # cut short by a kill
    except FileNotFoundError:
        return []
    return samples


def _rewrite(path: Path, samples: list[ServedSample]) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in samples))
    os.replace(new, path)
