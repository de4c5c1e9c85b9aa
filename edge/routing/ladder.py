"""The degradation ladder (MISSION B5) as one pure decision: given what is known and tried so far, what is next.

For a list of the caller's own region ("fill" asks grid, home, then its replica)::

    fresh entry -> entry inside stale-while-revalidate (refreshed behind the caller's back) -> fill
      -> stale entry (only because the fill failed or is late) -> another region with the caller's own vector
      -> another region without anything personal -> the release's own lists

For a traveller the same ladder with other hands: "fill" is the sealed relay to the home region, there is no entry,
and "another region" is the one that the edge stands in.

An entry that was overtaken (new version of its subject, another release) is never served before a fill was tried; one
that its subject opted out of is never served. Every call ends after at most five decisions, on a rung that answers.
"""

import enum
from dataclasses import dataclass

from edge.cache.policy import Usability

NETWORK_MIN_S = 0.002
"""With less time than this left, asking anybody would only make the caller wait in vain."""


class Try(enum.Enum):
    """What became of asking somebody."""

    NOT_YET = "not-yet"
    POINTLESS = "pointless"
    """There is nobody to ask, or nothing to ask with."""
    ANSWERED = "answered"
    FAILED = "failed"
    LATE = "late"
    REFUSED = "refused"
    """The region is well and says that it cannot make this list: no other one could."""
    SHED = "shed"
    """Nobody was asked: whoever could answer has enough to do. What one region cannot carry is not passed on to its
    neighbours: only what is kept already may stand in."""


class Rung(enum.Enum):
    """What to do next; the SERVE_ rungs end the call."""

    SERVE_FRESH = "serve-fresh"
    SERVE_WHILE_REFRESHING = "serve-while-refreshing"
    FILL = "fill"
    SERVE_FILLED = "serve-filled"
    SERVE_STALE = "serve-stale"
    ASK_WITH_VECTOR = "ask-with-vector"
    SERVE_VECTOR = "serve-vector"
    ASK_AWAY = "ask-away"
    SERVE_AWAY = "serve-away"
    SERVE_RELEASE = "serve-release"


@dataclass(frozen=True, slots=True)
class Situation:
    """What one call knows at one moment.

    entry: what the cached list is good for; None when there is none.
    enough: whether the cached list is long enough for the page.
    fill, vector, away: what became of asking.
    """

    entry: Usability | None = None
    enough: bool = True
    fill: Try = Try.NOT_YET
    vector: Try = Try.NOT_YET
    away: Try = Try.NOT_YET


@dataclass(frozen=True, slots=True)
class Shares:
    """How much of the time that is left each way of asking may take: something must stay for the rungs below it."""

    fill: float = 0.5
    vector: float = 0.6
    away: float = 0.8

    def of(self, rung: Rung, remaining_s: float) -> float:
        """Seconds for `rung`."""
        share = {Rung.FILL: self.fill, Rung.ASK_WITH_VECTOR: self.vector, Rung.ASK_AWAY: self.away}[rung]
        return share * max(0.0, remaining_s)


def next_rung(situation: Situation, *, remaining_s: float) -> Rung:
    """The next step of one call. Total: every situation has an answer."""
    if situation.fill is Try.ANSWERED:
        return Rung.SERVE_FILLED
    if situation.vector is Try.ANSWERED:
        return Rung.SERVE_VECTOR
    if situation.away is Try.ANSWERED:
        return Rung.SERVE_AWAY
    if situation.enough and situation.entry is Usability.FRESH:
        return Rung.SERVE_FRESH
    if situation.enough and situation.entry is Usability.REVALIDATE:
        return Rung.SERVE_WHILE_REFRESHING
    return _ask_or_fall(situation, in_time=remaining_s >= NETWORK_MIN_S)


def _ask_or_fall(situation: Situation, *, in_time: bool) -> Rung:
    if situation.fill is Try.NOT_YET and in_time:
        return Rung.FILL
    if situation.entry is not None and situation.entry <= Usability.ON_ERROR:
        return Rung.SERVE_STALE
    if situation.fill is Try.REFUSED:
        return Rung.SERVE_RELEASE
    if situation.vector is Try.NOT_YET and situation.fill is not Try.SHED and in_time:
        return Rung.ASK_WITH_VECTOR
    if situation.away is Try.NOT_YET and in_time:
        return Rung.ASK_AWAY
    return Rung.SERVE_RELEASE
