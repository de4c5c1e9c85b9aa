"""The officer's commands as functions: each is one call to a region's operator API. They block."""

from infra.plumbing.http.tls import ClientTls
from region.privacy.messages import SignedReceipt, SubjectCall, SubjectExport
from region.releases.commands import LONG_S, call_region


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
