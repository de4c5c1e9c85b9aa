"""A whole edge over loopback: a true signed repository, a true grid over its socket, the process itself."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from central.release.publish import publish
from central.release.repository import init_repository, trusted_root
from edge.__main__ import main
from edge.process import run
from edge.settings import EdgeSettings
from infra.contracts.messages import INVALIDATION_TOPIC, Invalidation
from infra.contracts.residency import encode_regional
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import SettingsError
from infra.plumbing.grid.client import SocketGrid
from infra.plumbing.grid.server import GridServer
from infra.plumbing.http.tls import ClientTls, ListenTls, client_context, listen_context
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.settings import load_settings
from infra.plumbing.tokens import issue_token
from tests.support.bundles import make_bundle
from tests.support.certificates import Authority
from tests.support.repositories import StaticServer, serve_static
from tests.unit.edge.fakes import FakeRegion

ROOT = Path(__file__).parents[3]
WITHIN_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass
class Place:
    """Central's repository with one release, one region's keys, and room for edges."""

    root: Path
    repository: StaticServer
    keys: RegionKeys
    trust: TrustDirectory
    release: str
    home_url: str = "http://127.0.0.1:9"
    grid: str = "memory"

    def settings_file(self, name: str, **changes: object) -> Path:
        fields = {
            "node": name,
            "region": "here",
            "port": free_port(),
            "state_directory": str(self.root / name),
            "home_urls": [self.home_url],
            "away_urls": {},
            "repository_url": self.repository.url,
            "trusted_root": str(self.root / "root.json"),
            "keys_file": str(self.root / "keys.json"),
            "trust_file": str(self.root / "trust.json"),
            "grid": self.grid,
            "deadline_ms": 5000,
            "fill_deadline_ms": 5000,
            "probe_interval_s": 0.1,
            "lists_poll_s": 0.1,
            "telemetry": {"log_file": str(self.root / f"{name}.log")},
            **changes,
        }
        path = self.root / f"{name}.settings.json"
        path.write_text(json.dumps(fields))
        return path

    @contextlib.asynccontextmanager
    async def edge(self, name: str, **changes: object) -> AsyncIterator[str]:
        """A running edge in this process; its base URL."""
        settings = load_settings(self.settings_file(name, **changes), EdgeSettings)
        stop = asyncio.Event()
        task = asyncio.create_task(run(settings, stop))
        try:
            yield f"{'http' if settings.tls is None else 'https'}://127.0.0.1:{settings.port}"
        finally:
            stop.set()
            await task


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    repository, central_keys = tmp_path / "repository", tmp_path / "central"
    init_repository(repository=repository, keys=central_keys, clock=SystemClock())
    (tmp_path / "root.json").write_bytes(trusted_root(central_keys))
    release = make_bundle(tmp_path / "bundles")
    publish(
        bundle=tmp_path / "bundles" / release, repository=repository, keys=central_keys, channel="stable",
        clock=SystemClock(),
    )  # fmt: skip
    keys = RegionKeys.generate("here")
    trust = TrustDirectory.of([keys])
    keys.save(tmp_path / "keys.json")
    trust.save(tmp_path / "trust.json")
    with serve_static(repository) as server:
        yield Place(tmp_path, server, keys, trust, release)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it holds: what happens in another task has no event to wait for here."""
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + WITHIN_S
    while not await holds():
        assert loop.time() < ends_s, "it did not become true"
        await asyncio.sleep(0.02)


async def answers(session: aiohttp.ClientSession, url: str, **options: Any) -> tuple[int, dict[str, str]]:
    try:
        async with session.get(url, **options) as response:
            return response.status, {**response.headers, "items": await response.text()}
    except aiohttp.ClientError:
        return 0, {}


def is_ready(session: aiohttp.ClientSession, url: str) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return (await answers(session, f"{url}/health/ready"))[0] == 200

    return ready


async def test_an_edge_whose_region_is_gone_from_the_start_answers_from_the_release(
    place: Place, session: aiohttp.ClientSession
) -> None:
    # No region, no grid, nothing on the edge's own disk: only the release repository answers.
    async with place.edge("one", grid=str(place.root / "no-grid.sock")) as url:
        await until(is_ready(session, url))
        status, headers = await answers(session, f"{url}/v1/recommendations/similar?item=item-3&n=3")
        assert (status, headers["Atoll-Step"], headers["Atoll-Release"]) == (200, "release", place.release)
        assert '"item":"item-4"' in headers["items"]
    # Started again without repository and region: what was verified lies on the disk.
    place.repository.missing.add("")
    async with place.edge("one") as url:
        await until(is_ready(session, url))
        status, headers = await answers(session, f"{url}/v1/recommendations/popular")
        assert (status, headers["Atoll-Step"]) == (200, "release")


async def test_an_edge_speaks_tls_to_its_callers_and_mutual_tls_to_its_region(place: Place, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    files = {name: tuple(map(str, authority.issue(name))) for name in ("edge", "region", "edge-client")}
    ours = ListenTls(
        certificate_file=files["region"][0], key_file=files["region"][1], client_ca_file=str(authority.file)
    )
    region = FakeRegion(
        place.keys, place.trust, release=place.release, tls=listen_context(ours, clock=SystemClock()).context
    )
    place.home_url = await region.start()
    assert place.home_url.startswith("https://")
    tls = {"certificate_file": files["edge"][0], "key_file": files["edge"][1]}
    client = {"certificate_file": files["edge-client"][0], "key_file": files["edge-client"][1]}
    callers = client_context(ClientTls(ca_file=str(authority.file)), clock=SystemClock()).context
    token = {"Authorization": f"Bearer {issue_token(place.keys, 'alice', clock=SystemClock())}"}
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=callers)) as session,
        place.edge("good", tls=tls, regions_tls={"ca_file": str(authority.file), **client}) as good,
        place.edge("no-certificate", tls=tls, regions_tls={"ca_file": str(authority.file)}) as without,
    ):
        for url, steps in ((good, ("home", "fresh")), (without, ("release", "release"))):
            await until(is_ready(session, url))
            for step in steps:
                status, headers = await answers(session, f"{url}/v1/recommendations/personal?n=2", headers=token)
                assert (status, headers["Atoll-Step"]) == (200, step)
        plain = good.replace("https", "http")
        assert (await answers(session, f"{plain}/health/live"))[0] == 0
    await region.stop()


async def test_two_edges_share_lists_and_hear_of_events_over_the_grid(
    place: Place, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    path = tmp_path / "grid"
    server = GridServer(bytes_max=1 << 20, clock=SystemClock())
    await server.start(path)
    region = FakeRegion(place.keys, place.trust, release=place.release)
    place.home_url, place.grid = await region.start(), str(path)
    teller = SocketGrid(path, clock=SystemClock())
    token = {"Authorization": f"Bearer {issue_token(place.keys, 'alice', clock=SystemClock())}"}
    subject = place.keys.pseudonym("user", "alice")
    async with place.edge("one") as one, place.edge("two") as two:
        for url in (one, two):
            await until(is_ready(session, url))
        personal = "/v1/recommendations/personal?n=2"

        async def from_grid(url: str, step: str) -> bool:
            return (await answers(session, url + personal, headers=token))[1].get("Atoll-Step") == step

        await until(lambda: from_grid(one, "fresh"))
        await until(lambda: from_grid(two, "fresh"))
        region.versions[subject] = 1
        message = Invalidation(subject=subject, subject_version=1, consumed=("p-0",))
        await teller.publish(INVALIDATION_TOPIC, encode_regional(message))

        async def changed(url: str) -> bool:
            return '"p-0"' not in (await answers(session, url + personal, headers=token))[1].get("items", '"p-0"')

        for url in (one, two):
            await until(lambda url=url: changed(url))  # type: ignore[misc]
        # The grid goes, and comes back: nobody notices, and personal lists are asked for anew.
        await server.close()
        assert (await answers(session, one + personal, headers=token))[0] == 200
    await teller.close()
    await region.stop()


def test_settings_that_cannot_be_used_are_said_and_end_the_process(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (place.root / "bad.json").write_text('{"node": 1}')
    other = RegionKeys.generate("elsewhere")
    other.save(place.root / "other.json")
    for path, says in (
        (place.root / "missing.json", "cannot read the settings file"),
        (place.root / "bad.json", "is not usable"),
        (place.settings_file("a", trusted_root=str(place.root / "nowhere")), "cannot read trusted_root"),
        (place.settings_file("b", keys_file=str(place.root / "other.json")), "belongs to another region"),
        (place.settings_file("c", keys_file=str(place.root / "nowhere")), "cannot read"),
    ):
        assert main(["--settings", str(path)]) == 2
        assert says in capsys.readouterr().err


async def test_a_port_in_use_is_said(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = load_settings(place.settings_file("one", port=taken.getsockname()[1]), EdgeSettings)
        with pytest.raises(SettingsError, match="is in use"):
            await run(settings, asyncio.Event())


async def test_sigterm_ends_the_process_with_zero(place: Place, session: aiohttp.ClientSession) -> None:
    path = place.settings_file("one")
    settings = load_settings(path, EdgeSettings)
    process = subprocess.Popen([sys.executable, "-m", "edge", "--settings", str(path)], cwd=ROOT)  # noqa: ASYNC220
    try:
        await until(is_ready(session, f"http://127.0.0.1:{settings.port}"))
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 15) == 0
    finally:
        process.kill()
        process.wait()
