"""Releases of a model that was trained for a made-up dataset in this run, published for worlds to start from."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra.bench.catalogue import BenchRequest
from infra.bench.ring import write_ring
from infra.local.tiers import source_root, tier_python
from infra.plumbing.errors import UnavailableError

COMMAND_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class PublishedRing:
    """The dataset, the repository, and the names of its releases; the channel `stable` points to the last one."""

    dataset: Path
    repository: Path
    releases: tuple[str, ...]


def publish_ring(
    request: BenchRequest, *, releases: int = 1, write: Callable[[Path], Path] = write_ring
) -> PublishedRing:
    """Train once, build and publish `releases` times, with the commands that a user would give.

    Args:
        request: whose folder and environments are used.
        releases: how many are published, from the same model.
        write: makes the dataset in a folder.

    Raises:
        UnavailableError: a step failed; the message carries its last words.
    """
    work = request.work
    dataset, model, repository, keys = write(work / "ring"), work / "model", work / "repository", work / "keys"
    _command(request, "train", "--dataset", dataset, "--out", model, "--epochs", "2")
    _command(request, "release", "init", "--repository", repository, "--keys", keys)
    bundles = [_bundle(request, dataset, model, work / f"bundles-{number}") for number in range(releases)]
    for bundle in bundles:
        _command(
            request, "release", "publish", bundle, "--repository", repository, "--keys", keys, "--channel", "stable"
        )  # fmt: skip
    return PublishedRing(dataset, repository, tuple(bundle.name for bundle in bundles))


def _bundle(request: BenchRequest, dataset: Path, model: Path, out: Path) -> Path:
    _command(
        request, "release", "build", "--dataset", dataset, "--model", model, "--out", out, "--allow-failed-gates"
    )  # fmt: skip
    return next(path for path in out.iterdir() if path.is_dir())


def _command(request: BenchRequest, *words: str | Path) -> None:
    request.progress.advance(0, 1, f"atoll {words[0]} {words[1] if words[0] == 'release' else ''}".strip())
    done = subprocess.run(
        [tier_python("central", request.environments), "-m", "infra.cli", *map(str, words)],
        capture_output=True, cwd=source_root(), timeout=COMMAND_TIMEOUT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise UnavailableError(f"atoll {words[0]} failed: {done.stderr[-800:].decode(errors='replace')}")
