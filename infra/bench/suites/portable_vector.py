"""What a failover keeps: another region ranking with the phone's own vector, against the home region.

A release is trained on MovieLens 100K (or `archive`), and a sample of its test requests goes through the region's own
funnel three times: at home with the user's row, elsewhere with the vector that the phone's LiteRT tower computed, and
elsewhere with nothing. Full catalogue, leave one out, seen items taken off in all arms.
Options: `archive` (what `atoll data import` takes, default ml-100k), `epochs` (default: central's own), `users`
(default 400), `made` (a folder that an earlier run left behind, so that nothing is trained again), `keep` (where to
leave one).
"""

import json
import subprocess
from pathlib import Path

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, at_least
from infra.local.tiers import source_root, tier_python
from infra.plumbing.environment import environment_with
from infra.plumbing.errors import AtollError

TRAINING_S, REPLAY_S = 3600.0, 600.0


class BenchError(AtollError):
    """The measurement did not come about."""


def run(request: BenchRequest) -> Measured:
    """Train once, replay once: the same requests in all arms, so there is nothing to take a median of."""
    made = Path(request.options["made"]) if "made" in request.options else _made(request)
    bundles = sorted((made / "bundles").iterdir())
    request.progress.advance(1, 2, "asking regions")
    text = _python(
        request, "region", "infra.bench.federated.failover_job", "--release", str(bundles[0]), "--requests",
        str(made / "served_requests.msgpack"), timeout_s=REPLAY_S,
    )  # fmt: skip
    found: dict[str, float] = json.loads(text)
    home = found["home"]
    figures = {
        "ndcg_share": found["away_with_vector"] / home,
        "ndcg_share_without_vector": found["away_without_vector"] / home, "home_ndcg10": home, "users": found["users"],
    }  # fmt: skip
    bars = (
        at_least("failover with the phone's vector", figures["ndcg_share"], 0.9, unit="of the home region's NDCG@10"),
    )
    return Measured(figures=figures, bars=bars)


def _made(request: BenchRequest) -> Path:
    out = Path(request.options.get("keep", str(request.work / "made")))
    request.progress.advance(0, 2, "training a release")
    epochs = 1 if request.quick else int(request.number("epochs", 0))
    users = 40 if request.quick else int(request.number("users", 400))
    archive = request.options.get("archive", "ml-100k")
    _python(
        request, "central", "infra.bench.federated.release_job", "--out", str(out), "--archive", archive, "--epochs",
        str(epochs), "--users", str(users), timeout_s=TRAINING_S,
    )  # fmt: skip
    return out


def _python(request: BenchRequest, tier: str, module: str, *arguments: str, timeout_s: float) -> str:
    command = [tier_python(tier, request.environments), "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, cwd=source_root(), env=environment_with({}), capture_output=True, text=True, check=False,
            timeout=timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BenchError(f"{module} took more than {timeout_s:.0f} s.") from None
    if done.returncode:
        raise BenchError(f"{module} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout
