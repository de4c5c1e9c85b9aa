"""A training as it is ordered: checked before anything heavy begins, carried out alone or as one of a team."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from central.datasets.interactions import Interactions, Split, load_dataset
from central.evaluation.results import LEAVE_LAST_OUT
from central.folders import check_replaceable
from central.training.config import CARD, LISTWISE, RANKER_LOSSES, ModelCard, RankerConfig, default_config
from central.training.team import Team, join_team
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.progress import Progress

if TYPE_CHECKING:
    from central.training.train import Recipe

MINUTES_MAX: Final = 7 * 24 * 60.0
SEED_MAX: Final = 2**31 - 1
TRIALS_MAX: Final = 1000
TOWERS_MAX: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOrder:
    """What `central.commands.train` is told; its docstring says what each means."""

    dataset: Path
    out: Path
    minutes: float | None = None
    seed: int = 0
    protocol: str = LEAVE_LAST_OUT
    ties: str = "file"
    context: bool = True
    epochs: int | None = None
    ranker_loss: str = LISTWISE
    search: int | None = None
    towers: int = 1

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            InvalidInputError: says which argument.
            ConflictError: `out` holds something else.
        """
        minutes = self.minutes is None or 0.0 < self.minutes <= MINUTES_MAX
        _check(minutes, f"minutes must lie above 0 and up to {MINUTES_MAX:.0f}.")
        _check(0 <= self.seed <= SEED_MAX, f"seed must lie between 0 and {SEED_MAX}.")
        _check(self.ties in ("file", "random"), f"ties must be file or random, not {self.ties!r}.")
        _check(self.ranker_loss in RANKER_LOSSES, f"ranker_loss must be one of {', '.join(RANKER_LOSSES)}.")
        _check(self.epochs is None or self.epochs >= 1, "epochs must be 1 or more.")
        _check(self.search is None or 1 <= self.search <= TRIALS_MAX, f"search must lie between 1 and {TRIALS_MAX}.")
        _check(1 <= self.towers <= TOWERS_MAX, f"towers must lie between 1 and {TOWERS_MAX}.")
        check_replaceable(self.out, marker=CARD)


@dataclass(frozen=True, slots=True)
class _Prepared:
    data: Interactions
    split: Split
    recipe: "Recipe"
    team: Team | None


def carry_out(order: TrainingOrder, *, clock: Clock, progress: Progress) -> ModelCard:
    """Train both stages and write the model folder; the first worker of a team, or a process of its own.

    Raises:
        InvalidInputError, ConflictError: as `TrainingOrder.check`, or not a dataset folder.
    """
    ready = _prepare(order, clock=clock, progress=progress)

    from central.training.train import train_model  # noqa: PLC0415

    return train_model(
        ready.data, ready.split, ready.recipe, order.out, clock=clock, progress=progress, team=ready.team
    )  # fmt: skip


def help_out(order: TrainingOrder, *, clock: Clock, progress: Progress) -> int:
    """Take part in a training as one of the other workers; returns the epochs.

    Raises:
        InvalidInputError: this process is no other worker of a team, or as `carry_out`.
    """
    ready = _prepare(order, clock=clock, progress=progress)
    if ready.team is None:
        raise InvalidInputError("this process is in no team.", fix="Set TF_CONFIG, or use --workers.")

    from central.training.train import help_training  # noqa: PLC0415

    return help_training(
        ready.data, ready.split, ready.recipe, order.out, team=ready.team, clock=clock, progress=progress
    )  # fmt: skip


def _prepare(order: TrainingOrder, *, clock: Clock, progress: Progress) -> _Prepared:
    order.check()
    team = join_team()
    alone = order.minutes is None and order.search is None
    _check(team is None or alone, "a team trains for epochs: without minutes, without a search.")
    data = load_dataset(order.dataset, ties=order.ties, seed=order.seed)
    _check(
        data.stream is None or (order.protocol == LEAVE_LAST_OUT and order.ties == "file"),
        "a dataset larger than memory is split by leave-last-out, ties in the order of the file.",
    )

    from central.evaluation.splits import split_for  # noqa: PLC0415
    from central.training.runtime import prefers_bfloat16  # noqa: PLC0415
    from central.training.train import Recipe  # noqa: PLC0415

    split = split_for(data, order.protocol)
    config = default_config(
        data, seed=order.seed, bfloat16=prefers_bfloat16(), context=order.context, towers=order.towers
    )
    if order.epochs is not None:
        config = msgspec.structs.replace(config, epochs=order.epochs)
    report = None
    if order.search is not None:
        from central.training.search import search_settings  # noqa: PLC0415

        study = order.out.with_name(f"{order.out.name}.study.jsonl")
        config, report = search_settings(
            data, split, config, trials=order.search, file=study, clock=clock, progress=progress
        )
    recipe = Recipe(
        retrieval=config, ranker=RankerConfig(seed=order.seed, loss=order.ranker_loss), protocol=order.protocol,
        ties=order.ties, minutes=order.minutes, search=report,
    )  # fmt: skip
    return _Prepared(data, split, recipe, team)


def _check(holds: bool, message: str) -> None:  # noqa: FBT001 (a condition)
    if not holds:
        raise InvalidInputError(message, fix="See --help.")
