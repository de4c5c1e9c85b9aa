"""What a region's own silo may ask of its store: resident histories, page by page. None of it leaves the region."""

from infra.contracts.residency import Regional, RegionalMessage

PAGE_MAX = 500
"""Histories in one page."""


class ResidentCall(RegionalMessage, frozen=True, kw_only=True):
    """Asks for the next page."""

    after: Regional[str] = ""
    """`ResidentPage.after` of the page before; empty for the first."""
    page_count: Regional[int] = 200


class ResidentHistory(RegionalMessage, frozen=True, kw_only=True):
    """One user's history, oldest first, and no word about whose it is."""

    items: Regional[tuple[str, ...]]
    strengths: Regional[tuple[int, ...]]
    times_ms: Regional[tuple[int, ...]]


class ResidentPage(RegionalMessage, frozen=True, kw_only=True):
    """Histories of users who have not opted out, each user once in a walk; `after` is empty behind the last page."""

    histories: Regional[tuple[ResidentHistory, ...]]
    after: Regional[str] = ""
