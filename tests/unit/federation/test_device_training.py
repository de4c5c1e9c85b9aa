"""A phone's part of a round, its store and its portable vector."""

import base64
import secrets
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.device.keystore import FileKeyStore, KeyStoreError
from federation.device.store import EVENTS_MAX, DeviceStore, DeviceStoreError, StoredHistory
from federation.device.tower import DeviceReleaseError, LiteRTTower, device_release, load_device_release
from federation.device.training import LocalSettings, TrainingError, examples_of, reconstruct, train_round
from federation.device.vector import personal_part, portable_vector
from federation.messages import VECTOR_HEADER, VECTOR_RELEASE_HEADER
from federation.privacy.clipping import within_norm
from federation.secure_aggregation.messages import MaskedUpdate
from infra.contracts.events import Event, EventType, SensitiveEvent
from infra.contracts.features import encode_history
from infra.contracts.release import CATALOGUE, ITEM_VECTORS, USER_TOWER
from infra.contracts.residency import ResidencyError, encode_global, encode_regional
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.keys import decode_base64url
from region.funnel.towers import Model
from tests.unit.federation.building import (
    DIM,
    ITEMS,
    LENGTH,
    RELEASE_ID,
    MeanTower,
    columns,
    history,
    item_vectors,
    linear_tower,
    round_plan,
    small_release,
    write_release,
)


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_training_lowers_the_loss_and_the_update_is_clipped() -> None:
    release = small_release()
    found = train_round(round_plan(clipping_norm=0.05), release, history(40), rng=_rng())
    assert found.loss_after < found.loss_before
    assert found.clipped
    assert within_norm(found.update, 0.05)
    assert np.linalg.norm(found.update) == pytest.approx(0.05, rel=1e-4)


def test_sensitive_events_train_too() -> None:
    """Taking the sensitive events away changes what is learned."""
    release, known = small_release(), history(30)
    both = train_round(round_plan(), release, known, rng=_rng()).update
    served = train_round(round_plan(), release, known.served_only(), rng=_rng()).update
    assert not np.array_equal(both, served)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_short_history_sends_a_zero_update_like_any_other(count: int) -> None:
    found = train_round(round_plan(), small_release(), history(count), rng=_rng())
    np.testing.assert_array_equal(found.update, np.zeros((3, 3), dtype=np.float32))


def test_the_work_is_bounded_by_examples() -> None:
    release = small_release()
    examples_of(history(500), release, LocalSettings(examples_max=16))
    assert isinstance(release.tower, MeanTower)
    assert release.tower.calls == 16


def test_a_large_catalogue_is_sampled() -> None:
    bounds = LocalSettings(full_catalogue_max=10, negatives=20)
    found = train_round(round_plan(), small_release(), history(30), rng=_rng(), settings=bounds)
    assert found.examples == 29
    assert found.update.any()


@pytest.mark.parametrize(
    "plan",
    [msgspec.structs.replace(round_plan(), release="f" * 20), round_plan(dim=DIM + 1)],
)
def test_a_task_for_another_release_is_refused(plan) -> None:
    with pytest.raises(TrainingError, match="release"):
        train_round(plan, small_release(), history(10), rng=_rng())


def test_training_that_runs_away_is_refused() -> None:
    plan = round_plan(local_steps=200, local_learning_rate=1e300)
    with pytest.raises((TrainingError, FloatingPointError)), np.errstate(all="ignore"):
        train_round(plan, small_release(), history(30), rng=_rng())


def test_the_personal_part_explains_the_examples_it_was_made_of() -> None:
    release = small_release()
    examples = examples_of(history(30), release, LocalSettings())
    basis, core = np.zeros((DIM, 1), np.float32), np.zeros((1, 1))
    nothing = reconstruct(examples.part(0, 0), release, basis=basis, core=core, rng=_rng(), settings=LocalSettings())
    np.testing.assert_array_equal(nothing, np.zeros(DIM))
    found = reconstruct(examples, release, basis=basis, core=core, rng=_rng(), settings=LocalSettings())
    assert np.linalg.norm(found) > 0.0


@settings(max_examples=15, deadline=None)
@given(count=st.integers(0, 2 * LENGTH), seed=st.integers(0, 1000))
def test_the_portable_vector_is_the_towers_own_without_a_personal_part(count: int, seed: int) -> None:
    release, known = small_release(), history(count, seed=seed)
    now_s = 2e9
    found = portable_vector(release, known, now_s=now_s)
    # Central has not heard of item 0: a sensitive event of it is not read.
    read = known.read_as(np.where(known.sensitive & (known.rows == 0), -1, known.rows))
    inputs = encode_history(read.rows, read.strengths, read.times_s, now_s=now_s, length=LENGTH)
    np.testing.assert_array_equal(found.vector, release.tower.vector(inputs))
    headers = found.headers()
    assert headers[VECTOR_RELEASE_HEADER] == RELEASE_ID
    np.testing.assert_array_equal(np.frombuffer(decode_base64url(headers[VECTOR_HEADER]), "<f4"), found.vector)


def test_the_personal_part_is_added() -> None:
    release, known = small_release(), history(20)
    personal = personal_part(release, known, rng=_rng())
    plain, moved = (portable_vector(release, known, now_s=2e9, personal=p).vector for p in (None, personal))
    np.testing.assert_allclose(moved - plain, personal, atol=1e-6)
    np.testing.assert_array_equal(personal_part(release, history(3), rng=_rng()), np.zeros(DIM))


def test_the_phone_and_the_region_get_the_same_vector_from_the_released_tower(tmp_path: Path) -> None:
    root = write_release(tmp_path)
    known, now_s = history(25), 2e9
    mine = portable_vector(load_device_release(root), known, now_s=now_s).vector
    inputs = encode_history(known.rows, known.strengths, known.times_s, now_s=now_s, length=LENGTH)
    shapes = dict.fromkeys(inputs._fields, ((1, LENGTH), np.int32))
    regional = Model(root / USER_TOWER, inputs=shapes, output=(1, DIM))
    theirs = regional.run({name: part[None, :] for name, part in inputs._asdict().items()})[0]
    np.testing.assert_array_equal(mine, theirs)
    assert np.abs(mine).max() > 0.0


def test_a_release_that_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    vectors = item_vectors()
    with pytest.raises(DeviceReleaseError, match="fit together"):
        device_release(RELEASE_ID, MeanTower(vectors), vectors[:-1], columns())
    root = write_release(tmp_path)
    with pytest.raises(DeviceReleaseError, match="release id"):
        load_device_release(root, release_id="nonsense")
    (root / USER_TOWER).write_bytes(b"not a model")
    with pytest.raises(DeviceReleaseError, match="tower"):
        load_device_release(root)
    (root / CATALOGUE / "ids.slots.npy").write_bytes(b"\xc1")
    with pytest.raises(DeviceReleaseError, match="cannot be read"):
        load_device_release(root)
    (root / ITEM_VECTORS).unlink()
    with pytest.raises(DeviceReleaseError, match="cannot be read"):
        load_device_release(root)


def test_a_tower_without_the_inputs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / USER_TOWER
    path.write_bytes(linear_tower(dim=DIM, length=LENGTH).replace(b"strengths:0", b"somethin:0X"))
    with pytest.raises(DeviceReleaseError, match="strengths"):
        LiteRTTower(path)


# --- the store


def _event(item: str, at_ms: int, kind: EventType = EventType.CLICK) -> Event:
    return Event(event_id="e" * 8, type=kind, item=item, at_ms=at_ms)


def _secret(item: str, at_ms: int) -> SensitiveEvent:
    return SensitiveEvent(item=item, strength=5, at_ms=at_ms)


def test_the_store_keeps_both_kinds_in_time_and_survives_a_restart(tmp_path: Path) -> None:
    store = _store(tmp_path, "a")
    store.add_served(_event("i3", 3000))
    store.add_sensitive(_secret("i1", 1000))
    store.add_served(_event("i2", 2000))
    store.add_served(_event("i9", 2500, EventType.IMPRESSION))
    store.add_sensitive(_secret("not in the catalogue", 2700))
    store.save()
    again = _store(tmp_path, "a").history(small_release())
    assert again.rows.tolist() == [1, 2, 3]
    assert again.sensitive.tolist() == [True, False, False]
    assert again.times_s.tolist() == [1.0, 2.0, 3.0]
    assert again.served_only().rows.tolist() == [2, 3]
    assert "i1" not in repr(again)
    assert (tmp_path / "a.phone").stat().st_mode & 0o077 == 0


def _keys(directory: Path) -> FileKeyStore:
    return FileKeyStore(directory / "device.key", entropy=secrets.token_bytes)


def _store(directory: Path, name: str) -> DeviceStore:
    return DeviceStore(directory / f"{name}.phone", keys=_keys(directory))


def _filled(directory: Path, count: int) -> DeviceStore:
    store = _store(directory, "a")
    store._history = StoredHistory(sensitive=tuple(_secret(f"i{index % ITEMS}", index) for index in range(count)))
    return store


def test_the_store_is_bounded_and_can_be_erased(tmp_path: Path) -> None:
    store = _filled(tmp_path, EVENTS_MAX)
    store.add_sensitive(_secret("i7", EVENTS_MAX))
    assert len(store._history.sensitive) == EVENTS_MAX
    assert store._history.sensitive[0].at_ms == 1
    store.save()
    copy = (tmp_path / "a.phone").read_bytes()
    store.erase()
    assert list(tmp_path.iterdir()) == []
    assert len(_store(tmp_path, "a").history(small_release())) == 0
    # A backup of the file is worth nothing without the key that went with it.
    (tmp_path / "a.phone").write_bytes(copy)
    with pytest.raises(DeviceStoreError):
        _store(tmp_path, "a")


def test_the_store_is_bounded_in_bytes_and_in_time(tmp_path: Path) -> None:
    _filled(tmp_path, 3000).save()
    small = DeviceStore(tmp_path / "a.phone", keys=_keys(tmp_path), bytes_max=20_000)
    small.save()
    assert (tmp_path / "a.phone").stat().st_size <= 20_000
    kept = _store(tmp_path, "a")
    assert 100 < len(kept._history.sensitive) < 3000
    assert kept._history.sensitive[-1].at_ms == 2999
    assert kept.expire(now_ms=3100, age_max_ms=150) == len(small._history.sensitive) - 49
    assert len(kept._history.sensitive) == 49


def test_nothing_of_the_history_can_be_read_from_the_disk(tmp_path: Path) -> None:
    store = _store(tmp_path, "a")
    store.add_sensitive(_secret("a-telling-item", 1))
    store.save()
    raw = (tmp_path / "a.phone").read_bytes()
    assert b"telling" not in raw
    assert b"telling" not in base64.b64decode(raw.split(b" ", 1)[1])
    assert (tmp_path / "device.key").stat().st_mode & 0o077 == 0
    (tmp_path / "device.key").chmod(0o644)
    with pytest.raises(DeviceStoreError):
        _store(tmp_path, "a")
    with pytest.raises(KeyStoreError, match="others can read"):
        store.save()


@pytest.mark.parametrize("damage", ["flip", "cut", "swap", "line", "torn", "header"])
def test_damage_is_said_and_costs_a_part_and_no_more(tmp_path: Path, damage: str) -> None:
    _filled(tmp_path, 1000).save()
    path = tmp_path / "a.phone"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    if damage == "flip":
        lines[1] = lines[1][:50] + (b"A" if lines[1][50:51] != b"A" else b"B") + lines[1][51:]
    elif damage == "cut":
        lines = lines[:3]
    elif damage == "swap":
        lines[1] = b"1/4" + lines[2][3:]
    elif damage == "line":
        lines[1] = b"\x00\xff\n"
    elif damage == "header":
        lines[1] = b"1/9" + lines[1][3:]
    else:
        lines[3] = lines[3][: len(lines[3]) // 2]
    path.write_bytes(b"".join(lines))
    with pytest.raises(DeviceStoreError, match="1 parts of the phone's store cannot be read") as caught:
        _store(tmp_path, "a")
    assert caught.value.lost == 1
    assert path.exists()
    rescued = DeviceStore.salvaged(path, keys=_keys(tmp_path))
    assert (rescued.lost, len(rescued._history.sensitive)) == (1, 750)
    assert (tmp_path / "a.phone.damaged").exists()
    assert len(_store(tmp_path, "a")._history.sensitive) == 750
    again = DeviceStore.salvaged(path, keys=_keys(tmp_path))
    assert (again.lost, len(again._history.sensitive)) == (0, 750)


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"0/1 AAAA\n", b"\n\n"])
def test_a_store_that_is_no_store_says_so(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a.phone").write_bytes(raw)
    with pytest.raises(DeviceStoreError, match="cannot be read"):
        _store(tmp_path, "a")
    with pytest.raises(InvalidInputError, match="strength"):
        _store(tmp_path, "b").add_sensitive(SensitiveEvent(item="i1", strength=0, at_ms=1))


def test_a_days_training_is_bounded_and_a_restart_gives_nothing_back(tmp_path: Path) -> None:
    store, day = _store(tmp_path, "a"), 86_400_000
    assert store.spend_steps(60, now_ms=5 * day, a_day=100)
    assert not store.spend_steps(41, now_ms=5 * day + 9, a_day=100)
    store.save()
    again = _store(tmp_path, "a")
    assert not again.spend_steps(41, now_ms=5 * day + 9, a_day=100)
    assert again.spend_steps(40, now_ms=6 * day - 1, a_day=100)
    assert again.spend_steps(100, now_ms=6 * day, a_day=100)


@pytest.mark.parametrize("encode", [encode_global, encode_regional])
@pytest.mark.parametrize("record", [_secret("i1", 1), StoredHistory(sensitive=(_secret("i1", 1),))])
def test_no_wire_encoder_takes_a_device_record(encode, record) -> None:
    with pytest.raises(ResidencyError):
        encode(record)


def test_a_single_update_cannot_be_encoded_towards_central() -> None:
    masked = MaskedUpdate(round_id="a" * 16, masked=bytes(36))
    assert encode_regional(masked)
    with pytest.raises(ResidencyError):
        encode_global(masked)  # type: ignore[arg-type]
