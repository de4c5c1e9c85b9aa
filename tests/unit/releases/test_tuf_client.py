"""What the release client believes, and every lie that it must see through (MISSION D3)."""

import datetime
import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from central.release.repository import Layout, init_repository, read_view, write_targets
from infra.contracts.release import FORMAT_VERSION, LISTS, FileEntry, Manifest
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import ConflictError, InvalidInputError, NotFoundError
from infra.plumbing.files import write_atomically
from infra.plumbing.tuf_client.client import ReleaseClient, file_matches
from infra.plumbing.tuf_client.errors import RefusalReason, ReleaseRefusedError, RepositoryUnavailableError
from infra.plumbing.tuf_client.fetching import BoundedFetcher, FetchLimits
from infra.plumbing.tuf_client.library import TargetFile, exceptions
from infra.plumbing.tuf_client.manifests import decode_manifest, is_safe_name
from tests.support.repositories import StaticServer
from tests.unit.releases.conftest import QUICK, Central, NewClient


def entry(manifest: Manifest, name: str = LISTS) -> FileEntry:
    return manifest.files[name]


def refused(client: ReleaseClient) -> RefusalReason:
    with pytest.raises(ReleaseRefusedError) as caught:
        client.refresh()
    assert "Nothing was changed here" in str(caught.value)
    return caught.value.reason


def test_reads_a_channel_a_manifest_and_a_blob(central: Central, client: ReleaseClient, tmp_path: Path) -> None:
    published = central.publish(seed=1)
    client.refresh()
    pointer = client.channel("stable")
    assert (pointer.channel, pointer.release) == ("stable", published.release)
    manifest = client.manifest(pointer.release)
    assert manifest.release_id == published.release
    lists = entry(manifest)
    assert client.fetch_blob(lists.sha256, lists.length, tmp_path / "blob") == lists.length
    assert (tmp_path / "blob").read_bytes() == (central.bundles / published.release / LISTS).read_bytes()
    assert client.blob(lists.sha256, lists.length) == (tmp_path / "blob").read_bytes()


def test_a_blob_that_is_there_is_not_fetched_again(
    central: Central, client: ReleaseClient, server: StaticServer, tmp_path: Path
) -> None:
    lists = entry(client_manifest(central, client))
    client.fetch_blob(lists.sha256, lists.length, tmp_path / "blob")
    before = len(server.requests)
    assert client.fetch_blob(lists.sha256, lists.length, tmp_path / "blob") == 0
    assert len(server.requests) == before


def client_manifest(central: Central, client: ReleaseClient, seed: int = 1) -> Manifest:
    published = central.publish(seed=seed)
    client.refresh()
    return client.manifest(published.release)


def test_a_damaged_local_blob_is_fetched_again(central: Central, client: ReleaseClient, tmp_path: Path) -> None:
    lists = entry(client_manifest(central, client))
    (tmp_path / "blob").write_bytes(b"?" * lists.length)
    assert client.fetch_blob(lists.sha256, lists.length, tmp_path / "blob") == lists.length
    assert file_matches(tmp_path / "blob", sha256=lists.sha256, length=lists.length)


def test_a_cut_download_goes_on_where_it_stopped(
    central: Central, client: ReleaseClient, server: StaticServer, tmp_path: Path
) -> None:
    lists = entry(client_manifest(central, client))
    server.cut_after[lists.sha256] = 100
    with pytest.raises(RepositoryUnavailableError):
        client.fetch_blob(lists.sha256, lists.length, tmp_path / "blob")
    assert not (tmp_path / "blob").exists()
    server.cut_after.clear()
    assert client.fetch_blob(lists.sha256, lists.length, tmp_path / "blob") == lists.length - 100
    assert server.requests[-1][1] == "bytes=100-"
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("leftover", [50, 10**6])
def test_a_wrong_leftover_is_thrown_away(
    central: Central, client: ReleaseClient, server: StaticServer, tmp_path: Path, leftover: int, ranges: bool
) -> None:
    lists = entry(client_manifest(central, client))
    server.ranges = ranges
    (tmp_path / "blob.partial").write_bytes(b"?" * leftover)
    client.fetch_blob(lists.sha256, lists.length, tmp_path / "blob")
    assert file_matches(tmp_path / "blob", sha256=lists.sha256, length=lists.length)


def test_a_whole_leftover_needs_no_request(
    central: Central, client: ReleaseClient, server: StaticServer, tmp_path: Path
) -> None:
    lists = entry(client_manifest(central, client))
    (tmp_path / "blob.partial").write_bytes(client.blob(lists.sha256, lists.length))
    before = len(server.requests)
    assert client.fetch_blob(lists.sha256, lists.length, tmp_path / "blob") == 0
    assert len(server.requests) == before


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda content: b"!" + content[1:], RefusalReason.TAMPERED),
        (lambda content: content[:-7], RefusalReason.WRONG_LENGTH),
        (lambda content: content + b"more", RefusalReason.ENDLESS),
    ],
)
def test_a_changed_blob_is_refused(
    central: Central, client: ReleaseClient, server: StaticServer, tmp_path: Path, fault: object, reason: RefusalReason
) -> None:
    lists = entry(client_manifest(central, client))
    server.faults[lists.sha256] = fault  # type: ignore[assignment]
    with pytest.raises(ReleaseRefusedError) as caught:
        client.fetch_blob(lists.sha256, lists.length, tmp_path / "blob")
    assert caught.value.reason is reason
    assert list(tmp_path.glob("blob*")) == []


def test_endless_blob_and_metadata_are_cut_off(
    central: Central, client: ReleaseClient, server: StaticServer, tmp_path: Path
) -> None:
    lists = entry(client_manifest(central, client))
    server.endless.add(lists.sha256)
    with pytest.raises(ReleaseRefusedError) as caught:
        client.fetch_blob(lists.sha256, lists.length, tmp_path / "blob")
    assert caught.value.reason is RefusalReason.ENDLESS
    server.endless.add("timestamp.json")
    assert refused(client) is RefusalReason.ENDLESS


def test_a_missing_blob_is_unavailable_and_an_unlisted_one_not_found(
    central: Central, client: ReleaseClient, server: StaticServer, tmp_path: Path
) -> None:
    lists = entry(client_manifest(central, client))
    server.missing.add(lists.sha256)
    with pytest.raises(RepositoryUnavailableError, match="404"):
        client.fetch_blob(lists.sha256, lists.length, tmp_path / "blob")
    with pytest.raises(NotFoundError):
        client.fetch_blob("0" * 64, 5, tmp_path / "blob")


def test_length_that_differs_from_what_was_signed_is_refused(
    central: Central, client: ReleaseClient, tmp_path: Path
) -> None:
    lists = entry(client_manifest(central, client))
    with pytest.raises(ReleaseRefusedError) as caught:
        client.fetch_blob(lists.sha256, lists.length + 1, tmp_path / "blob")
    assert caught.value.reason is RefusalReason.INCONSISTENT


def test_a_blob_above_the_bound_is_refused(
    central: Central, server: StaticServer, client: ReleaseClient, tmp_path: Path
) -> None:
    lists = entry(client_manifest(central, client))
    with (
        ReleaseClient(
            repository_url=server.url,
            trusted_root=(central.keys / "trusted-root.json").read_bytes(),
            metadata_dir=tmp_path / "seen" / "small",
            limits=FetchLimits(blob_bytes_max=10),
        ) as small,
        pytest.raises(ReleaseRefusedError) as caught,
    ):
        small.fetch_blob(lists.sha256, lists.length, tmp_path / "blob")
    assert caught.value.reason is RefusalReason.TOO_LARGE


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_tampered_metadata_is_refused(central: Central, new_client: NewClient, server: StaticServer, role: str) -> None:
    central.publish(seed=1)

    def change_version(content: bytes) -> bytes:
        document = json.loads(content)
        document["signed"]["version"] += 100
        return json.dumps(document).encode()

    server.faults[f"{role}.json"] = change_version
    wanted = RefusalReason.UNSIGNED if role == "timestamp" else (RefusalReason.ENDLESS, RefusalReason.INCONSISTENT)
    assert refused(new_client(role)) in (wanted if isinstance(wanted, tuple) else (wanted,))


def test_garbage_metadata_is_refused(central: Central, client: ReleaseClient, server: StaticServer) -> None:
    server.faults["timestamp.json"] = lambda _: b"{}"
    assert refused(client) is RefusalReason.UNREADABLE


def test_replayed_older_metadata_is_refused_also_after_a_restart(
    central: Central, new_client: NewClient, server: StaticServer
) -> None:
    first = central.publish(seed=1)
    old = central.root / "old"
    shutil.copytree(central.repository, old)
    second = central.publish(seed=2)
    seen = new_client("region")
    seen.refresh()
    assert seen.channel("stable").release == second.release
    server.root = old
    assert refused(seen) is RefusalReason.ROLLED_BACK
    with pytest.raises(ReleaseRefusedError):
        seen.channel("stable")
    seen.close()
    assert refused(new_client("region")) is RefusalReason.ROLLED_BACK
    fresh = new_client("never-saw-the-new-one")
    assert fresh.channel("stable").release == first.release


def test_mix_and_match_of_two_published_states_is_refused(
    central: Central, new_client: NewClient, server: StaticServer
) -> None:
    central.publish(seed=1)
    old_targets = max(central.repository.glob("metadata/*.targets.json"), key=version_of).read_bytes()
    old_snapshot = max(central.repository.glob("metadata/*.snapshot.json"), key=version_of).read_bytes()
    central.publish(seed=2)
    server.faults["targets.json"] = lambda _: old_targets
    assert refused(new_client("a")) in (RefusalReason.INCONSISTENT, RefusalReason.ENDLESS)
    server.faults = {"snapshot.json": lambda _: old_snapshot}
    assert refused(new_client("b")) in (RefusalReason.INCONSISTENT, RefusalReason.ENDLESS)


def version_of(path: Path) -> int:
    return int(path.name.partition(".")[0])


def test_a_manifest_under_another_name_is_refused(
    central: Central, client: ReleaseClient, server: StaticServer
) -> None:
    one, two = central.publish(seed=1), central.publish(seed=2)
    content = (central.bundles / one.release / "manifest.json").read_bytes()
    server.faults[f"{two.release}.json"] = lambda _: content
    with pytest.raises(ReleaseRefusedError) as caught:
        client.manifest(two.release)
    assert caught.value.reason in (RefusalReason.TAMPERED, RefusalReason.ENDLESS)


def test_expired_timestamp_is_refused_and_accepted_once_refreshed(
    central: Central, new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    central.publish(seed=1)
    client = new_client("region")
    client.refresh()
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2)

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return later

    monkeypatch.setattr("tuf.ngclient._internal.trusted_metadata_set.datetime.datetime", Later)
    assert refused(client) is RefusalReason.EXPIRED
    with pytest.raises(ReleaseRefusedError):
        client.channel("stable")


def test_an_unknown_signer_is_refused(central: Central, server: StaticServer, tmp_path: Path) -> None:
    impostor = Central(tmp_path / "impostor", central.clock)
    init_repository(repository=impostor.repository, keys=impostor.keys, clock=impostor.clock)
    impostor.publish(seed=9)
    server.root = impostor.repository
    with ReleaseClient(
        repository_url=server.url,
        trusted_root=(central.keys / "trusted-root.json").read_bytes(),
        metadata_dir=tmp_path / "seen" / "x",
        limits=QUICK,
    ) as client:
        assert refused(client) is RefusalReason.UNSIGNED


def test_a_repository_that_is_gone_leaves_what_was_seen(
    central: Central, client: ReleaseClient, server: StaticServer
) -> None:
    published = central.publish(seed=1)
    client.refresh()
    server.missing.add("timestamp.json")
    with pytest.raises(RepositoryUnavailableError):
        client.refresh()
    assert client.channel("stable").release == published.release


def test_nobody_answers(central: Central, tmp_path: Path) -> None:
    with (
        ReleaseClient(
            repository_url="http://127.0.0.1:9",
            trusted_root=(central.keys / "trusted-root.json").read_bytes(),
            metadata_dir=tmp_path / "seen",
            limits=QUICK,
        ) as client,
        pytest.raises(RepositoryUnavailableError, match="could not be read"),
    ):
        client.refresh()


def test_bad_construction(central: Central, server: StaticServer, tmp_path: Path, client: ReleaseClient) -> None:
    root = (central.keys / "trusted-root.json").read_bytes()
    with pytest.raises(InvalidInputError, match="no address"):
        ReleaseClient(repository_url="ftp://x", trusted_root=root, metadata_dir=tmp_path / "a")
    with pytest.raises(ReleaseRefusedError, match="trusted root"):
        ReleaseClient(repository_url=server.url, trusted_root=b"{}", metadata_dir=tmp_path / "b")
    with pytest.raises(ConflictError, match="another process"):
        ReleaseClient(repository_url=server.url, trusted_root=root, metadata_dir=tmp_path / "seen" / "region")
    # What failed to start holds no lock.
    ReleaseClient(repository_url=server.url, trusted_root=root, metadata_dir=tmp_path / "b").close()


def test_unknown_names(central: Central, client: ReleaseClient) -> None:
    central.publish(seed=1)
    with pytest.raises(NotFoundError, match="nowhere"):
        client.channel("nowhere")
    with pytest.raises(InvalidInputError, match="not a release id"):
        client.manifest("../../etc/passwd")
    with pytest.raises(NotFoundError):
        client.manifest("0" * 20)


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a\\b", ".hidden", "a/.b", "x.pkl", "scann/scann_docids.PKL",
     "manifest.json", "a\nb", "ä", "a" * 201],
)  # fmt: skip
def test_file_names_that_a_release_must_not_have(name: str) -> None:
    assert not is_safe_name(name)


def test_file_names_that_a_release_may_have() -> None:
    assert all(is_safe_name(name) for name in ("lists.json", "scann/scann_config.pb", "scann/x.npy"))


def test_a_drip_is_cut_off_by_the_whole_time(central: Central, server: StaticServer) -> None:
    clock = ManualClock()
    fetcher = BoundedFetcher(limits=FetchLimits(chunk_bytes=16), clock=clock)
    _, chunks = fetcher.stream(f"{server.url}/metadata/timestamp.json", start=0, deadline_s=30)
    next(chunks)
    clock.advance(31)
    with pytest.raises(exceptions.SlowRetrievalError):
        next(chunks)
    fetcher.close()


def test_a_file_that_became_shorter_than_what_is_here(
    central: Central, client: ReleaseClient, server: StaticServer, tmp_path: Path
) -> None:
    lists = entry(client_manifest(central, client))
    (tmp_path / "blob.partial").write_bytes(b"?" * 50)
    server.faults[f".{lists.sha256}"] = lambda content: content[:20]
    with pytest.raises(ReleaseRefusedError) as caught:
        client.fetch_blob(lists.sha256, lists.length, tmp_path / "blob")
    assert caught.value.reason is RefusalReason.WRONG_LENGTH
    assert [wanted for path, wanted in server.requests if lists.sha256 in path] == ["bytes=50-", "", ""]


def test_a_repository_that_is_silent_is_given_up(central: Central, server: StaticServer, tmp_path: Path) -> None:
    go_on = threading.Event()

    def gate(_: str) -> None:
        go_on.wait(10)

    server.gate = gate
    with ReleaseClient(
        repository_url=server.url,
        trusted_root=(central.keys / "trusted-root.json").read_bytes(),
        metadata_dir=tmp_path / "seen" / "x",
        limits=FetchLimits(silence_s=0.05, retries=0),
    ) as client:
        with pytest.raises(RepositoryUnavailableError):
            client.refresh()
        go_on.set()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", RefusalReason.UNREADABLE),
        (b'{"channel":"other","release":"00000000000000000000","published_at_ms":1}', RefusalReason.INCONSISTENT),
    ],
)
def test_a_signed_channel_that_makes_no_sense(
    central: Central, client: ReleaseClient, content: bytes, reason: RefusalReason
) -> None:
    layout = Layout(central.repository)
    target = TargetFile.from_data("channels/odd.json", content, ["sha256"])
    write_atomically(layout.target_path(target), content)
    view = read_view(layout, central.keys)
    write_targets(layout, keys=central.keys, clock=central.clock, view=view, targets={target.path: target})
    with pytest.raises(ReleaseRefusedError) as caught:
        client.channel("odd")
    assert caught.value.reason is reason


def test_a_channel_that_is_too_large(central: Central, client: ReleaseClient) -> None:
    layout, content = Layout(central.repository), b" " * 5000
    target = TargetFile.from_data("channels/odd.json", content, ["sha256"])
    view = read_view(layout, central.keys)
    write_targets(layout, keys=central.keys, clock=central.clock, view=view, targets={target.path: target})
    with pytest.raises(ReleaseRefusedError) as caught:
        client.channel("odd")
    assert caught.value.reason is RefusalReason.TOO_LARGE


def edited(manifest: Manifest, **changes: object) -> Manifest:
    return msgspec.structs.replace(manifest, **changes)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda one: edited(one, format_version=FORMAT_VERSION + 1), f"format version {FORMAT_VERSION + 1}"),
        (lambda one: edited(one, format_version=FORMAT_VERSION - 1), "build and publish the release again"),
        (lambda one: edited(one, files={**one.files, "../x": one.files[LISTS]}), "not allowed"),
        (lambda one: edited(one, files={"x": one.files[LISTS]}), "required files are missing"),
        (lambda one: edited(one, files={str(n): one.files[LISTS] for n in range(5000)}), "more than 4096"),
        (lambda one: edited(one, files={**one.files, "x": FileEntry(sha256="0" * 64, length=-1)}), "negative"),
    ],
)
def test_manifests_that_are_refused(
    central: Central, client: ReleaseClient, edit: Callable[[Manifest], Manifest], message: str
) -> None:
    manifest = edit(client_manifest(central, client))
    with pytest.raises(ReleaseRefusedError, match=message):
        decode_manifest(manifest.canonical_bytes(), release_id=manifest.release_id)


def test_manifests_that_are_no_manifests(central: Central, client: ReleaseClient) -> None:
    whole = client_manifest(central, client).canonical_bytes()
    for content, message in ((b"[]", "cannot be decoded"), (b" " + whole, "not canonical")):
        with pytest.raises(ReleaseRefusedError, match=message):
            decode_manifest(content, release_id=hashlib.sha256(content).hexdigest()[:20])


def test_a_redirect_is_not_followed(central: Central, server: StaticServer) -> None:
    fetcher = BoundedFetcher(limits=QUICK, clock=ManualClock())
    server.redirects["timestamp.json"] = f"{server.url}/metadata/1.root.json"
    with pytest.raises(exceptions.DownloadHTTPError):
        fetcher.download_bytes(f"{server.url}/metadata/timestamp.json", 10_000)
    assert server.paths() == ["/metadata/timestamp.json"]
    fetcher.close()
