"""Releases on a region's disk: pulled whole or not at all, shared, bounded, repaired (MISSION D3, issue bar 9)."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from central.release.publish import publish
from infra.contracts.release import LISTS, RULES
from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.errors import ConflictError, InvalidInputError, NotFoundError
from infra.plumbing.tuf_client.client import ReleaseClient
from infra.plumbing.tuf_client.errors import ReleaseRefusedError, RepositoryUnavailableError
from region.releases import store as store_module
from region.releases.state import RegionReleases
from region.releases.store import DISK_MARGIN_BYTES, DiskFullError, ReleaseDamagedError, ReleaseStore
from tests.support.bundles import make_bundle
from tests.support.repositories import StaticServer
from tests.unit.releases.conftest import Central


@pytest.fixture
def store(client: ReleaseClient, tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "store", source=client, clock=ManualClock(), keep=2)


def files_below(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_pull_by_channel_assembles_the_release(central: Central, store: ReleaseStore) -> None:
    published = central.publish(seed=1)
    release = store.recommended("stable")
    answer = store.pull(release)
    assert (answer.release, answer.bytes_fetched, answer.bytes_reused) == (
        published.release,
        published.bytes_new,
        0,
    )
    directory = store.directory(release)
    assert files_below(directory.path) == {*directory.manifest.files, "manifest.json"}
    for name in directory.manifest.files:
        assert (directory.path / name).read_bytes() == (central.bundles / release / name).read_bytes()
    report = store.verify(release)
    assert (report.ok, report.files, report.damaged) == (True, len(directory.manifest.files), ())
    assert [item.release_id for item in store.pulled()] == [release]


def test_what_did_not_change_is_not_fetched_again(central: Central, store: ReleaseStore, tmp_path: Path) -> None:
    one, two = central.publish(seed=1), central.publish(seed=2)
    store.pull(one.release)
    answer = store.pull(two.release)
    assert (answer.bytes_fetched, answer.bytes_reused) == (two.bytes_new, two.bytes_shared)
    rules = [tmp_path / "store" / "releases" / release / RULES for release in (one.release, two.release)]
    assert rules[0].stat().st_ino == rules[1].stat().st_ino
    again = store.pull(two.release)
    assert again.bytes_fetched == 0


def test_old_releases_are_collected_but_never_the_active_or_previous_one(
    central: Central, store: ReleaseStore, tmp_path: Path
) -> None:
    releases = [central.publish(seed=seed).release for seed in range(4)]
    for release in releases[:2]:
        store.pull(release)
    store.save_state(RegionReleases(active=releases[0], previous=releases[1]))
    third = store.pull(releases[2])
    assert third.collected == ()
    fourth = store.pull(releases[3])
    assert fourth.collected == (releases[2],)
    assert {item.release_id for item in store.pulled()} == {releases[0], releases[1], releases[3]}
    wanted = {entry.sha256 for item in store.pulled() for entry in item.manifest.files.values()}
    assert {path.name for path in (tmp_path / "store" / "blobs").iterdir()} == wanted


def test_a_held_release_is_not_collected(central: Central, store: ReleaseStore) -> None:
    releases = [central.publish(seed=seed).release for seed in range(3)]
    store.pull(releases[0])
    with store.holding(releases[0]), store.holding(releases[0]):
        store.pull(releases[1])
        assert store.pull(releases[2]).collected == (releases[1],)
    store.pull(releases[1])
    assert {item.release_id for item in store.pulled()} == {releases[1], releases[2]}


@pytest.mark.parametrize("in_place", [True, False])
def test_a_damaged_release_is_found_and_repaired_by_pulling_it(
    central: Central, store: ReleaseStore, in_place: bool
) -> None:
    release = central.publish(seed=1).release
    store.pull(release)
    path = store.directory(release).path / LISTS
    content = path.read_bytes()
    if not in_place:
        path.unlink()
    path.write_bytes(b"!" * len(content))
    report = store.verify(release)
    assert (report.ok, report.damaged) == (False, (LISTS,))
    store.pull(release)
    assert store.verify(release).ok
    assert path.read_bytes() == content


def test_a_damaged_manifest_is_found_and_repaired(central: Central, store: ReleaseStore) -> None:
    release = central.publish(seed=1).release
    store.pull(release)
    (store.directory(release).path / "manifest.json").write_bytes(b"{}")
    with pytest.raises(ReleaseDamagedError, match="Pull the release again"):
        store.verify(release)
    assert store.pulled() == ()
    store.pull(release)
    assert store.verify(release).ok


def test_a_tampered_blob_leaves_no_release(central: Central, store: ReleaseStore, server: StaticServer) -> None:
    release = central.publish(seed=1).release
    entry_name = (central.bundles / release / LISTS).read_bytes()
    server.faults[f".{_sha(entry_name)}"] = lambda content: b"!" + content[1:]
    with pytest.raises(ReleaseRefusedError):
        store.pull(release)
    assert store.pulled() == ()
    server.faults.clear()
    assert store.pull(release).bytes_reused > 0


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_cut_off_in_mid_pull_it_goes_on_where_it_was(
    central: Central, store: ReleaseStore, server: StaticServer
) -> None:
    published = central.publish(seed=1)
    sha256 = _sha((central.bundles / published.release / LISTS).read_bytes())
    server.cut_after[f".{sha256}"] = 10
    with pytest.raises(RepositoryUnavailableError):
        store.pull(published.release)
    assert store.pulled() == ()
    server.cut_after.clear()
    answer = store.pull(published.release)
    assert 0 < answer.bytes_fetched < published.bytes_new
    assert store.verify(published.release).ok


KILLED_PULL = """
import os, signal, sys
from pathlib import Path
from infra.plumbing.clock import SystemClock
from infra.plumbing.tuf_client.client import ReleaseClient
from region.releases.store import ReleaseStore
url, root, work, release, left = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])
client = ReleaseClient(repository_url=url, trusted_root=root.read_bytes(), metadata_dir=work / "seen" / "killed")
store = ReleaseStore(work / "store", source=client, clock=SystemClock())
real = os.replace
def counted(source, target):
    global left
    left -= "store" in str(target)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)
os.replace = counted
store.pull(release)
"""


@pytest.mark.parametrize("step", [3, 17])
def test_sigkill_in_mid_pull_then_again(
    central: Central, client: ReleaseClient, server: StaticServer, tmp_path: Path, step: int
) -> None:
    published = central.publish(seed=1)
    arguments = [server.url, central.keys / "trusted-root.json", tmp_path, published.release, step]
    command = [sys.executable, "-c", KILLED_PULL, *map(str, arguments)]
    done = subprocess.run(command, check=False, cwd=Path.cwd(), timeout=60)
    assert done.returncode == -signal.SIGKILL
    store = ReleaseStore(tmp_path / "store", source=client, clock=SystemClock())
    assert store.pulled() == ()
    answer = store.pull(published.release)
    assert answer.bytes_reused > 0
    assert store.verify(published.release).ok
    hidden = [path for path in (tmp_path / "store").rglob("*") if path.name.startswith(".")]
    assert hidden == []


def test_too_little_room_is_said_before_anything_is_fetched(
    central: Central, client: ReleaseClient, server: StaticServer, tmp_path: Path
) -> None:
    published = central.publish(seed=1)
    store = ReleaseStore(tmp_path / "store", source=client, clock=ManualClock(), free_bytes=lambda _: 1000)
    with pytest.raises(DiskFullError, match="more bytes on this disk, 1,000 are free") as caught:
        store.pull(published.release)
    assert caught.value.needed_bytes == published.bytes_new + DISK_MARGIN_BYTES
    assert not [path for path in server.paths() if "/blobs/" in path]
    assert files_below(tmp_path / "store") == set()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_in_mid_pull_leaves_nothing_and_the_active_release(
    central: Central, store: ReleaseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    one = central.publish(seed=1).release
    store.pull(one)
    store.save_state(RegionReleases(active=one))
    before = files_below(tmp_path / "store")
    two = central.publish(seed=2).release
    real, left = os.fsync, 3

    def full(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError, match=r"needs [\d,]+ more bytes"):
            store.pull(two)
    assert files_below(tmp_path / "store") == before
    assert store.verify(one).ok
    store.pull(two)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MB, where this process may mount one."""
    directory = tmp_path / "tiny"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.decode().strip()}")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.parametrize("honest", [True, False])
def test_a_really_full_disk(central: Central, client: ReleaseClient, tiny_disk: Path, honest: bool) -> None:
    small = central.publish(seed=1).release
    big = make_bundle(central.bundles, seed=2, extra_files={"scann/big.bin": os.urandom(2 << 20)})
    publish(
        bundle=central.bundles / big,
        repository=central.repository,
        keys=central.keys,
        channel="stable",
        clock=central.clock,
    )
    # A disk that lies about its room is found out by the write that fails.
    free = store_module.free_disk_bytes if honest else lambda _: 1 << 40
    store = ReleaseStore(tiny_disk / "store", source=client, clock=ManualClock(), free_bytes=free)
    store.pull(small)
    store.save_state(RegionReleases(active=small))
    before = files_below(tiny_disk)
    with pytest.raises(DiskFullError) as caught:
        store.pull(big)
    assert caught.value.needed_bytes > 2 << 20
    assert files_below(tiny_disk) == before
    assert store.verify(small).ok
    assert store.state.active == small


def test_an_error_of_the_disk_that_is_not_fullness_is_not_hidden(
    central: Central, store: ReleaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = central.publish(seed=1).release

    def broken(_: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="I/O error"):
        store.pull(release)


def test_two_pulls_at_once(central: Central, store: ReleaseStore, server: StaticServer) -> None:
    release = central.publish(seed=1).release
    arrived, go_on = threading.Event(), threading.Event()

    def gate(path: str) -> None:
        if "/blobs/" in path:
            arrived.set()
            go_on.wait(10)

    server.gate = gate
    first = threading.Thread(target=store.pull, args=(release,))
    first.start()
    assert arrived.wait(10)
    with pytest.raises(ConflictError, match="Another pull"):
        store.pull(release)
    go_on.set()
    first.join()
    assert store.verify(release).ok


def test_state_survives_and_a_broken_one_is_said(central: Central, client: ReleaseClient, tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path / "store", source=client, clock=ManualClock())
    state = RegionReleases(active="0" * 20, pinned=True)
    store.save_state(state)
    assert ReleaseStore(tmp_path / "store", source=client, clock=ManualClock()).state == state
    (tmp_path / "store" / "state.json").write_bytes(b"{")
    with pytest.raises(ReleaseDamagedError, match="Restore it"):
        ReleaseStore(tmp_path / "store", source=client, clock=ManualClock())


def test_bad_arguments(central: Central, store: ReleaseStore, client: ReleaseClient, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="not a release id"):
        store.pull("../x")
    with pytest.raises(NotFoundError, match="Pull it first"):
        store.directory("0" * 20)
    with pytest.raises(NotFoundError):
        store.pull("0" * 20)
    with pytest.raises(InvalidInputError, match="at least 2"):
        ReleaseStore(tmp_path / "x", source=client, clock=ManualClock(), keep=1)


def test_a_release_above_the_bound_is_refused(
    central: Central, store: ReleaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = central.publish(seed=1).release
    monkeypatch.setattr(store_module, "RELEASE_BYTES_MAX", 100)
    with pytest.raises(ReleaseRefusedError, match="too-large"):
        store.pull(release)
