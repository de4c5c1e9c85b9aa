"""A key management service over HTTPS: the transit API of HashiCorp Vault, which OpenBao and others speak too.

Three calls of it: encrypt and decrypt (a data key there and back, base64 in JSON), and reading the key's versions; a
fourth, rotate, for an operator. The root key never leaves the service. API: developer.hashicorp.com/vault/api-docs/
secret/transit. Blocks: whoever must not wait calls it on a thread.
"""

import base64
import binascii
import re
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
import urllib3

from infra.plumbing.clock import Clock
from infra.plumbing.errors import SettingsError
from infra.plumbing.http.tls import ClientTls, client_context
from infra.plumbing.private_files import read_private
from infra.plumbing.reloading import Reloading
from region.keeping.wrapping import KeysUnavailableError

ANSWER_BYTES_MAX = 64 << 10
CIPHERTEXT_CHARACTERS_MAX = 4_096
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_NAME = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_MOUNT = re.compile(r"\w[\w.-]{0,63}(/\w[\w.-]{0,63}){0,4}", re.ASCII)
_VERSIONED = re.compile(r"[a-z]+:v([0-9]{1,9}):[A-Za-z0-9+/=]+")
T = TypeVar("T", bound=msgspec.Struct)


class KeyServiceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a region's root key lives, when that is not its key file."""

    url: str
    """`https://vault.example:8200`; plain http to this machine only."""
    key: str
    """The name of the transit key, one for each region: type aes256-gcm96, not derived, not exportable."""
    token_file: str
    """Holds the token (followed, as agents renew it). It needs `update` on encrypt/KEY and decrypt/KEY and `read` on
    keys/KEY; to rotate, `update` on keys/KEY/rotate."""
    mount: str = "transit"
    namespace: str = ""
    """Of installations that have namespaces."""
    tls: ClientTls | None = None
    """Whom to trust, and what to show; needed for https."""
    timeout_s: Annotated[float, msgspec.Meta(gt=0.0, le=10.0)] = 2.0
    """Of one call. A call that fails is not tried again at once (`retry_s`)."""
    retry_s: Annotated[float, msgspec.Meta(gt=0.0, le=60.0)] = 5.0
    """After a failure so long nobody asks: what needs the service fails at once meanwhile."""
    cache_s: Annotated[float, msgspec.Meta(gt=0.0, le=86_400.0)] = 3600.0
    """How long a data key may be used without the service saying again that it may: so late a revoked token shows."""
    outage_s_max: Annotated[float, msgspec.Meta(ge=0.0, le=7 * 86_400.0)] = 86_400.0
    """How much longer when the service does not answer at all. Never when it answers and refuses."""


class KeyServiceGoneError(KeysUnavailableError):
    """The service does not answer: what it said last may still hold."""


class KeyServiceRefusedError(KeysUnavailableError):
    """The service answered, and does not do it."""


class _Ciphertext(msgspec.Struct):
    ciphertext: Annotated[str, msgspec.Meta(max_length=CIPHERTEXT_CHARACTERS_MAX)]


class _Plaintext(msgspec.Struct):
    plaintext: str


class _Versions(msgspec.Struct):
    latest_version: int


class _Errors(msgspec.Struct):
    errors: list[str] = []


def version_of(ciphertext: str) -> int:
    """The version of the root key that a ciphertext is under (`vault:v3:...`).

    Raises:
        KeysUnavailableError: it has another form.
    """
    found = _VERSIONED.fullmatch(ciphertext)
    if found is None:
        raise KeysUnavailableError("a wrapped data key is not of a key service.", fix="Restore it from a copy.")
    return int(found[1])


class TransitKey:
    """One transit key of a service.

    Raises:
        SettingsError: the address, a name, the token or a TLS file cannot be used.
    """

    def __init__(self, settings: KeyServiceSettings, *, clock: Clock) -> None:
        _check(settings)
        self._settings = settings
        self._base = f"{settings.url.rstrip('/')}/v1/{settings.mount}"
        self._token = Reloading(Path(settings.token_file), _read_token, clock=clock)
        context = client_context(settings.tls, clock=clock).context if settings.tls is not None else None
        self._pool = urllib3.PoolManager(ssl_context=context, maxsize=4, retries=False)

    def encrypt(self, plaintext: bytes) -> str:
        """The ciphertext of a data key under the newest version.

        Raises:
            KeyServiceGoneError: the service does not answer.
            KeyServiceRefusedError: it does not do it.
        """
        body = {"plaintext": base64.b64encode(plaintext).decode()}
        return self._call("POST", f"encrypt/{self._name}", body, _Ciphertext).ciphertext

    def decrypt(self, ciphertext: str) -> bytes:
        """Inverse of `encrypt`. Raises as it does."""
        found = self._call("POST", f"decrypt/{self._name}", {"ciphertext": ciphertext}, _Plaintext)
        try:
            return base64.b64decode(found.plaintext, validate=True)
        except (binascii.Error, ValueError) as error:
            raise KeyServiceRefusedError("the key service answered with something that is no key.") from error

    def latest_version(self) -> int:
        """The version that encrypts now. Raises as `encrypt`."""
        return self._call("GET", f"keys/{self._name}", None, _Versions).latest_version

    def rotate(self) -> None:
        """Make a new version, which encrypts from now on. Raises as `encrypt`."""
        self._ask("POST", f"keys/{self._name}/rotate", {})

    @property
    def _name(self) -> str:
        return quote(self._settings.key, safe="")

    def _call(self, method: str, path: str, body: dict[str, Any] | None, kind: type[T]) -> T:
        content = self._ask(method, path, body)
        try:
            document = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
            return msgspec.json.decode(document["data"], type=kind)
        except (msgspec.DecodeError, KeyError) as error:
            raise KeyServiceGoneError(
                "what answers at the key service's address is none.", fix="Check key_service.url in the settings."
            ) from error

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> bytes:
        settings = self._settings
        headers = {"X-Vault-Token": self._token.get(), "X-Vault-Request": "true", "Content-Type": "application/json"}
        if settings.namespace:
            headers["X-Vault-Namespace"] = settings.namespace
        try:
            answer = self._pool.request(
                method, f"{self._base}/{path}", headers=headers, timeout=settings.timeout_s, redirect=False,
                body=None if body is None else msgspec.json.encode(body), preload_content=False,
            )  # fmt: skip
            try:
                content: bytes = answer.read(ANSWER_BYTES_MAX + 1)
            finally:
                answer.drain_conn() if answer.length_remaining == 0 else answer.close()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise KeyServiceGoneError(
                f"the key service does not answer: {type(error).__name__}.",
                fix="Keys at hand go on working; see region/keeping/README.md for what does not.",
            ) from error
        if answer.status not in (200, 204) or len(content) > ANSWER_BYTES_MAX:
            raise _failure(answer.status, content, settings, path)
        return content


def _failure(status: int, content: bytes, settings: KeyServiceSettings, path: str) -> KeysUnavailableError:
    """429 and 5xx (sealed, standby, overloaded) pass; what else is said is a refusal."""
    try:
        says = "; ".join(msgspec.json.decode(content, type=_Errors).errors)[:200].strip()
    except msgspec.DecodeError:
        says = ""
    words = f"the key service answered {status}{f' ({says})' if says else ''} to {path.partition('/')[0]}."
    if status == 429 or status >= 472:
        return KeyServiceGoneError(words, fix="Is it sealed, or overloaded?")
    fixes = {
        403: f"The token in {settings.token_file} needs a policy for {settings.mount}/{path}.",
        404: f"Is {settings.mount!r} mounted, and is there a key {settings.key!r}?",
        400: "The wrapped key is of another key, or of a version that may not decrypt any more.",
    }
    return KeyServiceRefusedError(words, fix=fixes.get(status, "Check key_service in the settings."))


def _check(settings: KeyServiceSettings) -> None:
    parts = urlsplit(settings.url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise SettingsError("key_service.url is not https.", fix="Plain http is for a service on this machine only.")
    if parts.scheme == "https" and settings.tls is None:
        raise SettingsError("key_service has no tls.", fix="Name the service's authority: tls.ca_file.")
    if not _NAME.fullmatch(settings.key) or not _MOUNT.fullmatch(settings.mount):
        raise SettingsError("key_service.key or .mount is no name.", fix="Letters, digits, dots, hyphens, underscores.")


def _read_token(path: Path) -> str:
    try:
        token = read_private(path).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the key service's token {path} cannot be read.") from error
    if not token or not token.isprintable() or len(token) > 4_096:
        raise SettingsError(f"{path} holds no token.")
    return token
