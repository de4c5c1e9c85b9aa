"""What a process holds in memory of somebody who was erased goes a moment later."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.plumbing.clock import ManualClock
from infra.plumbing.environment import OVERWRITING, environment_with
from region.keeping import wiping
from region.keeping.wiping import Wiper, overwrite_read_buffer
from region.store.sqlite import SqliteStore
from tests.contract.building import ALICE, NOW_MS, placed
from tests.support.keeping import file_keys

PROGRAM = """
import os, sys
from infra.plumbing.environment import OVERWRITING, restart_with
before = os.getpid()
restart_with(OVERWRITING)
print(before == os.getpid(), os.environ["PYTHONMALLOC"], os.environ["GLIBC_TUNABLES"], sys.argv[1:])
"""


class Part:
    def __init__(self) -> None:
        self.renewed = 0

    async def renew(self) -> None:
        self.renewed += 1


async def test_it_wipes_once_erasures_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiping, "SETTLE_S", 0.0)
    epochs, part, told = [1, 1, 1, 2, 3, 3, 3, 3], Part(), 0

    async def epoch() -> object:
        return epochs.pop(0)

    async def tell() -> None:
        nonlocal told
        told += 1

    wiper = Wiper(epoch=epoch, parts=[part], tell=tell)
    assert await wiper.look()
    # 1 again: nothing to do; then 2, and 3 a moment later: erasures go on; then they have ended.
    assert [await wiper.look() for _ in range(3)] == [False, False, True]
    assert (part.renewed, told) == (2, 2)


async def test_a_store_goes_on_after_its_connections_were_opened_anew(tmp_path: Path) -> None:
    clock = ManualClock(wall_ms=NOW_MS)
    store = SqliteStore(tmp_path / "store.sqlite", clock=clock, read_timeout_s=5.0, keys=file_keys(tmp_path))
    await store.apply([placed(1)])
    reads = [asyncio.create_task(store.read(ALICE)) for _ in range(20)]
    await store.renew()
    assert all(row is not None for row in await asyncio.gather(*reads))
    assert await store.read(ALICE) is not None
    await store.close()
    await store.renew()  # nothing to do any more


async def test_the_loops_buffer_is_read_over() -> None:
    await overwrite_read_buffer()


def test_a_program_runs_anew_once_as_the_same_process() -> None:
    environment = {name: value for name, value in environment_with({}).items() if name not in OVERWRITING}
    for held, expected in (({}, OVERWRITING["GLIBC_TUNABLES"]), ({"GLIBC_TUNABLES": "a.b=1"}, "a.b=1:")):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "word"], env={**environment, **held}, cwd=os.getcwd(), capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        assert done.stdout.startswith(f"True malloc {expected}")
        assert done.stdout.endswith("['word']\n")
