"""A device gateway under a cohort of phones with real secure aggregation; what a round costs a phone.

One gateway process, 300 phones in one cohort, a tenth of which drop out after they shared their secrets, so that the
gateway has to take their pair masks off. Each phone does the whole protocol in a visit of its own: keys, certificates,
shares, masks, signatures. The update is a slice of items (rank 16). `device_rounds_per_s` is phones over the CPU
seconds of the gateway process: what one gateway does on a core of its own, while the phones of this machine need the
other core. Phones have a processor each in the world, and here one for all: so they think (keys, shares, masks) one
after the other while the gateway rests, and then talk all at once, as phones do whose round has moved on. In
`spread_device_rounds_per_s` they do not wait for each other: between two messages the gateway's core is somebody
else's, and its caches are cold. Sums are compared with the plain sum. A phone's epoch, memory and bytes are measured
in the device's own environment.
Options: `phones` (default 300), `slice` (items in the slice, default 336).
"""

import asyncio
import json
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import aiohttp
import msgspec
import numpy as np
import psutil

from federation.device.rounds import DeviceRound
from federation.device.training import LocalTraining
from federation.flower.supervisor import free_ports
from federation.messages import CheckIn, Float32Array, Part, RegionalSum, RoundPlan, from_bytes, to_bytes
from federation.phones.link import GatewayLink, RefusedError
from federation.secure_aggregation.client import Trust
from federation.secure_aggregation.identity import DeviceIdentity, enrol
from federation.secure_aggregation.ring import from_ring, to_ring
from federation.settings import CohortSettings, GatewaySettings
from infra.bench.catalogue import BenchRequest
from infra.bench.results import Bar, Measured, at_least, at_most, medians
from infra.local.tiers import source_root, tier_python
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.environment import environment_with
from infra.plumbing.errors import AtollError
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.telemetry import TelemetrySettings
from infra.plumbing.tokens import issue_token

R = TypeVar("R")
PHONES, SLICE, RANK, DIM = 300, 336, 16, 64
DROPOUT_SHARE = 0.1
CLIPPING_NORM = 10.0
NOISE = 1e-9
"""As good as none, so that the sum can be compared; the accounting is another measurement's."""
REGION, RELEASE = "us-east", "0" * 20
LARGE = {"items": 3706, "dim": 128, "history": 200}
_UP_S = 30.0


class BenchError(AtollError):
    """The measurement did not come about."""


@dataclass(slots=True)
class Phone:
    """A device with its owner's token."""

    token: str
    identity: DeviceIdentity
    update: Float32Array
    leaves: bool


def run(request: BenchRequest) -> Measured:
    """Measure `request.runs` rounds of a fresh gateway each, and one phone."""
    phones = 30 if request.quick else int(request.number("phones", PHONES))
    items = int(request.number("slice", SLICE))
    rounds = []
    for number in range(request.runs):
        request.progress.advance(number, request.runs, "rounds through a gateway")
        found = _one_round(request, f"gateway-{number}", phones, items, together=True)
        spread = _one_round(request, f"spread-{number}", phones, items, together=False)
        found["spread_device_rounds_per_s"] = spread["device_rounds_per_s"]
        found["wrong_sums"] += spread["wrong_sums"]
        rounds.append(found)
    wrong = sum(one["wrong_sums"] for one in rounds)
    figures = medians(rounds) | {"wrong_sums": wrong} | _phone(request, items)
    bars = (
        at_least("phones a gateway serves, secure sum included", figures["device_rounds_per_s"], 800, unit="1/s"),
        at_most("up and down per phone and round", figures["bytes_per_device_round"], 500_000, unit="bytes"),
        at_most("a phone's process", figures["device_rss_mb"], 150, unit="MB"),
        at_most("a local epoch of 200 events, tower included", figures["device_epoch_ms"], 100, unit="ms"),
        Bar(bar="sums that were not the plain sum", figure=figures["wrong_sums"], goal=0, unit="sums",
            met=figures["wrong_sums"] == 0),
    )  # fmt: skip
    notes = (
        f"{phones} phones, {items} items x (rank {RANK} + 1) numbers, {DROPOUT_SHARE:.0%} drop out after sharing",
        "device_rounds_per_s is per CPU second of the gateway process; wall_device_rounds_per_s has the phones' own "
        "cryptography on the same machine in it",
        "the phone: dim 64, 1,682 items, history 100; *_large: dim 128, 3,706 items, history 200",
    )
    return Measured(figures=figures, bars=bars, notes=notes)


def _one_round(request: BenchRequest, name: str, phones: int, items: int, *, together: bool) -> dict[str, float]:
    folder = request.work / name
    keys = RegionKeys.generate(REGION)
    with started_gateway(folder, keys, request, policy(phones)) as (url, process, round_key):
        return asyncio.run(_drive(url, process, round_key, keys, phones, items, together=together))


def policy(phones: int) -> CohortSettings:
    """A cohort of all phones; the round ends when everybody who stays has reported."""
    return CohortSettings(
        count_min=3, goal_count=phones, over_selection=1.0, selection_s=60.0, sharing_s=60.0, reporting_s=20.0,
        unmasking_s=30.0, noise_multiplier_min=0.0, parameters_max=1 << 20, epsilon_max=None,
    )  # fmt: skip


@contextmanager
def started_gateway(
    folder: Path, keys: RegionKeys, request: BenchRequest, cohort: CohortSettings
) -> Iterator[tuple[str, psutil.Process, str]]:
    """A gateway process around a block: its address, its process and its round key."""
    folder.mkdir(parents=True)
    keys.save(folder / "keys.json")
    TrustDirectory.of([keys]).save(folder / "trust.json")
    (port,) = free_ports(1)
    settings = GatewaySettings(
        node="gateway", region=keys.region, port=port, state_directory=str(folder / "state"),
        keys_file=str(folder / "keys.json"), trust_file=str(folder / "trust.json"), cohort=cohort,
        telemetry=TelemetrySettings(log_file=str(folder / "log")),
    )  # fmt: skip
    (folder / "gateway.json").write_bytes(msgspec.json.encode(settings))
    process = subprocess.Popen(
        [tier_python("federation", request.environments), "-m", "federation.gateway", "--settings",
         str(folder / "gateway.json")],
        cwd=source_root(), env=environment_with({"OPENBLAS_NUM_THREADS": "1"}), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        key_file = folder / "state" / "round.key"
        _wait_until_up(process, port, key_file, request.clock)
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid), key_file.read_text().strip()
    finally:
        process.terminate()
        process.wait(20)


def _wait_until_up(process: "subprocess.Popen[bytes]", port: int, key_file: Path, clock: Clock) -> None:
    ends_s = clock.monotonic_s() + _UP_S
    while not (key_file.exists() and _listens(port)):
        if process.poll() is not None or clock.monotonic_s() > ends_s:
            raise BenchError("the gateway did not come up.")
        os.sched_yield()


def _listens(port: int) -> bool:
    return any(
        one.laddr.port == port and one.status == psutil.CONN_LISTEN
        for one in psutil.net_connections("tcp")
        if one.laddr
    )


async def _drive(
    url: str, gateway: psutil.Process, round_key: str, keys: RegionKeys, phones: int, items: int, *,
    together: bool,
) -> dict[str, float]:  # fmt: skip
    clock, rng = SystemClock(), np.random.default_rng(1)
    trust = Trust(REGION, keys_issuer(keys))
    everybody = [make_phone(keys, f"u{index}", (items, RANK + 1), rng, clock) for index in range(phones)]
    plan = _plan(items, rng)
    timeout = aiohttp.ClientTimeout(total=120)
    headers = {"Authorization": f"Bearer {round_key}"}
    with ThreadPoolExecutor(1) as worker:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            link = Crowd(session, url, worker, waited_for=phones if together else 0)
            async with session.post(f"{url}/v1/rounds", data=msgspec.json.encode(plan), headers=headers) as answer:
                answer.raise_for_status()
            before, began_s = gateway.cpu_times(), clock.monotonic_s()
            await asyncio.gather(*(_take_part(phone, link, trust, clock) for phone in everybody))
            async with session.get(f"{url}/v1/rounds/{plan.round_id}?wait_s=30", headers=headers) as answer:
                result = msgspec.json.decode(await answer.read(), type=RegionalSum)
            wall_s, after = clock.monotonic_s() - began_s, gateway.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return {
        "device_rounds_per_s": phones / cpu_s, "wall_device_rounds_per_s": phones / wall_s,
        "gateway_cpu_ms_per_device": 1000.0 * cpu_s / phones,
        "bytes_per_device_round": (link.bytes_up + link.bytes_down) / phones,
        "wrong_sums": float(_is_wrong(result, plan, everybody)),
    }  # fmt: skip


class Crowd(GatewayLink):
    """The way of many phones to one gateway: `waited_for` of them think one after the other and go on together."""

    def __init__(self, session: aiohttp.ClientSession, url: str, worker: Executor, *, waited_for: int) -> None:
        super().__init__(session, url, worker)
        self._here = waited_for
        self._thoughts: list[tuple[Callable[[], object], asyncio.Future[object]]] = []
        self._thinking: asyncio.Task[None] | None = None

    async def run(self, work: Callable[[], R]) -> R:
        """See `GatewayLink.run`. Begins when every phone that is still here has something to think about."""
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._thoughts.append((work, done))
        self._think_if_all()
        return cast("R", await done)

    def left(self) -> None:
        """A phone has gone: nobody waits for it."""
        self._here -= 1
        self._think_if_all()

    def _think_if_all(self) -> None:
        if self._thoughts and len(self._thoughts) >= self._here:
            thoughts, self._thoughts = self._thoughts, []
            self._thinking = asyncio.create_task(self._think(thoughts))

    async def _think(self, thoughts: Sequence[tuple[Callable[[], object], asyncio.Future[object]]]) -> None:
        try:
            found = await super().run(lambda: [work() for work, _ in thoughts])
        except Exception as error:
            # Honest phones, all of them: what one cannot do ends the measurement.
            thoughts[0][1].set_exception(error)
            return
        for (_, done), result in zip(thoughts, found, strict=True):
            done.set_result(result)


async def _take_part(phone: Phone, link: Crowd, trust: Trust, clock: Clock) -> None:
    trained = LocalTraining(phone.update, 200, 0.0, 0.0, clipped=True)
    try:
        async with link.visit(phone.token) as visit:
            session = visit.greeting.session
            device = await link.run(
                lambda: DeviceRound(
                    session, identity=phone.identity, trust=trust, now_ms=clock.now_ms(), entropy=secrets.token_bytes
                )
            )
            asking = CheckIn(releases=(RELEASE,), session=device.session, advert=device.advert)
            answer = await visit.check_in(asking)
            await visit.take_part(device, answer, lambda _plan: trained, leave_at=1 if phone.leaves else 3)
    except RefusedError as error:
        raise BenchError(f"the gateway refused a phone: {error}.") from None
    finally:
        link.left()


def make_phone(
    keys: RegionKeys, user: str, shape: tuple[int, int], rng: np.random.Generator, clock: Clock
) -> Phone:  # fmt: skip
    """A phone of `user` with a random update of the clipping norm."""
    update = rng.normal(size=shape)
    update *= CLIPPING_NORM / np.linalg.norm(update)
    identity = enrol(
        region=keys.region, issuer_private=keys.issuer_private, device_private=secrets.token_bytes(32),
        expires_ms=clock.now_ms() + 3_600_000,
    )  # fmt: skip
    token = issue_token(keys, user, clock=clock)
    return Phone(token, identity, update.astype(np.float32), bool(rng.random() < DROPOUT_SHARE))


def keys_issuer(keys: RegionKeys) -> bytes:
    """The issuer's public key of a region."""
    return TrustDirectory.of([keys]).regions[keys.region].issuer_public


def _plan(items: int, rng: np.random.Generator) -> RoundPlan:
    return RoundPlan(
        round_id=secrets.token_hex(16), release=RELEASE, part=Part.ITEMS, dim=DIM, rank=RANK,
        basis=to_bytes(rng.normal(size=(DIM, RANK))), core=to_bytes(np.zeros((items, RANK))),
        rows=np.arange(items, dtype="<i4").tobytes(), clipping_norm=CLIPPING_NORM, noise_multiplier=NOISE,
    )  # fmt: skip


def _is_wrong(result: RegionalSum, plan: RoundPlan, phones: list[Phone]) -> bool:
    """Whether the sum differs from the plain ring sum of the phones that stayed by more than noise and float32."""
    stayed = [phone.update for phone in phones if not phone.leaves]
    if result.weight != len(stayed):
        return True
    plain = np.zeros(plan.length, dtype=np.uint32)
    for update in stayed:
        plain += to_ring(update.ravel(), clipping_norm=CLIPPING_NORM)
    wanted = from_ring(plain, clipping_norm=CLIPPING_NORM)
    found = from_bytes(result.total, result.shape, what="sum").ravel()
    return not np.allclose(found, wanted, atol=2 * CLIPPING_NORM / (1 << 20), rtol=1e-6)


def _phone(request: BenchRequest, items: int) -> dict[str, float]:
    """What a phone of the usual and of the large size needs, in the device's own environment."""
    usual = _probed(request, "usual", {"items": 1682, "dim": 64, "history": 100}, items)
    found = {
        "device_epoch_ms": usual["epoch_ms"],
        "device_rss_mb": usual["rss_mb"],
        "device_tower_ms": usual["tower_ms"],
    }
    if not request.quick:
        large = _probed(request, "large", LARGE, 2 * items)
        found |= {"device_epoch_large_ms": large["epoch_ms"], "device_rss_large_mb": large["rss_mb"]}
    return found


def _probed(request: BenchRequest, name: str, size: dict[str, int], items: int) -> dict[str, float]:
    release = request.work / name / RELEASE
    request.progress.advance(0, 1, f"a phone of the {name} size")
    options = [word for key, value in size.items() for word in (f"--{key}", str(value))]
    _python(request, "central", "infra.bench.federated.phone_release", "--out", str(release), *options)
    text = _python(
        request, "device", "infra.bench.federated.phone_probe", "--release", str(release), "--slice", str(items)
    )
    found: dict[str, float] = json.loads(text)
    return found


def _python(request: BenchRequest, tier: str, module: str, *arguments: str) -> str:
    command = [tier_python(tier, request.environments), "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=source_root(), env=environment_with({"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}),
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if done.returncode:
        raise BenchError(f"{module} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout
