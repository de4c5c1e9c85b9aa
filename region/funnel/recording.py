"""What one request's stages did: counts, times, skips; the slate's trace and the span of each heavy stage."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

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

    @contextmanager
    def stage(self, name: str, *, candidates_in: int = 0) -> Iterator[StageNote]:
        """Time a block. An error inside is noted as its reason to be skipped, then goes on to the caller."""
        note = StageNote(candidates_in=candidates_in)
        started_s = self.clock.monotonic_s()
        try:
            with ExitStack() as stack:
                if self.telemetry is not None and name in SPANNED_STAGES and self._is_traced():
                    stack.enter_context(self.telemetry.span(name))
                yield note
        except BaseException as error:
            note.skipped = note.skipped or _word_for(error)
            raise
        finally:
            took_ms = (self.clock.monotonic_s() - started_s) * 1000
            self._add(name, note, took_ms)

    def _is_traced(self) -> bool:
        """A span that nobody keeps costs as much to make as one that is kept: then none is made."""
        if self.sampled is None:
            self.sampled = current_span_is_kept()
        return self.sampled

    def skip(self, name: str, *, why: str, candidates_in: int = 0) -> None:
        """A stage that did not run: it is said in the trace and in `degraded`."""
        self._add(name, StageNote(candidates_in=candidates_in, skipped=why), 0.0)
        self.degrade(name)

    def degrade(self, part: str) -> None:
        """Say that `part` did not take part in the answer."""
        if part not in self.degraded:
            self.degraded.append(part)

    def _add(self, name: str, note: StageNote, took_ms: float) -> None:
        self.stages.append(
            StageTrace(
                stage=name,
                candidates_in=note.candidates_in,
                candidates_out=note.candidates_out,
                took_ms=round(took_ms, 3),
                skipped=note.skipped,
            )
        )


def _word_for(error: BaseException) -> str:
    return "timeout" if isinstance(error, TimeoutError) else "failed"
