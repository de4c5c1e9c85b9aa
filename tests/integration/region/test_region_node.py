"""A whole region node over loopback: a true repository, true models, its own store and log."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace

from central.release.delegating import delegate
from central.release.publish import publish
from central.release.repository import init_repository, trusted_root
from infra.contracts.events import Event, EventBatch, EventType
from infra.contracts.messages import (
    INVALIDATION_TOPIC,
    HomeAnswer,
    HomeRequest,
    Invalidation,
    RecommendationType,
)
from infra.contracts.residency import RegionalMessage, encode_regional
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import SettingsError
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.telemetry import TelemetrySettings
from infra.plumbing.tuf_client.signing import create_signer
from region import rooms
from region.__main__ import main
from region.additions import commands
from region.api.withdrawing import hear_withdrawals
from region.app import run
from region.rules.regional import Withdrawals
from region.settings import RegionSettings
from tests.integration.region.tiny_release import ExactProcess, tiny_release
from tests.support.repositories import serve_static

SUBJECT = "ab" * 16
READY_WITHIN_S = 60.0


@dataclass
class Place:
    """Central's repository and one region's settings."""

    root: Path
    url: str
    keys: RegionKeys
    settings: RegionSettings
    releases: list[str] = field(default_factory=list)

    def publish(self, *, seed: int) -> str:
        release = tiny_release(self.root / "bundles", seed=seed)
        publish(
            bundle=self.root / "bundles" / release,
            repository=self.root / "repository",
            keys=self.root / "keys",
            channel="stable",
            clock=SystemClock(),
        )
        return release

    def delegate(self) -> None:
        """Leave the region's folder to the key in `own.pem`, which is made."""
        signer = create_signer(self.root / "own.pem")
        delegate(
            repository=self.root / "repository", keys=self.root / "keys", region="us-east",
            public_keys=[signer.public_key], threshold=1, clock=SystemClock(),
        )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(rooms, "RetrievalProcess", ExactProcess)
    init_repository(repository=tmp_path / "repository", keys=tmp_path / "keys", clock=SystemClock())
    (tmp_path / "root.json").write_bytes(trusted_root(tmp_path / "keys"))
    keys = RegionKeys.generate("us-east")
    keys.save(tmp_path / "region.keys")
    TrustDirectory.of([keys]).save(tmp_path / "trust")
    with serve_static(tmp_path / "repository") as server:
        settings = RegionSettings(
            node="r1", region="us-east", port=free_port(), worker_port=free_port(),
            state_directory=str(tmp_path / "state"), repository_url=server.url,
            trusted_root=str(tmp_path / "root.json"), follow=True, poll_interval_s=0.2,
            keys_file=str(tmp_path / "region.keys"),
            trust_file=str(tmp_path / "trust"), grid="memory",
            telemetry=TelemetrySettings(
                log_file=str(tmp_path / "log"), spans_file=str(tmp_path / "spans"), sample_ratio=1.0
            ),
        )  # fmt: skip
        yield Place(tmp_path, server.url, keys, settings)


class Node:
    """A running node and the calls that its edge and its operator make."""

    def __init__(self, place: Place, session: aiohttp.ClientSession) -> None:
        self._base = f"http://127.0.0.1:{place.settings.port}"
        self._keys = place.keys
        self._session = session

    async def get(self, path: str) -> tuple[int, bytes]:
        headers = {"Authorization": f"Operator {self._keys.operator_key}"}
        async with self._session.get(self._base + path, headers=headers) as response:
            return response.status, await response.read()

    async def operate(self, path: str, **body: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Operator {self._keys.operator_key}"}
        async with self._session.post(self._base + path, json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = await response.json()
        return answer

    async def post(self, path: str, message: RegionalMessage, **headers: str) -> tuple[int, bytes]:
        own = {"Atoll-Service-Key": self._keys.service_key} | headers
        async with self._session.post(self._base + path, data=encode_regional(message), headers=own) as response:
            return response.status, await response.read()

    async def recommend(self, **fields: Any) -> HomeAnswer:
        # The longest budget there is: a busy machine must not look like a missing part.
        usual: dict[str, Any] = {"type": RecommendationType.PERSONAL, "subject": SUBJECT, "timeout_ms": 60_000.0}
        request = HomeRequest(**(usual | fields))
        status, body = await self.post("/v1/recommend", request)
        assert status == 200, body
        return msgspec.json.decode(body, type=HomeAnswer)

    async def until(self, path: str, holds: bytes) -> None:
        """Wait, within a bound, until a page of the node says something."""
        async with asyncio.timeout(READY_WITHIN_S):
            while True:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    if holds in (await self.get(path))[1]:
                        return
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(place: Place) -> AsyncIterator[Node]:
    stop = asyncio.Event()
    process = asyncio.create_task(run(place.settings, stop))
    async with aiohttp.ClientSession() as session:
        node = Node(place, session)
        await node.until("/health/live", b"live")
        try:
            yield node
        finally:
            stop.set()
            await asyncio.wait_for(process, 20.0)


async def test_a_node_follows_its_channel_serves_and_says_what_it_does(place: Place) -> None:
    async with running(place) as node:
        status, body = await node.get("/health/ready")
        assert (status, b"an active release" in body) == (503, True)
        assert (await node.post("/v1/recommend", HomeRequest(type=RecommendationType.POPULAR)))[0] == 503
        first = place.publish(seed=1)
        await node.until("/health/ready", b'"ready"')
        answer = await node.recommend(type=RecommendationType.SESSION, recent=("item-3", "item-7"))
        assert answer.release == first
        assert len(answer.items) == 30
        assert not {"item-3", "item-7"} & {item.item for item in answer.items}
        assert {"user-tower", "ann", "ranker"} <= {stage.stage for stage in answer.trace}
        assert answer.degraded == ()
        now_ms = SystemClock().now_ms()
        event = Event(event_id="event-0001", type=EventType.LIKE, item="item-1", at_ms=now_ms)
        status, body = await node.post("/v1/events", EventBatch(subject=SUBJECT, events=(event,)))
        assert (status, json.loads(body)["accepted"]) == (200, 1)
        metrics = (await node.get("/metrics"))[1].decode()
        assert 'atoll_region_stage_seconds_count{stage="ranker"} 1.0' in metrics
        assert 'atoll_region_slates_total{type="session"} 1.0' in metrics
        (child,) = json.loads((await node.get("/metrics/targets"))[1])
        assert child["labels"]["process"] == "retrieval"
        assert child["labels"]["release"] == first
        assert (child["labels"]["__scheme__"], len(child["targets"])) == ("http", 1)
        # The stand-in for a retrieval process has no page.
        assert (await node.get(child["labels"]["__metrics_path__"]))[0] == 503
        assert (await node.get("/metrics/retrieval/65000"))[0] == 404
        status, body = await node.get("/operator/v1/status")
        assert json.loads(body)["active"] == first
        await node.recommend()
        second = place.publish(seed=2)
        await node.until("/operator/v1/status", b'"active":"' + second.encode())
        assert (await node.recommend(recent=("item-4",))).release == second
        # The switch is seen before it is over: the edges are still being told.
        await node.until("/operator/v1/releases", b'"in_progress":""')
        answer_back = await node.operate("/operator/v1/rollback")
        assert answer_back["to_release"] == first
        assert (await node.recommend(recent=("item-4",))).release == first
    written = "".join((place.root / name).read_text() for name in ("log", "spans"))
    assert SUBJECT not in written
    assert "item-3" not in written
    spans = [json.loads(line) for line in (place.root / "spans").read_text().splitlines()]
    by_name = {span["name"]: span for span in spans}
    assert {"POST /v1/recommend", "store", "user-tower", "ann", "ranker"} <= set(by_name)
    server_spans = {span["context"]["span_id"] for span in spans if span["name"] == "POST /v1/recommend"}
    assert by_name["ranker"]["parent_id"] in server_spans
    assert by_name["ann"]["parent_id"] in server_spans


async def test_a_node_starts_from_its_disk_when_the_repository_is_gone(place: Place) -> None:
    release = place.publish(seed=1)
    async with running(place) as node:
        await node.until("/health/ready", b'"ready"')
        await node.operate("/operator/v1/items/withdraw", withdrawn=["item-0"])
        place.delegate()
        document = '{"format": 1, "region": "us-east", "items": [], "withdrawn": ["item-1"]}'
        statement = commands.sign(document, "us-east", [place.root / "own.pem"], version=1, clock=SystemClock())
        said = await node.operate("/operator/v1/items/publish", document=document, statement=statement)
        assert (said["version"], said["withdrawn"]) == (1, 1)
        with pytest.raises(AssertionError, match="refused as unsigned"):
            await node.operate("/operator/v1/items/publish", document=document)
    place.settings = replace(place.settings, repository_url=f"http://127.0.0.1:{free_port()}", port=free_port())
    async with running(place) as node:
        await node.until("/health/ready", b'"ready"')
        answer = await node.recommend(type=RecommendationType.POPULAR)
        assert answer.release == release
        assert not {"item-0", "item-1"} & {item.item for item in answer.items}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"trusted_root": "/nowhere/root.json"}, "trusted root"),
        ({"region": "us-west"}, "key file is of region us-east"),
        ({"keys_file": "/nowhere/keys"}, "cannot read"),
        ({"rules_file": "/nowhere/rules.json"}, "cannot read"),
        ({"state_directory": "/dev/null/state"}, "state directory"),
    ],
)
async def test_settings_that_cannot_be_used_end_the_start(place: Place, change: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        await run(replace(place.settings, **change), asyncio.Event())


async def test_a_port_in_use_ends_the_start(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", place.settings.port))
        taken.listen()
        with pytest.raises(SettingsError, match="is in use"):
            await run(place.settings, asyncio.Event())


async def test_withdrawals_of_another_node_are_taken_over(tmp_path: Path) -> None:
    grid, withdrawals = MemoryGrid(clock=SystemClock()), Withdrawals(tmp_path)
    listening = asyncio.create_task(hear_withdrawals(grid, withdrawals))
    ready = grid.subscribe(INVALIDATION_TOPIC)
    assert await anext(ready) is None
    async with asyncio.timeout(10.0):
        while not withdrawals.items:
            await grid.publish(INVALIDATION_TOPIC, encode_regional(Invalidation(release="x")))
            await grid.publish(INVALIDATION_TOPIC, encode_regional(Invalidation(withdrawn=("a",))))
            await asyncio.sleep(0.01)
    assert set(withdrawals.items) == {"a"}
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening


def test_the_command_names_a_missing_settings_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--settings", str(tmp_path / "nowhere.toml")]) == 2
    assert "cannot read the settings file" in capsys.readouterr().err
