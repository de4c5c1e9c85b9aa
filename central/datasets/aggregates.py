"""What regions let out as counts (`infra.contracts.extracts`): what is popular there, and what goes together.

There is no history in a count, so no tower and no ranker learns from it. What a release makes of it are the lists of
the region that counted: without them a region whose users are in no dataset is shown what is popular elsewhere.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from central.datasets.text import DatasetError
from infra.contracts.extracts import AGGREGATES_PREFIX, AGGREGATES_SUFFIX, AggregateExtract, aggregates_file

EXTRACT_BYTES_MAX: Final = 256 << 20
"""Some four million items and pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionCounts:
    """One region's counts over the rows of a catalogue, noise included.

    `users`: `[num_items] float64`, about how many people have an item; 0 where the region did not say. `partners`:
    by row, the rows that most people have together with it, the most first. `unknown`: counted items that the catalogue
    does not have. `provenance`: what the extract says about itself, for the model card.
    """

    region: str
    users: npt.NDArray[np.float64]
    partners: Mapping[int, tuple[int, ...]]
    unknown: int
    provenance: str

    @property
    def known(self) -> int:
        """Items of the catalogue that the region counted."""
        return int(np.count_nonzero(self.users))


def read_counts(folder: Path, items: Sequence[str]) -> tuple[RegionCounts, ...]:
    """The counts of every `aggregates-REGION.json` in `folder`, over the catalogue `items`, by region.

    Raises:
        DatasetError: there is none, one does not read or is of another region than its name says, or none of the items
            that it counts is in the catalogue.
    """
    files = sorted(folder.glob(f"{AGGREGATES_PREFIX}*{AGGREGATES_SUFFIX}"))
    if not files:
        raise DatasetError(
            f"{folder} holds no {aggregates_file('REGION')}",
            fix="Have a region make one: ./atoll region REGION extract --kind aggregates --out DIR.",
        )
    row_of = {item: row for row, item in enumerate(items)}
    return tuple(_counts(file, row_of) for file in files)


def _counts(file: Path, row_of: Mapping[str, int]) -> RegionCounts:
    extract = _read(file)
    users = np.zeros(len(row_of))
    for one in extract.items:
        if one.item in row_of:
            users[row_of[one.item]] = max(0, one.users)
    if not extract.items:
        raise DatasetError(
            f"{file}: counts no item: at its noise (epsilon {extract.epsilon:g}) none has enough people",
            fix="Leave it out; a region needs some ten thousand people to count, or a larger extracts.epsilon.",
        )
    if not users.any():
        raise DatasetError(
            f"{file}: none of the {len(extract.items)} items that it counts is in this dataset",
            fix="Give the extract of a region that serves this catalogue.",
        )
    return RegionCounts(
        region=extract.region, users=users, partners=_partners(extract, row_of),
        unknown=sum(one.item not in row_of for one in extract.items),
        provenance=f"epsilon {extract.epsilon:g} at delta {extract.delta:g}, at least {extract.users_min} people each",
    )  # fmt: skip


def _read(file: Path) -> AggregateExtract:
    try:
        if file.stat().st_size > EXTRACT_BYTES_MAX:
            raise DatasetError(f"{file}: longer than {EXTRACT_BYTES_MAX} bytes", fix="Make the extract again.")
        extract = msgspec.json.decode(file.read_bytes(), type=AggregateExtract)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: no counts of a region: {error}", fix="Make the extract again.") from None
    if file.name != aggregates_file(extract.region):
        raise DatasetError(
            f"{file}: holds the counts of {extract.region!r}", fix=f"Call it {aggregates_file(extract.region)}."
        )
    return extract


def _partners(extract: AggregateExtract, row_of: Mapping[str, int]) -> dict[int, tuple[int, ...]]:
    found: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for pair in extract.pairs:
        if pair.users > 0 and pair.first != pair.second and {pair.first, pair.second} <= row_of.keys():
            first, second = row_of[pair.first], row_of[pair.second]
            found[first].append((-pair.users, second))
            found[second].append((-pair.users, first))
    return {row: _distinct(other for _, other in sorted(near)) for row, near in found.items()}


def _distinct(rows: Iterable[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(rows))
