"""The gateway: its decisions, its disk, and its HTTP."""

import asyncio
import base64
import io
from collections import Counter
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer

from federation.device.rounds import DeviceRound
from federation.device.training import LocalTraining
from federation.gateway.app import ROUND_KEY_FILE, build_app
from federation.gateway.callers import Callers
from federation.gateway.journal import RECORDS_MAX, Journal, JournalError, RoundRecord
from federation.gateway.service import IDLE_COME_BACK_S, Gateway
from federation.messages import (
    TICKET_HEADER,
    CheckIn,
    CheckInAnswer,
    Phase,
    RegionalSum,
    RoundPlan,
    from_bytes,
)
from federation.privacy.noise import noised_sum
from federation.rounds.aggregate import judged
from federation.secure_aggregation.messages import Mailbox, MaskedUpdate, Signatures, Survivors
from federation.secure_aggregation.ring import STEPS, from_ring, to_ring, to_wire
from federation.settings import CohortSettings, GatewaySettings
from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, UnauthorizedError
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.telemetry import TelemetrySettings, start_telemetry
from infra.plumbing.tokens import issue_token
from tests.unit.federation.building import RELEASE_ID, fixed_entropy, round_plan
from tests.unit.federation.secure import Certified

POLICY = CohortSettings(
    count_min=3, goal_count=4, over_selection=1.5, selection_s=2.0, sharing_s=2.0, reporting_s=5.0, unmasking_s=2.0
)
ROUND = "a" * 16
A = TypeVar("A", bound=msgspec.Struct)


class _Gateway:
    """A gateway with its clock, its counts, its folder and the devices that talk to it."""

    def __init__(self, directory: Path, **policy) -> None:
        self.clock = ManualClock()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.directory = directory
        self.policy = msgspec.structs.replace(POLICY, **policy)
        self.entropy = fixed_entropy()
        self.keys = RegionKeys.generate("us-east")
        self.devices = Certified(self.keys, now_ms=self.clock.now_ms())
        self.rounds: dict[str, DeviceRound] = {}
        self.gateway = self.restarted()

    def restarted(self) -> Gateway:
        self.gateway = Gateway(
            region="us-east", policy=self.policy, journal=Journal(self.directory / "rounds"), clock=self.clock,
            entropy=self.entropy, count=lambda what, outcome: self.counts.update([(what, str(outcome))]),
            issuer_public=self.devices.trust.issuer_public,
        )  # fmt: skip
        return self.gateway

    def ready(self) -> CheckIn:
        session = self.gateway.check_in("nobody", CheckIn(releases=(RELEASE_ID,))).session
        device = self.devices.round(session)
        self.rounds[device.advert.mask_key.hex()] = device
        return CheckIn(releases=(RELEASE_ID,), session=session, advert=device.advert)

    def select(self, *subjects: str) -> dict[str, DeviceRound]:
        """Devices by ticket, of the subjects that were selected."""
        found = {}
        for subject in subjects:
            asking = self.ready()
            ticket = self.gateway.check_in(subject, asking).ticket
            if ticket and asking.advert is not None:
                found[ticket] = self.rounds[asking.advert.mask_key.hex()]
        return found

    def share(self, devices: dict[str, DeviceRound]) -> None:
        if self.gateway.phase() is Phase.SELECTING:
            self.clock.advance(self.policy.selection_s)
        for ticket, device in devices.items():
            placed = self.gateway.place(ticket)
            assert placed is not None
            assert placed.roster is not None
            self.gateway.shares(ticket, device.shares(placed.roster))

    def report(self, devices: dict[str, DeviceRound], values: dict[str, float]) -> None:
        for ticket, value in values.items():
            mailbox = self.gateway.mailbox(ticket)
            assert mailbox is not None
            devices[ticket].receive(mailbox)
            self.gateway.update(ticket, devices[ticket].masked(round_plan(), _trained(value)))

    def unmask(self, devices: dict[str, DeviceRound]) -> None:
        for ticket, device in devices.items():
            survivors = self.gateway.survivors(ticket)
            assert survivors is not None
            self.gateway.sign(ticket, device.signature(survivors))
        if self.gateway.phase() is Phase.CHECKING:
            self.clock.advance(self.policy.unmasking_s)
        for ticket, device in devices.items():
            try:
                signatures = self.gateway.signatures(ticket)
                assert signatures is not None
                self.gateway.unmask(ticket, device.unmasking(signatures))
            except ConflictError:
                assert self.gateway.phase() is None  # the others' shares were enough

    def whole_round(self, values: dict[str, float]) -> RegionalSum:
        self.gateway.start(round_plan())
        devices = self.select(*values)
        self.share(devices)
        self.report(devices, dict(zip(devices, values.values(), strict=True)))
        if self.gateway.phase() is Phase.REPORTING:
            self.clock.advance(self.policy.reporting_s)
        self.unmask(devices)
        return self.gateway.standing(ROUND)


@pytest.fixture
def world(tmp_path: Path) -> _Gateway:
    return _Gateway(tmp_path)


def _trained(value: float = 0.1) -> LocalTraining:
    return LocalTraining(np.full((3, 3), value, dtype=np.float32), 10, 1.0, 0.5, clipped=False)


def _in_ring(*values: float) -> np.ndarray:
    total = sum(to_ring(np.full((3, 3), np.float32(value)), clipping_norm=0.5).astype(np.uint64) for value in values)
    return from_ring((np.asarray(total) % 2**32).astype(np.uint32), clipping_norm=0.5)


def test_a_round_gives_the_noised_sum_and_the_count(world: _Gateway) -> None:
    drawn: list[bytes] = []
    plain = world.entropy

    def noted(count: int) -> bytes:
        drawn.append(plain(count))
        return drawn[-1]

    world.entropy = noted
    world.restarted()
    result = world.whole_round({"a": 0.1, "b": 0.05, "c": -0.02})
    assert (result.phase, result.weight, result.noise_multiplier) == (Phase.CLOSED, 3, 1.0)
    total = from_bytes(result.total, result.shape, what="sum")
    assert not np.allclose(total, 0.13)
    # The noise is the only thing between the sum and what left: draw it again from the same bytes.
    (key,) = (bytes_ for bytes_ in drawn[-2:] if len(bytes_) == 32)
    exact = noised_sum(_in_ring(0.1, 0.05, -0.02), clipping_norm=0.5, noise_multiplier=1.0, entropy=lambda _: key)
    np.testing.assert_array_equal(total, exact)


def test_a_phone_that_drops_out_after_sharing_leaves_the_others_sum_exact(tmp_path: Path) -> None:
    world = _Gateway(tmp_path)
    world.gateway.start(round_plan())
    devices = world.select("a", "b", "c", "d", "e", "f")
    world.share(devices)
    tickets = list(devices)
    world.report(devices, dict.fromkeys(tickets[:4], 0.1))
    secure = world.gateway._open.cohorts.sum_of(tickets[0])  # type: ignore[union-attr]
    world.unmask({ticket: devices[ticket] for ticket in tickets[:4]})
    assert world.gateway.standing(ROUND).weight == 4
    np.testing.assert_array_equal(
        from_ring(secure.total(), clipping_norm=0.5).reshape(3, 3), _in_ring(0.1, 0.1, 0.1, 0.1)
    )  # fmt: skip


def test_too_few_shares_void_the_round_and_it_is_said(world: _Gateway) -> None:
    world.gateway.start(round_plan())
    devices = world.select("a", "b", "c", "d")
    world.share(devices)
    world.report(devices, dict.fromkeys(devices, 0.1))
    for ticket, device in devices.items():
        survivors = world.gateway.survivors(ticket)
        assert survivors is not None
        world.gateway.sign(ticket, device.signature(survivors))
    world.clock.advance(world.policy.unmasking_s)
    result = world.gateway.standing(ROUND)
    assert (result.phase, result.total) == (Phase.VOID, b"")
    assert "threshold" in result.reason


def test_a_phone_beyond_its_norm_voids_its_cohort_and_only_that(tmp_path: Path) -> None:
    world = _Gateway(tmp_path, goal_count=8, cohorts=2)
    result = _cheated(world, cheats_in=(0,))
    assert (result.phase, result.weight) == (Phase.CLOSED, 4)
    assert "norm" in result.reason
    assert world.counts[("cohort", "a phone in it sent more than the clipping norm")] == 1


def test_with_most_cohorts_lost_the_round_is_void(tmp_path: Path) -> None:
    world = _Gateway(tmp_path, goal_count=12, cohorts=3)
    result = _cheated(world, cheats_in=(0, 2))
    assert (result.phase, result.weight, result.cohorts) == (Phase.VOID, 0, ())
    assert "fewer than half of the cohorts" in result.reason
    assert "norm" in result.reason


def _cheated(world: _Gateway, *, cheats_in: tuple[int, ...]) -> RegionalSum:
    """A round of as many phones as are wanted, one of each of these cohorts far beyond its norm."""
    plan = round_plan()
    world.gateway.start(plan)
    devices = world.select(*(f"s{index}" for index in range(world.policy.goal_count)))
    world.share(devices)
    cohorts = world.gateway._open.cohorts if world.gateway._open else None
    assert cohorts is not None
    cheats = {
        next(ticket for ticket in devices if cohorts.sum_of(ticket) is cohorts._sums[which]) for which in cheats_in
    }
    for ticket, device in devices.items():
        mailbox = world.gateway.mailbox(ticket)
        assert mailbox is not None
        device.receive(mailbox)
        values = np.full(9, 1000 * STEPS if ticket in cheats else 5, dtype=np.uint32)
        masked = device._client.mask(values, mailbox, task=plan.digest())
        world.gateway.update(ticket, MaskedUpdate(round_id=ROUND, masked=to_wire(masked)))
    world.unmask(devices)
    return world.gateway.standing(ROUND)


def test_cohorts_are_kept_apart_for_central_to_trim(tmp_path: Path) -> None:
    world = _Gateway(tmp_path, goal_count=9, cohorts=3)
    result = world.whole_round({f"s{index}": 0.01 for index in range(9)})
    assert (result.phase, result.weight, result.total) == (Phase.CLOSED, 9, b"")
    assert [one.weight for one in result.cohorts] == [3, 3, 3]
    assert [one.weight for one in judged([result], round_plan(), regions=("us-east",)).sums] == [3, 3, 3]


def test_the_gateway_never_holds_one_phones_update(world: _Gateway) -> None:
    """Every object that hangs on the gateway, and every file it wrote, at every step of a round."""
    values = {"a": 0.1, "b": 0.05, "c": -0.02, "d": 0.15}
    needles = set()
    for value in values.values():
        update = np.full((3, 3), value, dtype=np.float32)
        for raw in (update.tobytes(), update.astype(np.float64).tobytes(), to_wire(to_ring(update, clipping_norm=0.5))):
            needles |= {raw, base64.b64encode(raw)[:-3], raw.hex().encode()}

    def search() -> None:
        held = _everything(world.gateway) + b"".join(path.read_bytes() for path in world.directory.rglob("*.json"))
        assert not [needle for needle in needles if needle in held]

    planted = to_wire(to_ring(np.full((3, 3), 0.1, dtype=np.float32), clipping_norm=0.5))
    world.gateway.planted = {"deep": [planted]}  # type: ignore[attr-defined]
    with pytest.raises(AssertionError):
        search()
    del world.gateway.planted  # type: ignore[attr-defined]
    world.gateway.start(round_plan())
    devices = world.select(*values)
    world.share(devices)
    for ticket, value in zip(devices, values.values(), strict=True):
        world.report(devices, {ticket: value})
        search()
    world.unmask(devices)
    search()
    assert world.gateway.standing(ROUND).phase is Phase.CLOSED


def _everything(root: object) -> bytes:
    """The bytes of everything that can be reached from `root`."""
    found, seen, todo = [], set(), [root]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type) or callable(one):
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            found.append(one.tobytes())
        elif isinstance(one, bytes):
            found.append(one)
        elif isinstance(one, str | int | float):
            found.append(str(one).encode())
        elif isinstance(one, dict):
            todo += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            todo += list(one)
        else:
            todo += [getattr(one, name) for name in _fields(one)]
    return b"\0".join(found)


def _fields(one: object) -> list[str]:
    slots = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
    names = [*getattr(one, "__struct_fields__", ()), *slots, *getattr(one, "__dict__", {})]
    return [name for name in names if hasattr(one, name)]


def test_the_result_never_changes_not_even_over_a_restart(world: _Gateway) -> None:
    first = world.whole_round({"a": 0.1, "b": 0.1, "c": 0.1})
    assert first.phase is Phase.CLOSED
    assert world.gateway.standing(ROUND) == first
    assert world.restarted().standing(ROUND) == first
    assert world.gateway.start(round_plan()) == first


def test_a_gateway_killed_during_a_round_makes_it_void(world: _Gateway) -> None:
    world.gateway.start(round_plan())
    devices = world.select("a", "b", "c")
    world.share(devices)
    world.report(devices, {next(iter(devices)): 0.1})
    result = world.restarted().standing(ROUND)
    assert (result.phase, result.total) == (Phase.VOID, b"")
    assert "restarted" in result.reason
    assert world.gateway.start(round_plan()) == result
    with pytest.raises(ConflictError, match="over"):
        world.gateway.update(next(iter(devices)), MaskedUpdate(round_id=ROUND, masked=bytes(36)))


def test_too_few_updates_make_a_void_round_without_a_sum(world: _Gateway) -> None:
    world.gateway.start(round_plan())
    devices = world.select("a", "b", "c")
    world.share(devices)
    world.report(devices, {next(iter(devices)): 0.1})
    world.clock.advance(world.policy.reporting_s)
    assert world.gateway.tick() is False
    result = world.gateway.standing(ROUND)
    assert (result.phase, result.total, result.weight) == (Phase.VOID, b"", 0)
    assert world.counts[("round", "void")] == 1


def test_time_alone_ends_a_round(world: _Gateway) -> None:
    world.gateway.start(round_plan())
    world.select("a", "b", "c")
    assert world.gateway.next_change_s() == 2.0
    world.clock.advance(2.0)
    assert world.gateway.tick()
    world.clock.advance(2.0)
    assert not world.gateway.tick()
    assert world.gateway.next_change_s() is None


@pytest.mark.parametrize("body", [b"", bytes(4), bytes(35), bytes(40)])
def test_a_broken_update_is_refused_counted_and_leaves_the_sum_alone(world: _Gateway, body: bytes) -> None:
    world.gateway.start(round_plan())
    devices = world.select("a", "b", "c")
    world.share(devices)
    first = next(iter(devices))
    with pytest.raises(InvalidInputError):
        world.gateway.update(first, MaskedUpdate(round_id=ROUND, masked=body))
    assert world.counts[("reporting", "invalid")] == 1
    world.report(devices, dict.fromkeys(devices, 0.1))  # the phone may still do it right
    world.unmask(devices)
    assert world.gateway.standing(ROUND).weight == 3


def test_duplicate_strange_early_and_late_messages_are_refused(world: _Gateway) -> None:
    world.gateway.start(round_plan())
    devices = world.select("a", "b", "c", "d", "e")
    tickets = list(devices)
    early = MaskedUpdate(round_id=ROUND, masked=bytes(36))
    with pytest.raises(ConflictError, match="too late"):  # two steps ahead is out of order for good
        world.gateway.update(tickets[0], early)
    world.share(devices)
    world.report(devices, {tickets[0]: 0.1})
    with pytest.raises(ConflictError, match="reported before"):
        world.gateway.update(tickets[0], early)
    with pytest.raises(ForbiddenError, match="ticket"):
        world.gateway.update("guessed", early)
    with pytest.raises(ConflictError, match="over"):
        world.gateway.update(tickets[1], msgspec.structs.replace(early, round_id="b" * 16))
    world.report(devices, dict.fromkeys(tickets[1:4], 0.1))
    with pytest.raises(ConflictError, match="too late"):
        world.gateway.update(tickets[4], early)
    world.unmask({ticket: devices[ticket] for ticket in tickets[:4]})
    assert world.gateway.standing(ROUND).weight == 4


def test_a_user_counts_once_in_a_round_whatever_phones_they_have(world: _Gateway) -> None:
    world.gateway.start(round_plan())
    assert world.select("a")
    again = world.gateway.check_in("a", world.ready())
    assert (again.plan, again.reason) == (None, "already")
    assert again.come_back_s >= IDLE_COME_BACK_S


def test_a_device_counts_once_in_a_round_whosoever_token_it_shows(world: _Gateway) -> None:
    world.gateway.start(round_plan())
    session, device = world.ready().session, world.devices.device()
    answers = [
        world.gateway.check_in(
            subject,
            CheckIn(
                releases=(RELEASE_ID,), session=session, advert=world.devices.round(session, identity=device).advert
            ),
        )
        for subject in ("a", "b")
    ]
    assert answers[0].ticket
    assert (answers[1].ticket, answers[1].reason) == ("", "already")


def test_with_sampling_the_number_of_cohorts_does_not_tell_how_many_were_taken(tmp_path: Path) -> None:
    seen = set()
    for count in (24, 60):
        directory = tmp_path / str(count)
        world = _Gateway(directory, sampling_probability=0.5, expected_count=6, cohorts=4, goal_count=3)
        world.gateway.start(msgspec.structs.replace(round_plan(), sampling_probability=0.5))
        world.share(world.select(*(f"s{index}" for index in range(count))))
        seen.add(len(world.gateway._open.cohorts._sums))  # type: ignore[union-attr]
    assert seen == {2}


def test_the_journal_says_how_long_each_phase_lasted(world: _Gateway) -> None:
    world.whole_round({"a": 0.1, "b": 0.1, "c": 0.1})
    record = Journal(world.directory / "rounds").read(ROUND)
    assert record is not None
    assert list(record.phases_s) == ["selecting", "sharing", "reporting", "checking", "unmasking"]
    assert (record.phases_s["selecting"], record.phases_s["sharing"], record.phases_s["reporting"]) == (2.0, 0.0, 0.0)


def test_a_phone_that_was_late_helps_to_unmask(tmp_path: Path) -> None:
    world = _Gateway(tmp_path, goal_count=4)
    world.gateway.start(round_plan())
    devices = world.select("a", "b", "c", "d", "e", "f")
    world.share(devices)
    tickets = list(devices)
    world.report(devices, dict.fromkeys(tickets[:4], 0.1))
    for ticket in tickets[4:]:
        mailbox = world.gateway.mailbox(ticket)
        assert mailbox is not None
        devices[ticket].receive(mailbox)
        with pytest.raises(ConflictError, match="too late"):
            world.gateway.update(ticket, devices[ticket].masked(round_plan(), _trained()))
    world.gateway.left(tickets[0])  # in the sum, and gone: without the late ones five shares could not be had
    world.unmask({ticket: devices[ticket] for ticket in tickets[1:]})
    assert (world.gateway.standing(ROUND).phase, world.gateway.standing(ROUND).weight) == (Phase.CLOSED, 4)


def test_phones_are_paced_the_more_of_them_ask(tmp_path: Path) -> None:
    world = _Gateway(tmp_path, goal_count=2, over_selection=1.0, sampling_probability=0.5, expected_count=2)
    world.gateway.start(msgspec.structs.replace(round_plan(), sampling_probability=0.5))
    told = [world.gateway.check_in(f"s{index}", world.ready()) for index in range(30)]
    waits = [answer.come_back_s for answer in told if not answer.ticket]
    assert waits[-1] >= 4 * waits[0]


def test_a_device_that_the_issuer_does_not_know_is_refused(world: _Gateway) -> None:
    world.gateway.start(round_plan())
    session = world.ready().session
    stranger = Certified(RegionKeys.generate("us-east"), now_ms=world.clock.now_ms()).round(session)
    with pytest.raises(ForbiddenError, match="enrolled"):
        world.gateway.check_in("x", CheckIn(releases=(RELEASE_ID,), session=session, advert=stranger.advert))
    replayed = msgspec.structs.replace(world.devices.round("0" * 32).advert)
    with pytest.raises(ForbiddenError, match="signature"):
        world.gateway.check_in("x", CheckIn(releases=(RELEASE_ID,), session=session, advert=replayed))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"releases": ()}, "other-release"),
        ({"idle": False}, "not-eligible"),
        ({"charging": False}, "not-eligible"),
        ({"unmetered": False}, "not-eligible"),
        ({"protocol": 1}, "other-protocol"),
        ({"advert": None}, "advert"),
        ({"session": "of yesterday"}, "advert"),
    ],
)
def test_who_may_not_take_part_is_told_why(world: _Gateway, changes, reason: str) -> None:
    assert world.gateway.check_in("a", world.ready()).reason == "no-round"
    world.gateway.start(round_plan())
    answer = world.gateway.check_in("a", msgspec.structs.replace(world.ready(), **changes))
    assert (answer.plan, answer.reason) == (None, reason)
    assert answer.session


def test_poisson_sampling_gives_the_fixed_weight_away_and_not_the_count(tmp_path: Path) -> None:
    world = _Gateway(tmp_path, sampling_probability=0.5, expected_count=10)
    world.gateway.start(msgspec.structs.replace(round_plan(), sampling_probability=0.5))
    devices = world.select(*(f"s{index}" for index in range(30)))
    assert 6 <= len(devices) <= 24
    world.share(devices)
    world.report(devices, dict.fromkeys(devices, 0.01))
    world.unmask(devices)
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
        self.devices = Certified(keys, now_ms=SystemClock().now_ms())
        self.authority = {"Authorization": f"Bearer {round_key}"}

    def token(self, user: str, keys: RegionKeys | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {issue_token(keys or self.keys, user, clock=SystemClock())}"}

    async def check_in(self, user: str) -> CheckInAnswer:
        answer, _ = await self.selected(user)
        return answer

    async def selected(self, user: str) -> tuple[CheckInAnswer, DeviceRound]:
        """Check in once to hear of the session, and again with keys for it."""
        first = await self._check_in(user, CheckIn(releases=(RELEASE_ID,)))
        device = self.devices.round(first.session)
        asking = CheckIn(releases=(RELEASE_ID,), session=device.session, advert=device.advert)
        return await self._check_in(user, asking), device

    async def _check_in(self, user: str, asking: CheckIn) -> CheckInAnswer:
        body = msgspec.json.encode(asking)
        async with self.client.post("/v1/device/check-in", data=body, headers=self.token(user)) as answer:
            assert answer.status == 200
            return msgspec.json.decode(await answer.read(), type=CheckInAnswer)

    async def send(self, ticket: str, body: bytes, step: str = "update") -> int:
        async with self.client.post(
            f"/v1/device/{step}", data=io.BytesIO(body), headers={TICKET_HEADER: ticket}
        ) as answer:
            return answer.status

    async def call(self, ticket: str, step: str, body: msgspec.Struct, kind: type[A]) -> A:
        async with self.client.post(
            f"/v1/device/{step}", data=msgspec.json.encode(body), headers={TICKET_HEADER: ticket}
        ) as answer:
            assert answer.status == 200
            return msgspec.json.decode(await answer.read(), type=kind)

    async def start(self, plan: RoundPlan) -> int:
        body = msgspec.json.encode(plan)
        async with self.client.post("/v1/rounds", data=body, headers=self.authority) as answer:
            return answer.status

    async def standing(self, wait_s: str = "0") -> RegionalSum:
        async with self.client.get(f"/v1/rounds/{ROUND}?wait_s={wait_s}", headers=self.authority) as answer:
            assert answer.status == 200
            return msgspec.json.decode(await answer.read(), type=RegionalSum)


@pytest.fixture
async def served(tmp_path: Path, request: pytest.FixtureRequest):
    keys, other = RegionKeys.generate("us-east"), RegionKeys.generate("us-west")
    brief = {"selection_s": 0.4, "sharing_s": 0.5, "reporting_s": 0.5, "unmasking_s": 0.5}
    cohort = msgspec.structs.replace(POLICY, **getattr(request, "param", brief))
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


# The phones end each phase, and no clock does, however slow the machine is.
@pytest.mark.parametrize(
    "served",
    [{"goal_count": 3, "over_selection": 1.0, "selection_s": 60.0, "sharing_s": 60.0, "reporting_s": 60.0,
      "unmasking_s": 60.0}],
    indirect=True,
)  # fmt: skip
async def test_a_round_over_http(served: _Served) -> None:
    assert (await served.check_in("u1")).reason == "no-round"
    assert await served.start(round_plan()) == 202
    waiting = asyncio.create_task(served.standing("30"))

    async def phone(user: str) -> str:
        answer, device = await served.selected(user)
        assert answer.plan is not None
        assert answer.roster is not None
        mailbox = await served.call(answer.ticket, "shares", device.shares(answer.roster), Mailbox)
        device.receive(mailbox)
        survivors = await served.call(answer.ticket, "update", device.masked(answer.plan, _trained()), Survivors)
        signatures = await served.call(answer.ticket, "signature", device.signature(survivors), Signatures)
        unmasking = msgspec.json.encode(device.unmasking(signatures))
        # The last share may come when the others' were enough.
        assert await served.send(answer.ticket, unmasking, "unmask") in (200, 409)
        return answer.ticket

    tickets = await asyncio.gather(*(phone(user) for user in ("u1", "u2", "u3")))
    result = await waiting
    assert (result.phase, result.weight) == (Phase.CLOSED, 3)
    late = MaskedUpdate(round_id=ROUND, masked=bytes(36))
    assert await served.send(tickets[0], msgspec.json.encode(late)) == 409


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
        (msgspec.json.encode(MaskedUpdate(round_id=ROUND, masked=bytes(36))), 403),
        (b" " * (3 << 20), 413),
    ],
)
async def test_bad_bodies_get_a_clear_answer(served: _Served, body: bytes, status: int) -> None:
    await served.start(round_plan())
    for step in ("shares", "update", "signature", "unmask"):
        wanted = 400 if status == 403 and step in ("shares", "signature", "unmask") else status
        assert await served.send("stranger", body, step) == wanted


async def test_who_is_not_let_in(served: _Served) -> None:
    body = msgspec.json.encode(CheckIn(releases=(RELEASE_ID,)))
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


def test_a_gateway_opens_subjects_and_can_make_neither_tokens_nor_devices() -> None:
    keys, clock = RegionKeys.generate("us-east"), ManualClock()
    held = keys.for_gateway()
    callers = Callers(keys=held, trust=TrustDirectory.of([keys]), clock=clock)
    assert callers.subject(issue_token(keys, "u1", clock=clock)) == keys.pseudonym("user", "u1")
    with pytest.raises(ValueError, match="32 bytes"):
        issue_token(held, "u1", clock=clock)
    with pytest.raises(ValueError, match="32 bytes"):
        Certified(held, now_ms=0).round("s")
    assert not {keys.issuer_private, keys.relay_private, keys.operator_key} & set(msgspec.structs.astuple(held))


def test_a_token_is_verified_once_for_a_while_and_not_for_longer() -> None:
    keys, other, clock = RegionKeys.generate("us-east"), RegionKeys.generate("us-west"), ManualClock()
    callers = Callers(keys=keys, trust=TrustDirectory.of([keys, other]), clock=clock)
    token = issue_token(keys, "u1", clock=clock, life_s=30)
    subject = callers.subject(token)
    assert callers.subject(token) == subject == keys.pseudonym("user", "u1")
    clock.advance(200.0)
    with pytest.raises(UnauthorizedError, match="expired"):
        callers.subject(token)
    assert callers.subject(issue_token(keys, "u1", clock=clock)) == subject
    for _ in range(2):
        with pytest.raises(ForbiddenError, match="another region"):
            callers.subject(issue_token(other, "u1", clock=clock))
        with pytest.raises(UnauthorizedError):
            callers.subject(token[:-4] + "AAAA")


async def test_health_and_metrics_say_no_names(served: _Served) -> None:
    await served.check_in("somebody")
    async with served.client.get("/health/ready") as answer:
        assert answer.status == 200
    async with served.client.get("/metrics") as answer:
        text = await answer.text()
    assert 'atoll_federation_outcomes_total{outcome="no-round",what="check-in"} 2.0' in text
    assert "somebody" not in text


def test_no_pseudonym_is_remembered_in_a_round(tmp_path: Path) -> None:
    world = _Gateway(tmp_path, goal_count=4)
    world.gateway.start(round_plan())
    world.gateway.check_in("somebody", world.ready())
    current = world.gateway._open
    assert current is not None
    assert current.state.checked_in == 1
    assert "somebody" not in current.state._subjects
