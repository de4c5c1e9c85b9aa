"""What a region may hand to central to learn from: the only shapes there are, by the policy that lets each out.

A line of `pseudonymous-<region>.ndjson` is a `SequenceExtract`, `aggregates-<region>.json` is an `AggregateExtract`;
extracts of several regions may lie in one folder. Neither can name a person: a sequence stands under a key that only
its region can make, and which changes with `period`.
"""

from typing import ClassVar

from infra.contracts.residency import ExportPolicy, Extract, Global

SEQUENCES_PREFIX, SEQUENCES_SUFFIX = "pseudonymous-", ".ndjson"
AGGREGATES_PREFIX, AGGREGATES_SUFFIX = "aggregates-", ".json"


def sequences_file(region: str) -> str:
    """The name of a region's sequences."""
    return f"{SEQUENCES_PREFIX}{region}{SEQUENCES_SUFFIX}"


def aggregates_file(region: str) -> str:
    """The name of a region's aggregates."""
    return f"{AGGREGATES_PREFIX}{region}{AGGREGATES_SUFFIX}"


class SequenceExtract(Extract, frozen=True, kw_only=True):
    """One consenting user's history, oldest first."""

    needs: ClassVar[ExportPolicy] = ExportPolicy.PSEUDONYMOUS
    region: Global[str]
    key: Global[str]
    """32 hex digits; the same user has another one in another period, and nobody else can tell that they are one."""
    period: Global[int]
    items: Global[tuple[str, ...]]
    """Items that fewer than `users_min` people of the extract have in their history are left out."""
    strengths: Global[tuple[int, ...]]
    """See `infra.contracts.event_weights.event_strength`."""
    hours: Global[tuple[int, ...]]
    """Hours since 1970: the order is exact, the moment is not."""


class ItemTotal(Extract, frozen=True, kw_only=True, array_like=True):
    """About how many people have an item in their history."""

    needs: ClassVar[ExportPolicy] = ExportPolicy.AGGREGATES
    item: Global[str]
    users: Global[int]


class PairTotal(Extract, frozen=True, kw_only=True, array_like=True):
    """About how many people have both items among their latest."""

    needs: ClassVar[ExportPolicy] = ExportPolicy.AGGREGATES
    first: Global[str]
    second: Global[str]
    users: Global[int]


class AggregateExtract(Extract, frozen=True, kw_only=True):
    """Counts with Gaussian noise; user-level differential privacy at (`epsilon`, `delta`), one extract by itself."""

    needs: ClassVar[ExportPolicy] = ExportPolicy.AGGREGATES
    region: Global[str]
    made_hour: Global[int]
    users_min: Global[int]
    epsilon: Global[float]
    delta: Global[float]
    items: Global[tuple[ItemTotal, ...]]
    pairs: Global[tuple[PairTotal, ...]]
