"""Two releases side by side: what changed is said, what did not is not, and what cannot be compared is named."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from central.release.publish import release_contents
from infra.cli.__main__ import main
from infra.cli.looking import difference_text
from infra.contracts import release as names
from infra.plumbing.progress import SilentProgress
from infra.plumbing.releases.comparing import (
    aligned_cosines,
    compare,
    diff_manifests,
    made_up_history,
    neighbours_overlap,
)
from infra.plumbing.releases.contents import ContentError, ReleaseContents, part_of
from tests.unit.releases.conftest import Central


def contents(central: Central, seed: int) -> ReleaseContents:
    release = central.publish(seed=seed).release
    return release_contents(repository=central.repository, keys=central.keys, release=release)


def test_a_turned_space_is_no_drift_and_another_one_is() -> None:
    rng = np.random.default_rng(0)
    old = rng.normal(size=(300, 8)).astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32)
    assert aligned_cosines(old, old @ turn).min() > 0.999
    assert aligned_cosines(old, np.pad(old @ turn, ((0, 0), (0, 3)))).min() > 0.999
    other = rng.normal(size=(300, 8)).astype(np.float32)
    assert aligned_cosines(old, other).mean() < 0.6
    asked = np.arange(50)
    assert neighbours_overlap(old, old @ turn, asked) == 1.0
    assert neighbours_overlap(old, other, asked) < 0.2


def test_dummy_models_are_named_and_the_rest_is_compared(central: Central) -> None:
    one, two = contents(central, 1), contents(central, 2)
    found = compare(one, two, people=3, seed=0, progress=SilentProgress())
    assert found.drift is not None
    assert found.drift.items == 50
    assert found.drift.neighbours_overlap < 0.8
    assert found.vocabulary is not None
    assert (found.vocabulary.added, found.vocabulary.removed) == (0, 0)
    assert found.lists is None
    assert len(found.notes) == 2
    assert "evaluation.json" in found.notes[0]
    assert "user_tower.tflite" in found.notes[1]
    assert [metric.name for metric in found.metrics] == ["hr10", "ndcg10"]
    assert sum(before for before, _ in found.sizes.values()) == sum(e.length for e in one.manifest.files.values())
    same = compare(one, one, people=0, seed=0, progress=SilentProgress())
    assert same.drift is not None
    assert same.drift.cosine_mean == pytest.approx(1.0, abs=1e-5)
    assert same.drift.neighbours_overlap == 1.0


def test_people_stand_side_by_side_by_title(central: Central) -> None:
    one, two = contents(central, 1), contents(central, 2)
    for release, first in ((one, 0), (two, 1)):
        ids = tuple(release.items.ids.texts[row] for row in range(first, first + 10))

        vars(release)["recommender"] = SimpleNamespace(ids=lambda *_, ids=ids, **__: ids)
    found = compare(one, two, people=5, seed=0, progress=SilentProgress())
    assert found.lists is not None
    assert (found.lists.overlap10, found.lists.same_first) == (0.9, 0.0)
    assert found.lists.titles["item-3"] == "Title 3"
    files = diff_manifests(one.manifest, two.manifest, before="0" * 20, after="1" * 20)
    said = difference_text(files, found, shown=4).splitlines()
    assert sum(line.startswith("after ") for line in said) == 4
    assert sum(line.split() == ["1", "Title", "0", "(item-0)", "Title", "1", "(item-1)", "*"] for line in said) == 4


def test_made_up_people_are_the_same_each_time_and_know_no_item_twice(central: Central) -> None:
    one, two = contents(central, 1), contents(central, 2)
    walks = [made_up_history(one, two, np.random.default_rng(seed)) for seed in (7, 7, 8)]
    assert walks[0][0].tolist() == walks[1][0].tolist() != walks[2][0].tolist()
    for rows, gaps_s in walks:
        assert len(set(rows.tolist())) == len(rows) == len(gaps_s)


def test_parts() -> None:
    assert part_of("scann/scann_config.pb") == "index"
    assert part_of(names.EASE_ROWS) == "tables"
    assert part_of(names.RANKER) == "ranker"


def test_a_file_that_is_no_array(central: Central) -> None:
    one = contents(central, 1)
    with pytest.raises(ContentError, match="not an array"):
        one.array(names.RULES)
    with pytest.raises(ContentError, match="no file"):
        one.array("nowhere.npy")


def test_the_commands(central: Central, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (central.publish(seed=seed).release for seed in (1, 2))
    place = ["--repository", str(central.repository), "--keys", str(central.keys)]
    out = tmp_path / "out.json"
    assert main(["release", "diff", one, two, *place, "--json", str(out)]) == 0
    said = capsys.readouterr().out
    assert "cosine after the best rotation" in said
    assert "not compared" in said
    found = json.loads(out.read_text())
    assert found["drift"]["items"] == 50
    assert not found["same_content"]
    assert main(["release", "diff", one, one, *place]) == 0
    assert "both do the same" in capsys.readouterr().out
    assert main(["release", "inspect", one, *place, "--json", str(out)]) == 0
    assert json.loads(out.read_text())["sizes"]["vectors"] > 0
    for words in (["--people", "501"], ["--people", "-1"], ["--seed", "-1"]):
        assert main(["release", "diff", one, two, *place, *words]) == 2
    assert main(["release", "diff", one, "0" * 20, *place]) == 2
