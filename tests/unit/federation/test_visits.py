"""A phone's round over one connection, and what becomes of it when that breaks off."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import numpy as np
import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestClient, TestServer

from federation.device.enrolment import Enrolment, IdentityFile
from federation.device.keystore import FileKeyStore
from federation.device.outbox import Outbox
from federation.device.store import DeviceStore
from federation.device.training import LocalTraining
from federation.flower.supervisor import free_ports
from federation.gateway import visits
from federation.gateway.app import ROUND_KEY_FILE, build_app
from federation.messages import PACKED, CheckIn, CheckInAnswer, Phase, RegionalSum, RoundPlan
from federation.phones.delivery import Delivery
from federation.phones.link import GatewayLink, Participation, RefusedError, UnsentError, Visit
from federation.phones.single import Became, Taking
from federation.secure_aggregation.identity import certified
from federation.secure_aggregation.messages import Advert, MaskedUpdate
from federation.settings import CohortSettings, GatewaySettings
from infra.contracts.events import SensitiveEvent
from infra.plumbing.clock import SystemClock
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.telemetry import TelemetrySettings, start_telemetry
from infra.plumbing.tokens import issue_token
from tests.unit.federation.building import RELEASE_ID, fixed_entropy, round_plan, small_release
from tests.unit.federation.secure import Certified

COHORT = CohortSettings(
    count_min=3, goal_count=3, over_selection=1.0, selection_s=5.0, sharing_s=5.0, reporting_s=5.0, unmasking_s=5.0,
    check_ins_max=4,
)  # fmt: skip


@dataclass
class _World:
    client: TestClient
    link: GatewayLink
    keys: RegionKeys
    round_key: str
    devices: Certified

    def token(self, user: str) -> str:
        return issue_token(self.keys, user, clock=SystemClock())

    async def start(self) -> None:
        headers = {"Authorization": f"Bearer {self.round_key}"}
        async with self.client.post("/v1/rounds", data=msgspec.json.encode(round_plan()), headers=headers) as answer:
            assert answer.status == 202

    async def result(self) -> RegionalSum:
        headers = {"Authorization": f"Bearer {self.round_key}"}
        path = f"/v1/rounds/{round_plan().round_id}?wait_s=10"
        async with self.client.get(path, headers=headers) as answer:
            return msgspec.json.decode(await answer.read(), type=RegionalSum)

    async def phone(self, user: str, *, breaks: bool = False, leave_at: int = 3) -> Participation:
        async with self.link.visit(self.token(user)) as visit:
            device = self.devices.round(visit.greeting.session)
            answer = await _checked_in(visit, device.session, device.advert)
            if breaks:
                await visit._socket.close()
            update = np.full((3, 3), 0.1, dtype=np.float32)
            trained = LocalTraining(update, 10, 1.0, 0.5, clipped=False)
            return await visit.take_part(device, answer, lambda _plan: trained, leave_at=leave_at)


async def _checked_in(visit: Visit, session: str, advert: Advert | None) -> CheckInAnswer:
    return await visit.check_in(CheckIn(releases=(RELEASE_ID,), session=session, advert=advert))


@pytest.fixture
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[_World]:
    """A gateway for rounds of COHORT, with what a test changes of it."""
    cohort = msgspec.structs.replace(COHORT, **getattr(request, "param", {}))
    keys = RegionKeys.generate("us-east")
    settings = GatewaySettings(
        node="g", region="us-east", port=0, state_directory=str(tmp_path), keys_file="", trust_file="", cohort=cohort
    )
    telemetry = start_telemetry(
        service="g", region="us-east", node="g", settings=TelemetrySettings(log_file=str(tmp_path / "log"))
    )
    app = build_app(
        settings=settings, keys=keys, trust=TrustDirectory.of([keys]), telemetry=telemetry, clock=SystemClock(),
        entropy=fixed_entropy(),
    )  # fmt: skip
    async with TestClient(TestServer(app)) as client:
        with ThreadPoolExecutor(1) as worker:
            link = GatewayLink(client.session, str(client.make_url("")), worker)
            devices = Certified(keys, now_ms=SystemClock().now_ms())
            yield _World(client, link, keys, (tmp_path / ROUND_KEY_FILE).read_text(), devices)
    telemetry.close()


# Who hangs up before it shares or signs is known to be gone: nobody waits a minute for it.
@pytest.mark.parametrize(
    "world",
    [{"goal_count": 5, "sharing_s": 60.0, "reporting_s": 60.0, "unmasking_s": 60.0, "check_ins_max": 8}],
    indirect=True,
)
@pytest.mark.parametrize("leaves", [0, 2])
async def test_who_hung_up_is_not_waited_for_until_the_clock_says_so(world: _World, leaves: int) -> None:
    await world.start()
    async with asyncio.timeout(30):
        await asyncio.gather(*(world.phone(f"u{index}", leave_at=leaves if index == 0 else 3) for index in range(5)))
        result = await world.result()
    assert (result.phase, result.weight) == (Phase.CLOSED, 4 if leaves == 0 else 5)


@pytest.mark.parametrize(
    "world",
    [{"goal_count": 27, "sharing_s": 60.0, "reporting_s": 60.0, "unmasking_s": 60.0, "check_ins_max": 30}],
    indirect=True,
)
async def test_a_large_cohort_draws_its_seats_and_draws_again_without_who_left(world: _World) -> None:
    """One leaves while they are drawn; another's visit breaks off, and it goes on in calls under its ticket."""
    await world.start()
    async with asyncio.timeout(60):
        parts = await asyncio.gather(
            *(world.phone(f"u{index}", leave_at=0 if index == 0 else 3, breaks=index == 1) for index in range(27))
        )
    assert [part.reported for part in parts] == [False] + [True] * 26
    result = await world.result()
    assert (result.phase, result.weight) == (Phase.CLOSED, 26)


@pytest.mark.parametrize(
    "world", [{"goal_count": 4, "over_selection": 1.25, "unmasking_s": 60.0, "check_ins_max": 8}], indirect=True
)
async def test_who_came_too_late_with_its_update_helps_to_unmask_the_others(world: _World) -> None:
    await world.start()
    parts = await asyncio.gather(*(world.phone(f"u{index}") for index in range(5)))
    assert sum(part.reported for part in parts) == 4
    result = await world.result()
    assert (result.phase, result.weight) == (Phase.CLOSED, 4)


@pytest.mark.parametrize("broken", [0, 1, 3])
async def test_a_round_in_visits_and_where_they_break_off_in_calls(world: _World, broken: int) -> None:
    await world.start()
    parts = await asyncio.gather(*(world.phone(f"u{index}", breaks=index < broken) for index in range(3)))
    assert all(part.reported for part in parts)
    result = await world.result()
    assert (result.phase, result.weight) == (Phase.CLOSED, 3)


class _Plain(GatewayLink):
    """A phone of before visits could be packed."""

    @asynccontextmanager
    async def visit(self, token: str) -> AsyncIterator[Visit]:
        headers = {"Authorization": f"Bearer {token}"}
        async with self.session.ws_connect(f"{self.url}/v1/device/visit", headers=headers) as socket:
            visit = Visit(self, socket)
            visit.greeting = await visit.hear(CheckInAnswer, b"session")
            yield visit


async def test_packed_and_plain_visits_take_part_in_one_sum(world: _World) -> None:
    await world.start()
    plain = _World(world.client, _Plain(world.client.session, world.link.url, world.link._worker), world.keys,
                   world.round_key, world.devices)  # fmt: skip
    await asyncio.gather(world.phone("u0"), world.phone("u1", breaks=True), plain.phone("u2"))
    result = await world.result()
    assert (result.phase, result.weight) == (Phase.CLOSED, 3)
    # One phone each: the same messages, less to carry.
    assert world.link.bytes_down / 2 < 0.85 * plain.link.bytes_down


async def test_the_greeting_says_when_to_come_back(world: _World) -> None:
    async with world.link.visit(world.token("u")) as visit:
        assert (visit.greeting.reason, visit.greeting.plan) == ("no-round", None)
        assert visit.greeting.come_back_s > 0.0
    await world.start()
    async with world.link.visit(world.token("u")) as visit:
        assert visit.greeting.reason == "advert"
        assert len(visit.greeting.session) == 32
        told = await _checked_in(visit, "", None)
        assert (told.reason, told.session) == ("advert", visit.greeting.session)


async def test_who_is_not_let_in_and_how_many_are(world: _World) -> None:
    for token in ("x", issue_token(RegionKeys.generate("us-east"), "u", clock=SystemClock())):
        with pytest.raises(RefusedError):
            async with world.link.visit(token):
                pytest.fail("a stranger was greeted")
    async with _Held(world) as held:
        for index in range(COHORT.check_ins_max):
            await held.open(f"u{index}")
        with pytest.raises(RefusedError):
            async with world.link.visit(world.token("one too many")):
                pytest.fail("too many were let in")


class _Unplugged:
    """A connection of which nothing comes out any more."""

    async def send_bytes(self, _frame: bytes) -> None:
        raise ConnectionResetError


async def _cut_off(world: _World, user: str) -> UnsentError:
    """A phone that trains, and finds its gateway away when it wants to say what it learned."""
    link = GatewayLink(world.client.session, world.link.url, world.link._worker)
    async with link.visit(world.token(user)) as visit:
        device = world.devices.round(visit.greeting.session)
        answer = await _checked_in(visit, device.session, device.advert)

        def train(_plan: RoundPlan) -> LocalTraining:
            visit._socket, link.url = _Unplugged(), f"http://127.0.0.1:{free_ports(1)[0]}"  # type: ignore[assignment]
            return LocalTraining(np.full((3, 3), 0.1, dtype=np.float32), 10, 1.0, 0.5, clipped=False)

        with pytest.raises(UnsentError) as unsent:
            await visit.take_part(device, answer, train, leave_at=3)
    return unsent.value


def _outbox(directory: Path) -> Outbox:
    """As it is after the phone was killed and started again."""
    keys = FileKeyStore(directory / "phone.key", entropy=secrets.token_bytes)
    return Outbox(directory / "phone.outbox", keys=keys)


# Who was cut off neither signs nor unmasks: the three others wait for it as long as these phases may last.
@pytest.mark.parametrize("world", [{"goal_count": 4, "unmasking_s": 0.7}], indirect=True)
async def test_an_update_that_could_not_be_sent_counts_when_the_gateway_is_back_in_time(
    world: _World, tmp_path: Path
) -> None:
    clock = SystemClock()

    async def cut_off_and_killed() -> int:
        unsent = await _cut_off(world, "u0")
        until_ms = clock.now_ms() + 60_000
        _outbox(tmp_path).add_reply(unsent.update, ticket=unsent.ticket, until_ms=until_ms, now_ms=clock.now_ms())
        delivery = Delivery(world.client.session, gateway=world.link.url)
        return (await delivery.run(_outbox(tmp_path), clock=clock)).taken

    await world.start()
    cut_off = asyncio.create_task(cut_off_and_killed())
    parts = await asyncio.gather(*(world.phone(f"u{index}") for index in (1, 2, 3)))
    assert await cut_off == 1
    assert all(part.reported for part in parts)
    result = await world.result()
    assert (result.phase, result.weight) == (Phase.CLOSED, 4)
    assert len(_outbox(tmp_path)) == 0


async def test_a_reply_to_a_round_that_is_over_is_dropped(world: _World, tmp_path: Path) -> None:
    clock, update = SystemClock(), MaskedUpdate(round_id="a" * 16, masked=bytes(36))
    for until_ms, why in ((clock.now_ms() + 60_000, "refused"), (clock.now_ms() - 1, "late")):
        _outbox(tmp_path).add_reply(update, ticket="t", until_ms=until_ms, now_ms=clock.now_ms())
        await Delivery(world.client.session, gateway=world.link.url).run(_outbox(tmp_path), clock=clock)
        assert (len(_outbox(tmp_path)), _outbox(tmp_path).dropped[why]) == (0, 1)


def _taking(world: _World, directory: Path) -> Taking:
    """A phone of its own with a little history, enrolled by the region's issuer."""
    keys = FileKeyStore(directory / "phone.key", entropy=secrets.token_bytes)
    store = DeviceStore(directory / "phone.phone", keys=keys)
    for index in range(1, 13):
        store.add_sensitive(SensitiveEvent(item=f"i{index}", strength=4, at_ms=60_000 * index))
    file, now_ms = IdentityFile(directory / "phone.identity", keys, secrets.token_bytes), SystemClock().now_ms()
    certificate = certified(
        file.public(), region="us-east", issuer_private=world.keys.issuer_private, expires_ms=now_ms + 10**7
    )
    enrolment = Enrolment(certificate=certificate, issuer_public=world.devices.trust.issuer_public)
    return Taking(
        link=world.link, token=world.token("me"), store=store, release=small_release(),
        identity=file.enrolled(enrolment, now_ms=now_ms), trust=world.devices.trust, clock=SystemClock(),
    )  # fmt: skip


async def test_one_phone_takes_part_and_pays_for_it_from_its_days_steps(world: _World, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    taking = _taking(world, tmp_path / "own")
    nobody = await taking.join(wait_s=0.0)
    assert (nobody.became, nobody.reason) == (Became.NO_TASK, "no-round")
    await world.start()
    joined, *_ = await asyncio.gather(taking.join(wait_s=20.0), world.phone("u1"), world.phone("u2"))
    assert joined.became is Became.IN_SUM
    assert joined.trained is not None
    assert joined.trained.examples == 11
    result = await world.result()
    assert (result.phase, result.weight) == (Phase.CLOSED, 3)
    stored = DeviceStore(
        tmp_path / "own" / "phone.phone", keys=FileKeyStore(tmp_path / "own" / "phone.key", entropy=secrets.token_bytes)
    )
    assert stored._history.steps_spent > 11


class _Held:
    """Visits that are kept open."""

    def __init__(self, world: _World) -> None:
        self._world = world
        self._sockets: list[aiohttp.ClientWebSocketResponse] = []

    async def open(self, user: str) -> None:
        headers = {"Authorization": f"Bearer {self._world.token(user)}"}
        self._sockets.append(await self._world.client.ws_connect("/v1/device/visit", headers=headers))

    async def __aenter__(self) -> "_Held":
        return self

    async def __aexit__(self, *_error: object) -> None:
        for socket in self._sockets:
            await socket.close()


@pytest.mark.parametrize(
    ("frame", "status"),
    [
        (b"check-in\n{", b"400"), (b"update\n", b"400"), (b"dance\n{}", b"404"), (b"\xff\n{}", b"404"), (b"", b"404"),
        (b'signature\n{"round_id":"' + b"a" * 16 + b'","device_signature":""}', b"403"),
    ],
)  # fmt: skip
async def test_a_frame_that_is_no_use_gets_the_status_of_its_call(world: _World, frame: bytes, status: bytes) -> None:
    await world.start()
    async with world.client.ws_connect(
        "/v1/device/visit", headers={"Authorization": f"Bearer {world.token('u')}"}
    ) as socket:
        assert (await socket.receive_bytes()).startswith(b"session\n{")
        await socket.send_bytes(frame)
        assert (await socket.receive_bytes()).startswith(status + b"\n{")
        for _ in range(visits.FRAMES_MAX - 1):
            await socket.send_bytes(frame)
            await socket.receive_bytes()
        assert (await socket.receive()).type is WSMsgType.CLOSE


async def test_a_packed_frame_that_is_no_use_is_refused_and_said_in_json(world: _World) -> None:
    await world.start()
    headers = {"Authorization": f"Bearer {world.token('u')}"}
    async with world.client.ws_connect("/v1/device/visit", headers=headers, protocols=(PACKED,)) as socket:
        assert socket.protocol == PACKED
        await socket.receive_bytes()
        for frame in (b"check-in\n\xc1", b"check-in\n{}", b"update\n" + msgspec.msgpack.encode({"round_id": 1})):
            await socket.send_bytes(frame)
            assert (await socket.receive_bytes()).startswith(b"400\n{")


async def test_a_frame_above_the_bound_ends_the_visit(world: _World) -> None:
    async with world.client.ws_connect(
        "/v1/device/visit", headers={"Authorization": f"Bearer {world.token('u')}"}
    ) as socket:
        await socket.receive_bytes()
        await socket.send_bytes(b"update\n" + bytes(3 << 20))
        assert (await socket.receive()).type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR)


async def test_a_phone_that_stays_too_long_is_let_go() -> None:
    greeting = SimpleNamespace(greeting=lambda: CheckInAnswer(reason="no-round"))
    steps: Any = SimpleNamespace(gateway=greeting)
    found = visits.Visits(steps, visits_max=1, visit_s_max=0.05, frame_bytes_max=100)

    async def serve(request: web.Request) -> web.WebSocketResponse:
        return await found.serve(request, "u")

    app = web.Application()
    app.router.add_get("/visit", serve)
    async with TestClient(TestServer(app)) as client:
        for _ in range(2):  # the second finds room, for the first is over
            async with client.ws_connect("/visit") as socket:
                assert (await socket.receive_bytes()).startswith(b"session\n{")
                assert (await socket.receive(timeout=10)).type is WSMsgType.CLOSE
