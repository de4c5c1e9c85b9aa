"""Which rules hold for a call, bound to its release: made once per edition and release, looked up by every call."""

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from infra.contracts.features import IntArray
from infra.contracts.messages import HomeRequest
from region.funnel.release import LoadedRelease
from region.funnel.seats import Seats
from region.funnel.tables import ReleaseTables
from region.rules.binding import NO_ROWS, Binding, Ground, bind
from region.rules.book import RuleBook
from region.rules.conditions import request_values
from region.rules.history import Page, PageHistory
from region.rules.ruleset import DEFAULTS_EDITION, Active, RuleSet, compile_rules, defaults_of
from region.rules.schema import RuleFile

BINDINGS_MAX = 3
"""Of one release: under the rules that hold and under those of a dry run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """The rules of one call. `capped`: rows that make way because they were shown often enough, ascending."""

    active: Active
    ground: Ground
    capped: IntArray
    edition: str


class Rulings:
    """Finds the rules of each call.

    Args:
        book: what the region has published.
        on_error: told the name of a rule each time that an expression of it fails for an item.
    """

    def __init__(self, book: RuleBook, *, on_error: Callable[[str], None]) -> None:
        self._book = book
        self._on_error = on_error
        # By the seats of a release in memory: with the release its bindings go, which hold its catalogue.
        self._bindings: weakref.WeakKeyDictionary[Seats, dict[tuple[str, int], Binding]] = weakref.WeakKeyDictionary()
        self._mutex = threading.Lock()
        self.pages = PageHistory()

    def rule(
        self, request: HomeRequest, release: LoadedRelease, *, now_s: float, remembered: bool,
        proposed: tuple[str, RuleFile] | None = None,
    ) -> Ruling:  # fmt: skip
        """The rules that hold for `request`.

        Args:
            request: what is asked.
            release: what it is answered from.
            now_s: Unix seconds.
            remembered: whether the subject's last pages may count.
            proposed: edition and rules to try in place of the published ones.
        """
        bound = self.bound(release, proposed)
        values = request_values(request)
        active = bound.rules.active(request.surface, values, now_s=now_s)
        subject = request.subject if remembered else None
        stability = active.settings.stability
        previous = None
        if subject is not None and stability.weight:
            previous = self.pages.last(
                subject, release=release.release_id, surface=request.surface.value, since_s=now_s - stability.window_s
            )
        ground = Ground(
            bound=bound, request=values, now_s=now_s, asked_category=request.category, previous=previous
        )  # fmt: skip
        capped = _capped(self.pages, subject, active, ground, release.release_id) if subject is not None else NO_ROWS
        return Ruling(active=active, ground=ground, capped=capped, edition=bound.rules.edition)

    def remember(self, request: HomeRequest, release: LoadedRelease, rows: IntArray, *, now_s: float) -> None:
        """The subject of `request` was given these rows as its page."""
        if request.subject is not None:
            page = Page(now_s, release.release_id, request.surface.value, rows[: request.n].astype(np.int32))
            self.pages.remember(request.subject, page)

    @property
    def edition(self) -> str:
        """Which rules the region has published."""
        current = self._book.current
        return current.name if current else DEFAULTS_EDITION

    def bound(self, release: LoadedRelease, proposed: tuple[str, RuleFile] | None = None) -> Binding:
        """The published rules, or those `proposed`, bound to a release. The first time takes milliseconds."""
        current = self._book.current
        edition = proposed[0] if proposed else current.name if current else DEFAULTS_EDITION
        seats = release.tables.seats
        # What was judged and named of the seats holds until one of them changes.
        key = (edition, seats.edition)
        with self._mutex:
            kept = self._bindings.setdefault(seats, {})
        found = kept.get(key)
        if found is None:
            file = proposed[1] if proposed else current.file if current else None
            found = self._bind(release, edition, file)
            with self._mutex:
                kept[key] = found
                while len(kept) > BINDINGS_MAX:
                    kept.pop(next(iter(kept)))
        return found

    def _bind(self, release: LoadedRelease, edition: str, file: RuleFile | None) -> Binding:
        base = release.tables.rules
        rules = defaults_of(base) if file is None else compile_rules(file, edition=edition, defaults=base)
        name_of = {condition.source: name for name, condition in rules.expressions}
        return bind_rules(rules, release.tables, on_error=lambda source: self._on_error(name_of.get(source, "")))


def bind_rules(rules: RuleSet, tables: ReleaseTables, *, on_error: Callable[[str], None]) -> Binding:
    """`rules` bound to the items of `tables`; `on_error` as of `region.rules.binding.bind`."""
    return bind(
        rules, items=tables.items, row_of=tables.row_of, membership=tables.arrays.categories,
        categories=tables.shape.categories, on_error=on_error,
    )  # fmt: skip


def _capped(pages: PageHistory, subject: str, active: Active, ground: Ground, release: str) -> IntArray:
    if not active.caps:
        return NO_ROWS
    rows = [NO_ROWS]
    for compiled in active.caps:
        rule = compiled.rule
        often = pages.often(subject, release=release, since_s=ground.now_s - rule.window_s, times=rule.shown_max)
        if compiled.match is not None:
            judge = ground.bound.judge
            often = often[judge.holds(compiled.match, often, ground.request, now_s=ground.now_s, if_fails=False)]
        rows.append(often)
    return np.unique(np.concatenate(rows)).astype(np.int32)
