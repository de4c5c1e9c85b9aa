"""Measurements that are quick enough run here as a user would type them: they work, and say what they measured."""

import json

import pytest

from infra.cli.__main__ import main


def measured(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, float]:
    assert main(["bench", *words, "--json", "-"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["name"] == words[0]
    assert printed["bars"]
    figures: dict[str, float] = printed["figures"]
    return figures


def test_canaries_are_measured(capsys: pytest.CaptureFixture[str]):
    figures = measured(capsys, "canary", "--quick", "--set", "trials=3", "--set", "calls=1500")
    assert figures["bad_rolled_back_share"] > 0.6
    assert figures["false_alarm_share"] == 0.0
    assert figures["empty_lists_calls_p50"] < 200


def test_pulls_are_measured(capsys: pytest.CaptureFixture[str]):
    figures = measured(capsys, "pull", "--quick", "--set", "items=21000")
    assert figures["bytes_ratio"] < 0.1
    assert figures["first_bytes"] > 10_000_000


def test_indexes_are_measured(capsys: pytest.CaptureFixture[str]):
    words = ("--set", "items=21000", "--set", "queries=20", "--set", "switch=none", "--set", "rival_lists=50")
    figures = measured(capsys, "index", "--quick", "--set", "rival_kinds=fs", *words)
    assert figures["recall_n21000"] >= 0.97
    assert figures["cpu_ratio_faiss"] > 0.0
    assert "switch_stall_ms" not in figures


@pytest.mark.parametrize(
    ("words", "says"),
    [(("interrupt", "--set", "acts=coffee"), "no act 'coffee'"), (("pull", "--set", "items=x"), "not a number")],
)
def test_options_that_cannot_be_used_are_refused(words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]):
    assert main(["bench", *words]) == 2
    assert says in capsys.readouterr().err
