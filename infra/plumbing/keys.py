"""A region's secrets, and the public directory that lets others verify and seal for it.

`RegionKeys` never leaves the region: with it a token's subject is opened and turned into the pseudonym under which
the region stores everything. `TrustDirectory` holds public keys only and is the same everywhere.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.files import write_atomically
from infra.plumbing.operators import RETIRED_MAX, check_operator_name
from infra.plumbing.private_files import check_private
from infra.plumbing.reloading import Reloading
from infra.plumbing.settings import load_settings

ACTIVATION_S = 10
"""A new issuer key signs only after this long: by then everybody who verifies has read the trust directory again."""


class IssuerKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key with which a region's issuer signs tokens, from `signs_from_ms` on. Its `kid` is `<region>/<number>`."""

    kid: str
    private: bytes
    signs_from_ms: int


class RestKey(msgspec.Struct, frozen=True, kw_only=True):
    """An AES-256 key that wraps the keys of what the region keeps. Its `kid` is a number."""

    kid: str
    key: bytes
    made_ms: int = 0
    """Unix milliseconds; 0: of before that was noted."""


class RegionKeys(msgspec.Struct, frozen=True, kw_only=True):
    """Secrets of one region; all fields are 32 random bytes, base64 in the file."""

    region: str
    issuer_private: bytes
    """Ed25519 seed with which the region's token issuer signs; the issuer's `kid` is the region's name."""
    subject_key: bytes
    """AES-256-GCM key that seals the subject inside tokens."""
    pseudonym_key: bytes
    """HMAC key of the pseudonyms under which the region stores."""
    relay_private: bytes
    """X25519 key that opens travellers' sealed calls."""
    service_key: str
    """Shown by the region's own processes to each other."""
    operator_key: str
    """Shown by the region's operators; of it the keys of named operators are made (`infra.plumbing.operators`)."""
    issuers: tuple[IssuerKey, ...] = ()
    """Issuer keys made since, oldest first."""
    retired: tuple[str, ...] = ()
    """The `kid` of every issuer key whose tokens hold no more."""
    rest: tuple[RestKey, ...] = ()
    """Keys of what is kept, made since, oldest first; the last one wraps."""
    rest_retired: bool = False
    """Whether the first such key, which is made from the others, opens nothing any more."""
    operators_retired: tuple[str, ...] = ()
    """Names whose keys open nothing any more."""

    @classmethod
    def generate(cls, region: str) -> Self:
        """Fresh keys for `region`."""
        return cls(
            region=region,
            issuer_private=secrets.token_bytes(32),
            subject_key=secrets.token_bytes(32),
            pseudonym_key=secrets.token_bytes(32),
            relay_private=secrets.token_bytes(32),
            service_key=secrets.token_urlsafe(24),
            operator_key=secrets.token_urlsafe(24),
        )

    def pseudonym(self, kind: str, name: str) -> str:
        """Under which the region stores `name` of `kind` (``user`` or ``session``): 32 hex digits of HMAC-SHA256."""
        return hmac.new(self.pseudonym_key, f"{kind}\0{name}".encode(), hashlib.sha256).hexdigest()[:32]

    def session_subject(self, session_id: str) -> str:
        """The subject of an anonymous session: `s` and 32 hex digits; its row in the store expires."""
        return "s" + self.pseudonym("session", session_id)

    @property
    def receipt_private(self) -> bytes:
        """Ed25519 seed that signs receipts of erasures. Not an issuer's: it is never retired, receipts last."""
        return hmac.new(self.issuer_private, b"atoll erasure receipts", hashlib.sha256).digest()

    def rest_keys(self) -> dict[str, bytes]:
        """Keys that open what the region keeps, by `kid`, oldest first; the last one wraps anew."""
        first = hmac.new(self.pseudonym_key, b"atoll keys at rest", hashlib.sha256).digest()
        return ({} if self.rest_retired else {"1": first}) | {made.kid: made.key for made in self.rest}

    @property
    def rest_since_ms(self) -> int:
        """When the oldest of the keys that open what the region keeps was made; 0 where that is not known.

        What was wrapped, and deleted, before then opens for nobody who has these keys.
        """
        return 0 if not self.rest_retired else min((made.made_ms for made in self.rest), default=0)

    def with_new_rest_key(self, *, now_ms: int) -> Self:
        """These keys and a new one that wraps from now on; what the others wrapped still opens."""
        kid = str(max((int(made.kid) for made in self.rest), default=1) + 1)
        return msgspec.structs.replace(
            self, rest=(*self.rest, RestKey(kid=kid, key=secrets.token_bytes(32), made_ms=now_ms))
        )

    def with_latest_rest_key_only(self) -> Self:
        """These keys without all rest keys but the last: call it when everything is wrapped by that one."""
        return msgspec.structs.replace(self, rest=self.rest[-1:], rest_retired=bool(self.rest))

    def without_operator(self, name: str) -> Self:
        """These keys with the key of the operator `name` retired, for good.

        Raises:
            InvalidInputError: no operator may be called so, or RETIRED_MAX are retired.
        """
        if check_operator_name(name) in self.operators_retired:
            return self
        if len(self.operators_retired) >= RETIRED_MAX:
            raise InvalidInputError(f"{RETIRED_MAX} operators are retired.", fix="Give the region a new operator key.")
        return msgspec.structs.replace(self, operators_retired=(*self.operators_retired, name))

    def issuer_keys(self) -> dict[str, bytes]:
        """Private issuer keys whose tokens hold, by `kid`, oldest first."""
        keys = {self.region: self.issuer_private, **{issuer.kid: issuer.private for issuer in self.issuers}}
        return {kid: private for kid, private in keys.items() if kid not in self.retired}

    def signing_key(self, *, now_ms: int) -> tuple[str, bytes]:
        """`kid` and private key to sign a token with now: the newest that everybody knows."""
        held = self.issuer_keys()
        waiting = {issuer.kid for issuer in self.issuers if issuer.signs_from_ms > now_ms}
        # With every other key retired, one that is still being spread is better than none.
        kid = next((kid for kid in reversed(held) if kid not in waiting), next(reversed(held)))
        return kid, held[kid]

    def with_new_issuer(self, *, now_ms: int) -> Self:
        """These keys and a new issuer key, which signs ACTIVATION_S from now; tokens of the others still hold."""
        made = IssuerKey(
            kid=f"{self.region}/{len(self.issuers) + 2}", private=secrets.token_bytes(32),
            signs_from_ms=now_ms + 1000 * ACTIVATION_S,
        )  # fmt: skip
        return msgspec.structs.replace(self, issuers=(*self.issuers, made))

    def without_issuer(self, kid: str) -> Self:
        """These keys with one issuer key retired: its tokens hold no more.

        Raises:
            InvalidInputError: there is no such key, or it is the last one.
        """
        held = self.issuer_keys()
        if kid not in held:
            raise InvalidInputError("there is no issuer key of this kid.", fix=f"There are: {', '.join(held)}.")
        if len(held) == 1:
            raise InvalidInputError("the last issuer key cannot be retired.", fix="Make a new one first.")
        return msgspec.structs.replace(self, retired=(*self.retired, kid))

    def for_gateway(self) -> Self:
        """What a device gateway needs of these: it opens subjects and asks its region, but signs and relays nothing.

        Without the issuer's keys it can make neither tokens nor devices, and so fill no round with phones of its own.
        """
        return msgspec.structs.replace(
            self, issuer_private=b"", relay_private=b"", operator_key="", issuers=(), retired=(), rest=()
        )

    def save(self, path: Path) -> None:
        """Write the keys, readable by their owner only."""
        write_atomically(path, msgspec.json.encode(self), mode=0o600)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            SettingsError: the file is missing, is not a key file, or may be read by others (`ExposedSecretError`).
        """
        check_private(path)
        return load_settings(path, cls)


class PublicKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What everybody may know of one region."""

    issuer_public: bytes
    relay_public: bytes
    issuers: dict[str, bytes] = msgspec.field(default_factory=dict)
    """Public issuer keys whose tokens hold, by `kid`; empty in files of before there were several."""

    receipt_public: bytes = b""
    """Verifies receipts of erasures; empty in files of before there were any."""

    def issuer(self, region: str, kid: str) -> bytes | None:
        """The public key of `kid`, if it is one of this region's whose tokens hold."""
        return self.issuers.get(kid) if self.issuers else self.issuer_public if kid == region else None


class TrustDirectory(msgspec.Struct, frozen=True, kw_only=True):
    """Public keys of every region, by its name."""

    regions: dict[str, PublicKeys]

    @property
    def edition(self) -> int:
        """A directory in memory does not change."""
        return 0

    @classmethod
    def of(cls, keys: list[RegionKeys]) -> Self:
        """The directory of these regions."""
        return cls(
            regions={
                key.region: PublicKeys(
                    issuer_public=_public(key.issuer_private),
                    issuers={kid: _public(private) for kid, private in key.issuer_keys().items()},
                    receipt_public=_public(key.receipt_private),
                    relay_public=X25519PrivateKey.from_private_bytes(key.relay_private).public_key().public_bytes_raw(),
                )
                for key in keys
            }
        )

    def save(self, path: Path) -> None:
        """Write the directory."""
        write_atomically(path, msgspec.json.encode(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            SettingsError: the file is missing or is not a trust directory.
        """
        return load_settings(path, cls)


def _public(private: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


class Trust(Protocol):
    """Public keys of every region: a `TrustDirectory`, or one that follows its file."""

    @property
    def regions(self) -> Mapping[str, PublicKeys]:
        """By region."""
        ...

    @property
    def edition(self) -> int:
        """Goes up when the directory has changed; what was verified before must be verified again."""
        ...


class LiveTrust:
    """A trust directory that follows its file: a key that is made or retired is known within LOOK_EVERY_S.

    Raises:
        SettingsError: the file is missing or is not a trust directory.
    """

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._source = Reloading(path, TrustDirectory.load, clock=clock)

    @property
    def regions(self) -> Mapping[str, PublicKeys]:
        """By region, as the file says now."""
        return self._source.get().regions

    @property
    def edition(self) -> int:
        """Goes up when the directory has changed; what was verified before must be verified again."""
        self._source.get()
        return self._source.edition


def encode_base64url(raw: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_base64url(text: str) -> bytes:
    """Inverse of `encode_base64url`.

    Raises:
        ValueError: `text` is not base64url.
    """
    return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
