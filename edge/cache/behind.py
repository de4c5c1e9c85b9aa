"""Lists of the release before, kept behind those of the release after: shown at once when the region goes back.

A switch makes every list of a region old at once, and making them anew takes seconds of all its cores. So when a list
of another release takes the place of one in the cache, the one before stays behind it::

    promoted: P -> N      key: list of P    ->  list of N, behind it the list of P
    rolled back: N -> P   key: list of N    ->  list of P, behind it the list of N        (nobody is asked)

What stands behind is judged as any other list (`Ledger.standing`): an event of its subject, a purge or other rules
since it was made overtake it. It counts in the cache's bytes, of which all that stands behind takes a quarter at most
(`l1.SPARE_SHARE`), goes with its key, and is given up when the key is made anew KEPT_BEHIND_S after the switch or
later. Behind a canary's list stands that of the active release in the same way.
Never more than one.
"""

from edge.cache.entry import Entry
from edge.cache.invalidation import Ledger
from edge.cache.policy import Standing
from infra.contracts.messages import TRIAL_ARM

KEPT_BEHIND_S = 600.0


def behind(held: Entry | None, entry: Entry, ledger: Ledger, *, now_s: float) -> Entry | None:
    """What is to stand behind `entry`, which takes the place of `held`: that, what stood behind it, or nothing."""
    for one in (held, held.before if held is not None else None):
        if one is not None and one is not entry and _may_return(one, entry, ledger, now_s=now_s):
            one.before = None
            one.pages.clear()
            return one
    return None


def active_of(entry: Entry, subject: str | None, ledger: Ledger, *, now_s: float) -> Entry:
    """`entry`, or what stands behind it if the region answers from that one's release (again) and it may be shown."""
    before = entry.before
    if before is None or before.answer.release != ledger.release or _is_active(entry, ledger):
        return entry
    if ledger.standing(entry, subject) is Standing.CURRENT:
        return entry  # of a trial that goes on
    holds = ledger.standing(before, subject) is Standing.CURRENT
    return before if holds and before.age_s(now_s) < before.life.revalidate_until_s else entry


def _may_return(one: Entry, entry: Entry, ledger: Ledger, *, now_s: float) -> bool:
    if one.answer.arm == TRIAL_ARM or one.age_s(now_s) >= one.life.revalidate_until_s:
        return False
    if one.answer.release == ledger.release:
        return not _is_active(entry, ledger)  # of a trial, or of a fill that began before the switch
    recent = now_s - ledger.release_since_s < KEPT_BEHIND_S
    return recent and one.answer.release == ledger.release_before and entry.answer.release == ledger.release


def _is_active(entry: Entry, ledger: Ledger) -> bool:
    return entry.answer.release == ledger.release and entry.answer.arm != TRIAL_ARM
