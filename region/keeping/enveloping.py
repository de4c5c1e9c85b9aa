"""Wrapping by a key management service: an envelope in an envelope, so that the service is asked seldom.

The service wraps data keys (32 random bytes), and a data key wraps what the region keeps (AES-256-GCM). What is kept
carries its data key's ciphertext with it, so that nothing else has to be kept, copied or found:

    FE 01 | length of the ciphertext, 2 bytes | ciphertext of the data key | nonce | sealed key, bound to all before it

A process makes a data key when it first wraps, and another after DATA_KEY_S or when the root key was rotated. Data keys
are remembered, DATA_KEYS_MAX of them, and confirmed by the service every `cache_s`. While it does not answer:

* what lies under a data key at hand is read and written as before, for `outage_s_max` longer;
* what lies under another is not: `KeysUnavailableError`, so nothing is acknowledged that could not be kept, nothing
  counts as erased because of it, and it works again when the service does;
* a process that starts finds none at hand, and does not start.

What a key file wrapped before still opens, and is stale: `atoll keys rotate-rest` brings it under the service.
"""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from infra.plumbing.clock import Clock
from region.keeping.key_service import CIPHERTEXT_CHARACTERS_MAX, KeyServiceGoneError, KeyServiceSettings, version_of
from region.keeping.wrapping import KEY_BYTES, KeysUnavailableError, Wrapping

DATA_KEYS_MAX = 1_024
DATA_KEY_S = 86_400.0
"""Also far below the 2^32 random nonces that AES-GCM allows a key (NIST SP 800-38D)."""
LOOK_S = 10.0
"""How often a process that wraps looks whether the root key was rotated."""
_MAGIC = b"\xfe\x01"
_NONCE_BYTES = 12
T = TypeVar("T")


class RootKey(Protocol):
    """What wraps data keys: `region.keeping.key_service.TransitKey`."""

    def encrypt(self, plaintext: bytes) -> str:
        """The ciphertext of a data key; raises `KeyServiceGoneError` or `KeyServiceRefusedError`, as all calls."""
        ...

    def decrypt(self, ciphertext: str) -> bytes:
        """Inverse of `encrypt`."""
        ...

    def latest_version(self) -> int:
        """The version of the root key that encrypts now."""
        ...


@dataclass(slots=True)
class _DataKey:
    key: bytes
    ciphertext: str
    made_s: float
    confirmed_s: float


class ServiceWrapping:
    """`Wrapping` by a root key that a service keeps. Safe on several threads; nobody waits for another's call.

    Args:
        root: the service's key.
        before: opens what was wrapped before there was a service.
    """

    def __init__(self, root: RootKey, settings: KeyServiceSettings, *, before: Wrapping, clock: Clock) -> None:
        self._root = root
        self._settings = settings
        self._before = before
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _DataKey] = OrderedDict()
        """By ciphertext, the one used last at the end."""
        self._current: _DataKey | None = None
        self._version = 0
        self._looked_s = float("-inf")
        self._look_failed: KeysUnavailableError | None = None
        self._failed_s = float("-inf")
        self._failed: KeyServiceGoneError | None = None

    def wrap(self, key: bytes, *, about: bytes) -> bytes:
        """The key under the data key of now."""
        data_key = self._for_wrapping()
        nonce, ciphertext = secrets.token_bytes(_NONCE_BYTES), data_key.ciphertext.encode()
        head = _MAGIC + len(ciphertext).to_bytes(2) + ciphertext
        return head + nonce + AESGCM(data_key.key).encrypt(nonce, key, head + about)

    def unwrap(self, wrapped: bytes, *, about: bytes) -> bytes:
        """The key itself."""
        if not wrapped.startswith(_MAGIC):
            return self._before.unwrap(wrapped, about=about)
        ciphertext, sealed = _parts(wrapped)
        about = wrapped[: len(wrapped) - len(sealed)] + about
        try:
            return AESGCM(self._opened(ciphertext)).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about)
        except (InvalidTag, ValueError) as error:
            raise KeysUnavailableError(
                "a wrapped key does not open under its data key.", fix="Restore the file that the key lies in."
            ) from error

    def is_current(self, wrapped: bytes) -> bool:
        """Whether it lies under the newest version of the service's key."""
        if not wrapped.startswith(_MAGIC):
            return False
        return version_of(_parts(wrapped)[0]) >= self._latest(needed=True)

    def at_hand(self, wrapped: bytes | None) -> bool:
        """Whether nobody would have to be asked."""
        now_s = self._clock.monotonic_s()
        if wrapped is None:
            current = self._current
            return current is not None and self._holds(current, now_s) and now_s - self._looked_s < LOOK_S
        if not wrapped.startswith(_MAGIC):
            return True
        known = self._known.get(_parts(wrapped)[0])
        return known is not None and now_s - known.confirmed_s < self._settings.cache_s

    def since_ms(self) -> int:
        """Not known: versions of the service's key are retired there, and a key file of before may open some."""
        return 0

    def _for_wrapping(self) -> _DataKey:
        now_s, current = self._clock.monotonic_s(), self._current
        if current is not None and self._holds(current, now_s) and version_of(current.ciphertext) >= self._latest():
            self._opened(current.ciphertext)
            return current
        try:
            key = secrets.token_bytes(KEY_BYTES)
            ciphertext = self._asked(lambda: self._root.encrypt(key))
        except KeyServiceGoneError:
            if current is None:
                raise
            self._opened(current.ciphertext)  # raises when the outage has lasted too long
            return current
        version_of(ciphertext)
        made = _DataKey(key, ciphertext, now_s, now_s)
        self._remember(made)
        self._current = made
        return made

    def _holds(self, data_key: _DataKey, now_s: float) -> bool:
        return now_s - data_key.made_s < DATA_KEY_S

    def _opened(self, ciphertext: str) -> bytes:
        """A data key: as remembered, confirmed when that is due, or opened by the service."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            known = self._known.get(ciphertext)
            if known is not None:
                self._known.move_to_end(ciphertext)
        if known is not None and now_s - known.confirmed_s < self._settings.cache_s:
            return known.key
        try:
            key = self._asked(lambda: self._root.decrypt(ciphertext))
        except KeyServiceGoneError:
            if known is None or now_s - known.confirmed_s >= self._settings.cache_s + self._settings.outage_s_max:
                raise
            return known.key
        except KeysUnavailableError:
            with self._lock:
                self._known.pop(ciphertext, None)
                if self._current is known:
                    self._current = None
            raise
        if len(key) != KEY_BYTES:
            raise KeysUnavailableError("a data key has another length than a key has.")
        self._remember(_DataKey(key, ciphertext, known.made_s if known is not None else now_s, now_s))
        return key

    def _latest(self, *, needed: bool = False) -> int:
        """The newest version, as of LOOK_S ago at most; `needed`: rather an error than what was true before."""
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s >= LOOK_S:
            # A token that may not look is not asked about at every wrap.
            self._looked_s, self._look_failed = now_s, None
            try:
                self._version = self._asked(self._root.latest_version)
            except KeysUnavailableError as error:
                self._look_failed = error
        failed = self._look_failed
        if needed and failed is not None:
            raise type(failed)(failed.message, fix=failed.fix)
        return self._version

    def _asked(self, call: Callable[[], T]) -> T:
        """Ask the service, unless it did not answer a moment ago."""
        now_s, failed = self._clock.monotonic_s(), self._failed
        if failed is not None and now_s - self._failed_s < self._settings.retry_s:
            raise KeyServiceGoneError(failed.message, fix=failed.fix)
        try:
            answer = call()
        except KeyServiceGoneError as error:
            self._failed, self._failed_s = error, self._clock.monotonic_s()
            raise
        self._failed = None
        return answer

    def _remember(self, data_key: _DataKey) -> None:
        with self._lock:
            self._known[data_key.ciphertext] = data_key
            self._known.move_to_end(data_key.ciphertext)
            while len(self._known) > DATA_KEYS_MAX:
                self._known.popitem(last=False)


def _parts(wrapped: bytes) -> tuple[str, bytes]:
    """The data key's ciphertext, and nonce and sealed key."""
    start = len(_MAGIC) + 2
    length = int.from_bytes(wrapped[len(_MAGIC) : start])
    if not 0 < length <= min(CIPHERTEXT_CHARACTERS_MAX, len(wrapped) - start):
        raise KeysUnavailableError("a wrapped key was cut off.", fix="Restore the file that the key lies in.")
    return wrapped[start : start + length].decode("ascii", errors="replace"), wrapped[start + length :]
