"""Keys rotate while readers go on: nobody is refused on the way, old keys count no more, the root stays offline."""

import os
import shutil
from pathlib import Path

import pytest

from central.release.keys import DEFAULT_PLAN, KeysMissingError, Role, RolePlan, RootKeys, key_path, load_signers
from central.release.repository import Layout, init_repository, read_view, renew
from central.release.rotation import rotate_keys
from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.private_files import write_private
from infra.plumbing.tuf_client.signing import KeysError, load_signer, read_passphrase
from tests.unit.releases.conftest import Central, NewClient
from tests.unit.releases.test_publish import KilledError


def rotate(central: Central, role: Role, **more: object) -> int:
    done = rotate_keys(repository=central.repository, keys=central.keys, role=role, clock=central.clock, **more)  # type: ignore[arg-type]
    return done.root_version


@pytest.mark.parametrize("role", list(Role))
def test_readers_follow_a_rotation_and_the_old_key_counts_no_more(
    central: Central, new_client: NewClient, role: Role
) -> None:
    first = central.publish(seed=1).release
    stays, comes_late = new_client("stays"), new_client("late")
    stays.refresh()
    old = {signer.public_key.keyid for signer in load_signers(central.keys, role)}
    assert rotate(central, role) == 2
    stays.refresh()
    assert stays.channel("stable").release == first
    root = read_view(Layout(central.repository), central.keys).root
    assert old.isdisjoint(root.roles[role.value].keyids)
    assert root.roles[role.value].threshold == DEFAULT_PLAN[role].threshold
    second = central.publish(seed=2).release
    assert rotate(central, role) == 3
    for client in (stays, comes_late):
        client.refresh()
        assert client.channel("stable").release == second


@pytest.mark.parametrize("role", list(Role))
def test_killed_at_each_step_readers_go_on_and_running_again_completes(
    central: Central, new_client: NewClient, monkeypatch: pytest.MonkeyPatch, role: Role
) -> None:
    release = central.publish(seed=1).release
    client, real, step, done = new_client("region"), os.replace, 0, False
    while not done:
        step, left = step + 1, [step + 1]

        def counted(source: str, target: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise KilledError
            real(source, target)

        # Only what the publisher writes is counted; a reader writes by renaming too.
        monkeypatch.setattr(os, "replace", counted)
        try:
            rotate(central, role)
            done = True
        except KilledError:
            pass
        monkeypatch.setattr(os, "replace", real)
        client.refresh()
        assert client.channel("stable").release == release
        read_view(Layout(central.repository), central.keys)
    assert step > 3
    assert len(load_signers(central.keys, role)) == DEFAULT_PLAN[role].keys
    assert not list(central.keys.glob(".next-*"))


def test_one_lost_root_key_of_three_is_replaced_and_two_are_not(central: Central, new_client: NewClient) -> None:
    central.publish(seed=1)
    key_path(central.keys, Role.ROOT, 3).unlink()
    with pytest.raises(KeysMissingError, match="Bring all of them"):
        rotate(central, Role.ROOT)
    assert rotate(central, Role.ROOT, number=3) == 2
    new_client("region").refresh()
    for number in (1, 2):
        key_path(central.keys, Role.ROOT, number).unlink()
    with pytest.raises(KeysMissingError, match="Bring the others"):
        rotate(central, Role.ROOT, number=1)
    with pytest.raises(InvalidInputError, match="no key 7"):
        rotate(central, Role.ROOT, number=7)
    with pytest.raises(KeysMissingError, match=r"1 of 2 keys needed for the role root.*--root-keys"):
        rotate(central, Role.TIMESTAMP)


def test_an_encrypted_root_that_lies_apart_is_needed_by_few(tmp_path: Path) -> None:
    clock, secret = SystemClock(), tmp_path / "secret"
    write_private(secret, b"correct horse\n")
    apart = RootKeys(tmp_path / "safe", read_passphrase(secret))
    side = Central(tmp_path / "central", clock)
    plan = {**DEFAULT_PLAN, Role.ROOT: RolePlan(keys=3, threshold=3)}
    init_repository(repository=side.repository, keys=side.keys, clock=clock, plan=plan, root_keys=apart)
    assert not list(side.keys.glob("root-*"))
    assert b"ENCRYPTED" in key_path(apart.directory, Role.ROOT, 1).read_bytes()
    side.publish(seed=1)
    rotate(side, Role.TARGETS, root_keys=apart)
    rotate(side, Role.ROOT, root_keys=apart)
    shutil.move(apart.directory, tmp_path / "away")
    side.publish(seed=2)
    for call in (lambda: rotate(side, Role.TARGETS), lambda: renew_late(side)):
        with pytest.raises(KeysMissingError, match="0 of 3 keys needed for the role root") as caught:
            call()
        assert "--root-keys" in caught.value.fix
    with pytest.raises(KeysError, match="is encrypted"):
        renew_late(side, RootKeys(tmp_path / "away"))
    with pytest.raises(KeysError, match="right passphrase"):
        renew_late(side, RootKeys(tmp_path / "away", b"wrong horse"))
    assert renew_late(side, RootKeys(tmp_path / "away", apart.passphrase)) == 4


def renew_late(side: Central, root_keys: RootKeys | None = None) -> int:
    late = ManualClock(wall_ms=SystemClock().now_ms() + 200 * 86_400_000)
    return renew(repository=side.repository, keys=side.keys, clock=late, root_keys=root_keys).root.version


def test_passphrases_and_keys_that_cannot_be_used(tmp_path: Path) -> None:
    assert read_passphrase(None) is None
    write_private(tmp_path / "short", b"x\n")
    with pytest.raises(KeysError, match="has 1 bytes"):
        read_passphrase(tmp_path / "short")
    for call in (read_passphrase, load_signer):
        with pytest.raises(KeysError, match="cannot be read"):
            call(tmp_path / "nowhere")
