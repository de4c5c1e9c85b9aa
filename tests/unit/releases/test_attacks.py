"""Every attack that The Update Framework names, on a region that runs a release: it goes on and says why."""

import datetime
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from central.release.keys import Role, load_signers
from central.release.repository import Layout, init_repository, next_root, read_view
from infra.plumbing.errors import AtollError
from infra.plumbing.files import write_atomically
from infra.plumbing.tuf_client.client import ReleaseClient
from infra.plumbing.tuf_client.library import Metadata
from region.releases.following import Follower
from tests.support.repositories import StaticServer
from tests.unit.releases.conftest import Central
from tests.unit.releases.test_activation import World, world

__all__ = ["world"]


@dataclass
class Scene:
    """A region that follows `stable` and answers from what central published first."""

    central: Central
    server: StaticServer
    client: ReleaseClient
    world: World
    tmp_path: Path
    monkeypatch: pytest.MonkeyPatch
    before: Path

    def newest(self, role: str) -> Path:
        paths = self.before.glob(f"metadata/*.{role}.json")
        return max(paths, key=lambda path: int(path.name.partition(".")[0]))

    def stolen(self, role: Role, count: int) -> list[object]:
        return list(load_signers(self.central.keys, role)[:count])


def arbitrary(scene: Scene) -> None:
    """Other software under the right names, by somebody with keys of his own."""
    impostor = Central(scene.tmp_path / "impostor", scene.central.clock)
    init_repository(repository=impostor.repository, keys=impostor.keys, clock=impostor.clock)
    impostor.publish(seed=9)
    scene.server.root = impostor.repository


def rollback(scene: Scene) -> None:
    """What was published before, once more."""
    scene.client.refresh()
    scene.server.root = scene.before


def freeze(scene: Scene) -> None:
    """The same state for ever: found out when its timestamp expires."""
    scene.server.root = scene.before
    pass_days(scene, 2)


def expired(scene: Scene) -> None:
    """A fresh timestamp over targets that nobody has signed for a hundred days."""
    pass_days(scene, 100)


def pass_days(scene: Scene, days: int) -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return later

    scene.monkeypatch.setattr("tuf.ngclient._internal.trusted_metadata_set.datetime.datetime", Later)


def mix_and_match(scene: Scene) -> None:
    """A snapshot of one state, the targets of another."""
    old = scene.newest("targets").read_bytes()
    scene.server.faults["targets.json"] = lambda _: old


def wrong_length(scene: Scene) -> None:
    """A file that ends too early."""
    for path in new_blobs(scene):
        scene.server.faults[path.name] = lambda content: content[:-1]


def tampered(scene: Scene) -> None:
    """A file with one other byte."""
    for path in new_blobs(scene):
        scene.server.faults[path.name] = lambda content: content[:-1] + bytes([content[-1] ^ 1])


def endless_data(scene: Scene) -> None:
    """A file that never ends."""
    scene.server.endless |= {path.name for path in new_blobs(scene)}


def endless_metadata(scene: Scene) -> None:
    """A timestamp that never ends."""
    scene.server.endless.add("timestamp.json")


def slow_retrieval(scene: Scene) -> None:
    """One byte now and then: cut off when the time for the whole is over."""
    fetcher = scene.client._fetcher
    clock = fetcher._clock

    class Crawling:
        """Time that flies by while bytes come."""

        def __init__(self) -> None:
            self.at_s = clock.monotonic_s()

        def monotonic_s(self) -> float:
            self.at_s += 1000.0
            return self.at_s

    scene.monkeypatch.setattr(fetcher, "_clock", Crawling())


def one_root_key_of_two_needed(scene: Scene) -> None:
    """A root that one stolen key signed, where two must: it would name the thief's keys for everything else."""
    view = read_view(Layout(scene.central.repository), scene.central.keys)
    root = next_root(view.root, scene.central.clock)
    metadata = Metadata(root)
    for signer in scene.stolen(Role.ROOT, 1):
        metadata.sign(signer, append=True)  # type: ignore[arg-type]
    write_atomically(scene.central.repository / "metadata" / f"{root.version}.root.json", metadata.to_bytes())


def stolen_timestamp_and_snapshot_keys(scene: Scene) -> None:
    """Who can sign timestamps and snapshots still cannot name another file."""
    view = read_view(Layout(scene.central.repository), scene.central.keys)
    metadata = scene.central.repository / "metadata"
    targets = json.loads((metadata / f"{view.targets.version}.targets.json").read_bytes())
    targets["signed"]["version"] += 1
    targets["signed"]["targets"] = {}
    forged = json.dumps(targets).encode()
    version = view.targets.version + 1
    write_atomically(metadata / f"{version}.targets.json", forged)
    view.snapshot.meta["targets.json"].version = version
    view.snapshot.meta["targets.json"].length = len(forged)
    view.snapshot.meta["targets.json"].hashes = None
    view.snapshot.version += 1
    snapshot = signed(scene, view.snapshot, Role.SNAPSHOT)
    write_atomically(metadata / f"{view.snapshot.version}.snapshot.json", snapshot)
    view.timestamp.version += 1
    view.timestamp.snapshot_meta.version = view.snapshot.version
    view.timestamp.snapshot_meta.length = len(snapshot)
    view.timestamp.snapshot_meta.hashes = None
    write_atomically(metadata / "timestamp.json", signed(scene, view.timestamp, Role.TIMESTAMP))


def signed(scene: Scene, what: object, role: Role) -> bytes:
    metadata = Metadata(what)  # type: ignore[type-var]
    for signer in scene.stolen(role, 1):
        metadata.sign(signer, append=True)  # type: ignore[arg-type]
    return metadata.to_bytes()


def new_blobs(scene: Scene) -> list[Path]:
    had = {path.name for path in scene.before.glob("targets/blobs/*")}
    return [path for path in scene.central.repository.glob("targets/blobs/*") if path.name not in had]


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (arbitrary, "unsigned"), (rollback, "rolled-back"), (freeze, "expired"), (expired, "expired"),
        (mix_and_match, "parts of different published states|more bytes than were signed"),
        (wrong_length, "wrong-length"), (tampered, "tampered"), (endless_data, "endless"),
        (endless_metadata, "endless"), (slow_retrieval, "still sending when its time was over"),
        (one_root_key_of_two_needed, "unsigned.*1/2 keys"), (stolen_timestamp_and_snapshot_keys, "unsigned.*0/1 keys"),
    ],
)  # fmt: skip
async def test_an_attack_is_refused_and_the_active_release_goes_on(
    central: Central, server: StaticServer, client: ReleaseClient, world: World, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, attack: Callable[[Scene], None], reason: str,
) -> None:  # fmt: skip
    first = central.publish(seed=1).release
    activator = world.activator()
    follower = Follower(store=world.store, activator=activator, channel="stable", clock=world.clock)
    assert await follower.step() == first
    before = tmp_path / "before"
    shutil.copytree(central.repository, before)
    second = central.publish(seed=2).release
    attack(Scene(central, server, client, world, tmp_path, monkeypatch, before))
    with pytest.raises(AtollError, match=reason) as caught:
        await follower.step()
    assert caught.value.fix
    assert activator.active_release == first
    assert world.store.verify(first).ok
    assert second not in {one.release_id for one in world.store.pulled()}
    with activator.lease() as loaded:
        assert loaded.release == first
    await activator.close()
