"""Decisions about releases: what may be activated, what a roll-back gives, what is deleted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.plumbing.errors import ConflictError, NotFoundError
from region.releases.state import (
    HISTORY_MAX,
    PinnedError,
    RegionReleases,
    check_promotion,
    collectable,
    promoted,
    rolled_back,
    to_follow,
)

NAMES = st.sampled_from("abcdef")
STATES = st.builds(RegionReleases, active=st.none() | NAMES, previous=st.none() | NAMES, pinned=st.booleans())
PULLED = st.dictionaries(NAMES, st.integers(0, 5)).map(lambda found: list(found.items()))


@given(STATES, PULLED, st.integers(2, 6), st.sets(NAMES, max_size=2))
def test_collecting_keeps_what_is_needed_and_the_bound(
    state: RegionReleases, pulled: list[tuple[str, int]], keep: int, held: set[str]
) -> None:
    gone = collectable(state, pulled, keep=keep, held=held)
    needed = {state.active, state.previous, *held}
    names = {name for name, _ in pulled}
    assert not needed & set(gone)
    assert set(gone) <= names
    assert len(set(gone)) == len(gone)
    # At most `keep` stay, or else only what is needed.
    left = names - set(gone)
    assert len(left) <= keep or left <= needed
    # Nothing goes without need, and the oldest go first.
    assert not gone or len(left) == max(keep, len(names & needed))
    ages = dict(pulled)
    assert all(ages[one] <= ages[other] for one in gone for other in left - needed)


@given(STATES, NAMES)
def test_promoting_then_rolling_back_is_where_it_was(state: RegionReleases, release: str) -> None:
    if state.pinned or state.active == release:
        with pytest.raises(ConflictError):
            promoted(state, release, now_ms=1)
        return
    after = promoted(state, release, now_ms=1)
    assert after.active == release
    if state.active is not None:
        back = rolled_back(after, now_ms=2)
        assert (back.active, back.previous) == (state.active, release)
        again = rolled_back(back, now_ms=3)
        assert (again.active, again.previous) == (after.active, after.previous)


def test_a_pinned_region_refuses_promotion_but_not_an_emergency() -> None:
    pinned = RegionReleases(active="b", previous="a", pinned=True)
    with pytest.raises(PinnedError, match="Unpin it first"):
        check_promotion(pinned, "c")
    assert not to_follow(pinned, "c")
    back = rolled_back(pinned, now_ms=1)
    assert (back.active, back.pinned) == ("a", True)


def test_without_a_release_before_there_is_no_roll_back() -> None:
    with pytest.raises(NotFoundError):
        rolled_back(RegionReleases(active="a"), now_ms=1)


def test_following_does_not_undo_a_roll_back() -> None:
    state = promoted(RegionReleases(), "a", now_ms=1)
    assert to_follow(state, "b")
    state = promoted(state, "b", now_ms=2)
    assert not to_follow(state, "b")
    state = rolled_back(state, now_ms=3)
    assert not to_follow(state, "b")
    assert to_follow(state, "c")
    state = promoted(state, "c", now_ms=4)
    assert to_follow(state, "b")


def test_following_does_not_undo_what_an_operator_promoted() -> None:
    followed = promoted(RegionReleases(), "a", now_ms=1, following=True)
    elsewhere = promoted(followed, "b", now_ms=2)
    assert not to_follow(elsewhere, "a")
    assert to_follow(elsewhere, "c")
    onwards = promoted(elsewhere, "c", now_ms=3, following=True)
    # The channel took its word back: that is a new word.
    assert to_follow(onwards, "a")


def test_history_is_bounded() -> None:
    state = RegionReleases()
    for number in range(2 * HISTORY_MAX):
        state = promoted(state, str(number), now_ms=number)
    assert len(state.history) == HISTORY_MAX
    assert state.history[-1].release == str(2 * HISTORY_MAX - 1)
