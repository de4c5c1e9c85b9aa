"""Who may sign what in a repository, and until when: what an operator looks at before it runs out."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from central.release.keys import Role
from central.release.repository import Layout, read_view
from infra.plumbing.clock import Clock
from infra.plumbing.tuf_client.library import Root, Snapshot, Targets, Timestamp


class RoleSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One role. Of a region's (`region-us-east`) version and expiry are the region's own business, and None."""

    role: str
    keys: int
    threshold: int
    """How many of the keys must sign."""
    version: int | None
    expires: str | None
    """ISO 8601."""
    left_h: float | None
    """Hours until then; below 0 readers refuse it."""
    folder: str = ""
    """What a region's keys may speak about."""


def roles_of(*, repository: Path, keys: Path, clock: Clock) -> tuple[RoleSummary, ...]:
    """The four top-level roles, and every region that a folder is left to.

    Raises:
        NotFoundError, RepositoryDamagedError: there is no repository, or it does not verify.
    """
    return tuple(_roles(Layout(repository), keys, clock))


def _roles(layout: Layout, keys: Path, clock: Clock) -> Iterator[RoleSummary]:
    view = read_view(layout, keys)
    signed: dict[Role, Root | Targets | Snapshot | Timestamp] = {
        Role.ROOT: view.root, Role.TARGETS: view.targets, Role.SNAPSHOT: view.snapshot, Role.TIMESTAMP: view.timestamp
    }  # fmt: skip
    for role, metadata in signed.items():
        named = view.root.roles[role.value]
        yield RoleSummary(
            role=role.value, keys=len(named.keyids), threshold=named.threshold, version=metadata.version,
            expires=metadata.expires.isoformat(),
            left_h=round((metadata.expires.timestamp() - clock.now_ms() / 1000) / 3600, 1),
        )  # fmt: skip
    delegations = view.targets.delegations
    for delegated in ((delegations.roles or {}) if delegations is not None else {}).values():
        yield RoleSummary(
            role=delegated.name, keys=len(delegated.keyids), threshold=delegated.threshold, version=None, expires=None,
            left_h=None, folder=" ".join(delegated.paths or ()),
        )  # fmt: skip
