"""Importer of XMarket's FOREC layout (Bonab et al., 2021): `<market>_5core.txt`, every market a region."""

import re
from collections.abc import Iterator
from typing import Final

from central.datasets.rows import InteractionRow, Source
from central.datasets.text import Archive, DatasetError

_MARKET_FILE: Final = re.compile(r"(?:^|/)([a-z]{2})_5core\.txt$")
_HEADER: Final = ("userId", "itemId", "rate", "date")


def market_files(archive: Archive) -> dict[str, str]:
    """Files by market, in the order of their names; empty where the layout is another."""
    found = ((_MARKET_FILE.search(name), name) for name in archive.names())
    return {match.group(1): name for match, name in sorted(found, key=lambda pair: pair[1]) if match}


def xmarket(archive: Archive) -> Source:
    """The markets of an archive as one dataset: users of one market, items that are sold in several.

    Raises:
        DatasetError: a file has another header or a row has other fields.
    """
    files = market_files(archive)

    def interactions() -> Iterator[tuple[int, InteractionRow, str]]:
        for market, name in files.items():
            for number, (user, item, rate, date) in _rows(archive, name):
                # One id in two markets would be one person with two homes: the market is part of the name.
                yield number, InteractionRow(f"{market}:{user}", item, date, "rating", rate), market

    return Source(name="xmarket", interactions=interactions, interactions_file=", ".join(files.values()))


def _rows(archive: Archive, name: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    for number, line in enumerate(archive.lines(name), start=1):
        fields = tuple(line.split())
        if number == 1:
            if fields != _HEADER:
                raise DatasetError(f"{name}, line 1: {line.strip()!r}", fix=f"Its columns must be {' '.join(_HEADER)}.")
            continue
        if len(fields) != len(_HEADER):
            raise DatasetError(f"{name}, line {number}: {len(fields)} fields", fix=f"{len(_HEADER)} are needed.")
        yield number, fields
