"""The release repository: a directory of static files that any web server can give out.

::

    metadata/<version>.root.json, <version>.targets.json, <version>.snapshot.json, timestamp.json
    targets/blobs/<sha256>.<sha256>, manifests/<sha256>.<release>.json, channels/<sha256>.<channel>.json

Every file but `timestamp.json` has a name that is never given to another content once readers can know it, and
`timestamp.json` is replaced by a rename, last. So a reader sees the state before or the state after, wherever a
writer was killed; what a killed writer left is not referenced by anything and is swept by the next one.

The publisher reads its own repository as suspiciously as a client does: everything must be signed under the root that
lies beside the keys, or else whoever can write to the web server could have the next publish sign their files.
"""

import contextlib
import copy
import datetime
import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from central.release.keys import (
    DEFAULT_PLAN,
    TRUSTED_ROOT_FILE,
    KeysMissingError,
    Role,
    RolePlan,
    RootKeys,
    create_keys,
    home_of,
    load_signers,
)
from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError, ConflictError, NotFoundError
from infra.plumbing.files import write_atomically
from infra.plumbing.tuf_client.library import (
    CryptoSigner,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
    exceptions,
)
from infra.plumbing.tuf_client.verifying import S, newest_root, verified

DAY_S = 86_400
LIFETIME_S: Mapping[Role, int] = {
    Role.ROOT: 365 * DAY_S,
    Role.TARGETS: 90 * DAY_S,
    Role.SNAPSHOT: 7 * DAY_S,
    Role.TIMESTAMP: DAY_S,
}
NOBODY_ELSE: "Mapping[Role, Sequence[CryptoSigner]]" = MappingProxyType({})
METADATA_VERSIONS_KEPT = 10
"""Old snapshots and targets stay for readers that are in the middle of a refresh."""
LOCK_POLL_S = 0.05


class RepositoryDamagedError(AtollError):
    """The repository's own metadata is missing or does not verify; nothing is published on top of it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie below the repository's root."""

    root: Path

    @property
    def metadata(self) -> Path:
        """Signed metadata."""
        return self.root / "metadata"

    @property
    def targets(self) -> Path:
        """What the metadata speaks about."""
        return self.root / "targets"

    @property
    def lock(self) -> Path:
        """Held by the one who writes."""
        return self.root / ".publish.lock"

    def target_path(self, target: TargetFile) -> Path:
        """Where the content of `target` lies (consistent snapshots: the hash is part of the name)."""
        return self.targets / target.get_prefixed_paths()[0]


@dataclass(frozen=True, slots=True)
class View:
    """The published state, verified under the trusted root."""

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets


def init_repository(
    *,
    repository: Path,
    keys: Path,
    clock: Clock,
    plan: Mapping[Role, RolePlan] = DEFAULT_PLAN,
    root_keys: RootKeys | None = None,
) -> bytes:
    """Make keys, the first root and an empty published state; returns the root that readers are to trust.

    Running it again changes nothing; after a kill it completes what was begun. `root_keys`: if they are to lie apart.

    Raises:
        ConflictError: the repository was started with other keys, or another publisher is at work.
        KeysError: `plan` cannot work, or a key is not usable.
    """
    layout = Layout(repository)
    trusted = keys / TRUSTED_ROOT_FILE
    with publishing(layout, clock=clock):
        first = layout.metadata / "1.root.json"
        if first.exists() and not (trusted.exists() and trusted.read_bytes() == first.read_bytes()):
            raise ConflictError(
                f"the repository {repository} was started with other keys than those in {keys}.",
                fix="Name the directory of the keys it was started with, or start in an empty directory.",
            )
        if not trusted.exists():
            create_keys(keys, plan, root_keys)
            write_atomically(trusted, _first_root(keys, clock, plan, root_keys))
        if not first.exists():
            write_atomically(first, trusted.read_bytes())
        if not (layout.metadata / "timestamp.json").exists():
            first_state = Targets(version=1, expires=_expiry(Role.TARGETS, clock), targets={})
            _write_state(layout, keys, clock, first_state, versions=(1, 1, 1))
    return trusted.read_bytes()


def trusted_root(keys: Path) -> bytes:
    """The root that readers are to trust, as made by `init_repository`.

    Raises:
        NotFoundError: there is no repository with these keys yet.
    """
    try:
        return (keys / TRUSTED_ROOT_FILE).read_bytes()
    except FileNotFoundError:
        raise NotFoundError(
            f"{keys} holds no trusted root.", fix="Start a repository first (init_repository)."
        ) from None


@contextlib.contextmanager
def publishing(layout: Layout, *, clock: Clock, wait_s: float = 5.0) -> Iterator[None]:
    """Hold the repository's lock, so that two publishers do not mix; it ends with the process, however that ends.

    Raises:
        ConflictError: another publisher held it for `wait_s`.
    """
    layout.root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _wait_for_lock(descriptor, layout, clock, clock.monotonic_s() + wait_s)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, layout: Layout, clock: Clock, deadline_s: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if clock.monotonic_s() >= deadline_s:
                raise ConflictError(
                    f"another publisher is at work in {layout.root}.", fix="Wait until it is done, then run again."
                ) from None
            time.sleep(LOCK_POLL_S)
        else:
            return


def read_view(layout: Layout, keys: Path) -> View:
    """The published state, verified from the trusted root on. Expiry is not looked at: the writer renews it.

    Raises:
        RepositoryDamagedError: a part is missing, is not signed, or does not fit the others.
    """
    try:
        root = newest_root(trusted_root(keys), layout.metadata)
        timestamp = verified(root, Timestamp, (layout.metadata / "timestamp.json").read_bytes())
        content = (layout.metadata / f"{timestamp.snapshot_meta.version}.snapshot.json").read_bytes()
        timestamp.snapshot_meta.verify_length_and_hashes(content)
        snapshot = verified(root, Snapshot, content)
        meta = snapshot.meta["targets.json"]
        content = (layout.metadata / f"{meta.version}.targets.json").read_bytes()
        meta.verify_length_and_hashes(content)
        return View(root, timestamp, snapshot, verified(root, Targets, content))
    except FileNotFoundError as error:
        raise RepositoryDamagedError(
            f"the repository lacks {error.filename}.",
            fix="Run init_repository if it is new; else restore metadata/ from a copy.",
        ) from error
    except (exceptions.RepositoryError, KeyError) as error:
        raise RepositoryDamagedError(
            f"the repository's metadata does not verify: {error}.",
            fix="Somebody changed it, or the keys belong to another repository; restore metadata/ from a copy.",
        ) from error


def write_targets(
    layout: Layout,
    *,
    keys: Path,
    clock: Clock,
    view: View,
    targets: Mapping[str, TargetFile],
    delegations: Delegations | None = None,
    also: Mapping[Role, Sequence[CryptoSigner]] = NOBODY_ELSE,
) -> View:
    """Make `targets` the published state: targets, snapshot, and last of all timestamp.

    Args:
        layout: the repository.
        keys: the keys of the three roles.
        clock: for expiry.
        view: the state before.
        targets: the files of the new state.
        delegations: what is left to regions from now on; None: as before.
        also: signers whom the next root names, beside those of the present one.
    """
    versions = (view.targets.version + 1, view.snapshot.version + 1, view.timestamp.version + 1)
    kept = delegations if delegations is not None else view.targets.delegations
    state = Targets(version=versions[0], expires=_expiry(Role.TARGETS, clock), targets=dict(targets), delegations=kept)
    _write_state(layout, keys, clock, state, versions=versions, also=also)
    return read_view(layout, keys)


def refresh_timestamp(*, repository: Path, keys: Path, clock: Clock) -> int:
    """Sign the published state anew with the keys that are at hand every day; returns the timestamp's version.

    To be run well within a day. The snapshot is renewed once half of its life is over.

    Raises:
        ConflictError: a publisher is at work (and will renew the timestamp itself).
        KeysMissingError, RepositoryDamagedError: as for publishing.
    """
    layout = Layout(repository)
    with publishing(layout, clock=clock):
        view = read_view(layout, keys)
        meta = view.timestamp.snapshot_meta
        if _half_over(view.snapshot, Role.SNAPSHOT, clock):
            version = view.snapshot.version + 1
            snapshot = Snapshot(version=version, expires=_expiry(Role.SNAPSHOT, clock), meta=dict(view.snapshot.meta))
            content = _signed(view.root, Role.SNAPSHOT, snapshot, keys)
            write_atomically(layout.metadata / f"{version}.snapshot.json", content)
            meta = MetaFile.from_data(version, content, ["sha256"])
        timestamp = Timestamp(
            version=view.timestamp.version + 1, expires=_expiry(Role.TIMESTAMP, clock), snapshot_meta=meta
        )  # fmt: skip
        write_atomically(layout.metadata / "timestamp.json", _signed(view.root, Role.TIMESTAMP, timestamp, keys))
        return timestamp.version


def renew(*, repository: Path, keys: Path, clock: Clock, root_keys: RootKeys | None = None) -> View:
    """Sign everything anew, the root too once half of its life is over: for a repository that publishes rarely.

    Raises:
        KeysMissingError: the root keys are needed and not here.
        ConflictError, RepositoryDamagedError: as for publishing.
    """
    layout = Layout(repository)
    with publishing(layout, clock=clock):
        view = read_view(layout, keys)
        if _half_over(view.root, Role.ROOT, clock):
            signers = load_signers(keys, Role.ROOT, root_keys)
            place = home_of(keys, Role.ROOT, root_keys).directory
            renewed = next_root(view.root, clock)
            content = signed_by(view.root, Role.ROOT, renewed, signers, where=place)
            write_atomically(layout.metadata / f"{renewed.version}.root.json", content)
            view = read_view(layout, keys)
        return write_targets(layout, keys=keys, clock=clock, view=view, targets=view.targets.targets)


def sweep(layout: Layout, *, before: View, after: View) -> None:
    """Delete what no reader can ask for: files of neither state, old metadata, leftovers of killed publishers.

    Files of the state `before` stay, for readers that are in the middle of it.
    """
    wanted = {layout.target_path(target) for view in (before, after) for target in view.targets.targets.values()}
    for path in layout.targets.glob("*/*"):
        if path not in wanted:
            path.unlink(missing_ok=True)
    for path in layout.metadata.iterdir():
        version, _, role = path.name.partition(".")
        newest = {"snapshot.json": after.snapshot.version, "targets.json": after.targets.version}.get(role)
        outdated = newest is not None and version.isdigit() and not 0 <= newest - int(version) < METADATA_VERSIONS_KEPT
        if outdated or path.name.startswith("."):
            path.unlink(missing_ok=True)


def _write_state(
    layout: Layout, keys: Path, clock: Clock, targets: Targets, *, versions: tuple[int, int, int],
    also: Mapping[Role, Sequence[CryptoSigner]] = NOBODY_ELSE,
) -> None:  # fmt: skip
    root = newest_root(trusted_root(keys), layout.metadata)
    targets_version, snapshot_version, timestamp_version = versions
    content = _signed(root, Role.TARGETS, targets, keys, also.get(Role.TARGETS, ()))
    write_atomically(layout.metadata / f"{targets_version}.targets.json", content)
    meta = {"targets.json": MetaFile.from_data(targets_version, content, ["sha256"])}
    snapshot = Snapshot(version=snapshot_version, expires=_expiry(Role.SNAPSHOT, clock), meta=meta)
    content = _signed(root, Role.SNAPSHOT, snapshot, keys, also.get(Role.SNAPSHOT, ()))
    write_atomically(layout.metadata / f"{snapshot_version}.snapshot.json", content)
    timestamp = Timestamp(
        version=timestamp_version, expires=_expiry(Role.TIMESTAMP, clock),
        snapshot_meta=MetaFile.from_data(snapshot_version, content, ["sha256"]),
    )  # fmt: skip
    content = _signed(root, Role.TIMESTAMP, timestamp, keys, also.get(Role.TIMESTAMP, ()))
    write_atomically(layout.metadata / "timestamp.json", content)


def _first_root(keys: Path, clock: Clock, plan: Mapping[Role, RolePlan], root_keys: RootKeys | None) -> bytes:
    root = Root(version=1, expires=_expiry(Role.ROOT, clock), consistent_snapshot=True)
    for role in Role:
        for signer in load_signers(keys, role, root_keys):
            root.add_key(signer.public_key, role.value)
        root.roles[role.value].threshold = plan[role].threshold
    return signed_by(root, Role.ROOT, root, load_signers(keys, Role.ROOT, root_keys), where=keys)


def next_root(root: Root, clock: Clock) -> Root:
    """A successor of `root` that says the same, with a whole life before it."""
    renewed = Root.from_dict(copy.deepcopy(root.to_dict()))
    renewed.version += 1
    renewed.expires = _expiry(Role.ROOT, clock)
    return renewed


def _signed(root: Root, role: Role, signed: S, keys: Path, also: Sequence[CryptoSigner] = ()) -> bytes:
    return signed_by(root, role, signed, [*load_signers(keys, role), *also], where=keys, also=also)


def signed_by(
    root: Root, role: Role, signed: S, signers: Sequence[CryptoSigner], *, where: Path,
    also: Sequence[CryptoSigner] = (),
) -> bytes:  # fmt: skip
    """Serialised `signed` under those of `signers` that `root` names for `role`, and under those of `also`.

    Raises:
        KeysMissingError: fewer than the threshold of `root`.
    """
    wanted = root.roles[role.value]
    metadata = Metadata(signed)
    held = {signer.public_key.keyid: signer for signer in signers if signer.public_key.keyid in wanted.keyids}
    if len(held) < wanted.threshold:
        option = ", or name their folder with --root-keys (and --root-passphrase-file if they are encrypted)"
        raise KeysMissingError(
            f"{len(held)} of {wanted.threshold} keys needed for the role {role.value} are in {where}.",
            fix=f"Put {role.value}-*.pem back for as long as this runs{option if role is Role.ROOT else ''}.",
        )
    for signer in (held | {signer.public_key.keyid: signer for signer in also}).values():
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


def _expiry(role: Role, clock: Clock) -> datetime.datetime:
    return _moment(clock.now_ms() // 1000 + LIFETIME_S[role])


def _half_over(signed: Root | Snapshot, role: Role, clock: Clock) -> bool:
    return signed.expires < _moment(clock.now_ms() // 1000 + LIFETIME_S[role] // 2)


def _moment(seconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)
