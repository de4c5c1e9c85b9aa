"""Federated rounds in a real Flower deployment on one machine: 1,000 phones in 3 regions, then kill -9 at random.

First: one round over three gateways and 1,000 simulated phones, a tenth of which drop out at a random step. `round_s`
is the ServerApp's own time of the round, from booking to the step, `selecting_s` to `unmasking_s` how much of it each
phase took where it took longest, `around_s` the rest; the bar wants all three regions in its sum. Phones
have short histories (20 events), because all of them share this machine. Then: 10 rounds over 60 phones while a
gateway, a SuperNode or the ServerApp is killed with SIGKILL about every ten seconds. Afterwards everything that was
written is read again: `wrong_sums` counts rounds whose mean is not that of the sums in the gateways' journals,
`double_bookings` rounds that the ledger holds twice, or holds although they are none of the outcome's. Where kills come
faster than this machine starts a process again, rounds could go on for ever: killing stops after KILLED_S_MAX
(`rounds_while_killing` were through by then), and a run that is not through KILLED_RUN_S_MAX after its start is ended
and judged by what it had written (`rounds_missing`).
Options: `phones` (default 1000), `rounds` (under killing, default 10), `kill_every_s` (default 10), `seed`.
"""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import psutil

from federation.flower.deployment import DeploymentError, RunOptions, run_rounds
from federation.flower.plan import PROGRESS_FILE, SERVER_APP_FILE, PrivacyPlan, RegionLink, TrainingPlan
from federation.flower.state import RUN_STATE_FILE, RunState
from federation.flower.supervisor import free_ports
from federation.gateway.journal import Journal
from federation.messages import Phase, from_bytes
from federation.privacy.ledger import EntryKind, read_ledger
from federation.rounds.outcome import RoundOutcome, RunOutcome
from federation.settings import CohortSettings, GatewaySettings, PhonesSettings
from infra.bench.catalogue import BenchRequest
from infra.bench.results import Bar, Measured
from infra.local.tiers import source_root, tier_python
from infra.plumbing.environment import environment_with
from infra.plumbing.errors import AtollError
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.telemetry import TelemetrySettings

REGIONS = ("us-central", "us-east", "us-west")
RELEASE, POPULATION = "0" * 20, "bench"
EVENTS, ITEMS = 20, 400
DROPOUT_SHARE = 0.1
KILLED_S_MAX, KILLED_RUN_S_MAX = 150.0, 420.0
ROUND_S_MAX = 60.0
ANSWERED_S_MAX = 150.0
"""How long central waits for a round's sums here: a round that takes longer than its goal is to be measured, not void.
"""


class BenchError(AtollError):
    """The measurement did not come about."""


@dataclass(slots=True)
class Deployment:
    """Gateways and phones as processes in one folder."""

    folder: Path
    request: BenchRequest
    keys: dict[str, RegionKeys]
    ports: dict[str, int]
    gateways: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def links(self) -> dict[str, RegionLink]:
        """How Flower reaches the gateways."""
        return {
            region: RegionLink(
                gateway_url=f"http://127.0.0.1:{port}", round_key_file=str(self.folder / region / "round.key")
            )
            for region, port in self.ports.items()
        }

    def start_gateway(self, region: str) -> None:
        """Start one region's gateway, or start it again."""
        self.gateways[region] = self.start("federation.gateway", self.folder / f"{region}.json")

    def start(self, module: str, settings: Path) -> "subprocess.Popen[bytes]":
        """A process of the federation's tier."""
        return subprocess.Popen(
            [tier_python("federation", self.request.environments), "-m", module, "--settings", str(settings)],
            cwd=source_root(), env=environment_with({"OPENBLAS_NUM_THREADS": "1"}), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip


def run(request: BenchRequest) -> Measured:
    """One large round, then rounds under killing; `runs` repeats neither, since each is minutes of work."""
    phones = 90 if request.quick else int(request.number("phones", 1000))
    make_release(request)
    request.progress.advance(0, 2, f"a round over {phones} phones")
    with deployment(request, "large", phones) as large:
        outcome = _rounds(large, rounds=1, timeout_s=300.0, answered_s=ANSWERED_S_MAX)
        figures = _large(large, outcome, phones)
    request.progress.advance(1, 2, f"rounds under kill -9; the large one took {figures['round_s']:.0f} s")
    figures |= _under_killing(request)
    regions = len(REGIONS)
    bars = (
        # A round that was void soon is no quick round.
        Bar(bar=f"a round over {phones} phones in {regions} regions, all of them in its sum", figure=figures["round_s"],
            goal=ROUND_S_MAX, unit="s",
            met=figures["round_s"] <= ROUND_S_MAX and figures["regions_in_sum"] == regions
            and figures["large_wrong_sums"] == 0),
        Bar(bar="wrong sums under kill -9", figure=figures["wrong_sums"], goal=0, unit="rounds",
            met=figures["wrong_sums"] == 0),
        Bar(bar="double bookings under kill -9", figure=figures["double_bookings"], goal=0, unit="rounds",
            met=figures["double_bookings"] == 0),
        Bar(bar="rounds under kill -9 that came to no end", figure=figures["rounds_missing"], goal=0, unit="rounds",
            met=figures["rounds_missing"] == 0),
    )  # fmt: skip
    notes = (
        "one run: a round and ten rounds under killing take five minutes",
        "the phones' own cryptography, a thousand phones' on one core, is in round_s",
    )
    return Measured(figures=figures, bars=bars, notes=notes)


def _large(world: Deployment, outcome: RunOutcome, phones: int) -> dict[str, float]:
    """How the large round went, its sum checked like those under killing."""
    (one,) = outcome.rounds
    return {
        "round_s": one.took_s, "phones": float(phones), "updates": float(outcome.devices),
        "regions_in_sum": float(sum(part.phase == Phase.CLOSED for part in one.regions)) if one.ok else 0.0,
        "large_wrong_sums": checked_afterwards(world.folder, outcome)["wrong_sums"],
    } | _phases(world.folder, one)  # fmt: skip


def _phases(folder: Path, one: RoundOutcome) -> dict[str, float]:
    """Where the round's time went: each phase in the region where it took longest, and all that is around them."""
    records = [Journal(folder / region / "rounds").read(one.round_id) for region in REGIONS]
    found = [record.phases_s for record in records if record is not None]
    phases = {f"{phase}_s": max(of.get(phase, 0.0) for of in found) for of in found for phase in of}
    return phases | {"around_s": one.took_s - max((sum(of.values()) for of in found), default=0.0)}


def _under_killing(request: BenchRequest) -> dict[str, float]:
    rounds = 2 if request.quick else int(request.number("rounds", 10))
    with deployment(request, "killing", 60) as small:
        killer = Killer(small, every_s=request.number("kill_every_s", 10.0), seed=int(request.number("seed", 1)))
        killer.start()
        began_s = request.clock.monotonic_s()
        try:
            outcome = _rounds(small, rounds=rounds, timeout_s=KILLED_RUN_S_MAX)
        except DeploymentError as error:
            outcome = outcome_so_far(small.folder, str(error))
        finally:
            killer.end()
        checked = checked_afterwards(small.folder, outcome)
    return {
        "kills": float(killer.kills), "killed_run_s": request.clock.monotonic_s() - began_s,
        "rounds_while_killing": float(killer.rounds_seen),
        "rounds_ok": float(sum(one.ok for one in outcome.rounds)),
        "rounds_void": float(sum(not one.ok for one in outcome.rounds)),
        "rounds_missing": float(rounds - len(outcome.rounds)), **checked,
    }  # fmt: skip


def outcome_so_far(folder: Path, stopped: str) -> RunOutcome:
    """What a run without an outcome had done: its finished rounds are in the state that it would have gone on from."""
    try:
        state = msgspec.json.decode((folder / "run" / "outcome" / RUN_STATE_FILE).read_bytes(), type=RunState)
    except FileNotFoundError:
        state = RunState.fresh("")
    return RunOutcome(
        release=RELEASE, population=POPULATION, rounds=state.rounds, devices=0, ok=False, epsilon=None,
        epsilon_released=None, delta=0.0, adapter_path="", stopped=stopped,
    )  # fmt: skip


def checked_afterwards(folder: Path, outcome: RunOutcome) -> dict[str, float]:
    """What journals and ledger say about a run that has ended."""
    wrong = 0
    for one in outcome.rounds:
        totals, weight = np.zeros((8, 8)), 0
        used = {part.region for part in one.regions if part.phase == Phase.CLOSED}
        for region in used:
            record = Journal(folder / region / "rounds").read(one.round_id)
            if record is None or record.result is None or record.result.phase is not Phase.CLOSED:
                wrong += 1
                continue
            totals += from_bytes(record.result.total, record.result.shape, what="journal")
            weight += record.result.weight
        mean = float(np.linalg.norm(totals / max(1, weight)))
        wrong += bool(used) and abs(mean - one.update_norm) > 1e-6 * max(1.0, mean)
    entries = read_ledger(folder / "ledger.jsonl")
    ids = [entry.round_id for entry in entries if entry.kind is EntryKind.RESERVED]
    settled = [entry.round_id for entry in entries if entry.kind in (EntryKind.SPENT, EntryKind.VOID)]
    double = len(ids) - len(set(ids)) + len(settled) - len(set(settled))
    strange = set(ids) - {one.round_id for one in outcome.rounds}
    # The round that was under way when a run was broken off is booked and has no outcome: as it should be.
    double += len(strange) - (bool(outcome.stopped) and ids[-1:] == [*strange])
    return {"wrong_sums": float(wrong), "double_bookings": float(double)}


class Killer:
    """Kills a gateway, a SuperNode or the ServerApp with SIGKILL, one every few seconds, drawn at random."""

    def __init__(self, world: Deployment, *, every_s: float, seed: int) -> None:
        self._world = world
        self._every_s = every_s
        self._rng = np.random.default_rng(seed)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.kills = 0
        self.rounds_seen = 0
        """Rounds that were through when killing stopped."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Stop, and wait for it."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        ends_s = self._world.request.clock.monotonic_s() + KILLED_S_MAX
        while not self._ended.wait(self._every_s * float(self._rng.uniform(0.5, 1.5))):
            if self._world.request.clock.monotonic_s() > ends_s:
                break
            what = self._rng.choice(["gateway", "supernode", "server-app"])
            getattr(self, f"_kill_{str(what).replace('-', '_')}")()

        progress = self._world.folder / "run" / "outcome" / PROGRESS_FILE
        self.rounds_seen = len(progress.read_bytes().splitlines()) if progress.exists() else 0

    def _kill_gateway(self) -> None:
        region = str(self._rng.choice(REGIONS))
        process = self._world.gateways[region]
        process.kill()
        process.wait(20)
        self.kills += 1
        self._world.start_gateway(region)

    def _kill_supernode(self) -> None:
        found = [
            one for one in psutil.Process().children(recursive=True)
            if any("flower-supernode" in word for word in _command(one))
        ]  # fmt: skip
        if found:
            self._kill(found[int(self._rng.integers(len(found)))].pid)

    def _kill_server_app(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._kill(int((self._world.folder / "run" / "outcome" / SERVER_APP_FILE).read_text()))

    def _kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills += 1


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


@contextmanager
def deployment(request: BenchRequest, name: str, phones: int) -> Iterator[Deployment]:
    """Gateways and phones around a block."""
    folder = request.work / name
    folder.mkdir()
    keys = {region: RegionKeys.generate(region) for region in REGIONS}
    TrustDirectory.of(list(keys.values())).save(folder / "trust.json")
    world = Deployment(folder, request, keys, dict(zip(REGIONS, free_ports(len(REGIONS)), strict=True)))
    each = phones // len(REGIONS)
    write_dataset(folder / "data", users=each)
    for region in REGIONS:
        keys[region].save(folder / f"{region}.keys")
        (folder / f"{region}.json").write_bytes(msgspec.json.encode(_gateway_settings(world, region, each)))
        world.start_gateway(region)
    (folder / "phones.json").write_bytes(msgspec.json.encode(_phones_settings(world, each)))
    simulator = world.start("federation.phones", folder / "phones.json")
    try:
        yield world
    finally:
        # Their report would train every phone once more; nobody reads it here.
        for process in (simulator, *world.gateways.values()):
            process.kill()
            process.wait(20)


def _gateway_settings(world: Deployment, region: str, phones: int) -> GatewaySettings:
    large = phones > 50
    cohort = CohortSettings(
        count_min=max(3, phones // 3), goal_count=max(3, int(phones / 1.3)), over_selection=1.3,
        selection_s=12.0 if large else 4.0, sharing_s=20.0 if large else 5.0, reporting_s=20.0 if large else 6.0,
        unmasking_s=12.0 if large else 4.0,
    )  # fmt: skip
    return GatewaySettings(
        node=region, region=region, port=world.ports[region], state_directory=str(world.folder / region),
        keys_file=str(world.folder / f"{region}.keys"), trust_file=str(world.folder / "trust.json"), cohort=cohort,
        telemetry=TelemetrySettings(log_file=str(world.folder / "log")),
    )  # fmt: skip


def _phones_settings(world: Deployment, phones: int) -> PhonesSettings:
    return PhonesSettings(
        gateways={region: f"http://127.0.0.1:{port}" for region, port in world.ports.items()},
        keys_files={region: str(world.folder / f"{region}.keys") for region in REGIONS},
        dataset_directory=str(world.folder / "data"), release_directory=str(world.request.work / RELEASE),
        state_directory=str(world.folder / "phones"), phones_per_region=phones, sensitive_categories=("slice",),
        dropout_share=DROPOUT_SHARE, patience_s=1200.0, cohort_min=max(3, phones // 3),
    )  # fmt: skip


def _rounds(world: Deployment, *, rounds: int, timeout_s: float, answered_s: float = ROUND_S_MAX) -> RunOutcome:
    return run_rounds(
        state_directory=world.folder / "run", release_directory=world.request.work / RELEASE, regions=world.links(),
        rounds=rounds, training=TrainingPlan(rank=8),
        options=RunOptions(timeout_s=timeout_s, round_timeout_s=answered_s, restarts_max=100),
        privacy=PrivacyPlan(
            ledger_file=str(world.folder / "ledger.jsonl"), population=POPULATION, epsilon_max=1000.0,
            noise_multiplier=2.0,
        ),
    )  # fmt: skip


def make_release(request: BenchRequest) -> None:
    """A small release in the suite's folder, RELEASE its name."""
    command = [
        tier_python("central", request.environments), "-m", "infra.bench.federated.phone_release", "--out",
        str(request.work / RELEASE), "--items", str(ITEMS), "--dim", "32", "--history", "20",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=source_root(), env=environment_with({}), capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        raise BenchError(f"the release could not be made: {done.stderr.strip()[-300:]}")


def write_dataset(folder: Path, *, users: int) -> None:
    """`users` users in each region, EVENTS events each."""
    rng = np.random.default_rng(3)
    folder.mkdir()
    homes = [(f"{region}-{index}", region) for region in REGIONS for index in range(users)]
    lines = ["user_id,item_id,timestamp,event_type,value"]
    for user, _ in homes:
        items = rng.permutation(ITEMS)[:EVENTS]
        lines += [f"{user},{item},{1_600_000_000 + 600 * step},rating,4" for step, item in enumerate(items)]
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n")
    (folder / "users.csv").write_text("user_id,region\n" + "".join(f"{user},{region}\n" for user, region in homes))
    rows = [f"{item},,{'slice' if item % 5 == 0 else 'rest'}" for item in range(ITEMS)]
    (folder / "items.csv").write_text("item_id,title,category\n" + "\n".join(rows) + "\n")
