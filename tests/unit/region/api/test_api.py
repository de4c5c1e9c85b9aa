"""The region's doors over real HTTP on loopback: who may pass, what is refused and how, what an answer carries."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from infra.contracts.events import Event, EventAck, EventBatch, EventType
from infra.contracts.messages import (
    INVALIDATION_TOPIC,
    AwayAnswer,
    AwayRequest,
    HomeAnswer,
    HomeRequest,
    Invalidation,
    RecommendationType,
    RelayedCall,
    SealedAnswer,
    SealedCall,
)
from infra.contracts.residency import encode_global, encode_regional
from infra.plumbing.errors import OverloadedError
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.grid.port import GridUnavailableError
from infra.plumbing.http.middleware import frame
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.sealing import open_reply, seal_call
from infra.plumbing.tokens import issue_token
from region.api.announcing import Announcer
from region.api.choices import Choices
from region.api.doors import operator_door, service_door
from region.api.messages import StatusAnswer
from region.api.operating import OperatorDoors
from region.api.relay import RelayDesk
from region.api.routes import CallerDoors
from region.events.intake import Intake
from region.events.memory import MemoryLog
from region.releases.audit import AuditLog
from region.releases.operations import Operations
from tests.unit.region.worlds import SUBJECT, World, row_of

KEYS = RegionKeys.generate("us-east")
OTHER = RegionKeys.generate("us-west")
TRUST = TrustDirectory.of([KEYS, OTHER])
HOME = {"Atoll-Service-Key": KEYS.service_key}
OPERATOR = {"Authorization": f"Operator {KEYS.operator_key}"}
BODY_MAX = 100_000


class Region:
    """A region's application around a world, and a client for it."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.grid = MemoryGrid(clock=world.clock)
        self.log = MemoryLog()
        registry = world.telemetry.registry
        intake = Intake(log=self.log, clock=world.clock, wake=lambda: None, registry=registry)
        announcer = Announcer(grid=self.grid, registry=registry)
        choices = Choices(store=world.store, announcer=announcer)
        self.callers = CallerDoors(
            recommender=world.recommender,
            intake=intake,
            relay=RelayDesk(
                keys=KEYS,
                trust=TRUST,
                clock=world.clock,
                recommender=world.recommender,
                intake=intake,
                choices=choices,
            ),
            choices=choices,
            home_only=service_door(KEYS.service_key),
            body_bytes_max=BODY_MAX,
        )  # fmt: skip
        operators = OperatorDoors(
            withdrawals=world.withdrawals,
            announcer=announcer,
            operators_only=operator_door(KEYS.operator_key),
            operations=Operations(audit=AuditLog(folder / "audit.jsonl"), clock=world.clock),
            status=self.status,
            body_bytes_max=BODY_MAX,
        )
        app = web.Application(middlewares=[frame(world.telemetry, world.clock)], client_max_size=BODY_MAX * 2)
        app.add_routes([*self.callers.routes(), *operators.routes()])
        self.client: TestClient[web.Request, web.Application] = TestClient(TestServer(app))

    def status(self) -> StatusAnswer:
        return StatusAnswer(
            region="us-east", node="r1", active=self.world.release.release_id, previous=None, waiting_for="",
            withdrawn=0, computing=0, degraded=self.world.metrics.degraded_counts,
        )  # fmt: skip

    async def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> ClientResponse:
        return await self.client.post(path, data=body, headers=headers or {})

    async def recommend(self, request: HomeRequest) -> HomeAnswer:
        response = await self.post("/v1/recommend", encode_regional(request), HOME)
        assert response.status == 200, await response.text()
        return msgspec.json.decode(await response.read(), type=HomeAnswer)


@pytest.fixture
async def region(world: World, tmp_path: Path) -> AsyncIterator[Region]:
    await world.live.refresh()
    built = Region(world, tmp_path)
    async with built.client:
        yield built


async def problem(response: ClientResponse, status: int) -> dict[str, Any]:
    assert response.status == status
    assert response.content_type == "application/problem+json"
    document: dict[str, Any] = await response.json()
    assert document["status"] == status
    return document


def personal(**fields: Any) -> HomeRequest:
    # As long as a region waits at most: on a busy machine no part shall be left out for want of time.
    known: dict[str, Any] = {"type": RecommendationType.PERSONAL, "subject": SUBJECT, "timeout_ms": 1000.0}
    return HomeRequest(**(known | fields))


async def test_a_home_call_is_answered_with_its_life_and_tag(region: Region) -> None:
    await region.world.store.write_rows([row_of("item-3", "item-7")])
    response = await region.post("/v1/recommend", encode_regional(personal(n=5)), HOME)
    answer = msgspec.json.decode(await response.read(), type=HomeAnswer)
    assert response.status == 200
    assert answer.personal
    assert answer.subject_version == 3
    assert (answer.release, answer.region) == (region.world.release.release_id, "us-east")
    assert len(answer.items) == 25
    assert answer.degraded == ()
    assert answer.trace[0].stage == "store"
    assert response.headers["Cache-Control"] == "private, max-age=60, stale-while-revalidate=600, stale-if-error=86400"
    again = await region.post(
        "/v1/recommend", encode_regional(personal(n=5)), HOME | {"If-None-Match": response.headers["ETag"]}
    )
    assert again.status == 304
    assert await again.read() == b""


async def test_lists_for_audiences_may_be_kept_by_anybody(region: Region) -> None:
    request = personal(type=RecommendationType.POPULAR)
    response = await region.post("/v1/recommend", encode_regional(request), HOME)
    answer = msgspec.json.decode(await response.read(), type=HomeAnswer)
    assert not answer.personal
    assert response.headers["Cache-Control"].startswith("public, max-age=300,")
    assert "store" not in {stage.stage for stage in answer.trace}


async def test_without_the_store_a_person_still_gets_a_list_that_is_kept_shortly(region: Region) -> None:
    region.world.store.available = False
    answer = await region.recommend(personal())
    assert answer.items
    assert answer.degraded == ("store",)
    assert answer.lifetime.max_age_s == 1
    assert region.world.metrics.degraded_counts == {"store": 1}


async def test_an_opted_out_person_is_told_nothing_personal(region: Region) -> None:
    await region.world.store.write_rows([row_of("item-3", opted_out=True)])
    answer = await region.recommend(personal())
    assert {item.source.value for item in answer.items} == {"popular"}
    assert answer.personal
    assert answer.lifetime.max_age_s == 30


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/events", "/v1/privacy/opt-out"])
async def test_home_doors_open_to_the_service_key_only(region: Region, path: str) -> None:
    assert "Atoll-Service-Key" in (await problem(await region.post(path, b"{}"), 401))["detail"]
    await problem(await region.post(path, b"{}", {"Atoll-Service-Key": OTHER.service_key}), 403)
    await problem(await region.post(path, b"{}", {"Atoll-Service-Key": "schlüssel"}), 403)


@pytest.mark.parametrize("path", ["/operator/v1/status", "/operator/v1/items/withdraw"])
async def test_operators_doors_open_to_the_operator_key_only(region: Region, path: str) -> None:
    method = "GET" if path.endswith("status") else "POST"
    for headers, status in (({}, 401), (HOME, 401), ({"Authorization": "Operator no"}, 403)):
        await problem(await region.client.request(method, path, data=b"{}", headers=headers), status)
    # As aiohttp's client sends bytes that are no text.
    for header in ("Authorization: Operator", "Authorization: Bearer"):
        assert await status_of_raw(region, method, path, header.encode() + b" \xff\xfe") == 403


async def status_of_raw(region: Region, method: str, path: str, header: bytes) -> int:
    reader, writer = await asyncio.open_connection(region.client.host, region.client.port)
    lines = (f"{method} {path} HTTP/1.1".encode(), b"Host: here", header, b"Connection: close", b"", b"")
    writer.write(b"\r\n".join(lines))
    head = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1])


SECRET = "user-4711-secret"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"type": "' + SECRET.encode() + b'"}', "the field type"),
        (b'{"n": 3}', "missing required field type"),
        (b'{"type": "personal", "n": "' + SECRET.encode() + b'"}', "the field n is not as it must be: Expected int"),
        (b'{"type": "personal", "n": 0}', "n is out of range. It goes from 1 to 200."),
        (b'{"type": "personal", "n": 1000000000}', "n is out of range"),
        (b'{"type": "personal", "n": 1e99}', "n"),
        (b'{"type": "personal", "subject": "' + SECRET.encode() + b'"}', "subject is not a pseudonym"),
        (b'{"type": "similar", "item": ""}', "item holds an empty"),
        (b'{"type": "popular", "category": "' + SECRET.encode() * 50 + b'"}', "category holds"),
        (b'{"type": "personal", "exclude": ["a", 7]}', "the field exclude[1] is not"),
        (b'{"type": "personal", "recent": ' + msgspec.json.encode(["a"] * 201) + b"}", "recent holds 201"),
        (b'{"type": "personal", "vector": []}', "vector holds 0 numbers"),
        (b'{"type": "personal", "vector": [NaN]}', "not valid JSON"),
        (b'{"type": "personal", "vector": [1e39]}', "not finite or too large"),
        (b'{"type": "personal", "vector": ' + msgspec.json.encode([0.5] * 5000) + b"}", "vector holds 5000"),
    ],
)
async def test_bad_calls_are_refused_by_field_and_never_echoed(region: Region, body: bytes, told: str) -> None:
    response = await region.post("/v1/recommend", body, HOME)
    document = await problem(response, 400)
    assert told in document["detail"]
    assert SECRET not in await response.text()


async def test_bodies_are_bounded(region: Region) -> None:
    await problem(await region.post("/v1/recommend", b" " * (BODY_MAX + 1), HOME), 413)
    await problem(await region.post("/v1/away", b" " * (64 * 1024 + 1)), 413)
    await problem(await region.client.post("/v1/away", data=_chunks(70_000)), 413)


async def _chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count // 1000):
        yield b" " * 1000


async def test_a_deadline_that_has_passed_is_not_computed(region: Region) -> None:
    late = personal(timeout_ms=0.0)
    document = await problem(await region.post("/v1/recommend", encode_regional(late), HOME), 503)
    assert "deadline" in document["detail"]
    assert region.world.telemetry.registry.get_sample_value("atoll_region_deadline_passed_total") == 1
    early = personal(timeout_ms=500.0)
    assert (await region.recommend(early)).items


async def test_without_a_release_the_answer_is_503_with_a_fix(region: Region) -> None:
    region.world.active[0] = None
    response = await region.post("/v1/recommend", encode_regional(personal()), HOME)
    await problem(response, 503)
    assert response.headers["Retry-After"] == "1"


async def test_another_regions_edge_needs_no_secret_and_names_nobody(region: Region) -> None:
    response = await region.post("/v1/away", encode_global(AwayRequest(type=RecommendationType.PERSONAL)))
    answer = msgspec.json.decode(await response.read(), type=AwayAnswer)
    assert not answer.used_vector
    assert {item.source.value for item in answer.items} == {"trending", "popular"}
    assert response.headers["Cache-Control"].startswith("public")
    smuggled = b'{"type": "personal", "subject": "' + SUBJECT.encode() + b'", "recent": ["item-3"]}'
    await region.world.store.write_rows([row_of("item-3")])
    again = msgspec.json.decode(await (await region.post("/v1/away", smuggled)).read(), type=AwayAnswer)
    assert again.items == answer.items


async def test_a_callers_own_vector_is_ranked_with_and_not_kept(region: Region) -> None:
    vector = tuple(float(number) for number in region.world.release.tables.arrays.vectors[17])
    request = AwayRequest(
        type=RecommendationType.PERSONAL, vector=vector, vector_release=region.world.release.release_id
    )
    response = await region.post("/v1/away", encode_global(request))
    answer = msgspec.json.decode(await response.read(), type=AwayAnswer)
    assert answer.used_vector
    assert response.headers["Cache-Control"] == "no-store"
    assert answer.degraded == ()
    old = msgspec.structs.replace(request, vector_release="f" * 20)
    answer = msgspec.json.decode(await (await region.post("/v1/away", encode_global(old))).read(), type=AwayAnswer)
    assert not answer.used_vector
    assert "vector-release" in answer.degraded


def batch(*ids: str, subject: str | None = SUBJECT) -> EventBatch:
    return EventBatch(
        subject=subject,
        events=tuple(
            Event(event_id=name, type=EventType.LIKE, item="item-1", at_ms=1_700_000_000_000) for name in ids
        ),
    )  # fmt: skip


async def test_events_are_acknowledged_once(region: Region) -> None:
    body = encode_regional(batch("event-0001", "event-0002"))
    for accepted, duplicates in ((2, 0), (0, 2)):
        response = await region.post("/v1/events", body, HOME)
        ack = msgspec.json.decode(await response.read(), type=EventAck)
        assert (response.status, ack.accepted, ack.duplicates) == (200, accepted, duplicates)
    await problem(await region.post("/v1/events", encode_regional(batch("event-0003", subject="bob")), HOME), 400)
    region.log.available = False
    await problem(await region.post("/v1/events", encode_regional(batch("event-0004")), HOME), 503)


async def test_a_full_intake_says_when_to_come_back(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(_records: Any) -> None:
        raise OverloadedError("the log has too much to write.")

    monkeypatch.setattr(region.log, "append", full)
    response = await region.post("/v1/events", encode_regional(batch("event-0001")), HOME)
    await problem(response, 503)
    assert response.headers["Retry-After"] == "1"


async def next_invalidation(told: AsyncIterator[bytes | None]) -> Invalidation:
    message = await anext(told)
    assert message is not None
    return msgspec.json.decode(message, type=Invalidation)


async def test_an_opt_out_is_durable_and_told(region: Region) -> None:
    told = region.grid.subscribe(INVALIDATION_TOPIC)
    assert await anext(told) is None
    body = b'{"subject": "' + SUBJECT.encode() + b'", "opted_out": true}'
    response = await region.post("/v1/privacy/opt-out", body, HOME)
    assert await response.json() == {"version": 1}
    heard = await next_invalidation(told)
    assert (heard.subject, heard.subject_version, heard.opted_out) == (SUBJECT, 1, True)
    row = await region.world.store.read(SUBJECT)
    assert row is not None
    assert row.opted_out
    await problem(await region.post("/v1/privacy/opt-out", b'{"subject": "bob", "opted_out": true}', HOME), 400)
    region.world.store.available = False
    await problem(await region.post("/v1/privacy/opt-out", body, HOME), 503)


async def sealed(region: Region, call: RelayedCall, *, home: str = "us-east") -> tuple[int, bytes]:
    box, reply_key = seal_call(TRUST.regions["us-east"].relay_public, encode_regional(call))
    response = await region.post("/v1/relay", encode_global(SealedCall(home=home, sealed=box)))
    if response.status != 200:
        return response.status, await response.read()
    answer = msgspec.json.decode(await response.read(), type=SealedAnswer)
    return answer.status, open_reply(reply_key, answer.sealed)


async def test_a_travellers_call_is_answered_as_at_home_in_a_sealed_box(region: Region) -> None:
    subject = KEYS.pseudonym("user", "alice")
    await region.world.store.write_rows([row_of("item-3", subject=subject, version=9)])
    token = issue_token(KEYS, "alice", clock=region.world.clock)
    status, body = await sealed(region, RelayedCall(token=token, request=personal()))
    answer = msgspec.json.decode(body, type=HomeAnswer)
    assert (status, answer.subject_version) == (200, 9)
    status, body = await sealed(region, RelayedCall(token=token, opted_out=True))
    assert status == 200
    assert msgspec.json.decode(body)["version"] >= 1
    status, body = await sealed(region, RelayedCall(token=token, events=encode_regional(batch("event-0001"))))
    assert (status, msgspec.json.decode(body, type=EventAck).accepted) == (200, 1)
    logged = await region.log.read(after={0: 0}, limit=10)
    assert logged[0].logged.subject == subject


async def test_a_travellers_errors_are_sealed_too(region: Region) -> None:
    token = issue_token(KEYS, "alice", clock=region.world.clock)
    foreign = issue_token(OTHER, "alice", clock=region.world.clock)
    for call, status, told in (
        (RelayedCall(token="no", request=personal()), 401, "does not hold"),
        (RelayedCall(token=foreign, request=personal()), 401, "another region"),
        (RelayedCall(token=token), 400, "either a request or events or a choice"),
        (RelayedCall(token=token, request=personal(), opted_out=False), 400, "either a request or events or a choice"),
        (RelayedCall(token=token, request=personal(), events=b"{}"), 400, "either a request or events or a choice"),
        (RelayedCall(token=token, events=b"nonsense"), 400, "not valid JSON"),
        (RelayedCall(token=token, request=personal(n=0)), 400, "n is out of range"),
    ):
        assert (await sealed(region, call))[0] == status
        assert told in msgspec.json.decode((await sealed(region, call))[1])["detail"]


async def test_boxes_that_cannot_be_opened_are_refused_in_the_open(region: Region) -> None:
    status, body = await sealed(region, RelayedCall(token="x"), home="us-west")
    assert (status, b"another region" in body) == (400, True)
    await problem(await region.post("/v1/relay", encode_global(SealedCall(home="us-east", sealed=b"x" * 99))), 400)


async def test_withdrawn_items_leave_at_once_are_told_and_outlive_a_restart(
    region: Region, new_world: Callable[..., World]
) -> None:
    told = region.grid.subscribe(INVALIDATION_TOPIC)
    assert await anext(told) is None
    body = b'{"withdrawn": ["item-0", "item-1"], "restored": ["item-9", "item-1"]}'
    response = await region.post("/operator/v1/items/withdraw", body, OPERATOR)
    assert await response.json() == {"withdrawn_total": 2, "edges_told": True}
    heard = await next_invalidation(told)
    assert (heard.withdrawn, heard.restored) == (("item-0", "item-1"), ("item-9",))
    answer = await region.recommend(HomeRequest(type=RecommendationType.POPULAR))
    assert not {"item-0", "item-1"} & {item.item for item in answer.items}
    assert new_world().withdrawals.items == {"item-0", "item-1"}
    await problem(await region.post("/operator/v1/items/withdraw", b"{}", OPERATOR), 400)


async def test_no_call_restores_what_the_published_file_withdraws(region: Region) -> None:
    region.world.withdrawals.change(withdrawn=("item-1",), restored=())
    region.world.withdrawals.publish(frozenset({"item-1", "item-2"}))
    for item in (b"item-1", b"item-2"):
        answer = await region.post("/operator/v1/items/withdraw", b'{"restored": ["%s"]}' % item, OPERATOR)
        assert "published items" in (await problem(answer, 409))["detail"]
    region.world.withdrawals.publish(frozenset())
    assert region.world.withdrawals.items == {"item-1"}


async def test_an_edge_that_could_not_be_told_is_said(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(_topic: str, _message: bytes) -> None:
        raise GridUnavailableError("the grid does not answer.")

    monkeypatch.setattr(region.grid, "publish", gone)
    response = await region.post("/operator/v1/items/withdraw", b'{"withdrawn": ["item-0"]}', OPERATOR)
    assert await response.json() == {"withdrawn_total": 1, "edges_told": False}


async def test_the_status_shows_the_node(region: Region) -> None:
    response = await region.client.get("/operator/v1/status", headers=OPERATOR)
    status = msgspec.json.decode(await response.read(), type=StatusAnswer)
    assert status.active == region.world.release.release_id
