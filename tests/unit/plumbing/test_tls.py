"""TLS between tiers: who gets in, and new certificates without a dropped connection."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import SettingsError
from infra.plumbing.http.tls import ClientTls, ListenTls, TlsContext, client_context, listen_context
from tests.support.certificates import Authority

CLOCK = ManualClock()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def listening(authority: Authority, *, mutual: bool) -> ListenTls:
    certificate, key = authority.issue("edge")
    return ListenTls(
        certificate_file=str(certificate), key_file=str(key), client_ca_file=str(authority.file) if mutual else ""
    )


@pytest.fixture
async def served(authority: Authority) -> AsyncIterator[tuple[str, TlsContext]]:
    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.add_routes([web.get("/", hello)])
    context = listen_context(listening(authority, mutual=True), clock=CLOCK)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context.context)
    await site.start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}/", context
    await runner.cleanup()


async def get(url: str, settings: ClientTls) -> str:
    context = client_context(settings, clock=CLOCK).context
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as answer:
        return await answer.text()


async def test_only_who_shows_a_certificate_of_ours_gets_in(
    served: tuple[str, TlsContext], authority: Authority, tmp_path: Path
) -> None:
    url, _ = served
    certificate, key = authority.issue("client")
    good = ClientTls(ca_file=str(authority.file), certificate_file=str(certificate), key_file=str(key))
    assert await get(url, good) == "hello"
    stranger = Authority(tmp_path / "stranger", name="other")
    theirs, their_key = stranger.issue("client")
    for bad in (
        ClientTls(ca_file=str(authority.file)),  # shows none
        ClientTls(ca_file=str(authority.file), certificate_file=str(theirs), key_file=str(their_key)),
        ClientTls(ca_file=str(stranger.file), certificate_file=str(certificate), key_file=str(key)),  # trusts another
    ):
        with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
            await get(url, bad)


async def test_a_new_certificate_is_taken_over_and_nobody_is_cut_off(
    served: tuple[str, TlsContext], authority: Authority
) -> None:
    url, context = served
    certificate, key = authority.issue("client")
    settings = ClientTls(ca_file=str(authority.file), certificate_file=str(certificate), key_file=str(key))
    client = client_context(settings, clock=CLOCK).context

    async def connected() -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
        port = int(url.rstrip("/").rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        return reader, writer, str(writer.get_extra_info("peercert")["serialNumber"])

    async def asks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return await asyncio.wait_for(reader.readuntil(b"hello"), 10)

    reader, writer, before = await connected()
    assert b"200 OK" in await asks(reader, writer)
    assert not context.refresh()
    authority.issue("edge")  # Certificate and key anew, under the same names.
    CLOCK.advance(1)
    assert context.refresh()
    assert b"200 OK" in await asks(reader, writer)  # The same connection goes on.
    _, later, after = await connected()
    assert after != before
    for one in (writer, later):
        one.close()
        await one.wait_closed()
    (authority.directory / "edge.key").write_text("half of a file")
    CLOCK.advance(1)
    assert not context.refresh()
    assert await get(url, settings) == "hello"
    authority.issue("edge")
    CLOCK.advance(1)
    assert context.refresh()


def test_files_that_cannot_be_used_are_said_before_anything_is_served(authority: Authority, tmp_path: Path) -> None:
    good = listening(authority, mutual=False)
    Path(good.certificate_file).chmod(0o600)
    for key_file in (str(tmp_path / "none"), good.certificate_file):
        with pytest.raises(SettingsError, match="TLS file"):
            listen_context(ListenTls(certificate_file=good.certificate_file, key_file=key_file), clock=CLOCK)
    with pytest.raises(SettingsError):
        client_context(ClientTls(ca_file=str(tmp_path / "none")), clock=CLOCK)


async def test_following_ends_when_it_is_told(authority: Authority) -> None:
    context = listen_context(listening(authority, mutual=False), clock=CLOCK)
    task = asyncio.create_task(context.follow())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
