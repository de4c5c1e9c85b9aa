"""Which release a region runs, and the decisions about it: pure functions of the state."""

from collections.abc import Iterable, Set

import msgspec

from infra.contracts.residency import Global, GlobalMessage
from infra.plumbing.errors import ConflictError, NotFoundError

HISTORY_MAX = 32


class Activation(GlobalMessage, frozen=True, kw_only=True):
    """One switch of the active release."""

    at_ms: Global[int]
    action: Global[str]
    release: Global[str]


class RegionReleases(GlobalMessage, frozen=True, kw_only=True):
    """What `state.json` holds.

    It is written before the switch that it describes; that of a roll-back to what stands by while edges hear of it.
    """

    active: Global[str | None] = None
    previous: Global[str | None] = None
    pinned: Global[bool] = False
    frozen: Global[bool] = False
    followed: Global[str | None] = None
    """The release that the region went to last because its channel said so."""
    history: Global[tuple[Activation, ...]] = ()
    """The latest HISTORY_MAX switches, oldest first."""


class PinnedError(ConflictError):
    """The region is pinned to the release that it runs."""


class FrozenError(ConflictError):
    """The region takes no change but a roll-back until it is unfrozen."""


def promoted(state: RegionReleases, release: str, *, now_ms: int, following: bool = False) -> RegionReleases:
    """The state after `release` was activated, by somebody's word or, `following`, by the channel's.

    Raises:
        PinnedError, ConflictError: as `check_promotion`.
    """
    check_promotion(state, release)
    after = _switched(state, release, action="promote", now_ms=now_ms)
    return msgspec.structs.replace(after, followed=release) if following else after


def rolled_back(state: RegionReleases, *, now_ms: int) -> RegionReleases:
    """The state after active and previous changed places. A pin does not prevent it: rolling back is for emergencies.

    Raises:
        NotFoundError: there is no previous release.
    """
    if state.previous is None:
        raise NotFoundError("There is no previous release to roll back to.", fix="Promote another release instead.")
    return _switched(state, state.previous, action="rollback", now_ms=now_ms)


def is_rolled_back(state: RegionReleases) -> bool:
    """Whether the latest switch was a roll-back, so that another would undo it."""
    return bool(state.history) and state.history[-1].action == "rollback"


def check_promotion(state: RegionReleases, release: str) -> None:
    """Whether `release` may be activated now.

    Raises:
        FrozenError: the region is frozen.
        PinnedError: the region is pinned.
        ConflictError: it is active already.
    """
    check_not_frozen(state)
    if state.pinned:
        raise PinnedError(
            f"This region is pinned to release {state.active}; {release} was not promoted.", fix="Unpin it first."
        )
    if state.active == release:
        raise ConflictError(f"Release {release} is active already.")


def check_not_frozen(state: RegionReleases) -> None:
    """Whether anything but a roll-back may be done.

    Raises:
        FrozenError: it may not.
    """
    if state.frozen:
        raise FrozenError("This region is frozen: nothing was changed.", fix="Unfreeze it first; rolling back works.")


def to_follow(state: RegionReleases, recommended: str) -> bool:
    """Whether a region that follows a channel should go to what the channel recommends.

    It goes to each recommendation once: whoever took it elsewhere since (an operator, a trial) meant to, and the next
    word of the channel is awaited. Nor does it go back by itself to a release that was just rolled back from: that is
    what `previous` then holds, with a roll-back as the latest switch.
    """
    rolled_away = is_rolled_back(state) and state.previous == recommended
    settled = recommended in {state.active, state.followed} and state.active is not None
    return not (state.pinned or state.frozen or settled or rolled_away)


def collectable(
    state: RegionReleases, pulled: Iterable[tuple[str, int]], *, keep: int, held: Set[str]
) -> tuple[str, ...]:
    """Which releases to delete, oldest pull first, so that at most `keep` stay.

    Args:
        state: never its active or previous release.
        pulled: (release, when it was pulled) of what is on disk.
        keep: how many may stay; more do if they are all needed.
        held: releases that somebody is loading or verifying right now.
    """
    by_age = sorted(pulled, key=lambda item: (item[1], item[0]))
    needed = {state.active, state.previous, *held}
    free = [release for release, _ in by_age if release not in needed]
    return tuple(free[: max(0, len(by_age) - keep)])


def _switched(state: RegionReleases, release: str, *, action: str, now_ms: int) -> RegionReleases:
    entry = Activation(at_ms=now_ms, action=action, release=release)
    return msgspec.structs.replace(
        state,
        active=release,
        previous=state.active if state.active is not None else state.previous,
        history=(*state.history, entry)[-HISTORY_MAX:],
    )
