"""TLS between tiers as configuration: certificate, key and CA as files, read again when they change.

A listener with `client_ca_file` is mutual: who shows no certificate of that CA is refused in the handshake. New files
are taken over by the context that is in use: handshakes from then on see them, connections that stand go on.
"""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import msgspec

from infra.plumbing.clock import Clock
from infra.plumbing.errors import SettingsError
from infra.plumbing.reloading import LOOK_EVERY_S, Reloading


class ListenTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a process is served over TLS. All are paths of PEM files."""

    certificate_file: str
    """The chain, the process's own certificate first."""
    key_file: str
    client_ca_file: str = ""
    """Whose certificates clients must show; empty: clients need none."""


class ClientTls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a process calls others over TLS. All are paths of PEM files."""

    ca_file: str
    """Who signs the certificates of those it calls."""
    certificate_file: str = ""
    """Its own, for listeners that want one; empty: it shows none."""
    key_file: str = ""


class TlsContext:
    """An `ssl.SSLContext` that follows its files.

    Args:
        fill: loads the files into the context.
        files: what to watch.

    Raises:
        SettingsError: a file cannot be used.
    """

    def __init__(self, context: ssl.SSLContext, fill: Callable[[], None], files: tuple[str, ...], clock: Clock) -> None:
        self.context = context
        self.reloads = 0
        self._fill = fill
        self._sources = [Reloading(Path(file), _exists, clock=clock) for file in files if file]
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
            self._fill()
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"the TLS files cannot be used: {error.strerror or error}.", fix="They are PEM, and key and chain fit."
            ) from error


def listen_context(settings: ListenTls, *, clock: Clock) -> TlsContext:
    """The context of a listener.

    Raises:
        SettingsError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION
    if settings.client_ca_file:
        context.verify_mode = ssl.CERT_REQUIRED

    def fill() -> None:
        context.load_cert_chain(settings.certificate_file, settings.key_file)
        if settings.client_ca_file:
            context.load_verify_locations(settings.client_ca_file)

    return TlsContext(context, fill, (settings.certificate_file, settings.key_file, settings.client_ca_file), clock)


def client_context(settings: ClientTls, *, clock: Clock) -> TlsContext:
    """The context of a client: it trusts `ca_file` only, and checks names.

    Raises:
        SettingsError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    def fill() -> None:
        context.load_verify_locations(settings.ca_file)
        if settings.certificate_file:
            context.load_cert_chain(settings.certificate_file, settings.key_file)

    return TlsContext(context, fill, (settings.ca_file, settings.certificate_file, settings.key_file), clock)


def _exists(path: Path) -> None:
    if not path.is_file():
        raise SettingsError(f"there is no TLS file {path}.")
