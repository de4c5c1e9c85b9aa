"""What regions let out as sequences (`infra.contracts.extracts`), as a source.

A folder holds the extracts of one region or of several, and beside them the catalogue's `items.csv` if there is one.
"""

from collections.abc import Iterator

import msgspec

from central.datasets.plain import ITEMS, item_row
from central.datasets.rows import InteractionRow, ItemRow, Source, UserRow
from central.datasets.text import Archive, DatasetError, read_csv
from infra.contracts.event_weights import STRENGTH_LEVELS
from infra.contracts.events import EventType
from infra.contracts.extracts import SEQUENCES_PREFIX, SEQUENCES_SUFFIX, SequenceExtract

HOUR_S = 3600
_RATED_MAX = 5
"""Strengths of 1 to 5 are a rating's values; what is beyond says nothing about interest."""


def extract_files(archive: Archive) -> list[str]:
    """The files of sequences in a folder or zip."""
    names = (name.rsplit("/", 1)[-1] for name in archive.names())
    return sorted(name for name in names if name.startswith(SEQUENCES_PREFIX) and name.endswith(SEQUENCES_SUFFIX))


def extracts(archive: Archive, *, name: str) -> Source:
    """Regions' sequences as a source."""

    def interactions() -> Iterator[tuple[int, InteractionRow, str]]:
        for number, one in _sequences(archive):
            for row in _rows(one):
                yield number, row, one.region

    def users() -> Iterator[tuple[int, UserRow]]:
        return ((number, UserRow(one.key, one.region)) for number, one in _sequences(archive))

    return Source(
        name=name, interactions=interactions, interactions_file=", ".join(extract_files(archive)), users=users,
        items=(lambda: _items(archive)) if archive.find(ITEMS) else lambda: iter(()),
        catalogue=archive.find(ITEMS) is not None,
    )  # fmt: skip


def _sequences(archive: Archive) -> Iterator[tuple[int, SequenceExtract]]:
    for file in extract_files(archive):
        for number, line in enumerate(archive.lines(file), start=1):
            yield number, _sequence(line, f"{file}, line {number}")


def _items(archive: Archive) -> Iterator[tuple[int, ItemRow]]:
    for number, row in read_csv(archive.lines(ITEMS), name=ITEMS, required=("item_id",)):
        yield number, item_row(row, f"{ITEMS}, line {number}")


def _sequence(line: str, where: str) -> SequenceExtract:
    try:
        found = msgspec.json.decode(line, type=SequenceExtract)
    except msgspec.DecodeError as error:
        raise DatasetError(f"{where}: no sequence of a region: {error}", fix="Make the extract again.") from None
    if not len(found.items) == len(found.strengths) == len(found.hours):
        raise DatasetError(f"{where}: items, strengths and hours differ in number", fix="Make the extract again.")
    return found


def _rows(one: SequenceExtract) -> Iterator[InteractionRow]:
    for item, strength, hour in zip(one.items, one.strengths, one.hours, strict=True):
        if not 1 <= strength < STRENGTH_LEVELS:
            raise DatasetError(f"{one.region}: {strength} is no strength", fix="Make the extract again.")
        value = str(strength) if strength <= _RATED_MAX else ""
        yield InteractionRow(one.key, item, str(hour * HOUR_S), EventType.RATING.value, value)
