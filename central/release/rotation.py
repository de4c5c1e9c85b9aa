"""New keys for a role, while readers go on: nobody is refused at any moment, wherever a rotation is killed.

The new keys are made beside the old ones and the published state is signed by both; then the next root names the new
ones, signed by the threshold of the root before (and, for the root's own keys, by the threshold of the new ones too);
last the old files make way. A reader that follows the roots one after the other accepts each state on the way.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from central.release.keys import (
    KEYS_PER_ROLE_MAX,
    KeysMissingError,
    Role,
    RootKeys,
    home_of,
    key_path,
    load_signers,
    next_path,
    numbered_signers,
)
from central.release.repository import (
    Layout,
    View,
    next_root,
    publishing,
    read_view,
    signed_by,
    write_targets,
)
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.files import sync_directory, write_atomically
from infra.plumbing.tuf_client.library import CryptoSigner
from infra.plumbing.tuf_client.signing import create_signer, load_signer


class Rotated(msgspec.Struct, frozen=True, kw_only=True):
    """What a rotation did."""

    role: str
    root_version: int
    new: tuple[str, ...]
    """Ids of the keys that sign from now on."""
    retired: tuple[str, ...]
    """Ids of the keys that count no more."""
    threshold: int
    keys: int
    """How many keys the role has now."""


def rotate_keys(
    *,
    repository: Path,
    keys: Path,
    role: Role,
    clock: Clock,
    number: int | None = None,
    root_keys: RootKeys | None = None,
) -> Rotated:
    """Replace the keys of `role` (or one of them) by new ones and publish a root that names them.

    Args:
        repository: the repository.
        keys: the signing keys.
        role: whose keys.
        clock: for expiry.
        number: replace this key only; it may be lost, if it is the only one of the role that is not here.
        root_keys: where the root keys are, when they are not in `keys`.

    Raises:
        InvalidInputError: there is no such key.
        KeysMissingError: fewer root keys are here than must sign; says how to name them.
        ConflictError, RepositoryDamagedError: as for publishing.
    """
    layout, place = Layout(repository), home_of(keys, role, root_keys)
    with publishing(layout, clock=clock):
        view = read_view(layout, keys)
        named = view.root.roles[role.value].keyids
        _complete(place, role, named)
        held = {
            one: signer
            for one, signer in numbered_signers(keys, role, root_keys).items()
            if signer.public_key.keyid in named
        }
        numbers = _numbers(number, held, view, role)
        retired = tuple(_replaced(one, held, view, role) for one in numbers)
        fresh = {
            one: create_signer(next_path(place.directory, role, one), passphrase=place.passphrase) for one in numbers
        }
        _publish_root(layout, keys, clock, view, role, fresh=list(fresh.values()), retired=retired, root_keys=root_keys)
        after = read_view(layout, keys)
        _complete(place, role, after.root.roles[role.value].keyids)
        if role is not Role.ROOT:
            after = write_targets(layout, keys=keys, clock=clock, view=after, targets=after.targets.targets)
        wanted = after.root.roles[role.value]
        return Rotated(
            role=role.value, root_version=after.root.version, retired=retired, threshold=wanted.threshold,
            new=tuple(signer.public_key.keyid for signer in fresh.values()), keys=len(wanted.keyids),
        )  # fmt: skip


def _complete(place: RootKeys, role: Role, named: Sequence[str]) -> None:
    """Let the keys that the root names already take their places: what a rotation that was killed left to do."""
    for number in range(1, KEYS_PER_ROLE_MAX + 1):
        path = next_path(place.directory, role, number)
        if path.exists() and load_signer(path, passphrase=place.passphrase).public_key.keyid in named:
            os.replace(path, key_path(place.directory, role, number))
    sync_directory(place.directory)


def _numbers(number: int | None, held: dict[int, CryptoSigner], view: View, role: Role) -> list[int]:
    if number is None:
        if len(held) < len(view.root.roles[role.value].keyids):
            raise KeysMissingError(
                f"{len(held)} of the {len(view.root.roles[role.value].keyids)} keys of the role {role.value} are here.",
                fix="Bring all of them, or replace one at a time with --number.",
            )
        return list(held)
    if not 1 <= number <= min(KEYS_PER_ROLE_MAX, len(view.root.roles[role.value].keyids)):
        raise InvalidInputError(
            f"the role {role.value} has no key {number}.", fix=f"It has {len(view.root.roles[role.value].keyids)}."
        )
    return [number]


def _replaced(number: int, held: dict[int, CryptoSigner], view: View, role: Role) -> str:
    """Id of the key that makes way for the new key `number`.

    Raises:
        KeysMissingError: it is not here and it cannot be told which one it was.
    """
    if number in held:
        return held[number].public_key.keyid
    here = {signer.public_key.keyid for signer in held.values()}
    lost = [keyid for keyid in view.root.roles[role.value].keyids if keyid not in here]
    if len(lost) != 1:
        raise KeysMissingError(
            f"key {number} of the role {role.value} is not here, and neither are {len(lost) - 1} others of it.",
            fix="Bring the others, so that it can be told which one is lost.",
        )
    return lost[0]


def _publish_root(
    layout: Layout,
    keys: Path,
    clock: Clock,
    view: View,
    role: Role,
    *,
    fresh: Sequence[CryptoSigner],
    retired: Sequence[str],
    root_keys: RootKeys | None,
) -> None:
    successor = next_root(view.root, clock)
    for signer in fresh:
        successor.add_key(signer.public_key, role.value)
    for keyid in retired:
        successor.revoke_key(keyid, role.value)
    signers = load_signers(keys, Role.ROOT, root_keys)
    place = home_of(keys, Role.ROOT, root_keys).directory
    newcomers = fresh if role is Role.ROOT else ()
    content = signed_by(view.root, Role.ROOT, successor, signers, where=place, also=newcomers)
    # The new root must hold by its own keys too; `signers` and `newcomers` are all that are here.
    signed_by(successor, Role.ROOT, successor, [*signers, *newcomers], where=place)
    if role is not Role.ROOT:
        write_targets(
            layout, keys=keys, clock=clock, view=view, targets=view.targets.targets, also={role: fresh}
        )  # fmt: skip
    write_atomically(layout.metadata / f"{successor.version}.root.json", content)
