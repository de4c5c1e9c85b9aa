"""`./atoll region REGION extract` as an operator calls it: refused by the policy, made under it, read by central."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from central.commands import import_dataset
from infra.cli.__main__ import main
from infra.contracts.extracts import sequences_file
from infra.plumbing.progress import SilentProgress
from region.settings import ExtractSettings, RegionSettings
from region.store.opening import open_store
from region.store.port import HistoryEntry, Interactions, UserRow
from tests.unit.region_events.test_worker import settings_in

USERS = 30


@pytest.fixture
def settings(tmp_path: Path) -> RegionSettings:
    (tmp_path / "state").mkdir()
    made = replace(settings_in(tmp_path / "state"), region="us-east", extracts=ExtractSettings(users_min=5))

    async def fill() -> None:
        store = open_store(made)
        rows = [
            UserRow(
                subject=f"{number:032x}",
                history=Interactions.of(
                    HistoryEntry(item=f"item-{(number + step) % 12}", strength=1 + step % 5, at_ms=3_600_000 * step)
                    for step in range(8)
                ),
            )
            for number in range(USERS)
        ]
        await store.write_rows(rows)
        await store.set_opt_out(rows[0].subject, opted_out=True)
        await store.close()

    asyncio.run(fill())
    return made


def extracted(settings: RegionSettings, folder: Path, kind: str) -> int:
    file = folder / "region.json"
    file.write_bytes(msgspec.json.encode(settings))
    out = ["--kind", kind, "--out", str(folder / "out"), "--settings", str(file)]
    return main(["region", "us-east", "extract", *out, "--json", str(folder / "report.json")])


def test_the_policy_decides_and_central_reads_what_it_lets_out(
    settings: RegionSettings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert extracted(settings, tmp_path, "pseudonymous") != 0
    assert "lets no extract 'pseudonymous' out" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    assert extracted(replace(settings, export_policy="pseudonymous"), tmp_path, "pseudonymous") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["users"], report["records"], report["left_out"]) == (USERS - 1, USERS - 1, 0)
    assert (tmp_path / "out" / sequences_file("us-east")).stat().st_size == report["bytes"]
    card = import_dataset(source=str(tmp_path / "out"), out=tmp_path / "dataset", progress=SilentProgress())
    assert (card.users, card.interactions, card.regions) == (USERS - 1, 8 * (USERS - 1), {"us-east": USERS - 1})
