"""Who calls: tokens and anonymous sessions. A subject is only ever taken from one of these."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from edge.calls import Caller
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError, UnauthorizedError
from infra.plumbing.keys import RegionKeys, Trust
from infra.plumbing.service_keys import KeyRing, ServiceKey
from infra.plumbing.tokens import Principal, open_subject, verify_token

REMEMBERED_MAX = 20_000
USER_CHARACTERS_MAX = 256
_SESSION = re.compile(r"[A-Za-z0-9_.:-]{8,64}")


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that held, as far as this edge may know it."""

    principal: Principal
    subject: str | None


class Identities:
    """Verifies tokens and remembers the ones that held until they expire; bounded, in two generations.

    What is remembered is keyed by a hash, so that tokens are not kept here as long as they hold (`edge.hot.known` keeps
    heads of minutes ago, with their tokens).
    """

    def __init__(self, *, keys: RegionKeys, trust: Trust, service_keys: KeyRing, clock: Clock) -> None:
        self._keys = keys
        self._trust = trust
        self._service_keys = service_keys
        self._clock = clock
        self._edition = trust.edition
        self._looked_s = 0
        self._young: dict[bytes, Verified] = {}
        self._old: dict[bytes, Verified] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    @property
    def edition(self) -> int:
        """The edition of the trust directory under which everything that is remembered was verified."""
        return self._edition

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """The caller of a request with these headers.

        Raises:
            UnauthorizedError: a token or a service key was sent and does not hold.
            InvalidInputError: a malformed session id, a subject in a header, or both a token and a key.
        """
        if "Atoll-Subject" in headers:
            raise InvalidInputError("Atoll-Subject is not accepted.", fix="The subject is taken from the token.")
        session = self._session(headers.get("Atoll-Session"))
        authorization = headers.get("Authorization")
        key = headers.get("Atoll-Key")
        if key is not None:
            if authorization is not None:
                raise InvalidInputError("there is a token and a service key.", fix="Send one of them.")
            return self.of_service(self._service_keys.verify(key), headers.get("Atoll-User"), session=session)
        if "Atoll-User" in headers:
            raise UnauthorizedError("Atoll-User needs a service key.", fix="Send `Atoll-Key` too, or a user's token.")
        if authorization is None:
            return Caller(session=session)
        token = _bearer(authorization)
        held = self._verify(token)
        return Caller(token=token, principal=held.principal, subject=held.subject, session=session)

    def recall(self, token: bytes, epoch_s: int) -> Verified | None:
        """What is known of a token that held before and has not expired by `epoch_s`; None: it must be verified."""
        if epoch_s != self._looked_s:
            self.follow_trust(epoch_s)
        digest = hashlib.sha256(token).digest()
        held = self._young.get(digest) or self._remembered(digest)
        return held if held is not None and epoch_s < held.principal.expires_s else None

    def forget(self, subject: str) -> None:
        """Let go of what is remembered of an erased subject's tokens; those that still hold are verified anew."""
        for remembered in (self._young, self._old):
            for digest in [digest for digest, held in remembered.items() if held.subject == subject]:
                del remembered[digest]

    def of_service(self, key: ServiceKey, user: str | None, *, session: str | None = None) -> Caller:
        """A service that calls for `user`, a raw id of this region, or for nobody.

        Raises:
            InvalidInputError: the user id is empty, too long, or not UTF-8.
        """
        if user is not None and not (0 < len(user) <= USER_CHARACTERS_MAX and _is_text(user)):
            raise InvalidInputError(
                "Atoll-User is not a user id.", fix=f"It has 1 to {USER_CHARACTERS_MAX} characters in UTF-8.",
                field="Atoll-User",
            )  # fmt: skip
        subject = None if user is None else self._keys.pseudonym("user", user)
        return Caller(service=key, subject=subject, session=session)

    def session_subject(self, session: str) -> str:
        """The pseudonym of an anonymous session, whatever its application calls it."""
        return self._keys.session_subject(session)

    def verify_service(self, text: str) -> ServiceKey:
        """The service key that `text` (`id.secret`) is. Raises as `KeyRing.verify`."""
        return self._service_keys.verify(text)

    def service_key(self, key_id: str) -> ServiceKey:
        """The service key of this id, for who shows a signature in place of the secret. Raises as `KeyRing.find`."""
        return self._service_keys.find(key_id)

    def is_remembered(self, headers: Mapping[str, str]) -> bool:
        """Whether the request's token is already known to hold, so that looking at it costs next to nothing."""
        token = headers.get("Authorization", "")
        digest = _digest(token.partition(" ")[2].strip())
        return digest in self._young or digest in self._old

    def _session(self, session: str | None) -> str | None:
        if session is None:
            return None
        if not _SESSION.fullmatch(session):
            raise InvalidInputError(
                "Atoll-Session is not a session id.", fix="It must be 8 to 64 letters, digits or any of `_.:-`."
            )
        return self._keys.session_subject(session)

    def follow_trust(self, epoch_s: int) -> None:
        """Forget what was verified under another edition of the trust directory: a key may have been retired.

        Whoever else remembers what was verified must forget it when `edition` changes.
        """
        self._looked_s = epoch_s
        edition = self._trust.edition
        if edition != self._edition:
            self._edition = edition
            self._young.clear()
            self._old.clear()

    def _verify(self, token: str) -> Verified:
        self.follow_trust(self._clock.now_ms() // 1000)
        digest = _digest(token)
        held = self._remembered(digest)
        if held is not None and self._clock.now_ms() < held.principal.expires_s * 1000:
            return held
        principal = verify_token(token, self._trust, clock=self._clock)
        at_home = principal.home == self._keys.region
        held = Verified(principal, open_subject(principal, self._keys) if at_home else None)
        self._remember(digest, held)
        return held

    def _remembered(self, digest: bytes) -> Verified | None:
        held = self._young.get(digest)
        if held is None:
            held = self._old.pop(digest, None)
            if held is not None:
                self._remember(digest, held)
        return held

    def _remember(self, digest: bytes, held: Verified) -> None:
        self._young[digest] = held
        if len(self._young) >= REMEMBERED_MAX // 2:
            # Whoever was not seen for a whole generation is forgotten with it: no order to keep at every look.
            self._young, self._old = {}, self._young


def _bearer(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip() or not token.isascii():
        raise UnauthorizedError("the Authorization header is not usable.", fix="Send `Authorization: Bearer <token>`.")
    return token.strip()


def _is_text(header: str) -> bool:
    """Whether what came in a header was UTF-8; what was not, aiohttp passes on as lone surrogates."""
    try:
        header.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digest(token: str) -> bytes:
    # SHA-256, because processors have instructions for it: half the time of BLAKE2b for a token's length.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
