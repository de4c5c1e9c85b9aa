"""Signing keys of the release repository: Ed25519, one PEM file each, readable by their owner only.

Every role of The Update Framework has keys of its own, so that the ones which must be at hand every day (timestamp,
snapshot) cannot sign a release, and the ones which sign releases cannot name new keys. The root keys are needed to
start a repository and to renew its root; between the two they belong somewhere else than on this machine.
"""

import enum
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from infra.plumbing.errors import NotFoundError, SettingsError
from infra.plumbing.files import write_atomically
from infra.plumbing.tuf_client.library import CryptoSigner

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


class KeysError(SettingsError):
    """Signing keys are missing, too open, or not usable."""


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


def create_keys(directory: Path, plan: Mapping[Role, RolePlan]) -> None:
    """Make the keys of `plan` that are not there yet, mode 0600, in a directory of mode 0700. Never replaces a key."""
    check_plan(plan)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory.chmod(0o700)
    for role in Role:
        for number in range(1, plan[role].keys + 1):
            path = key_path(directory, role, number)
            if not path.exists():
                write_atomically(path, CryptoSigner.generate_ed25519().private_bytes, mode=0o600)


def key_path(directory: Path, role: Role, number: int) -> Path:
    """Where key `number` (from 1) of `role` lies."""
    return directory / f"{role.value}-{number}.pem"


def load_signers(directory: Path, role: Role) -> list[CryptoSigner]:
    """Every key of `role` in `directory`, in order of their numbers; empty if there is none.

    Raises:
        KeysError: a key file is readable by others, or is no Ed25519 key.
    """
    paths = [key_path(directory, role, number) for number in range(1, KEYS_PER_ROLE_MAX + 1)]
    return [_load_signer(path) for path in paths if path.exists()]


def _load_signer(path: Path) -> CryptoSigner:
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o077:
        raise KeysError(f"the key {path} may be read by others (mode {mode:04o}).", fix=f"Run: chmod 600 {path}")
    try:
        private = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise KeysError(f"{path} is not a readable private key: {error}.", fix="Restore it from its backup.") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise KeysError(f"{path} is not an Ed25519 key.", fix="Restore it from its backup.")
    return CryptoSigner(private)
