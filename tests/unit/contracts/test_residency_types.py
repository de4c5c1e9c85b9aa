"""A field without a residency class fails the type check, as a user of the contracts meets it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEAD = "from infra.contracts.residency import Device, Global, GlobalMessage, Regional, RegionalMessage\n\n\n"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ("    subject: Regional[str]\n    count: Global[int] = 0\n", ""),
        ("    subject: Regional[str]\n    email: str\n", "email"),
        ("    subject: Regional[str]\n    email: str | None = None\n", "email"),
        ("    seen: tuple[Regional[str], ...] = ()\n", "seen"),
    ],
)
@pytest.mark.parametrize("base", ["RegionalMessage", "Parent"])
def test_a_field_without_a_class_does_not_pass(tmp_path: Path, cache: Path, base: str, fields: str, wrong: str) -> None:
    parent = "class Parent(RegionalMessage, frozen=True, kw_only=True):\n    first: Regional[int] = 0\n\n\n"
    module = tmp_path / "message.py"
    module.write_text(f"{HEAD}{parent}class Message({base}, frozen=True, kw_only=True):\n{fields}")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(cache),
         "--follow-imports", "silent", str(module)],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "MYPYPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode == 0) == (not wrong), done.stdout
    if wrong:
        assert f'field "{wrong}" of "Message" carries no residency class' in done.stdout
