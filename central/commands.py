"""What the command line can ask of central. Plain functions; the command line only parses and prints.

TensorFlow takes seconds to import, so what needs it is imported inside the function that does.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from central.datasets.aggregates import read_counts
from central.datasets.describe import Description, describe
from central.datasets.importing import DatasetCard, check_source, import_source, open_source
from central.datasets.interactions import Interactions, load_dataset
from central.datasets.parquet import check_parquet, import_parquet, is_parquet
from central.datasets.rows import Source
from central.datasets.wheel import ML_100K, downloaded_wheel
from central.evaluation.results import LEAVE_LAST_OUT, Evaluation
from central.folders import check_replaceable
from central.ordering import MINUTES_MAX, TrainingOrder, carry_out
from central.training.config import (
    LISTWISE,
    ModelCard,
    read_model_card,
)
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.progress import Progress, SilentProgress

if TYPE_CHECKING:
    import numpy.typing as npt

    from central.evaluation.cold import ColdFigures
    from central.release.build import Bundle
    from central.training.saved import SavedModel


class CountedRegion(msgspec.Struct, frozen=True, kw_only=True):
    """A region that counted for itself: how many items of this catalogue, and how many of others."""

    region: str
    known: int
    unknown: int


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that was built: its id, its folder and what the gates said."""

    release: str
    path: str
    origin: str
    parent: str | None
    metrics: dict[str, float]
    gates: dict[str, bool]
    sentences: tuple[str, ...]
    content_sha256: str
    """Of what the release does: the same for the same data, code and seed on one machine."""
    counted: tuple[CountedRegion, ...] = ()
    """Regions whose lists are by their own counts."""
    stand_ins: int = 0
    """Items that central never heard of, in whose place phones' towers read a known one."""


def import_dataset(*, source: str, out: Path, name: str | None = None, progress: Progress | None = None) -> DatasetCard:
    """Imports `source` into the plain folder `out`, all of it or nothing.

    Args:
        source: `ml-100k` (fetched as the wheel recbole==1.2.1), or the path of a folder, .zip or .whl.
        out: the dataset folder to write; a dataset that stands there is replaced.
        name: what to call it; the layout's or the folder's name otherwise.
        progress: told about the steps.

    Raises:
        DatasetError: the source is not usable.
        ConflictError: `out` holds something else.
    """
    check_replaceable(out, marker="dataset.json")
    told = progress or SilentProgress()
    if is_parquet(Path(source)):
        return import_parquet(Path(source), out, name=name, progress=told)
    with _source(source, name=name, progress=told) as opened:
        told.advance(0, 1, "importing")
        card = import_source(opened, out)
    told.advance(1, 1, "importing")
    return card


def validate_dataset(*, source: str, name: str | None = None, progress: Progress | None = None) -> DatasetCard:
    """Checks all that an import checks and writes nothing.

    Raises:
        DatasetError: the source is not usable.
    """
    told = progress or SilentProgress()
    if is_parquet(Path(source)):
        with tempfile.TemporaryDirectory(prefix="atoll-checking-") as work:
            return check_parquet(Path(source), Path(work), name=name, progress=told)
    with _source(source, name=name, progress=told) as opened:
        return check_source(opened)


def describe_dataset(*, dataset: Path) -> Description:
    """What a dataset folder holds and what that implies for training.

    Raises:
        DatasetError: not a dataset folder.
    """
    return describe(load_dataset(dataset))


def train(  # noqa: PLR0913 (keyword-only; each is one option of the command line)
    *,
    dataset: Path,
    out: Path,
    minutes: float | None = None,
    seed: int = 0,
    protocol: str = LEAVE_LAST_OUT,
    ties: str = "file",
    context: bool = True,
    epochs: int | None = None,
    ranker_loss: str = LISTWISE,
    search: int | None = None,
    towers: int = 1,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> ModelCard:
    """Trains towers and ranker on a dataset folder and writes the model folder `out`, whole or not at all.

    Args:
        dataset: an imported dataset folder.
        out: the model folder; a model that stands there is replaced.
        minutes: wall time for the towers at most; None trains the default epochs (and is the same on every run).
        seed: same seed, same machine, same weights.
        protocol: `leave-last-out` or `given` (the dataset's own test.csv).
        ties: `file` or `random`: the order of interactions of one user at one moment.
        context: read strengths and gaps in time too, not only the items.
        epochs: instead of the default number.
        ranker_loss: `listwise`, `pairwise` or `pointwise`.
        search: how many settings of the towers to try first, in short trainings on validation interactions; goes on
            where a killed search of the same settings stood (`<out>.study.jsonl`).
        towers: user towers side by side, each as wide as the default: still one vector and one index; each step takes
            as many times as long.
        progress: told while it runs.
        clock: measures the training time.

    Raises:
        InvalidInputError: an argument that makes no sense, or not a dataset folder.
        ConflictError: `out` holds something else.
    """
    order = TrainingOrder(
        dataset=dataset, out=out, minutes=minutes, seed=seed, protocol=protocol, ties=ties, context=context,
        epochs=epochs, ranker_loss=ranker_loss, search=search, towers=towers,
    )  # fmt: skip
    return carry_out(order, clock=clock or SystemClock(), progress=progress or SilentProgress())


def evaluate(
    *,
    model: Path,
    dataset: Path,
    answers: Path | None = None,
    also: Sequence[Path] = (),
    alike: Sequence[Evaluation] = (),
    beside: Mapping[str, Sequence[Path]] | None = None,
    report: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluates a model folder on its dataset; with `answers` the served funnel is scored beside it.

    Args:
        model: a trained model folder.
        dataset: the dataset folder that it was trained on.
        answers: MessagePack `user -> item ids` of a region that was given `write_served_requests`.
        also: models of the same dataset that were trained otherwise (items only, random ties, another seed): their
            retrieval figures stand beside.
        alike: evaluations of models that differ from this one by their seed; their spread stands in `seeds`.
        beside: models that were trained otherwise, by kind, one for each seed: theirs too.
        report: write an HTML page with plots there.
        progress: told while it runs.

    Raises:
        InvalidInputError: not a model, not its dataset, or answers that do not read.
    """
    data, saved = _load(model, dataset)

    from central.evaluation.protocol import evaluate_model  # noqa: PLC0415
    from central.evaluation.report import write_report  # noqa: PLC0415
    from central.evaluation.seeds import over_seeds  # noqa: PLC0415
    from central.evaluation.served import with_served  # noqa: PLC0415
    from central.evaluation.splits import split_for  # noqa: PLC0415

    split = split_for(data, saved.card.protocol)
    evaluation = evaluate_model(saved, data, split, progress=progress or SilentProgress(), full=True).evaluation
    if answers is not None:
        evaluation = with_served(evaluation, data, split, answers)
    kinds = {kind: dict(_variant(path, dataset) for path in paths) for kind, paths in (beside or {}).items()}
    named = {name: figures for rows in kinds.values() for name, figures in rows.items()}
    evaluation = msgspec.structs.replace(
        evaluation, variants={**named, **dict(_variant(path, dataset) for path in also)}
    )  # fmt: skip
    if alike:
        of_kind = {kind: list(rows.values()) for kind, rows in kinds.items()}
        evaluation = msgspec.structs.replace(evaluation, seeds=over_seeds([evaluation, *alike], of_kind))
    if report is not None:
        write_report(evaluation, report)
    return evaluation


def evaluate_cold(
    *, model: Path, dataset: Path, minutes: float | None = None, progress: Progress | None = None
) -> "ColdFigures":
    """Trains the model's towers anew without a tenth of the items, and asks for those by their metadata.

    Args:
        model: a trained model folder: its settings are used, not its weights.
        dataset: the dataset folder that it was trained on.
        minutes: wall time for the training at most.
        progress: told while it runs.

    Raises:
        InvalidInputError: not a model, not its dataset, or items without categories.
    """
    _check(minutes is None or 0.0 < minutes <= MINUTES_MAX, f"minutes must lie above 0 and up to {MINUTES_MAX:.0f}.")
    card = read_model_card(model)
    data = load_dataset(dataset, ties=card.ties, seed=card.retrieval.seed)

    from central.evaluation.cold import evaluate_cold_items  # noqa: PLC0415

    told = progress or SilentProgress()
    return evaluate_cold_items(data, card.retrieval, clock=SystemClock(), progress=told, minutes=minutes)


def _variant(model: Path, dataset: Path) -> tuple[str, dict[str, float]]:
    """How another model of the dataset was trained, in words, and its retrieval figures."""
    data, saved = _load(model, dataset)

    from central.evaluation.protocol import retrieval_figures  # noqa: PLC0415
    from central.evaluation.splits import split_for  # noqa: PLC0415

    card = saved.card
    reads = "items and context" if card.retrieval.context else "items only"
    name = f"{model.name}: {reads}, ties {card.ties}, seed {card.retrieval.seed}"
    return name, retrieval_figures(saved, data, split_for(data, card.protocol))


def write_served_requests(*, model: Path, dataset: Path, out: Path, users_max: int | None = None) -> Path:
    """Writes `out/served_requests.msgpack`: what a region must answer for its funnel to be scored.

    Raises:
        InvalidInputError: not a model or not its dataset.
    """
    from central.evaluation.served import served_requests, write_requests  # noqa: PLC0415
    from central.evaluation.splits import split_for  # noqa: PLC0415

    card = read_model_card(model)
    data = load_dataset(dataset, ties=card.ties, seed=card.retrieval.seed)
    return write_requests(served_requests(data, split_for(data, card.protocol), users_max=users_max), out)


def build_release(
    *,
    model: Path,
    dataset: Path,
    out: Path,
    active: Path | None = None,
    aggregates: Path | None = None,
    allow_failed_gates: bool = False,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> Built:
    """Evaluates a model, judges it against the active release and builds the bundle `out/<release_id>`.

    Args:
        model: a trained model folder.
        dataset: the dataset folder that it was trained on.
        out: folder of bundles.
        active: the bundle that this one would replace; None judges against popularity alone.
        aggregates: folder of regions' extracts of aggregates: what is popular there is by them.
        allow_failed_gates: build although a gate is shut; the manifest says so.
        progress: told while it runs.
        clock: the moment of creation.

    Raises:
        InvalidInputError: not a model, not its dataset, not a bundle, or no aggregates of this catalogue.
        GateError: a gate is shut; nothing was written.
    """
    data, saved = _load(model, dataset)
    counted = read_counts(aggregates, data.items.ids) if aggregates else ()

    from central.evaluation.protocol import evaluate_model  # noqa: PLC0415
    from central.evaluation.splits import split_for  # noqa: PLC0415
    from central.release.build import CENTRAL, Candidate, build_bundle  # noqa: PLC0415
    from central.release.derive import read_bundle  # noqa: PLC0415

    told = progress or SilentProgress()
    parent = read_bundle(active) if active else None
    split = split_for(data, saved.card.protocol)
    candidate = Candidate(
        model=saved, data=data, split=split, outcome=evaluate_model(saved, data, split, progress=told), origin=CENTRAL,
        parent=parent[0].release_id if parent else None, active=parent[1] if parent else None, before=active,
        counted=counted,
    )  # fmt: skip
    built = _built(
        build_bundle(candidate, out, clock=clock or SystemClock(), progress=told, allow_failed_gates=allow_failed_gates)
    )
    regions = (CountedRegion(region=one.region, known=one.known, unknown=one.unknown) for one in counted)
    return msgspec.structs.replace(built, counted=tuple(regions))


def derive_release(
    *,
    parent: Path,
    model: Path,
    dataset: Path,
    adapter: "npt.ArrayLike",
    out: Path,
    items: Path | None = None,
    allow_failed_gates: bool = False,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> Built:
    """The candidate that a federated round gives: `parent` with another adapter, or items moved; same gates.

    Args:
        parent: the bundle that the round started from.
        model: the model folder that it was built from.
        dataset: its dataset folder.
        adapter: `[dim, dim]` floats.
        out: folder of bundles.
        items: the `items.npz` of a run over items; None leaves the items where they are.
        allow_failed_gates: build although a gate is shut; the manifest says so.
        progress: told while it runs.
        clock: the moment of creation.

    Raises:
        InvalidInputError: the parts do not belong together.
        GateError: a gate is shut; nothing was written.
    """
    data, saved = _load(model, dataset)

    import numpy as np  # noqa: PLC0415

    from central.release.derive import ItemMoves, derive_bundle  # noqa: PLC0415

    bundle = derive_bundle(
        parent=parent, model=saved, data=data, adapter=np.asarray(adapter, dtype=np.float32), out=out,
        clock=clock or SystemClock(), progress=progress or SilentProgress(), allow_failed_gates=allow_failed_gates,
        items=ItemMoves.read(items) if items else None,
    )  # fmt: skip
    return _built(bundle)


@contextmanager
def _source(source: str, *, name: str | None, progress: Progress) -> Iterator[Source]:
    if source == ML_100K:
        with downloaded_wheel(progress=progress) as wheel, open_source(wheel, name=name) as opened:
            yield opened
    else:
        with open_source(Path(source), name=name) as opened:
            yield opened


def _load(model: Path, dataset: Path) -> "tuple[Interactions, SavedModel]":
    card = read_model_card(model)
    data = load_dataset(dataset, ties=card.ties, seed=card.retrieval.seed)

    from central.training.saved import load_model  # noqa: PLC0415

    return data, load_model(model, data)


def _built(bundle: "Bundle") -> Built:
    manifest = bundle.manifest
    return Built(
        release=bundle.release_id, path=str(bundle.path), origin=manifest.origin, parent=manifest.parent,
        metrics=manifest.metrics, gates=manifest.gates, sentences=bundle.verdict.sentences,
        content_sha256=manifest.content_sha256, stand_ins=bundle.stand_ins,
    )  # fmt: skip


def _check(holds: Any, message: str) -> None:
    if not holds:
        raise InvalidInputError(message, fix="See --help.")
