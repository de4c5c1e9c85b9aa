"""Importers of the MovieLens layouts: 100K out of the RecBole wheel, 1M (`*.dat`), latest (`*.csv`)."""

import re
from collections.abc import Iterator
from typing import Final

from central.datasets.rows import InteractionRow, ItemRow, Source, UserRow, region_of_zip_code
from central.datasets.text import Archive, DatasetError, read_csv, read_separated

_YEAR: Final = re.compile(r"\((\d{4})\)\s*$")
_NO_GENRE: Final = frozenset({"(no genres listed)", "unknown", ""})
_INTER: Final = "ml-100k.inter"
_ITEM: Final = "ml-100k.item"
_USER: Final = "ml-100k.user"


def movielens_100k(archive: Archive) -> Source:
    """MovieLens 100K as RecBole's atomic files: tab separated, a header of `name:type`."""

    def interactions() -> Iterator[tuple[int, InteractionRow, str]]:
        for number, row in _atomic(archive, _INTER, ("user_id", "item_id", "rating", "timestamp")):
            yield number, InteractionRow(row["user_id"], row["item_id"], row["timestamp"], "rating", row["rating"]), ""

    def items() -> Iterator[tuple[int, ItemRow]]:
        for number, row in _atomic(archive, _ITEM, ("item_id", "movie_title", "release_year", "class")):
            year = row["release_year"] if row["release_year"].isdigit() else ""
            title = f"{row['movie_title']} ({year})" if year else row["movie_title"]
            yield number, ItemRow(row["item_id"], title, _categories(row["class"].split(" ")), year)

    def users() -> Iterator[tuple[int, UserRow]]:
        for number, row in _atomic(archive, _USER, ("user_id", "zip_code")):
            yield number, UserRow(row["user_id"], region_of_zip_code(row["zip_code"]))

    return Source(
        name="ml-100k", interactions=interactions, interactions_file=_INTER,
        items=items, items_file=_ITEM, users=users, users_file=_USER,
    )  # fmt: skip


def movielens_1m(archive: Archive) -> Source:
    """MovieLens 1M: `ratings.dat`, `movies.dat`, `users.dat`, fields between `::`, latin-1."""

    def rows(name: str, fields: int) -> Iterator[tuple[int, tuple[str, ...]]]:
        return read_separated(archive.lines(name, encoding="latin-1"), name=name, separator="::", fields=fields)

    def interactions() -> Iterator[tuple[int, InteractionRow, str]]:
        for number, (user, item, rating, time) in rows("ratings.dat", 4):
            yield number, InteractionRow(user, item, time, "rating", rating), ""

    def items() -> Iterator[tuple[int, ItemRow]]:
        for number, (item, title, genres) in rows("movies.dat", 3):
            yield number, _movie(item, title, genres)

    def users() -> Iterator[tuple[int, UserRow]]:
        for number, fields in rows("users.dat", 5):
            yield number, UserRow(fields[0], region_of_zip_code(fields[4]))

    return Source(
        name="ml-1m", interactions=interactions, interactions_file="ratings.dat",
        items=items, items_file="movies.dat", users=users, users_file="users.dat",
    )  # fmt: skip


def movielens_latest(archive: Archive) -> Source:
    """MovieLens latest (small or full): `ratings.csv`, `movies.csv`; users have no zip code there."""

    def interactions() -> Iterator[tuple[int, InteractionRow, str]]:
        columns = ("userId", "movieId", "rating", "timestamp")
        for number, row in read_csv(archive.lines("ratings.csv"), name="ratings.csv", required=columns):
            yield number, InteractionRow(row["userId"], row["movieId"], row["timestamp"], "rating", row["rating"]), ""

    def items() -> Iterator[tuple[int, ItemRow]]:
        columns = ("movieId", "title", "genres")
        for number, row in read_csv(archive.lines("movies.csv"), name="movies.csv", required=columns):
            yield number, _movie(row["movieId"], row["title"], row["genres"])

    return Source(
        name="ml-latest", interactions=interactions, interactions_file="ratings.csv",
        items=items, items_file="movies.csv",
    )  # fmt: skip


def _movie(item: str, title: str, genres: str) -> ItemRow:
    year = _YEAR.search(title)
    return ItemRow(item, title, _categories(genres.split("|")), year.group(1) if year else "")


def _categories(names: list[str]) -> str:
    return "|".join(name for name in names if name not in _NO_GENRE)


def _atomic(archive: Archive, name: str, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    header: list[str] | None = None
    for number, line in enumerate(archive.lines(name), start=1):
        fields = line.rstrip("\r\n").split("\t")
        if header is None:
            header = [column.split(":")[0] for column in fields]
            missing = [column for column in required if column not in header]
            if missing:
                raise DatasetError(f"{name}, line 1: column {', '.join(missing)} is missing", fix="Use recbole==1.2.1.")
        elif len(fields) != len(header):
            raise DatasetError(
                f"{name}, line {number}: {len(fields)} fields, but the header has {len(header)}",
                fix="Fetch the wheel again: it is damaged.",
            )
        else:
            yield number, dict(zip(header, fields, strict=True))
    if header is None:
        raise DatasetError(f"{name} is empty", fix="Fetch the wheel again: it is damaged.")
