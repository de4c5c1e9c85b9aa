"""Keys of services that call an edge: an id, a secret, what they may do, until when. One file per region.

The secret is kept as it is, readable by its owner only, like every other secret of a region: a signature (AWS Signature
Version 4, as Amazon Personalize clients send it) cannot be checked against a hash.
"""

import enum
import hmac
import secrets
from pathlib import Path
from typing import Self

import msgspec

from infra.plumbing.clock import Clock
from infra.plumbing.errors import ForbiddenError, InvalidInputError, NotFoundError, SettingsError, UnauthorizedError
from infra.plumbing.files import write_atomically
from infra.plumbing.private_files import check_private
from infra.plumbing.reloading import Reloading
from infra.plumbing.settings import load_settings

KEYS_MAX = 1000
KEY_CHARACTERS_MAX = 128
_ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_DAY_MS = 86_400_000


class Scope(enum.StrEnum):
    """What a service key allows."""

    READ = "read"
    """Lists, for a subject that the service names."""
    EVENTS = "events"
    """Events of subjects that the service names."""
    BULK = "bulk"
    """Lists for many subjects in one call."""
    TEST = "test"
    """Choosing an experiment arm."""


class ServiceKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key. `expires_ms` is Unix epoch milliseconds; None: until it is revoked."""

    id: str
    name: str
    secret: str
    scopes: tuple[Scope, ...]
    created_ms: int
    expires_ms: int | None = None
    revoked: bool = False

    @property
    def text(self) -> str:
        """What its holder sends in `Atoll-Key`."""
        return f"{self.id}.{self.secret}"

    def holds(self, *, now_ms: int) -> bool:
        """Whether it is neither revoked nor expired."""
        return not self.revoked and (self.expires_ms is None or now_ms < self.expires_ms)


class ServiceKeys(msgspec.Struct, frozen=True, kw_only=True):
    """All keys of a region."""

    keys: tuple[ServiceKey, ...] = ()

    def with_new(self, name: str, scopes: tuple[Scope, ...], *, clock: Clock, days: float | None) -> Self:
        """These keys and a new one, last.

        Raises:
            InvalidInputError: no scope, a name that is taken or unusable, or too many keys.
        """
        if not scopes:
            raise InvalidInputError("a key without a scope allows nothing.", fix="Name at least one scope.")
        if not (0 < len(name) <= 64 and name.isprintable()):
            raise InvalidInputError("the name is not usable.", fix="Use 1 to 64 printable characters.")
        if any(key.name == name and not key.revoked for key in self.keys):
            raise InvalidInputError("there is a key of this name.", fix="Revoke it first, or use another name.")
        if len(self.keys) >= KEYS_MAX:
            raise InvalidInputError(f"there are {KEYS_MAX} keys.", fix="Take revoked ones out of the file.")
        now_ms = clock.now_ms()
        made = ServiceKey(
            # The form that AWS tools expect of an access key id: capitals and digits.
            id="ATOLL" + "".join(secrets.choice(_ID_LETTERS) for _ in range(15)),
            name=name, secret=secrets.token_urlsafe(30), scopes=tuple(dict.fromkeys(scopes)), created_ms=now_ms,
            expires_ms=None if days is None else now_ms + round(days * _DAY_MS),
        )  # fmt: skip
        return msgspec.structs.replace(self, keys=(*self.keys, made))

    def without(self, key_id: str) -> Self:
        """These keys with one revoked.

        Raises:
            NotFoundError: there is no key of this id.
        """
        if not any(key.id == key_id for key in self.keys):
            raise NotFoundError("there is no key of this id.", fix="See `./atoll keys service list`.")
        keys = (msgspec.structs.replace(key, revoked=True) if key.id == key_id else key for key in self.keys)
        return msgspec.structs.replace(self, keys=tuple(keys))

    def save(self, path: Path) -> None:
        """Write them, readable by their owner only."""
        write_atomically(path, msgspec.json.format(msgspec.json.encode(self)), mode=0o600)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; a file that is not there holds no keys.

        Raises:
            SettingsError: the file is not one of ours, or may be read by others (`ExposedSecretError`).
        """
        check_private(path)
        return load_settings(path, cls) if path.exists() else cls()


class KeyRing:
    """Checks keys against the file at `path`, which may change while we run; None: there are no keys.

    Raises:
        SettingsError: the file is there and cannot be used.
    """

    def __init__(self, path: Path | None, *, clock: Clock) -> None:
        self._clock = clock
        self._source = None if path is None else Reloading(path, _by_id, clock=clock)

    def find(self, key_id: str) -> ServiceKey:
        """The key of this id, if it holds.

        Raises:
            UnauthorizedError: there is none, or it is revoked or expired.
        """
        held = {} if self._source is None else self._source.get()
        key = held.get(key_id)
        if key is None or not key.holds(now_ms=self._clock.now_ms()):
            raise UnauthorizedError("the service key does not hold.", fix="Get one with `./atoll keys service add`.")
        return key

    def verify(self, text: str) -> ServiceKey:
        """The key that `text` (`id.secret`) is.

        Raises:
            UnauthorizedError: it does not hold.
        """
        key_id, _, secret = text[:KEY_CHARACTERS_MAX].partition(".")
        key = self.find(key_id)
        # Constant time: how far a guess is right must not show in how long the refusal takes.
        if not hmac.compare_digest(secret.encode("utf-8", "surrogateescape"), key.secret.encode()):
            raise UnauthorizedError("the service key does not hold.", fix="Check its secret.")
        return key


def require(key: ServiceKey | None, scope: Scope) -> ServiceKey:
    """The key, if it has `scope`.

    Raises:
        UnauthorizedError: there is no key.
        ForbiddenError: the key does not have the scope.
    """
    if key is None:
        raise UnauthorizedError("this needs a service key.", fix=f"Send `Atoll-Key` with scope `{scope.value}`.")
    if scope not in key.scopes:
        raise ForbiddenError("the service key does not allow this.", fix=f"It needs scope `{scope.value}`.")
    return key


def _by_id(path: Path) -> dict[str, ServiceKey]:
    try:
        return {key.id: key for key in ServiceKeys.load(path).keys}
    except OSError as error:
        raise SettingsError(f"the service keys cannot be read: {error.strerror}.") from error
