"""The house rules that a program can check. The import contracts are checked by import-linter beside these."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("edge", "region", "central", "federation", "infra")
FUNCTION_LINES_MAX, FILE_LINES_MAX = 70, 400


def sources() -> Iterator[Path]:
    for room in SERVICES:
        yield from sorted((ROOT / room).rglob("*.py"))


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("room", [*SERVICES, "tests"])
def test_every_top_folder_says_what_lives_there(room: str):
    text = (ROOT / room / "README.md").read_text()
    assert len(text) > 300


def test_functions_and_files_stay_readable():
    too_long = []
    for path in sources():
        text = path.read_text()
        if text.count("\n") > FILE_LINES_MAX:
            too_long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    too_long.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines")
    assert not too_long


def test_errors_are_named_errors():
    wrong = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id.endswith(("Error", "Exception")) for base in node.bases)
        and not node.name.endswith("Error")
    ]
    assert not wrong


@pytest.mark.parametrize(
    "tier",
    [
        "bootstrap",
        "edge",
        "region",
        "central",
        "federation",
        "infra",
        "batch",
        "bench",
        "client",
        "java",
        "development",
    ],
)
def test_locks_are_hashed_and_name_no_index(tier: str):
    text = (ROOT / "locks" / f"{tier}.txt").read_text()
    pins = re.findall(r"^[a-z0-9][\w.\-\[\]]*==", text, re.MULTILINE)
    assert pins
    assert text.count("--hash=sha256:") >= len(pins)
    assert "://" not in text
    assert "index-url" not in text


@pytest.mark.parametrize(
    ("tier", "never"),
    [
        ("edge", ("tensorflow", "scann", "numpy", "cassandra-driver", "flwr")),
        ("region", ("tensorflow", "tf-keras", "flwr")),
    ],
)
def test_serving_tiers_do_not_carry_what_they_do_not_need(tier: str, never: tuple[str, ...]):
    pinned = set(re.findall(r"^([a-z0-9][\w.\-]*)==", (ROOT / "locks" / f"{tier}.txt").read_text(), re.MULTILINE))
    assert not pinned & set(never)


def test_every_tier_of_pyproject_has_a_lock_with_its_packages():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for tier in set(extras) - {"plumbing", "grid"}:
        lock = (ROOT / "locks" / f"{tier}.txt").read_text().lower()
        for requirement in extras[tier]:
            name = re.split(r"[<>=\[; ]", requirement)[0].lower()
            assert name == "atoll" or re.search(rf"^{re.escape(name)}==", lock, re.MULTILINE), f"{name} of {tier}"


def test_nothing_that_is_committed_names_a_machine_or_a_registry():
    pattern = re.compile(r"/(?:work|root|farm)/|(?:pypi|pythonhosted|maven\.org|npmjs|deb\.debian)\.?", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.suffix in {".py", ".md", ".toml", ".txt", ".sql", ".json", ".cfg", ".yaml", ".xml", ""}
        and path.name not in {"LICENSE", Path(__file__).name}
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


def test_no_data_or_model_is_committed():
    large = [str(path.relative_to(ROOT)) for path in tracked() if path.stat().st_size > 1_000_000]
    assert not large
