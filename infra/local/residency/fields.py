"""Short ids beside a telling name: `"user_id":"196"`, `user_id=196`, `X-User-Id: 196`, a CSV column, MessagePack."""

import re
from collections.abc import Iterable, Iterator

ID_NAMES = (
    "user_id", "userid", "user-id", "user", "uid", "subject", "subject_id", "sub", "customer_id", "customer", "visitor",
    "visitor_id", "account", "account_id", "member_id", "person_id", "profile_id", "pseudonym", "session",
    "session_id", "event_id",
)  # fmt: skip
"""Names beside which an id is somebody's; with an `s` behind them they hold many."""
_CSV_ROWS_MAX = 2_000_000
_NAME = re.compile(r"[^a-z0-9]+")

# After the name: quotes or their escapes, then `:`, `=`, or the length byte of a MessagePack string; then the id.
_VALUE = re.compile(
    rb"""(?i)(s?)(?:%22|\\*["'])*[\s+]*(?:[:=]|%3a|%3d|[\xa1-\xbf]|\xd9.)[\s+]*((?:%22|%5b|[\\"'\[\s+])*)([A-Za-z0-9_.@+\-]{1,128})"""
)


def names_an_id(name: str) -> bool:
    """Whether a key, header or column of this name holds ids of people or of what they did."""
    folded = _NAME.sub("_", name.lower()).removeprefix("x_").removeprefix("atoll_").strip("_")
    return folded in _FOLDED or (folded.endswith("s") and folded[:-1] in _FOLDED)


_FOLDED = frozenset(_NAME.sub("_", name) for name in ID_NAMES)
_SEARCHED = tuple(
    # `user` also finds user_id's first half, where no value follows; every name is looked for by itself.
    name.encode()
    for name in ID_NAMES
)


def holds_many(name: str) -> bool:
    """Whether a key of this name is the plural of a telling name: a bare number beside it is a count."""
    return name.lower().rstrip("_").endswith("s") and names_an_id(name[:-1])


def find_beside_names(data: bytes, ids: frozenset[bytes]) -> Iterator[tuple[int, str]]:
    """Every (position, name) where one of `ids` stands as the value of a telling name in `data`."""
    if not ids:
        return
    folded = data.lower()
    for name in _SEARCHED:
        position = folded.find(name)
        while position >= 0:
            value = _VALUE.match(data, position + len(name))
            if value is not None and value[3] in ids and not _is_count(value) and not _inside_word(folded, position):
                yield position, name.decode()
            position = folded.find(name, position + 1)


def _is_count(value: re.Match[bytes]) -> bool:
    """`"users": 943` says how many, not who."""
    return bool(value[1]) and not value[2].strip(b" \t\r\n+") and value[3].isdigit()


def _inside_word(folded: bytes, position: int) -> bool:
    before = folded[max(0, position - 3) : position]
    return before[-1:].isalnum() and not (len(before) == 3 and before.startswith(b"%"))


def find_in_columns(data: bytes, ids: frozenset[bytes]) -> Iterator[tuple[int, str]]:
    """(row number, column) of every one of `ids` in a telling column, when `data` is comma- or tab-separated text."""
    lines = data.split(b"\n", _CSV_ROWS_MAX)
    separator = b"\t" if b"\t" in lines[0] else b","
    header = [_plain(cell) for cell in lines[0].split(separator)]
    columns = [index for index, cell in enumerate(header) if names_an_id(cell.decode(errors="replace"))]
    if not columns or len(lines) < 2 or not ids:
        return
    for row, line in enumerate(lines[1:], start=1):
        cells = line.split(separator)
        for column in columns:
            if column < len(cells) and _plain(cells[column]) in ids:
                yield row, header[column].decode(errors="replace")


def as_ids(values: Iterable[str | bytes]) -> frozenset[bytes]:
    """Ids as bytes."""
    return frozenset(value if isinstance(value, bytes) else value.encode() for value in values)


def _plain(cell: bytes) -> bytes:
    return cell.strip().strip(b"\"'").strip()
