"""Replay: requests are read strictly, answered by the served funnel with every part, and written whole."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from infra.plumbing.errors import InvalidInputError
from infra.plumbing.progress import LineProgress
from region.replay.__main__ import main
from region.replay.replaying import answer_all, read_manifest, read_requests, write_answers
from tests.unit.region.worlds import World, bundle_at


def recorded(user: str = "u1", **fields: Any) -> dict[str, Any]:
    return {
        "user": user, "items": ["item-1", "item-2"], "strengths": [5, 4], "times_s": [1e9, 1e9 + 60], "now_s": 1e9 + 90,
        "target": "item-9",
    } | fields  # fmt: skip


def written(path: Path, *requests: dict[str, Any]) -> Path:
    path.write_bytes(msgspec.msgpack.encode(list(requests)))
    return path


def test_requests_are_read_in_order_up_to_a_limit(tmp_path: Path) -> None:
    path = written(tmp_path / "requests", *[recorded(f"u{number}") for number in range(5)])
    assert [request.user for request in read_requests(path, limit=2)] == ["u0", "u1"]
    assert len(read_requests(path)) == 5


def test_bad_requests_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_requests(tmp_path / "nowhere")
    with pytest.raises(InvalidInputError, match="does not hold requests"):
        read_requests(written(tmp_path / "a", {"user": "x"}))
    with pytest.raises(InvalidInputError, match=r"request 1 of .* different lengths"):
        read_requests(written(tmp_path / "b", recorded(), recorded(strengths=[5])))
    (tmp_path / "c").write_bytes(b"\xc1")
    with pytest.raises(InvalidInputError, match="does not hold requests"):
        read_requests(tmp_path / "c")


async def test_answers_are_what_the_funnel_serves(
    new_world: Callable[..., World], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = new_world(live=False)
    requests = read_requests(written(tmp_path / "requests", recorded("u1"), recorded("u2", items=["item-3", "gone"])))
    answers = await answer_all(
        requests, world.release, world.funnel, clock=world.clock, progress=LineProgress(sys.stderr)
    )
    write_answers(tmp_path / "answers", answers)
    decoded = msgspec.msgpack.decode((tmp_path / "answers").read_bytes(), type=dict[str, list[str]])
    assert set(decoded) == {"u1", "u2"}
    assert len(decoded["u1"]) == 48
    assert not {"item-1", "item-2"} & set(decoded["u1"])
    assert "requests replayed: 2/2" in capsys.readouterr().err


async def test_a_replay_without_a_part_is_no_replay(world: World, tmp_path: Path) -> None:
    world.retrieval.error = RuntimeError("gone")
    requests = read_requests(written(tmp_path / "requests", recorded()))
    with pytest.raises(InvalidInputError, match=r"without .*ann"):
        await answer_all(requests, world.release, world.funnel, clock=world.clock, progress=LineProgress(sys.stderr))


def test_a_manifest_is_asked_for(tmp_path: Path) -> None:
    directory, manifest = bundle_at(tmp_path)
    assert read_manifest(directory) == manifest
    with pytest.raises(InvalidInputError, match="not a release directory"):
        read_manifest(tmp_path)


def test_the_command_tells_what_is_wrong_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests = written(tmp_path / "requests", recorded())
    answers = tmp_path / "answers"
    arguments = ["--release", str(tmp_path), "--requests", str(requests), "--answers", str(answers)]
    assert main(arguments) == 2
    assert "not a release directory" in capsys.readouterr().err
    assert not answers.exists()
