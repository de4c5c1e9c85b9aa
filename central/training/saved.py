"""The model folder: weights as .npz, settings and figures as JSON; there as a whole or not at all."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from central.datasets.interactions import Interactions
from central.folders import staged_folder
from central.training.config import CARD, ModelCard, ModelError, RankerConfig, read_model_card
from central.training.ranker import RankerNetwork
from central.training.retrieval import TwoTowerModel

TOWERS: Final = "towers.npz"
RANKER: Final = "ranker.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModel:
    """A trained model in memory: towers, ranker and their card."""

    card: ModelCard
    towers: TwoTowerModel
    ranker: RankerNetwork


def save_model(model: SavedModel, out: Path) -> None:
    """Writes the model folder.

    Raises:
        ConflictError: `out` holds something that is not a model.
    """
    with staged_folder(out, marker=CARD) as staged:
        _save(staged / TOWERS, _tower_variables(model.towers))
        _save(staged / RANKER, _ranker_variables(model.ranker))
        (staged / CARD).write_bytes(msgspec.json.format(msgspec.json.encode(model.card)))


def load_model(folder: Path, data: Interactions) -> SavedModel:
    """A model folder in memory.

    Args:
        folder: written by `save_model`.
        data: the dataset that the model was trained on; its catalogue is part of the towers.

    Raises:
        ModelError: no model, another dataset, or weights that do not fit.
    """
    card = read_model_card(folder)
    if card.dataset_sha256 != data.card.sha256:
        raise ModelError(
            f"the model in {folder} was trained on another content of {card.dataset} than {data.card.name} holds.",
            fix="Give the dataset that it was trained on, or train again.",
        )
    towers = TwoTowerModel(config=card.retrieval, data=data, item_shares=np.ones(len(data.items), dtype=np.float32))
    _assign(_tower_variables(towers), folder / TOWERS)
    ranker = _load_ranker(card.ranker, folder / RANKER)
    return SavedModel(card=card, towers=towers, ranker=ranker)


def _load_ranker(config: RankerConfig, path: Path) -> RankerNetwork:
    arrays = _read(path)
    mean, deviation = (next(value for key, value in arrays.items() if name in key) for name in ("mean", "deviation"))
    ranker = RankerNetwork(config=config, mean=mean, deviation=deviation)
    _assign(_ranker_variables(ranker), path)
    return ranker


def _tower_variables(towers: TwoTowerModel) -> list[Any]:
    return [*towers.items.variables, *towers.users.variables]


def _ranker_variables(ranker: RankerNetwork) -> list[Any]:
    return list(ranker.variables)


def _save(path: Path, variables: list[Any]) -> None:
    arrays: dict[str, Any] = {_key(number, variable): variable.numpy() for number, variable in enumerate(variables)}
    np.savez(path, allow_pickle=False, **arrays)


def _key(number: int, variable: Any) -> str:
    # Keras numbers its layers through a process (cross_1, cross_2, ...), so only the last part of the name is stable.
    return f"{number:03d}_{variable.name.split('/')[-1].split(':')[0]}"


def _assign(variables: list[Any], path: Path) -> None:
    arrays = _read(path)
    for number, variable in enumerate(variables):
        value = arrays.get(_key(number, variable))
        if value is None or value.shape != tuple(variable.shape):
            raise ModelError(f"{path} does not fit its settings.", fix="Train again: ./atoll train.")
        variable.assign(value)


def _read(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} does not read: {error}.", fix="Train again: ./atoll train.") from None
