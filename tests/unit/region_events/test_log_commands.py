"""`python -m region.events`: replay, dead letters and export over one region's files, as an operator calls them."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from infra.contracts.events import Event, EventType, LoggedEvent
from region.events.__main__ import main
from region.events.opening import open_log
from tests.unit.region_events.test_worker import settings_in

SUBJECT = "u" + "0" * 32


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    settings = settings_in(tmp_path)
    Path(settings.state_directory).mkdir(parents=True, exist_ok=True)
    path = tmp_path / "region.json"
    path.write_bytes(msgspec.json.encode(settings))

    async def append() -> None:
        log = open_log(settings)
        events = [
            Event(event_id=f"event-{number:04}", type=EventType.CLICK, item=f"item-{number}", at_ms=1_700_000_000_000)
            for number in range(3)
        ]
        await log.append([LoggedEvent(subject=SUBJECT, event=one, received_ms=1_700_000_000_001) for one in events])
        await log.close()

    asyncio.run(append())
    return path


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_replay_builds_every_feature_anew(settings_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "fresh.sqlite"
    assert main(["replay", "--settings", str(settings_file), "--out", str(out)]) == 0
    assert said(capsys)
    assert out.stat().st_size > 0
    assert main(["replay", "--settings", str(settings_file), "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_dead_letters_are_listed_and_replayed(settings_file: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["list-letters", "--settings", str(settings_file)]) == 0
    assert said(capsys) == {"count": 0, "letters": []}
    assert main(["replay-letters", "--settings", str(settings_file)]) == 0
    assert said(capsys)


def test_the_log_is_exported_as_rows(settings_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", "--settings", str(settings_file)]) == 2
    assert "--out DIR" in capsys.readouterr().err
    assert main(["export", "--settings", str(settings_file), "--out", str(tmp_path / "rows")]) == 0
    assert said(capsys)
    assert any((tmp_path / "rows").iterdir())


def test_settings_that_cannot_be_read_are_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["replay", "--settings", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
