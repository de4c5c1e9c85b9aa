"""The command line as people meet it: help with examples, errors in one line, exit codes that tell the truth."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def atoll(*words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "atoll"), *words], capture_output=True, text=True, timeout=timeout, cwd=ROOT, check=False
    )


def commands_of(text: str) -> set[str]:
    return set(re.findall(r"^    ([a-z][a-z-]+)(?:\s|$)", text, re.MULTILINE))


def test_help_lists_every_command_of_the_readme():
    listed = commands_of(atoll("--help").stdout)
    named = set(re.findall(r"`\./atoll ([a-z]+)", (ROOT / "README.md").read_text()))
    assert named <= listed
    assert {"demo", "test", "world", "data", "train", "evaluate", "release", "region", "federate"} <= listed


@pytest.mark.parametrize(
    "command", ["demo", "test", "world", "data", "train", "evaluate", "release", "region", "federate"]
)
def test_every_command_has_help_with_an_example(command: str):
    result = atoll(command, "--help")
    assert result.returncode == 0
    assert "Example" in result.stdout
    assert "./atoll " in result.stdout


def test_what_is_not_a_command_exits_2():
    assert atoll("fly").returncode == 2
    assert atoll().returncode == 2
    assert re.fullmatch(r"atoll \d+\.\d+\.\d+\n", atoll("--version").stdout)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("data", "import", "nowhere.zip", "--to", "{tmp}/d"), "nowhere.zip"),
        (("data", "validate", "{tmp}"), "interactions"),
        (("train", "--dataset", "{tmp}", "--out", "{tmp}/m"), "holds no dataset"),
        (("train", "--dataset", "{tmp}/none", "--out", "{tmp}/m"), "holds no dataset"),
        (("world", "status", "--state", "{tmp}/w"), "there is no world at"),
        (("world", "kill", "atlantis", "--state", "{tmp}/w"), "there is no world at"),
        (("release", "list", "--repository", "{tmp}/r"), "repository"),
        (("region", "us-east", "releases", "--state", "{tmp}/w"), "world"),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(words: tuple[str, ...], complaint: str, tmp_path: Path):
    result = atoll(*(word.format(tmp=tmp_path) for word in words))
    assert result.returncode == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert complaint in line
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == []
