"""From logged pages and the region's log of events to rounds: what was drawn, and whether its subject took it."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from infra.contracts.events import EventType
from region.events.port import Log
from region.exploration.estimating import Round
from region.exploration.exposures import Exposure, Slot
from region.exploration.policy import Arms
from region.privacy.bulk import Touch, untouched
from region.store.port import OffsetEvent

READ_MAX = 1_000
ROUNDS_MAX = 100_000
"""The latest ones are looked at."""
REWARDS = frozenset({EventType.CLICK, EventType.LIKE, EventType.CART, EventType.PURCHASE})
Took = Mapping[tuple[str, str], Sequence[int]]
"""By subject and item, when."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How pages become rounds.

    Args:
        rewards: types of events that count as 1, on the item that was drawn.
        window_ms: how long after the page they count.
        now_ms: pages whose window is not over yet are left out: what comes in early would be rewards only.
        surface: of this surface only; empty: of all.
        only_seen: only draws with an impression of the item within the window.
    """

    rewards: frozenset[EventType] = REWARDS
    window_ms: int
    now_ms: int
    surface: str = ""
    only_seen: bool = False


@dataclass(slots=True)
class Rounds:
    """What was read, and what was left out by reason."""

    rounds: list[Round] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    def leave_out(self, why: str, count: int = 1) -> None:
        """Count what is left out."""
        self.left_out[why] = self.left_out.get(why, 0) + count


async def read_rounds(exposures: Iterable[Exposure], log: Log, reading: Reading, *, touch: Touch = untouched) -> Rounds:
    """The rounds of `exposures`, with what the log says came of them; `touch` is told of every record that is read.

    Raises:
        LogUnavailableError: the log cannot be read.
    """
    found, pages = Rounds(), _chosen(exposures, reading)
    ready = [page for page in pages if page.at_ms + reading.window_ms <= reading.now_ms]
    if len(ready) < len(pages):
        found.leave_out("pages whose window is not over yet", len(pages) - len(ready))
    wanted = {(page.subject, slot.arms[slot.shown]) for page in ready for slot in page.slots}
    took: dict[tuple[str, str], list[int]] = {}
    seen: dict[tuple[str, str], list[int]] = {}
    async for record in _whole(log, touch):
        event, key = record.logged.event, (record.logged.subject, record.logged.event.item)
        if record.broken or key not in wanted:
            continue
        if event.type in reading.rewards:
            took.setdefault(key, []).append(event.at_ms)
        elif event.type is EventType.IMPRESSION:
            seen.setdefault(key, []).append(event.at_ms)
    for page in ready:
        for slot in page.slots:
            if reading.only_seen and not _within(seen, page, slot, reading.window_ms):
                found.leave_out("draws without an impression")
                continue
            found.rounds.append(_round(page, slot, rewarded=_within(took, page, slot, reading.window_ms)))
    if len(found.rounds) > ROUNDS_MAX:
        found.leave_out("older draws beyond the bound", len(found.rounds) - ROUNDS_MAX)
        del found.rounds[:-ROUNDS_MAX]
    return found


def _chosen(exposures: Iterable[Exposure], reading: Reading) -> list[Exposure]:
    """Each page once: the same request asked again drew the same."""
    by_id = {page.exposure: page for page in exposures if not reading.surface or page.surface == reading.surface}
    return sorted(by_id.values(), key=lambda page: page.at_ms)


async def _whole(log: Log, touch: Touch) -> AsyncIterator[OffsetEvent]:
    position = dict.fromkeys(await log.last_offsets(), 0)
    while batch := await log.read(after=position, limit=READ_MAX):
        for record in batch:
            position[record.partition] = max(position[record.partition], record.offset)
            if not record.broken:
                touch("events", record.logged.subject)
            yield record


def _within(took: Took, page: Exposure, slot: Slot, window_ms: int) -> bool:
    moments = took.get((page.subject, slot.arms[slot.shown]), ())
    return any(page.at_ms <= at_ms <= page.at_ms + window_ms for at_ms in moments)


def _round(page: Exposure, slot: Slot, *, rewarded: bool) -> Round:
    return Round(
        exposure=page.exposure,
        position=slot.position,
        subject=page.subject,
        arms=Arms(
            clicks=np.asarray(slot.clicks), impressions=np.asarray(slot.impressions),
            new=np.asarray(slot.new, dtype=np.bool_), prior_rate=page.prior_rate,
        ),
        chances=np.asarray(slot.chances),
        shown=slot.shown,
        reward=float(rewarded),
    )  # fmt: skip
