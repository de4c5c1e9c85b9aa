"""What a dataset is, and what that implies for training: said before anything is trained."""

from typing import Final

import msgspec
import numpy as np

from central.datasets.importing import SEQUENCE_MIN, DatasetCard
from central.datasets.interactions import Interactions, first_times
from central.training.config import default_config
from infra.contracts.events import EventType

SPARSE_PER_USER = 5
DAY_S = 86_400.0
LARGE_INTERACTIONS = 2_000_000
FEW_USERS = 1_000
"""Below so many evaluated users one figure says little by itself."""
REPEATS_SAID = 0.01
NEGATIVE: Final = frozenset({EventType.DISLIKE.value, EventType.SKIP.value})
NO_TIMES: Final = (
    "No timestamps, so no sequence: each history is a set in random order, the tower does not know positions, and the "
    "test is one of a user's interactions at random."
)
_MEANT: Final = {
    "value": ("rating", "ratings", "stars", "score"),
    "timestamp": ("time", "ts", "date", "datetime", "created_at"),
    "event_type": ("event", "action", "behavior", "type"),
}
"""Names of columns that are often meant by ours."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What `train` takes by default for a dataset."""

    history_length: int
    dim: int
    epochs: int
    patience: int
    """A training ends early after so many epochs that do not validate better."""
    positions: bool
    """Whether the tower knows the order of a history."""
    full_softmax: bool
    """Whether each step ranks against the whole catalogue; otherwise against a sample, corrected for popularity."""

    def sentence(self) -> str:
        """In words."""
        rivals = "every item" if self.full_softmax else "a sample of the items"
        return (
            f"Training takes by default: histories of the last {self.history_length} events, vectors {self.dim} wide, "
            f"up to {self.epochs} epochs (fewer when {self.patience} in a row do not validate better), each target "
            f"against {rivals}."
        )


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a dataset, and sentences about what they imply."""

    name: str
    sha256: str
    users: int
    items: int
    interactions: int
    event_types: dict[str, int]
    regions: dict[str, int]
    density: float
    per_user_median: float
    per_user_p90: float
    per_item_median: float
    days: float
    timestamps: bool
    sequences: bool
    metadata: bool
    categories: tuple[str, ...]
    evaluated_users: int
    tied_share: float
    repeat_share: float
    """Of the interactions: with an item that the user had taken before."""
    stream_interactions: int
    """Of everybody, on disk, where the other figures are of a sample of the users; 0 where they are of all."""
    test_interactions: int
    unread_columns: tuple[str, ...]
    training: Settings
    implies: tuple[str, ...]


def describe(data: Interactions) -> Description:
    """Reads the figures off a dataset in memory."""
    lengths = data.lengths
    new = first_times(data)
    per_item = np.bincount(data.rows, minlength=len(data.items))
    times = data.times_s
    within = data.users[1:] == data.users[:-1]
    tied = float((np.diff(times)[within] == 0.0).mean()) if within.any() else 0.0
    different = np.bincount(data.users[new], minlength=data.num_users)
    description = Description(
        name=data.card.name, sha256=data.card.sha256, users=data.num_users, items=len(data.items),
        interactions=int(data.rows.size), event_types=data.card.event_types, regions=data.card.regions,
        density=round(int(new.sum()) / (data.num_users * len(data.items)), 6),
        per_user_median=float(np.median(lengths)), per_user_p90=float(np.quantile(lengths, 0.9)),
        per_item_median=float(np.median(per_item)), days=round(float(times.max() - times.min()) / DAY_S, 2),
        timestamps=data.card.has_times, sequences=data.card.has_times and tied < 0.99,
        metadata=bool(data.items.categories), categories=data.items.categories,
        evaluated_users=int((different >= SEQUENCE_MIN).sum()), tied_share=round(tied, 4),
        repeat_share=round(1.0 - float(new.mean()), 4), stream_interactions=data.card.stream_interactions,
        test_interactions=data.card.test_interactions, unread_columns=data.card.unread_columns,
        training=_settings(data), implies=(),
    )  # fmt: skip
    implies = (*_of_stream(description), *notes(data.card), *_of_time(description), *_of_events(description))
    return msgspec.structs.replace(description, implies=(*implies, *_of_sizes(description)))


def _settings(data: Interactions) -> Settings:
    config = default_config(data, seed=0, bfloat16=False)
    return Settings(**{name: getattr(config, name) for name in Settings.__struct_fields__})


def _of_stream(seen: Description) -> list[str]:
    if not seen.stream_interactions:
        return []
    return [
        "Larger than memory: these figures are of a sample of the users; the towers are trained on all "
        f"{seen.stream_interactions:,} interactions, ranker, tables and evaluation see the sample."
    ]


def notes(card: DatasetCard) -> list[str]:
    """What the card alone shows that whoever trains may not have meant."""
    said = [] if card.has_times else [NO_TIMES]
    return said + [
        f"The column {column} of the interactions is not read{_meant(column)}." for column in card.unread_columns
    ]


def _of_time(seen: Description) -> list[str]:
    if not seen.timestamps:
        return []
    if not seen.sequences:
        return ["No usable timestamps: the order of the file is taken for the order in time; gaps mean nothing."]
    if seen.tied_share > 0.1:
        return [
            f"{seen.tied_share:.0%} of the interactions share their moment with the one before: the order of the file "
            "decides there; compare with ties=random before believing a figure."
        ]
    return []


def _of_events(seen: Description) -> list[str]:
    said = []
    if not seen.metadata:
        said.append("No categories: an item without interactions cannot get a vector, and no list is by category.")
    total = max(sum(seen.event_types.values()), 1)
    refused = sum(count for kind, count in seen.event_types.items() if kind in NEGATIVE)
    if 2 * refused > total:
        said.append(f"{refused / total:.0%} dislikes and skips: lists would be made of what people refuse.")
    elif 2 * seen.event_types.get("rating", 0) < total:
        said.append("Mostly implicit events: what was not touched is unknown, not disliked.")
    if seen.repeat_share > REPEATS_SAID:
        said.append(
            f"{seen.repeat_share:.0%} of the interactions are with an item that the user had taken before: lists leave "
            "such items out, and the test is each user's last interaction with an item that was new to them."
        )
    return said


def _of_sizes(seen: Description) -> list[str]:
    said = []
    if seen.test_interactions:
        said.append(
            f"test.csv has {seen.test_interactions:,} interactions: it is the test, unless --protocol says else."
        )
    if seen.interactions > LARGE_INTERACTIONS:
        said.append("Large: fewer epochs by default; give --minutes to bound the training.")
    if len(seen.regions) == 1:
        said.append(f"All users are in {next(iter(seen.regions))}: give users.csv a region column to spread them.")
    if seen.evaluated_users < seen.users:
        short = seen.users - seen.evaluated_users
        said.append(f"{short} users took fewer than {SEQUENCE_MIN} different items: they are not evaluated.")
    if 0 < seen.evaluated_users < FEW_USERS:
        doubt = 0.98 / float(np.sqrt(seen.evaluated_users))
        said.append(
            f"Small: of {seen.evaluated_users} users a share such as HR@10 is known to {doubt:.2f} at worst; compare "
            "several seeds (--seeds 3) before believing a difference."
        )
    if seen.per_user_median < SPARSE_PER_USER:
        said.append("Half of the users have very short histories: expect figures close to the nearest-items baseline.")
    return said


def _meant(column: str) -> str:
    ours = next((name for name, others in _MEANT.items() if column.lower() in others), None)
    return f": call it {ours} if that is what it says" if ours else ""
