"""TLS between tiers as configuration: certificate, key and CA as files, read again when they change.

A listener with `client_ca_file` is mutual: who shows no certificate of that CA is refused in the handshake, and so is
one whose name opens none of its `doors` (`identity`). New files are taken over by the context that is in use:
handshakes from then on see them, connections that stand go on.
"""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import msgspec

from infra.plumbing.clock import Clock
from infra.plumbing.errors import SettingsError
from infra.plumbing.http.identity import Refused, gate, untold
from infra.plumbing.private_files import check_private
from infra.plumbing.reloading import LOOK_EVERY_S, Reloading


class Door(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may call which paths of a listener, by the name in the certificate."""

    prefix: str
    """Of the route; of a listener's doors the first one that fits counts."""
    names: tuple[str, ...] = ()
    """`us-east/edge-*`, say; empty: everybody, with a certificate or without."""


class ListenTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a process is served over TLS. All are paths of PEM files."""

    certificate_file: str
    """The chain, the process's own certificate first. Certificate and key may lie in one file, which can be replaced
    in one step."""
    key_file: str
    client_ca_file: str = ""
    """Whose certificates clients must show; empty: clients need none."""
    doors: tuple[Door, ...] = ()
    """With `client_ca_file`: who may call what; what has no door is closed. Empty: every certificate opens all."""

    @property
    def named(self) -> tuple[str, ...]:
        """Whose certificates open any door; empty: anybody's, or there is a door that needs none."""
        return () if self.is_open else tuple(dict.fromkeys(name for door in self.doors for name in door.names))

    @property
    def is_open(self) -> bool:
        """Whether there is a door that needs no certificate."""
        return any(not door.names for door in self.doors)


class ClientTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a process calls others over TLS. All are paths of PEM files."""

    ca_file: str
    """Who signs the certificates of those it calls."""
    certificate_file: str = ""
    """Its own, for listeners that want one; empty: it shows none."""
    key_file: str = ""
    server_names: tuple[str, ...] = ()
    """Who may answer, by the name in the certificate (`us-east/api`), beside the host name; empty: whoever has that."""


class TlsContext:
    """An `ssl.SSLContext` that follows its files.

    Args:
        fill: loads the files into a context.
        files: what to watch.

    Raises:
        SettingsError: a file cannot be used.
    """

    def __init__(
        self, context: ssl.SSLContext, fill: Callable[[ssl.SSLContext], None], files: tuple[str, ...], clock: Clock
    ) -> None:
        self.context = context
        self.reloads = 0
        self._fill = fill
        self._sources = [Reloading(Path(file), _exists, clock=clock) for file in dict.fromkeys(files) if file]
        self._editions = self._current()
        self._load()

    def refresh(self) -> bool:
        """Take over files that changed; whether there were any. A pair that does not fit is tried again later."""
        editions = self._current()
        if editions == self._editions:
            return False
        try:
            self._load()
        except SettingsError:
            return False  # Half of a pair was written so far.
        self._editions = editions
        self.reloads += 1
        return True

    async def follow(self) -> None:
        """Refresh until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.refresh()

    def _current(self) -> list[int]:
        for source in self._sources:
            source.get()
        return [source.edition for source in self._sources]

    def _load(self) -> None:
        try:
            # A pair that does not fit would leave the context in use with a certificate and no key.
            self._fill(ssl.SSLContext(self.context.protocol))
            self._fill(self.context)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"the TLS files cannot be used: {error.strerror or error}.", fix="They are PEM, and key and chain fit."
            ) from error


def listen_context(settings: ListenTls, *, clock: Clock, refused: Refused = untold) -> TlsContext:
    """The context of a listener; `refused` is told of every connection that it refuses.

    Raises:
        SettingsError: a file cannot be used, or doors are set and no CA.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION
    if settings.client_ca_file:
        context.verify_mode = ssl.CERT_OPTIONAL if settings.is_open else ssl.CERT_REQUIRED
    elif settings.doors:
        raise SettingsError("tls has doors and no client_ca_file.", fix="Name the CA of those who may come in.")
    gate(context, names=settings.named, refused=refused)

    def fill(into: ssl.SSLContext) -> None:
        _load_pair(into, settings.certificate_file, settings.key_file)
        if settings.client_ca_file:
            into.load_verify_locations(settings.client_ca_file)

    return TlsContext(context, fill, (settings.certificate_file, settings.key_file, settings.client_ca_file), clock)


def client_context(settings: ClientTls, *, clock: Clock, refused: Refused = untold) -> TlsContext:
    """The context of a client: it trusts `ca_file` only, and checks host names and `server_names`.

    Raises:
        SettingsError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    gate(context, names=settings.server_names, refused=refused)

    def fill(into: ssl.SSLContext) -> None:
        into.load_verify_locations(settings.ca_file)
        if settings.certificate_file:
            _load_pair(into, settings.certificate_file, settings.key_file)

    return TlsContext(context, fill, (settings.ca_file, settings.certificate_file, settings.key_file), clock)


def _load_pair(into: ssl.SSLContext, certificate_file: str, key_file: str) -> None:
    check_private(Path(key_file))
    into.load_cert_chain(certificate_file, key_file)


def _exists(path: Path) -> None:
    if not path.is_file():
        raise SettingsError(f"there is no TLS file {path}.")
