"""The ladder, climbed: decide, act, note what became of it, decide again."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from edge.answering.parts import Hands, Parts, Served
from edge.cache.entry import Entry
from edge.cache.words import (
    MISS,
    REFUSED,
    RELEASE_LISTS,
    STALE,
    STALE_IF_ERROR,
    forwarded_status,
    hit_status,
    unforwarded_status,
)
from edge.calls import ListQuery
from edge.routing.ladder import Rung, Situation, Try, next_rung
from edge.routing.port import CallFailure, RegionCallError
from infra.contracts.messages import DegradationStep
from infra.plumbing.errors import OverloadedError, UnavailableError

GUARD_S = 0.01
"""What stays of a caller's time for making the page."""
_BECAME = {CallFailure.REFUSED: Try.REFUSED, CallFailure.SHED: Try.SHED}
_ASKING = frozenset({Rung.FILL, Rung.ASK_WITH_VECTOR, Rung.ASK_AWAY})


async def climb(hands: Hands, query: ListQuery, parts: Parts, *, deadline_s: float) -> Served:
    """Take one rung after the other until one answers; `deadline_s` is monotonic.

    Raises:
        UnavailableError: nobody answers and this edge has never seen a release's lists.
    """
    entry, situation = hands.opening()
    refused_before = situation.fill is Try.REFUSED
    got: Served | None = None
    forwarded = False
    while True:
        remaining_s = deadline_s - parts.clock.monotonic_s() - GUARD_S - parts.lag.gone_s
        rung = next_rung(situation, remaining_s=remaining_s)
        if rung in _ASKING:
            timeout_s = parts.shares.of(rung, remaining_s)
            outcome, got = await _attempt(_hand(hands, rung)(timeout_s))
            forwarded = forwarded or outcome is not Try.SHED
            situation = after(situation, rung, outcome)
            if rung is Rung.FILL and entry is not None:
                situation = replace(situation, entry=hands.judge(entry))
        elif got is not None and rung is not Rung.SERVE_STALE:
            return got
        elif entry is not None and rung is not Rung.SERVE_RELEASE:
            # Stale after a failed fill starts no other fill: that would double the calls to a region in trouble.
            now_s = parts.clock.monotonic_s()
            early = rung is Rung.SERVE_FRESH and entry.age_s(now_s) >= entry.life.refresh_from_s
            if early or rung is Rung.SERVE_WHILE_REFRESHING:
                hands.refresh()
            return from_entry(entry, rung, now_s=now_s, forwarded=forwarded)
        else:
            return from_release(query, parts, forwarded=forwarded, refused=refused_before)


def from_entry(entry: Entry, rung: Rung, *, now_s: float, forwarded: bool = False) -> Served:
    """The cached list, fresh or stale; `forwarded`: somebody was asked for a better one."""
    age_s = entry.age_s(now_s)
    fresh = rung is Rung.SERVE_FRESH
    # Of a fresh list in whole seconds, like `Age`: what is said of it changes once a second and not twice. What was
    # overtaken is not fresh, however young it is.
    ttl_s = int(entry.life.fresh_until_s) - int(age_s) if fresh else min(0.0, entry.life.fresh_until_s - age_s)
    detail = STALE_IF_ERROR if rung is Rung.SERVE_STALE else ""
    words = forwarded_status(STALE, ttl_s=ttl_s, detail=detail) if forwarded else hit_status(ttl_s, detail=detail)
    return Served(
        answer=entry.answer, step=DegradationStep.FRESH if fresh else DegradationStep.STALE, entry=entry, age_s=age_s,
        cache=words, fresh_for_s=entry.life.fresh_until_s if fresh else 0.0,
    )  # fmt: skip


def from_release(query: ListQuery, parts: Parts, *, forwarded: bool, refused: bool) -> Served:
    """The release's own list, after somebody was asked in vain or (`refused`) because the region refused it lately.

    Raises:
        UnavailableError: this edge has none.
    """
    lists = parts.lists()
    if lists is None:
        parts.metrics.unanswered.inc()
        raise UnavailableError("this edge has no list yet and no region answers.", fix="Try again in a moment.")
    return Served(
        answer=lists.answer(query, now_ms=parts.clock.now_ms()), step=DegradationStep.RELEASE,
        cache=forwarded_status(MISS, detail=RELEASE_LISTS)
        if forwarded
        else unforwarded_status(REFUSED if refused else RELEASE_LISTS),
    )  # fmt: skip


def _hand(hands: Hands, rung: Rung) -> Callable[[float], Awaitable[Served]]:
    if rung is Rung.FILL:
        return hands.fill
    return hands.ask_with_vector if rung is Rung.ASK_WITH_VECTOR else hands.ask_away


async def _attempt(asking: Awaitable[Served]) -> tuple[Try, Served | None]:
    try:
        return Try.ANSWERED, await asking
    except TimeoutError:
        return Try.LATE, None
    except OverloadedError:
        return Try.SHED, None
    except RegionCallError as error:
        return _BECAME.get(error.failure, Try.FAILED), None


def after(situation: Situation, rung: Rung, outcome: Try) -> Situation:
    """The situation once an asking rung came to an outcome."""
    if rung is Rung.FILL:
        return replace(situation, fill=outcome)
    return replace(situation, vector=outcome) if rung is Rung.ASK_WITH_VECTOR else replace(situation, away=outcome)
