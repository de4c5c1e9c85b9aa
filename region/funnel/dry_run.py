"""A dry run: lately asked requests answered under the rules that hold and under proposed ones, and compared."""

from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from infra.contracts.messages import HomeRequest, SlateItem
from infra.contracts.residency import Global, GlobalMessage, Regional, RegionalMessage
from infra.plumbing.clock import Clock
from region.rules.examining import RuleFinding
from region.rules.schema import RuleFile

REQUESTS_KEPT = 1_000
GAP_MIN_S = 0.05
"""Under load one request in so many seconds is kept, so that what is kept spans a minute and not a moment."""
REQUESTS_MAX = 500
EXAMPLES_MAX = 20
TIME_MAX_S = 20.0
Proposal = tuple[str, RuleFile]
Answer = Callable[[HomeRequest, Proposal | None], Awaitable[tuple[SlateItem, ...]]]


class RequestLog:
    """The last requests of this region's own edges, in memory only: nothing of it outlives the process."""

    def __init__(self, *, kept: int = REQUESTS_KEPT, gap_min_s: float = GAP_MIN_S) -> None:
        self._requests: deque[HomeRequest] = deque(maxlen=kept)
        self._gap_min_s = gap_min_s
        self._last_s = float("-inf")

    def note(self, request: HomeRequest, *, now_s: float) -> None:
        """Keep `request`, unless one was kept a moment ago."""
        if now_s - self._last_s >= self._gap_min_s:
            self._requests.append(request)
            self._last_s = now_s

    def forget(self, subject: str) -> None:
        """Drop what the subject asked."""
        kept = [request for request in self._requests if request.subject != subject]
        self._requests.clear()
        self._requests.extend(kept)

    def of_subject(self, subject: str) -> list[HomeRequest]:
        """What the subject asked, the newest last."""
        return [request for request in self._requests if request.subject == subject]

    def subjects(self) -> frozenset[str]:
        """Whose requests are kept."""
        return frozenset(request.subject for request in self._requests if request.subject is not None)

    def latest(self, count: int) -> tuple[HomeRequest, ...]:
        """The last `count` requests, the newest last."""
        return tuple(self._requests)[-count:] if count > 0 else ()


class SurfaceChange(GlobalMessage, frozen=True, kw_only=True):
    """What changes on one surface.

    `overlap`: mean share of a page that stays on it; `shift`: mean places that an item which stays moves by.
    """

    requests: Global[int]
    changed: Global[int]
    overlap: Global[float]
    shift: Global[float]


class SlateChange(RegionalMessage, frozen=True, kw_only=True):
    """One page that changes, for a reviewer in the region. `subject` is the region's pseudonym, or empty."""

    subject: Regional[str]
    type: Global[str]
    surface: Global[str]
    before: Regional[tuple[str, ...]]
    after: Regional[tuple[str, ...]]
    rules: Global[tuple[str, ...]]
    """What moved items of the page after."""


class DryRunAnswer(RegionalMessage, frozen=True, kw_only=True):
    """Whose pages change, and by how much."""

    edition: Global[str]
    proposed: Global[str]
    requests: Global[int]
    changed: Global[int]
    subjects_changed: Global[int]
    overlap: Global[float]
    shift: Global[float]
    surfaces: Global[dict[str, SurfaceChange]]
    moved_by: Global[dict[str, int]]
    """Items of the pages after, by the rule that moved them."""
    findings: Global[tuple[RuleFinding, ...]]
    examples: Regional[tuple[SlateChange, ...]]
    """At most EXAMPLES_MAX, those that change most first."""
    cut_short: Global[bool]
    """Time ran out before all requests were tried."""


@dataclass(frozen=True, slots=True)
class _Pair:
    request: HomeRequest
    before: tuple[str, ...]
    after: tuple[str, ...]
    rules: tuple[tuple[str, ...], ...]

    @property
    def overlap(self) -> float:
        return len(set(self.before) & set(self.after)) / max(len(self.before), len(self.after), 1)

    @property
    def shift(self) -> float:
        place = {item: index for index, item in enumerate(self.before)}
        moves = [abs(index - place[item]) for index, item in enumerate(self.after) if item in place]
        return float(np.mean(moves)) if moves else 0.0


async def dry_run(
    requests: Sequence[HomeRequest], answer: Answer, proposal: Proposal, *, edition: str,
    findings: tuple[RuleFinding, ...], clock: Clock, time_max_s: float = TIME_MAX_S,
) -> DryRunAnswer:  # fmt: skip
    """Answer `requests` twice, one after the other, and compare their first pages.

    Args:
        requests: at most REQUESTS_MAX of them are tried.
        answer: the slate of a request under a proposal, or under the rules that hold.
        proposal: edition and rules to try.
        edition: the one that holds.
        findings: of the examination of the proposal.
        clock: for the bound on time.
        time_max_s: no further request is begun after so long.
    """
    pairs: list[_Pair] = []
    end_s = clock.monotonic_s() + time_max_s
    tried = requests[-REQUESTS_MAX:]
    for request in tried:
        if clock.monotonic_s() >= end_s:
            break
        before, after = await answer(request, None), (await answer(request, proposal))[: request.n]
        pairs.append(
            _Pair(request, _ids(before[: request.n]), _ids(after), tuple(item.rules for item in after))
        )  # fmt: skip
    return _compared(pairs, edition, proposal[0], findings, cut_short=len(pairs) < len(tried))


def _ids(slate: Sequence[SlateItem]) -> tuple[str, ...]:
    return tuple(item.item for item in slate)


def _compared(
    pairs: list[_Pair], edition: str, proposed: str, findings: tuple[RuleFinding, ...], *, cut_short: bool
) -> DryRunAnswer:
    surfaces: dict[str, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        surfaces[pair.request.surface.value].append(pair)
    changed = sorted((pair for pair in pairs if pair.before != pair.after), key=lambda pair: pair.overlap)
    moved = Counter(rule for pair in pairs for rules in pair.rules for rule in rules)
    whole = _change(pairs)
    return DryRunAnswer(
        edition=edition, proposed=proposed, requests=len(pairs), changed=whole.changed,
        subjects_changed=len({pair.request.subject for pair in changed} - {None}), overlap=whole.overlap,
        shift=whole.shift, surfaces={name: _change(own) for name, own in sorted(surfaces.items())},
        moved_by=dict(moved.most_common(50)), findings=findings,
        examples=tuple(_example(pair) for pair in changed[:EXAMPLES_MAX]), cut_short=cut_short,
    )  # fmt: skip


def _change(pairs: list[_Pair]) -> SurfaceChange:
    if not pairs:
        return SurfaceChange(requests=0, changed=0, overlap=1.0, shift=0.0)
    return SurfaceChange(
        requests=len(pairs),
        changed=sum(pair.before != pair.after for pair in pairs),
        overlap=round(float(np.mean([pair.overlap for pair in pairs])), 4),
        shift=round(float(np.mean([pair.shift for pair in pairs])), 3),
    )


def _example(pair: _Pair) -> SlateChange:
    return SlateChange(
        subject=pair.request.subject or "", type=pair.request.type.value, surface=pair.request.surface.value,
        before=pair.before, after=pair.after, rules=tuple(dict.fromkeys(rule for own in pair.rules for rule in own)),
    )  # fmt: skip
