"""Commands that need a world or servers, where there are none: one line that says what to do, and exit code 2."""

import json
from pathlib import Path

import pytest

from infra.cli.__main__ import main
from infra.cli.world import STATE
from infra.plumbing.errors import InvalidInputError


@pytest.mark.parametrize(
    "words",
    [
        ("world", "status"), ("world", "kill", "us-east"), ("world", "heal", "us-east"),
        ("world", "restart", "us-east"), ("world", "rotate-certificates"),
        ("region", "us-east", "releases"), ("store", "check", "--region", "us-east"),
        ("privacy", "opt-out", "--region", "us-east", "--user", "7"),
        ("keys", "token", "--region", "us-east", "--user", "7"), ("keys", "list", "--region", "us-east"),
        ("federate", "round", "--release", "nowhere"),
    ],
)  # fmt: skip
def test_without_a_world_the_fix_is_named(words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*words, "--state", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "world up" in said


def test_a_world_is_printed_before_it_is_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["world", "up", "--print-config", "--tls", "--federation"]) == 0
    printed = capsys.readouterr().out
    assert "tls = true" in printed
    assert "\nfederation = true" in printed
    assert main(["world", "up", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("[[regions]]") == 3
    assert "\nfederation = false" in printed
    assert 'store = "' in printed
    assert main(["world", "up", "--print-config", "--servers", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f'servers = "{tmp_path}"' in printed
    for named in ('store = "cassandra"', 'grid = "hazelcast"', 'log = "kafka"'):
        assert named in printed, "all that stands is used"
    assert main(["world", "up", "--print-config", "--servers", str(tmp_path), "--log", "kafka"]) == 0
    assert 'store = "sqlite"' in capsys.readouterr().out, "unless it is said which"


def test_the_repository_is_where_the_file_says_or_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "world.toml"
    file.write_text('[directories]\nrepository = "published"\n[[regions]]\nname = "us-east"\nedges = 1\n')
    up = ("world", "up", "--config", str(file), "--state", str(tmp_path / "state"))
    for words, named in (((), tmp_path / "published"), (("--repository", str(tmp_path / "other")), tmp_path / "other")):
        assert main([*up, *words]) == 2
        assert f"{named} is not a release repository" in capsys.readouterr().err


def test_the_state_is_where_the_file_says_or_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    region = '[[regions]]\nname = "us-east"\nedges = 1\n'
    (tmp_path / "named.toml").write_text(f'[directories]\nstate = "of-the-file"\n{region}')
    (tmp_path / "silent.toml").write_text(region)
    started: list[Path] = []

    def start_world(_configuration: object, state: Path, **_options: object) -> None:
        started.append(state)
        raise InvalidInputError("this test starts no processes.")

    monkeypatch.setattr("infra.local.world.start_world", start_world)
    asked = str(tmp_path / "asked")
    for words in (
        ("--config", str(tmp_path / "named.toml")),
        ("--config", str(tmp_path / "named.toml"), "--state", asked),
        ("--config", str(tmp_path / "silent.toml")),
        (),
    ):
        assert main(["world", "up", *words]) == 2
    assert started == [tmp_path.resolve() / "of-the-file", Path(asked), STATE, STATE]


def test_no_servers_are_said_to_be_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code = main(["servers", "status", "--state", str(tmp_path), "--json", "-"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert json.loads(said.out)["servers"] == []
