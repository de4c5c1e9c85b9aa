"""The region's own privacy budget: what it gave away, in a ledger of its own, whatever central's says.

Central books every round too. A region that counts for itself does not have to trust that: a central ledger that is
deleted, rolled back or opened anew elsewhere buys no further round here. Booked before a round opens; how it ended is
read from the journal when the next one is asked for, so that a killed gateway wins nothing back.
"""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from federation.gateway.journal import Journal
from federation.messages import Phase, RegionalSum, RoundPlan
from federation.privacy.ledger import Budget, EntryKind, Ledger, LedgerEntry, PrivacyBudgetSpentError
from federation.settings import CohortSettings
from infra.plumbing.clock import Clock

LEDGER_FILE = "ledger.jsonl"


class RoundKeeper(Protocol):
    """Who carries rounds out in a region: the gateway over its phones, or the silo."""

    @property
    def sampling_probability(self) -> float:
        """What is really used, whatever the plan says."""
        ...

    def look(self, plan: RoundPlan) -> RegionalSum | None:
        """How the round stands; None when it may be opened."""
        ...

    def start(self, plan: RoundPlan) -> RegionalSum:
        """Open it."""
        ...


class RegionBudget:
    """One region's ledger."""

    def __init__(self, directory: Path, *, region: str, policy: CohortSettings, journal: Journal, clock: Clock) -> None:
        self._ledger: Ledger | None = None
        if policy.epsilon_max is not None:
            budget = Budget(population=region, epsilon_max=policy.epsilon_max, delta=policy.delta)
            self._ledger = Ledger(directory / LEDGER_FILE, budget=budget, clock=clock)
        self._region = region
        self.journal = journal
        self._lock = threading.Lock()

    async def opened(self, keeper: RoundKeeper, plan: RoundPlan) -> RegionalSum:
        """Book the round and have `keeper` open it; a void answer, and nothing opened, when the budget is spent.

        Raises:
            LedgerError: the ledger does not hold; no round is opened until it is restored.
            AtollError: as `keeper` says.
        """
        standing = keeper.look(plan)
        if standing is not None:
            return standing
        # The accountant takes up to a second: phones must not wait for it.
        refused = await asyncio.to_thread(self.reserve, plan, sampling_probability=keeper.sampling_probability)
        return refused or keeper.start(plan)

    def reserve(self, plan: RoundPlan, *, sampling_probability: float) -> RegionalSum | None:
        """Book a round that is about to open; None when it may, or a void answer when the budget is spent.

        A round that is booked already is not booked again. The probability is the region's own, not the plan's.
        """
        ledger = self._ledger
        if ledger is None:
            return None
        with self._lock:
            entries = ledger.entries()
            if any(entry.round_id == plan.round_id for entry in entries):
                return None
            for round_id in _open(entries):
                self._settle(ledger, round_id)
            try:
                ledger.reserve(
                    plan.round_id, noise_multiplier=plan.noise_multiplier, sampling_probability=sampling_probability
                )
            except PrivacyBudgetSpentError as error:
                return RegionalSum(
                    round_id=plan.round_id, region=self._region, phase=Phase.VOID, reason=f"in this region, {error}"
                )
            return None

    def _settle(self, ledger: Ledger, round_id: str) -> None:
        """By the journal. A round that never got as far as the journal stays booked: nothing proves that it is void."""
        record = self.journal.read(round_id)
        if record is not None and record.result is not None:
            ledger.settle(round_id, regions=int(record.result.phase is Phase.CLOSED))


def _open(entries: Sequence[LedgerEntry]) -> list[str]:
    """Rounds that are reserved and not settled, in order."""
    found: dict[str, None] = {}
    for entry in entries:
        if entry.kind is EntryKind.RESERVED:
            found[entry.round_id] = None
        else:
            found.pop(entry.round_id, None)
    return list(found)
