"""The world's authority, who may open which door, and links that speak TLS with both ends."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from cryptography import x509

from infra.local.certificates import LEFT_MIN, LIFE, WorldAuthority, certificate_file
from infra.local.configuration import (
    CENTRAL,
    CENTRAL_FLOWER,
    PortsConfiguration,
    RegionConfiguration,
    WorldConfiguration,
)
from infra.local.planning import link_pairs
from infra.local.ports import assign_ports, is_port_free
from infra.local.securing import (
    OPERATOR,
    Securing,
    balancer_doors,
    edge_doors,
    gateway_doors,
    identities,
    link_identity,
    region_doors,
    repository_doors,
)
from infra.local.wan.capture import CaptureWriter, Direction, read_capture
from infra.local.wan.link import Link
from infra.local.wan.securing import SecuredEnds
from infra.local.wan.settings import LinkSettings
from infra.local.wan.shaping import LinkMode, LinkShape
from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.errors import SettingsError
from infra.plumbing.http.doors import is_open_to
from infra.plumbing.http.identity import name_of, uri_of
from infra.plumbing.http.tls import ClientTls, Door, ListenTls, client_context, listen_context

WORLD = WorldConfiguration(
    regions=tuple(RegionConfiguration(name=name, edges=2) for name in ("east", "west")), tls=True
)
CLOCK = SystemClock()


@pytest.fixture
def authority(tmp_path: Path) -> WorldAuthority:
    made = WorldAuthority(tmp_path, host="127.0.0.1", clock=CLOCK)
    made.ensure(identities(WORLD, link_pairs(WORLD)))
    return made


def serial(directory: Path, name: str) -> int:
    return x509.load_pem_x509_certificate(certificate_file(directory, name).read_bytes()).serial_number


def test_certificates_are_made_once_and_anew_when_they_near_their_end(tmp_path: Path) -> None:
    clock = ManualClock(wall_ms=CLOCK.now_ms())
    first = WorldAuthority(tmp_path, host="127.0.0.1", clock=clock)
    assert first.ensure(["east/edge-1", "operator"]) == ["east/edge-1", "operator"]
    again = WorldAuthority(tmp_path, host="127.0.0.1", clock=clock)
    assert again.ensure(["east/edge-1", "operator"]) == []
    before = serial(tmp_path, "operator")
    clock.advance((LIFE - LEFT_MIN).total_seconds() + 1)
    assert again.ensure(["operator"]) == ["operator"]
    assert serial(tmp_path, "operator") != before
    assert certificate_file(tmp_path, "east/edge-1").stat().st_mode & 0o777 == 0o600
    # Another authority's certificate is no certificate.
    (tmp_path / "authority.pem").unlink()
    assert WorldAuthority(tmp_path, host="127.0.0.1", clock=clock).ensure(["operator"]) == ["operator"]


def test_an_authority_whose_files_do_not_fit_is_said(tmp_path: Path) -> None:
    WorldAuthority(tmp_path, host="127.0.0.1", clock=CLOCK)
    other = WorldAuthority(tmp_path / "other", host="127.0.0.1", clock=CLOCK)
    (tmp_path / "authority.pem").write_bytes(other.file.read_bytes())
    with pytest.raises(SettingsError, match="do not fit"):
        WorldAuthority(tmp_path, host="127.0.0.1", clock=CLOCK)
    (tmp_path / "authority.key").write_text("none")
    with pytest.raises(SettingsError, match="cannot be read"):
        WorldAuthority(tmp_path, host="127.0.0.1", clock=CLOCK)


@pytest.mark.parametrize(
    ("doors", "path", "welcome", "refused"),
    [
        (balancer_doors(), "/{path}", ("", "operator"), ()),
        (balancer_doors(), "/metrics", ("operator", "supervisor"), ("", "east/edge-1")),
        (edge_doors(), "/v1/events", ("balancer", "operator"), ("", "east/api", "east/edge-2")),
        (region_doors("east"), "/v1/recommend", ("east/edge-1", "link/east--east"), ("west/edge-1", "link/west--east")),
        (region_doors("east"), "/v1/privacy/erase", ("east/edge-2",), ("west/edge-1", "operator", "balancer")),
        (region_doors("east"), "/v1/relay", ("link/west--east",), ("west/edge-1", "link/east--west", "east/edge-1")),
        (region_doors("east"), "/operator/v1/promote", ("operator",), ("east/edge-1", "supervisor")),
        (region_doors("east"), "/metrics/targets", ("supervisor",), ("east/edge-1", "")),
        (region_doors("east"), "/other", (), ("operator", "east/edge-1", "")),
        (gateway_doors("east"), "/v1/device/check-in", ("", "west/edge-1"), ()),
        (gateway_doors("east"), "/v1/rounds/{round_id}", ("east/supernode",), ("", "west/supernode", "operator")),
        (repository_doors(), "/targets/{path}", ("link/east--central",), ("", "east/api", "link/east--west")),
    ],
)  # fmt: skip
def test_doors_open_to_whom_the_table_says(
    doors: tuple[Door, ...], path: str, welcome: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    for name in welcome:
        assert is_open_to(doors, path, name), name
    for name in refused:
        assert not is_open_to(doors, path, name), name


def test_names_in_certificates() -> None:
    assert name_of({"subjectAltName": (("DNS", "localhost"), ("URI", uri_of("east/api")))}) == "east/api"
    assert name_of({"subjectAltName": (("URI", "spiffe://elsewhere/east/api"),)}) == ""
    assert name_of({}) == name_of(None) == ""


def test_doors_need_an_authority(authority: WorldAuthority, tmp_path: Path) -> None:
    own = str(certificate_file(tmp_path, OPERATOR))
    with pytest.raises(SettingsError, match="doors"):
        listen_context(ListenTls(certificate_file=own, key_file=own, doors=(Door(prefix="/"),)), clock=CLOCK)


# Over the loop that the process uses, and over the one that tests use: they differ in what accepting a socket means.
@pytest.fixture(params=["uvloop", "asyncio"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if request.param == "uvloop" else None) as made:
        yield made


@asynccontextmanager
async def secured_link(authority: WorldAuthority, directory: Path, told: list[str]) -> AsyncIterator[Link]:
    """A link from east to west whose far end says what it hears, and who said it."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        who = name_of(writer.get_extra_info("peercert"))
        writer.write(f"{who} says ".encode() + await reader.readuntil(b"."))
        writer.close()

    securing = Securing(directory, enabled=True)
    listening = securing.listen("west/api", region_doors("west"))
    settings = securing.link("east", "west", "west/api")
    assert listening is not None
    assert settings is not None
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=listen_context(listening, clock=CLOCK).context)
    ports = assign_ports(
        ["x"], configured=PortsConfiguration(), previous={}, seed=str(directory),
        is_free=lambda port: is_port_free("127.0.0.1", port),
    )  # fmt: skip
    link = Link(
        settings=LinkSettings(
            origin="east", destination="west", port=ports["x"], target_port=server.sockets[0].getsockname()[1],
            tls=settings,
        ),
        host="127.0.0.1", capture=CaptureWriter(directory / "east--west.bin", bytes_max=1 << 20), clock=CLOCK,
        connections_max=10, secured=SecuredEnds(settings, clock=CLOCK, refused=lambda why, _who: told.append(why)),
    )  # fmt: skip
    await link.start()
    try:
        yield link
    finally:
        await link.stop()
        server.close()


async def say(link: Link, directory: Path, name: str) -> bytes:
    """What the far end answers to the process `name`; `` for none."""
    tls = Securing(directory, enabled=True).connect(name, link_identity("east", "west"))
    if name == "nobody":
        tls = ClientTls(ca_file=str(directory / "authority.pem"))
    assert tls is not None
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", link.settings.port, ssl=client_context(tls, clock=CLOCK).context
        )
        writer.write(b"hello.")
        answer = await reader.read(-1)
        writer.close()
        return answer
    except OSError:
        return b""


def test_a_link_speaks_tls_with_both_ends_and_records_what_was_said(
    authority: WorldAuthority, tmp_path: Path, runner: asyncio.Runner
) -> None:
    told: list[str] = []

    async def story() -> None:
        async with asyncio.timeout(20), secured_link(authority, tmp_path, told) as link:
            for _ in range(20):  # The first bytes come with the connection, or right behind it.
                assert await say(link, tmp_path, "east/edge-1") == b"link/east--west says hello."
            assert await say(link, tmp_path, "west/edge-1") == b""
            assert await say(link, tmp_path, "nobody") == b""
            assert link.counters.refused == 2
            assert link.counters.connections == 20

    runner.run(story())
    assert told == ["wrong-name", "no-certificate"]
    records = list(read_capture((tmp_path / "east--west.bin").read_bytes()))
    assert [one.payload for one in records if one.direction is Direction.OUT] == [b"hello."] * 20
    assert b"".join(one.payload for one in records if one.direction is Direction.BACK).count(b"says hello.") == 20


def test_a_link_with_tls_can_be_a_black_hole_from_the_first_byte_and_reset(
    authority: WorldAuthority, tmp_path: Path, runner: asyncio.Runner
) -> None:
    async def story() -> None:
        async with asyncio.timeout(20), secured_link(authority, tmp_path, []) as link:
            link.change(LinkShape(mode=LinkMode.BLACK_HOLE))
            waiting = asyncio.create_task(say(link, tmp_path, "east/edge-1"))
            while not link.counters.bytes_out:  # noqa: ASYNC110 - the other end of a socket
                await asyncio.sleep(0)
            assert not waiting.done()
            link.change(LinkShape(mode=LinkMode.RESET))
            assert await waiting == b""
            assert await say(link, tmp_path, "east/edge-1") == b""
            link.change(LinkShape())
            assert await say(link, tmp_path, "east/edge-1") == b"link/east--west says hello."

    runner.run(story())
    assert all(record.payload in (b"", b"hello.", b"link/east--west says hello.")
               for record in read_capture((tmp_path / "east--west.bin").read_bytes()))  # fmt: skip


def test_the_links_to_flower_have_keys_of_each_runs_own() -> None:
    names = set(identities(WORLD, link_pairs(WORLD)))
    assert {"east/edge-2", "west/supernode", link_identity("west", CENTRAL), link_identity("east", "west")} <= names
    assert Securing(Path("/x"), enabled=False).link("east", CENTRAL_FLOWER, "") is None
    assert Securing(Path("/x"), enabled=False).trusting() is None
