"""The gateway: its decisions, its disk, and its HTTP."""

import asyncio
import io
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer

from federation.gateway.app import ROUND_KEY_FILE, build_app
from federation.gateway.journal import RECORDS_MAX, Journal, JournalError, RoundRecord
from federation.gateway.service import IDLE_COME_BACK_S, Gateway
from federation.messages import (
    TICKET_HEADER,
    CheckIn,
    CheckInAnswer,
    DeviceUpdate,
    Phase,
    RegionalSum,
    RoundPlan,
    from_bytes,
    to_bytes,
)
from federation.privacy.noise import noised_sum
from federation.settings import CohortSettings, GatewaySettings
from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.telemetry import TelemetrySettings, start_telemetry
from infra.plumbing.tokens import issue_token
from tests.unit.federation.building import RELEASE_ID, fixed_entropy, round_plan

POLICY = CohortSettings(count_min=2, goal_count=3, over_selection=2.0, selection_s=2.0, reporting_s=5.0)
READY = CheckIn(releases=(RELEASE_ID,))
ROUND = "a" * 16


class _Gateway:
    """A gateway with its clock, its counts and its folder."""

    def __init__(self, directory: Path, **policy) -> None:
        self.clock = ManualClock()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.directory = directory
        self.policy = msgspec.structs.replace(POLICY, **policy)
        self.entropy = fixed_entropy()
        self.gateway = self.restarted()

    def restarted(self) -> Gateway:
        self.gateway = Gateway(
            region="us-east", policy=self.policy, journal=Journal(self.directory / "rounds"), clock=self.clock,
            entropy=self.entropy, count=lambda what, outcome: self.counts.update([(what, str(outcome))]),
        )  # fmt: skip
        return self.gateway

    def select(self, *subjects: str) -> list[str]:
        return [self.gateway.check_in(subject, READY).ticket for subject in subjects]


@pytest.fixture
def world(tmp_path: Path) -> _Gateway:
    return _Gateway(tmp_path)


def _update(value: float = 0.1, *, shape: tuple[int, int] = (3, 3), round_id: str = ROUND) -> DeviceUpdate:
    return DeviceUpdate(round_id=round_id, shape=shape, delta=to_bytes(np.full(shape, value)))


def test_a_round_gives_the_noised_sum_and_the_count(world: _Gateway) -> None:
    gateway = world.gateway
    assert gateway.start(round_plan()).phase is Phase.SELECTING
    for ticket, value in zip(world.select("a", "b", "c"), (0.1, 0.05, -0.02), strict=True):
        gateway.update(ticket, _update(value))
    result = gateway.standing(ROUND)
    assert (result.phase, result.weight, result.noise_multiplier) == (Phase.CLOSED, 3, 1.0)
    total = from_bytes(result.total, result.shape, what="sum")
    assert not np.allclose(total, 0.13)
    # The noise is the only thing between the sum and what left: draw it again from the same bytes.
    entropy = fixed_entropy()
    for _ in range(6):  # a ticket and a coin for each of three phones
        entropy(1)
    parts = [np.full((3, 3), np.float32(value), dtype=np.float32) for value in (0.1, 0.05, -0.02)]
    exact = np.stack(parts).astype(np.float64).sum(axis=0)
    np.testing.assert_array_equal(total, noised_sum(exact, clipping_norm=0.5, noise_multiplier=1.0, entropy=entropy))


def test_the_result_never_changes_not_even_over_a_restart(world: _Gateway) -> None:
    world.gateway.start(round_plan())
    for ticket in world.select("a", "b", "c"):
        world.gateway.update(ticket, _update())
    first = world.gateway.standing(ROUND)
    assert world.gateway.standing(ROUND) == first
    assert world.restarted().standing(ROUND) == first
    assert world.gateway.start(round_plan()) == first


def test_a_gateway_killed_during_a_round_makes_it_void(world: _Gateway) -> None:
    world.gateway.start(round_plan())
    (ticket,) = world.select("a")
    world.gateway.update(ticket, _update())
    result = world.restarted().standing(ROUND)
    assert (result.phase, result.total) == (Phase.VOID, b"")
    assert "restarted" in result.reason
    assert world.gateway.start(round_plan()) == result
    with pytest.raises(ConflictError, match="over"):
        world.gateway.update(ticket, _update())


def test_too_few_updates_make_a_void_round_without_a_sum(world: _Gateway) -> None:
    world.gateway.start(round_plan())
    (ticket,) = world.select("a")
    world.gateway.update(ticket, _update())
    world.clock.advance(2.0)
    assert world.gateway.tick() is False  # everybody who was selected has reported
    result = world.gateway.standing(ROUND)
    assert (result.phase, result.total, result.weight) == (Phase.VOID, b"", 0)
    assert world.counts[("round", "void")] == 1


def test_time_alone_ends_a_round(world: _Gateway) -> None:
    world.gateway.start(round_plan())
    world.select("a", "b")
    assert world.gateway.next_change_s() == 2.0
    world.clock.advance(2.0)
    assert world.gateway.tick()
    world.clock.advance(5.0)
    assert not world.gateway.tick()
    assert world.gateway.next_change_s() is None


BAD_UPDATES = {
    "wrong shape": _update(shape=(2, 2)),
    "lying shape": DeviceUpdate(round_id=ROUND, shape=(3, 3), delta=bytes(4)),
    "zero shape": DeviceUpdate(round_id=ROUND, shape=(0, 0), delta=b""),
    "not a number": _update(float("nan")),
    "infinite": _update(float("inf")),
    "too long": _update(0.2),
}


@pytest.mark.parametrize("name", BAD_UPDATES)
def test_a_broken_or_oversized_update_is_refused_counted_and_leaves_the_sum_alone(world: _Gateway, name: str) -> None:
    world.gateway.start(round_plan())
    tickets = world.select("a", "b")
    with pytest.raises(InvalidInputError):
        world.gateway.update(tickets[0], BAD_UPDATES[name])
    assert world.counts[("update", "invalid")] == 1
    open_round = world.gateway._open
    assert open_round is not None
    assert open_round.state.accepted == 0
    np.testing.assert_array_equal(open_round.total, np.zeros((3, 3)))
    world.gateway.update(tickets[0], _update())  # the phone may still do it right


def test_duplicate_strange_and_late_updates_are_refused(world: _Gateway) -> None:
    world.gateway.start(round_plan())
    tickets = world.select("a", "b", "c", "d")
    world.gateway.update(tickets[0], _update())
    with pytest.raises(ConflictError, match="reported before"):
        world.gateway.update(tickets[0], _update())
    with pytest.raises(ForbiddenError, match="ticket"):
        world.gateway.update("guessed", _update())
    with pytest.raises(ConflictError, match="over"):
        world.gateway.update(tickets[1], _update(round_id="b" * 16))
    world.gateway.update(tickets[1], _update())
    world.gateway.update(tickets[2], _update())
    with pytest.raises(ConflictError):
        world.gateway.update(tickets[3], _update())
    assert world.gateway.standing(ROUND).weight == 3


def test_a_user_counts_once_in_a_round_whatever_phones_they_have(world: _Gateway) -> None:
    world.gateway.start(round_plan())
    assert world.select("a")[0]
    again = world.gateway.check_in("a", READY)
    assert (again.plan, again.reason) == (None, "already")
    assert again.come_back_s >= IDLE_COME_BACK_S


@pytest.mark.parametrize(
    ("phone", "reason"),
    [
        (CheckIn(releases=()), "other-release"),
        (msgspec.structs.replace(READY, idle=False), "not-eligible"),
        (msgspec.structs.replace(READY, charging=False), "not-eligible"),
        (msgspec.structs.replace(READY, unmetered=False), "not-eligible"),
    ],
)
def test_who_may_not_take_part_is_told_why(world: _Gateway, phone: CheckIn, reason: str) -> None:
    assert world.gateway.check_in("a", READY).reason == "no-round"
    world.gateway.start(round_plan())
    answer = world.gateway.check_in("a", phone)
    assert (answer.plan, answer.reason) == (None, reason)


def test_poisson_sampling_gives_the_fixed_weight_away_and_not_the_count(tmp_path: Path) -> None:
    world = _Gateway(tmp_path, sampling_probability=0.5, expected_count=10)
    world.gateway.start(msgspec.structs.replace(round_plan(), sampling_probability=0.5))
    tickets = [ticket for ticket in world.select(*(f"s{index}" for index in range(40))) if ticket]
    assert 8 <= len(tickets) <= 32
    for ticket in tickets:
        world.gateway.update(ticket, _update(0.01))
    world.clock.advance(2.0)
    result = world.gateway.standing(ROUND)
    assert (result.phase, result.weight, result.sampling_probability) == (Phase.CLOSED, 10, 0.5)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"round_id": "../../etc"}, InvalidInputError),
        ({"rank": 0}, InvalidInputError),
        ({"rank": 9}, InvalidInputError),
        ({"basis": b""}, InvalidInputError),
        ({"core": bytes(8)}, InvalidInputError),
        ({"core": np.full((3, 3), np.nan, "<f4").tobytes()}, InvalidInputError),
        ({"clipping_norm": 0.0}, InvalidInputError),
        ({"clipping_norm": float("inf")}, InvalidInputError),
        ({"local_steps": 10_000}, InvalidInputError),
        ({"noise_multiplier": 0.1}, ForbiddenError),
        ({"sampling_probability": 0.5}, ForbiddenError),
        ({"noise_multiplier": float("inf")}, ForbiddenError),
    ],
)
def test_a_plan_that_is_not_sound_is_refused(world: _Gateway, changes, error) -> None:
    with pytest.raises(error):
        world.gateway.start(msgspec.structs.replace(round_plan(), **changes))
    assert not world.gateway.tick()


def test_one_round_at_a_time_and_an_id_means_one_plan(world: _Gateway) -> None:
    world.gateway.start(round_plan())
    assert world.gateway.start(round_plan()).phase is Phase.SELECTING
    with pytest.raises(ConflictError, match="another plan"):
        world.gateway.start(round_plan(clipping_norm=0.7))
    with pytest.raises(ConflictError, match="another round"):
        world.gateway.start(round_plan(round_id="b" * 16))
    for unknown in ("c" * 16, "not an id"):
        with pytest.raises(NotFoundError):
            world.gateway.standing(unknown)


def test_the_journal_is_bounded_and_says_when_a_record_is_damaged(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for index in range(RECORDS_MAX + 5):
        journal.write(RoundRecord(round_id=f"{index:016x}", region="r", opened_ms=0, plan_digest=""))
    assert len(list(tmp_path.glob("*.json"))) == RECORDS_MAX
    (tmp_path / f"{'d' * 16}.json").write_bytes(b"{")
    with pytest.raises(JournalError, match="cannot be read"):
        journal.read("d" * 16)
    with pytest.raises(JournalError, match="not a round id"):
        journal.read("../secrets")


# --- HTTP


class _Served:
    def __init__(self, client: TestClient, keys: RegionKeys, round_key: str) -> None:
        self.client = client
        self.keys = keys
        self.authority = {"Authorization": f"Bearer {round_key}"}

    def token(self, user: str, keys: RegionKeys | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {issue_token(keys or self.keys, user, clock=SystemClock())}"}

    async def check_in(self, user: str) -> CheckInAnswer:
        body = msgspec.json.encode(READY)
        async with self.client.post("/v1/device/check-in", data=body, headers=self.token(user)) as answer:
            assert answer.status == 200
            return msgspec.json.decode(await answer.read(), type=CheckInAnswer)

    async def send(self, ticket: str, body: bytes) -> int:
        async with self.client.post(
            "/v1/device/update", data=io.BytesIO(body), headers={TICKET_HEADER: ticket}
        ) as answer:
            return answer.status

    async def start(self, plan: RoundPlan) -> int:
        body = msgspec.json.encode(plan)
        async with self.client.post("/v1/rounds", data=body, headers=self.authority) as answer:
            return answer.status

    async def standing(self, wait_s: str = "0") -> RegionalSum:
        async with self.client.get(f"/v1/rounds/{ROUND}?wait_s={wait_s}", headers=self.authority) as answer:
            assert answer.status == 200
            return msgspec.json.decode(await answer.read(), type=RegionalSum)


@pytest.fixture
async def served(tmp_path: Path):
    keys, other = RegionKeys.generate("us-east"), RegionKeys.generate("us-west")
    cohort = msgspec.structs.replace(POLICY, selection_s=0.2, reporting_s=0.3)
    settings = GatewaySettings(
        node="g", region="us-east", port=0, state_directory=str(tmp_path / "state"), keys_file="", trust_file="",
        cohort=cohort,
    )  # fmt: skip
    telemetry = start_telemetry(
        service="gateway", region="us-east", node="g", settings=TelemetrySettings(log_file=str(tmp_path / "log"))
    )
    app = build_app(
        settings=settings, keys=keys, trust=TrustDirectory.of([keys, other]), telemetry=telemetry,
        clock=SystemClock(), entropy=fixed_entropy(),
    )  # fmt: skip
    key_file = tmp_path / "state" / ROUND_KEY_FILE
    assert key_file.stat().st_mode & 0o077 == 0
    async with TestClient(TestServer(app)) as client:
        found = _Served(client, keys, key_file.read_text())
        found.other = other  # type: ignore[attr-defined]
        yield found
    telemetry.close()


async def test_a_round_over_http(served: _Served) -> None:
    assert (await served.check_in("u1")).reason == "no-round"
    assert await served.start(round_plan()) == 202
    tickets = [(await served.check_in(user)).ticket for user in ("u1", "u2", "u3")]
    waiting = asyncio.create_task(served.standing("10"))
    for ticket in tickets:
        assert await served.send(ticket, msgspec.json.encode(_update())) == 200
    result = await waiting
    assert (result.phase, result.weight) == (Phase.CLOSED, 3)
    assert await served.send(tickets[0], msgspec.json.encode(_update())) == 409


async def test_a_round_that_nobody_joins_is_void_by_time_alone(served: _Served) -> None:
    assert await served.start(round_plan()) == 202
    assert (await served.standing("0")).phase is Phase.SELECTING
    assert (await served.standing("10")).phase is Phase.VOID


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"\xff\xfe", 400),
        (b'{"round_id": 1}', 400),
        (msgspec.json.encode(BAD_UPDATES["not a number"]), 400),
        (msgspec.json.encode(BAD_UPDATES["wrong shape"]), 400),
        (msgspec.json.encode(BAD_UPDATES["too long"]), 400),
        (b" " * (3 << 20), 413),
    ],
)
async def test_bad_bodies_get_a_clear_answer(served: _Served, body: bytes, status: int) -> None:
    await served.start(round_plan())
    ticket = (await served.check_in("u1")).ticket
    assert await served.send(ticket, body) == status
    assert await served.send("stranger", msgspec.json.encode(_update())) == 403


async def test_who_is_not_let_in(served: _Served) -> None:
    body = msgspec.json.encode(READY)
    foreign = served.token("u1", served.other)  # type: ignore[attr-defined]
    for headers, status in (({}, 401), ({"Authorization": "Bearer x"}, 401), (foreign, 403)):
        async with served.client.post("/v1/device/check-in", data=body, headers=headers) as answer:
            assert answer.status == status
    plan = msgspec.json.encode(round_plan())
    for headers in ({}, served.token("u1"), {"Authorization": "Basic x"}):
        async with served.client.post("/v1/rounds", data=plan, headers=headers) as answer:
            assert answer.status == 401
    for wait in ("nan", "-1", "31", "x"):
        async with served.client.get(f"/v1/rounds/{ROUND}?wait_s={wait}", headers=served.authority) as answer:
            assert answer.status == 400
    async with served.client.get(f"/v1/rounds/{ROUND}", headers=served.authority) as answer:
        assert answer.status == 404


async def test_health_and_metrics_say_no_names(served: _Served) -> None:
    await served.check_in("somebody")
    async with served.client.get("/health/ready") as answer:
        assert answer.status == 200
    async with served.client.get("/metrics") as answer:
        text = await answer.text()
    assert 'atoll_federation_outcomes_total{outcome="no-round",what="check-in"} 1.0' in text
    assert "somebody" not in text
