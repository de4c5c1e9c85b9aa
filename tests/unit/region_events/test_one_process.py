"""What one process opens at once, on parts that are not there: all of it, and each failure counted under its name."""

import socket
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from infra.plumbing.errors import UnavailableError
from infra.plumbing.keys import RegionKeys
from region.events.opening import open_log, open_seals
from region.settings import RegionSettings
from region.store.opening import open_store
from region.store.port import StoreUnavailableError
from tests.contract.building import ALICE, logged


async def test_store_log_and_keys_on_servers_share_a_registry(tmp_path: Path) -> None:
    RegionKeys.generate("us-east").save(tmp_path / "keys.json")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        told = {
            "node": "n", "region": "us-east", "port": 1, "worker_port": 2, "state_directory": str(tmp_path),
            "repository_url": "", "trusted_root": "", "keys_file": str(tmp_path / "keys.json"), "trust_file": "",
            "grid": "memory", "store": f"cassandra://127.0.0.1:{port}/atoll_us_east?data_center=us-east",
            "log": f"kafka://127.0.0.1:{port}/events?partitions=2",
        }  # fmt: skip
        settings, registry = msgspec.convert(told, RegionSettings), CollectorRegistry()
        store = open_store(settings, registry=registry)
        log = open_log(settings, registry=registry, seals=open_seals(settings, registry=registry))
        with pytest.raises(StoreUnavailableError):
            await store.read(ALICE)
        with pytest.raises(UnavailableError):
            await log.append([logged(1)])
        for part in (store, log):
            await part.close()
    counted = generate_latest(registry).decode()
    assert 'atoll_store_unavailable_total{cause="unreachable",lane="cassandra"} 1.0' in counted
    assert 'atoll_keys_unavailable_total{cause="unreachable",lane="cassandra"}' in counted
