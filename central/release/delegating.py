"""Leaving a folder to a region: central's targets name the keys that may sign below `regions/<region>/`."""

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from central.release.repository import Layout, publishing, read_view, sweep, write_targets
from infra.contracts.release import region_role, region_target
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError, NotFoundError
from infra.plumbing.tuf_client.library import DelegatedRole, Delegations, SSlibKey

REGION_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,31}")
REGIONS_MAX, KEYS_PER_REGION_MAX = 256, 9


class Delegated(msgspec.Struct, frozen=True, kw_only=True):
    """What is left to a region from now on. No keys: nothing is."""

    region: str
    folder: str
    key_ids: tuple[str, ...]
    threshold: int
    version: int
    """Of the targets metadata that says so."""


def delegate(
    *, repository: Path, keys: Path, region: str, public_keys: Sequence[SSlibKey], threshold: int, clock: Clock
) -> Delegated:
    """Leave the region's folder to exactly these keys; what was signed by others counts no more.

    Raises:
        InvalidInputError: not a region's name, no key, or a threshold that could never be reached.
        KeysMissingError, ConflictError, RepositoryDamagedError: as for publishing; no root key is needed.
    """
    _check(region, public_keys, threshold)
    role = DelegatedRole(
        region_role(region), [key.keyid for key in public_keys], threshold, terminating=True,
        paths=[region_target(region, "*")],
    )  # fmt: skip
    version = _write(repository, keys, clock, role, public_keys)
    folder = region_target(region, "*")
    return Delegated(
        region=region, folder=folder, key_ids=tuple(role.keyids), threshold=threshold, version=version
    )  # fmt: skip


def withdraw_delegation(*, repository: Path, keys: Path, region: str, clock: Clock) -> Delegated:
    """Leave nothing to the region any more: its rules need no signature, and none counts.

    Raises:
        NotFoundError: nothing is left to it.
        as `delegate`.
    """
    version = _write(repository, keys, clock, region_role(region), ())
    return Delegated(region=region, folder=region_target(region, "*"), key_ids=(), threshold=0, version=version)


def _check(region: str, public_keys: Sequence[SSlibKey], threshold: int) -> None:
    if not REGION_PATTERN.fullmatch(region):
        raise InvalidInputError(
            f"{region[:60]!r} is not a region.", fix="Use lower-case letters, digits and hyphens, as in 'us-east'."
        )
    distinct = len({key.keyid for key in public_keys})
    if not 1 <= threshold <= distinct <= KEYS_PER_REGION_MAX:
        raise InvalidInputError(
            f"{threshold} of {distinct} keys cannot sign for {region}.",
            fix=f"Give 1 to {KEYS_PER_REGION_MAX} different keys and a threshold of at most their number.",
        )


def _write(
    repository: Path, keys: Path, clock: Clock, role: DelegatedRole | str, public_keys: Sequence[SSlibKey]
) -> int:  # fmt: skip
    """Put `role` among the delegations, or take the one of that name out; returns the version of the targets."""
    layout = Layout(repository)
    with publishing(layout, clock=clock):
        view = read_view(layout, keys)
        present = view.targets.delegations
        roles = dict(present.roles or {}) if present is not None else {}
        known = dict(present.keys) if present is not None else {}
        if isinstance(role, DelegatedRole):
            roles[role.name] = role
            known |= {key.keyid: key for key in public_keys}
        elif roles.pop(role, None) is None:
            raise NotFoundError(f"nothing is delegated as {role}.", fix="See `./atoll release list`.")
        if len(roles) > REGIONS_MAX:
            raise InvalidInputError(f"more than {REGIONS_MAX} regions.", fix="Withdraw one first.")
        used = {keyid for one in roles.values() for keyid in one.keyids}
        delegations = Delegations({keyid: key for keyid, key in known.items() if keyid in used}, roles)
        after = write_targets(
            layout, keys=keys, clock=clock, view=view, targets=view.targets.targets, delegations=delegations
        )  # fmt: skip
        sweep(layout, before=view, after=after)
    return after.targets.version
