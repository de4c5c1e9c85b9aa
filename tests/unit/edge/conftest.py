"""An edge in process with fake regions around it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import generate_latest

from edge.app import Outside, make_app, runner_of
from edge.settings import EdgeSettings
from infra.plumbing.clock import SystemClock
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.service_keys import KeyRing, Scope, ServiceKeys
from infra.plumbing.telemetry import Telemetry, TelemetrySettings, start_telemetry
from infra.plumbing.tokens import issue_token
from tests.unit.edge.fakes import FakeRegion, FakeSource, release_lists

Client = TestClient[Any, Any]


class EdgeServer(TestServer):
    """A test server whose connections are those of a real edge: with the hot path."""

    def __init__(self, app: web.Application, make_runner: Callable[..., web.AppRunner]) -> None:
        super().__init__(app)
        self._make_edge_runner = make_runner

    async def _make_runner(self, **options: Any) -> web.BaseRunner:
        return self._make_edge_runner(self.app, **options)


@dataclass
class World:
    """One edge of region `here`, with two home nodes and the regions `near` and `far`."""

    keys: dict[str, RegionKeys]
    trust: TrustDirectory
    home: FakeRegion
    replica: FakeRegion
    near: FakeRegion
    far: FakeRegion
    source: FakeSource
    grid: MemoryGrid
    directory: Path
    stack: AsyncExitStack
    clients: list[Client] = field(default_factory=list)
    urls: dict[str, str] = field(default_factory=dict)
    telemetry: Telemetry | None = None

    def token(self, user: str = "alice", region: str = "here", life_s: int = 3600) -> dict[str, str]:
        token = issue_token(self.keys[region], user, clock=SystemClock(), life_s=life_s)
        return {"Authorization": f"Bearer {token}"}

    def service(self, *scopes: Scope, user: str | None = None, name: str = "shop") -> dict[str, str]:
        """Headers of a new service key; known to edges that start after."""
        path = self.directory / "service-keys.json"
        keys = ServiceKeys.load(path).with_new(name, scopes, clock=SystemClock(), days=None)
        keys.save(path)
        return {"Atoll-Key": keys.keys[-1].text, **({"Atoll-User": user} if user is not None else {})}

    def subject(self, user: str = "alice", region: str = "here") -> str:
        return self.keys[region].pseudonym("user", user)

    async def edge(self, **changes: object) -> Client:
        number = len(self.clients)
        if not self.urls:
            self.urls = {name: await region.start() for name, region in self.regions().items()}
        fields: dict[str, object] = {
            "node": f"edge-{number}",
            "region": "here",
            "port": 0,
            "state_directory": str(self.directory / f"edge-{number}"),
            "home_urls": (self.urls["home"], self.urls["replica"]),
            "away_urls": {"near": (self.urls["near"],), "far": (self.urls["far"],)},
            "repository_url": "http://unused",
            "trusted_root": "",
            "keys_file": "",
            "trust_file": "",
            "grid": "memory",
            "probe_interval_s": 0.05,
            # Generous, for machines that are busy; tests about time set their own.
            "deadline_ms": 5000,
            "fill_deadline_ms": 10_000,
            "try_timeout_ms": 5000,
            "event_deadline_ms": 5000,
            "connect_timeout_ms": 2000,
            "grid_timeout_ms": 1000.0,
            "lists_poll_s": 0.05,
            "drain_notice_s": 0.0,
            "drain_s": 0.0,
        }
        settings = EdgeSettings(**{**fields, **changes})  # type: ignore[arg-type]
        telemetry = start_telemetry(
            service="edge", region="here", node=settings.node,
            settings=TelemetrySettings(
                log_file=str(self.directory / "edge.log"), spans_file=str(self.directory / "spans.jsonl"),
                sample_ratio=1.0,
            ),
        )  # fmt: skip
        self.telemetry = telemetry
        self.stack.callback(telemetry.close)
        outside = Outside(
            settings=settings, keys=self.keys["here"], trust=self.trust, telemetry=telemetry, clock=SystemClock(),
            service_keys=KeyRing(self.directory / "service-keys.json", clock=SystemClock()),
            uniform=lambda low, high: (low + high) / 2, grid=self.grid, open_source=lambda: self.source,
        )  # fmt: skip
        app = await make_app(outside, self.stack)
        client = TestClient(EdgeServer(app, runner_of(app, settings, telemetry)))
        await self.stack.enter_async_context(client)
        self.clients.append(client)
        return client

    def regions(self) -> dict[str, FakeRegion]:
        return {"home": self.home, "replica": self.replica, "near": self.near, "far": self.far}

    def kill(self, *names: str) -> None:
        for name in names:
            self.regions()[name].mode = "error"

    def metric(self, line_start: str) -> float:
        assert self.telemetry is not None
        text = generate_latest(self.telemetry.registry).decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(line_start))


@asynccontextmanager
async def open_world(tmp_path: Path) -> AsyncIterator[World]:
    """A world whose files lie in `tmp_path`."""
    keys = {name: RegionKeys.generate(name) for name in ("here", "near", "far")}
    trust = TrustDirectory.of(list(keys.values()))
    source = FakeSource()
    release = source.publish(release_lists())
    home, replica, near, far = (
        FakeRegion(keys[name], trust, release=release) for name in ("here", "here", "near", "far")
    )
    async with AsyncExitStack() as stack:
        for region in (home, replica, near, far):
            stack.push_async_callback(region.stop)
        grid = MemoryGrid(clock=SystemClock())
        stack.push_async_callback(grid.close)
        yield World(keys, trust, home, replica, near, far, source, grid, tmp_path, stack)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as made:
        yield made
