"""What a training run is told, and the defaults that are found from the data."""

from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from central.datasets.interactions import Interactions
from infra.contracts.release import LightRanker
from infra.plumbing.errors import InvalidInputError

FULL_SOFTMAX_ITEMS_MAX: Final = 20_000
"""Up to here every step ranks the target against the whole catalogue; above, against the batch, log-Q corrected."""
SMALL_INTERACTIONS: Final = 300_000
EPOCHS: Final = 20
EPOCHS_MIN: Final = 3
TOKENS_MAX: Final = 30_000_000
"""Positions that a large dataset is trained on at most, all epochs together, EPOCHS_MIN epochs at least."""
TOKENS_MIN: Final = 1_800_000
"""Positions that a small dataset is trained on at least, all epochs together."""
EPOCHS_MAX: Final = 60


CARD: Final = "model.json"
"""The file that makes a folder a model folder."""


class ModelError(InvalidInputError):
    """A model folder cannot be used."""


class RetrievalConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes and schedule of the two towers. `batch_tokens` counts positions, not sequences."""

    dim: int = 128
    """Width of a vector: of all towers together."""
    towers: int = 1
    """User towers beside each other, `dim / towers` wide each: an ensemble that is still one dot product."""
    layers: int = 2
    heads: int = 2
    history_length: int = 200
    epochs: int = 20
    batch_tokens: int = 3000
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup_share: float = 0.05
    dropout: float = 0.2
    item_dropout: float = 0.02
    """Share of the items that a step knows by their metadata only, so that an unseen item has a vector."""
    ema: float = 0.998
    positions: bool = True
    """Whether the tower knows the order of a history; without timestamps there is none."""
    distances: bool = False
    """Whether attention weighs an event by how many events ago it was; a model that says nothing of it does not."""
    context: bool = True
    """Whether the tower reads strengths and gaps, or the items only."""
    full_softmax: bool = True
    bfloat16: bool = False
    patience: int = 5
    seed: int = 0


LISTWISE: Final = "listwise"
PAIRWISE: Final = "pairwise"
POINTWISE: Final = "pointwise"
RANKER_LOSSES: Final = (LISTWISE, PAIRWISE, POINTWISE)


class RankerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes and schedule of the ranker."""

    loss: str = LISTWISE
    crosses: int = 2
    hidden: int = 64
    epochs: int = 12
    batch_lists: int = 64
    prior: float = 4.5
    """How strongly the linear weights are drawn to zero: the penalty on their squares, for all lists together."""
    learning_rate: float = 3e-4
    weight_decay: float = 3e-2
    dropout: float = 0.2
    patience: int = 4
    seed: int = 0


class SearchReport(msgspec.Struct, frozen=True, kw_only=True):
    """How the settings of the towers were chosen: by validation NDCG@10 in short trainings, nothing else.

    `default` and `best`: the best epoch of the trial with the default settings, and of the chosen ones.
    """

    trials: int
    pruned: int
    default: float
    best: float
    chosen: dict[str, float]
    study: str
    """Name of the study in its file beside the model."""


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What `model.json` says: what was trained on what, and how it went."""

    dataset: str
    dataset_sha256: str
    ties: str
    protocol: str
    retrieval: RetrievalConfig
    ranker: RankerConfig
    epochs: int
    curve: tuple[float, ...]
    train_s: float
    retrieval_train_s: float
    ease_penalty: float
    """L2 penalty of EASE, chosen on validation interactions."""
    ranker_epochs: tuple[int, int]
    ranker_held_out_ndcg10: float
    retrieval_held_out_ndcg10: float
    search: SearchReport | None = None
    light: LightRanker | None = None
    """What L1 learned of the ranker."""


def read_model_card(folder: Path) -> ModelCard:
    """The card of a model folder.

    Raises:
        ModelError: there is none, or it does not read.
    """
    try:
        return msgspec.json.decode((folder / CARD).read_bytes(), type=ModelCard)
    except FileNotFoundError:
        raise ModelError(f"{folder} holds no trained model.", fix="Train one: ./atoll train.") from None
    except msgspec.DecodeError as error:
        raise ModelError(f"{folder / CARD} does not read: {error}.", fix="Train again: ./atoll train.") from None


def default_config(
    data: Interactions, *, seed: int, bfloat16: bool, context: bool = True, towers: int = 1
) -> RetrievalConfig:  # fmt: skip
    """Sizes by the amount of data: history length by the users' lengths, width and epochs by the interactions."""
    size = max(data.rows.size, data.card.stream_interactions, 1)
    small = size < SMALL_INTERACTIONS
    epochs = int(np.clip(TOKENS_MAX // size, EPOCHS_MIN, EPOCHS))
    if small:
        epochs = int(np.clip(TOKENS_MIN // size, 12, EPOCHS_MAX))
    return RetrievalConfig(
        dim=(64 if small else 128) * towers,
        towers=towers,
        history_length=_history_length(data, 100 if small else 200),
        epochs=epochs,
        batch_tokens=1500 if small else 3000,
        layers=2 if small else 3,
        heads=2 if small else 4,
        learning_rate=3e-3 if small else 4e-3,
        # The schedule ends at zero, and the last third of it brings the most: only a long standstill ends a run.
        patience=max(5, epochs // 2),
        positions=data.card.has_times,
        distances=data.card.has_times,
        context=context,
        full_softmax=len(data.items) <= FULL_SOFTMAX_ITEMS_MAX,
        bfloat16=bfloat16,
        seed=seed,
    )


def _history_length(data: Interactions, longest: int) -> int:
    """The smallest of a few lengths that holds nine of ten histories, `longest` at most."""
    wanted = float(np.quantile(data.lengths, 0.9))
    return next((length for length in (20, 50, 100, 200) if length >= wanted and length <= longest), longest)
