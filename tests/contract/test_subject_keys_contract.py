"""What every keeper of subjects' keys must do; run against all of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from infra.plumbing.keys import RegionKeys
from region.keeping.subject_keys import USED_STEP_DAYS, SubjectKeys
from region.keeping.subject_keys_cassandra import CassandraSubjectKeys
from region.keeping.wrapping import FileWrapping
from region.store.cassandra_link import CassandraLink
from tests.contract.building import ALICE, BOB
from tests.support.keeping import key_file, subject_keys
from tests.support.keyspaces import Keyspace

Open = Callable[[], SubjectKeys]


@pytest.fixture(params=["sqlite", "cassandra"])
def open_keys(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same keys each time."""
    if request.param == "sqlite":
        return lambda: subject_keys(tmp_path)
    keyspace: Keyspace = request.getfixturevalue("keyspace")
    keyspace.empty()
    wrapping = FileWrapping(key_file(tmp_path))
    return lambda: CassandraSubjectKeys(CassandraLink(keyspace.address), wrapping=wrapping, life_days=400)


@pytest.fixture
async def keys(open_keys: Open) -> AsyncIterator[SubjectKeys]:
    opened = open_keys()
    yield opened
    await opened.close()


async def test_a_key_is_made_once_and_found_by_subject_and_by_handle(keys: SubjectKeys) -> None:
    assert await keys.of_subject(ALICE) is None
    made = await keys.for_writing([ALICE, BOB, ALICE], today=100)
    assert set(made) == {ALICE, BOB}
    assert made[ALICE].key != made[BOB].key
    assert await keys.of_subject(ALICE) == made[ALICE]
    assert await keys.for_writing([ALICE], today=100) == {ALICE: made[ALICE]}
    handles = [made[ALICE].handle, made[BOB].handle, "k" + "0" * 32]
    assert await keys.by_handles(handles) == {key.handle: key for key in made.values()}


async def test_all_who_make_one_at_once_get_the_same(open_keys: Open) -> None:
    several = [open_keys() for _ in range(3)]
    found = await asyncio.gather(*(one.for_writing([ALICE, BOB], today=7) for one in several for _ in range(3)))
    assert all(one == found[0] for one in found)
    for one in several:
        await one.close()


async def test_an_erased_key_is_gone_and_the_epoch_says_so_to_others(open_keys: Open) -> None:
    one, other = open_keys(), open_keys()
    before = (await one.for_writing([ALICE, BOB], today=1))[ALICE]
    epoch = await other.epoch()
    assert await other.epoch() == epoch
    assert await one.forget(ALICE) == 1
    assert await other.epoch() != epoch
    assert await other.of_subject(ALICE) is None
    assert await other.by_handles([before.handle]) == {}
    assert await one.forget(ALICE) == 0
    after = (await other.for_writing([ALICE], today=1))[ALICE]
    assert (after.key == before.key, after.handle == before.handle) == (False, False)
    assert await other.of_subject(BOB) is not None
    await one.close()
    await other.close()


async def test_a_use_is_noted_now_and_then(keys: SubjectKeys) -> None:
    await keys.for_writing([ALICE], today=100)
    assert (await keys.for_writing([ALICE], today=100 + USED_STEP_DAYS - 1))[ALICE].used_day == 100
    later = 100 + USED_STEP_DAYS
    assert (await keys.for_writing([ALICE], today=later))[ALICE].used_day == later
    found = await keys.of_subject(ALICE)
    assert found is not None
    assert found.used_day == later


async def test_every_key_is_wrapped_anew(keys: SubjectKeys, tmp_path: Path) -> None:
    made = await keys.for_writing([ALICE, BOB], today=5)
    assert await keys.rewrap() == 0
    path = key_file(tmp_path)
    RegionKeys.load(path).with_new_rest_key(now_ms=1).save(path)
    # Another process, which reads the file as it is now; this one follows it within a second.
    wrapping = FileWrapping(path)
    for found in (keys,):
        found._wrapping = wrapping  # type: ignore[attr-defined]
    assert await keys.rewrap() == 2
    assert await keys.for_writing([ALICE, BOB], today=5) == made
