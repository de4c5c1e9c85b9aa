"""`atoll evaluate`: central scores the model, and the region's own funnel, run in the region's own environment."""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from central.commands import build_release, evaluate, write_served_requests
from central.families import family_of
from infra.cli.output import table
from infra.local.tiers import source_root, tier_python
from infra.plumbing.errors import AtollError
from infra.plumbing.progress import Progress

REPLAY_TIMEOUT_S = 3600


class ReplayFailedError(AtollError):
    """The region's funnel could not be replayed."""


def evaluate_everything(
    *,
    dataset: Path,
    model: Path,
    bundle: Path | None,
    served: bool,
    progress: Progress,
    also: Sequence[Path] = (),
    seeds: int = 1,
    report: Path | None = None,
) -> dict[str, Any]:
    """Figures of retrieval, baselines and, if `served`, of the funnel as a region serves it.

    Args:
        dataset: the dataset folder.
        model: the model folder.
        bundle: the release built from the model; built for the occasion when not given.
        also: models that were trained otherwise, to stand beside.
        seeds: how many models of `train --seeds` to evaluate, `model` the first; what `--beside` trained is found too.
        report: write an HTML page with plots there.
        served: replay the test users' requests through the region's funnel.
        progress: told while it runs.

    Raises:
        InvalidInputError: not a model, not its dataset, or a seed's model is missing.
    """
    family = family_of(model, seeds=seeds)
    alike = []
    for other in family.alike[1:]:
        with tempfile.TemporaryDirectory() as folder:
            answers = _served(dataset, other, None, Path(folder), progress) if served else None
            alike.append(evaluate(model=other, dataset=dataset, answers=answers, progress=progress))
    with tempfile.TemporaryDirectory() as folder:
        answers = _served(dataset, model, bundle, Path(folder), progress) if served else None
        found = evaluate(
            model=model, dataset=dataset, answers=answers, also=also, alike=alike, beside=family.beside,
            report=report, progress=progress,
        )  # fmt: skip
    built: dict[str, Any] = msgspec.to_builtins(found)
    return built


def _served(dataset: Path, model: Path, bundle: Path | None, work: Path, progress: Progress) -> Path:
    """What the region's funnel answers to the test users' requests."""
    if bundle is None:
        built = build_release(
            model=model, dataset=dataset, out=work / "bundles", allow_failed_gates=True, progress=progress
        )
        bundle = Path(built.path)
    requests = write_served_requests(model=model, dataset=dataset, out=work)
    return _replay(bundle, requests, work / "answers.msgpack")


def _replay(bundle: Path, requests: Path, answers: Path) -> Path:
    python = tier_python("region", source_root() / ".atoll" / "envs")
    command = [python, "-m", "region.replay", "--release", str(bundle), "--requests", str(requests)]
    code = subprocess.run(
        [*command, "--answers", str(answers)], cwd=source_root(), check=False, timeout=REPLAY_TIMEOUT_S
    ).returncode
    if code:
        raise ReplayFailedError(
            f"the region's funnel ended with {code} while replaying.", fix="Its own message stands above."
        )
    return answers


def seeds_text(seeds: dict[str, Any]) -> str:
    """The spread over seeds as people read it: mean, interval over seeds, interval over users."""
    rows = []
    named = {**seeds["stage"], **{f"trained with {kind}": figures for kind, figures in seeds["variants"].items()}}
    for name, figures in named.items():
        row: dict[str, Any] = {"": name}
        for key in ("hr10", "ndcg10"):
            if key in figures:
                one = figures[key]
                row |= {key: one["mean"], f"{key} over seeds": _bounds(one["low"], one["high"])}
                row[f"{key} over users"] = _bounds(*one["users"]) if one["users"] else None
        rows.append(row)
    count = len(seeds["seeds"])
    return f"\n\nmeans of {count} seeds, with 95 % intervals over seeds and over users:\n{table(rows)}"


def _bounds(low: float, high: float) -> str:
    return f"{low:.4f}-{high:.4f}"
