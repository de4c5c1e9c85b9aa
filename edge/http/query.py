"""Reading a request for a list: every parameter has a bound; a refusal names what is allowed and repeats nothing."""

import dataclasses
import math
import re
import struct
from collections.abc import Mapping

from multidict import MultiMapping

from edge.calls import PAGE_MAX, PAGE_SIZES, ListQuery
from edge.http.cursor import decode_cursor, list_fingerprint
from edge.http.parameters import (
    ARM,
    ATTRIBUTE,
    ATTRIBUTE_VALUES_MAX,
    ATTRIBUTES_MAX,
    COUNTRY,
    EXCLUDE_MAX,
    LOCAL_TIME,
    LOCALE,
    NAMES,
    RECENT_MAX,
)
from edge.http.reading import checked_name, choice, flag, matching, names, optional_choice, price, single, whole_number
from infra.contracts.messages import (
    AttributeFilter,
    Context,
    DeviceKind,
    ItemFilters,
    RecommendationType,
    ReferrerKind,
    Surface,
)
from infra.contracts.release import RELEASE_ID_PATTERN
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.keys import decode_base64url
from infra.plumbing.text import is_typed

VECTOR_FLOATS_MAX = 1024
_DEADLINE = re.compile(r"[0-9]{1,9}")
_NO_FILTERS = ItemFilters()
ABOUT_AN_ITEM = frozenset({RecommendationType.SIMILAR, RecommendationType.TOGETHER})


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
    if not set(parameters.keys()) <= set(NAMES):
        raise InvalidInputError("there is an unknown query parameter.", fix=f"Known are: {', '.join(NAMES)}.")
    type_ = choice(type_name, RecommendationType, "type")
    surface = choice(single(parameters, "surface") or Surface.HOME.value, Surface, "surface")
    n = single(parameters, "n")
    vector, release = _vector(headers, dim=dim)
    query = ListQuery(
        type=type_, surface=surface, n=PAGE_SIZES[surface] if n is None else whole_number(n, "n", 1, PAGE_MAX),
        item=_item(parameters, type_), category=checked_name(single(parameters, "category"), "category"),
        filters=_filters(parameters), exclude=frozenset(names(parameters, "exclude", EXCLUDE_MAX)),
        recent=_recent(parameters, type_), context=_context(parameters),
        arm=matching(parameters, "arm", ARM, "`ranker-b`"), explain=flag(parameters, "explain"),
        vector=vector, vector_release=release,
    )  # fmt: skip
    cursor = single(parameters, "cursor")
    if cursor is None:
        return query
    return dataclasses.replace(query, shown=decode_cursor(cursor, list_is=list_fingerprint(query)))


def parse_deadline_ms(text: str | None, *, deadline_ms_max: int) -> float:
    """Milliseconds that the caller waits: what it says, at most `deadline_ms_max`.

    Raises:
        InvalidInputError: not a whole number.
    """
    if text is None:
        return float(deadline_ms_max)
    if not _DEADLINE.fullmatch(text):
        raise InvalidInputError(
            "Atoll-Deadline-Ms must be a whole number of milliseconds, 0 or more.", field="Atoll-Deadline-Ms"
        )
    return float(min(int(text), deadline_ms_max))


def _item(parameters: MultiMapping[str], type_: RecommendationType) -> str | None:
    item = checked_name(single(parameters, "item"), "item")
    if (item is not None) != (type_ in ABOUT_AN_ITEM):
        raise InvalidInputError(
            "item is required for types similar and together, and allowed for no other type.", field="item"
        )
    return item


def _recent(parameters: MultiMapping[str], type_: RecommendationType) -> tuple[str, ...]:
    recent = names(parameters, "recent", RECENT_MAX)
    if recent and type_ is not RecommendationType.SESSION:
        raise InvalidInputError("recent is allowed for type session only.", field="recent")
    return recent


def _filters(parameters: MultiMapping[str]) -> ItemFilters | None:
    low, high = price(parameters, "price_min"), price(parameters, "price_max")
    if low is not None and high is not None and low > high:
        raise InvalidInputError("price_min is above price_max.", field="price_min")
    filters = ItemFilters(price_min=low, price_max=high, attributes=_attributes(parameters.getall("attribute", ())))
    # Most calls have none: their lists' keys stay small and quick to hash.
    return None if filters == _NO_FILTERS else filters


def _attributes(given: list[str] | tuple[str, ...]) -> tuple[AttributeFilter, ...]:
    fix = f"Write name:value; at most {ATTRIBUTES_MAX} names with {ATTRIBUTE_VALUES_MAX} values each."
    values: dict[str, list[str]] = {}
    for text in given:
        name, _, value = text.partition(":")
        if not re.fullmatch(ATTRIBUTE, text, re.ASCII) or not is_typed(value):
            raise InvalidInputError("attribute is not usable.", fix=fix, field="attribute")
        values.setdefault(name, []).append(value)
    if len(values) > ATTRIBUTES_MAX or any(len(some) > ATTRIBUTE_VALUES_MAX for some in values.values()):
        raise InvalidInputError("attribute is given too often.", fix=fix, field="attribute")
    # Sorted, so that the same filters in another order are the same list.
    return tuple(AttributeFilter(name=name, values=tuple(sorted(set(values[name])))) for name in sorted(values))


def _context(parameters: MultiMapping[str]) -> Context:
    time = matching(parameters, "local_time", LOCAL_TIME, "`21:05`")
    return Context(
        locale=matching(parameters, "locale", LOCALE, "`en` or `pt-BR`") or "en",
        device=optional_choice(parameters, DeviceKind, "device"),
        local_hour=None if time is None else int(time[:2]),
        country=(matching(parameters, "country", COUNTRY, "`PT`") or "").upper(),
        referrer=optional_choice(parameters, ReferrerKind, "referrer"),
    )


def _vector(headers: Mapping[str, str], *, dim: int | None) -> tuple[tuple[float, ...] | None, str | None]:
    text, release = headers.get("Atoll-User-Vector"), headers.get("Atoll-Vector-Release")
    if text is None:
        return None, None
    if release is None or not RELEASE_ID_PATTERN.fullmatch(release):
        raise InvalidInputError(
            "Atoll-User-Vector comes without a usable Atoll-Vector-Release.",
            fix="Send the id of the release whose tower made the vector: 20 hexadecimal digits.",
            field="Atoll-Vector-Release",
        )
    return decode_vector(text, dim=dim), release


def decode_vector(text: str, *, dim: int | None) -> tuple[float, ...]:
    """A user vector, `[dim] float32`, little endian, base64url.

    Raises:
        InvalidInputError: not base64url, another length, or a number that is not finite.
    """
    length = f"{dim}" if dim is not None else f"1 to {VECTOR_FLOATS_MAX}"
    fix, field = f"Send {length} finite float32 numbers, little endian, as base64url.", "Atoll-User-Vector"
    try:
        raw = decode_base64url(text)
    except ValueError:
        raise InvalidInputError(f"{field} is not base64url.", fix=fix, field=field) from None
    count, odd = divmod(len(raw), 4)
    if odd or not 1 <= count <= VECTOR_FLOATS_MAX or (dim is not None and count != dim):
        raise InvalidInputError(f"{field} has the wrong size.", fix=fix, field=field)
    vector: tuple[float, ...] = struct.unpack(f"<{count}f", raw)
    if not all(math.isfinite(value) for value in vector):
        raise InvalidInputError(f"{field} holds a number that is not finite.", fix=fix, field=field)
    return vector
