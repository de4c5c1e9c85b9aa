"""What is said of two releases side by side. Nothing in it is about a person: the people compared by are made up."""

from typing import Final

from infra.contracts.residency import Global, GlobalMessage

PEOPLE: Final = 50
PEOPLE_MAX: Final = 500
NAMED_MAX: Final = 50
"""Items that come or go and are named."""
Interval = tuple[float, float]


class Metric(GlobalMessage, frozen=True, kw_only=True):
    """One figure of one stage. `says`: `better`, `worse` or `within the noise`, where both have intervals."""

    stage: Global[str]
    name: Global[str]
    before: Global[float | None]
    after: Global[float | None]
    before_interval: Global[Interval | None]
    after_interval: Global[Interval | None]
    says: Global[str]


class ReleaseDiff(GlobalMessage, frozen=True, kw_only=True):
    """What changes between two manifests."""

    before: Global[str]
    after: Global[str]
    metrics: Global[dict[str, tuple[float | None, float | None]]]
    added: Global[tuple[str, ...]]
    removed: Global[tuple[str, ...]]
    changed: Global[tuple[str, ...]]
    unchanged: Global[tuple[str, ...]]
    bytes_shared: Global[int]
    bytes_new: Global[int]
    """What a region that has `before` must fetch for `after`, less what deltas save."""
    same_content: Global[bool]
    """Whether both do the same: what differs is the moment of the build, the reports, or the index's partitions."""


class Vocabulary(GlobalMessage, frozen=True, kw_only=True):
    """Items and categories that come and go; the first NAMED_MAX items by id."""

    items_before: Global[int]
    items_after: Global[int]
    added: Global[int]
    removed: Global[int]
    added_items: Global[tuple[str, ...]]
    removed_items: Global[tuple[str, ...]]
    categories_added: Global[tuple[str, ...]]
    categories_removed: Global[tuple[str, ...]]


class Drift(GlobalMessage, frozen=True, kw_only=True):
    """How far items have moved relative to each other.

    `cosine`: quantiles over the items of both releases, after the rotation that fits best (orthogonal Procrustes,
    Schoenemann 1966): two trainings never share their axes. `neighbours_overlap`: mean share of an item's NEIGHBOURS
    nearest (by dot product) that are the same; needs no rotation.
    """

    items: Global[int]
    cosine: Global[dict[str, float]]
    cosine_mean: Global[float]
    neighbours_overlap: Global[float]


class Person(GlobalMessage, frozen=True, kw_only=True):
    """A made-up history and both releases' lists for it, as item ids."""

    history: Global[tuple[str, ...]]
    before: Global[tuple[str, ...]]
    after: Global[tuple[str, ...]]
    overlap: Global[float]


class Lists(GlobalMessage, frozen=True, kw_only=True):
    """What made-up people would see. `overlap10`: mean share of ten items that stay; `same_first`: of first items."""

    people: Global[tuple[Person, ...]]
    overlap10: Global[float]
    overlap10_least: Global[float]
    same_first: Global[float]
    titles: Global[dict[str, str]]
    """Of every item that is named, where it has one."""


class Comparison(GlobalMessage, frozen=True, kw_only=True):
    """Two releases side by side. What could not be compared is None, and `notes` says why."""

    metrics: Global[tuple[Metric, ...]]
    sizes: Global[dict[str, tuple[int, int]]]
    vocabulary: Global[Vocabulary | None]
    drift: Global[Drift | None]
    lists: Global[Lists | None]
    notes: Global[tuple[str, ...]]
