"""Two workers on this machine share every step: the same result within noise, and a failure that is said."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from central.training.team import TeamFailedError, place_in_team, run_local_team
from infra.plumbing.errors import InvalidInputError
from tests.integration.training.test_killed import ROOT, command, dataset

__all__ = ["dataset"]
NOISE = 0.12
"""Of NDCG@10 on 60 validation users: their standard error is .05."""


def trained(dataset: Path, out: Path, *words: str) -> dict[str, object]:
    words = ("train", "--dataset", str(dataset), "--out", str(out), "--epochs", "6", "--json", "-", *words)
    done = subprocess.run(command(list(words)), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    card: dict[str, object] = json.loads(done.stdout)
    return card


def test_two_workers_learn_what_one_does(dataset: Path, tmp_path: Path):
    alone = trained(dataset, tmp_path / "alone")
    both = trained(dataset, tmp_path / "both", "--workers", "2")
    assert both["epochs"] == alone["epochs"] == 6
    one, other = alone["curve"], both["curve"]
    assert isinstance(one, list)
    assert isinstance(other, list)
    assert other[-1] > other[0]
    assert abs(max(one) - max(other)) < NOISE
    assert (tmp_path / "both" / "model.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "both"]


def test_a_worker_that_fails_ends_the_team_and_its_last_words_are_told():
    fails = (
        "import json, os, sys, time\n"
        "index = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
        "sys.exit(print('no such thing', file=sys.stderr) or 3) if index else time.sleep(600)\n"
    )
    with pytest.raises(TeamFailedError, match=r"worker 1 ended with 3\. no such thing"):
        run_local_team([sys.executable, "-c", fails], 2)


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": {"ps": []}}', '{"cluster": {"worker": ["a:1", "b:2"]}}'])
def test_a_team_that_makes_no_sense(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InvalidInputError, match="does not name a team"):
        place_in_team()


def test_a_team_of_one_is_none(monkeypatch: pytest.MonkeyPatch):
    alone = {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(alone))
    assert place_in_team() is None
    monkeypatch.delenv("TF_CONFIG")
    assert place_in_team() is None
