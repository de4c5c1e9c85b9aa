"""A region as one silo: what its sum is, what stops it, and the way from the region's door to the round's result."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from federation.device.training import LocalSettings, train_round
from federation.gateway.app import ROUND_KEY_FILE, build_app
from federation.gateway.journal import Journal
from federation.gateway.service import Gateway
from federation.messages import Phase, RegionalSum, RoundPlan, from_bytes
from federation.settings import CohortSettings, GatewaySettings, SiloSettings
from federation.silo.service import Silo
from federation.silo.summing import SiloSum, local_history
from infra.contracts.resident import ResidentHistory
from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, UnavailableError
from infra.plumbing.http.middleware import frame
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.telemetry import TelemetrySettings, start_telemetry
from region.api.doors import service_door
from region.api.resident_doors import ResidentDoors
from region.store.memory import MemoryStore
from region.store.port import HistoryEntry, Interactions, UserRow
from tests.support.keeping import NotedReads
from tests.unit.federation.building import ITEMS, fixed_entropy, round_plan, small_release, write_release

COHORT = CohortSettings(count_min=3, noise_multiplier_min=0.1)
LOCAL = LocalSettings(examples_max=20)


def resident(seed: int, *, events: int = 12) -> ResidentHistory:
    rng = np.random.default_rng(seed)
    return ResidentHistory(
        items=(*(f"i{row}" for row in rng.permutation(ITEMS)[:events]), "unknown"),
        strengths=(*rng.integers(1, 6, events).tolist(), 3), times_ms=tuple(range(0, 60_000 * (events + 1), 60_000)),
    )  # fmt: skip


def sum_of(plan: RoundPlan, histories: list[ResidentHistory], **policy: object) -> tuple[SiloSum, RegionalSum]:
    found = SiloSum(
        plan, small_release(), policy=msgspec.structs.replace(COHORT, **policy), local=LOCAL, entropy=fixed_entropy()
    )
    for history in histories:
        found.add(history)
    return found, found.result("us-east")


def test_the_sum_is_that_of_every_users_clipped_update_and_noise() -> None:
    plan, histories = round_plan(noise=1e-6), [resident(seed) for seed in range(6)]
    release = small_release()
    updates = [
        train_round(plan, release, local_history(one, release), rng=np.random.default_rng(0), settings=LOCAL).update
        for one in histories
    ]
    assert all(0.0 < np.linalg.norm(one) <= plan.clipping_norm * (1 + 1e-6) for one in updates)
    _, result = sum_of(plan, histories)
    total = from_bytes(result.total, plan.shape, what="sum")
    assert (result.phase, result.weight, result.noise_multiplier) == (Phase.CLOSED, 6, 1e-6)
    assert np.allclose(total, np.sum(updates, axis=0), atol=1e-4)
    noisy = from_bytes(sum_of(round_plan(noise=5.0), histories)[1].total, plan.shape, what="sum")
    assert np.abs(noisy - total).max() > 0.1


def test_a_user_with_any_history_moves_the_sum_by_the_clipping_norm_at_most() -> None:
    plan = round_plan(noise=1e-6, clipping_norm=0.01)
    without = [resident(seed) for seed in range(5)]
    for extra in (resident(99, events=30), resident(98, events=0), resident(97, events=1)):
        both = [from_bytes(sum_of(plan, of)[1].total, plan.shape, what="sum") for of in (without, [*without, extra])]
        assert np.linalg.norm(both[1].astype(float) - both[0]) <= 0.01 * (1 + 1e-3) + 1e-6


def test_with_sampling_the_count_stays_here_and_coins_choose() -> None:
    found, result = sum_of(round_plan(), [resident(1)] * 400, sampling_probability=0.25, expected_count=70)
    assert (result.weight, result.sampling_probability) == (70, 0.25)
    assert found.asked == 400
    assert 70 < found.taken < 130


def test_below_the_minimum_count_nothing_is_given_away() -> None:
    _, result = sum_of(round_plan(), [resident(1), resident(2)])
    assert (result.phase, result.total) == (Phase.VOID, b"")
    assert "fewer than 3" in result.reason


class _Source:
    """Histories that are given page by page; may wait for ever, or fail."""

    def __init__(self, pages: int = 2, *, stuck: bool = False, fails: bool = False) -> None:
        self.given, self._stuck, self._fails = pages, stuck, fails

    async def pages(self) -> AsyncIterator[tuple[ResidentHistory, ...]]:
        for page in range(self.given):
            yield tuple(resident(10 * page + number) for number in range(3))
        if self._fails:
            raise UnavailableError("the region does not answer.")
        if self._stuck:
            await asyncio.Event().wait()


class _World:
    def __init__(self, directory: Path, source: _Source, **settings: object) -> None:
        write_release(directory / "releases")
        self.directory, self.counts, self.phones_busy = directory, Counter[tuple[str, str]](), False
        bare = SiloSettings(region_url="", releases_directory=str(directory / "releases"), cohort=COHORT)
        self.settings = msgspec.structs.replace(bare, **settings)
        self.silo = self.started(source)

    def started(self, source: _Source) -> Silo:
        return Silo(
            region="us-east", settings=self.settings, source=source, journal=Journal(self.directory / "rounds"),
            busy=lambda: self.phones_busy, clock=ManualClock(), entropy=fixed_entropy(),
            count=lambda what, outcome: self.counts.update([(what, str(outcome))]),
        )  # fmt: skip


async def test_a_round_has_one_result_and_asking_again_gives_the_same(tmp_path: Path) -> None:
    world = _World(tmp_path, _Source())
    plan = round_plan()
    assert world.silo.start(plan).phase is Phase.REPORTING
    with pytest.raises(ConflictError, match="another round"):
        world.silo.start(round_plan(round_id="b" * 16))
    result = await world.silo.ended(plan.round_id, wait_s=20.0)
    assert (result.phase, result.weight) == (Phase.CLOSED, 6)
    assert world.silo.start(plan) == result == world.silo.standing(plan.round_id)
    with pytest.raises(ConflictError, match="another plan"):
        world.silo.start(msgspec.structs.replace(plan, noise_multiplier=2.0))
    with pytest.raises(NotFoundError):
        world.silo.standing("c" * 16)
    await world.silo.close()
    assert world.started(_Source(0)).standing(plan.round_id) == result
    assert world.counts == {("silo-round", "closed"): 1}


@pytest.mark.parametrize(
    ("source", "settings", "reason"),
    [
        (_Source(stuck=True), {"round_s_max": 0.3}, "not all users were reached"),
        (_Source(fails=True), {}, "does not answer"),
        (_Source(pages=4), {"users_max": 7}, "more than 7 users"),
        (_Source(pages=0), {}, "fewer than 3"),
    ],
)  # fmt: skip
async def test_what_makes_a_round_void(tmp_path: Path, source: _Source, settings: dict, reason: str) -> None:
    world = _World(tmp_path, source, **settings)
    world.silo.start(round_plan())
    result = await world.silo.ended("a" * 16, wait_s=20.0)
    assert (result.phase, result.total) == (Phase.VOID, b"")
    assert reason in result.reason
    assert not world.silo.training
    await world.silo.close()


async def test_plans_that_a_silo_does_not_carry_out(tmp_path: Path) -> None:
    world = _World(tmp_path, _Source())
    with pytest.raises(ForbiddenError, match="noise"):
        world.silo.start(round_plan(noise=0.01))
    with pytest.raises(ForbiddenError, match="sampling"):
        world.silo.start(msgspec.structs.replace(round_plan(), sampling_probability=0.5))
    with pytest.raises(InvalidInputError):
        world.silo.start(round_plan(round_id="no"))
    with pytest.raises(ConflictError, match="does not hold"):
        world.silo.start(msgspec.structs.replace(round_plan(), release="f" * 20))
    world.phones_busy = True
    with pytest.raises(ConflictError, match="another round"):
        world.silo.start(round_plan())
    await world.silo.close()


async def test_a_silo_that_was_killed_leaves_a_void_round_and_no_second_noise(tmp_path: Path) -> None:
    world = _World(tmp_path, _Source(stuck=True))
    world.silo.start(round_plan())
    await world.silo.close()
    journal = Journal(tmp_path / "rounds")
    Gateway(
        region="us-east", policy=COHORT, journal=journal, clock=ManualClock(), entropy=fixed_entropy(),
        count=lambda _what, _outcome: None, issuer_public=bytes(32),
    )  # fmt: skip
    again = world.started(_Source())
    assert again.start(round_plan()).phase is Phase.VOID
    await again.close()


async def test_from_the_regions_door_to_the_sum(tmp_path: Path) -> None:
    keys, clock = RegionKeys.generate("us-east"), SystemClock()
    store = MemoryStore(clock=clock)
    rng = np.random.default_rng(3)
    rows = [
        UserRow(
            subject=f"{number:032x}",
            history=Interactions.of(
                HistoryEntry(item=f"i{row}", strength=4, at_ms=60_000 * step)
                for step, row in enumerate(rng.permutation(ITEMS)[:12])
            ),
        )
        for number in range(9)
    ]
    await store.write_rows(rows)
    await store.set_opt_out(rows[0].subject, opted_out=True)
    telemetry = start_telemetry(
        service="gateway", region="us-east", node="g", settings=TelemetrySettings(log_file=str(tmp_path / "log"))
    )
    api, reads = web.Application(), NotedReads()
    api.add_routes(ResidentDoors(store=store, home_only=service_door(keys.service_key), reads=reads).routes())
    write_release(tmp_path / "releases")
    async with TestServer(api) as region:
        silo = SiloSettings(
            region_url=str(region.make_url("")), releases_directory=str(tmp_path / "releases"), cohort=COHORT
        )
        settings = GatewaySettings(
            node="g", region="us-east", port=0, state_directory=str(tmp_path / "state"), keys_file="", trust_file="",
            silo=silo,
        )  # fmt: skip
        app = build_app(
            settings=settings, keys=keys, trust=TrustDirectory.of([keys]), telemetry=telemetry, clock=clock,
            entropy=fixed_entropy(),
        )  # fmt: skip
        async with TestClient(TestServer(app)) as client:
            authority = {"Authorization": f"Bearer {(tmp_path / 'state' / ROUND_KEY_FILE).read_text()}"}
            body = msgspec.json.encode(round_plan())
            assert (await client.post("/silo/v1/rounds", data=body)).status == 401
            assert (await client.post("/silo/v1/rounds", data=body, headers=authority)).status == 202
            elsewhere = msgspec.json.encode(round_plan(round_id="d" * 16))
            assert (await client.post("/v1/rounds", data=elsewhere, headers=authority)).status == 409
            async with client.get(f"/silo/v1/rounds/{'a' * 16}?wait_s=20", headers=authority) as answer:
                result = msgspec.json.decode(await answer.read(), type=RegionalSum)
    telemetry.close()
    assert (result.phase, result.weight) == (Phase.CLOSED, 8)  # nine users, of whom one opted out
    # One read in the account of accesses, before and after, whoever was read.
    assert [(who, action, outcome) for who, action, outcome, _ in reads.noted] == [
        ("service", "walk over histories", "asked"), ("service", "walk over histories", "done")
    ]  # fmt: skip
    assert reads.noted[1][3].startswith("8 histories; whose: ")


async def test_the_regions_door_is_for_its_own_processes_only(tmp_path: Path) -> None:
    telemetry = start_telemetry(
        service="region", region="us-east", node="r", settings=TelemetrySettings(log_file=str(tmp_path / "log"))
    )
    clock = SystemClock()
    api = web.Application(middlewares=[frame(telemetry, clock)])
    api.add_routes(
        ResidentDoors(store=MemoryStore(clock=clock), home_only=service_door("key"), reads=NotedReads()).routes()
    )
    async with TestClient(TestServer(api)) as client:
        statuses = {}
        for name, headers, body in (
            ("nobody", {}, b"{}"), ("stranger", {"Atoll-Service-Key": "x"}, b"{}"),
            ("raw id", {"Atoll-Service-Key": "key"}, b'{"after": "somebody@example.org"}'),
            ("greedy", {"Atoll-Service-Key": "key"}, b'{"page_count": 100000}'),
            ("ours", {"Atoll-Service-Key": "key"}, b"{}"),
        ):  # fmt: skip
            statuses[name] = (await client.post("/v1/resident/histories", data=body, headers=headers)).status
    telemetry.close()
    assert statuses == {"nobody": 401, "stranger": 403, "raw id": 400, "greedy": 400, "ours": 200}
