"""New certificates for a world that runs: made, handed to HAProxy where it is the balancer, and waited for.

Processes follow their files (`infra.plumbing.http.tls`): nothing is restarted, connections that stand go on, and the
next handshake shows the new certificate. That it does is asked of every listener, with a handshake of its own.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from infra.local.certificates import WorldAuthority, certificate_file
from infra.local.configuration import CENTRAL_FLOWER
from infra.local.haproxy_control import CertificateNotTakenError, hand_to_haproxy
from infra.local.layout import Layout
from infra.local.planning import link_name, link_pairs
from infra.local.records import ProbeKind, ProcessState, ProcessStatus, WorldRecord
from infra.local.securing import BALANCER, OPERATOR, Securing, identities, link_identity
from infra.local.servers.authorities import renew_certificates
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.http.tls import client_context
from infra.plumbing.progress import Progress

TAKEN_WITHIN_S = 20.0
_HANDSHAKE_S = 2.0
_LOOK_S = 0.2


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """What a rotation did."""

    issued: int
    """Certificates made."""
    listeners: int
    """Listeners that were asked, and show the new one."""
    seconds: float
    """From the first new certificate to the last listener that showed its own."""


def rotate(
    record: WorldRecord, layout: Layout, processes: tuple[ProcessStatus, ...], *, clock: Clock, progress: Progress
) -> Rotation:  # fmt: skip
    """Give every process of a running world a new key and certificate, and wait until each shows it.

    Args:
        record: of the world.
        layout: where its files lie.
        processes: as they are now; what is down is not waited for, it starts with its new certificate.
        clock: for the deadline.
        progress: told how many listeners have followed.

    Raises:
        InvalidInputError: the world has no TLS.
        CertificateNotTakenError: a listener did not follow within TAKEN_WITHIN_S.
    """
    configuration = record.configuration
    if not configuration.tls:
        raise InvalidInputError("this world has no TLS.", fix="Start it with `./atoll world up --tls`.")
    authority = WorldAuthority(layout.tls, host=configuration.host, clock=clock)
    began_s = clock.monotonic_s()
    names = list(identities(configuration, link_pairs(configuration)))
    for name in names:
        authority.issue(name)
    if configuration.balancer == "haproxy":
        hand_to_haproxy(layout.haproxy, certificate_file(layout.tls, BALANCER))
    issued = len(names) + renew_certificates(
        layout.tls, record.processes, configuration.region_names, host=configuration.host, clock=clock
    )  # fmt: skip
    waiting = dict(listeners_of(record, processes))
    total = len(waiting)
    while waiting:
        _drop_followed(waiting, configuration.host, layout, clock)
        progress.advance(total - len(waiting), total, "listeners with new certificates")
        if waiting and clock.monotonic_s() - began_s > TAKEN_WITHIN_S:
            raise CertificateNotTakenError(
                f"{', '.join(sorted(waiting))} still show old certificates after {TAKEN_WITHIN_S:.0f} s.",
                fix=f"Look into their logs in {layout.logs}.",
            )
        if waiting:
            time.sleep(_LOOK_S)
    return Rotation(issued=issued, listeners=total, seconds=round(clock.monotonic_s() - began_s, 2))


def listeners_of(record: WorldRecord, processes: tuple[ProcessStatus, ...]) -> Iterator[tuple[str, int]]:
    """Name in the certificate and port of everything that runs and listens with TLS."""
    secured = {plan.name for plan in record.processes if plan.probe is ProbeKind.HTTPS}
    up = {one.name: one for one in processes if one.state in (ProcessState.LIVE, ProcessState.READY)}
    for name in sorted(secured & up.keys()):
        yield name, int(up[name].address.rpartition(":")[2])
    if "wan" in up:
        for origin, destination in link_pairs(record.configuration):
            if destination != CENTRAL_FLOWER:
                yield link_identity(origin, destination), record.ports[link_name(origin, destination)]


def _drop_followed(waiting: dict[str, int], host: str, layout: Layout, clock: Clock) -> None:
    tls = Securing(layout.tls, enabled=True).connect(OPERATOR)
    if tls is None:
        return
    context = client_context(tls, clock=clock).context
    for name, port in list(waiting.items()):
        with contextlib.suppress(OSError):
            if shown_by(host, port, context) == own_certificate(certificate_file(layout.tls, name)):
                del waiting[name]


def shown_by(host: str, port: int, context: ssl.SSLContext) -> bytes:
    """The certificate (DER) that a listener shows now.

    Raises:
        OSError: it does not answer, or not with TLS.
    """
    with (
        socket.create_connection((host, port), timeout=_HANDSHAKE_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


def own_certificate(path: Path) -> bytes:
    """The certificate (DER) in a file that holds it with its key."""
    text = path.read_text()
    end = "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(text[: text.index(end) + len(end)])
