"""Exploration slots of one call: which new items may be drawn, by which generator, from which counts."""

from dataclasses import dataclass

import numpy as np

from infra.contracts.features import IntArray
from infra.contracts.messages import HomeRequest
from infra.plumbing.draws import named_generator
from region.exploration.counters import Counts, Tally
from region.exploration.drawing import Explorer
from region.exploration.exposures import DrawnItems
from region.funnel.release import LoadedRelease
from region.funnel.sources import newest
from region.funnel.tables import ReleaseTables
from region.rules.ruleset import NO_EXPLORATION
from region.rules.schema import Exploration

GUARANTEED = Exploration(positions=(8,), new_share_min=0.5, new_share_max=0.5)
"""Where no rules speak of exploration, items that came after the release have their chance all the same: one position,
every other page, until they were shown often enough. Rules with no positions turn it off."""
NEW_LOOKED_AT_MAX = 2_048
NEW_OFFERED_MAX = 64
"""New items that one page may draw from; of more, so many are drawn evenly, so that each has its chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploring:
    """What the draws of one call come from."""

    rules: Exploration
    tally: Tally
    generator: np.random.Generator
    owed_only: bool = False
    """Only what came after the release counts as new."""

    @classmethod
    def of(
        cls, request: HomeRequest, rules: Exploration, tally: Tally, tables: ReleaseTables
    ) -> "Exploring | None":  # fmt: skip
        """For a request that has an id; None where the rules explore nothing and nothing new is owed its chance."""
        owed_only = rules is NO_EXPLORATION
        if owed_only and tables.seats.rows.size:
            rules = GUARANTEED
        if not rules.positions or not request.request_id:
            return None
        generator = named_generator("exploration", request.request_id, request.subject or "")
        made = cls(rules=rules, tally=tally, generator=generator, owed_only=owed_only)
        return None if owed_only and not made._not_enough(tables.seats.rows, tables).size else made

    def new_rows(self, release: LoadedRelease) -> IntArray:
        """Rows of new items that were not shown often enough yet: those after the release, and its youngest."""
        tables = release.tables
        known = newest(tables, release.standing, category=None, limit=NEW_LOOKED_AT_MAX).rows
        new = self._not_enough(tables.seats.rows if self.owed_only else known, tables)
        return new if new.size <= NEW_OFFERED_MAX else self.generator.choice(new, size=NEW_OFFERED_MAX, replace=False)

    def _not_enough(self, rows: IntArray, tables: ReleaseTables) -> IntArray:
        """Those of `rows` that were not shown often enough yet."""
        _, impressions = self.tally.of([tables.items[row].item for row in rows.tolist()])
        return rows[impressions < self.rules.new_impressions_enough]

    def explorer(self, rows: IntArray, new: IntArray, tables: ReleaseTables) -> Explorer:
        """What draws from an offer that is made of `rows`."""

        def counts(places: IntArray) -> tuple[Counts, Counts]:
            return self.tally.of([tables.items[row].item for row in rows[places].tolist()])

        return Explorer(
            rules=self.rules, generator=self.generator, new=np.isin(rows, new), counts=counts,
            prior_rate=self.tally.rate,
        )  # fmt: skip


def drawn_items(explorer: Explorer, rows: IntArray, tables: ReleaseTables) -> tuple[DrawnItems, ...]:
    """What `explorer` has drawn, by the items' ids."""
    return tuple(
        DrawnItems(drawn, tuple(tables.items[row].item for row in rows[drawn.arms].tolist()))
        for drawn in explorer.drawn
    )
