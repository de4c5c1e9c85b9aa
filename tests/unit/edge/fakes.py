"""Fakes on the edge's ports: a release source in memory, and a region as a real HTTP server on loopback."""

import asyncio
import base64
import hashlib
import ssl
import struct
from dataclasses import dataclass, field

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer

from infra.contracts import release as contract
from infra.contracts.discovery import (
    ChoiceCategory,
    ChoiceItem,
    ChoicesAnswer,
    ChoicesCall,
    SuggestAnswer,
    SuggestCall,
    Suggestion,
)
from infra.contracts.events import EventAck, EventBatch
from infra.contracts.kept_out import ItemsKeptOut
from infra.contracts.messages import (
    AwayAnswer,
    AwayRequest,
    HomeAnswer,
    HomeRequest,
    Lifetime,
    Notices,
    OptOutAnswer,
    Purge,
    ReasonCode,
    RelayedCall,
    SealedAnswer,
    SealedCall,
    SlateItem,
    Source,
    StageTrace,
)
from infra.contracts.reasons import reason
from infra.contracts.release import ChannelPointer, FileEntry, Manifest, ModelShape, ReleaseLists
from infra.contracts.residency import encode_global, encode_regional
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import AtollError, NotFoundError, UnavailableError
from infra.plumbing.http.problems import problem_body, status_of
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.sealing import open_call, seal_reply
from infra.plumbing.tokens import open_subject, verify_token

LIFETIME = Lifetime(max_age_s=60.0, stale_while_revalidate_s=30.0, stale_if_error_s=600.0)
DIM = 4


def slate(prefix: str, count: int) -> tuple[SlateItem, ...]:
    """`count` items `<prefix>-0`, `<prefix>-1`, ..."""
    why = reason(ReasonCode.FOR_YOU)
    return tuple(
        SlateItem(item=f"{prefix}-{i}", score=1.0 - i / 1000, source=Source.ANN, reason=why, title=f"Title {i}")
        for i in range(count)
    )


def answer(prefix: str = "h", count: int = 30, **changes: object) -> HomeAnswer:
    """A region's answer."""
    fields: dict[str, object] = {
        "items": slate(prefix, count),
        "release": "a" * 20,
        "region": "here",
        "personal": False,
        "lifetime": LIFETIME,
        "generated_at_ms": 1_700_000_000_000,
    }
    return HomeAnswer(**{**fields, **changes})  # type: ignore[arg-type]


def release_lists(prefix: str = "r") -> ReleaseLists:
    """Lists of a release: 150 popular items, some trending, some similar."""
    ids = tuple(f"{prefix}-{i}" for i in range(150))
    return ReleaseLists(
        popular={"all": ids, "category:drama": ids[50:70], "region:here": ids[10:120]},
        trending={"all": ids[5:25]},
        similar={item: tuple(ids[(row + step) % 150] for step in (1, 2, 3)) for row, item in enumerate(ids)},
        titles={item: f"Title of {item}" for item in ids},
    )


@dataclass
class FakeSource:
    """`edge.lists.library.ReleaseSource` in memory."""

    down: bool = False
    manifests: dict[str, Manifest] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    stable: str = ""
    refreshed: int = 0
    closed: bool = False

    def publish(self, lists: ReleaseLists, *, created_at_ms: int = 1) -> str:
        raw = msgspec.json.encode(lists)
        sha = hashlib.sha256(raw).hexdigest()
        shape = ModelShape(
            dim=DIM, history_length=4, num_items=150, num_categories=1, ranker_batch=8, num_ranking_inputs=12,
            heads=("click",), categories=("drama",),
        )  # fmt: skip
        manifest = Manifest(
            format_version=1, created_at_ms=created_at_ms, dataset="d", dataset_sha256="0" * 64, parent=None,
            origin="central", shape=shape, metrics={}, gates={},
            files={contract.LISTS: FileEntry(sha256=sha, length=len(raw))},
        )  # fmt: skip
        self.manifests[manifest.release_id] = manifest
        self.blobs[sha] = raw
        self.stable = self.stable or manifest.release_id
        return manifest.release_id

    def refresh(self) -> None:
        self.refreshed += 1
        if self.down:
            raise UnavailableError("the repository is down.")

    def channel(self, name: str) -> ChannelPointer:
        if not self.stable:
            raise NotFoundError("no such channel.")
        return ChannelPointer(channel=name, release=self.stable, published_at_ms=1)

    def manifest(self, release_id: str) -> Manifest:
        if release_id not in self.manifests:
            raise NotFoundError("no such release.")
        return self.manifests[release_id]

    def blob(self, sha256: str, length: int) -> bytes:
        return self.blobs[sha256]

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeRegion:
    """A region's API with switches. `mode`: ok, error, hang, garbage, huge, refuse, empty, overloaded, forbid."""

    keys: RegionKeys
    trust: TrustDirectory
    mode: str = "ok"
    delay_s: float = 0.0
    release: str = "a" * 20
    versions: dict[str, int] = field(default_factory=dict)
    personal_prefix: str = "p"
    items: int | None = None
    """How many items a list has; None: three times what was asked for."""
    lifetime: Lifetime = LIFETIME
    clock_off_ms: int = 0
    """How far its wall clock is ahead."""
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    ready: bool = True
    ignores_vector: bool = False
    relay_status: int = 200
    tls: ssl.SSLContext | None = None
    withdrawn: tuple[str, ...] = ()
    kept_out: tuple[ItemsKeptOut, ...] | None = None
    purges: list[tuple[str, ...]] = field(default_factory=list)
    notices_read: int = 0
    _server: TestServer | None = None
    _free: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> str:
        app = web.Application(middlewares=[self._faulty])
        app.add_routes(
            [
                web.post("/v1/recommend", self._recommend),
                web.post("/v1/away", self._away),
                web.post("/v1/relay", self._relay),
                web.post("/v1/events", self._events),
                web.post("/v1/onboarding/choices", self._choices),
                web.post("/v1/suggest", self._suggest),
                web.post("/v1/privacy/opt-out", self._opt_out),
                web.post("/v1/privacy/export", self._export),
                web.post("/v1/privacy/erase", self._erase),
                web.post("/v1/privacy/why", self._why),
                web.get("/health/ready", self._health),
            ]
        )
        self._server = TestServer(app, scheme="http" if self.tls is None else "https")
        await self._server.start_server(ssl=self.tls)
        return str(self._server.make_url("")).rstrip("/")

    async def stop(self) -> None:
        self._free.set()
        if self._server is not None:
            await self._server.close()

    def calls(self, path: str) -> list[bytes]:
        return [body for seen, _, body in self.requests if seen == path]

    @web.middleware
    async def _faulty(self, request: web.Request, handler: object) -> web.StreamResponse:
        if request.path in ("/health/ready", "/v1/notices"):
            return await self._health(request) if request.path == "/health/ready" else self._notices()
        self.requests.append((request.path, dict(request.headers), await request.read()))
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        match self.mode:
            case "error":
                return web.Response(status=500)
            case "overloaded":
                return web.Response(status=503)
            case "forbid":
                return web.Response(status=403)
            case "refuse":
                return web.Response(status=404)
            case "garbage":
                return web.Response(body=b"{not json")
            case "huge":
                return web.Response(body=b" " * (2 << 20))
            case "hang":
                await self._free.wait()
        return await handler(request)  # type: ignore[operator,no-any-return]

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.ready and self.mode in ("ok", "refuse", "empty") else 503)

    def _notices(self) -> web.Response:
        if self.mode != "ok":
            return web.Response(status=503)
        self.notices_read += 1
        now = Notices(
            boot="boot", release=None, withdrawn=self.withdrawn, withdrawn_digest=str(hash(self.withdrawn)),
            purges=tuple(Purge(number=n + 1, age_ms=0.0, purged=names) for n, names in enumerate(self.purges)),
            kept_out=self.kept_out, kept_out_digest=str(hash(self.kept_out)),
        )  # fmt: skip
        return web.Response(body=encode_global(now))

    def _answer(self, request: HomeRequest) -> HomeAnswer:
        prefix = f"{self.personal_prefix}" if request.subject else request.type.value
        return answer(
            prefix,
            0 if self.mode == "empty" else 3 * request.n if self.items is None else self.items,
            release=self.release,
            region=self.keys.region,
            personal=bool(request.subject or request.vector),
            subject_version=self.versions.get(request.subject or "", 0),
            lifetime=self.lifetime,
            degraded=("vector-release",) if self.ignores_vector else (),
            trace=(StageTrace(stage="ann", candidates_in=9, candidates_out=3, took_ms=0.5),),
            generated_at_ms=SystemClock().now_ms() + self.clock_off_ms,
        )

    async def _recommend(self, request: web.Request) -> web.Response:
        if request.headers.get("Atoll-Service-Key") != self.keys.service_key:
            return web.Response(status=403)
        call = msgspec.json.decode(await request.read(), type=HomeRequest)
        return web.Response(body=encode_regional(self._answer(call)))

    async def _away(self, request: web.Request) -> web.Response:
        call = msgspec.json.decode(await request.read(), type=AwayRequest)
        used = call.vector is not None and not self.ignores_vector
        items = slate("away-vector" if used else "away", 0 if self.mode == "empty" else 3 * call.n)
        away = AwayAnswer(
            items=items, release=self.release, region=self.keys.region, used_vector=used, lifetime=self.lifetime,
            generated_at_ms=SystemClock().now_ms() + self.clock_off_ms,
        )  # fmt: skip
        return web.Response(body=encode_global(away))

    async def _relay(self, request: web.Request) -> web.Response:
        call = msgspec.json.decode(await request.read(), type=SealedCall)
        opened, reply_key = open_call(self.keys.relay_private, call.sealed)
        inner = msgspec.json.decode(opened, type=RelayedCall)
        status, body = self.relay_status, b"{}"
        try:
            subject = open_subject(verify_token(inner.token, self.trust, clock=SystemClock()), self.keys)
            if status == 200 and inner.request is not None:
                body = encode_regional(self._answer(msgspec.structs.replace(inner.request, subject=subject)))
            elif status == 200 and inner.events is not None:
                body = encode_regional(
                    EventAck(accepted=len(msgspec.json.decode(inner.events)["events"]), duplicates=0)
                )
            elif status == 200 and inner.opted_out is not None:
                self.versions[subject] = self.versions.get(subject, 0) + 1
                body = encode_regional(OptOutAnswer(version=self.versions[subject]))
        except AtollError as error:
            status, title = status_of(error)
            body = problem_body(status, title, str(error), "x")
        return web.Response(body=encode_global(SealedAnswer(status=status, sealed=seal_reply(reply_key, body))))

    async def _events(self, request: web.Request) -> web.Response:
        batch = msgspec.json.decode(await request.read(), type=EventBatch)
        return web.Response(body=encode_regional(EventAck(accepted=len(batch.events), duplicates=0)))

    async def _choices(self, request: web.Request) -> web.Response:
        call = msgspec.json.decode(await request.read(), type=ChoicesCall)
        categories = tuple(
            ChoiceCategory(category=f"c{n}", items=tuple(ChoiceItem(item=f"c{n}-{k}") for k in range(call.items)))
            for n in range(call.categories)
        )
        return web.Response(
            body=encode_global(ChoicesAnswer(categories=categories, release=self.release, region=self.keys.region))
        )

    async def _suggest(self, request: web.Request) -> web.Response:
        call = msgspec.json.decode(await request.read(), type=SuggestCall)
        found = tuple(Suggestion(kind="item", text=f"{call.q} {n}", item=f"s-{n}") for n in range(call.n))
        return web.Response(
            body=encode_regional(
                SuggestAnswer(
                    suggestions=found, release=self.release, region=self.keys.region, personal=call.subject is not None
                )
            )
        )

    async def _export(self, request: web.Request) -> web.Response:
        return web.json_response({"subject": msgspec.json.decode(await request.read())["subject"]})

    async def _why(self, request: web.Request) -> web.Response:
        return web.json_response(msgspec.json.decode(await request.read()))

    async def _erase(self, request: web.Request) -> web.Response:
        subject = msgspec.json.decode(await request.read())["subject"]
        self.versions[subject] = self.versions.get(subject, 0) + 1
        return web.json_response({"receipt": {"mark": "m"}, "signature": "s"})

    async def _opt_out(self, request: web.Request) -> web.Response:
        subject = msgspec.json.decode(await request.read())["subject"]
        self.versions[subject] = self.versions.get(subject, 0) + 1
        return web.json_response({"version": self.versions[subject]})


def vector_header(*values: float) -> str:
    """`Atoll-User-Vector` of these numbers."""
    return base64.urlsafe_b64encode(struct.pack(f"<{len(values)}f", *values)).decode().rstrip("=")
