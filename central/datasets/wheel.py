"""Fetches the wheel that holds MovieLens 100K, with this environment's pip, or that of whatever Python is around."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from central.datasets.text import DatasetError
from infra.plumbing.progress import Progress

ML_100K: Final = "ml-100k"
REQUIREMENT: Final = "recbole==1.2.1"
TIMEOUT_S: Final = 120.0


@contextmanager
def downloaded_wheel(*, progress: Progress) -> Iterator[Path]:
    """The wheel in a temporary folder, gone afterwards.

    Raises:
        DatasetError: there is no pip, or it cannot fetch the wheel.
    """
    with tempfile.TemporaryDirectory(prefix="atoll-wheel-") as folder:
        progress.advance(0, 1, f"fetching {REQUIREMENT}")
        _download(Path(folder))
        progress.advance(1, 1, f"fetching {REQUIREMENT}")
        yield next(Path(folder).glob("*.whl"))


def pip_commands() -> list[list[str]]:
    """Ways to call pip, best first: this interpreter, the one it was made from, those on the path."""
    pythons = [sys.executable, getattr(sys, "_base_executable", "") or "", shutil.which("python3") or ""]
    commands = [[python, "-m", "pip"] for python in dict.fromkeys(pythons) if python]
    pip = shutil.which("pip3") or shutil.which("pip")
    return [*commands, [pip]] if pip else commands


def _download(folder: Path) -> None:
    said = "no pip was found"
    for command in pip_commands():
        arguments = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", str(folder)]
        try:
            done = subprocess.run(
                [*command, *arguments, REQUIREMENT], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
            continue
        if done.returncode == 0 and list(folder.glob("*.whl")):
            return
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    raise DatasetError(
        f"{REQUIREMENT} cannot be fetched: {said}",
        fix=f"Fetch it yourself (pip download --no-deps {REQUIREMENT}) and give the .whl file as the source.",
    )
