"""What a phone would send while nobody hears it: kept through a kill, bounded, in order, once."""

import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from federation.device.keystore import FileKeyStore
from federation.device.outbox import AGE_MAX_MS, EVENTS_A_CALL, Kind, Outbox, outbox_path
from federation.device.store import DeviceStore
from federation.flower.supervisor import free_ports
from federation.phones.delivery import Delivery
from federation.secure_aggregation.messages import MaskedUpdate
from infra.contracts.events import Event, EventAck, EventType, RejectedEvent
from infra.plumbing.clock import ManualClock

NOW_MS = 1_700_000_000_000
EDGE = (Kind.EVENT, Kind.CHOICE)


def _event(number: int) -> Event:
    return Event(event_id=f"event-{number:06d}", type=EventType.LIKE, item=f"i{number}", at_ms=NOW_MS)


def _keys(directory: Path) -> FileKeyStore:
    return FileKeyStore(directory / "phone.key", entropy=secrets.token_bytes)


def _outbox(directory: Path, **bounds: int) -> Outbox:
    """Opened anew, as after a kill."""
    return Outbox(directory / "phone.outbox", keys=_keys(directory), **bounds)


def _ids(outbox: Outbox, now_ms: int = NOW_MS) -> list[str]:
    found = []
    while errands := outbox.head(EDGE, now_ms=now_ms):
        found += [msgspec.json.decode(one.body).get("event_id", "choice") for one in errands]
        outbox.settle(errands)
    return found


def _reply(outbox: Outbox, *, until_ms: int = NOW_MS + 1000, byte: int = 7) -> None:
    update = MaskedUpdate(round_id="a" * 16, masked=bytes([byte]) * 64)
    outbox.add_reply(update, ticket="ticket", until_ms=until_ms, now_ms=NOW_MS)


def test_what_was_added_survives_a_kill_in_its_order(tmp_path: Path) -> None:
    for number in range(3):
        _outbox(tmp_path).add_event(_event(number), now_ms=NOW_MS)
    _outbox(tmp_path).add_choice(opted_out=True, now_ms=NOW_MS)
    _outbox(tmp_path).add_event(_event(3), now_ms=NOW_MS)
    assert _outbox(tmp_path).waiting() == {"event": 4, "choice": 1}
    assert _ids(_outbox(tmp_path)) == ["event-000000", "event-000001", "event-000002", "choice", "event-000003"]
    assert len(_outbox(tmp_path)) == 0


def test_events_go_many_a_call_and_never_past_a_choice(tmp_path: Path) -> None:
    outbox = _outbox(tmp_path)
    for number in range(EVENTS_A_CALL + 5):
        outbox.add_event(_event(number), now_ms=NOW_MS)
    outbox.add_choice(opted_out=True, now_ms=NOW_MS)
    sizes = []
    while errands := outbox.head(EDGE, now_ms=NOW_MS):
        sizes.append(len(errands))
        outbox.settle(errands)
    assert sizes == [EVENTS_A_CALL, 5, 1]


def test_the_last_choice_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    outbox = _outbox(tmp_path)
    outbox.add_choice(opted_out=True, now_ms=NOW_MS)
    outbox.add_event(_event(1), now_ms=NOW_MS)
    outbox.add_choice(opted_out=False, now_ms=NOW_MS)
    assert outbox.waiting() == {"event": 1, "choice": 1}
    outbox.settle(outbox.head(EDGE, now_ms=NOW_MS))
    assert outbox.head(EDGE, now_ms=NOW_MS)[0].body == b'{"opted_out":false}'


def test_a_reply_is_of_use_until_its_round_ends(tmp_path: Path) -> None:
    outbox = _outbox(tmp_path)
    _reply(outbox, byte=1)
    _reply(outbox, byte=2)
    assert (outbox.waiting(), outbox.dropped["late"]) == ({"reply": 1}, 1)
    (errand,) = _outbox(tmp_path).head((Kind.REPLY,), now_ms=NOW_MS + 999)
    assert msgspec.json.decode(errand.body, type=MaskedUpdate).masked == bytes([2]) * 64
    again = _outbox(tmp_path)
    assert again.head((Kind.REPLY,), now_ms=NOW_MS + 1000) == ()
    assert _outbox(tmp_path).dropped["late"] == 2


def test_number_bytes_and_age_are_bounded_and_what_went_is_counted(tmp_path: Path) -> None:
    outbox = _outbox(tmp_path, waiting_max=20)
    outbox.add_choice(opted_out=True, now_ms=NOW_MS)
    for number in range(40):
        outbox.add_event(_event(number), now_ms=NOW_MS)
    assert len(outbox) <= 20
    assert outbox.waiting()["choice"] == 1
    assert outbox.dropped["no-room"] + outbox.waiting()["event"] == 40
    small = _outbox(tmp_path, bytes_max=1500)
    small.add_event(_event(41), now_ms=NOW_MS)
    assert (tmp_path / "phone.outbox").stat().st_size <= 1500
    assert _ids(small)[-1] == "event-000041"
    late = _outbox(tmp_path)
    late.add_event(_event(42), now_ms=NOW_MS)
    late.add_choice(opted_out=True, now_ms=NOW_MS)
    assert _ids(late, NOW_MS + AGE_MAX_MS) == ["choice"]
    assert _outbox(tmp_path).dropped["old"] == 1


def test_the_file_is_encrypted_and_no_part_of_the_store(tmp_path: Path) -> None:
    store = DeviceStore(tmp_path / "phone.phone", keys=_keys(tmp_path))
    outbox = store.outbox()
    outbox.add_event(_event(1), now_ms=NOW_MS)
    store.save()
    path = outbox_path(tmp_path / "phone.phone")
    assert path == tmp_path / "phone.outbox"
    assert path.stat().st_mode & 0o077 == 0
    assert b"event-0" not in path.read_bytes()
    path.write_bytes((tmp_path / "phone.phone").read_bytes())
    assert (len(_outbox(tmp_path)), _outbox(tmp_path).dropped["damaged"]) == (0, 1)
    store.erase()
    assert list(tmp_path.iterdir()) == []


def test_damage_costs_a_part_and_is_counted(tmp_path: Path) -> None:
    outbox = _outbox(tmp_path)
    for number in range(150):
        outbox.add_event(_event(number), now_ms=NOW_MS)
    lines = (tmp_path / "phone.outbox").read_bytes().splitlines(keepends=True)
    (tmp_path / "phone.outbox").write_bytes(lines[1])
    salvaged = _outbox(tmp_path)
    assert _ids(salvaged) == [f"event-{number:06d}" for number in range(100, 150)]
    assert salvaged.dropped["damaged"] == 1
    assert (tmp_path / "phone.outbox.damaged").exists()
    salvaged.add_event(_event(999), now_ms=NOW_MS)
    assert _ids(_outbox(tmp_path)) == ["event-000999"]


# --- delivery


class _Edge:
    """An edge that keeps what it took; `answer` decides what it says, after it has taken it."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.answer: Callable[[web.Request], web.StreamResponse] = self.well

    def well(self, request: web.Request) -> web.StreamResponse:
        body = msgspec.json.encode(EventAck(accepted=1, duplicates=0)) if request.method == "POST" else b"{}"
        return web.Response(body=body)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = msgspec.json.decode(await request.read())
        response = self.answer(request)
        if response.status < 400:
            self.taken += [one["event_id"] for one in body.get("events", ())] or [f"opted_out={body['opted_out']}"]
        return response


@pytest.fixture
async def edge() -> AsyncIterator[tuple[_Edge, TestClient]]:
    found = _Edge()
    app = web.Application()
    app.add_routes([web.post("/v1/events", found.handle), web.put("/v1/privacy/opt-out", found.handle)])
    async with TestClient(TestServer(app)) as client:
        yield found, client


def _delivery(client: TestClient, **ways: str) -> Delivery:
    return Delivery(client.session, token="t", **({"edge": str(client.make_url(""))} | ways))


def _filled(directory: Path) -> Outbox:
    outbox = _outbox(directory)
    outbox.add_event(_event(0), now_ms=NOW_MS)
    outbox.add_choice(opted_out=True, now_ms=NOW_MS)
    outbox.add_event(_event(1), now_ms=NOW_MS)
    return outbox


async def test_a_region_that_comes_back_gets_all_of_it_in_order(tmp_path: Path, edge: tuple[_Edge, TestClient]) -> None:
    found, client = edge
    clock = ManualClock()
    outbox = _filled(tmp_path)
    (closed,) = free_ports(1)
    away = await _delivery(client, edge=f"http://127.0.0.1:{closed}").run(outbox, clock=clock)
    assert (away.taken, away.stopped, len(outbox)) == (0, "ClientConnectorError", 3)
    for status in (503, 429, 401):
        found.answer = lambda _request, status=status: web.Response(status=status)  # type: ignore[misc]
        assert (await _delivery(client).run(outbox, clock=clock)).stopped == f"answered {status}"
    found.answer = found.well
    done = await _delivery(client).run(_outbox(tmp_path), clock=clock)
    assert (done.taken, done.refused, done.stopped) == (3, 0, "")
    assert found.taken == ["event-000000", "opted_out=True", "event-000001"]
    assert len(_outbox(tmp_path)) == 0


async def test_an_answer_that_was_lost_brings_the_same_ids_again(
    tmp_path: Path, edge: tuple[_Edge, TestClient]
) -> None:
    found, client = edge
    outbox = _filled(tmp_path)

    def cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    found.answer = cut
    lost = await _delivery(client).run(outbox, clock=ManualClock())
    assert (lost.taken, len(_outbox(tmp_path))) == (0, 3)
    found.answer = found.well
    await _delivery(client).run(_outbox(tmp_path), clock=ManualClock())
    assert found.taken == ["event-000000", "event-000000", "opted_out=True", "event-000001"]


async def test_what_is_refused_for_good_does_not_hold_up_the_rest(
    tmp_path: Path, edge: tuple[_Edge, TestClient]
) -> None:
    found, client = edge
    outbox = _filled(tmp_path)

    def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            return web.Response(status=400)
        rejected = (RejectedEvent(index=0, reason="too-old"),)
        return web.Response(body=msgspec.json.encode(EventAck(accepted=0, duplicates=0, rejected=rejected)))

    found.answer = answer
    done = await _delivery(client).run(outbox, clock=ManualClock())
    assert (done.taken, done.refused, len(outbox)) == (0, 3, 0)
    assert _outbox(tmp_path).dropped["refused"] == 3


async def test_without_a_way_nothing_moves(tmp_path: Path) -> None:
    outbox = _filled(tmp_path)
    _reply(outbox)
    async with aiohttp.ClientSession() as session:
        done = await Delivery(session).run(outbox, clock=ManualClock())
    assert (done.taken, done.stopped, len(outbox)) == (0, "", 4)
