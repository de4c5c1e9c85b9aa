import json
from pathlib import Path

import pytest

import infra.bench.suites as package
from infra.bench import catalogue
from infra.cli.__main__ import main

SUITE = '''"""Counts to three.

Options: `step`.
"""
from infra.bench.results import Measured, at_most


def run(request):
    return Measured(figures={"counted": 3 * request.number("step", 1)}, bars=(at_most("few", 3.0, 2.0, unit=""),))
'''


@pytest.fixture
def a_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "to_three.py").write_text(SUITE)
    monkeypatch.setattr(catalogue, "SUITES", tmp_path)
    monkeypatch.setattr(package, "__path__", [str(tmp_path)])


@pytest.mark.usefixtures("a_suite")
def test_a_module_in_the_folder_is_a_measurement(capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "list", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "to-three", "measures": "Counts to three."}]
    assert main(["bench", "to-three", "--set", "step=2", "--json", "-"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["name"] == "to-three"
    assert printed["figures"] == {"counted": 6.0}
    assert printed["bars"] == [{"bar": "few", "figure": 3.0, "goal": 2.0, "unit": "", "met": False}]
    assert printed["runs"] == 3
    assert printed["machine"]["cores"] >= 1


@pytest.mark.usefixtures("a_suite")
def test_strict_makes_a_missed_bar_an_exit_code(capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "to-three", "--strict"]) == 1
    assert "MISSED few: 3 (goal 2 )" in capsys.readouterr().out


@pytest.mark.usefixtures("a_suite")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["to-four"], "there is no measurement 'to-four'"),
        (["to-three", "--set", "step"], "has no value"),
        (["to-three", "--set", "step=x"], "not a number"),
        (["to-three", "--runs", "0"], "at least 1"),
    ],
)
def test_bad_words_are_refused_with_what_to_do(words: list[str], says: str, capsys: pytest.CaptureFixture[str]):
    assert main(["bench", *words]) == 2
    assert says in capsys.readouterr().err


def test_every_measurement_says_in_a_line_what_it_measures():
    for name in catalogue.names():
        assert catalogue.says(name).endswith("."), name
