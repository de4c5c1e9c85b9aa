"""Single values out of a query string, each within its bounds; a refusal names what is allowed and repeats nothing."""

import enum
import math
import re
from typing import TypeVar

from multidict import MultiMapping

from edge.http.parameters import ITEM_CHARACTERS_MAX
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.text import is_typed

E = TypeVar("E", bound=enum.StrEnum)
_NUMBER = re.compile(r"[0-9]{1,9}")
_DECIMAL = re.compile(r"[0-9]{1,13}(\.[0-9]{1,6})?")


def single(parameters: MultiMapping[str], name: str) -> str | None:
    """The value of `name`, None without one.

    Raises:
        InvalidInputError: it is given more than once.
    """
    values = parameters.getall(name, ())
    if len(values) > 1:
        raise InvalidInputError(f"{name} is given more than once.", fix="Give it once.", field=name)
    return values[0] if values else None


def choice(text: str, kind: type[E], name: str) -> E:
    """The member of `kind` that `text` is.

    Raises:
        InvalidInputError: it is none.
    """
    try:
        return kind(text)
    except ValueError:
        allowed = ", ".join(member.value for member in kind)
        raise InvalidInputError(f"{name} is not one that exists.", fix=f"Allowed are: {allowed}.", field=name) from None


def optional_choice(parameters: MultiMapping[str], kind: type[E], name: str) -> str:
    """The value of a member of `kind`, or the empty string without one. Raises as `choice` does."""
    text = single(parameters, name)
    return "" if text is None else choice(text, kind, name).value


def whole_number(text: str, name: str, low: int, high: int) -> int:
    """A whole number from `low` to `high`.

    Raises:
        InvalidInputError: it is not.
    """
    if not _NUMBER.fullmatch(text) or not low <= int(text) <= high:
        raise InvalidInputError(
            f"{name} is out of range.", fix=f"{name} must be a whole number from {low} to {high}.", field=name
        )
    return int(text)


def price(parameters: MultiMapping[str], name: str) -> float | None:
    """A price: a plain decimal number, 0 or more.

    Raises:
        InvalidInputError: it is not.
    """
    text = single(parameters, name)
    if text is None:
        return None
    if not _DECIMAL.fullmatch(text) or not math.isfinite(float(text)):
        raise InvalidInputError(f"{name} is not a price.", fix="Write it like 19.90, 0 or more.", field=name)
    return float(text)


def matching(parameters: MultiMapping[str], name: str, pattern: str, like: str) -> str | None:
    """The value of `name` if it fits `pattern`; `like` shows what does.

    Raises:
        InvalidInputError: it does not fit.
    """
    text = single(parameters, name)
    if text is not None and not re.fullmatch(pattern, text, re.ASCII):
        raise InvalidInputError(f"{name} is not usable.", fix=f"Write it like {like}.", field=name)
    return text


def checked_name(text: str | None, name: str) -> str | None:
    """`text` if it can be the name of an item or a category.

    Raises:
        InvalidInputError: it cannot.
    """
    if text is not None and not (0 < len(text) <= ITEM_CHARACTERS_MAX and is_typed(text)):
        raise InvalidInputError(
            f"{name} is not a usable name.",
            fix=f"It must be 1 to {ITEM_CHARACTERS_MAX} printable characters.", field=name,
        )  # fmt: skip
    return text


def names(parameters: MultiMapping[str], name: str, count_max: int) -> tuple[str, ...]:
    """Names between commas, from every `name`.

    Raises:
        InvalidInputError: too many, or one that is not usable.
    """
    values = [part for value in parameters.getall(name, ()) for part in value.split(",") if part]
    if len(values) > count_max:
        raise InvalidInputError(f"{name} has too many items.", fix=f"At most {count_max} are allowed.", field=name)
    for value in values:
        checked_name(value, name)
    return tuple(values)


def flag(parameters: MultiMapping[str], name: str) -> bool:
    """Whether `name` is 1.

    Raises:
        InvalidInputError: it is neither 0 nor 1.
    """
    text = single(parameters, name)
    if text not in (None, "0", "1"):
        raise InvalidInputError(f"{name} must be 0 or 1.", field=name)
    return text == "1"
