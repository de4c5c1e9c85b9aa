"""Messages of the region's own doors: the data subject's choice, and what an operator asks and sees."""

from infra.contracts.residency import Global, GlobalMessage


class WithdrawCall(GlobalMessage, frozen=True, kw_only=True):
    """Items to take out of every list of this region, and items to let back in."""

    withdrawn: Global[tuple[str, ...]] = ()
    restored: Global[tuple[str, ...]] = ()


class WithdrawAnswer(GlobalMessage, frozen=True, kw_only=True):
    """What holds now, and whether the edges could be told at once (if not, they learn it as lists expire)."""

    withdrawn_total: Global[int]
    edges_told: Global[bool]


class StatusAnswer(GlobalMessage, frozen=True, kw_only=True):
    """This node at a glance."""

    region: Global[str]
    node: Global[str]
    active: Global[str | None]
    previous: Global[str | None]
    waiting_for: Global[str]
    """Empty when the node is ready."""
    withdrawn: Global[int]
    computing: Global[int]
    """Computations running and waiting."""
    degraded: Global[dict[str, int]]
    """Answers since the start that missed each part."""
    export_policy: Global[str] = ""
    """What the node lets out for central to learn from."""
    mapped_mb_max: Global[int] = 0
    """What files of releases may take of the node's memory."""
    mapped_because: Global[str] = ""


class PurgeCall(GlobalMessage, frozen=True, kw_only=True):
    """Have lists made anew that hold one of `items` or carry one of `tags` (`category:drama`, `brand:acme`)."""

    items: Global[tuple[str, ...]] = ()
    tags: Global[tuple[str, ...]] = ()


class PurgeAnswer(GlobalMessage, frozen=True, kw_only=True):
    """How many names were purged, and whether the grid told the edges at once (if not, they ask within a second)."""

    purged: Global[int]
    edges_told: Global[bool]
