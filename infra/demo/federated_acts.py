"""The federated acts: phones compute their own vectors, train in rounds, and the outcome is a candidate release."""

from collections.abc import Sequence
from pathlib import Path

from infra.demo.callers import Caller
from infra.demo.central_acts import publish_bundle
from infra.demo.play import Play
from infra.demo.report import Line
from infra.plumbing.ids import new_request_id

PHONES_PER_REGION, ROUNDS = 46, 1
"""As many as a gateway selects. The mean of 105 updates is then about as long as its noise; with 30 a region it was
little more than half of that, and one round in ten came to nothing."""


async def portable_vectors(play: Play, bundle: Path, callers: Sequence[Caller]) -> dict[str, dict[str, str]]:
    """Headers with the vector that each caller's phone computes, by user id."""
    with play.phase("vectors"):
        found = await play.command(
            "federation", "federate", "vector", "--release", str(bundle), "--dataset", str(play.dataset),
            *(caller.user_id for caller in callers),
        )  # fmt: skip
    vectors: dict[str, dict[str, str]] = found["vectors"]
    return vectors


async def rounds(play: Play, bundle: Path) -> Path | None:
    """Run rounds over simulated phones, derive a candidate, judge it. Returns its bundle if it passed the gates."""
    world = play.running_world
    canary = f"canary-{new_request_id()}"
    play.secrets["sensitive canary"] = [canary]
    with play.phase("federated"):
        outcome = await play.command(
            "federation", "federate", "round", "--state", str(world.state), "--release", str(bundle),
            "--rounds", str(ROUNDS), "--phones", str(PHONES_PER_REGION), "--dataset", str(play.dataset),
            "--canary", canary, "--plain",  # what crosses between region and central is captured and searched here
        )  # fmt: skip
    report = outcome["phones"]
    regions = {part["region"] for one in outcome["rounds"] for part in one["regions"]}
    play.show(
        Line(
            "federated", "phones trained on what never leaves them; sums of clipped updates, noised in each region",
            f"{report['participants']} phones in {len(regions)} regions, "
            f"epsilon {outcome['epsilon']:.1f} at delta {outcome['delta']:g}",
            met=bool(outcome["ok"]),
        )
    )  # fmt: skip
    with play.phase("candidate"):
        derived = await play.command(
            "central", "release", "derive", "--dataset", str(play.dataset), "--model", str(play.model), "--parent",
            str(bundle), "--adapter", outcome["adapter_path"], "--out", str(play.bundles), "--allow-failed-gates",
        )  # fmt: skip
        passed = all(derived["gates"].values())
        if passed:
            await publish_bundle(play, Path(derived["path"]), "candidate")
    play.figures["federated"] = {
        "devices": report["participants"], "ok": outcome["ok"],
        "epsilon": outcome["epsilon"], "delta": outcome["delta"],
        "candidate": derived["release"], "gates": derived["gates"], "ndcg10": derived["metrics"]["ndcg10"],
        "on_phone_ndcg10": {name: quality["ndcg10"] for name, quality in report["quality"].items()},
        "sensitive_share": report["sensitive_share"],
    }  # fmt: skip
    verdict = "passes" if passed else "is held back by"
    play.show(
        Line("federated", f"the outcome is a candidate release that {verdict} the same gates",
             f"{derived['release']}, NDCG@10 {derived['metrics']['ndcg10']:.3f}")
    )  # fmt: skip
    return Path(derived["path"]) if passed else None
