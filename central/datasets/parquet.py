"""The plain folder layout with `interactions.parquet`, of any size."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from central.datasets.importing import CARD, DatasetCard, check_source, import_into
from central.datasets.plain import ITEMS, TEST, USERS, item_row, plain_users, unread
from central.datasets.rows import InteractionRow, ItemRow, Source, UserRow, check_interaction
from central.datasets.streaming import (
    FETCH_ROWS,
    KINDS_MAX,
    PARQUET,
    SAMPLE_INTERACTIONS,
    STREAM,
    queries,
    sorting,
    write_stream,
)
from central.datasets.text import Archive, DatasetError
from central.folders import staged_folder
from infra.contracts.events import DEFAULT_WEIGHTS, EventType, enters_history, event_strength
from infra.plumbing.progress import Progress

_OPTIONAL: Final = {"event_type": "kind", "value": "value", "region": "region"}
_STEPS: Final = 4


def is_parquet(folder: Path) -> bool:
    """Whether `folder` is a plain dataset in Parquet."""
    return (folder / PARQUET).is_file()


def import_parquet(
    folder: Path, out: Path, *, name: str | None, progress: Progress, sample: int = SAMPLE_INTERACTIONS
) -> DatasetCard:  # fmt: skip
    """Sort the interactions of `folder` on disk and write the dataset folder `out`, whole or not at all.

    Up to `sample` interactions it is what a CSV of the same rows would become, items in the order of their ids; beyond,
    the folder holds a sample of the users and `stream/` holds everybody.

    Raises:
        DatasetError: the source is not usable; nothing was written.
        ConflictError: `out` holds something that is not a dataset.
    """
    with staged_folder(out, marker=CARD) as staged, sorting(out.parent) as connection:
        total, columns = _sort(connection, folder, progress)
        source = _source(connection, folder, name or folder.resolve().name, columns, min(total, sample))
        stream = write_stream(connection, staged / STREAM) if total > sample else None
        progress.advance(3, _STEPS, "sorting")
        card = import_into(source, staged, stream=stream)
        progress.advance(_STEPS, _STEPS, "sorting")
        return card


def check_parquet(folder: Path, work: Path, *, name: str | None, progress: Progress) -> DatasetCard:
    """All that an import checks, writing nothing but temporary files below `work`.

    Raises:
        DatasetError: the source is not usable.
    """
    with sorting(work) as connection:
        total, columns = _sort(connection, folder, progress)
        sample = min(total, SAMPLE_INTERACTIONS)
        return check_source(_source(connection, folder, name or folder.resolve().name, columns, sample))


def _sort(connection: Any, folder: Path, progress: Progress) -> tuple[int, tuple[str, ...]]:
    """Make the tables `items` and `sorted`; returns the number of interactions, and the columns of the file."""
    if (folder / TEST).exists():
        raise DatasetError(f"{folder} has a {TEST} beside {PARQUET}", fix="Give interactions.csv for a given split.")
    sql, path = queries(), str(folder / PARQUET)
    described = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [path]).fetchall()
    columns = {column[0]: column[1] for column in described}
    for needed in ("user_id", "item_id"):
        if needed not in columns:
            raise DatasetError(f"{PARQUET} has no column {needed}", fix="It needs user_id and item_id.")
    has_times = "timestamp" in columns
    time = "epoch(timestamp)" if columns.get("timestamp", "").startswith(("TIMESTAMP", "DATE")) else "timestamp"
    optional = {word: column if column in columns else "NULL" for column, word in _OPTIONAL.items()}
    connection.execute(
        sql["events"].format(user="user_id", item="item_id", time=time if has_times else "0", **optional), [path]
    )
    bad = connection.execute(sql["bad"]).fetchall()[0][0]
    if bad:
        raise DatasetError(
            f"{bad:,} rows of {PARQUET} lack an id, or their timestamp is no moment in Unix seconds",
            fix="Remove them; divide milliseconds by 1,000.",
        )
    progress.advance(1, _STEPS, "sorting")
    connection.execute(sql["items"])
    _name_kinds(connection, sql["kinds"].format(most=KINDS_MAX + 1))
    # Without timestamps the order of the file may be that of the items: it must not pass for an order in time.
    connection.execute(sql["sorted"].format(order="e.number" if has_times else "hash(e.number)"))
    progress.advance(2, _STEPS, "sorting")
    return connection.execute("SELECT count(*) FROM sorted").fetchall()[0][0], tuple(columns)


def _name_kinds(connection: Any, query: str) -> None:
    """How strong each kind of event is: a small table, by the same function as everywhere."""
    found = connection.execute(query).fetchall()
    if len(found) > KINDS_MAX:
        raise DatasetError(f"{PARQUET} has more than {KINDS_MAX:,} kinds of events and values", fix="Round the values.")
    kinds = []
    for kind, value in found:
        row = InteractionRow("u", "i", "0", kind, "" if value is None else str(value))
        checked = check_interaction(row, where=f"{PARQUET}, event_type {kind!r}", has_times=True)
        event = EventType(checked.event_type)
        number = float(checked.value) if checked.value else None
        strength = event_strength(event, number, weights=DEFAULT_WEIGHTS) if enters_history(event) else 0
        kinds.append((kind, value, strength))
    connection.execute("CREATE TABLE kinds (kind VARCHAR, value DOUBLE, strength INTEGER)")
    connection.executemany("INSERT INTO kinds VALUES (?, ?, ?)", kinds)


def _source(connection: Any, folder: Path, name: str, columns: tuple[str, ...], sample: int) -> Source:
    sampled: set[str] = set()

    def interactions() -> Iterator[tuple[int, InteractionRow, str]]:
        found = _fetched(connection, queries()["sample"].format(most=sample))
        for number, (user, item, time_s, kind, value, region) in enumerate(found, start=1):
            sampled.add(user)
            text = "" if value is None else str(value)
            yield number, InteractionRow(user, item, repr(time_s), kind, text), region

    def items() -> Iterator[tuple[int, ItemRow]]:
        columns = _item_columns(connection, folder)
        join = "LEFT JOIN read_csv(?, all_varchar = true, header = true) AS c USING (item_id)" if columns else ""
        extra = "".join(f', c."{column}"' for column in columns)
        query = queries()["catalogue"].format(extra=extra, join=join)
        for number, fields in enumerate(_fetched(connection, query, [str(folder / ITEMS)] if columns else []), start=1):
            row = dict(zip(("item_id", *columns), (field or "" for field in fields), strict=True))
            yield number, item_row(row, f"{ITEMS}, {fields[0]}")

    def users() -> Iterator[tuple[int, UserRow]]:
        if (folder / USERS).is_file():
            with Archive(path=folder) as archive:
                yield from (row for row in plain_users(archive) if row[1].user_id in sampled)

    return Source(
        name=name, interactions=interactions, interactions_file=PARQUET, items=items, users=users,
        has_times="timestamp" in columns, unread=unread(columns),
    )  # fmt: skip


def _item_columns(connection: Any, folder: Path) -> tuple[str, ...]:
    if not (folder / ITEMS).is_file():
        return ()
    query = "DESCRIBE SELECT * FROM read_csv(?, all_varchar = true, header = true)"
    names = [column[0] for column in connection.execute(query, [str(folder / ITEMS)]).fetchall()]
    if "item_id" not in names:
        raise DatasetError(f"{ITEMS} has no column item_id", fix="Name it in the first line.")
    return tuple(name for name in names if name != "item_id" and '"' not in name)


def _fetched(connection: Any, query: str, values: list[str] | None = None) -> Iterator[tuple[Any, ...]]:
    # A cursor of its own: another query on the same one would end this one.
    cursor = connection.cursor()
    cursor.execute(query, values or [])
    while rows := cursor.fetchmany(FETCH_ROWS // 10):
        yield from rows
