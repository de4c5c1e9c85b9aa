"""Models that are trained alike but for their seed or for one choice: which, in which order, and where each stands.

A figure of one seed is one draw. `train --seeds 3 --beside random-ties` trains six models: `OUT`, `OUT.seed-1`,
`OUT.seed-2`, and `OUT.random-ties` with the same seeds; `evaluate --seeds 3` finds them there by their names.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from central.datasets.importing import CARD as DATASET_CARD
from central.ordering import SEED_MAX, TrainingOrder, carry_out
from central.training.config import CARD, ModelCard, ModelError, read_model_card
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.files import write_atomically
from infra.plumbing.progress import Progress

SEEDS_MAX: Final = 20
RANDOM_TIES: Final = "random-ties"
ITEMS_ONLY: Final = "items-only"
KINDS: Final = (RANDOM_TIES, ITEMS_ONLY)
"""What may be trained beside: equal moments shuffled; a tower that reads the items alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Model folders of one recipe, by seed, and of what was trained beside it, by kind."""

    alike: tuple[Path, ...]
    beside: dict[str, tuple[Path, ...]]


class _Done(msgspec.Struct, frozen=True, kw_only=True):
    """Which members a run has trained: a killed one goes on with the next."""

    run: str
    trained: tuple[str, ...] = ()


def orders_of(order: TrainingOrder, *, seeds: int, beside: Sequence[str] = ()) -> tuple[TrainingOrder, ...]:
    """Every training of a family, `order` itself first.

    Args:
        order: the first of them.
        seeds: how many seeds, counted up from that of `order`.
        beside: of KINDS; each is trained with every seed too.

    Raises:
        InvalidInputError: too many seeds, a kind that is none or that `order` is already, or a search for settings.
    """
    _check(1 <= seeds <= SEEDS_MAX, f"seeds must lie between 1 and {SEEDS_MAX}.")
    _check(order.seed + seeds - 1 <= SEED_MAX, f"the last seed must be at most {SEED_MAX}.")
    _check(set(beside) <= set(KINDS), f"beside must be of {', '.join(KINDS)}.")
    several = seeds > 1 or bool(beside)
    _check(not (several and order.search), "a search is for one model: search first, or leave --seeds and --beside.")
    _check(not (RANDOM_TIES in beside and order.ties == "random"), "the ties are random already.")
    _check(not (ITEMS_ONLY in beside and not order.context), "the tower reads the items alone already.")
    kinds = ("", *(kind for kind in KINDS if kind in beside))
    return tuple(_member(order, kind, number) for kind in kinds for number in range(seeds))


def train_family(orders: Sequence[TrainingOrder], *, clock: Clock, progress: Progress) -> list[ModelCard]:
    """Carry out one training after the other; a family that was killed goes on where it stood.

    Raises:
        InvalidInputError, ConflictError: as `carry_out`, before anything is trained.
    """
    for order in orders:
        order.check()
    file = _done_file(orders[0].out)
    run = _run_of(orders)
    done = _read_done(file, run)
    for order in orders:
        name = order.out.name
        if name not in done.trained or not (order.out / CARD).is_file():
            carry_out(order, clock=clock, progress=progress)
            done = msgspec.structs.replace(done, trained=(*done.trained, name))
            if len(orders) > 1:
                write_atomically(file, msgspec.json.encode(done))
    file.unlink(missing_ok=True)
    return [read_model_card(order.out) for order in orders]


def family_of(model: Path, *, seeds: int) -> Family:
    """The family that stands around `model`.

    Raises:
        ModelError: a seed is missing, or one of them was trained by another protocol or on other data.
    """
    _check(1 <= seeds <= SEEDS_MAX, f"seeds must lie between 1 and {SEEDS_MAX}.")
    first = read_model_card(model)
    alike = tuple(_folder(model, "", first.retrieval.seed, number) for number in range(seeds))
    for folder in alike:
        _check_alike(folder, first, seeds)
    beside = {}
    for kind in KINDS:
        folders = (_folder(model, kind, first.retrieval.seed, number) for number in range(seeds))
        trained = tuple(folder for folder in folders if (folder / CARD).is_file())
        if trained:
            beside[kind] = trained
    return Family(alike=alike, beside=beside)


def _check_alike(folder: Path, first: ModelCard, seeds: int) -> None:
    fix = f"Train them with one command: ./atoll train --seeds {seeds}."
    if not (folder / CARD).is_file():
        raise ModelError(f"{folder} holds no trained model.", fix=fix)
    card = read_model_card(folder)
    if _recipe(card) != _recipe(first):
        raise ModelError(f"{folder} was not trained as the first of its family.", fix=fix)


def _recipe(card: ModelCard) -> tuple[object, ...]:
    settings = msgspec.structs.replace(card.retrieval, seed=0)
    ranker = msgspec.structs.replace(card.ranker, seed=0)
    return card.dataset_sha256, card.protocol, card.ties, settings, ranker


def _member(order: TrainingOrder, kind: str, number: int) -> TrainingOrder:
    return replace(
        order, seed=order.seed + number, out=_folder(order.out, kind, order.seed, number),
        ties="random" if kind == RANDOM_TIES else order.ties,
        context=order.context and kind != ITEMS_ONLY,
    )  # fmt: skip


def _folder(out: Path, kind: str, seed: int, number: int) -> Path:
    parts = [out.name, *([kind] if kind else []), *([f"seed-{seed + number}"] if number else [])]
    return out.with_name(".".join(parts))


def _done_file(out: Path) -> Path:
    return out.with_name(f".{out.name}.family")


def _run_of(orders: Sequence[TrainingOrder]) -> str:
    card = orders[0].dataset / DATASET_CARD
    data = card.read_bytes() if card.is_file() else b""
    return hashlib.sha256(data + repr(tuple(orders)).encode()).hexdigest()[:20]


def _read_done(file: Path, run: str) -> _Done:
    try:
        done = msgspec.json.decode(file.read_bytes(), type=_Done)
    except (OSError, msgspec.DecodeError):
        return _Done(run=run)
    return done if done.run == run else _Done(run=run)


def _check(holds: bool, message: str) -> None:  # noqa: FBT001 (a condition)
    if not holds:
        raise InvalidInputError(message, fix="See --help.")
