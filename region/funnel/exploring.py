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
from region.rules.schema import Exploration

NEW_LOOKED_AT_MAX = 2_048
NEW_OFFERED_MAX = 64
"""New items that one page may draw from; of more, so many are drawn evenly, so that each has its chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploring:
    """What the draws of one call come from."""

    rules: Exploration
    tally: Tally
    generator: np.random.Generator

    @classmethod
    def of(cls, request: HomeRequest, rules: Exploration, tally: Tally) -> "Exploring | None":
        """For a request that has an id; None where the rules explore nothing."""
        if not rules.positions or not request.request_id:
            return None
        generator = named_generator("exploration", request.request_id, request.subject or "")
        return cls(rules=rules, tally=tally, generator=generator)

    def new_rows(self, release: LoadedRelease) -> IntArray:
        """Rows of new items that were not shown often enough yet: those after the release, and its youngest."""
        new = newest(release.tables, release.standing, category=None, limit=NEW_LOOKED_AT_MAX).rows
        _, impressions = self.tally.of([release.tables.items[row].item for row in new.tolist()])
        new = new[impressions < self.rules.new_impressions_enough]
        return new if new.size <= NEW_OFFERED_MAX else self.generator.choice(new, size=NEW_OFFERED_MAX, replace=False)

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
