"""Publishing: whole bundles only, one publisher at a time, and a consistent view wherever it is killed (MISSION D3)."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from central.release import keys as signing
from central.release.keys import KeysMissingError, Role, RolePlan
from central.release.publish import (
    Published,
    diff_releases,
    inspect_release,
    list_releases,
    point_channel,
    publish,
    retire,
)
from central.release.publish_bundle import BundleError
from central.release.repository import (
    Layout,
    RepositoryDamagedError,
    init_repository,
    publishing,
    read_view,
    refresh_timestamp,
    renew,
    trusted_root,
)
from infra.contracts.release import ITEM_VECTORS, LISTS, RULES
from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.errors import ConflictError, InvalidInputError, NotFoundError
from infra.plumbing.tuf_client.client import ReleaseClient, file_matches
from infra.plumbing.tuf_client.signing import KeysError
from tests.support.bundles import make_bundle
from tests.unit.releases.conftest import Central, NewClient

DAY_S = 86_400


class KilledError(BaseException):
    """Stands for SIGKILL at a chosen moment."""


def published_bytes(central: Central) -> dict[str, bytes]:
    return {
        str(path.relative_to(central.repository)): path.read_bytes()
        for path in central.repository.rglob("*")
        if path.is_file()
    }


def whole_release(client: ReleaseClient, central: Central, into: Path) -> str:
    """Pull everything that `stable` names; returns the release id, having checked every file."""
    client.refresh()
    release = client.channel("stable").release
    for entry in client.manifest(release).files.values():
        client.fetch_blob(entry.sha256, entry.length, into / entry.sha256)
        assert file_matches(into / entry.sha256, sha256=entry.sha256, length=entry.length)
    return release


def test_start_is_idempotent_and_keys_are_private(central: Central) -> None:
    before = published_bytes(central)
    root = init_repository(repository=central.repository, keys=central.keys, clock=central.clock)
    assert published_bytes(central) == before
    assert root == trusted_root(central.keys) == before["metadata/1.root.json"]
    assert {path.stat().st_mode & 0o777 for path in central.keys.glob("*.pem")} == {0o600}
    assert len(list(central.keys.glob("root-*.pem"))) == 3
    roles = json.loads(root)["signed"]["roles"]
    assert roles["root"]["threshold"] == 2
    assert len({key for role in roles.values() for key in role["keyids"]}) == 6


def test_start_with_other_keys_is_refused(central: Central, tmp_path: Path) -> None:
    for keys in (tmp_path / "none", tmp_path / "other"):
        if keys.name == "other":
            init_repository(repository=tmp_path / "elsewhere", keys=keys, clock=central.clock)
        with pytest.raises(ConflictError, match="other keys"):
            init_repository(repository=central.repository, keys=keys, clock=central.clock)


def test_start_that_was_killed_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()

    def start() -> bytes:
        return init_repository(repository=tmp_path / "repository", keys=tmp_path / "keys", clock=clock)

    steps = kill_at_each_rename(monkeypatch, start)
    assert steps >= 4
    layout = Layout(tmp_path / "repository")
    assert read_view(layout, tmp_path / "keys").targets.targets == {}


def kill_at_each_rename(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[], object], *, between: Callable[[], None] = lambda: None
) -> int:
    """Run `work`, killed before its first rename, then again, killed before its second, ... until it gets through."""
    real = os.replace
    step = 0
    while True:
        step += 1
        left = step

        def counted(source: str, target: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KilledError
            real(source, target)

        monkeypatch.setattr(os, "replace", counted)
        try:
            work()
        except KilledError:
            monkeypatch.setattr(os, "replace", real)
            between()
        else:
            monkeypatch.setattr(os, "replace", real)
            return step - 1


def test_killed_at_each_step_readers_see_old_or_new_and_running_again_completes(
    central: Central, new_client: NewClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = central.publish(seed=1)
    seen: list[str] = []

    def look() -> None:
        client = new_client(f"reader-{len(seen)}")
        seen.append(whole_release(client, central, tmp_path / "pulled"))
        client.close()
        # Each kill starts from the old state again, as a first attempt.
        shutil.rmtree(central.repository)
        shutil.copytree(saved, central.repository)

    saved = tmp_path / "saved"
    shutil.copytree(central.repository, saved)
    steps = kill_at_each_rename(monkeypatch, lambda: central.publish(seed=2), between=look)
    assert steps >= 5
    assert set(seen) == {old.release}
    assert whole_release(new_client("last"), central, tmp_path / "pulled") != old.release


def test_killed_again_and_again_it_completes_on_top_of_what_was_left(
    central: Central, client: ReleaseClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = central.publish(seed=1)
    last: list[Published] = []
    kill_at_each_rename(monkeypatch, lambda: last.append(central.publish(seed=2)))
    assert last[0].changed
    assert whole_release(client, central, tmp_path / "pulled") == last[0].release != old.release
    assert not [path for path in central.repository.rglob(".*") if path.name != ".publish.lock"]


KILLED_PUBLISH = """
import os, signal, sys
from pathlib import Path
from central.release.publish import publish
from infra.plumbing.clock import SystemClock
left = int(sys.argv[4])
real = os.replace
def counted(source, target):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)
os.replace = counted
bundle, repository, keys = map(Path, sys.argv[1:4])
publish(bundle=bundle, repository=repository, keys=keys, channel="stable", clock=SystemClock())
"""


@pytest.mark.parametrize("step", [1, 5, 8, 9])
def test_sigkill_in_mid_publish(central: Central, client: ReleaseClient, tmp_path: Path, step: int) -> None:
    old = central.publish(seed=1)
    bundle = central.bundles / make_bundle(central.bundles, seed=2)
    arguments = [str(bundle), str(central.repository), str(central.keys), str(step)]
    done = subprocess.run([sys.executable, "-c", KILLED_PUBLISH, *arguments], check=False, cwd=Path.cwd(), timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert whole_release(client, central, tmp_path / "pulled") == old.release
    new = central.publish(seed=2)
    assert new.changed
    assert whole_release(client, central, tmp_path / "pulled") == new.release == bundle.name
    # What the killed one left under temporary names was swept.
    assert not [path for path in central.repository.rglob(".*") if path.name != ".publish.lock"]


def test_publishing_twice_changes_nothing_and_blobs_are_shared(central: Central) -> None:
    first = central.publish(seed=1)
    before = published_bytes(central)
    again = central.publish(seed=1)
    assert (first.changed, again.changed, again.blobs_new, again.bytes_new) == (True, False, 0, 0)
    assert published_bytes(central) == before
    second = central.publish(seed=2)
    assert 0 < second.bytes_new < second.bytes_shared + second.bytes_new
    names = [path.name for path in (central.repository / "targets" / "blobs").iterdir()]
    assert len(names) == len(set(names)) == first.blobs_new + second.blobs_new


def test_publishing_again_repairs_a_damaged_blob(central: Central) -> None:
    release = central.publish(seed=1).release
    manifest = inspect_release(repository=central.repository, keys=central.keys, release=release).manifest
    entry = manifest.files[LISTS]
    blob = central.repository / "targets" / "blobs" / f"{entry.sha256}.{entry.sha256}"
    blob.write_bytes(b"!" * entry.length)
    repaired = central.publish(seed=1)
    assert (repaired.changed, repaired.blobs_new) == (False, 1)
    assert file_matches(blob, sha256=entry.sha256, length=entry.length)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda root: (root / LISTS).unlink(), "lacks the file"),
        (lambda root: (root / LISTS).write_bytes(b"short"), "bytes, the manifest says"),
        (lambda root: (root / RULES).write_bytes(b"?" * (root / RULES).stat().st_size), "hash"),
        (lambda root: (root / "manifest.json").unlink(), "cannot read"),
        (lambda root: (root / "manifest.json").write_bytes(b"{}"), "its hash is not its name"),
        (lambda root: root.rename(root.with_name("renamed")), "cannot read"),
    ],
)
def test_a_bundle_that_is_not_whole_is_not_published(
    central: Central, harm: Callable[[Path], object], message: str
) -> None:
    before = published_bytes(central)
    bundle = central.bundles / make_bundle(central.bundles, seed=1)
    harm(bundle)
    with pytest.raises(BundleError, match=message):
        publish(bundle=bundle, repository=central.repository, keys=central.keys, channel="stable", clock=central.clock)
    assert published_bytes(central) == before


def test_a_renamed_bundle_and_a_pickle_are_not_published(central: Central) -> None:
    bundle = central.bundles / make_bundle(central.bundles, seed=1)
    wrong = bundle.rename(bundle.with_name("renamed"))
    publishing_bundle = functools.partial(
        publish, repository=central.repository, keys=central.keys, channel="stable", clock=central.clock
    )
    with pytest.raises(BundleError, match="not named by a release id"):
        publishing_bundle(bundle=wrong)
    bad = make_bundle(central.bundles, extra_files={"scann/scann_docids.pkl": b"cos"})
    with pytest.raises(BundleError, match="not allowed"):
        publishing_bundle(bundle=central.bundles / bad)


@pytest.mark.parametrize("channel", ["", "Stable", "../x", "a" * 33, "a/b"])
def test_bad_channel_names(central: Central, channel: str) -> None:
    with pytest.raises(InvalidInputError, match="not a channel"):
        central.publish(seed=1, channel=channel)


def test_two_publishers_do_not_mix(central: Central) -> None:
    layout = Layout(central.repository)
    second = publishing(layout, clock=central.clock, wait_s=0.1)
    with publishing(layout, clock=central.clock), pytest.raises(ConflictError, match="another publisher"):
        second.__enter__()
    central.publish(seed=1)


def test_publishing_needs_no_root_keys_but_renewing_an_old_root_does(central: Central, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    for path in central.keys.glob("root-*.pem"):
        path.rename(away / path.name)
    release = central.publish(seed=1).release
    old = ManualClock(wall_ms=SystemClock().now_ms() + 200 * DAY_S * 1000)
    with pytest.raises(KeysMissingError, match="0 of 2 keys needed for the role root"):
        renew(repository=central.repository, keys=central.keys, clock=old)
    for number in (1, 3):
        (away / f"root-{number}.pem").rename(central.keys / f"root-{number}.pem")
    view = renew(repository=central.repository, keys=central.keys, clock=old)
    assert view.root.version == 2
    assert [summary.release for summary in list_releases(repository=central.repository, keys=central.keys)] == [release]


def test_a_reader_follows_a_renewed_root(central: Central, client: ReleaseClient) -> None:
    release = central.publish(seed=1).release
    clock = ManualClock(wall_ms=SystemClock().now_ms() + 200 * DAY_S * 1000)
    renew(repository=central.repository, keys=central.keys, clock=clock)
    client.refresh()
    assert client.channel("stable").release == release


def test_refreshing_the_timestamp_renews_the_snapshot_when_it_is_half_over(central: Central) -> None:
    now_ms = SystemClock().now_ms()
    layout = Layout(central.repository)
    versions = []
    for days in (0, 1, 4):
        clock = ManualClock(wall_ms=now_ms + days * DAY_S * 1000)
        refresh_timestamp(repository=central.repository, keys=central.keys, clock=clock)
        view = read_view(layout, central.keys)
        versions.append((view.timestamp.version, view.snapshot.version, view.targets.version))
    assert versions == [(2, 1, 1), (3, 1, 1), (4, 2, 1)]


def test_a_refreshed_timestamp_is_read(central: Central, client: ReleaseClient) -> None:
    release = central.publish(seed=1).release
    client.refresh()
    refresh_timestamp(repository=central.repository, keys=central.keys, clock=central.clock)
    client.refresh()
    assert client.channel("stable").release == release


def test_lifetimes(central: Central) -> None:
    view = read_view(Layout(central.repository), central.keys)
    now_s = central.clock.now_ms() / 1000
    parts = (view.timestamp, view.snapshot, view.targets, view.root)
    days = [round((part.expires.timestamp() - now_s) / DAY_S) for part in parts]
    assert days == [1, 7, 90, 365]


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json"])
def test_what_somebody_else_wrote_into_the_repository_is_not_signed(central: Central, name: str) -> None:
    path = central.repository / "metadata" / name
    document = json.loads(path.read_bytes())
    document["signed"]["version"] = 1
    document["signed"]["x-added"] = "by an intruder"
    path.write_text(json.dumps(document))
    with pytest.raises(RepositoryDamagedError, match="does not verify"):
        central.publish(seed=1)
    path.unlink()
    with pytest.raises(RepositoryDamagedError, match="lacks"):
        central.publish(seed=1)


def test_a_root_of_somebody_else_is_not_followed(central: Central, tmp_path: Path) -> None:
    init_repository(repository=tmp_path / "other", keys=tmp_path / "other-keys", clock=central.clock)
    content = (tmp_path / "other" / "metadata" / "1.root.json").read_bytes()
    (central.repository / "metadata" / "2.root.json").write_bytes(content)
    with pytest.raises(RepositoryDamagedError):
        central.publish(seed=1)


def test_list_inspect_diff_and_pointing_a_channel(central: Central) -> None:
    one, two = central.publish(seed=1), central.publish(seed=2, channel="candidate")
    where = {"repository": central.repository, "keys": central.keys}
    assert [(item.release, item.channels) for item in list_releases(**where)] == [
        (two.release, ("candidate",)),
        (one.release, ("stable",)),
    ]
    inspected = inspect_release(**where, release=one.release)
    assert inspected.manifest.release_id == one.release
    assert inspected.summary.metrics["ndcg10"] == 0.1
    diff = diff_releases(**where, before=one.release, after=two.release)
    assert ITEM_VECTORS in diff.changed
    assert RULES in diff.unchanged
    assert (diff.added, diff.removed) == ((), ())
    assert (diff.bytes_new, diff.bytes_shared) == (two.bytes_new, two.bytes_shared)
    assert diff.metrics["hr10"] == (0.2, 0.2)
    pointer = point_channel(**where, channel="stable", release=two.release, clock=central.clock)
    assert pointer.release == two.release
    version = read_view(Layout(central.repository), central.keys).targets.version
    assert point_channel(**where, channel="stable", release=two.release, clock=central.clock) == pointer
    assert read_view(Layout(central.repository), central.keys).targets.version == version
    assert {item.channels for item in list_releases(**where)} == {("candidate", "stable"), ()}


def test_unknown_releases(central: Central, tmp_path: Path) -> None:
    where = {"repository": central.repository, "keys": central.keys}
    with pytest.raises(NotFoundError, match="not published"):
        inspect_release(**where, release="0" * 20)
    with pytest.raises(InvalidInputError):
        inspect_release(**where, release="latest")
    with pytest.raises(NotFoundError):
        point_channel(**where, channel="stable", release="0" * 20, clock=central.clock)
    with pytest.raises(NotFoundError, match="no trusted root"):
        list_releases(repository=central.repository, keys=tmp_path)


def test_the_repository_stays_bounded(central: Central, client: ReleaseClient, tmp_path: Path) -> None:
    releases = [make_bundle(central.bundles, seed=seed) for seed in range(5)]
    retired: list[str] = []
    for number, release in enumerate(releases):
        done = publish(
            bundle=central.bundles / release,
            repository=central.repository,
            keys=central.keys,
            channel="stable" if number else "first",
            clock=central.clock,
            releases_max=3,
        )
        retired.extend(done.retired)
    assert retired == releases[1:3]
    left = {item.release for item in list_releases(repository=central.repository, keys=central.keys)}
    assert left == {releases[0], *releases[3:]}
    assert whole_release(client, central, tmp_path / "pulled") == releases[-1]
    # Files of the state before stay for readers in the middle of it; all older ones are gone.
    central.publish(seed=4, channel="another")
    kept = {path.name.split(".")[1] for path in (central.repository / "targets" / "manifests").iterdir()}
    assert kept == left


def test_retiring_keeps_what_a_channel_names(central: Central) -> None:
    some = inspect_release(
        repository=central.repository, keys=central.keys, release=central.publish(seed=1).release
    ).manifest
    manifests = {name: msgspec.structs.replace(some, created_at_ms=at) for at, name in enumerate("abc")}
    assert retire(manifests, {"stable": "a"}, releases_max=1) == ("b", "c")
    assert retire(manifests, {"stable": "c"}, releases_max=2) == ("a",)
    assert retire(manifests, {}, releases_max=5) == ()


def test_unusable_keys(central: Central, tmp_path: Path) -> None:
    path = signing.key_path(central.keys, Role.TARGETS, 1)
    path.chmod(0o644)
    with pytest.raises(KeysError, match="chmod 600"):
        central.publish(seed=1)
    path.chmod(0o600)
    path.write_bytes(b"not a key")
    with pytest.raises(KeysError, match="not a readable private key"):
        central.publish(seed=1)
    path.unlink()
    with pytest.raises(KeysMissingError, match="role targets"):
        central.publish(seed=1)
    with pytest.raises(KeysError, match="role root"):
        init_repository(
            repository=tmp_path / "r",
            keys=tmp_path / "k",
            clock=central.clock,
            plan={**signing.DEFAULT_PLAN, Role.ROOT: RolePlan(keys=1, threshold=2)},
        )
