"""What makes two lists the same list, and where they lie in a region's grid: edges and the region agree on it."""

import hashlib
from dataclasses import dataclass

import msgspec

from infra.contracts.messages import HomeAnswer, ItemFilters, RecommendationType, Surface
from infra.contracts.residency import Global, Regional, RegionalMessage


@dataclass(frozen=True, slots=True)
class ListKey:
    """What makes two lists the same list. `subject` is a pseudonym of this region, so a key never leaves it."""

    type: RecommendationType
    surface: Surface
    category: str | None = None
    item: str | None = None
    locale: str = "en"
    device: str = ""
    country: str = ""
    filters: ItemFilters | None = None
    arm: str | None = None
    subject: str | None = None
    recent: tuple[str, ...] = ()
    away: bool = False
    """Lists that another region made: kept apart, and briefly."""


class GridValue(RegionalMessage, frozen=True, kw_only=True):
    """What lies in the grid: the region's answer, and the page size it was asked for."""

    answer: Regional[HomeAnswer]
    asked: Global[int]


class ChoiceMark(RegionalMessage, frozen=True, kw_only=True):
    """What a subject chose last. It lies in the grid beside the lists, for an edge that was away when it was told."""

    version: Regional[int]
    """Personal lists below it are from before the choice, or before the erasure."""
    opted_out: Regional[bool | None]
    """None: the subject was erased and chose nothing."""


CHOICE_LIFE_S = 7 * 86_400.0
"""Longer than any list lies in the grid, a day at most: a list from before a choice never outlives its mark."""


def choice_key(subject: str) -> str:
    """The name of a subject's mark in the grid: a hash, as those of lists."""
    return "choice:" + hashlib.blake2b(subject.encode(), digest_size=20).hexdigest()


def grid_key(key: ListKey) -> str:
    """The key's name in the grid: a hash, so that no pseudonym stands in a key."""
    return "list:" + hashlib.blake2b(msgspec.msgpack.encode(key), digest_size=20).hexdigest()
