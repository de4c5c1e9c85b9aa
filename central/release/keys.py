"""Signing keys of the release repository: one PEM file each (`infra.plumbing.tuf_client.signing`).

Every role of The Update Framework has keys of its own, so that the ones which must be at hand every day (timestamp,
snapshot) cannot sign a release, and the ones which sign releases cannot name new keys. The root keys are needed to
start a repository, to renew its root and to rotate keys; between those they belong somewhere else than on this
machine: in a folder of their own (a stick in a safe), encrypted if one likes.
"""

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.plumbing.errors import NotFoundError
from infra.plumbing.tuf_client.library import CryptoSigner
from infra.plumbing.tuf_client.signing import KeysError, create_signer, load_signer

KEYS_PER_ROLE_MAX = 9
TRUSTED_ROOT_FILE = "trusted-root.json"


class Role(enum.StrEnum):
    """The four top-level roles."""

    ROOT = "root"
    TARGETS = "targets"
    SNAPSHOT = "snapshot"
    TIMESTAMP = "timestamp"


@dataclass(frozen=True, slots=True)
class RolePlan:
    """How many keys a role has, and how many of them must sign."""

    keys: int = 1
    threshold: int = 1


DEFAULT_PLAN: Mapping[Role, RolePlan] = {
    Role.ROOT: RolePlan(keys=3, threshold=2),
    Role.TARGETS: RolePlan(),
    Role.SNAPSHOT: RolePlan(),
    Role.TIMESTAMP: RolePlan(),
}


@dataclass(frozen=True, slots=True)
class RootKeys:
    """Where the root keys are, when they are not with the others, and what they are encrypted with."""

    directory: Path
    passphrase: bytes | None = None


class KeysMissingError(NotFoundError):
    """A role has fewer keys here than must sign."""


def check_plan(plan: Mapping[Role, RolePlan]) -> None:
    """Refuse a plan that could never sign.

    Raises:
        KeysError: a role is missing, or its threshold is not between 1 and its number of keys.
    """
    for role in Role:
        part = plan.get(role)
        if part is None or not 1 <= part.threshold <= part.keys <= KEYS_PER_ROLE_MAX:
            raise KeysError(
                f"the plan for the role {role.value} does not work: {part}.",
                fix=f"Give it 1 to {KEYS_PER_ROLE_MAX} keys and a threshold of at most that.",
            )


def create_keys(directory: Path, plan: Mapping[Role, RolePlan], root: RootKeys | None = None) -> None:
    """Make the keys of `plan` that are not there yet, in directories of mode 0700. Never replaces a key."""
    check_plan(plan)
    for role in Role:
        place = home_of(directory, role, root)
        place.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.directory.chmod(0o700)
        for number in range(1, plan[role].keys + 1):
            create_signer(key_path(place.directory, role, number), passphrase=place.passphrase)


def home_of(directory: Path, role: Role, root: RootKeys | None = None) -> RootKeys:
    """Where the keys of `role` lie, given the directory of all keys and, if apart, of the root's."""
    return root if root is not None and role is Role.ROOT else RootKeys(directory)


def key_path(directory: Path, role: Role, number: int) -> Path:
    """Where key `number` (from 1) of `role` lies."""
    return directory / f"{role.value}-{number}.pem"


def next_path(directory: Path, role: Role, number: int) -> Path:
    """Where the key lies that is about to become key `number` of `role`."""
    return directory / f".next-{role.value}-{number}.pem"


def numbered_signers(directory: Path, role: Role, root: RootKeys | None = None) -> dict[int, CryptoSigner]:
    """Every key of `role` that is here, by its number.

    Raises:
        KeysError: a key file is readable by others, is encrypted otherwise, or is no Ed25519 key.
    """
    place = home_of(directory, role, root)
    paths = {number: key_path(place.directory, role, number) for number in range(1, KEYS_PER_ROLE_MAX + 1)}
    return {
        number: load_signer(path, passphrase=place.passphrase)
        for number, path in paths.items()
        if os.path.lexists(path)
    }


def load_signers(directory: Path, role: Role, root: RootKeys | None = None) -> list[CryptoSigner]:
    """Every key of `role` that is here, in order of their numbers; empty if there is none.

    Raises:
        as `numbered_signers`.
    """
    return list(numbered_signers(directory, role, root).values())
