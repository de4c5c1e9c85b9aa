"""The operator's commands as functions: each is one call to a region's operator API. They block.

Each begins with the region's address, the operator's key and, where the region wants TLS, what to trust and to show.
"""

from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
import urllib3

from infra.contracts.residency import RegionalMessage, encode_regional
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import (
    AtollError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    UnauthorizedError,
    UnavailableError,
)
from infra.plumbing.http.tls import ClientTls, client_context
from infra.plumbing.releases.messages import PEOPLE
from region.additions.messages import (
    ITEMS_PER_CALL_MAX,
    AddItemsCall,
    ChangeAnswer,
    ListAnswer,
    NewItem,
    RemoveItemsCall,
)
from region.api.messages import PurgeAnswer, PurgeCall, StatusAnswer, WithdrawAnswer, WithdrawCall
from region.releases.messages import (
    AuditAnswer,
    DiffAnswer,
    InspectAnswer,
    PinAnswer,
    PromoteRequest,
    PublishedAnswer,
    PullAnswer,
    PullRequest,
    ReleaseRequest,
    ReleasesAnswer,
    SwitchAnswer,
    VerifyAnswer,
)
from region.releases.trial import TrialKind, TrialPlan
from region.releases.trials import TrialReport

A = TypeVar("A", bound=msgspec.Struct)
QUICK_S = 10.0
LONG_S = 600.0
"""Pulling, verifying and loading take as long as the release is large."""
ANSWER_BYTES_MAX = 32 << 20
_ERRORS: dict[int, type[AtollError]] = {
    400: InvalidInputError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    503: UnavailableError,
}


class _Problem(msgspec.Struct, frozen=True):
    detail: str = ""


def releases(url: str, key: str, tls: ClientTls | None = None) -> ReleasesAnswer:
    """What the region at `url` has and runs."""
    return call_region("GET", url, "releases", key, tls, ReleasesAnswer, timeout_s=QUICK_S)


def published(url: str, key: str, tls: ClientTls | None = None) -> PublishedAnswer:
    """What the region at `url` could pull, by a fresh look at the repository."""
    return call_region("GET", url, "published", key, tls, PublishedAnswer)


def status(url: str, key: str, tls: ClientTls | None = None) -> StatusAnswer:
    """The node at a glance."""
    return call_region("GET", url, "status", key, tls, StatusAnswer, timeout_s=QUICK_S)


def inspect(url: str, key: str, tls: ClientTls | None = None, *, release: str) -> InspectAnswer:
    """One release that is on the region's disk."""
    return call_region("GET", url, f"releases/{quote(release, safe='')}", key, tls, InspectAnswer, timeout_s=QUICK_S)


def diff(
    url: str, key: str, tls: ClientTls | None = None, *, after: str, before: str | None = None, people: int = PEOPLE,
    seed: int = 0,
) -> DiffAnswer:  # fmt: skip
    """Two releases that are on the region's disk side by side; `before` None: the active one."""
    asked = {"after": after, "people": str(people), "seed": str(seed), **({} if before is None else {"before": before})}
    return call_region("GET", url, f"diff?{urlencode(asked)}", key, tls, DiffAnswer)


def pull(
    url: str, key: str, tls: ClientTls | None = None, *, channel: str | None = None, release: str | None = None
) -> PullAnswer:
    """Bring a release to the region, by its id or by a channel."""
    return call_region("POST", url, "pull", key, tls, PullAnswer, PullRequest(channel=channel, release=release))


def verify(url: str, key: str, tls: ClientTls | None = None, *, release: str) -> VerifyAnswer:
    """Hash every file of a pulled release anew."""
    return call_region("POST", url, "verify", key, tls, VerifyAnswer, ReleaseRequest(release=release))


def promote(url: str, key: str, tls: ClientTls | None = None, *, release: str, dry_run: bool = False) -> SwitchAnswer:
    """Make a pulled release the active one; `dry_run` only says whether that would be done."""
    return call_region("POST", url, "promote", key, tls, SwitchAnswer, PromoteRequest(release=release, dry_run=dry_run))


def rollback(url: str, key: str, tls: ClientTls | None = None) -> SwitchAnswer:
    """Go back to the release before."""
    return call_region("POST", url, "rollback", key, tls, SwitchAnswer)


def pin(url: str, key: str, tls: ClientTls | None = None) -> PinAnswer:
    """Let the region refuse every promotion."""
    return call_region("POST", url, "pin", key, tls, PinAnswer, timeout_s=QUICK_S)


def unpin(url: str, key: str, tls: ClientTls | None = None) -> PinAnswer:
    """Let the region be promoted again."""
    return call_region("POST", url, "unpin", key, tls, PinAnswer, timeout_s=QUICK_S)


def freeze(url: str, key: str, tls: ClientTls | None = None) -> PinAnswer:
    """Let the region refuse every change but a roll-back."""
    return call_region("POST", url, "freeze", key, tls, PinAnswer, timeout_s=QUICK_S)


def unfreeze(url: str, key: str, tls: ClientTls | None = None) -> PinAnswer:
    """Allow changes again."""
    return call_region("POST", url, "unfreeze", key, tls, PinAnswer, timeout_s=QUICK_S)


def begin_trial(url: str, key: str, tls: ClientTls | None = None, *, kind: TrialKind, plan: TrialPlan) -> TrialReport:
    """Try a pulled release on some of the region's callers (canary) or beside their answers (shadow)."""
    return call_region("POST", url, kind.value, key, tls, TrialReport, plan)


def trial(url: str, key: str, tls: ClientTls | None = None) -> TrialReport:
    """How the trial stands, or how the last one ended."""
    return call_region("GET", url, "trial", key, tls, TrialReport, timeout_s=QUICK_S)


def stop_trial(url: str, key: str, tls: ClientTls | None = None) -> TrialReport:
    """End the trial; the active release goes on."""
    return call_region("POST", url, "trial/stop", key, tls, TrialReport, timeout_s=QUICK_S)


def audit(url: str, key: str, tls: ClientTls | None = None, *, count: int = 100) -> AuditAnswer:
    """The latest `count` entries of the region's audit."""
    return call_region("GET", url, f"audit?n={count}", key, tls, AuditAnswer, timeout_s=QUICK_S)


def withdraw(url: str, key: str, tls: ClientTls | None = None, *, items: Sequence[str]) -> WithdrawAnswer:
    """Show these items to nobody in the region."""
    call = WithdrawCall(withdrawn=tuple(items))
    return call_region("POST", url, "items/withdraw", key, tls, WithdrawAnswer, call, timeout_s=QUICK_S)


def restore(url: str, key: str, tls: ClientTls | None = None, *, items: Sequence[str]) -> WithdrawAnswer:
    """Let these items be shown again."""
    call = WithdrawCall(restored=tuple(items))
    return call_region("POST", url, "items/withdraw", key, tls, WithdrawAnswer, call, timeout_s=QUICK_S)


def added_items(url: str, key: str, tls: ClientTls | None = None) -> ListAnswer:
    """What was added to the region since its release."""
    return call_region("GET", url, "items", key, tls, ListAnswer, timeout_s=QUICK_S)


def add_items(url: str, key: str, tls: ClientTls | None = None, *, items: Sequence[NewItem]) -> ChangeAnswer:
    """Add items that no release has yet, or renew them, in calls of ITEMS_PER_CALL_MAX; one answer over all."""
    parts = [items[start : start + ITEMS_PER_CALL_MAX] for start in range(0, len(items), ITEMS_PER_CALL_MAX)] or [()]
    calls = [AddItemsCall(items=tuple(part)) for part in parts]
    return _summed([call_region("POST", url, "items/add", key, tls, ChangeAnswer, call) for call in calls])


def remove_items(url: str, key: str, tls: ClientTls | None = None, *, items: Sequence[str]) -> ChangeAnswer:
    """Take added items out again."""
    call = RemoveItemsCall(items=tuple(items))
    return call_region("POST", url, "items/remove", key, tls, ChangeAnswer, call, timeout_s=QUICK_S)


def _summed(answers: Sequence[ChangeAnswer]) -> ChangeAnswer:
    return msgspec.structs.replace(
        answers[-1],
        added=sum(one.added for one in answers),
        updated=sum(one.updated for one in answers),
        unchanged=sum(one.unchanged for one in answers),
    )


def purge(
    url: str, key: str, tls: ClientTls | None = None, *, items: Sequence[str], tags: Sequence[str]
) -> PurgeAnswer:
    """Have cached lists made anew that hold one of these items or carry one of these tags."""
    call = PurgeCall(items=tuple(items), tags=tuple(tags))
    return call_region("POST", url, "lists/purge", key, tls, PurgeAnswer, call, timeout_s=QUICK_S)


def call_region(
    method: str,
    url: str,
    path: str,
    key: str,
    tls: ClientTls | None,
    answer: type[A],
    message: RegionalMessage | None = None,
    *,
    timeout_s: float = LONG_S,
) -> A:
    """One call to an operator's door of the region; what it refused is raised as the error that it was.

    Raises:
        AtollError: as the region answered; UnavailableError if it did not.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise InvalidInputError(f"{url!r} is no address of a region.", fix="Use http://host:port of its API.")
    target = f"{url.rstrip('/')}/operator/v1/{path}"
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    body = encode_regional(message) if message is not None else None
    try:
        context = None if tls is None else client_context(tls, clock=SystemClock()).context
        with urllib3.PoolManager(ssl_context=context) as pool:
            timeout = urllib3.Timeout(connect=3.0, read=timeout_s)
            response = pool.request(
                method, target, body=body, headers=headers, timeout=timeout, retries=False, preload_content=False
            )
            status, content = response.status, response.read(ANSWER_BYTES_MAX)
            response.release_conn()
    except urllib3.exceptions.HTTPError as error:
        raise UnavailableError(
            f"the region at {url} does not answer: {error}.", fix="Check that it runs: `world status`."
        ) from error
    return _decoded(status, content, answer)


def _decoded(status: int, content: bytes, answer: type[A]) -> A:
    try:
        if status == 200:
            return msgspec.json.decode(content, type=answer)
        detail = msgspec.json.decode(content, type=_Problem).detail
    except (msgspec.DecodeError, UnicodeDecodeError):
        detail = f"the region answered {status} with something that is not its own"
    raise _ERRORS.get(status, AtollError)(detail or f"the region answered {status}")
