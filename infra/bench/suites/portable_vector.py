"""What a failover keeps: another region ranking with the phone's own vector, against the home region.

A release is trained on MovieLens 100K (or `archive`), and a sample of its test requests goes through the region's own
funnel three times: at home with the user's row, elsewhere with the vector that the phone's LiteRT tower computed, and
elsewhere with nothing. Full catalogue, leave one out, seen items taken off in all arms.
Options: `archive` (what `atoll data import` takes, default ml-100k), `epochs` (default: central's own), `users`
(default 400), `made` (a folder that an earlier run left behind, so that nothing is trained again), `keep` (where to
leave one).
"""

import json
from pathlib import Path

from infra.bench.catalogue import BenchRequest
from infra.bench.federated.jobs import run_job
from infra.bench.results import Measured, at_least

TRAINING_S, REPLAY_S = 3600.0, 600.0


def run(request: BenchRequest) -> Measured:
    """Train once, replay once: the same requests in all arms, so there is nothing to take a median of."""
    made = Path(request.options["made"]) if "made" in request.options else _made(request)
    bundles = sorted((made / "bundles").iterdir())
    request.progress.advance(1, 2, "asking regions")
    text = run_job(
        request, "region", "infra.bench.federated.failover_job", "--release", str(bundles[0]), "--requests",
        str(made / "served_requests.msgpack"), within_s=REPLAY_S,
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
    run_job(
        request, "central", "infra.bench.federated.release_job", "--out", str(out), "--archive", archive, "--epochs",
        str(epochs), "--users", str(users), within_s=TRAINING_S,
    )  # fmt: skip
    return out
