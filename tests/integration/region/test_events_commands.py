"""`atoll events` and `atoll features` on a node's own files, as an operator types them."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from infra.cli.__main__ import main
from infra.contracts.events import EventType
from infra.plumbing.clock import SystemClock
from region.events.opening import open_dead_letters, open_log
from region.sampling.served import ServedSamples
from region.settings import RegionSettings
from region.store.opening import open_store
from region.store.port import OffsetEvent
from region.store.sqlite import STORE_DATABASE
from tests.contract.building import ALICE, BOB, logged
from tests.support.keeping import file_keys, key_file
from tests.unit.region_batch.test_batch_features import sample_of


async def a_node(directory: Path, *, skewed: bool = False) -> Path:
    """A node's state with a little history in it; returns its settings file."""
    settings = RegionSettings(
        node="n", region="r", port=1, worker_port=2, state_directory=str(directory), repository_url="",
        trusted_root="", keys_file=str(key_file(directory)), trust_file="", grid="memory",
    )  # fmt: skip
    path = directory / "region.json"
    path.write_bytes(msgspec.json.encode(settings))
    now_ms = SystemClock().now_ms() - 60_000
    log, store = open_log(settings), open_store(settings, read_timeout_s=10.0)
    await log.append(
        [
            logged(
                number, subject=ALICE if number % 3 else BOB, item=f"i{number % 7}", at_ms=now_ms + number,
                received_ms=now_ms + number, categories=("Drama",), kind=EventType.LIKE,
            )
            for number in range(40)
        ]
    )  # fmt: skip
    await store.apply(await log.read(after={0: 0}, limit=100))
    row = await store.read(ALICE)
    assert row is not None
    sample = sample_of(row, now_ms + 1000, "s1")
    if skewed:
        sample = msgspec.structs.replace(sample, impressions=5)
    samples = ServedSamples(directory, keys=file_keys(directory))
    samples.note(sample)
    samples.write(now_ms=now_ms)
    for part in (log, store):
        await part.close()
    return path


def answer(words: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 0) -> Any:
    """What a command prints as JSON."""
    assert main([*words, "--json", "-"]) == code
    return json.loads(capsys.readouterr().out)


async def test_replay_finds_nothing_and_then_what_was_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = await a_node(tmp_path)
    words = ["events", "replay", "--settings", str(settings)]
    found = answer(words, capsys)
    assert (found["events"], found["subjects"], found["differences"]) == (40, 2, {})
    connection = STORE_DATABASE.connect(tmp_path / "store.sqlite", read_only=False, keys=file_keys(tmp_path))
    connection.execute("DELETE FROM rows WHERE subject = ?", (BOB,))
    connection.close()
    assert answer(words, capsys, code=2)["differences"] == {"row": 1}


async def test_features_agree_and_a_planted_skew_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = await a_node(tmp_path)
    found = answer(["features", "parity", "--settings", str(settings)], capsys)
    assert (found["samples"], found["skews"]) == (1, [])
    out = tmp_path / "features"
    found = answer(["features", "batch", "--settings", str(settings), "--out", str(out)], capsys)
    assert found["rows"]["counters"] == 2
    assert (out / "affinities.parquet").is_file()
    other = tmp_path / "other"
    other.mkdir()
    settings = await a_node(other, skewed=True)
    assert main(["features", "parity", "--settings", str(settings)]) == 2
    assert "serving and training disagree on counters.impressions (5)" in capsys.readouterr().err


async def test_dead_letters_are_listed_and_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = await a_node(tmp_path)
    node = msgspec.json.decode(settings.read_bytes(), type=RegionSettings)
    letters = open_dead_letters(node)
    good = msgspec.msgpack.encode(logged(900, subject=ALICE))
    broken = [
        OffsetEvent(offset=offset, logged=logged(offset), broken="planted", content=content)
        for offset, content in ((7, good), (8, b"\xc1"))
    ]
    await letters.add(broken, now_ms=1)
    await letters.close()
    listed = answer(["events", "dead-letters", "list", "--settings", str(settings)], capsys)
    assert [(one["offset"], one["reason"]) for one in listed["letters"]] == [(7, "planted"), (8, "planted")]
    replayed = answer(["events", "dead-letters", "replay", "--settings", str(settings)], capsys)
    assert (replayed["replayed"], replayed["left"]) == (1, 1)
    assert answer(["events", "dead-letters", "list", "--settings", str(settings)], capsys)["count"] == 1
    log = open_log(node)
    assert (await log.last_offsets())[0] == 41
    await log.close()


def test_a_command_says_which_node_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "replay"]) == 2
    assert "--region REGION or --settings FILE" in capsys.readouterr().err
