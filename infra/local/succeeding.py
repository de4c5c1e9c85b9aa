"""Another authority for a world that runs: trusted beside the old one, then signing, then alone.

1. The new authority's certificate is put beside the old one's in the file that everybody trusts, which every process
   follows. That listeners have taken it over is seen: each lets in who shows a certificate of the new one. Calls out
   and links follow the same file at the same pace; they are given `SETTLE_S` more.
2. Every process gets a key and certificate of the new authority: one listener first, the others when it shows its
   own; whoever calls trusts both. A run that was killed goes on where it was.
3. The old one leaves the file (`drop_old_authority`), when callers outside of the world have the new one. A process
   that runs learns authorities from its file and forgets none: it forgets the old one when it is started anew.
"""

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from infra.local.certificates import NEXT_KEY, WorldAuthority, certificate_file
from infra.local.configuration import WorldConfiguration
from infra.local.haproxy_control import CertificateNotTakenError, hand_authorities_to_haproxy, hand_to_haproxy
from infra.local.layout import Layout
from infra.local.planning import link_pairs
from infra.local.records import ProcessStatus, WorldRecord
from infra.local.rotating import TAKEN_WITHIN_S, Rotation, listeners_of, own_certificate, shown_by
from infra.local.securing import BALANCER, OPERATOR, Securing, identities
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.http.tls import ClientTls, client_context
from infra.plumbing.progress import Progress

SETTLE_S = 3.0
"""Three looks at the files (`infra.plumbing.reloading.LOOK_EVERY_S`)."""
_HANDSHAKE_S = 2.0
_LOOK_S = 0.1


class Succession:
    """One authority taking another's place, over listeners that follow their files.

    Args:
        directory: of the certificates.
        host: at which everybody listens.
        names: who has a certificate.
        listeners: port of those of them who listen, and run.
        handed: called with who got a new certificate, `""` for the trusted authorities: for processes that follow no
            files.
        settle_s: see SETTLE_S.
    """

    def __init__(
        self, directory: Path, *, host: str, names: Iterable[str], listeners: Mapping[str, int], clock: Clock,
        handed: Callable[[str], None] = lambda _name: None, settle_s: float = SETTLE_S,
    ) -> None:  # fmt: skip
        self._directory = directory
        self._host = host
        self._names = list(names)
        self._listeners = dict(listeners)
        self._clock = clock
        self._handed = handed
        self._settle_s = settle_s

    def run(self, progress: Progress) -> int:
        """Steps 1 and 2; returns how many certificates were made.

        Raises:
            CertificateNotTakenError: a listener does not follow; what was done stays, and the call may be repeated.
        """
        current = WorldAuthority(self._directory, host=self._host, clock=self._clock)
        if (self._directory / NEXT_KEY).exists() or current.trusted == 1 or not current.foreign(self._names):
            successor = WorldAuthority(self._directory, host=self._host, clock=self._clock, key_name=NEXT_KEY)
            self._handed("")
            self._await_trusted(successor)
            successor.take_over()
            current = successor
        # One listener first, by itself.
        waiting = sorted(current.foreign(self._names), key=lambda name: name not in self._listeners)
        done = 0
        for some in (waiting[:1], waiting[1:]):
            for name in some:
                current.issue(name)
                self._handed(name)
            for name in some:
                self._await_shown(name)
                done += 1
                progress.advance(done, len(waiting), "certificates of the new authority")
        return len(waiting)

    def _await_trusted(self, successor: WorldAuthority) -> None:
        """Wait until whoever lets the operator in does so with a certificate of the new authority too."""
        probe = self._directory / ".succession.pem"
        try:
            successor.issue(OPERATOR, to=probe)
            before, after = (self._context(certificate_file(self._directory, OPERATOR)), self._context(probe))
            open_to_us = {name: port for name, port in self._listeners.items() if lets_in(self._host, port, before)}
            self._until(lambda: {name for name, port in open_to_us.items() if not lets_in(self._host, port, after)})
        finally:
            probe.unlink(missing_ok=True)
        time.sleep(self._settle_s)

    def _await_shown(self, name: str) -> None:
        if name not in self._listeners:
            return
        own = own_certificate(certificate_file(self._directory, name))
        context = self._context(certificate_file(self._directory, OPERATOR))

        def behind() -> set[str]:
            with contextlib.suppress(OSError):
                if shown_by(self._host, self._listeners[name], context) == own:
                    return set()
            return {name}

        self._until(behind)

    def _until(self, behind: Callable[[], set[str]]) -> None:
        end_s = self._clock.monotonic_s() + TAKEN_WITHIN_S
        while left := behind():
            if self._clock.monotonic_s() >= end_s:
                raise CertificateNotTakenError(
                    f"{', '.join(sorted(left))} did not follow within {TAKEN_WITHIN_S:.0f} s.",
                    fix="Both authorities are trusted. Look into their logs, then give the command again.",
                )
            time.sleep(_LOOK_S)

    def _context(self, own: Path) -> ssl.SSLContext:
        tls = ClientTls(
            ca_file=str(Securing(self._directory, enabled=True).authority), certificate_file=str(own),
            key_file=str(own),
        )  # fmt: skip
        return client_context(tls, clock=self._clock).context


def lets_in(host: str, port: int, context: ssl.SSLContext) -> bool:
    """Whether a listener answers who shows this certificate; TLS 1.3 refuses one only behind the handshake."""
    try:
        with (
            socket.create_connection((host, port), timeout=_HANDSHAKE_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            secured.sendall(f"GET /health/live HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return secured.recv(1) != b""
    except (OSError, http.client.HTTPException):
        return False


def succeed(
    record: WorldRecord, layout: Layout, processes: tuple[ProcessStatus, ...], *, clock: Clock, progress: Progress
) -> Rotation:  # fmt: skip
    """Steps 1 and 2 in a running world.

    Raises:
        InvalidInputError: the world has no TLS.
        CertificateNotTakenError: a listener did not follow.
    """
    configuration, began_s = _with_tls(record), clock.monotonic_s()
    listeners = dict(listeners_of(record, processes))

    def handed(name: str) -> None:
        if configuration.balancer != "haproxy":
            return
        if not name:
            hand_authorities_to_haproxy(layout.haproxy, Securing(layout.tls, enabled=True).authority)
        elif name == BALANCER:
            hand_to_haproxy(layout.haproxy, certificate_file(layout.tls, BALANCER))

    succession = Succession(
        layout.tls, host=configuration.host, names=identities(configuration, link_pairs(configuration)),
        listeners=listeners, clock=clock, handed=handed,
    )  # fmt: skip
    issued = succession.run(progress)
    return Rotation(issued=issued, listeners=len(listeners), seconds=round(clock.monotonic_s() - began_s, 2))


def drop_old_authority(record: WorldRecord, layout: Layout, *, clock: Clock) -> None:
    """Step 3.

    Raises:
        InvalidInputError: the world has no TLS, or somebody's certificate is still of the old one.
        CertificateNotTakenError: HAProxy does not take it.
    """
    configuration = _with_tls(record)
    authority = WorldAuthority(layout.tls, host=configuration.host, clock=clock)
    names = identities(configuration, link_pairs(configuration))
    if (layout.tls / NEXT_KEY).exists() or authority.foreign(names):
        raise InvalidInputError(
            "not every process has a certificate of the new authority.",
            fix="Give `./atoll world rotate-certificates --authority` first; it goes on where it was.",
        )
    authority.drop_others()
    if configuration.balancer == "haproxy":
        hand_authorities_to_haproxy(layout.haproxy, authority.file)


def _with_tls(record: WorldRecord) -> WorldConfiguration:
    if not record.configuration.tls:
        raise InvalidInputError("this world has no TLS.", fix="Start it with `./atoll world up --tls`.")
    return record.configuration
