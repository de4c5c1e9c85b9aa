"""`atoll train`: one model, a family of them, or one model by several workers. Runs in the central environment."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.cli.dataset_folders import ready_dataset
from infra.cli.output import emit, progress_bar
from infra.cli.release_keys import leaf
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import InvalidInputError

KINDS = ("random-ties", "items-only")
"""As `central.families.KINDS`, which parsing does not import."""


def register_train(commands: Any) -> None:
    """`atoll train`."""
    parser = leaf(
        commands, "train", _train, "train the retrieval model and the ranker",
        "./atoll train --dataset data/ml-100k --out models/first",
    )  # fmt: skip
    parser.add_argument("--dataset", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model folder to make")
    parser.add_argument(
        "--minutes", type=float, default=None, help="how long to train at most; found from the data if not given"
    )
    parser.add_argument("--epochs", type=int, default=None, help="instead of the default number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N",
        help="train N models, one after the other, seeds counted up from --seed: OUT, OUT.seed-1, ...; --minutes is "
        "for each",
    )  # fmt: skip
    parser.add_argument(
        "--beside", choices=KINDS, action="append", default=[],
        help="train OUT.random-ties or OUT.items-only too, with every seed; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--protocol",
        choices=("leave-last-out", "given", "global-time"),
        default=None,
        help="given: the dataset's test.csv, the default where it has one; global-time: one moment for all users",
    )
    parser.add_argument(
        "--ties", choices=("file", "random"), default="file", help="the order of one user's events of one moment"
    )
    parser.add_argument(
        "--ranker-loss", choices=("listwise", "pairwise", "pointwise"), default="listwise",
        help="what the ranker minimises over the candidates of one request",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N",
        help="share every step among N processes on this machine; on several machines set TF_CONFIG on each instead",
    )  # fmt: skip
    parser.add_argument(
        "--search", type=int, default=None, metavar="N",
        help="try N settings of the towers first, in short trainings judged by validation interactions; goes on where "
        "a killed search stood",
    )  # fmt: skip
    parser.add_argument(
        "--towers", type=int, default=1, metavar="N",
        help="N user towers side by side: better with time to spare, each epoch takes N times as long; still one index",
    )  # fmt: skip
    parser.add_argument(
        "--items-only",
        action="store_true",
        help="let the tower read the items alone, without strengths and gaps in time",
    )


def _train(arguments: argparse.Namespace) -> None:
    from central.datasets.describe import notes
    from central.datasets.interactions import read_card
    from central.families import orders_of, train_family
    from central.ordering import TrainingOrder, help_out
    from central.training.team import place_in_team

    place = place_in_team()
    if arguments.workers > 1 and place is None:
        _train_in_team(arguments)
        return
    dataset = ready_dataset(arguments.dataset)
    order = TrainingOrder(
        dataset=dataset, out=arguments.out, minutes=arguments.minutes, seed=arguments.seed,
        protocol=_protocol(arguments, dataset), ties=arguments.ties, context=not arguments.items_only,
        epochs=arguments.epochs, ranker_loss=arguments.ranker_loss, search=arguments.search, towers=arguments.towers,
    )  # fmt: skip
    orders = orders_of(order, seeds=arguments.seeds, beside=arguments.beside)
    if place is not None and len(orders) > 1:
        raise InvalidInputError("a team trains one model at a time.", fix="Leave --seeds and --beside, or --workers.")
    with progress_bar() as progress:
        if place is not None and place[0] > 0:
            help_out(order, clock=SystemClock(), progress=progress)
            return
        cards = train_family(orders, clock=SystemClock(), progress=progress)
    result, text = _trained(orders, cards)
    emit(arguments, result, "\n".join([text, *notes(read_card(dataset))]))


def _protocol(arguments: argparse.Namespace, dataset: Path) -> str:
    from central.datasets.interactions import read_card
    from central.evaluation.splits import default_protocol

    return arguments.protocol or default_protocol(read_card(dataset))


def _trained(orders: Sequence[Any], cards: Sequence[Any]) -> tuple[dict[str, Any], str]:
    """The first model's card with `models`, one row for each that was trained, as JSON and in words."""
    import msgspec

    models = [
        {"model": str(order.out), "seed": order.seed, "ties": order.ties, "context": order.context,
         "epochs": card.epochs, "train_s": card.train_s, "validation_ndcg10": max(card.curve, default=0.0)}
        for order, card in zip(orders, cards, strict=True)
    ]  # fmt: skip
    words = [
        f"{one['model']}: trained {one['epochs']} epochs in {one['train_s']:.0f} s"
        + ("" if one["context"] else ", items only") + (", random ties" if one["ties"] == "random" else "")
        for one in models
    ]  # fmt: skip
    return {**msgspec.to_builtins(cards[0]), "models": models}, "\n".join([*words, *_searched(cards[0])])


def _searched(card: Any) -> list[str]:
    if card.search is None:
        return []
    chosen = ", ".join(f"{name} {value:.4g}" for name, value in card.search.chosen.items())
    return [
        f"of {card.search.trials} settings ({card.search.pruned} given up early) the best validates at NDCG@10 "
        f"{card.search.best:.4f}, the default at {card.search.default:.4f}: {chosen}"
    ]


def _train_in_team(arguments: argparse.Namespace) -> None:
    from central.training.team import WORKERS_MAX, run_local_team

    if arguments.seeds > 1 or arguments.beside:
        raise InvalidInputError("a team trains one model at a time.", fix="Leave --seeds and --beside, or --workers.")
    if arguments.workers > WORKERS_MAX:
        raise InvalidInputError(f"more than {WORKERS_MAX} workers.", fix="Use several machines: set TF_CONFIG on each.")
    # Imported once, here: the workers would do it at the same time otherwise.
    dataset = ready_dataset(arguments.dataset)
    words = [
        "--dataset", str(dataset), "--out", str(arguments.out), "--seed", str(arguments.seed),
        "--protocol", _protocol(arguments, dataset), "--ties", arguments.ties, "--ranker-loss", arguments.ranker_loss,
        "--towers", str(arguments.towers),
        *(["--items-only"] if arguments.items_only else []),
        *(["--epochs", str(arguments.epochs)] if arguments.epochs is not None else []),
        *(["--minutes", str(arguments.minutes)] if arguments.minutes is not None else []),
        *(["--search", str(arguments.search)] if arguments.search is not None else []),
        *(["--json", arguments.json] if arguments.json is not None else []),
    ]  # fmt: skip
    run_local_team([sys.executable, "-m", "infra.cli", "train", *words], arguments.workers)
