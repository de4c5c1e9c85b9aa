"""Who is at the other end of a TLS connection: names in certificates, and connections refused by them.

A certificate carries its process's name as a URI in the manner of SPIFFE (spiffe://atoll/us-east/edge-1; see
https://spiffe.io, "SPIFFE-ID"). Host names say where a process is, these say who it is: every process of a machine
has the same address, and no client must take one for another.
"""

import fnmatch
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import Any

TRUST_DOMAIN = "spiffe://atoll/"

Refused = Callable[[str, str], None]
"""Told why a connection was refused (one word, of `REASONS`) and what is known of who was at its other end."""
NO_CERTIFICATE, BAD_CERTIFICATE, WRONG_NAME, HANDSHAKE = "no-certificate", "bad-certificate", "wrong-name", "handshake"
REASONS = (NO_CERTIFICATE, BAD_CERTIFICATE, WRONG_NAME, HANDSHAKE)


def untold(_why: str, _who: str) -> None:
    """A `Refused` for who does not want to know."""


def uri_of(name: str) -> str:
    """The URI that stands for `name` in a certificate."""
    return TRUST_DOMAIN + name


def name_of(certificate: Mapping[str, Any] | None) -> str:
    """`us-east/edge-1` of a peer's certificate (as `ssl.SSLObject.getpeercert` gives it); empty: it has no name."""
    for kind, value in (certificate or {}).get("subjectAltName", ()):
        if kind == "URI" and value.startswith(TRUST_DOMAIN):
            return str(value[len(TRUST_DOMAIN) :])
    return ""


def is_one_of(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is among `patterns`; `*` stands for any characters. Nobody's name is among none."""
    return bool(name) and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def gate(context: ssl.SSLContext, *, names: tuple[str, ...], refused: Refused) -> None:
    """Let handshakes of `context` fail when the peer's name is not among `names`, and tell of those that fail.

    A failed handshake ends the connection before anything above it has seen a byte; asyncio itself keeps silent about
    it. `SSLContext.sslobject_class` is the documented place for this.

    Args:
        context: of a listener or a client; asyncio, uvloop and blocking sockets alike.
        names: whose certificates are taken, see `is_one_of`; empty: every certificate that the context itself takes.
        refused: told of every failure.
    """

    def done(certificate: Mapping[str, Any] | None) -> None:
        if names and not is_one_of(name := name_of(certificate), names):
            refused(WRONG_NAME, name or "a certificate without a name")
            raise ssl.SSLCertVerificationError(f"the certificate's name {name!r} is none of {', '.join(names)}")

    class GatedObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            with _told(refused):
                super().do_handshake()
            done(self.getpeercert())

    class GatedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as in the base
            with _told(refused):
                super().do_handshake(block)
            done(self.getpeercert())

    context.sslobject_class = GatedObject
    context.sslsocket_class = GatedSocket


class _told:  # noqa: N801 - reads as what it does in a `with`
    """Tells of TLS errors that come out of a block; a handshake that waits for bytes is none."""

    def __init__(self, refused: Refused) -> None:
        self._refused = refused

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLWantReadError | ssl.SSLWantWriteError):
            self._refused(*reason_of(error))


def reason_of(error: ssl.SSLError) -> tuple[str, str]:
    """Why a handshake failed: one of `REASONS`, and OpenSSL's own words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return BAD_CERTIFICATE, error.verify_message
    words = (error.reason or "").lower().replace("_", " ")
    if words == "peer did not return a certificate":
        return NO_CERTIFICATE, "a client that showed no certificate"
    return HANDSHAKE, words or "an unfinished handshake"
