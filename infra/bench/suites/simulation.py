"""Rounds in Flower's simulation engine, by the command that a user types, held against what was written.

`./atoll federate simulate` over a made-up dataset: three regions, their gateways and phones, ServerApp and ClientApp as
in a deployment, Ray under Flower's own engine. The first round has Ray's start in it. Afterwards journals and ledger
are read again as in `rounds`: `wrong_sums` counts rounds whose mean is not that of the sums that the gateways wrote
down, `double_bookings` rounds that the ledger holds twice, or holds although they are none of the outcome's.
Options: `phones` (per region, default 20), `rounds` (default 3).
"""

import statistics
import subprocess

import msgspec

from federation.rounds.outcome import RunOutcome
from infra.bench.catalogue import BenchRequest
from infra.bench.results import Bar, Measured, at_least
from infra.bench.suites.rounds import RELEASE, BenchError, checked_afterwards, make_release, write_dataset
from infra.local.tiers import source_root
from infra.plumbing.environment import environment_with

RUN_S_MAX = 900.0


def run(request: BenchRequest) -> Measured:
    """One simulation; `runs` does not repeat it, since its rounds repeat each other."""
    phones = 6 if request.quick else int(request.number("phones", 20))
    rounds = 2 if request.quick else int(request.number("rounds", 3))
    make_release(request)
    write_dataset(request.work / "data", users=phones)
    request.progress.advance(0, 1, f"{rounds} rounds over {3 * phones} phones in Flower's simulation engine")
    outcome = _simulated(request, phones, rounds)
    checked = checked_afterwards(request.work / "state" / "simulation", outcome)
    later = [one.took_s for one in outcome.rounds[1:]] or [outcome.rounds[0].took_s]
    figures = {
        "first_round_s": outcome.rounds[0].took_s, "round_s": statistics.median(later),
        "updates": float(outcome.devices), "rounds_ok": float(sum(one.ok for one in outcome.rounds)), **checked,
    }  # fmt: skip
    bars = (
        at_least("rounds that were not void", figures["rounds_ok"], rounds, unit="rounds"),
        Bar(bar="wrong sums", figure=checked["wrong_sums"], goal=0, unit="rounds", met=checked["wrong_sums"] == 0),
        Bar(bar="double bookings", figure=checked["double_bookings"], goal=0, unit="rounds",
            met=checked["double_bookings"] == 0),
    )  # fmt: skip
    return Measured(figures=figures, bars=bars, notes=("one run; phones and engine share this machine",))


def _simulated(request: BenchRequest, phones: int, rounds: int) -> RunOutcome:
    command = [
        str(source_root() / "atoll"), "federate", "simulate", "--release", str(request.work / RELEASE), "--dataset",
        str(request.work / "data"), "--phones", str(phones), "--rounds", str(rounds), "--noise", "2",
        "--epsilon-max", "1000", "--state", str(request.work / "state"), "--json", "-",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=source_root(), env=environment_with({}), capture_output=True, check=False, timeout=RUN_S_MAX
    )
    try:
        return msgspec.json.decode(done.stdout, type=RunOutcome)
    except msgspec.DecodeError:
        raise BenchError(f"the simulation came to no outcome: {done.stderr.decode()[-300:]}") from None
