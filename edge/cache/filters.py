"""Hard filters and pages: which items of a list may be shown to this viewer now, and how a page stays full."""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass

from infra.contracts.messages import SlateItem


@dataclass(frozen=True, slots=True)
class Slate:
    """One page: its items, how many came from the filler, and whether the list has more behind it."""

    items: tuple[SlateItem, ...]
    filled: int
    more: bool


def cut_page(
    items: Sequence[SlateItem],
    *,
    n: int,
    blocked: Sequence[Container[str]],
    is_shown: Callable[[str], bool],
    filler: Iterable[SlateItem],
) -> Slate:
    """The next `n` items of a list that pass every filter, filled up from `filler` (which passes the same filters).

    Args:
        items: the list, best first.
        n: the page size.
        blocked: sets of item ids that must not appear.
        is_shown: whether an item stood on an earlier page.
        filler: more items, best first; read only as far as needed.

    No item appears twice, whatever the lists hold.
    """
    page: list[SlateItem] = []
    taken: set[str] = set()

    def admit(item: SlateItem) -> bool:
        name = item.item
        return name not in taken and not any(name in group for group in blocked) and not is_shown(name)

    for index, item in enumerate(items):
        if len(page) == n:
            return Slate(tuple(page), 0, any(admit(later) for later in items[index:]))
        if admit(item):
            page.append(item)
            taken.add(item.item)
    own = len(page)
    if own < n:
        for item in filler:
            if admit(item):
                page.append(item)
                taken.add(item.item)
                if len(page) == n:
                    break
    return Slate(tuple(page), len(page) - own, more=False)
