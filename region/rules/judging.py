"""Conditions over the items of one release: each item is judged once, whatever the number of requests."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from infra.contracts.features import FloatArray, IntArray
from infra.contracts.release import CatalogueItem
from region.rules.arranging import BoolArray
from region.rules.conditions import DAY_S, Condition, ConditionError, Values

TABLES_MAX = 256
"""Tables of one byte (or five, for numbers) an item; only the pages of items that were judged take memory."""
_UNKNOWN, _FALSE, _TRUE, _FAILED = 0, 1, 2, 3
Key = tuple[str, tuple[str | int, ...], int]


class _Table:
    """What is known of one expression for one kind of request."""

    def __init__(self, count: int, *, numeric: bool) -> None:
        self.known: npt.NDArray[np.uint8] = np.zeros(count, dtype=np.uint8)
        self.numbers: FloatArray = np.zeros(count if numeric else 0, dtype=np.float32)


class ItemJudge:
    """Answers conditions for rows of `items`. Safe between threads: two that judge one item come to the same.

    Args:
        items: the catalogue of one release.
        on_error: told the source of an expression each time that it fails for an item.
    """

    def __init__(self, items: Sequence[CatalogueItem], *, on_error: Callable[[str], None]) -> None:
        self._items = items
        self._on_error = on_error
        self._tables: OrderedDict[Key, _Table] = OrderedDict()
        self._mutex = threading.Lock()

    def holds(
        self, condition: Condition, rows: IntArray, request: Values, *, now_s: float, if_fails: bool
    ) -> BoolArray:  # fmt: skip
        """Which of `rows` the condition holds for; `if_fails` for those where it cannot be told. `[rows] bool`."""
        table = self._table(condition, request, now_s, numeric=False)
        for row in np.unique(rows[table.known[rows] == _UNKNOWN]).tolist():
            value = self._value(condition, row, request, now_s)
            if not isinstance(value, bool):
                self._on_error(condition.source)
            table.known[row] = _FAILED if not isinstance(value, bool) else _TRUE if value else _FALSE
        known = table.known[rows]
        holds: BoolArray = (known == _TRUE) | ((known == _FAILED) & if_fails)
        return holds

    def numbers(self, condition: Condition, rows: IntArray, request: Values, *, now_s: float) -> FloatArray:
        """The condition's number for each of `rows`, brought into 0 to 1; 0 where it fails. `[rows] float32`."""
        table = self._table(condition, request, now_s, numeric=True)
        for row in np.unique(rows[table.known[rows] == _UNKNOWN]).tolist():
            value = self._value(condition, row, request, now_s)
            number = float(value) if isinstance(value, int | float) else math.nan
            if math.isnan(number):
                self._on_error(condition.source)
            table.numbers[row] = 0.0 if math.isnan(number) else min(max(number, 0.0), 1.0)
            table.known[row] = _FAILED if math.isnan(number) else _TRUE
        return table.numbers[rows]

    def _value(self, condition: Condition, row: int, request: Values, now_s: float) -> object:
        try:
            value: object = condition.value(self._items[row], request, now_s=now_s)
        except ConditionError as error:
            return error
        return value

    def _table(self, condition: Condition, request: Values, now_s: float, *, numeric: bool) -> _Table:
        """The table for this expression and the request's values that it names; ages are good for a day."""
        day = int(now_s // DAY_S) if "age_days" in condition.item_fields else 0
        key = (condition.source, tuple(request[name] for name in condition.request_fields), day + (numeric << 40))
        with self._mutex:
            table = self._tables.get(key)
            if table is None:
                table = self._tables[key] = _Table(len(self._items), numeric=numeric)
                if len(self._tables) > TABLES_MAX:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(key)
        return table
