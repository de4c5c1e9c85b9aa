"""Activating and rolling back: one swap, the one before stays warm, one operator at a time (MISSION D4)."""

import asyncio
import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from infra.contracts.release import LISTS
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import AtollError, ConflictError, NotFoundError
from infra.plumbing.tuf_client.client import ReleaseClient
from region.releases.activation import Activator
from region.releases.audit import AuditLog
from region.releases.following import PAUSE_FIRST_S, PAUSE_MAX_S, Follower, pause_s
from region.releases.messages import AuditEntry
from region.releases.operations import NoActiveReleaseError
from region.releases.state import PinnedError, RegionReleases
from region.releases.store import DiskFullError, ReleaseDamagedError, ReleaseDirectory, ReleaseStore
from tests.support.repositories import StaticServer
from tests.unit.releases.conftest import Central


@dataclass
class Loaded:
    """What the funnel would make of a release."""

    release: str
    warmed: int = 0
    closed: bool = False
    cold: Exception | None = None

    async def warm(self) -> None:
        if self.cold is not None:
            raise self.cold
        self.warmed += 1

    async def close(self) -> None:
        assert not self.closed
        self.closed = True


@dataclass
class World:
    """A region's store and activator over a real repository."""

    store: ReleaseStore
    audit: AuditLog
    clock: ManualClock
    loads: list[Loaded] = field(default_factory=list)
    most_at_once: int = 0
    switched: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    broken: set[str] = field(default_factory=set)
    bursting: set[str] = field(default_factory=set)
    cold: set[str] = field(default_factory=set)
    notify: Callable[[], "asyncio.Future[None]"] | None = None

    async def load(self, directory: ReleaseDirectory) -> Loaded:
        if directory.release_id in self.broken:
            raise AtollError("towers cannot be read.")
        if directory.release_id in self.bursting:
            raise ZeroDivisionError("a fault that nobody thought of")
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        loaded = Loaded(directory.release_id)
        if directory.release_id in self.cold:
            loaded.cold = AtollError("gives NaN.")
        self.loads.append(loaded)
        self.most_at_once = max(self.most_at_once, sum(not one.closed for one in self.loads))
        return loaded

    async def on_switch(self, release: str) -> None:
        if self.notify is not None:
            await self.notify()
        self.switched.append(release)

    def activator(self) -> Activator[Loaded]:
        return Activator(
            store=self.store,
            load=self.load,
            audit=self.audit,
            clock=self.clock,
            on_switch=self.on_switch,
            notify_timeout_s=0.05,
            close_grace_s=5.0,
        )

    def audited(self) -> list[tuple[str, str, str | None, str]]:
        return [(item.operator, item.action, item.to_release, item.outcome) for item in self.entries()]

    def entries(self) -> tuple[AuditEntry, ...]:
        return self.audit.latest(100)


@pytest.fixture
def world(central: Central, client: ReleaseClient, tmp_path: Path) -> World:
    clock = ManualClock()
    store = ReleaseStore(tmp_path / "store", source=client, clock=clock)
    return World(store, AuditLog(tmp_path / "audit.jsonl"), clock)


@pytest.fixture
def releases(central: Central, world: World) -> list[str]:
    """Three pulled releases."""
    found = [central.publish(seed=seed).release for seed in range(3)]
    for release in found:
        world.store.pull(release)
    return found


def in_use(activator: Activator[Loaded]) -> str:
    with activator.lease() as loaded:
        assert not loaded.closed
        return loaded.release


async def test_promote_warms_swaps_tells_and_audits(world: World, releases: list[str]) -> None:
    activator = world.activator()
    assert await activator.start() is None
    with pytest.raises(NoActiveReleaseError), activator.lease():
        pass
    assert activator.current is None
    answer = await activator.promote(releases[0], operator="ada")
    assert (answer.action, answer.from_release, answer.to_release) == ("promote", None, releases[0])
    assert (answer.notified, answer.audited) == (True, True)
    assert in_use(activator) == releases[0]
    assert activator.current is world.loads[0]
    assert (world.loads[0].warmed, world.switched) == (1, [releases[0]])
    assert world.audited() == [("ada", "promote", releases[0], "done")]
    assert world.store.state.active == releases[0]
    await activator.close()
    assert world.loads[0].closed


async def test_roll_back_is_a_swap_with_what_stayed_warm(world: World, releases: list[str]) -> None:
    activator = world.activator()
    for release in releases[:2]:
        await activator.promote(release, operator="ada")
    loads = len(world.loads)
    answer = await activator.roll_back(operator="bob")
    assert (answer.from_release, answer.to_release) == (releases[1], releases[0])
    assert in_use(activator) == releases[0]
    assert len(world.loads) == loads
    await activator.promote(releases[1], operator="ada")
    assert in_use(activator) == releases[1]
    assert len(world.loads) == loads
    assert not any(loaded.closed for loaded in world.loads)
    assert world.switched == [releases[0], releases[1], releases[0], releases[1]]
    await activator.promote(releases[2], operator="ada")
    await asyncio.gather(*activator._retirement._closings)
    assert [loaded.release for loaded in world.loads if loaded.closed] == [releases[0]]
    await activator.close()
    assert all(loaded.closed for loaded in world.loads)


async def test_two_operators_who_roll_back_do_not_bring_the_bad_release_back(world: World, releases: list[str]) -> None:
    activator = world.activator()
    for release in releases[:2]:
        await activator.promote(release, operator="ada")
    first = await activator.roll_back(operator="ada")
    again = await activator.roll_back(operator="bob")
    assert (first.from_release, first.to_release) == (releases[1], releases[0])
    assert (again.from_release, again.to_release) == (releases[0], releases[0])
    assert in_use(activator) == releases[0]
    assert world.store.state.previous == releases[1]
    await activator.promote(releases[2], operator="ada")
    assert (await activator.roll_back(operator="bob")).to_release == releases[0]
    await activator.close()


async def test_a_release_is_closed_only_when_no_request_works_with_it(world: World, releases: list[str]) -> None:
    activator = world.activator()
    await activator.promote(releases[0], operator="ada")
    await activator.promote(releases[1], operator="ada")
    await activator.roll_back(operator="ada")
    with activator.lease() as held:
        await activator.promote(releases[1], operator="ada")
        promoting = asyncio.create_task(activator.promote(releases[2], operator="ada"))
        # Room is made only when the request is done: there are never three.
        while activator._standby.slot is not None:  # noqa: ASYNC110 - the promotion sets no event at this step
            await asyncio.sleep(0)
        assert in_use(activator) == releases[1]
        assert (held.release, held.closed) == (releases[0], False)
    await promoting
    assert held.closed
    assert in_use(activator) == releases[2]
    await activator.close()


async def test_never_more_than_two_releases_are_in_memory(world: World, releases: list[str]) -> None:
    activator = world.activator()
    for release in [*releases, *releases]:
        await activator.promote(release, operator="ada")
    world.broken.add(releases[0])
    with pytest.raises(AtollError, match="towers"):
        await activator.promote(releases[0], operator="ada")
    await activator._standby.ready()
    loads = len(world.loads)
    await activator.roll_back(operator="ada")
    assert (in_use(activator), len(world.loads)) == (releases[1], loads)
    world.broken.clear()
    slot = await activator.load_beside(releases[0], action="canary", operator="ada")
    assert {loaded.release for loaded in world.loads if not loaded.closed} == {releases[0], releases[1]}
    with pytest.raises(ConflictError, match=f"{releases[0]} is being tried"):
        await activator.promote(releases[2], operator="ada")
    activator.retire(slot)
    await activator._standby.ready()
    assert {loaded.release for loaded in world.loads if not loaded.closed} == {releases[1], releases[2]}
    assert world.most_at_once == 2
    await activator.close()


async def test_what_is_tried_stays_on_disk_and_alone(world: World, releases: list[str], central: Central) -> None:
    activator = world.activator()
    for release in (releases[1], releases[2]):
        await activator.promote(release, operator="ada")
    slot = await activator.load_beside(releases[0], action="canary", operator="ada")
    with pytest.raises(ConflictError, match=f"{releases[0]} is being tried"):
        await activator.load_beside(releases[1], action="canary", operator="bob")
    with pytest.raises(ConflictError, match=f"{releases[0]} is being tried"):
        await activator.rehearse(releases[1])
    assert world.most_at_once == 2
    # It is the oldest on disk, and would be the first to go.
    for seed in range(3, 8):
        world.store.pull(central.publish(seed=seed).release)
    await activator.promote(releases[0], operator="region", ready=slot)
    assert world.store.verify(releases[0]).ok
    await activator.close()


async def test_a_roll_back_ends_a_trial_that_takes_its_room(world: World, releases: list[str]) -> None:
    activator = world.activator()
    for release in releases[:2]:
        await activator.promote(release, operator="ada")
    slot = await activator.load_beside(releases[2], action="canary", operator="ada")

    async def end_trial() -> None:
        activator.retire(slot)

    activator.end_trial = end_trial
    await activator.roll_back(operator="ada")
    assert in_use(activator) == releases[0]
    assert world.most_at_once == 2
    await activator.close()


async def test_a_release_is_made_ready_before_it_is_active_and_whichever_way_it_comes(
    world: World, releases: list[str]
) -> None:
    activator, readied = world.activator(), list[tuple[str, str | None]]()

    async def make_ready(loaded: Loaded) -> None:
        readied.append((loaded.release, activator.active_release))

    activator.make_ready = make_ready
    await activator.promote(releases[0], operator="ada")
    await activator.promote(releases[1], operator="ada")
    await activator.roll_back(operator="ada")
    slot = await activator.load_beside(releases[2], action="canary", operator="ada")
    await activator.promote(releases[2], operator="ada", ready=slot)
    assert readied == [
        (releases[0], None), (releases[1], releases[0]), (releases[0], releases[1]), (releases[2], releases[0])
    ]  # fmt: skip
    await activator.close()


async def test_a_request_that_never_ends_does_not_keep_a_release_for_ever(world: World, releases: list[str]) -> None:
    activator = world.activator()
    activator._retirement._grace_s = 0.01
    await activator.promote(releases[0], operator="ada")
    with activator.lease() as held:
        for release in releases[1:]:
            await activator.promote(release, operator="ada")
        await asyncio.gather(*activator._retirement._closings)
        assert held.closed
    await activator.close()


async def test_closing_the_region_closes_what_requests_still_hold(world: World, releases: list[str]) -> None:
    activator = world.activator()
    await activator.promote(releases[0], operator="ada")
    await activator.promote(releases[1], operator="ada")
    with activator.lease() as held:
        await activator.roll_back(operator="ada")
        assert not held.closed
        await activator.close()
        assert held.closed
    assert all(loaded.closed for loaded in world.loads)


async def test_a_release_that_does_not_close_is_logged(
    world: World, releases: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    activator = world.activator()
    await activator.promote(releases[0], operator="ada")
    world.loads[0].closed = True  # so that closing it fails
    for release in releases[1:]:
        await activator.promote(release, operator="ada")
    await asyncio.gather(*activator._retirement._closings)
    assert f"release {releases[0]} could not be closed" in caplog.text
    assert in_use(activator) == releases[2]
    await activator.close()


async def test_two_operators_at_once(world: World, releases: list[str]) -> None:
    activator = world.activator()
    await activator.promote(releases[0], operator="ada")
    world.gate = asyncio.Event()
    world.entered.clear()
    first = asyncio.create_task(activator.promote(releases[1], operator="ada"))
    await world.entered.wait()
    assert activator.in_progress is not None
    world.clock.advance(3.0)
    assert (await activator.status()).in_progress == f"promote {releases[1]}, for 3.0 s"
    for attempt in (
        activator.promote(releases[2], operator="bob"),
        activator.roll_back(operator="bob"),
        activator.set_pinned(pinned=True, operator="bob"),
    ):
        with pytest.raises(ConflictError, match=f"ada is busy here: promote {releases[1]}, for 3.0 s"):
            await attempt
    # Requests are answered all the while.
    assert in_use(activator) == releases[0]
    world.gate.set()
    await first
    assert in_use(activator) == releases[1]
    assert activator.in_progress is None
    assert [item for item in world.audited() if item[0] == "bob"] == [
        ("bob", "promote", releases[2], "refused"),
        ("bob", "rollback", None, "refused"),
        ("bob", "pin", releases[0], "refused"),
    ]
    await activator.close()


async def test_a_caller_that_hangs_up_does_not_stop_a_promotion(world: World, releases: list[str]) -> None:
    activator = world.activator()
    world.gate = asyncio.Event()
    caller = asyncio.create_task(activator.promote(releases[0], operator="ada"))
    await world.entered.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    world.gate.set()
    await asyncio.gather(*activator._tasks)
    assert in_use(activator) == releases[0]
    assert world.store.state.active == releases[0]
    await activator.close()


async def test_what_cannot_be_activated_leaves_the_active_release(
    world: World, releases: list[str], central: Central
) -> None:
    activator = world.activator()
    await activator.promote(releases[0], operator="ada")
    world.broken.add(releases[1])
    world.cold.add(releases[2])
    with pytest.raises(AtollError, match="towers"):
        await activator.promote(releases[1], operator="ada")
    with pytest.raises(AtollError, match="NaN"):
        await activator.promote(releases[2], operator="ada")
    assert world.loads[-1].closed
    with pytest.raises(NotFoundError, match="Pull it first"):
        await activator.promote("0" * 20, operator="ada")
    assert (await activator.promote(releases[0], operator="ada")).to_release == releases[0]  # there already: done
    with pytest.raises(NotFoundError, match="no previous release"):
        await activator.roll_back(operator="ada")
    assert in_use(activator) == releases[0]
    assert [item[3] for item in world.audited()] == ["done", "failed", "failed", "refused", "refused"]
    await activator.close()


async def test_a_release_whose_files_changed_is_not_activated(world: World, releases: list[str]) -> None:
    activator = world.activator()
    await activator.promote(releases[0], operator="ada")
    path = world.store.directory(releases[1]).path / LISTS
    harm(path)
    with pytest.raises(ReleaseDamagedError, match=rf"changed since they were verified: {LISTS}"):
        await activator.promote(releases[1], operator="ada")
    assert in_use(activator) == releases[0]
    world.store.pull(releases[1])
    await activator.promote(releases[1], operator="ada")
    await activator.close()


def harm(path: Path) -> None:
    path.write_bytes(b"!" * path.stat().st_size)


async def test_a_state_that_cannot_be_written_switches_nothing(
    world: World, releases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    activator = world.activator()
    for release in releases[:2]:
        await activator.promote(release, operator="ada")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("region.releases.store.write_atomically", full)
        with pytest.raises(DiskFullError, match="state of the releases"):
            await activator.promote(releases[2], operator="ada")
        told = len(world.switched)
        with pytest.raises(DiskFullError):
            await activator.roll_back(operator="ada")
        assert world.switched[told:] == [releases[0], releases[1]]  # and back again
    assert [loaded.release for loaded in world.loads] == [*releases[:3], releases[0]]
    assert [loaded.closed for loaded in world.loads] == [True, False, True, False]
    assert in_use(activator) == releases[1]
    await activator.roll_back(operator="ada")
    assert in_use(activator) == releases[0]
    await activator.close()


async def test_a_roll_back_is_in_force_and_told_before_a_slow_disk_has_it(
    world: World, releases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    activator = world.activator()
    for release in releases[:2]:
        await activator.promote(release, operator="ada")
    disk, save = threading.Event(), world.store.save_state

    def slow(state: RegionReleases) -> None:
        assert disk.wait(60)
        save(state)

    async def never_ready(_: Loaded) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(world.store, "save_state", slow)
    activator.make_ready = never_ready
    told = asyncio.Event()

    async def heard(release: str) -> None:
        assert release == in_use(activator) == releases[0]
        told.set()

    monkeypatch.setattr(activator._word, "_tell", heard)
    rolling = asyncio.create_task(activator.roll_back(operator="ada"))
    async with asyncio.timeout(60):
        await told.wait()
    assert not rolling.done()
    assert world.store.state.active == releases[1]
    disk.set()
    assert (await rolling).to_release == releases[0]
    assert world.store.state.active == releases[0]
    await activator.close()


async def test_an_audit_that_cannot_be_written_does_not_stop_a_roll_back(
    world: World, releases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    activator = world.activator()
    for release in releases[:2]:
        await activator.promote(release, operator="ada")

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(world.audit, "append", full)
    answer = await activator.roll_back(operator="ada")
    assert (answer.to_release, answer.audited) == (releases[0], False)
    await activator.close()


@pytest.mark.parametrize("how", ["hangs", "fails"])
async def test_edges_that_cannot_be_told_undo_nothing(world: World, releases: list[str], how: str) -> None:
    def notify() -> "asyncio.Future[None]":
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if how == "fails":
            future.set_exception(RuntimeError("grid is down"))
        return future

    world.notify = notify
    activator = world.activator()
    answer = await activator.promote(releases[0], operator="ada")
    assert not answer.notified
    assert in_use(activator) == releases[0]
    assert world.entries()[-1].detail == "edges not told"
    await activator.close()


async def test_after_a_restart_the_same_release_answers_and_the_previous_is_warm(
    world: World, releases: list[str]
) -> None:
    activator = world.activator()
    for release in releases[:2]:
        await activator.promote(release, operator="ada")
    await activator.close()
    again = world.activator()
    assert await again.start() == releases[1]
    await asyncio.gather(*again._tasks)
    loads = len(world.loads)
    status = await again.status()
    assert {item.release for item in status.releases if item.warm} == set(releases[:2])
    assert (status.active, status.previous, status.pinned) == (releases[1], releases[0], False)
    await again.roll_back(operator="ada")
    assert len(world.loads) == loads
    assert in_use(again) == releases[0]
    await again.close()


async def test_after_a_restart_a_release_that_does_not_load_is_passed_over(world: World, releases: list[str]) -> None:
    activator = world.activator()
    for release in releases[:2]:
        await activator.promote(release, operator="ada")
    await activator.close()
    world.broken.add(releases[1])
    again = world.activator()
    assert await again.start() == releases[0]
    await asyncio.gather(*again._tasks)
    assert world.store.state.active == releases[0]
    assert ("region", "start", releases[1], "failed") in world.audited()
    await again.close()
    world.broken.add(releases[0])
    nothing = world.activator()
    assert await nothing.start() is None
    world.broken.clear()
    await nothing.promote(releases[0], operator="ada")
    assert in_use(nothing) == releases[0]
    await nothing.close()


async def test_a_pinned_region_stays(world: World, releases: list[str]) -> None:
    activator = world.activator()
    with pytest.raises(NoActiveReleaseError):
        await activator.set_pinned(pinned=True, operator="ada")
    await activator.promote(releases[0], operator="ada")
    pin = await activator.set_pinned(pinned=True, operator="ada")
    assert (pin.pinned, pin.active) == (True, releases[0])
    with pytest.raises(PinnedError):
        await activator.promote(releases[1], operator="ada")
    assert (await activator.status()).pinned
    await activator.set_pinned(pinned=False, operator="ada")
    await activator.promote(releases[1], operator="ada")
    await activator.close()


async def test_following_a_channel(world: World, central: Central, server: StaticServer) -> None:
    activator = world.activator()
    follower = Follower(store=world.store, activator=activator, channel="stable", clock=world.clock)
    one = central.publish(seed=1).release
    assert await follower.step() == one
    assert await follower.step() is None
    two = central.publish(seed=2).release
    await activator.set_pinned(pinned=True, operator="ada")
    assert await follower.step() is None
    await activator.set_pinned(pinned=False, operator="ada")
    assert await follower.step() == two
    await activator.roll_back(operator="ada")
    assert await follower.step() is None
    assert in_use(activator) == one
    await activator.close()


async def test_following_goes_on_after_failures_and_tells_each_once(
    world: World, central: Central, server: StaticServer
) -> None:
    activator = world.activator()
    follower = Follower(store=world.store, activator=activator, channel="stable", clock=world.clock)
    release = central.publish(seed=1).release
    server.missing.add("timestamp.json")
    stop, looks = asyncio.Event(), 0
    refresh = world.store.recommended

    def counted(channel: str) -> str:
        nonlocal looks
        looks += 1
        if looks == 3:
            server.missing.clear()
        return refresh(channel)

    world.store.recommended = counted  # type: ignore[method-assign]
    running = asyncio.create_task(follower.run(interval_s=0.01, stop=stop))
    async with asyncio.timeout(10):
        while activator.active_release != release:  # noqa: ASYNC110 - the follower has no event for "switched"
            await asyncio.sleep(0.005)
    stop.set()
    await running
    failures = [item for item in world.audited() if item[1] == "follow"]
    assert failures == [("region", "follow", None, "failed")]
    await activator.close()


async def test_an_unexpected_fault_of_a_release_ends_nothing_and_is_tried_again_later(
    world: World, central: Central, server: StaticServer, caplog: pytest.LogCaptureFixture
) -> None:
    activator, failures = world.activator(), list[Exception]()
    follower = Follower(
        store=world.store, activator=activator, channel="stable", clock=world.clock, failed=failures.append
    )
    one = central.publish(seed=1).release
    assert await follower.step() == one
    two = central.publish(seed=2).release
    world.bursting.add(two)
    pauses = [5.0, 10.0, 20.0]
    for number, pause in enumerate(pauses, 1):
        with pytest.raises(ZeroDivisionError):
            await follower.step()
        assert in_use(activator) == one
        loads = len(world.loads)
        world.clock.advance(pause - 0.1)
        assert await follower.step() is None  # left alone
        world.clock.advance(0.1)
        assert len(world.loads) == loads, number
    # Another release is not made to wait for it; nor is it when the fault is gone and its time has come.
    with pytest.raises(ZeroDivisionError):
        await follower.step()
    three = central.publish(seed=3).release
    assert await follower.step() == three
    assert pause_s(1) == PAUSE_FIRST_S
    assert pause_s(1000) == PAUSE_MAX_S
    four = central.publish(seed=4).release
    world.bursting.add(four)
    stop = asyncio.Event()
    running = asyncio.create_task(follower.run(interval_s=0.005, stop=stop))
    async with asyncio.timeout(10):
        while not failures:  # noqa: ASYNC110 - the follower has no event for "failed"
            await asyncio.sleep(0.005)
        world.bursting.clear()
        world.clock.advance(PAUSE_FIRST_S)
        while in_use(activator) != four:  # noqa: ASYNC110 - nor for "switched"
            await asyncio.sleep(0.005)
    stop.set()
    await running
    assert [type(error) for error in failures] == [ZeroDivisionError]
    (noted,) = [record for record in caplog.records if "following stable" in record.message]
    assert "ZeroDivisionError: a fault that nobody thought of" in noted.message
    assert noted.exc_info
    assert [item.detail for item in world.entries() if item.action == "follow"] == [
        "ZeroDivisionError: a fault that nobody thought of"
    ]
    await activator.close()
