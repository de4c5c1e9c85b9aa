"""Conditions of rules in CEL, compiled once; what they may name is listed here, and a name beside it is refused.

`item`, in `match` and `by`:

| name | type | of items that do not say |
|---|---|---|
| `id`, `title`, `brand`, `creator` | string | `""` |
| `categories` | list of string | `[]` |
| `year` | int | 0 |
| `price` | double | 0.0 |
| `age_days` | double, since it came into the catalogue | 1000000.0 |
| `interactions` | int | 0 |
| `attributes` | map of string to string | `{}` |

A key that `attributes` lacks is an error: ask `"stock" in item.attributes` first.

`request`, in `when` (and in `match`, where each value that it names costs a table of its own):

| name | type | of calls that do not say |
|---|---|---|
| `surface`, `type` | string | |
| `country`, `locale`, `language`, `device`, `category` | string | `""` |
| `local_hour` | int | -1 |

A macro (`all`, `exists`, `exists_one`, `map`, `filter`) may have one other inside of it or behind it, and both together
may take 1,000 steps for an item (`region.rules.bounding`).

CEL does not mix types in arithmetic: `item.price * 2.0`, never `* 2`; `double(item.attributes["margin"]) > 0.1`.
"""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cel

from infra.contracts.messages import HomeRequest
from infra.contracts.release import CatalogueItem
from infra.plumbing.errors import InvalidInputError
from region.rules.bounding import excess

AGE_UNKNOWN_DAYS = 1_000_000.0
DAY_S = 86_400.0
_STRINGS = re.compile(r"""r?("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""")
_FIELDS = re.compile(r"\b(item|request)\b(?:\s*\.\s*([A-Za-z_][A-Za-z0-9_]*))?")

ITEM_FIELDS = frozenset(
    {"id", "title", "brand", "creator", "categories", "year", "price", "age_days", "interactions", "attributes"}
)
REQUEST_FIELDS = frozenset({"surface", "type", "country", "locale", "language", "device", "category", "local_hour"})
Values = Mapping[str, str | int]


class ConditionError(InvalidInputError):
    """An expression that does not compile, or names what there is not."""


class Scope(enum.Enum):
    """What an expression may be about."""

    REQUEST = "request"
    ITEM = "item"


@dataclass(frozen=True, slots=True)
class Condition:
    """One compiled expression, and the fields that it names."""

    source: str
    program: cel.Program
    item_fields: tuple[str, ...]
    request_fields: tuple[str, ...]

    @classmethod
    def compile(cls, source: str, *, scope: Scope) -> "Condition":
        """Compile `source`.

        Raises:
            ConditionError: it does not parse, may take too long, or names something that it may not; the message says
                what.
        """
        try:
            program = cel.compile(source)
        except ValueError as error:
            raise ConditionError(_first_line(error)) from None
        too_much = excess(source)
        if too_much:
            raise ConditionError(too_much)
        named = _named_fields(source)
        allowed = {"request": REQUEST_FIELDS} | ({"item": ITEM_FIELDS} if scope is Scope.ITEM else {})
        # Names bound by macros (`x` in `all(x, ...)`) are single words too; they are told from free ones by running.
        for owner, fields in named.items():
            if owner not in allowed:
                raise ConditionError(f"`{owner}` is not known here; this expression is about the request alone")
            unknown = fields - allowed[owner]
            if unknown:
                known = ", ".join(sorted(allowed[owner]))
                raise ConditionError(f"`{owner}.{min(unknown)}` is not known; there are: {known}")
        made = cls(source, program, *(tuple(sorted(named.get(owner, ()))) for owner in ("item", "request")))
        made._refuse_unbound()
        if scope is Scope.REQUEST:
            made._refuse_failing()
        return made

    def value(self, item: CatalogueItem | None, request: Values, *, now_s: float) -> Any:
        """What the expression gives.

        Raises:
            ConditionError: it fails for these values.
        """
        context: dict[str, Any] = {"request": {name: request[name] for name in self.request_fields}}
        if item is not None:
            context["item"] = {name: _item_value(item, name, now_s) for name in self.item_fields}
        try:
            return self.program.execute(context)
        except Exception as error:
            raise ConditionError(f"it fails: {_first_line(error)}") from None

    def _refuse_unbound(self) -> None:
        """Run it once over a bare item: unknown names and bad patterns show with any values; other faults may not."""
        try:
            self.value(CatalogueItem(item="x"), _BARE, now_s=0.0)
        except ConditionError as error:
            if "Undefined variable" in error.message or "not a valid regex" in error.message:
                raise ConditionError(error.message.removeprefix("it fails: ")) from None

    def _refuse_failing(self) -> None:
        """A call has every field that there is, so what fails for one that says nothing is not what was meant."""
        value = self.value(None, _BARE, now_s=0.0)
        if not isinstance(value, bool):
            raise ConditionError(f"it gives a value of type {type(value).__name__}, not true or false")


def request_values(request: HomeRequest) -> Values:
    """What expressions may know of a call."""
    context = request.context
    return {
        "surface": request.surface.value,
        "type": request.type.value,
        "country": context.country,
        "locale": context.locale,
        "language": context.locale.partition("-")[0].lower(),
        "device": context.device,
        "category": request.category or "",
        "local_hour": -1 if context.local_hour is None else context.local_hour,
    }


_BARE: Values = dict.fromkeys(REQUEST_FIELDS, "") | {"local_hour": -1}


def age_days(item: CatalogueItem, now_s: float) -> float:
    """Days since the item came into the catalogue."""
    return AGE_UNKNOWN_DAYS if item.created_s is None else max(now_s - item.created_s, 0.0) / DAY_S


def _item_value(item: CatalogueItem, name: str, now_s: float) -> Any:
    match name:
        case "id":
            return item.item
        case "age_days":
            return age_days(item, now_s)
        case "year":
            return item.year or 0
        case "price":
            return float(item.price or 0.0)
        case "categories":
            return list(item.categories)
        case _:
            return getattr(item, name)


def _named_fields(source: str) -> dict[str, set[str]]:
    """Fields of `item` and `request` that stand in `source`; a bare `item` counts as a field that does not exist."""
    found: dict[str, set[str]] = {}
    for owner, field in _FIELDS.findall(_STRINGS.sub('""', source)):
        found.setdefault(owner, set()).add(field or "(the whole)")
    return found


def _first_line(error: BaseException) -> str:
    text = (str(error) or type(error).__name__).partition("\n")[0]
    return re.sub(r"^Failed to parse expression .*?: ERROR: <input>:\d+:", "column ", text)[:200]
