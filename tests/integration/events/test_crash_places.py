"""Killed with -9 at every statement of a write, one after the other: all of it or nothing, and never a false word."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.integration.events.test_survival import PYTHON, ROOT

NOTHING = {"offset": 0, "versions": [0, 0], "shown": 0, "trending": {}}
EVERYTHING = {"offset": 4, "versions": [2, 1], "shown": 1, "trending": {"a": 2.0, "b": 1.0}}


def crash(kind: str, directory: Path) -> list[dict[str, Any]]:
    command = [PYTHON, "-m", "tests.integration.events.crashing", kind, str(directory)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    results: list[dict[str, Any]] = json.loads(ended.stdout)
    assert [result["died"] for result in results] == [True] * (len(results) - 1) + [False], "every place was tried"
    return results


def test_a_batch_is_applied_whole_or_not_at_all_and_once(tmp_path: Path) -> None:
    results = crash("store", tmp_path)
    assert len(results) > 10
    for result in results:
        assert result["found"] == (NOTHING if result["died"] else EVERYTHING)
        assert result["again"] == EVERYTHING


def test_what_is_acknowledged_is_in_the_log_and_once(tmp_path: Path) -> None:
    results = crash("log", tmp_path)
    assert len(results) > 5
    for result in results:
        for number in result["acknowledged"]:
            assert {number, number + 1} <= set(result["found"]), "acknowledged and lost"
        assert sorted(result["again"]) == [1, 2, 11, 12]
    assert sorted(results[-1]["acknowledged"]) == [1, 11]
