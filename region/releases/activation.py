"""Activating and rolling back a release: one reference swap between two loaded releases.

What happens to requests while a switch is under way::

    promote(N)          |-- verify N --|-- close P --|-- load N, warm N --|-- state.json --|swap|-- tell the edges --|
    requests            A A A A A A A A A A A A A A A A A A A A A A A A A A A A A A A A A A A A|N N N N N N N N N N N
    roll-back target    P P P P P P P P| (P, from disk)                                        |A A A A A A A A A A A

    roll_back()         |-- pages of P, READY_WITHIN_S at most --|swap|-- tell the edges, write state.json --|
    requests            N N N N N N N N N N N N N N N N N N N N N N N N|P P P P P P P P P P P P P P P P P P P

A roll-back to what stands by waits for no disk: a busy one takes a second and more to take a file for good. Its caller
is answered when it is durable; a region that is killed before that comes back with what it was rolled back from.

A request takes `lease()` once and works with that release to its end, so model and index of one answer are of the same
release. A release is closed only when no request holds it any more, or after `close_grace_s`.

Never more than two releases are in memory: the one before (P) makes room before another is loaded, to promote or to
try it, and comes back when that is over without a promotion. A roll-back meanwhile loads it, and ends a trial for that;
ending the trial alone (`region.releases.trials`) takes nothing from disk, as what is active never stopped answering.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar

import msgspec

from infra.plumbing.clock import Clock
from region.releases.audit import AuditLog
from region.releases.beside import Beside
from region.releases.loading import Loader
from region.releases.messages import PinAnswer, ReleasesAnswer, SwitchAnswer, unchanged
from region.releases.operations import REGION_ITSELF, NoActiveReleaseError, Operations
from region.releases.retiring import Retirement
from region.releases.slots import L, Operation, Slot, status_of
from region.releases.standby import Standby
from region.releases.state import RegionReleases, check_promotion, is_rolled_back, promoted, rolled_back
from region.releases.store import ReleaseDirectory, ReleaseStore
from region.releases.word import WORD_TIMEOUT_S, Word

CLOSE_GRACE_S = 10.0
READY_WITHIN_S = 0.1
"""How long a roll-back waits for pages of the release that it goes back to."""
R = TypeVar("R")


class Activator(Generic[L]):
    """Holds the active release and the one before, both loaded. Belongs to one event loop.

    Args:
        store: releases on disk, and the durable state.
        load: makes a release in memory of one on disk.
        audit: where everything done or tried is written.
        clock: for audit and durations.
        on_switch: told the active release after each switch; bounded by `notify_timeout_s`, its failure undoes nothing.
        notify_timeout_s: how long telling may take.
        close_grace_s: how long requests may hold on to a release that is to be closed.
    """

    def __init__(
        self, *, store: ReleaseStore, load: Callable[[ReleaseDirectory], Awaitable[L]], audit: AuditLog, clock: Clock,
        on_switch: Callable[[str], Awaitable[None]], notify_timeout_s: float = WORD_TIMEOUT_S,
        close_grace_s: float = CLOSE_GRACE_S,
    ) -> None:  # fmt: skip
        self._store = store
        self.operations = Operations(audit=audit, clock=clock)
        self._loader: Loader[L] = Loader(
            store=store, load=load, operations=self.operations, serving=lambda: self._active is not None
        )
        self._clock = clock
        self._word = Word(on_switch, timeout_s=notify_timeout_s)
        self._retirement: Retirement[L] = Retirement(grace_s=close_grace_s)
        self._beside: Beside[L] = Beside(store.holding)
        self._standby: Standby[L] = Standby(
            retirement=self._retirement, load=self._loader.load_again, wanted=self._to_stand_by, own=self._own
        )
        self.end_trial: Callable[[], Awaitable[None]] | None = None
        """Ends what is being tried, to make room for a roll-back; set by whoever tries."""
        self.make_ready: Callable[[L], Awaitable[None]] | None = None
        """Has what lists read of a release at hand, just before it is active; set by whoever makes lists."""
        self._active: Slot[L] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def active_release(self) -> str | None:
        """The release that answers now, or None."""
        return self._active.release_id if self._active else None

    @property
    def current(self) -> L | None:
        """The loaded release that answers now. What works with it across an await takes `lease` instead."""
        return self._active.loaded if self._active else None

    @property
    def in_progress(self) -> Operation | None:
        """What is being done right now."""
        return self.operations.current

    @contextlib.contextmanager
    def lease(self) -> Iterator[L]:
        """The active release, which stays open until the block ends, whatever is switched meanwhile.

        Raises:
            NoActiveReleaseError: there is none.
        """
        slot = self._active
        if slot is None:
            raise NoActiveReleaseError("This region runs no release yet.", fix="Pull and promote one.")
        with slot.held() as loaded:
            yield loaded

    async def start(self) -> str | None:
        """Load what `state.json` says is active, or else the one before; then warm the previous one in the background.

        Returns:
            the release that answers now; None if there is none that can be loaded.
        """
        state = self._store.state
        with self.operations.exclusively(REGION_ITSELF, "start", state.active):
            if state.active is not None:
                self._active = await self._loader.try_to_load(state.active, action="start")
            if self._active is None and state.previous is not None:
                self._active = await self._loader.try_to_load(state.previous, action="start")
            if self._active is not None and self._active.release_id != state.active:
                await asyncio.to_thread(self._store.save_state, rolled_back(state, now_ms=self._clock.now_ms()))
        self._standby.come_back()
        return self.active_release

    async def promote(
        self, release: str, *, operator: str, ready: Slot[L] | None = None, following: bool = False
    ) -> SwitchAnswer:
        """Make `release` the active one; nothing to do when it is. Goes on to its end even if the caller is cancelled.

        Args:
            release: which one.
            operator: on whose word.
            ready: the release, loaded already (`load_beside`); it is this one's from now on, and closed on failure.
            following: whether the channel said so; the region does not go to the same word of it again.

        Raises:
            PinnedError, FrozenError: the region is pinned or frozen.
            ConflictError: something else is being done.
            NotFoundError, ReleaseDamagedError: it is not here, or its files changed since they were verified.
            AtollError: it cannot be loaded. In every case the active release goes on.
        """
        return await asyncio.shield(self._own(self._promote(release, operator, ready, following=following)))

    async def rehearse(self, release: str) -> SwitchAnswer:
        """What `promote` would do, without doing it: the same checks, every file hashed, nothing loaded.

        Raises:
            as `promote`, but for what only loading shows.
        """
        started_s = self._clock.monotonic_s()
        if release != self.active_release:
            self._beside.check_free()
            check_promotion(self._store.state, release)
            await self._loader.check(release)
        return SwitchAnswer(
            action="promote", from_release=self.active_release, to_release=release, dry_run=True, notified=False,
            audited=False, took_ms=(self._clock.monotonic_s() - started_s) * 1000,
        )  # fmt: skip

    async def load_beside(self, release: str, *, action: str, operator: str) -> Slot[L]:
        """Verify, load and warm `release` beside the active one, which goes on answering; give it back to `retire`.

        Raises:
            as `promote`.
        """
        before = self.active_release
        async with self.operations.recorded(action, operator, before, release):
            with self.operations.exclusively(operator, action, release), self._store.holding(release):
                if before is None:
                    raise NoActiveReleaseError("There is no active release to compare with.", fix="Promote one first.")
                # Here, where nothing else is done: another trial may have begun since this one was asked for.
                self._beside.check_free()
                check_promotion(self._store.state, release)
                slot = await self._load_in_room(release)
                self._beside.take(slot)
        await self.operations.record(action, operator, before, release, "done", "begun")
        return slot

    def retire(self, slot: Slot[L]) -> None:
        """Close a release that was tried once no request works with it any more; the one before comes back."""
        if slot is self._beside.slot:
            self._beside.clear()
        self._retirement.retire(slot)
        self._standby.come_back()

    async def roll_back(self, *, operator: str) -> SwitchAnswer:
        """Go back to the release before: immediate while it is warm, after loading it otherwise.

        Nothing to do when the latest switch was a roll-back: a second operator, or a call that is sent again, must not
        bring back what was rolled back from. A promotion does.

        Raises:
            NotFoundError: there is no release before.
            ConflictError: something else is being done.
            ReleaseDamagedError, AtollError: it cannot be loaded; the active release goes on.
        """
        return await asyncio.shield(self._own(self._roll_back(operator)))

    async def set_frozen(self, *, frozen: bool, operator: str) -> PinAnswer:
        """Refuse every change but a roll-back (pulls and trials too), or allow changes again.

        Raises:
            ConflictError: something else is being done.
        """
        return await asyncio.shield(self._own(self._mark("freeze" if frozen else "unfreeze", operator, frozen=frozen)))

    async def set_pinned(self, *, pinned: bool, operator: str) -> PinAnswer:
        """Pin the region to what it runs, or let it go.

        Raises:
            ConflictError: something else is being done.
            NoActiveReleaseError: there is nothing to pin to.
        """
        return await asyncio.shield(self._own(self._mark("pin" if pinned else "unpin", operator, pinned=pinned)))

    async def status(self) -> ReleasesAnswer:
        """What is on disk, what is active, what is being done."""
        state = self._store.state
        warm = {slot.release_id for slot in (self._active, self._standby.slot) if slot is not None}
        pulled = await asyncio.to_thread(self._store.pulled)
        now_s = self._clock.monotonic_s()
        return ReleasesAnswer(
            active=self.active_release, previous=state.previous, pinned=state.pinned, frozen=state.frozen,
            releases=tuple(status_of(item, state, self.active_release, warm) for item in pulled),
            in_progress=self.operations.current.describe(now_s) if self.operations.current else "",
        )  # fmt: skip

    async def close(self) -> None:
        """Close everything that is loaded."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for slot in (self._active, self._standby.slot):
            if slot is not None:
                self._retirement.retire(slot)
        self._active = self._standby.slot = None
        await self._retirement.finish()

    async def _promote(self, release: str, operator: str, ready: Slot[L] | None, *, following: bool) -> SwitchAnswer:
        try:
            return await self._switch("promote", operator, release, ready, following=following)
        finally:
            if ready is not None and ready is not self._active:
                self.retire(ready)

    async def _roll_back(self, operator: str) -> SwitchAnswer:
        active = self.active_release
        if active is not None and is_rolled_back(self._store.state):
            return unchanged("rollback", active)
        if self._beside.slot is not None and self._standby.slot is None and self.end_trial is not None:
            await self.end_trial()
        return await self._switch("rollback", operator, self._store.state.previous)

    async def _switch(
        self, action: str, operator: str, release: str | None, ready: Slot[L] | None = None, *, following: bool = False
    ) -> SwitchAnswer:
        started_s, before = self._clock.monotonic_s(), self.active_release
        if action == "promote" and release == before and release is not None:
            return unchanged(action, release)
        async with self.operations.recorded(action, operator, before, release):
            with self.operations.exclusively(operator, action, release), self._store.holding(release or ""):
                state = self._next_state(action, release, following=following)
                slot = await self._standing_by(state.active) if action == "rollback" else None
                if slot is not None:
                    notified = await self._go_back(slot, state)
                else:
                    slot = await self._load_and_commit(state, ready)
                    self._swap(slot)
                    notified = await self._word.tell(slot.release_id)
        audited = await self.operations.record(
            action, operator, before, release, "done", "" if notified else "edges not told"
        )
        return SwitchAnswer(
            action=action, from_release=before, to_release=slot.release_id, notified=notified, audited=audited,
            took_ms=(self._clock.monotonic_s() - started_s) * 1000,
        )  # fmt: skip

    def _next_state(self, action: str, release: str | None, *, following: bool) -> RegionReleases:
        now_ms = self._clock.now_ms()
        if action == "rollback" or release is None:
            return rolled_back(self._store.state, now_ms=now_ms)
        state = self._store.state
        if self._active is None:
            # What could not be loaded at the start may be promoted anew once it was repaired.
            state = msgspec.structs.replace(state, active=None)
        return promoted(state, release, now_ms=now_ms, following=following)

    async def _load_and_commit(self, state: RegionReleases, ready: Slot[L] | None) -> Slot[L]:
        """The slot of what `state` says is active; durable when this returns. On failure all is as it was."""
        release = state.active or ""
        if ready is not None and ready.release_id == release:
            await self._commit(state, ready)
            self._beside.clear()
            return ready
        self._beside.check_free()
        before = await self._standing_by(release)
        if before is not None:
            await self._commit(state, before)
            return before
        slot = await self._load_in_room(release)
        try:
            await self._commit(state, slot)
        except BaseException:
            self.retire(slot)
            raise
        return slot

    async def _standing_by(self, release: str | None) -> Slot[L] | None:
        """`release`, if it is what stands by in memory, or is on its way there."""
        await self._standby.ready()
        slot = self._standby.slot
        return slot if slot is not None and slot.release_id == release else None

    async def _go_back(self, slot: Slot[L], state: RegionReleases) -> bool:
        """Switch to what stands by and tell the edges; durable when this returns. Returns whether they were told.

        Raises:
            DiskFullError, OSError: the state cannot be written; all is as it was, and the edges are told so.
        """
        before = self._active
        await asyncio.wait((self._own(self._have_ready(slot)),), timeout=READY_WITHIN_S)
        self._swap(slot)
        saving = self._own(self._commit(state))
        told = await self._word.tell(slot.release_id)
        try:
            await saving
        except BaseException:
            if before is not None:
                self._swap(before)
                await self._word.tell(before.release_id)
            raise
        return told

    async def _load_in_room(self, release: str) -> Slot[L]:
        """`release`, loaded with at most one other in memory; the one before comes back when that fails.

        Raises:
            as `Loader.check` and `Loader.open`.
        """
        # What is not here or damaged costs nobody a warm release.
        await self._loader.check(release)
        await self._standby.go_away()
        try:
            return await self._loader.open(release)
        except BaseException:
            self._standby.come_back()
            raise

    async def _mark(self, action: str, operator: str, **marks: bool) -> PinAnswer:
        active = self.active_release
        async with self.operations.recorded(action, operator, active, active):
            with self.operations.exclusively(operator, action, active):
                if marks.get("pinned") and active is None:
                    raise NoActiveReleaseError("There is no active release to pin to.", fix="Promote one first.")
                await self._commit(msgspec.structs.replace(self._store.state, **marks))
        await self.operations.record(action, operator, active, active, "done")
        return PinAnswer(pinned=self._store.state.pinned, frozen=self._store.state.frozen, active=active)

    async def _commit(self, state: RegionReleases, slot: Slot[L] | None = None) -> None:
        if slot is not None:
            await self._have_ready(slot)
        await asyncio.to_thread(self._store.save_state, state)

    async def _have_ready(self, slot: Slot[L]) -> None:
        if self.make_ready is not None:
            await self.make_ready(slot.loaded)

    def _swap(self, slot: Slot[L]) -> None:
        """The switch itself: no await, so no request can see half of it."""
        before, self._active = self._active, slot
        self._standby.take(before, unless=slot)

    def _to_stand_by(self) -> str | None:
        """The release before, unless what is being tried takes its room."""
        return self._store.state.previous if self._active is not None and self._beside.slot is None else None

    def _own(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """A task that lives until it is done or this is closed, whoever waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Whoever waited may be gone; what failed stands in the audit.
            task.exception()
