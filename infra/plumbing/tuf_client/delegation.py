"""What a region says by its own keys, in the folder that central's signed targets leave to it.

Central signs *that* `regions/<region>/*` is the region's: keys, threshold, folder. The region signs *what* lies there,
as TUF targets metadata of its own (a statement). The statement and what it is about never go to central: they are the
region's. So they are not in central's snapshot, and the region's nodes keep the versions against replay themselves.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.contracts.release import region_role, region_target
from infra.plumbing.tuf_client.errors import RefusalReason, ReleaseRefusedError
from infra.plumbing.tuf_client.library import CryptoSigner, Metadata, TargetFile, Targets, exceptions
from infra.plumbing.tuf_client.verifying import newest_root, verified

STATEMENT_BYTES_MAX = 64 * 1024
TARGETS_FILE, ROOTS_FOLDER = "targets.json", "root_history"
"""Where python-tuf's client keeps what it has verified."""
_FIX = (
    "Nothing was changed here. Sign with the key that central has delegated to this region "
    "(./atoll rules key, ./atoll release delegate)."
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that verified: its version, and the ids of the keys that signed it."""

    version: int
    key_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Delegation:
    """What central's verified targets leave to `region`."""

    region: str
    central: Targets

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The keys that may sign for the region."""
        return tuple(self.central.get_delegated_role(region_role(self.region)).keyids)

    def verify(self, statement: bytes, *, name: str, content: bytes, now: datetime.datetime | None) -> Statement:
        """Whether the region's keys say that `content` is its file `name`.

        Args:
            statement: signed targets metadata.
            name: of the file in the region's folder.
            content: the file.
            now: against statements that are replayed for ever; None takes an expired one.

        Raises:
            ReleaseRefusedError: not signed by enough of the region's keys, expired, about another folder, or about
                another content.
        """
        what = f"the signed {name} of {self.region}"
        if len(statement) > STATEMENT_BYTES_MAX:
            raise _refused(what, RefusalReason.TOO_LARGE, f"{len(statement)} bytes")
        try:
            metadata = Metadata[Targets].from_bytes(statement)
        except exceptions.RepositoryError as error:
            raise _refused(what, RefusalReason.UNREADABLE, str(error)) from error
        signed = metadata.signed
        if not isinstance(signed, Targets):
            raise _refused(what, RefusalReason.UNREADABLE, f"it is {signed.type} metadata")
        outcome = self.central.get_verification_result(
            region_role(self.region), metadata.signed_bytes, metadata.signatures
        )
        if not outcome:
            raise _refused(what, RefusalReason.UNSIGNED, f"{len(outcome.signed)} of {outcome.threshold} keys signed it")
        if now is not None and signed.is_expired(now):
            raise _refused(what, RefusalReason.EXPIRED, f"on {signed.expires:%Y-%m-%d}")
        self._check_content(signed, what, name=name, content=content)
        return Statement(signed.version, tuple(sorted(outcome.signed)))

    def _check_content(self, signed: Targets, what: str, *, name: str, content: bytes) -> None:
        path = region_target(self.region, name)
        role = (self.central.delegations.roles or {})[region_role(self.region)] if self.central.delegations else None
        outside = [other for other in signed.targets if role is None or not role.is_delegated_path(other)]
        if outside:
            raise _refused(what, RefusalReason.OUTSIDE, outside[0][:100])
        if path not in signed.targets:
            raise _refused(what, RefusalReason.OUTSIDE, f"it does not speak about {path}")
        try:
            signed.targets[path].verify_length_and_hashes(content)
        except exceptions.LengthOrHashMismatchError as error:
            raise _refused(what, RefusalReason.TAMPERED, str(error)) from error


def sign_statement(
    region: str,
    files: Mapping[str, bytes],
    *,
    version: int,
    expires: datetime.datetime,
    signers: Sequence[CryptoSigner],
) -> bytes:
    """Say by `signers` that `files` (by name) are the region's."""
    targets = {
        path: TargetFile.from_data(path, content, ["sha256"])
        for path, content in ((region_target(region, name), content) for name, content in files.items())
    }
    metadata = Metadata(Targets(version=version, expires=expires, targets=targets))
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


def known_delegation(region: str, *, metadata_dir: Path, trusted_root: bytes) -> Delegation | None:
    """What was last heard from central about `region`, verified from the trusted root on; None: nothing.

    Works while central is away: a client keeps what it has verified. Expiry is not looked at: a region must not lose
    its rules because central sleeps.

    Raises:
        ReleaseRefusedError: the metadata on this disk does not verify.
    """
    central = known_targets(metadata_dir=metadata_dir, trusted_root=trusted_root)
    roles = central.delegations.roles if central is not None and central.delegations is not None else None
    return Delegation(region, central) if central is not None and roles and region_role(region) in roles else None


def known_targets(*, metadata_dir: Path, trusted_root: bytes) -> Targets | None:
    """What central's targets said last, verified from the trusted root on; None: nothing was heard.

    Raises:
        ReleaseRefusedError: the metadata on this disk does not verify.
    """
    try:
        root = newest_root(trusted_root, metadata_dir / ROOTS_FOLDER)
        return verified(root, Targets, (metadata_dir / TARGETS_FILE).read_bytes())
    except FileNotFoundError:
        return None
    except exceptions.RepositoryError as error:
        raise ReleaseRefusedError(
            "central's metadata on this disk", reason=RefusalReason.UNSIGNED, detail=str(error),
            fix="It is replaced by the next look at the repository; if not, ask central whether keys were rotated.",
        ) from error  # fmt: skip


def _refused(what: str, reason: RefusalReason, detail: str) -> ReleaseRefusedError:
    return ReleaseRefusedError(what, reason=reason, detail=detail, fix=_FIX)
