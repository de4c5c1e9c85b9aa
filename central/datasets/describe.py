"""What a dataset is, and what that implies for training: said before anything is trained."""

import msgspec
import numpy as np

from central.datasets.importing import SEQUENCE_MIN
from central.datasets.interactions import Interactions

SPARSE_PER_USER = 5
DAY_S = 86_400.0
LARGE_INTERACTIONS = 2_000_000


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
    stream_interactions: int
    """Of everybody, on disk, where the other figures are of a sample of the users; 0 where they are of all."""
    implies: tuple[str, ...]


def describe(data: Interactions) -> Description:
    """Reads the figures off a dataset in memory."""
    lengths = data.lengths
    per_item = np.bincount(data.rows, minlength=len(data.items))
    times = data.times_s
    within = data.users[1:] == data.users[:-1]
    tied = float((np.diff(times)[within] == 0.0).mean()) if within.any() else 0.0
    description = Description(
        name=data.card.name, sha256=data.card.sha256, users=data.num_users, items=len(data.items),
        interactions=int(data.rows.size), event_types=data.card.event_types, regions=data.card.regions,
        density=round(data.rows.size / (data.num_users * len(data.items)), 6),
        per_user_median=float(np.median(lengths)), per_user_p90=float(np.quantile(lengths, 0.9)),
        per_item_median=float(np.median(per_item)), days=round(float(times.max() - times.min()) / DAY_S, 2),
        timestamps=data.card.has_times, sequences=data.card.has_times and tied < 0.99,
        metadata=bool(data.items.categories), categories=data.items.categories,
        evaluated_users=int((lengths >= SEQUENCE_MIN).sum()),
        tied_share=round(tied, 4), stream_interactions=data.card.stream_interactions, implies=(),
    )  # fmt: skip
    return msgspec.structs.replace(description, implies=tuple(_implications(description)))


def _of_streams(seen: Description) -> list[str]:
    if not seen.stream_interactions:
        return []
    return [
        "Larger than memory: these figures are of a sample of the users; the towers are trained on all "
        f"{seen.stream_interactions:,} interactions, ranker, tables and evaluation see the sample."
    ]


def _implications(seen: Description) -> list[str]:
    said = _of_streams(seen)
    if not seen.timestamps:
        said.append(
            "No timestamps, so no sequence: each history is a set in random order, the tower does not know positions, "
            "and the test is one of a user's interactions at random."
        )
    elif not seen.sequences:
        said.append("No usable timestamps: the order of the file is taken for the order in time; gaps mean nothing.")
    elif seen.tied_share > 0.1:
        said.append(
            f"{seen.tied_share:.0%} of the interactions share their moment with the one before: the order of the file "
            "decides there; compare with ties=random before believing a figure."
        )
    if not seen.metadata:
        said.append("No categories: an item without interactions cannot get a vector, and no list is by category.")
    explicit = seen.event_types.get("rating", 0) / max(sum(seen.event_types.values()), 1)
    if explicit < 0.5:
        said.append("Mostly implicit events: what was not touched is unknown, not disliked.")
    if seen.interactions > LARGE_INTERACTIONS:
        said.append("Large: fewer epochs by default; give --minutes to bound the training.")
    if len(seen.regions) == 1:
        said.append(f"All users are in {next(iter(seen.regions))}: give users.csv a region column to spread them.")
    if seen.evaluated_users < seen.users:
        short = seen.users - seen.evaluated_users
        said.append(f"{short} users have fewer than {SEQUENCE_MIN} interactions: they are not evaluated.")
    if seen.per_user_median < SPARSE_PER_USER:
        said.append("Half of the users have very short histories: expect figures close to the nearest-items baseline.")
    return said
