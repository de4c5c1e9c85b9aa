"""End-user tokens: JWTs (RFC 7519, EdDSA) bound to a subject and a home region (MISSION A7).

Everybody can verify a token and read its home region; only the home region can read whose it is, because the
subject inside is sealed with the region's own key.
"""

import functools
import secrets
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnauthorizedError
from infra.plumbing.keys import RegionKeys, Trust, decode_base64url, encode_base64url

AUDIENCE = "atoll"
TOKEN_BYTES_MAX = 2048
CLOCK_SKEW_S = 30
ISSUED_AHEAD_S_MAX = 900
"""So much later than now a token may say that it was issued. Only clocks that disagree can make it so, as the issuer's
signature holds: a machine whose clock was set back by minutes must not lock everybody out, an issuer whose clock is off
by days must not give out tokens that outlive it."""
LIFE_S_MAX = 31 * 86_400
"""No issuer may give out a token for longer."""
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, as far as anyone may know: the home region and a subject that only it can open."""

    home: str
    sealed_subject: str
    expires_s: int


def issue_token(keys: RegionKeys, user_id: str, *, clock: Clock, life_s: int = 3600) -> str:
    """A token for `user_id` of the region that `keys` belong to."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = nonce + AESGCM(keys.subject_key).encrypt(nonce, user_id.encode(), keys.region.encode())
    now_s = clock.now_ms() // 1000
    claims = {
        "iss": keys.region, "aud": AUDIENCE, "home": keys.region, "sub": encode_base64url(sealed),
        "iat": now_s, "exp": now_s + life_s,
    }  # fmt: skip
    kid, seed = keys.signing_key(now_ms=clock.now_ms())
    private = Ed25519PrivateKey.from_private_bytes(seed)
    return jwt.encode(claims, private, algorithm="EdDSA", headers={"kid": kid})


def verify_token(token: str, trust: Trust, *, clock: Clock) -> Principal:
    """The principal of a token that holds.

    Raises:
        UnauthorizedError: malformed, unknown issuer or retired key, wrong signature, wrong audience, expired, not of
            its time, or an issuer that speaks for another region.
    """
    if len(token) > TOKEN_BYTES_MAX:
        raise UnauthorizedError("the token is too long.", fix=f"Tokens have at most {TOKEN_BYTES_MAX} bytes.")
    try:
        kid = _kid(token.partition(".")[0])
        public = Ed25519PublicKey.from_public_bytes(_issuer_key(kid, trust))
        # Expiry is checked against our own clock, below: PyJWT would read the machine's.
        claims = jwt.decode(
            token, public, algorithms=["EdDSA"], audience=AUDIENCE,
            options={
                "require": ["exp", "iat", "sub", "home"], "verify_exp": False, "verify_iat": False, "verify_nbf": False
            },
        )  # fmt: skip
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        # The last two for what is no text, or brackets in brackets: PyJWT lets them through.
        raise UnauthorizedError("the token does not hold.", fix="Get a fresh token from its home region.") from error
    return _principal(claims, str(kid), now_s=clock.now_ms() / 1000)


def open_subject(principal: Principal, keys: RegionKeys) -> str:
    """The pseudonym of the principal's subject; works in its home region only.

    Raises:
        UnauthorizedError: the token belongs to another region or its subject was tampered with.
    """
    try:
        sealed = decode_base64url(principal.sealed_subject)
        user_id = AESGCM(keys.subject_key).decrypt(
            sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], principal.home.encode()
        )
    except (InvalidTag, ValueError) as error:
        raise UnauthorizedError("the token's subject cannot be opened in this region.") from error
    return keys.pseudonym("user", user_id.decode())


@functools.lru_cache(maxsize=64)
def _kid(header: str) -> object:
    """The key id in the first part of a token, which is the same in all tokens of a key; `decode` checks it anew.

    Raises:
        PyJWTError: it is no header.
    """
    return jwt.get_unverified_header(f"{header}..").get("kid")


def _issuer_key(kid: object, trust: Trust) -> bytes:
    """The public key of `kid`: a region's name, or one and a number behind a slash."""
    region = kid.partition("/")[0] if isinstance(kid, str) else ""
    keys = trust.regions.get(region)
    public = keys.issuer(region, str(kid)) if keys is not None else None
    if public is None:
        raise UnauthorizedError("the token's issuer is not known here.", fix="Get a token from its home region.")
    return public


def _principal(claims: dict[str, Any], kid: str, *, now_s: float) -> Principal:
    home, subject, expires_s, issued_s = claims["home"], claims["sub"], claims["exp"], claims["iat"]
    times = type(expires_s) is int and type(issued_s) is int
    if home != kid.partition("/")[0] or not isinstance(subject, str) or not times:
        raise UnauthorizedError("the token's issuer does not speak for that home region.")
    if now_s > expires_s + CLOCK_SKEW_S:
        raise UnauthorizedError("the token has expired.", fix="Get a fresh token from its home region.")
    if issued_s > now_s + ISSUED_AHEAD_S_MAX or expires_s - issued_s > LIFE_S_MAX:
        raise UnauthorizedError("the token is not of its time.", fix="Get a fresh token from its home region.")
    return Principal(home=home, sealed_subject=subject, expires_s=expires_s)
