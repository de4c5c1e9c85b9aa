"""What every root of the keys at rest must do, key file and key service; and what holds while a service is gone."""

import asyncio
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import SettingsError
from infra.plumbing.keys import RegionKeys
from region.keeping.enveloping import DATA_KEY_S, LOOK_S, ServiceWrapping
from region.keeping.files import FileKeys
from region.keeping.key_service import (
    KeyServiceGoneError,
    KeyServiceRefusedError,
    KeyServiceSettings,
    TransitKey,
    version_of,
)
from region.keeping.subject_keys_sqlite import SqliteSubjectKeys
from region.keeping.wrapping import FileWrapping, KeysUnavailableError, Wrapping
from tests.contract.building import ALICE, BOB
from tests.support.keeping import key_file
from tests.support.transit import KEY, TransitServer

ABOUT = b"what it is for"


@dataclass(frozen=True, slots=True)
class Root:
    """A root key: opened anew as often as processes are, and rotated."""

    open: Callable[[], Wrapping]
    rotate: Callable[[], None]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[TransitServer]:
    server = TransitServer(tmp_path)
    yield server
    server.stop()


def settings_of(service: TransitServer) -> KeyServiceSettings:
    return KeyServiceSettings(url=service.url, key=KEY, token_file=str(service.token_file), cache_s=60.0)


def opened(service: TransitServer, clock: ManualClock, folder: Path) -> ServiceWrapping:
    settings = settings_of(service)
    before = FileWrapping(key_file(folder))
    return ServiceWrapping(TransitKey(settings, clock=clock), settings, before=before, clock=clock)


@pytest.fixture(params=["file", "service"])
def root(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Root:
    if request.param == "file":
        path = key_file(tmp_path)

        def rotate() -> None:
            RegionKeys.load(path).with_new_rest_key(now_ms=1).save(path)
            clock.advance(LOOK_S)

        return Root(lambda: FileWrapping(path, clock=clock), rotate)
    service: TransitServer = request.getfixturevalue("service")

    def rotate_service() -> None:
        TransitKey(settings_of(service), clock=clock).rotate()
        clock.advance(LOOK_S)

    return Root(lambda: opened(service, clock, tmp_path), rotate_service)


def test_a_key_opens_for_what_it_was_wrapped_for_and_in_another_process(root: Root) -> None:
    key, wrapping = secrets.token_bytes(32), root.open()
    wrapped = wrapping.wrap(key, about=ABOUT)
    assert key not in wrapped
    assert wrapped != wrapping.wrap(key, about=ABOUT)
    assert wrapping.unwrap(wrapped, about=ABOUT) == root.open().unwrap(wrapped, about=ABOUT) == key
    with pytest.raises(KeysUnavailableError):
        wrapping.unwrap(wrapped, about=b"something else")


def test_what_was_changed_or_cut_does_not_open(root: Root) -> None:
    wrapping = root.open()
    wrapped = wrapping.wrap(secrets.token_bytes(32), about=ABOUT)
    for place in range(0, len(wrapped), 7):
        changed = wrapped[:place] + bytes([wrapped[place] ^ 1]) + wrapped[place + 1 :]
        with pytest.raises(KeysUnavailableError):
            wrapping.unwrap(changed, about=ABOUT)
    for length in (0, 1, 3, 10, len(wrapped) - 1):
        with pytest.raises(KeysUnavailableError):
            wrapping.unwrap(wrapped[:length], about=ABOUT)


def test_a_rotated_root_wraps_anew_and_opens_what_was(root: Root) -> None:
    key, wrapping = secrets.token_bytes(32), root.open()
    before = wrapping.wrap(key, about=ABOUT)
    assert wrapping.is_current(before)
    root.rotate()
    assert not wrapping.is_current(before)
    assert wrapping.unwrap(before, about=ABOUT) == key
    after = wrapping.wrap(key, about=ABOUT)
    assert wrapping.is_current(after)
    assert root.open().unwrap(after, about=ABOUT) == key


def test_files_are_rewrapped_without_touching_them(root: Root, tmp_path: Path) -> None:
    path = tmp_path / "state" / "store.sqlite"
    path.parent.mkdir()
    keys = FileKeys(root.open())
    key = keys.of(path)
    root.rotate()
    assert (keys.rewrap(path.parent), keys.rewrap(path.parent)) == (1, 0)
    assert FileKeys(root.open()).of(path) == key


async def test_subjects_keys_lie_under_either_root(root: Root, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    keys = SqliteSubjectKeys(state, wrapping=root.open())
    made = await keys.for_writing([ALICE, BOB], today=1)
    root.rotate()
    assert (await keys.rewrap(), await keys.rewrap()) == (2, 0)
    assert await keys.of_subject(ALICE) == made[ALICE]
    assert await keys.forget(ALICE) == 1
    assert await keys.of_subject(ALICE) is None
    await keys.close()


def test_the_service_is_asked_once_for_many_keys(service: TransitServer, clock: ManualClock, tmp_path: Path) -> None:
    wrapping = opened(service, clock, tmp_path)
    assert not wrapping.at_hand(None)
    wrapped = [wrapping.wrap(secrets.token_bytes(32), about=ABOUT) for _ in range(500)]
    assert wrapping.at_hand(None)
    other = opened(service, clock, tmp_path)
    assert not other.at_hand(wrapped[0])
    for one in wrapped:
        other.unwrap(one, about=ABOUT)
    assert other.at_hand(wrapped[0])
    assert (service.calls["encrypt"], service.calls["decrypt"]) == (1, 1)
    clock.advance(DATA_KEY_S)
    assert not wrapping.at_hand(None)
    wrapping.wrap(secrets.token_bytes(32), about=ABOUT)
    assert service.calls["encrypt"] == 2


@pytest.mark.parametrize("how", ["stopped", "sealed", "garbled"])
def test_while_the_service_is_gone_what_is_at_hand_goes_on_and_nothing_is_lost(
    service: TransitServer, clock: ManualClock, tmp_path: Path, how: str
) -> None:
    key, wrapping = secrets.token_bytes(32), opened(service, clock, tmp_path)
    at_hand = wrapping.wrap(key, about=ABOUT)
    elsewhere = opened(service, clock, tmp_path).wrap(key, about=ABOUT)
    if how == "stopped":
        service.stop()
    else:
        setattr(service, how, True)
    clock.advance(61.0)  # to be confirmed, and nobody does
    meanwhile = wrapping.wrap(key, about=ABOUT)
    assert wrapping.unwrap(at_hand, about=ABOUT) == wrapping.unwrap(meanwhile, about=ABOUT) == key
    with pytest.raises(KeyServiceGoneError, match="key service"):
        opened(service, clock, tmp_path).wrap(key, about=ABOUT)
    # It is not asked by everybody: after a failure nobody does for a while.
    asked = service.calls.total()
    for _ in range(20):
        with pytest.raises(KeyServiceGoneError, match="key service"):
            wrapping.unwrap(elsewhere, about=ABOUT)
    assert service.calls.total() == asked
    clock.advance(90_000.0)
    with pytest.raises(KeyServiceGoneError):
        wrapping.unwrap(at_hand, about=ABOUT)
    if how == "stopped":
        service.start()
    else:
        setattr(service, how, False)
    clock.advance(6.0)
    for one in (at_hand, elsewhere, meanwhile):
        assert wrapping.unwrap(one, about=ABOUT) == key


def test_a_refusal_holds_where_it_is_heard(service: TransitServer, clock: ManualClock, tmp_path: Path) -> None:
    key, wrapping = secrets.token_bytes(32), opened(service, clock, tmp_path)
    wrapped = wrapping.wrap(key, about=ABOUT)
    service.token = "another"
    assert wrapping.unwrap(wrapped, about=ABOUT) == key
    clock.advance(61.0)
    for _ in range(2):
        with pytest.raises(KeyServiceRefusedError, match=r"403 \(permission denied\).*a policy for transit/decrypt"):
            wrapping.unwrap(wrapped, about=ABOUT)
    service.token_file.write_text("another")  # an agent renewed it
    clock.advance(5.0)
    assert wrapping.unwrap(wrapped, about=ABOUT) == key
    service.rotate()
    service.least = 2
    clock.advance(61.0)
    with pytest.raises(KeyServiceRefusedError, match="version that may not decrypt"):
        wrapping.unwrap(wrapped, about=ABOUT)


def test_a_token_that_may_not_look_at_versions_wraps_all_the_same_and_is_not_asked_each_time(
    service: TransitServer, clock: ManualClock, tmp_path: Path
) -> None:
    handle = service.handle

    def forbidding(method: str, path: str, token: str | None, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, answer = handle(method, path, token, body)
        return (403, {"errors": ["permission denied"]}) if method == "GET" else (status, answer)

    service.handle = forbidding  # type: ignore[method-assign]
    wrapping = opened(service, clock, tmp_path)
    wrapped = [wrapping.wrap(secrets.token_bytes(32), about=ABOUT) for _ in range(50)]
    assert (service.calls["keys"], service.calls["encrypt"]) == (1, 1)
    with pytest.raises(KeyServiceRefusedError, match="a policy for transit/keys"):
        wrapping.is_current(wrapped[0])


def test_a_region_moves_from_its_file_to_a_service(service: TransitServer, clock: ManualClock, tmp_path: Path) -> None:
    path = tmp_path / "state" / "log.sqlite"
    path.parent.mkdir()
    key = FileKeys(FileWrapping(key_file(tmp_path))).of(path)
    keys = FileKeys(opened(service, clock, tmp_path))
    assert keys.of(path) == key
    assert keys.rewrap(path.parent) == 1
    assert FileKeys(opened(service, clock, tmp_path)).of(path) == key
    with pytest.raises(KeysUnavailableError):
        FileKeys(FileWrapping(key_file(tmp_path))).of(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": "http://vault.example:8200"}, "is not https"),
        ({"url": "https://vault.example:8200"}, "has no tls"),
        ({"key": "a/b"}, "is no name"),
        ({"mount": "../sys"}, "is no name"),
        ({"token_file": "/nowhere/token"}, "cannot be read"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    service: TransitServer, clock: ManualClock, changes: dict[str, str], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        TransitKey(replace(settings_of(service), **changes), clock=clock)


def test_an_unknown_key_says_where_to_look(service: TransitServer, clock: ManualClock) -> None:
    with pytest.raises(KeyServiceRefusedError, match=r"404.*is there a key 'another'"):
        TransitKey(replace(settings_of(service), key="another"), clock=clock).encrypt(b"x")
    with pytest.raises(KeysUnavailableError):
        version_of("vault:vX:abc")


async def test_who_waits_for_the_service_does_not_hold_up_the_others(
    service: TransitServer, clock: ManualClock, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    for subject in (ALICE, BOB):  # two processes, so two data keys
        keys = SqliteSubjectKeys(state, wrapping=opened(service, clock, tmp_path))
        await keys.for_writing([subject], today=1)
        await keys.close()
    keys = SqliteSubjectKeys(state, wrapping=opened(service, clock, tmp_path))
    assert await keys.of_subject(ALICE) is not None
    entered, leave = asyncio.Event(), asyncio.Event()
    loop, handle = asyncio.get_running_loop(), service.handle

    def slow(method: str, path: str, token: str | None, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        loop.call_soon_threadsafe(entered.set)
        asyncio.run_coroutine_threadsafe(leave.wait(), loop).result(10.0)
        return handle(method, path, token, body)

    service.handle = slow  # type: ignore[method-assign]
    found = asyncio.create_task(keys.of_subject(BOB))
    await entered.wait()  # the loop turns while the service is waited for
    assert await keys.of_subject(ALICE) is not None
    leave.set()
    assert await found is not None
    await keys.close()
