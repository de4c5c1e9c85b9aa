"""`./atoll experiments estimate` over one region's files, as an operator types it."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from infra.cli.__main__ import main
from infra.contracts.events import Event, EventType, LoggedEvent
from region.events.opening import open_log
from region.exploration.exposures import Exposure, ExposureLog, Slot
from region.keeping.opening import open_file_keys
from tests.unit.region_events.test_worker import settings_in

SHOWN = (0, 0, 1, 1)
CLICKED = (0, 2)


def page(number: int) -> Exposure:
    slot = Slot(
        position=2, arms=("a", "b"), chances=(0.5, 0.5), clicks=(0.0, 0.0), impressions=(0.0, 0.0), new=(False, True),
        shown=SHOWN[number],
    )  # fmt: skip
    return Exposure(
        exposure=f"request-{number}", subject=f"{number:032x}", at_ms=1000, surface="home", release="r", rules="e",
        prior_rate=0.05, page=("x", slot.arms[slot.shown]), propensities=(1.0, 0.5), slots=(slot,),
    )  # fmt: skip


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    settings = settings_in(tmp_path)
    Path(settings.state_directory).mkdir(parents=True, exist_ok=True)
    path = tmp_path / "region.json"
    path.write_bytes(msgspec.json.encode(settings))
    exposures = ExposureLog(Path(settings.state_directory), keys=open_file_keys(settings))
    for number in range(len(SHOWN)):
        exposures.note(page(number))
    exposures.write(now_ms=1000)

    async def append() -> None:
        log = open_log(settings)
        for number in CLICKED:
            item = ("a", "b")[SHOWN[number]]
            event = Event(event_id=f"event-{number:04}", type=EventType.CLICK, item=item, at_ms=2000)
            await log.append([LoggedEvent(subject=f"{number:032x}", event=event, received_ms=2001)])
        await log.close()

    asyncio.run(append())
    return path


def test_greedy_is_estimated_from_the_draws_that_showed_what_it_shows(
    settings_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "estimates.json"
    words = ["experiments", "estimate", "--settings", str(settings_file), "--policy", "greedy"]
    assert main([*words, "--json", str(out)]) == 0
    assert "doubly robust" in capsys.readouterr().out
    found = json.loads(out.read_text())["estimates"]
    # Greedy shows "a": two draws of weight 2, one of them clicked.
    assert found["ips"]["value"] == pytest.approx(0.5)
    assert found["snips"]["value"] == pytest.approx(0.5)
    assert found["logged"]["value"] == pytest.approx(0.5)
    assert found["effective_rounds"] == pytest.approx(2.0)
    rules = tmp_path / "rules.yaml"
    rules.write_text("format: 1\nregion: us-east\nslate: {exploration: {method: epsilon-greedy, epsilon: 1.0}}\n")
    assert main([*words, "--rules", str(rules), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["estimates"]["effective_rounds"] == pytest.approx(4.0, abs=0.2)


def test_without_draws_it_says_what_to_do(settings_file: Path, capfd: pytest.CaptureFixture[str]):
    words = ["experiments", "estimate", "--settings", str(settings_file), "--surface", "cart"]
    assert main(words) == 2
    assert "exploration positions" in capfd.readouterr().err
    assert main([*words[:-2], "--policy", "best"]) == 2
    assert "is no policy" in capfd.readouterr().err
