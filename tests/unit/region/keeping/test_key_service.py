"""A node whose root key is in a key service: its log lives on while the service is gone, and is rotated by command."""

import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from infra.local.certificates import WorldAuthority, certificate_file
from infra.plumbing.clock import SystemClock
from infra.plumbing.http.tls import ClientTls
from region.events.opening import open_log
from region.events.port import Log
from region.keeping import __main__ as keeping
from region.keeping import rotating
from region.keeping.key_service import KeyServiceGoneError, KeyServiceSettings, TransitKey
from region.keeping.opening import open_file_keys
from region.settings import RegionSettings
from tests.contract.building import ALICE, BOB, logged
from tests.support.transit import KEY, TransitServer
from tests.unit.region_events.test_worker import settings_in


@pytest.fixture
def service(tmp_path: Path) -> Iterator[TransitServer]:
    server = TransitServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def settings(service: TransitServer, tmp_path: Path) -> RegionSettings:
    (tmp_path / "state").mkdir()
    held = KeyServiceSettings(url=service.url, key=KEY, token_file=str(service.token_file), timeout_s=1.0)
    return replace(settings_in(tmp_path / "state"), key_service=held)


async def subjects_of(log: Log) -> list[str]:
    return [one.logged.subject for one in await log.read(after={0: 0}, limit=10)]


async def test_a_log_goes_on_while_the_service_is_gone_and_a_node_that_starts_does_not(
    service: TransitServer, settings: RegionSettings
) -> None:
    log = open_log(settings)
    await log.append([logged(1)])
    service.stop()
    await log.append([logged(2), logged(3, subject=BOB)])
    assert await subjects_of(log) == [ALICE, ALICE, BOB]
    assert (await log.forget(BOB)).records == 1  # a key that goes need not be opened
    await log.close()
    with pytest.raises(KeyServiceGoneError, match=r"does not answer.*region/keeping/README\.md"):
        open_log(settings)
    service.start()
    log = open_log(settings)
    assert await subjects_of(log) == [ALICE, ALICE]
    await log.close()


async def test_a_log_of_a_key_file_comes_under_the_service_and_is_rotated(
    service: TransitServer, settings: RegionSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotating, "LOOK_S", 0.0)
    by_file = replace(settings, key_service=None)
    log = open_log(by_file)
    await log.append([logged(1)])
    await log.close()
    report = await rotating.rotate(settings)
    assert (report.files, report.subjects, report.version) == (2, 1, 2)
    service.least = 2  # nothing is left under the first version
    log = open_log(settings)
    assert await subjects_of(log) == [ALICE]
    await log.close()
    assert (await rotating.rotate(settings)).version == 3


def test_the_command_says_what_it_did_and_what_is_wrong(
    service: TransitServer, settings: RegionSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(rotating, "LOOK_S", 0.0)
    file = tmp_path / "region.json"
    file.write_bytes(msgspec.json.encode(settings))
    assert keeping.main(["rotate", "--settings", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 2
    service.token = "another"
    assert keeping.main(["rotate", "--settings", str(file)]) == 2
    assert "needs a policy for transit/keys/us-east/rotate" in capsys.readouterr().err
    file.write_bytes(msgspec.json.encode(replace(settings, key_service=None)))
    assert keeping.main(["rotate", "--settings", str(file)]) == 2
    assert "no key service" in capsys.readouterr().err


def test_a_service_is_spoken_to_over_tls_and_only_the_one_that_is_trusted(tmp_path: Path) -> None:
    clock = SystemClock()
    authorities = [WorldAuthority(tmp_path / name, host="127.0.0.1", clock=clock) for name in ("ours", "another")]
    for authority in authorities:
        authority.ensure(["vault"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file(tmp_path / "ours", "vault"))
    server = TransitServer(tmp_path, tls=context)
    try:
        trusting, not_trusting = (
            TransitKey(
                KeyServiceSettings(
                    url=server.url, key=KEY, token_file=str(server.token_file),
                    tls=ClientTls(ca_file=str(authority.file)),
                ), clock=clock,
            )
            for authority in authorities
        )  # fmt: skip
        assert trusting.decrypt(trusting.encrypt(b"a key")) == b"a key"
        with pytest.raises(KeyServiceGoneError, match="SSLError"):
            not_trusting.encrypt(b"a key")
    finally:
        server.stop()


def test_a_file_key_made_under_the_service_is_not_in_what_lies_beside_the_file(settings: RegionSettings) -> None:
    path = Path(settings.state_directory) / "log.sqlite"
    key = open_file_keys(settings).of(path)
    assert key not in path.with_name("log.sqlite.key").read_bytes()
