"""Reading a request for a list: every parameter has a bound; a refusal names what is allowed and repeats nothing."""

import math
import re
import struct
from collections.abc import Mapping
from typing import TypeVar

from multidict import MultiMapping

from edge.calls import PAGE_DEFAULT, PAGE_MAX, ListQuery
from edge.http.cursor import decode_cursor, list_fingerprint
from infra.contracts.messages import SLATE_ITEMS_MAX, RecommendationType, Surface
from infra.contracts.release import RELEASE_ID_PATTERN
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.keys import decode_base64url

ITEM_CHARACTERS_MAX = 128
EXCLUDE_MAX = SLATE_ITEMS_MAX
RECENT_MAX = 50
VECTOR_FLOATS_MAX = 1024
_LOCALE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,2}")
_NUMBER = re.compile(r"[0-9]{1,9}")
PARAMETERS = ("n", "surface", "item", "category", "exclude", "recent", "cursor", "locale", "explain")
E = TypeVar("E", RecommendationType, Surface)


def parse_list_query(
    type_name: str, parameters: MultiMapping[str], headers: Mapping[str, str], *, dim: int | None
) -> ListQuery:
    """The checked query.

    Args:
        type_name: from the path.
        parameters: the query string.
        headers: `Atoll-User-Vector` and `Atoll-Vector-Release` are read.
        dim: length of the active release's vectors, None when unknown.

    Raises:
        InvalidInputError: what was wrong and what is allowed.
    """
    _refuse_unknown(parameters)
    type_ = _choice(type_name, RecommendationType, "type")
    surface = _choice(_single(parameters, "surface") or Surface.HOME.value, Surface, "surface")
    item, category = _item(parameters, type_), _name(_single(parameters, "category"), "category")
    cursor = _single(parameters, "cursor")
    vector, release = _vector(headers, dim=dim)
    return ListQuery(
        type=type_, surface=surface, n=_page_size(_single(parameters, "n")), item=item, category=category,
        exclude=frozenset(_names(parameters, "exclude", EXCLUDE_MAX)), recent=_recent(parameters, type_),
        locale=_locale(_single(parameters, "locale")), explain=_flag(_single(parameters, "explain"), "explain"),
        shown=decode_cursor(cursor, list_is=list_fingerprint(type_, item, category)) if cursor is not None else (),
        vector=vector, vector_release=release,
    )  # fmt: skip


def parse_deadline_ms(text: str | None, *, deadline_ms_max: int) -> float:
    """Milliseconds that the caller waits: what it says, at most `deadline_ms_max`.

    Raises:
        InvalidInputError: not a whole number.
    """
    if text is None:
        return float(deadline_ms_max)
    if not _NUMBER.fullmatch(text):
        raise InvalidInputError("Atoll-Deadline-Ms must be a whole number of milliseconds, 0 or more.")
    return float(min(int(text), deadline_ms_max))


def _refuse_unknown(parameters: MultiMapping[str]) -> None:
    if not set(parameters.keys()) <= set(PARAMETERS):
        raise InvalidInputError("there is an unknown query parameter.", fix=f"Known are: {', '.join(PARAMETERS)}.")


def _single(parameters: MultiMapping[str], name: str) -> str | None:
    values = parameters.getall(name, ())
    if len(values) > 1:
        raise InvalidInputError(f"{name} is given more than once.", fix="Give it once.")
    return values[0] if values else None


def _choice(text: str, kind: type[E], name: str) -> E:
    try:
        return kind(text)
    except ValueError:
        allowed = ", ".join(member.value for member in kind)
        raise InvalidInputError(f"{name} is not one that exists.", fix=f"Allowed are: {allowed}.") from None


def _page_size(text: str | None) -> int:
    if text is None:
        return PAGE_DEFAULT
    if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= PAGE_MAX:
        raise InvalidInputError("n is out of range.", fix=f"n must be a whole number from 1 to {PAGE_MAX}.")
    return int(text)


def _name(text: str | None, name: str) -> str | None:
    if text is not None and not (0 < len(text) <= ITEM_CHARACTERS_MAX and text.isprintable()):
        raise InvalidInputError(
            f"{name} is not a usable name.", fix=f"It must be 1 to {ITEM_CHARACTERS_MAX} printable characters."
        )
    return text


def _names(parameters: MultiMapping[str], name: str, count_max: int) -> tuple[str, ...]:
    values = [part for value in parameters.getall(name, ()) for part in value.split(",") if part]
    if len(values) > count_max:
        raise InvalidInputError(f"{name} has too many items.", fix=f"At most {count_max} are allowed.")
    for value in values:
        _name(value, name)
    return tuple(values)


def _item(parameters: MultiMapping[str], type_: RecommendationType) -> str | None:
    item = _name(_single(parameters, "item"), "item")
    if (item is not None) != (type_ is RecommendationType.SIMILAR):
        raise InvalidInputError("item is required for type similar, and allowed for no other type.")
    return item


def _recent(parameters: MultiMapping[str], type_: RecommendationType) -> tuple[str, ...]:
    recent = _names(parameters, "recent", RECENT_MAX)
    if recent and type_ is not RecommendationType.SESSION:
        raise InvalidInputError("recent is allowed for type session only.")
    return recent


def _locale(text: str | None) -> str:
    if text is None:
        return "en"
    if not _LOCALE.fullmatch(text):
        raise InvalidInputError("locale is not a language tag.", fix="Write it like `en` or `pt-BR`.")
    return text


def _flag(text: str | None, name: str) -> bool:
    if text not in (None, "0", "1"):
        raise InvalidInputError(f"{name} must be 0 or 1.")
    return text == "1"


def _vector(headers: Mapping[str, str], *, dim: int | None) -> tuple[tuple[float, ...] | None, str | None]:
    text, release = headers.get("Atoll-User-Vector"), headers.get("Atoll-Vector-Release")
    if text is None:
        return None, None
    if release is None or not RELEASE_ID_PATTERN.fullmatch(release):
        raise InvalidInputError(
            "Atoll-User-Vector comes without a usable Atoll-Vector-Release.",
            fix="Send the id of the release whose tower made the vector: 20 hexadecimal digits.",
        )
    return decode_vector(text, dim=dim), release


def decode_vector(text: str, *, dim: int | None) -> tuple[float, ...]:
    """A user vector, `[dim] float32`, little endian, base64url.

    Raises:
        InvalidInputError: not base64url, another length, or a number that is not finite.
    """
    length = f"{dim}" if dim is not None else f"1 to {VECTOR_FLOATS_MAX}"
    fix = f"Send {length} finite float32 numbers, little endian, as base64url."
    try:
        raw = decode_base64url(text)
    except ValueError:
        raise InvalidInputError("Atoll-User-Vector is not base64url.", fix=fix) from None
    count, odd = divmod(len(raw), 4)
    if odd or not 1 <= count <= VECTOR_FLOATS_MAX or (dim is not None and count != dim):
        raise InvalidInputError("Atoll-User-Vector has the wrong size.", fix=fix)
    vector: tuple[float, ...] = struct.unpack(f"<{count}f", raw)
    if not all(math.isfinite(value) for value in vector):
        raise InvalidInputError("Atoll-User-Vector holds a number that is not finite.", fix=fix)
    return vector
