"""Another authority takes the old one's place while callers call: no request fails, and then the old one is none."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.local.certificates import NEXT_KEY, WorldAuthority, certificate_file
from infra.local.haproxy_control import CertificateNotTakenError
from infra.local.securing import OPERATOR, Securing
from infra.local.succeeding import Succession, lets_in
from infra.plumbing.clock import SystemClock
from infra.plumbing.http.tls import ClientTls, Door, ListenTls, TlsContext, client_context, listen_context
from infra.plumbing.private_files import write_private
from infra.plumbing.progress import SilentProgress
from tests.unit.local.waiting import eventually

CLOCK = SystemClock()
HOST = "127.0.0.1"
LISTENERS = ("east/api", "east/edge-1")
NAMES = (*LISTENERS, OPERATOR)


class SmallWorld:
    """Two listeners that let in who has a certificate, and a caller that calls them all the time; all follow files."""

    def __init__(self, directory: Path) -> None:
        self.authority = WorldAuthority(directory, host=HOST, clock=CLOCK)
        self.authority.ensure(NAMES)
        self.securing = Securing(directory, enabled=True)
        self.ports: dict[str, int] = {}
        self.answered, self.failed = 0, list[str]()
        self.contexts: list[TlsContext] = []
        self._started, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()))

    async def _live(self) -> None:
        servers = []
        for name in LISTENERS:
            own = str(certificate_file(self.securing.directory, name))
            listening = ListenTls(
                certificate_file=own,
                key_file=own,
                client_ca_file=str(self.securing.authority),
                doors=(Door(prefix="/", names=("*",)),),
            )
            context = listen_context(listening, clock=CLOCK)
            self.contexts.append(context)
            server = await asyncio.start_server(self._answer, HOST, 0, ssl=context.context)
            self.ports[name] = server.sockets[0].getsockname()[1]
            servers.append(server)
        own = str(certificate_file(self.securing.directory, OPERATOR))
        settings = ClientTls(ca_file=str(self.securing.authority), certificate_file=own, key_file=own)
        calling = client_context(settings, clock=CLOCK)
        self.contexts.append(calling)
        following = [asyncio.create_task(context.follow()) for context in self.contexts]
        self._started.set()
        while not self._stop.is_set():
            for name in LISTENERS:
                await self._call(name, calling)
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        for server in servers:
            server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readline()
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await writer.drain()
        except OSError:
            pass
        writer.close()

    async def _call(self, name: str, calling: TlsContext) -> None:
        try:
            reader, writer = await asyncio.open_connection(HOST, self.ports[name], ssl=calling.context)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
            self.answered += 1
        except (OSError, AssertionError) as error:
            self.failed.append(f"{name}: {error!r}")

    def __enter__(self) -> "SmallWorld":
        self._thread.start()
        assert self._started.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def succession(self, *, handed: list[str] | None = None) -> Succession:
        return Succession(
            self.securing.directory,
            host=HOST,
            names=NAMES,
            listeners=self.ports,
            clock=CLOCK,
            handed=(handed if handed is not None else []).append,
            settle_s=0.2,
        )


@contextmanager
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("infra.plumbing.http.tls.LOOK_EVERY_S", 0.02)
    monkeypatch.setattr("infra.plumbing.reloading.LOOK_EVERY_S", 0.0)
    yield


def showing(directory: Path, own: Path) -> ClientTls:
    return ClientTls(ca_file=str(directory / "authority.pem"), certificate_file=str(own), key_file=str(own))


def test_no_call_fails_while_one_authority_takes_anothers_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with quick_looks(monkeypatch), SmallWorld(tmp_path) as world:
        of_the_old = world.authority.issue(OPERATOR, to=tmp_path / "old-operator.pem")
        handed: list[str] = []
        assert world.succession(handed=handed).run(SilentProgress()) == len(NAMES)
        assert handed == ["", *NAMES]
        current = WorldAuthority(tmp_path, host=HOST, clock=CLOCK)
        assert (current.trusted, current.foreign(NAMES), world.authority.foreign(NAMES)) == (2, [], list(NAMES))
        assert not (tmp_path / NEXT_KEY).exists()
        assert not list(tmp_path.glob(".succession*"))
        before = world.answered
        current.drop_others()
        assert eventually(lambda: world.answered >= before + 20 or bool(world.failed))
        assert world.failed == []
        old = client_context(showing(tmp_path, of_the_old), clock=CLOCK).context
        assert lets_in(HOST, world.ports["east/api"], old), "what runs forgets no authority"
    with SmallWorld(tmp_path) as restarted:
        port = restarted.ports["east/api"]
        own = certificate_file(tmp_path, OPERATOR)
        assert lets_in(HOST, port, client_context(showing(tmp_path, own), clock=CLOCK).context)
        assert not lets_in(HOST, port, old), "what starts from now on does not know it"


def test_a_succession_that_was_killed_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with quick_looks(monkeypatch), SmallWorld(tmp_path) as world:
        # Before everybody trusts the new one; its key was written, and a kill came before its certificate was.
        trusted = (tmp_path / "authority.pem").read_bytes()
        WorldAuthority(tmp_path / "other", host=HOST, clock=CLOCK)
        write_private(tmp_path / NEXT_KEY, (tmp_path / "other" / "authority.key").read_bytes())
        begun = WorldAuthority(tmp_path, host=HOST, clock=CLOCK, key_name=NEXT_KEY)
        assert begun.trusted == 2
        assert (tmp_path / "authority.pem").read_bytes().startswith(trusted)
        # Behind the first certificate.
        begun.take_over()
        begun.issue("east/api")
        assert world.succession().run(SilentProgress()) == 2
        assert begun.trusted == 2
        assert world.failed == []


def test_a_listener_that_does_not_follow_stops_it_before_anybody_shows_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SmallWorld(tmp_path) as world:
        for context in world.contexts:
            monkeypatch.setattr(context, "refresh", lambda: False)
        monkeypatch.setattr("infra.local.succeeding.TAKEN_WITHIN_S", 0.1)
        with pytest.raises(CertificateNotTakenError, match=r"east/api, east/edge-1 did not follow"):
            world.succession().run(SilentProgress())
        assert WorldAuthority(tmp_path, host=HOST, clock=CLOCK).foreign(NAMES) == []
        assert (tmp_path / NEXT_KEY).exists()
