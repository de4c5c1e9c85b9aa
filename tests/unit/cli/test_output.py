"""What commands print, and for whom."""

import argparse
import io
import json
import sys
from pathlib import Path

import msgspec
import pytest

from infra.cli.output import TerminalProgress, add_json_option, emit, progress_bar, table


class Result(msgspec.Struct):
    name: str
    figure: float


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_json_option(parser)
    return parser.parse_args(list(words))


def test_people_get_text_and_scripts_get_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    emit(parse(), Result("a", 1.5), "a is 1.5")
    assert capsys.readouterr().out == "a is 1.5\n"
    emit(parse("--json", str(tmp_path / "r.json")), Result("a", 1.5), "a is 1.5")
    assert capsys.readouterr().out == "a is 1.5\n"
    assert json.loads((tmp_path / "r.json").read_text()) == {"name": "a", "figure": 1.5}
    emit(parse("--json", "-"), {"b": [1]}, "text")
    assert json.loads(capsys.readouterr().out) == {"b": [1]}
    emit(parse(), {}, "")
    assert capsys.readouterr().out == ""


def test_tables_line_up():
    text = table([{"name": "a", "hr10": 0.33333}, {"name": "longer", "hr10": None}])
    assert text.splitlines() == ["name    hr10", "a       0.3333", "longer  -"]
    assert table([]) == "(none)"


def test_progress_is_a_line_per_part_where_nobody_watches(monkeypatch: pytest.MonkeyPatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar() as bar:
        for done in range(4):
            bar.advance(done, 3, "epochs")
        bar.advance(3, 3, "epochs")
    assert stream.getvalue() == "  epochs: done\n"


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = TerminalProgress()
    bar.advance(1, 3, "epochs")
    bar.advance(3, 3, "epochs")
    (task,) = bar._progress.tasks
    assert (task.description, task.completed, task.total) == ("epochs", 3, 3)
    bar.close()
    bar.close()
