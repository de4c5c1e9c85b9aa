"""Folders with people's data go with who made them, even when that is killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.tiers import source_root
from infra.plumbing.errors import SettingsError
from infra.plumbing.private_folders import private_folder, remove_left_over


def test_a_folder_goes_with_its_block_and_is_nobody_elses(tmp_path: Path) -> None:
    root = tmp_path / "private"
    with private_folder(root) as folder:
        (folder / "events.ndjson").write_text("{}")
        assert (root.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o700, 0o700)
        assert remove_left_over(root) == 0, "its owner lives"
        assert folder.exists()
    assert not folder.exists()
    assert remove_left_over(tmp_path / "never made") == 0


def test_what_a_killed_process_left_goes_with_the_next_look(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys\nfrom infra.plumbing.private_folders import private_folder\n"
        "with private_folder(pathlib.Path(sys.argv[1])) as folder:\n"
        "    (folder / 'x').touch(); print(folder, flush=True); sys.stdin.read()"
    )
    holding = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=source_root()) as holder:
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().decode().strip())
        assert remove_left_over(tmp_path) == 0
        assert (folder / "x").exists()
        holder.kill()
    assert remove_left_over(tmp_path) == 1
    assert not folder.exists()


def test_a_folder_that_others_can_read_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(SettingsError, match="this user's own"), private_folder(tmp_path):
        pass
