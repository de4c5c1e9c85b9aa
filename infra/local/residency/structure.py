"""Looking at decoded JSON and MessagePack: keys that only resident fields have, ids under telling names."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from infra.local.residency.contract_fields import is_problem
from infra.local.residency.fields import holds_many, names_an_id
from infra.local.residency.packed import is_event

DEPTH_MAX = 64
_JSON_STARTS = (b"{", b"[")
_DECODED_BYTES_MAX = 64 << 20
EMBEDDED_MAX = 1_000
EVENT_SHAPE = "shape of an event"
_RAW = json.JSONDecoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What must not be there. `exact`: long secrets as they are; `ids`: short ones, told by the name beside them."""

    resident_names: frozenset[str]
    exact: dict[str, str]
    """Secret to kind."""
    ids: dict[str, str]
    """Short id to kind."""


def documents(body: bytes) -> Iterator[Any]:
    """What `body` holds when it is JSON, JSON lines or MessagePack; nothing when it is none of them."""
    text = body.lstrip()
    if not text or len(text) > _DECODED_BYTES_MAX:
        return
    if text.startswith(_JSON_STARTS):
        try:
            yield msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield from _lines(text)
        return
    try:
        decoded = msgspec.msgpack.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return
    if isinstance(decoded, dict | list):
        yield decoded


def embedded(text: bytes) -> Iterator[Any]:
    """JSON objects that begin anywhere in `text`: in a header, a cell, a log line; EMBEDDED_MAX of them at most."""
    decoded = text.decode("latin-1")
    position = found = 0
    while found < EMBEDDED_MAX and (position := decoded.find('{"', position)) >= 0:
        try:
            document, end = _RAW.raw_decode(decoded, position)
        except (ValueError, RecursionError):
            position += 1
            continue
        found, position = found + 1, end
        yield document


def _lines(text: bytes) -> Iterator[Any]:
    for line in text.splitlines():
        if line.startswith(_JSON_STARTS):
            try:
                yield msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue


def find_in_document(document: Any, wanted: Wanted) -> Iterator[tuple[str, str]]:
    """(kind, path) of everything in a decoded document that must not be there."""
    yield from _find(document, wanted, "$", "", DEPTH_MAX)


def _find(value: Any, wanted: Wanted, path: str, name: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth == 0:
        return
    if wanted.resident_names and isinstance(value, dict | list) and is_event(value):
        yield EVENT_SHAPE, path
    if isinstance(value, dict):
        yield from _find_in_object(value, wanted, path, depth)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _find(item, wanted, f"{path}[{index}]", name, depth - 1)
    elif isinstance(value, str | int) and not isinstance(value, bool):
        kind = wanted.exact.get(str(value)) or (wanted.ids.get(str(value)) if names_an_id(name) else None)
        if isinstance(value, int) and holds_many(name) and not path.endswith("]"):
            return
        if kind:
            yield kind, path


def _find_in_object(value: dict[Any, Any], wanted: Wanted, path: str, depth: int) -> Iterator[tuple[str, str]]:
    keys = frozenset(str(key) for key in value)
    harmless = is_problem(keys)
    for key, inner in value.items():
        name = str(key)
        if name in wanted.resident_names and not harmless:
            yield f"field {name}", f"{path}.{name}"
        kind = wanted.exact.get(name)
        if kind:
            yield kind, f"{path} (key)"
        # A key that is data (an item, a person) must not get into the report: only contract names do.
        shown = name if name in wanted.resident_names or names_an_id(name) else "*"
        yield from _find(inner, wanted, f"{path}.{shown}", name, depth - 1)
