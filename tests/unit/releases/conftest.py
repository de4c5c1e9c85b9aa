"""A started repository, a web server over it, and bundles to publish."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from central.release.publish import Published, publish
from central.release.repository import init_repository
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.tuf_client.client import ReleaseClient
from infra.plumbing.tuf_client.fetching import FetchLimits
from tests.support.bundles import make_bundle
from tests.support.repositories import StaticServer, serve_static

QUICK = FetchLimits(connect_s=1, silence_s=2, grace_s=5, retries=0)


@dataclass
class Central:
    """Central's side: a repository with keys, and one call to publish a synthetic bundle."""

    root: Path
    clock: Clock

    @property
    def repository(self) -> Path:
        return self.root / "repository"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def bundles(self) -> Path:
        return self.root / "bundles"

    def publish(self, seed: int, channel: str = "stable") -> Published:
        release = make_bundle(self.bundles, seed=seed)
        return publish(
            bundle=self.bundles / release,
            repository=self.repository,
            keys=self.keys,
            channel=channel,
            clock=self.clock,
        )


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here pulls the plug, so none has to wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def central(tmp_path: Path) -> Central:
    side = Central(tmp_path / "central", SystemClock())
    init_repository(repository=side.repository, keys=side.keys, clock=side.clock)
    return side


@pytest.fixture
def server(central: Central) -> Iterator[StaticServer]:
    with serve_static(central.repository) as plan:
        yield plan


NewClient = Callable[[str], ReleaseClient]


@pytest.fixture
def new_client(central: Central, server: StaticServer, tmp_path: Path) -> Iterator[NewClient]:
    """Makes clients by name; the same name has the same memory of what it saw."""
    opened: list[ReleaseClient] = []

    def make(name: str) -> ReleaseClient:
        client = ReleaseClient(
            repository_url=server.url,
            trusted_root=(central.keys / "trusted-root.json").read_bytes(),
            metadata_dir=tmp_path / "seen" / name,
            limits=QUICK,
        )
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def client(new_client: NewClient) -> ReleaseClient:
    return new_client("region")
