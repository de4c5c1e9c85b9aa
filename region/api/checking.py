"""Bounds on what a call may ask for. A refusal names the field and its bound, and repeats nothing of the caller's."""

import math
from collections.abc import Sequence

from infra.contracts.messages import SLATE_ITEMS_MAX, AwayRequest, HomeRequest, ItemFilters
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.ids import is_request_id
from region.api.messages import WithdrawCall

ID_LENGTH_MAX = 128
RECENT_MAX = 200
EXCLUDE_MAX = 1000
VECTOR_LENGTH_MAX = 4096
WITHDRAW_MAX = 10_000
ATTRIBUTES_MAX = 8
ATTRIBUTE_VALUES_MAX = 20


def check_request(request: HomeRequest | AwayRequest) -> None:
    """Refuse a call that is out of bounds.

    Raises:
        InvalidInputError: names the field and what it may hold.
    """
    if not 1 <= request.n <= SLATE_ITEMS_MAX:
        raise InvalidInputError("n is out of range.", fix=f"It goes from 1 to {SLATE_ITEMS_MAX}.")
    for name, value in (("item", request.item), ("category", request.category)):
        if value is not None:
            check_ids(name, (value,), count_max=1)
    check_filters(request.filters)
    if request.vector is not None:
        _check_vector(request.vector)
    if isinstance(request, HomeRequest):
        check_ids("recent", request.recent, count_max=RECENT_MAX)
        check_ids("among", request.among, count_max=SLATE_ITEMS_MAX)
        check_ids("exclude", request.exclude, count_max=EXCLUDE_MAX)
        if request.request_id and not is_request_id(request.request_id):
            raise InvalidInputError("request_id is not usable.", fix="It is 8 to 64 letters, digits or `_.:-`.")


def check_filters(filters: ItemFilters) -> None:
    """Refuse filters that are out of bounds.

    Raises:
        InvalidInputError: names the field and what it may hold.
    """
    for name, price in (("price_min", filters.price_min), ("price_max", filters.price_max)):
        if price is not None and not (math.isfinite(price) and price >= 0.0):
            raise InvalidInputError(f"{name} is not a price.", fix="It is a finite number, 0 or more.")
    check_ids("attributes", tuple(one.name for one in filters.attributes), count_max=ATTRIBUTES_MAX)
    for one in filters.attributes:
        check_ids("an attribute's values", one.values, count_max=ATTRIBUTE_VALUES_MAX)


def check_withdrawal(call: WithdrawCall) -> None:
    """Refuse a withdrawal that is empty or out of bounds.

    Raises:
        InvalidInputError: names the field and what it may hold.
    """
    if not call.withdrawn and not call.restored:
        raise InvalidInputError("nothing is withdrawn or restored.", fix="Name items in withdrawn or restored.")
    check_ids("withdrawn", call.withdrawn, count_max=WITHDRAW_MAX)
    check_ids("restored", call.restored, count_max=WITHDRAW_MAX)


def check_ids(name: str, ids: Sequence[str], *, count_max: int) -> None:
    """Refuse too many ids, and ids that are empty or too long.

    Raises:
        InvalidInputError: names the field.
    """
    if len(ids) > count_max:
        raise InvalidInputError(f"{name} holds {len(ids)} entries.", fix=f"It takes at most {count_max}.")
    if not all(0 < len(identifier) <= ID_LENGTH_MAX for identifier in ids):
        raise InvalidInputError(
            f"{name} holds an empty or overlong entry.", fix=f"Entries have 1 to {ID_LENGTH_MAX} characters."
        )


def _check_vector(vector: tuple[float, ...]) -> None:
    if not 0 < len(vector) <= VECTOR_LENGTH_MAX:
        raise InvalidInputError(f"vector holds {len(vector)} numbers.", fix=f"It takes 1 to {VECTOR_LENGTH_MAX}.")
    if not all(math.isfinite(number) and abs(number) < 1e9 for number in vector):
        raise InvalidInputError("vector holds a number that is not finite or too large.")
