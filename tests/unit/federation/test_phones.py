"""The phone simulator against a real gateway, and its pieces."""

import asyncio
import base64
import secrets
from pathlib import Path

import aiohttp
import msgspec
import numpy as np
import pytest
from aiohttp.test_utils import TestServer

from federation.device.keystore import FileKeyStore
from federation.device.store import DeviceStore
from federation.device.tower import load_device_release
from federation.device.training import TrainingError
from federation.gateway.app import build_app
from federation.messages import Phase
from federation.phones.dataset import (
    is_sensitive,
    read_categories,
    read_interactions,
    read_owners,
    sensitive_categories,
)
from federation.phones.gains import GainTable, rank_of, step_of
from federation.phones.simulator import PhonesReport, Simulator
from federation.settings import CohortSettings, GatewaySettings, PhonesSettings
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.telemetry import TelemetrySettings, start_telemetry
from tests.unit.federation.building import (
    DIM,
    fixed_entropy,
    history,
    round_plan,
    small_release,
    write_dataset,
    write_release,
)

CANARY = "canary-7d1f"


def _settings(tmp_path: Path, url: str = "http://127.0.0.1:9", **changes) -> PhonesSettings:
    RegionKeys.generate("us-east").save(tmp_path / "keys.json")
    write_dataset(tmp_path / "data", regions=("us-east",), users=12)
    release = write_release(tmp_path)
    settings = PhonesSettings(
        gateways={"us-east": url}, keys_files={"us-east": str(tmp_path / "keys.json")},
        dataset_directory=str(tmp_path / "data"), release_directory=str(release),
        state_directory=str(tmp_path / "phones"), phones_per_region=10, sensitive_categories=("quiet",),
        canary=CANARY, cohort_min=3, dropout_share=0.1, patience_s=30.0,
    )  # fmt: skip
    return msgspec.structs.replace(settings, **changes)


def _simulator(settings: PhonesSettings) -> Simulator:
    release = load_device_release(Path(settings.release_directory))
    return Simulator(settings, release=release, clock=SystemClock())


async def test_phones_take_part_and_report_without_saying_who(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    keys = RegionKeys.load(tmp_path / "keys.json")
    gateway_settings = GatewaySettings(
        node="g", region="us-east", port=0, state_directory=str(tmp_path / "state"), keys_file="", trust_file="",
        cohort=CohortSettings(count_min=2, goal_count=10, selection_s=2.0, reporting_s=2.0),
    )  # fmt: skip
    telemetry = start_telemetry(
        service="g", region="us-east", node="g", settings=TelemetrySettings(log_file=str(tmp_path / "log"))
    )
    app = build_app(
        settings=gateway_settings, keys=keys, trust=TrustDirectory.of([keys]), telemetry=telemetry,
        clock=SystemClock(), entropy=fixed_entropy(),
    )  # fmt: skip
    async with TestServer(app) as server:
        url = str(server.make_url("/"))
        simulator = _simulator(msgspec.structs.replace(settings, gateways={"us-east": url}))
        stop = asyncio.Event()
        living = asyncio.create_task(simulator.run(stop))
        key = (tmp_path / "state" / "round.key").read_text()
        result = await _run_round(url, key)
        stop.set()
        await living
    simulator.close()
    telemetry.close()
    report = simulator.report()
    assert result["phase"] == Phase.CLOSED
    assert report.tasks == 10
    assert report.updates_accepted == report.participants == result["weight"]
    assert 10 - report.dropouts <= report.participants <= 10
    assert report.updates_refused == 0
    assert report.loss_after < report.loss_before
    assert 0.0 < report.sensitive_share < 1.0
    assert not report.adapted
    text = msgspec.json.encode(report).decode()
    assert "uus" not in text
    assert CANARY not in text
    assert "ueast" not in text


async def _run_round(url: str, key: str) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {key}"}
    plan = round_plan()
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.post(f"{url}v1/rounds", data=msgspec.json.encode(plan)) as answer:
            assert answer.status == 202
        while True:
            async with session.get(f"{url}v1/rounds/{plan.round_id}?wait_s=10") as answer:
                standing = await answer.json()
            if standing["phase"] in ("closed", "void"):
                return dict(standing)


async def test_without_a_gateway_phones_wait_and_patience_ends(tmp_path: Path) -> None:
    simulator = _simulator(_settings(tmp_path, patience_s=0.3))
    await simulator.run(asyncio.Event())
    simulator.close()
    assert simulator.report().tasks == 0


def test_the_gain_of_an_adapter_is_measured(tmp_path: Path) -> None:
    adapter = np.eye(DIM, dtype=np.float32) * 2.0
    np.save(tmp_path / "adapter.npy", adapter)
    simulator = _simulator(_settings(tmp_path, adapter_file=str(tmp_path / "adapter.npy")))
    report = simulator.report()
    simulator.close()
    assert report.adapted
    # Twice the vector ranks as the vector does.
    assert report.quality["adapted"] == report.quality["on_phone"]
    assert set(report.quality) == {"served", "on_phone", "personal", "adapted", "adapted_personal"}
    assert msgspec.json.decode(msgspec.json.encode(report), type=PhonesReport) == report


def test_the_canary_and_sensitive_events_lie_in_the_stores_only(tmp_path: Path) -> None:
    simulator = _simulator(_settings(tmp_path))
    simulator.close()
    stores = sorted((tmp_path / "phones").glob("*.phone"))
    assert len(stores) == 10
    release = load_device_release(Path(_settings_release(tmp_path)))
    opened = [_store(path) for path in stores]
    assert all(CANARY in [event.item for event in store._history.sensitive] for store in opened)
    known = opened[0].history(release)
    hidden = set(known.rows[known.sensitive].tolist())
    assert all(row % 4 == 0 for row in hidden)


def test_what_lies_on_a_phones_disk_is_encrypted_with_a_key_of_its_own(tmp_path: Path) -> None:
    _simulator(_settings(tmp_path)).close()
    on_disk = [path.read_bytes() for path in (tmp_path / "phones").iterdir()]
    assert len(on_disk) == 20
    for raw in on_disk:
        decoded = [base64.b64decode(line.partition(b" ")[2]) for line in raw.split(b"\n") if b"/" in line[:8]]
        assert not any(secret in text for secret in (CANARY.encode(), b"sensitive") for text in (raw, *decoded))
    keys = sorted((tmp_path / "phones").glob("*.key"))
    assert len({path.read_bytes() for path in keys}) == 10
    assert all(path.stat().st_mode & 0o077 == 0 for path in keys)


def test_a_phone_sits_rounds_out_when_its_day_is_spent(tmp_path: Path) -> None:
    simulator = _simulator(msgspec.structs.replace(_settings(tmp_path), steps_a_day=60))
    phone = simulator._phones[0]
    plan = round_plan(local_steps=2)
    simulator._train(phone, plan)
    simulator._train(phone, plan)
    with pytest.raises(TrainingError, match="enough for today"):
        simulator._train(phone, plan)
    simulator.close()


def _store(path: Path) -> DeviceStore:
    return DeviceStore(path, keys=FileKeyStore(path.with_suffix(".key"), entropy=secrets.token_bytes))


def _settings_release(tmp_path: Path) -> str:
    return str(next(path for path in tmp_path.iterdir() if (path / "adapter.npy").exists()))


# --- pieces


def test_owners_are_users_of_the_region_with_the_last_event_held_out(tmp_path: Path) -> None:
    data = write_dataset(tmp_path, regions=("us-east", "us-west"), users=5)
    owners = read_owners(data, regions=["us-east"], per_region=4, rng=np.random.default_rng(0))
    assert {owner.region for owner in owners} == {"us-east"}
    assert len({owner.user for owner in owners}) == 4
    for owner in owners:
        assert owner.held_out.at_ms > owner.known[-1].at_ms
        assert len(owner.known) == 11


def test_too_few_users_are_said(tmp_path: Path) -> None:
    data = write_dataset(tmp_path, regions=("us-east",), users=3)
    with pytest.raises(InvalidInputError, match="us-east has 3 users"):
        read_owners(data, regions=["us-east"], per_region=4, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"user_id,item_id\nu,i\n", "no column timestamp"),
        (b"user_id,item_id,timestamp\nu,i,soon\n", "line 2"),
        (b"user_id,item_id,timestamp,event_type\nu,i,1,danced\n", "line 2"),
        (b"user_id,item_id,timestamp\n\xff\xfe,i,1\n", "cannot be read"),
    ],
)
def test_malformed_interactions_are_named(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "interactions.csv").write_bytes(content)
    with pytest.raises(InvalidInputError, match=match):
        list(read_interactions(tmp_path))


def test_a_missing_folder_is_named_and_items_are_optional(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"interactions\.csv cannot be read"):
        list(read_interactions(tmp_path))
    assert read_categories(tmp_path) == {}


def test_the_sensitive_category_is_the_one_nearest_a_fifth(tmp_path: Path) -> None:
    data = write_dataset(tmp_path, regions=("us-east",), users=8)
    owners = read_owners(data, regions=["us-east"], per_region=8, rng=np.random.default_rng(0))
    categories = read_categories(data)
    hidden = sensitive_categories((), owners, categories)
    assert hidden == {"quiet"}
    assert sensitive_categories(("loud",), owners, categories) == {"loud"}
    assert sensitive_categories((), owners, {}) == frozenset()
    assert is_sensitive(owners[0].rows[0], frozenset({"quiet", "loud"}), categories)


def test_ranks_leave_the_history_out_and_break_ties_by_row() -> None:
    release = small_release()
    known = history(5)
    flat = np.zeros(DIM)
    assert rank_of(20, flat, release, known) == sum(row not in set(known.rows.tolist()) for row in range(20))
    target = next(row for row in range(40) if row not in known.rows)
    best = release.item_vectors[target] * 100.0
    order = np.argsort(-(release.item_vectors @ best))
    kept = [row for row in order.tolist() if row not in known.rows]
    assert rank_of(target, best, release, known) == kept.index(target)


def test_gains_are_means_by_arm_and_sensitive_targets_apart() -> None:
    table = GainTable()
    table.add("served", 0, sensitive=True)
    table.add("served", 10, sensitive=False)
    assert table.quality()["served"].hr10 == 0.5
    assert table.quality()["served"].ndcg10 == 0.5
    assert table.quality_on_sensitive()["served"].hr10 == 1.0
    lone = GainTable()
    lone.add("served", 0, sensitive=False)
    assert lone.quality_on_sensitive() == {}


def test_the_step_between_two_adapters_is_found() -> None:
    rng = np.random.default_rng(0)
    released, step = rng.normal(size=(DIM, DIM)), rng.normal(size=(DIM, DIM))
    np.testing.assert_allclose(step_of(released @ step, released), step, atol=1e-9)
