"""What learning from what stays home is worth: two scenes, eight arms, against a central model that saw everything.

Silent users: 30 % of users upload nothing. Sensitive signals: the events on the films of some genres (about a fifth of
all) stay on every phone, and targets among them are scored apart. Leave one out, full catalogue, the history taken out,
ties by catalogue row; central's towers, its own training. Arms: popularity; the released model over what the region
knows; the same tower on the phone over everything; that with a personal part (local only); federated averaging; ours
without noise, at epsilon 8 and at epsilon 2 (user level, delta 1e-6, towards central, each of three regions adding its
noise in full, all phones in every round, no amplification claimed); and the ceiling. Ours is `--train items`: a slice
of items that the server chose, moved in popularity and taste by secure sums, by the very plans that `federate round`
makes (`items_training`). A phone's tower reads no item that central never heard of until rounds have moved it. Each
seed draws its silent users anew and trains three central models; figures are means over seeds with standard errors.
Options: `archive` (what `atoll data import` takes; default ml-100k), `epochs` (of central's models, default its own),
`seeds` (default: `--runs`), `made` (`seed-N` folders that an earlier run left), `keep` (where to leave them),
`out` (folder for the plot; default: none is drawn).
"""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from federation.flower.plan import items_training
from federation.privacy.accountant import noise_for
from infra.bench.catalogue import BenchRequest
from infra.bench.federated.jobs import run_job
from infra.bench.federated.scenes import SENSITIVE, SILENT
from infra.bench.federated.simulation import PARITY_MAX, Learned, Ranks, Recipe, Scene
from infra.bench.results import Measured, at_least
from infra.plumbing.errors import AtollError

DELTA = 1e-6
PLAIN_ROUNDS, PRIVATE_ROUNDS = {SENSITIVE: 30, SILENT: 5}, 2
FEDAVG_RANK, FEDAVG_ROUNDS = 32, 9
JOB_S = 3 * 3600.0
ARMS = ("popularity", "released", "on_phone", "local_only", "fedavg", "ours", "ours_eps8", "ours_eps2", "ceiling")


class BenchError(AtollError):
    """The measurement did not come about."""


def run(request: BenchRequest) -> Measured:
    """All seeds, both scenes, all arms."""
    made = _made(request)
    seeds = sorted(made.glob("seed-*"))[: _seeds(request)]
    found: list[dict[str, float]] = []
    for number, folder in enumerate(seeds):
        request.progress.advance(number, len(seeds), "training phones")
        found.append(_of_scene(Scene(folder, SILENT)) | _of_scene(Scene(folder, SENSITIVE)))
    headline = [_headline(one) for one in found]
    figures = {key: float(np.mean([one[key] for one in headline])) for key in headline[0]}
    figures |= {f"{key}_se": _error([one[key] for one in headline]) for key in headline[0]}
    peers = {
        arm: {key: float(np.mean([one[f"{key}/{arm}"] for one in found])) for key in _columns(found[0], arm)}
        for arm in ARMS if _columns(found[0], arm)
    }  # fmt: skip
    if "out" in request.options:
        _plot(Path(request.options["out"]), peers)
    bars = (
        at_least("silent users against the ceiling", figures["silent_ndcg_share_of_ceiling"], 0.97, unit="of NDCG@10"),
        at_least("sensitive targets, no noise", figures["sensitive_gap_recovered_no_noise"], 0.8, unit="of the gap"),
        at_least("sensitive targets, epsilon 8", figures["sensitive_gap_recovered_eps8"], 0.5, unit="of the gap"),
        at_least("other targets", figures["others_ndcg_change"], -0.02, unit="of the released model's NDCG@10"),
    )
    notes = (
        f"{len(seeds)} seeds; sensitive genres are the fewest whose films have about a fifth of all events",
        "the released model never recommends sensitive films, so every arm that does loses other targets to them: the "
        "ceiling's own change among other targets is others_ndcg_change_ceiling",
        "directions come from the histories that central trained on; a deployed run takes them from made-up histories",
    )
    return Measured(figures=figures, bars=bars, peers=peers, notes=notes)


def _of_scene(scene: Scene) -> dict[str, float]:
    if scene.parity() > PARITY_MAX:
        raise BenchError(f"the NumPy tower differs from TensorFlow's by {scene.parity():.1e}.")
    ours = _ours(scene)
    void = {"ours": ours.void}
    arms: dict[str, Ranks] = {
        "popularity": scene.popularity(), "released": scene.served(), "on_phone": scene.on_phone(),
        "local_only": scene.local_only(),
        "fedavg": scene.on_phone(scene.fedavg(rounds=FEDAVG_ROUNDS, rank=FEDAVG_RANK, rate=1.0)),
        "ours": scene.personal(ours) if scene.name == SILENT else scene.on_phone(ours),
        "ceiling": scene.ceiling(),
    }  # fmt: skip
    if scene.name == SENSITIVE:
        for epsilon in (8.0, 2.0):
            noise = noise_for(epsilon, delta=DELTA, rounds=PRIVATE_ROUNDS)
            recipe = Recipe(items_training((), noise_multiplier=noise), PRIVATE_ROUNDS, noise)
            private, arm = scene.ours(recipe, entropy=secrets.token_bytes), f"ours_eps{epsilon:.0f}"
            arms[arm], void[arm] = scene.on_phone(private), private.void
    return {
        f"{scene.name}_{part}_{what}/{arm}": float(values[mask].mean())
        for arm, ranks in arms.items()
        for what, values in (("ndcg10", ranks.ndcg), ("hr10", ranks.hits))
        for part, mask in (("asked", scene.asked), ("others", ~scene.asked))
    } | {f"{scene.name}_void_rounds/{arm}": float(count) for arm, count in void.items()}


def _ours(scene: Scene) -> Learned:
    """Without noise; silent users' phones add their personal part, whose owners have nothing else of their own."""
    return scene.ours(_plain(scene.name), entropy=secrets.token_bytes)


def _plain(scene: str) -> Recipe:
    """What `federate round --train items` does where hardly any noise is added, without any."""
    return Recipe(items_training((), noise_multiplier=0.0), PLAIN_ROUNDS[scene])


def _headline(one: Mapping[str, float]) -> dict[str, float]:
    released, ceiling = one["sensitive_asked_ndcg10/released"], one["sensitive_asked_ndcg10/ceiling"]

    def recovered(arm: str) -> float:
        return (one[f"sensitive_asked_ndcg10/{arm}"] - released) / (ceiling - released)

    others = one["sensitive_others_ndcg10/released"]
    return {
        "silent_ndcg_share_of_ceiling": one["silent_asked_ndcg10/ours"] / one["silent_asked_ndcg10/ceiling"],
        "silent_ndcg_share_on_phone_only": one["silent_asked_ndcg10/on_phone"] / one["silent_asked_ndcg10/ceiling"],
        "sensitive_gap_recovered_no_noise": recovered("ours"), "sensitive_gap_recovered_eps8": recovered("ours_eps8"),
        "sensitive_gap_recovered_eps2": recovered("ours_eps2"), "sensitive_gap_recovered_fedavg": recovered("fedavg"),
        "others_ndcg_change": one["sensitive_others_ndcg10/ours"] / others - 1.0,
        "others_ndcg_change_eps8": one["sensitive_others_ndcg10/ours_eps8"] / others - 1.0,
        "others_ndcg_change_ceiling": one["sensitive_others_ndcg10/ceiling"] / others - 1.0,
    }  # fmt: skip


def _columns(one: Mapping[str, float], arm: str) -> list[str]:
    return [key.partition("/")[0] for key in one if key.partition("/")[2] == arm]


def _error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def _seeds(request: BenchRequest) -> int:
    return int(request.number("seeds", request.runs))


def _made(request: BenchRequest) -> Path:
    """The folder with one folder per seed; trained here unless an earlier run left it."""
    if "made" in request.options:
        return Path(request.options["made"])
    out = Path(request.options.get("keep", str(request.work / "made")))
    dataset = out / "dataset"
    archive = request.options.get("archive", "ml-100k")
    run_job(request, "central", "infra.cli", "data", "import", archive, "--to", str(dataset), within_s=JOB_S)
    epochs = 1 if request.quick else int(request.number("epochs", 0))
    for seed in range(_seeds(request)):
        request.progress.advance(seed, _seeds(request), "training central's models")
        run_job(
            request, "central", "infra.bench.federated.central_job", "--dataset", str(dataset),
            "--out", str(out / f"seed-{seed}"), "--seed", str(seed), "--epochs", str(epochs), within_s=JOB_S,
        )  # fmt: skip
    return out


def _plot(folder: Path, peers: Mapping[str, Mapping[str, float]]) -> None:
    """`federated.png`: NDCG@10 of every arm in both scenes, those asked for and the others."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (only for a plot)

    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(10, 4), layout="constrained")
    for place, scene in enumerate((SILENT, SENSITIVE), start=1):
        axes = figure.add_subplot(1, 2, place)
        arms = [arm for arm in ARMS if f"{scene}_asked_ndcg10" in peers.get(arm, {})]
        for offset, part in ((-0.2, "asked"), (0.2, "others")):
            heights = [peers[arm][f"{scene}_{part}_ndcg10"] for arm in arms]
            axes.bar(np.arange(len(arms)) + offset, heights, width=0.4, label=part)
        axes.set_xticks(np.arange(len(arms)), arms, rotation=45, ha="right")
        axes.set_title(f"{scene}: NDCG@10")
        axes.legend()
    figure.savefig(folder / "federated.png", dpi=120)
