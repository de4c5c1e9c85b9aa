"""TLS on a link: it ends the caller's connection with a certificate of its own and makes another to the far end.

Only the links of a world do this, with certificates that its own authority gave them: so what crosses is recorded as
it was said. An attacker's proxy has no such certificate; and who a link lets in is whom the far end would let in.

A connection is accepted first and secured afterwards, so that a link that is a black hole, or resets, is one from the
first byte on, as the network would be.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable

import msgspec

from infra.plumbing.clock import Clock
from infra.plumbing.http.identity import Refused
from infra.plumbing.http.tls import ClientTls, ListenTls, TlsContext, client_context, listen_context

HANDSHAKE_S = 3.0
ACCEPT_PAUSE_S = 0.1
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class LinkTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one link speaks TLS with both of its ends."""

    listen: ListenTls
    connect: ClientTls


class SecuredEnds:
    """The TLS contexts of one link.

    Raises:
        SettingsError: a TLS file cannot be used.
    """

    def __init__(self, settings: LinkTls, *, clock: Clock, refused: Refused) -> None:
        self._listen = listen_context(settings.listen, clock=clock, refused=refused)
        self._connect = client_context(settings.connect, clock=clock, refused=refused)

    @property
    def contexts(self) -> tuple[TlsContext, TlsContext]:
        """What has to follow its files."""
        return self._listen, self._connect

    @property
    def far(self) -> ssl.SSLContext:
        """For connections to the far end."""
        return self._connect.context

    async def take(self, accepted: socket.socket, *, plain: bool, limit: int) -> Ends:
        """Do the handshake with a caller whose connection was accepted, or none where `plain`.

        Raises:
            OSError: it failed (`ssl.SSLError` is one), or took longer than HANDSHAKE_S.
        """
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=limit)
        protocol = asyncio.StreamReaderProtocol(reader)
        tls = None if plain else self._listen.context
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, accepted, ssl=tls, ssl_handshake_timeout=None if plain else HANDSHAKE_S
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def listen(host: str, port: int, *, backlog: int) -> socket.socket:
    """A listening socket for `accept`.

    Raises:
        OSError: the port is taken.
    """
    listening = socket.create_server((host, port), backlog=backlog)
    listening.settimeout(0)
    return listening


async def accept(listening: socket.socket, handle: Callable[[socket.socket], object]) -> None:
    """Give every connection to `handle`, until cancelled.

    Nothing is read of a connection before it is known whether the link answers at all.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            accepted, _ = await loop.sock_accept(listening)
        except OSError:  # no descriptor is left: others end, and this goes on
            await asyncio.sleep(ACCEPT_PAUSE_S)
            continue
        accepted.settimeout(0)
        handle(accepted)
