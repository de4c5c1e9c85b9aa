"""What the operator's API says. Nothing in it is about a subject; operators' names stay in the region."""

from infra.contracts.release import FileEntry
from infra.contracts.residency import Global, GlobalMessage, Regional, RegionalMessage
from infra.plumbing.releases.messages import Comparison, Interval, ReleaseDiff

AUDIT_ENTRIES_MAX = 1_000


class PullRequest(GlobalMessage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bring one release here: by its id, or whatever a channel names."""

    channel: Global[str | None] = None
    release: Global[str | None] = None


class ReleaseRequest(GlobalMessage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One release, by its id."""

    release: Global[str]


class PromoteRequest(GlobalMessage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One release, by its id; `dry_run` asks what would happen."""

    release: Global[str]
    dry_run: Global[bool] = False


class ReleaseStatus(GlobalMessage, frozen=True, kw_only=True):
    """One release that is on this region's disk."""

    release: Global[str]
    created_at_ms: Global[int]
    origin: Global[str]
    dataset: Global[str]
    parent: Global[str | None]
    metrics: Global[dict[str, float]]
    bytes_total: Global[int]
    active: Global[bool]
    previous: Global[bool]
    warm: Global[bool]
    """Loaded: switching to it takes no time."""


class ReleasesAnswer(GlobalMessage, frozen=True, kw_only=True):
    """What this region has and runs."""

    active: Global[str | None]
    previous: Global[str | None]
    pinned: Global[bool]
    frozen: Global[bool] = False
    releases: Global[tuple[ReleaseStatus, ...]]
    in_progress: Global[str] = ""
    """What is being done right now, in words, without names; empty if nothing is."""


class PublishedRelease(GlobalMessage, frozen=True, kw_only=True):
    """One release that this region may pull."""

    release: Global[str]
    channels: Global[tuple[str, ...]]
    """That recommend it now."""
    here: Global[bool]


class PublishedAnswer(GlobalMessage, frozen=True, kw_only=True):
    """What central has published, by a fresh look; those that are here or recommended first."""

    releases: Global[tuple[PublishedRelease, ...]]


class InspectAnswer(GlobalMessage, frozen=True, kw_only=True):
    """One release that is here."""

    release: Global[str]
    created_at_ms: Global[int]
    origin: Global[str]
    dataset: Global[str]
    dataset_sha256: Global[str]
    parent: Global[str | None]
    content_sha256: Global[str]
    """Of what it does: the same for releases that differ by their moment, reports and index only."""
    gates: Global[dict[str, bool]]
    metrics: Global[dict[str, float]]
    stages: Global[dict[str, dict[str, float]]]
    """Figures of its evaluation, by stage and baseline; empty where that does not read, as `note` says."""
    intervals: Global[dict[str, dict[str, Interval]]]
    sizes: Global[dict[str, int]]
    """Bytes by part."""
    bytes_total: Global[int]
    files: Global[dict[str, FileEntry]]
    active: Global[bool]
    previous: Global[bool]
    note: Global[str] = ""
    stand_ins: Global[int] = 0
    """Items that central never heard of, in whose place phones' towers read a known one."""


class DiffAnswer(GlobalMessage, frozen=True, kw_only=True):
    """What changes from one release to the other."""

    files: Global[ReleaseDiff]
    compared: Global[Comparison]


class PullAnswer(GlobalMessage, frozen=True, kw_only=True):
    """What a pull did. `bytes_reused` were here already."""

    release: Global[str]
    bytes_fetched: Global[int]
    bytes_reused: Global[int]
    took_ms: Global[float]
    collected: Global[tuple[str, ...]] = ()
    """Releases that were deleted to keep the number bounded."""


class VerifyAnswer(GlobalMessage, frozen=True, kw_only=True):
    """Whether every file of a release still has its hash; `damaged` names those that do not."""

    release: Global[str]
    ok: Global[bool]
    files: Global[int]
    damaged: Global[tuple[str, ...]] = ()


class SwitchAnswer(GlobalMessage, frozen=True, kw_only=True):
    """What a promotion or a roll-back did. `took_ms` counts from the command to the end of telling the edges."""

    action: Global[str]
    from_release: Global[str | None]
    to_release: Global[str]
    took_ms: Global[float]
    notified: Global[bool]
    """Whether the edges were told in time; if not they learn from the next answers."""
    audited: Global[bool] = True
    dry_run: Global[bool] = False
    """Nothing was done; it could be."""


def unchanged(action: str, release: str) -> SwitchAnswer:
    """The answer to an action that finds done what it would do."""
    return SwitchAnswer(action=action, from_release=release, to_release=release, took_ms=0.0, notified=True)


class PinAnswer(GlobalMessage, frozen=True, kw_only=True):
    """Whether the region refuses to be promoted (pinned), or to be changed at all (frozen)."""

    pinned: Global[bool]
    frozen: Global[bool] = False
    active: Global[str | None]


class AuditEntry(RegionalMessage, frozen=True, kw_only=True):
    """One thing that was done to this region's releases, or was tried."""

    at_ms: Regional[int]
    operator: Regional[str]
    action: Regional[str]
    from_release: Regional[str | None]
    to_release: Regional[str | None]
    outcome: Regional[str]
    """`done`, `refused` or `failed`."""
    detail: Regional[str] = ""


class AuditAnswer(RegionalMessage, frozen=True, kw_only=True):
    """The latest entries, oldest first."""

    entries: Regional[tuple[AuditEntry, ...]]
