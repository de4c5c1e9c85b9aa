"""A dataset in memory: NumPy columns in one stable order, and the split that evaluation needs."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from central.datasets.importing import CARD, SEQUENCE_MIN, DatasetCard
from central.datasets.plain import INTERACTIONS, ITEMS, TEST, USERS
from central.datasets.rows import ITEM_COLUMNS
from central.datasets.streaming import STREAM, Stream
from central.datasets.text import DatasetError
from infra.contracts.events import (
    DEFAULT_WEIGHTS,
    EventType,
    EventWeights,
    enters_history,
    event_strength,
    parse_weights,
)
from infra.contracts.features import IntArray

TEST_SHARE: Final = 0.1
"""Of the interactions, behind the moment of a split by time."""
CATEGORIES_MAX: Final = 64
"""Only the most frequent categories become features; the rest stays in the catalogue as text."""
WEIGHTS = "event_weights.toml"
"""A region's own event weights, beside the data that they are for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """The catalogue, in the order of `items.csv`: all of it, or of a mere collection every item with an interaction.

    `ids`, `titles`, `labels`: one per row. `years`: `[num_items] int32`, 0 for unknown. `weights`:
    `[num_items, num_categories] float32`, each row sums to 1 or 0. `extras`: what the other
    columns of `items.csv` say of each row, by column, without empty fields.
    """

    ids: tuple[str, ...]
    titles: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    years: IntArray
    categories: tuple[str, ...]
    weights: npt.NDArray[np.float32]
    extras: tuple[dict[str, str], ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interactions:
    """All interactions that enter a history, sorted by (user, time, row of the file).

    Without timestamps each user's interactions are shuffled instead.

    `users`, `rows`, `strengths`: `[n] int32`; `times_s`: `[n] float64`; `starts`: `[num_users + 1] int64`, where
    each user's part begins; `user_regions`: `[num_users] int32`, index into `regions`. `held_out`:
    `[num_users] int32`, how many of the user's last interactions a given split keeps for the test, else None.
    """

    card: DatasetCard
    items: Items
    user_ids: tuple[str, ...]
    regions: tuple[str, ...]
    user_regions: IntArray
    users: IntArray
    rows: IntArray
    strengths: IntArray
    times_s: npt.NDArray[np.float64]
    starts: npt.NDArray[np.int64]
    held_out: IntArray | None = None
    stream: Stream | None = None
    """Everybody's histories on disk, where this is a sample of the users; towers are trained on it."""

    @property
    def num_users(self) -> int:
        """Users with at least one interaction."""
        return len(self.user_ids)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """`[num_users]`: interactions of each user."""
        return np.diff(self.starts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Leave the last one out: where each user's training ends, and who is evaluated.

    A user with fewer than three interactions is trained on in full and not evaluated. For `users` (evaluated ones),
    `test_at` is the position of the test interaction and `valid_at` of one before it, both into the columns.
    `train_ends`: `[num_users] int64`, exclusive; an evaluated user's is `valid_at`.
    """

    users: npt.NDArray[np.int64]
    valid_at: npt.NDArray[np.int64]
    test_at: npt.NDArray[np.int64]
    train_ends: npt.NDArray[np.int64]

    @property
    def known_ends(self) -> npt.NDArray[np.int64]:
        """`[num_users]`: exclusive end of what may be known when the test is asked: all but what is tested."""
        ends = self.train_ends.copy()
        ends[self.users] += 1
        return ends


def load_dataset(folder: Path, *, ties: str = "file", seed: int = 0) -> Interactions:
    """A canonical folder (written by `import_source`) in memory.

    Args:
        folder: holds `dataset.json`.
        ties: `file`: interactions of one user at one moment stay in the order of the file; `random`: they are shuffled.
            Without timestamps they always are.
        seed: of that shuffle.

    Raises:
        DatasetError: not a canonical folder.
    """
    card = read_card(folder)
    columns, user_ids, item_index = _read_interactions(folder, card)
    items, row_of = _read_items(folder, item_index, every=card.catalogue or card.stream_interactions > 0)
    columns = replace(columns, rows=row_of[columns.rows])
    tie = np.arange(columns.users.size)
    if ties == "random" or not (card.has_times or card.stream_interactions):
        # Without timestamps the order of the file may be that of the items: it must not pass for an order in time. What
        # has a stream was shuffled once, when both were written: they must agree on what the test is.
        np.random.default_rng(seed).shuffle(tie)
    order = np.lexsort((tie, columns.times_s, columns.is_test, columns.users))
    regions, user_regions = _read_regions(folder, user_ids)
    users = columns.users[order]
    is_test = columns.is_test[order]
    return Interactions(
        card=card, items=items, user_ids=user_ids, regions=regions, user_regions=user_regions, users=users,
        rows=columns.rows[order], strengths=columns.strengths[order], times_s=columns.times_s[order],
        starts=np.searchsorted(users, np.arange(len(user_ids) + 1)),
        held_out=np.bincount(users[is_test], minlength=len(user_ids)).astype(np.int32) if is_test.any() else None,
        stream=Stream(folder / STREAM) if card.stream_interactions else None,
    )  # fmt: skip


def read_card(folder: Path) -> DatasetCard:
    """The card of a canonical folder.

    Raises:
        DatasetError: there is none, or it does not read.
    """
    try:
        return msgspec.json.decode((folder / CARD).read_bytes(), type=DatasetCard)
    except FileNotFoundError:
        raise DatasetError(f"{folder} holds no {CARD}", fix="Import it first: ./atoll data import.") from None
    except msgspec.DecodeError as error:
        raise DatasetError(f"{folder / CARD} does not read: {error}", fix="Import the dataset again.") from None


def leave_last_out(data: Interactions) -> Split:
    """The split of the headline figure: last interaction to test, the one before to validate.

    Of users who come back to items that they took before, it is the last two interactions with items that were new to
    them: no list holds what its user took already, so nothing else could be found.
    """
    new = first_times(data)
    if data.stream is not None or new.all():
        # Of a dataset larger than memory the towers learn from everything but everybody's last two interactions.
        return _split(data, np.ones(data.num_users, dtype=np.int64))
    at = np.flatnonzero(new)
    counts = np.bincount(data.users[at], minlength=data.num_users)
    users = np.flatnonzero(counts >= SEQUENCE_MIN)
    last = np.cumsum(counts)[users] - 1
    ends = data.starts[1:].copy()
    ends[users] = at[last - 1]
    return Split(users=users, valid_at=at[last - 1], test_at=at[last], train_ends=ends)


def first_times(data: Interactions) -> npt.NDArray[np.bool_]:
    """`[n]`: whether the item of each interaction was new to its user."""
    pairs = data.users.astype(np.int64) * len(data.items) + data.rows
    new = np.zeros(pairs.size, dtype=np.bool_)
    new[np.unique(pairs, return_index=True)[1]] = True
    return new


def given_split(data: Interactions) -> Split:
    """The split that `test.csv` gives: the first interaction kept for the test is the one to predict.

    Raises:
        DatasetError: the dataset has no `test.csv`.
    """
    if data.held_out is None:
        raise DatasetError(f"{data.card.name} has no {TEST}", fix="Use the leave-last-out protocol.")
    return _split(data, data.held_out.astype(np.int64))


def global_time_split(data: Interactions, *, test_share: float = TEST_SHARE) -> Split:
    """The split at one moment for all users: the last `test_share` of the interactions lie behind it.

    Each user's first interaction behind it is the test; what a user does later is not looked at.

    Raises:
        DatasetError: the dataset has no timestamps, or nobody has a history before and an interaction after.
    """
    if not data.card.has_times or data.held_out is not None:
        why = "its own test.csv" if data.card.has_times else "no timestamps"
        raise DatasetError(f"{data.card.name} has {why}", fix="Use the leave-last-out or the given protocol.")
    cut = float(np.quantile(data.times_s, 1.0 - test_share, method="higher"))
    later = np.bincount(data.users[data.times_s >= cut], minlength=data.num_users).astype(np.int64)
    split = _split(data, later)
    if not split.users.size:
        raise DatasetError(
            f"nobody in {data.card.name} has interactions on both sides of one moment",
            fix="Use the leave-last-out protocol.",
        )
    return replace(split, train_ends=np.minimum(split.train_ends, data.starts[1:] - later))


def _split(data: Interactions, kept_back: npt.NDArray[np.int64]) -> Split:
    """`kept_back`: `[num_users]`, how many interactions at each user's end are not to be seen before the test."""
    users = np.flatnonzero((kept_back > 0) & (data.lengths - kept_back >= SEQUENCE_MIN - 1))
    ends = data.starts[1:] - np.where(data.held_out is None, 0, kept_back)
    test_at = data.starts[1:][users] - kept_back[users]
    ends[users] = test_at - 1
    return Split(users=users, valid_at=test_at - 1, test_at=test_at, train_ends=ends)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    users: IntArray
    rows: IntArray
    strengths: IntArray
    times_s: npt.NDArray[np.float64]
    is_test: npt.NDArray[np.bool_]


def _read_interactions(folder: Path, card: DatasetCard) -> tuple[_Columns, tuple[str, ...], dict[str, int]]:
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    total = card.interactions + card.test_interactions
    user, row, strength = (np.zeros(total, dtype=np.int32) for _ in range(3))
    time = np.zeros(total, dtype=np.float64)
    is_test = np.zeros(total, dtype=np.bool_)
    at = 0
    memo: dict[tuple[str, str], int] = {}
    weights = _weights(folder)
    for name in (INTERACTIONS, TEST) if card.test_interactions else (INTERACTIONS,):
        for fields in _data_rows(folder / name):
            kind = (fields[-2], fields[-1])
            if kind not in memo:
                memo[kind] = _strength(*kind, weights)
            if memo[kind] and at < total:
                user[at] = users.setdefault(fields[0], len(users))
                row[at] = items.setdefault(fields[1], len(items))
                strength[at] = memo[kind]
                time[at] = float(fields[2]) if card.has_times else 0.0
                is_test[at] = name == TEST
                at += 1
    columns = _Columns(users=user[:at], rows=row[:at], strengths=strength[:at], times_s=time[:at], is_test=is_test[:at])
    return columns, tuple(users), items


def _strength(kind: str, value: str, weights: EventWeights) -> int:
    """Strength of an event, 0 for one that does not enter a history."""
    event_type = EventType(kind)
    if not enters_history(event_type):
        return 0
    return event_strength(event_type, float(value) if value else None, weights=weights)


def _weights(folder: Path) -> EventWeights:
    """The event weights that the dataset carries (a region's own file), or the shipped ones."""
    path = folder / WEIGHTS
    if not path.is_file():
        return DEFAULT_WEIGHTS
    try:
        return parse_weights(path.read_bytes())
    except ValueError as error:  # msgspec's errors are ValueErrors
        raise DatasetError(f"{path} cannot be used: {error}", fix="Copy the region's own file there again.") from None


def _data_rows(path: Path) -> Iterator[list[str]]:
    # The folder is canonical: the card vouches for header, encoding and fields.
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        next(reader)
        yield from reader


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file))


def _read_items(folder: Path, index: dict[str, int], *, every: bool) -> tuple[Items, IntArray]:
    """The catalogue, and `[len(index)] int32`: row of each item of `index`. `every`: others of the file too."""
    columns = _header(folder / ITEMS)
    found = [fields for fields in _data_rows(folder / ITEMS) if every or fields[0] in index]
    row_of = np.zeros(len(index), dtype=np.int32)
    for row, fields in enumerate(found):
        if fields[0] in index:
            row_of[index[fields[0]]] = row
    labels = tuple(_labels(fields[2]) for fields in found)
    categories = _frequent_categories(labels)
    items = Items(
        ids=tuple(fields[0] for fields in found),
        titles=tuple(fields[1] for fields in found),
        labels=labels,
        years=np.array([int(fields[3] or 0) for fields in found], dtype=np.int32),
        categories=categories,
        weights=category_weights(labels, categories),
        extras=tuple(_extras(fields, columns) for fields in found),
    )
    return items, row_of


def _extras(fields: list[str], columns: list[str]) -> dict[str, str]:
    named = zip(columns[len(ITEM_COLUMNS) :], fields[len(ITEM_COLUMNS) :], strict=True)
    return {name: text for name, text in named if text}


def _labels(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label for label in text.split("|") if label))


def _frequent_categories(labels: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for item in labels:
        for label in item:
            counts[label] = counts.get(label, 0) + 1
    frequent = sorted(counts, key=lambda label: (-counts[label], label))[:CATEGORIES_MAX]
    return tuple(sorted(frequent))


def category_weights(labels: tuple[tuple[str, ...], ...], categories: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """`[len(labels), len(categories)] float32`: equal shares of each item's known categories; rows sum to 1 or 0."""
    position = {category: at for at, category in enumerate(categories)}
    weights = np.zeros((len(labels), len(categories)), dtype=np.float32)
    for row, item in enumerate(labels):
        known = [position[label] for label in item if label in position]
        if known:
            weights[row, known] = 1.0 / len(known)
    return weights


def _read_regions(folder: Path, user_ids: tuple[str, ...]) -> tuple[tuple[str, ...], IntArray]:
    region_of = {fields[0]: fields[1] for fields in _data_rows(folder / USERS)}
    regions = tuple(sorted({region_of[user] for user in user_ids}))
    position = {region: at for at, region in enumerate(regions)}
    return regions, np.array([position[region_of[user]] for user in user_ids], dtype=np.int32)
