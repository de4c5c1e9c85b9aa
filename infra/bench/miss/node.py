"""A real region process over a given release, with subjects in its store, and the calls that its edge would make."""

import asyncio
import contextlib
import http.client
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from central.release.repository import init_repository, trusted_root
from infra.bench.catalogue import BenchRequest
from infra.bench.miss.kept import kept_release, kept_suggestions, link_tree
from infra.bench.serving.processes import HOST, UP_WITHIN_S, Server, family, free_port
from infra.contracts.messages import HomeAnswer, HomeRequest, RecommendationType
from infra.contracts.release import Manifest
from infra.local.tiers import source_root, tier_python
from infra.plumbing.catalogue.reading import open_catalogue
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.errors import InvalidInputError, UnavailableError
from infra.plumbing.keys import RegionKeys, TrustDirectory
from region.releases.state import RegionReleases
from region.settings import RegionSettings
from region.store.opening import open_store
from region.store.port import HistoryEntry, Interactions, UserRow

REGION = "us-east"
SUBJECTS = 1_000
EVENTS = 60
BUILD_WITHIN_S = 1_800.0
LOADED_WITHIN_S = 300.0
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Node:
    """A region that answers, and whom it knows."""

    server: Server
    key: str
    operator_key: str
    subjects: tuple[str, ...]
    state: Path

    @property
    def pids(self) -> list[int]:
        """The region process and its retrieval process."""
        return family(self.server.pid)


def made_release(request: BenchRequest, num_items: int) -> Path:
    """A synthetic release, made in central's environment and kept if it is large; or that of `--set release=DIR`.

    Raises:
        UnavailableError: it could not be made; says why.
    """
    given = request.options.get("release")
    if given is not None:
        return _checked_release(Path(given))

    def make(out: Path) -> Path:
        request.progress.advance(0, 1, f"making a release of {num_items:,} items")
        made = subprocess.run(
            [tier_python("central", request.environments), "-m", "infra.bench.miss.synthetic", "--items",
             str(num_items), "--out", str(out)],
            cwd=source_root(), capture_output=True, text=True, timeout=BUILD_WITHIN_S, check=False,
        )  # fmt: skip
        if made.returncode:
            raise UnavailableError(f"the synthetic release could not be made: {made.stderr[-600:]}")
        request.progress.advance(1, 1, f"making a release of {num_items:,} items")
        return Path(made.stdout.strip().splitlines()[-1])

    return kept_release(request, num_items, make)


def _checked_release(folder: Path) -> Path:
    if not (folder / "manifest.json").is_file():
        raise InvalidInputError(f"{folder} is no release directory.", fix="Name one that ./atoll release build made.")
    return folder


@contextlib.contextmanager
def running_node(request: BenchRequest, release: Path, *, extra: dict[str, object] | None = None) -> Iterator[Node]:
    """A region process that answers from `release`, until the block ends.

    Args:
        request: whose folder and environments are used.
        release: a release directory; its files are linked, not copied.
        extra: further settings of the region.

    Raises:
        UnavailableError: it did not come up.
    """
    place = request.work / f"node-{release.name[:8]}"
    settings, keys = make_settings(place, extra or {})
    install_release(release, Path(settings.state_directory))
    subjects = _seed(settings, release, request.clock)
    path = place / "region.json"
    path.write_bytes(msgspec.json.encode(settings))
    state = Path(settings.state_directory)
    try:
        with kept_suggestions(release, state), _process(request, path, place) as process:
            _await(process, settings.port, request.clock, place)
            server = Server("region", settings.port, process.pid)
            yield Node(server, keys.service_key, keys.operator_key, subjects, state)
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _process(request: BenchRequest, settings: Path, place: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """A region with these settings, which may not be up yet; ended when the block ends."""
    with (place / "out.log").open("ab") as log:
        process = subprocess.Popen(
            [tier_python("region", request.environments), "-m", "region", "--settings", str(settings)],
            cwd=source_root(), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10.0)
            if process.poll() is None:
                process.kill()
                process.wait()


def make_settings(place: Path, extra: dict[str, object]) -> tuple[RegionSettings, RegionKeys]:
    """Settings and keys of a region whose files lie in `place`; its repository is not there, as nothing is pulled."""
    place.mkdir(parents=True)
    keys = RegionKeys.generate(REGION)
    keys.save(place / "keys.json")
    TrustDirectory.of([keys]).save(place / "trust.json")
    # A root that verifies.
    init_repository(repository=place / "repository", keys=place / "central", clock=SystemClock())
    (place / "root.json").write_bytes(trusted_root(place / "central"))
    told: dict[str, object] = {
        "node": "r1", "region": REGION, "port": free_port(), "worker_port": free_port(),
        "state_directory": str(place / "state"), "run_directory": str(place), "repository_url": f"http://{HOST}:9",
        "trusted_root": str(place / "root.json"), "keys_file": str(place / "keys.json"),
        "trust_file": str(place / "trust.json"), "grid": "memory",
        "telemetry": {"log_file": str(place / "log"), "spans_file": str(place / "spans")},
    }  # fmt: skip
    try:
        return msgspec.convert({**told, **extra}, RegionSettings), keys
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"this region has no such setting: {error}.") from None


def install_release(release: Path, state: Path) -> None:
    """The release as a pulled and active one."""
    link_tree(release, state / "releases" / release.name)
    (state / "state.json").write_bytes(msgspec.json.encode(RegionReleases(active=release.name)))


def _seed(settings: RegionSettings, release: Path, clock: Clock) -> tuple[str, ...]:
    """SUBJECTS rows of EVENTS interactions each, with items of one run of the catalogue and a few others."""
    ids = open_catalogue(release).ids.texts
    rng = np.random.default_rng(7)
    now_ms = clock.now_ms()
    rows = []
    for number in range(SUBJECTS):
        places = rng.integers(0, len(ids), size=EVENTS)
        entries = Interactions.of(
            HistoryEntry(item=ids[place], strength=int(rng.integers(3, 6)), at_ms=now_ms - DAY_MS + 60_000 * at)
            for at, place in enumerate(places.tolist())
        )
        rows.append(UserRow(subject=f"{number:032x}", version=1, history=entries, last_event_ms=now_ms - DAY_MS))

    async def write() -> None:
        store = open_store(settings, clock=SystemClock())
        try:
            for start in range(0, len(rows), 500):
                await store.write_rows(rows[start : start + 500])
        finally:
            await store.close()

    asyncio.run(write())
    return tuple(row.subject for row in rows)


def _await(process: "subprocess.Popen[bytes]", port: int, clock: Clock, place: Path) -> None:

    ends_s = clock.monotonic_s() + LOADED_WITHIN_S + UP_WITHIN_S
    while process.poll() is None and clock.monotonic_s() < ends_s:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(HOST, port, timeout=5.0)
            try:
                connection.request("GET", "/health/ready")
                if connection.getresponse().status == 200:
                    return
            finally:
                connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    raise UnavailableError(f"the region did not come up: {(place / 'out.log').read_text(errors='replace')[-800:]}")


def personal(subject: str, n: int = 10) -> HomeRequest:
    """What an edge asks on a miss."""
    return HomeRequest(type=RecommendationType.PERSONAL, subject=subject, n=n)


def decode(body: bytes) -> HomeAnswer:
    """A region's answer."""
    return msgspec.json.decode(body, type=HomeAnswer)


def shape_of(release: Path) -> Manifest:
    """The manifest of a release directory."""
    return msgspec.json.decode((release / "manifest.json").read_bytes(), type=Manifest)
