"""The officer's commands as functions: each is one call to a region's operator API. They block."""

from infra.plumbing.http.tls import ClientTls
from region.privacy.explaining import Explanation
from region.privacy.messages import AccessPage, SignedReceipt, SubjectCall, SubjectExport
from region.releases.commands import LONG_S, QUICK_S, call_region


def export(url: str, key: str, tls: ClientTls | None = None, *, user: str) -> SubjectExport:
    """Everything that the region at `url` has of a user."""
    return call_region(
        "POST", url, "privacy/export", key, tls, SubjectExport, SubjectCall(user=user), timeout_s=LONG_S
    )  # fmt: skip


def erase(url: str, key: str, tls: ClientTls | None = None, *, user: str) -> SignedReceipt:
    """Erase a user from the region at `url`."""
    return call_region(
        "POST", url, "privacy/erase", key, tls, SignedReceipt, SubjectCall(user=user), timeout_s=LONG_S
    )  # fmt: skip


def receipt(url: str, key: str, tls: ClientTls | None = None, *, user: str) -> SignedReceipt:
    """A new receipt of a user's earlier erasure from the region at `url`."""
    return call_region(
        "POST", url, "privacy/receipt", key, tls, SignedReceipt, SubjectCall(user=user), timeout_s=LONG_S
    )  # fmt: skip


def why(
    url: str, key: str, tls: ClientTls | None = None, *, user: str, item: str, locale: str = "en"
) -> Explanation:  # fmt: skip
    """Why a user sees an item."""
    call = SubjectCall(user=user, item=item, locale=locale)
    return call_region("POST", url, "privacy/why", key, tls, Explanation, call, timeout_s=LONG_S)


def accesses(url: str, key: str, tls: ClientTls | None = None) -> AccessPage:
    """Everything that a node's account of accesses keeps, and where it stands."""
    page = _page(url, key, tls, 0)
    entries, head = list(page.entries), page.head
    while page.entries and entries[-1].number < head.last:
        page = _page(url, key, tls, entries[-1].number)
        # What is written meanwhile is left to the next time: the chain is verified up to the first page's head.
        entries += [one for one in page.entries if one.number <= head.last]
    return AccessPage(entries=tuple(entries), head=head)


def _page(url: str, key: str, tls: ClientTls | None, after: int) -> AccessPage:
    return call_region("GET", url, f"privacy/accesses?after={after}", key, tls, AccessPage, timeout_s=QUICK_S)
