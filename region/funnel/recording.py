"""What one request's stages did: counts, times, skips; the slate's trace and the span of each heavy stage."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType

from infra.contracts.features import IntArray
from infra.contracts.messages import RecommendationType, StageTrace
from infra.plumbing.clock import Clock
from infra.plumbing.telemetry import Telemetry, current_span_is_kept
from region.rules.schema import Lives

SPANNED_STAGES = frozenset({"store", "user-tower", "ann", "ranker"})
"""Stages that leave the process or run a model: worth a span of their own."""


@dataclass(slots=True)
class StageNote:
    """What a running stage says of itself."""

    candidates_in: int = 0
    candidates_out: int = 0
    skipped: str = ""


@dataclass(slots=True, kw_only=True)
class Recorder:
    """Collects the trace and the degraded parts of one request. Used from one task and its computations in turn."""

    clock: Clock
    telemetry: Telemetry | None = None
    stages: list[StageTrace] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)
    lives: Mapping[RecommendationType, Lives] = field(default_factory=dict)
    """What the rules of this request say of how long its list may be kept."""
    rows: IntArray | None = None
    """Rows of the list, in the release that made it."""
    sampled: bool | None = None
    """Whether the request's spans are kept; None: not asked yet."""

    def stage(self, name: str, *, candidates_in: int = 0) -> "_Stage":
        """Time a block. An error inside is noted as its reason to be skipped, then goes on to the caller."""
        return _Stage(self, name, StageNote(candidates_in=candidates_in))

    def span_of(self, name: str) -> AbstractContextManager[object] | None:
        """A span for a stage that is worth one, if the request's spans are kept."""
        if self.telemetry is None or name not in SPANNED_STAGES or not self._is_traced():
            return None
        return self.telemetry.span(name)

    def note(self, name: str, note: StageNote, took_ms: float) -> None:
        """One more stage is over."""
        self.stages.append(
            StageTrace(
                stage=name,
                candidates_in=note.candidates_in,
                candidates_out=note.candidates_out,
                took_ms=round(took_ms, 3),
                skipped=note.skipped,
            )
        )

    def _is_traced(self) -> bool:
        """A span that nobody keeps costs as much to make as one that is kept: then none is made."""
        if self.sampled is None:
            self.sampled = current_span_is_kept()
        return self.sampled

    def skip(self, name: str, *, why: str, candidates_in: int = 0) -> None:
        """A stage that did not run: it is said in the trace and in `degraded`."""
        self.note(name, StageNote(candidates_in=candidates_in, skipped=why), 0.0)
        self.degrade(name)

    def degrade(self, part: str) -> None:
        """Say that `part` did not take part in the answer."""
        if part not in self.degraded:
            self.degraded.append(part)


class _Stage:
    """What `Recorder.stage` gives to `with`: a list has a dozen, so each is a plain object and no generator."""

    __slots__ = ("_name", "_note", "_recorder", "_span", "_started_s")

    def __init__(self, recorder: Recorder, name: str, note: StageNote) -> None:
        self._recorder, self._name, self._note = recorder, name, note

    def __enter__(self) -> StageNote:
        self._started_s = self._recorder.clock.monotonic_s()
        self._span = self._recorder.span_of(self._name)
        if self._span is not None:
            self._span.__enter__()
        return self._note

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._span is not None:
            self._span.__exit__(kind, error, trace)
        if error is not None:
            self._note.skipped = self._note.skipped or _word_for(error)
        took_ms = (self._recorder.clock.monotonic_s() - self._started_s) * 1000
        self._recorder.note(self._name, self._note, took_ms)


def _word_for(error: BaseException) -> str:
    return "timeout" if isinstance(error, TimeoutError) else "failed"
