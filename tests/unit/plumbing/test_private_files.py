"""A key that others may read is refused wherever one is loaded, with the command that mends it."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from federation.gateway.app import round_key_in
from infra.cli.region import _key_in
from infra.local.certificates import WorldAuthority
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import SettingsError
from infra.plumbing.http.tls import ClientTls, ListenTls, client_context, listen_context
from infra.plumbing.keys import RegionKeys
from infra.plumbing.private_files import ExposedSecretError, check_private, open_private, read_private, write_private
from infra.plumbing.service_keys import KeyRing, ServiceKeys
from infra.plumbing.tuf_client.signing import create_signer, load_signer, read_passphrase
from region.keeping.key_service import KeyServiceSettings, TransitKey
from tests.support.certificates import Authority

CLOCK = SystemClock()


def region_keys(folder: Path) -> tuple[Path, Callable[[], object]]:
    RegionKeys.generate("east").save(folder / "keys.json")
    return folder / "keys.json", lambda: RegionKeys.load(folder / "keys.json")


def service_keys(folder: Path) -> tuple[Path, Callable[[], object]]:
    ServiceKeys().save(folder / "service-keys.json")
    return folder / "service-keys.json", lambda: KeyRing(folder / "service-keys.json", clock=CLOCK)


def operator_key(folder: Path) -> tuple[Path, Callable[[], object]]:
    write_private(folder / "ada.key", b"ada:secret\n")
    return folder / "ada.key", lambda: _key_in(folder / "ada.key")


def signing_key(folder: Path) -> tuple[Path, Callable[[], object]]:
    create_signer(folder / "targets-1.pem")
    return folder / "targets-1.pem", lambda: load_signer(folder / "targets-1.pem")


def listener(folder: Path) -> tuple[Path, Callable[[], object]]:
    certificate, key = Authority(folder).issue("api")
    settings = ListenTls(certificate_file=str(certificate), key_file=str(key))
    return key, lambda: listen_context(settings, clock=CLOCK)


def caller(folder: Path) -> tuple[Path, Callable[[], object]]:
    authority = Authority(folder)
    certificate, key = authority.issue("edge")
    settings = ClientTls(ca_file=str(authority.file), certificate_file=str(certificate), key_file=str(key))
    return key, lambda: client_context(settings, clock=CLOCK)


def world_authority(folder: Path) -> tuple[Path, Callable[[], object]]:
    def load() -> object:
        return WorldAuthority(folder, host="127.0.0.1", clock=CLOCK)

    load()
    return folder / "authority.key", load


def round_key(folder: Path) -> tuple[Path, Callable[[], object]]:
    return folder / "round.key", lambda: round_key_in(folder / "round.key", entropy=secrets.token_bytes)


def key_service_token(folder: Path) -> tuple[Path, Callable[[], object]]:
    write_private(folder / "token", b"hvs.token\n")
    settings = KeyServiceSettings(url="http://127.0.0.1:8200", key="east", token_file=str(folder / "token"))
    return folder / "token", lambda: TransitKey(settings, clock=CLOCK)


def passphrase(folder: Path) -> tuple[Path, Callable[[], object]]:
    write_private(folder / "passphrase", b"a long passphrase\n")
    return folder / "passphrase", lambda: read_passphrase(folder / "passphrase")


@pytest.mark.parametrize(
    "made",
    [
        region_keys, service_keys, operator_key, signing_key, listener, caller, world_authority, round_key,
        key_service_token, passphrase,
    ],
)  # fmt: skip
def test_whatever_loads_a_key_refuses_one_that_others_may_read(
    made: Callable[[Path], tuple[Path, Callable[[], object]]], tmp_path: Path
) -> None:
    path, load = made(tmp_path)
    load()
    assert path.stat().st_mode & 0o777 == 0o600
    load()
    for mode in (0o640, 0o604, 0o620, 0o601):
        path.chmod(mode)
        with pytest.raises(SettingsError, match=rf"mode {mode:04o}.*chmod 600 {path}"):
            load()
    path.chmod(0o400)
    load()


def test_what_comes_through_a_pipe_lies_nowhere_and_is_taken(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o644)
    writing = os.open(tmp_path / "pipe", os.O_RDWR)  # both ends, so that neither waits for the other
    os.write(writing, b"a long passphrase\n")
    assert read_private(tmp_path / "pipe", bytes_max=18) == b"a long passphrase\n"
    os.close(writing)


def test_a_listener_keeps_its_key_while_the_new_one_is_open_to_others(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("api")
    context = listen_context(ListenTls(certificate_file=str(certificate), key_file=str(key)), clock=LookingClock())
    authority.issue("api")
    key.chmod(0o644)
    assert not context.refresh()
    key.chmod(0o600)
    assert context.refresh()


def test_what_is_written_is_the_owners_from_its_first_byte_on(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text("of before")
    path.chmod(0o666)
    old = os.umask(0)
    try:
        descriptor = open_private(path)
        assert os.fstat(descriptor).st_mode & 0o777 == 0o600
        os.close(descriptor)
        write_private(path, b"new")
    finally:
        os.umask(old)
    assert read_private(path) == b"new"
    with pytest.raises(FileNotFoundError):
        read_private(tmp_path / "none")
    check_private(tmp_path / "none")  # whoever reads it says so
    path.chmod(0o660)
    with pytest.raises(ExposedSecretError, match="chmod 600"):
        read_private(path)


class LookingClock(SystemClock):
    """Every look at a file is due."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        self.now_s += 10
        return self.now_s
