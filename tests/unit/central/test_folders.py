"""Folders appear whole or not at all; what a killed process left is cleared away, what lives is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from central.datasets import wheel
from central.datasets.text import DatasetError
from central.folders import remove_stale, staged_folder
from infra.plumbing.errors import ConflictError
from infra.plumbing.progress import SilentProgress


def test_a_folder_replaces_the_one_before(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    for word in ("one", "two"):
        with staged_folder(out, marker="card") as staged:
            (staged / "card").write_text(word)
            assert word == "one" or (out / "card").read_text() == "one"
    assert (out / "card").read_text() == "two"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_an_error_leaves_everything_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staged_folder(out, marker="card") as staged:
        (staged / "card").write_text("kept")

    def half() -> None:
        with staged_folder(out, marker="card") as staged:
            (staged / "card").write_text("half")
            raise KeyError("full disk")

    with pytest.raises(KeyError):
        half()
    assert (out / "card").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ConflictError, match="is a file"), staged_folder(tmp_path / "out", marker="card"):
        pass


def test_only_what_dead_processes_left_is_cleared(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".out.{dead.pid}.tmp"
    mine = tmp_path / f".out.{os.getpid()}.tmp"
    init = tmp_path / ".out.1.old"
    other = tmp_path / ".out.notes.tmp"
    for path in (left, mine, init, other):
        path.mkdir()
    remove_stale(tmp_path, prefix=".out.")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in (mine, init, other))
    remove_stale(tmp_path / "absent", prefix=".out.")


def fake_pip(folder: Path, script: str) -> list[str]:
    path = folder / "pip.py"
    path.write_text(script)
    return [sys.executable, str(path)]


def test_the_wheel_is_fetched_by_the_first_pip_that_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = "import sys, pathlib; pathlib.Path(sys.argv[sys.argv.index('--dest') + 1], 'recbole.whl').write_text('zip')"
    commands = [["/no/such/python"], [sys.executable, "-c", "raise SystemExit('no module named pip')"]]
    monkeypatch.setattr(wheel, "pip_commands", lambda: [*commands, fake_pip(tmp_path, save)])
    with wheel.downloaded_wheel(progress=SilentProgress()) as path:
        assert path.read_text() == "zip"
    assert not path.exists()
    monkeypatch.setattr(wheel, "pip_commands", lambda: commands)
    with (
        pytest.raises(DatasetError, match="no module named pip") as caught,
        wheel.downloaded_wheel(progress=SilentProgress()),
    ):
        pass
    assert "pip download" in caught.value.fix


def test_some_pip_is_looked_for() -> None:
    assert [sys.executable, "-m", "pip"] in wheel.pip_commands()
