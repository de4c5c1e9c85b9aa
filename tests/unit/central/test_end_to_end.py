"""One small world: train, evaluate, build, derive; what the bundle holds is what the contract says."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from scann.scann_ops.py import scann_ops_pybind

from central.commands import Built, build_release, derive_release, evaluate, train, write_served_requests
from central.datasets.interactions import Interactions
from central.evaluation.served import read_requests
from central.release import build as building
from central.release.build import GateError
from central.release.derive import ParentError
from central.release.export import ExportError, open_runner
from central.release.index import ReleaseIndexError, build_index, tree_settings
from central.release.tuning import exact_neighbours, recall_of
from central.training import config as configuration
from central.training import retrieval
from central.training.config import ModelCard, ModelError, read_model_card
from central.training.popularity import item_counts
from federation.device.tower import load_device_release
from federation.rounds.outcome import ItemMoves, RunOutcome, save_outcome
from infra.contracts import release as names
from infra.contracts.features import HistoryInput, encode_history, title_slots
from infra.plumbing.catalogue.reading import open_catalogue
from infra.plumbing.catalogue.writing import write_catalogue
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import ConflictError, InvalidInputError
from infra.plumbing.progress import SilentProgress
from infra.plumbing.releases.comparing import compare
from infra.plumbing.releases.contents import ReleaseContents
from region.funnel.sources import standing_of
from region.funnel.tables import ReleaseContentError, load_tables
from region.funnel.towers import TowerSet
from tests.unit.central.test_region_counts import write_extract

RUN = RunOutcome(
    release="r", population="p", rounds=(), devices=9, ok=True, epsilon=1.0, epsilon_released=1.0, delta=1e-6,
    adapter_path="",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "ring"
    train(dataset=dataset_folder, out=out, epochs=25, seed=1)
    return out


@pytest.fixture(scope="module")
def bundle(model: Path, dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, counts = tmp_path_factory.mktemp("bundles"), tmp_path_factory.mktemp("extracts")
    write_extract(counts, "eu-north", {"i7": 90, "i31": 55, "elsewhere": 400})
    built = build_release(model=model, dataset=dataset_folder, out=out, aggregates=counts, clock=ManualClock())
    assert [(one.region, one.known, one.unknown) for one in built.counted] == [("eu-north", 2, 1)]
    return Path(built.path)


def manifest_of(bundle: Path) -> names.Manifest:
    return msgspec.json.decode((bundle / "manifest.json").read_bytes(), type=names.Manifest)


def test_the_model_learns_the_ring(model: Path, dataset_folder: Path) -> None:
    card = read_model_card(model)
    assert card.epochs <= 25
    found = evaluate(model=model, dataset=dataset_folder)
    assert found.users == 60
    assert found.stage["retrieval"]["ndcg10"] > 1.5 * found.baselines["popularity"]["ndcg10"]
    assert found.stage["ranked"]["ndcg10"] > found.baselines["popularity"]["ndcg10"]
    assert found.untied == {
        "hr10": found.stage["retrieval"]["hr10"],
        "ndcg10": found.stage["retrieval"]["ndcg10"],
        "users": 60.0,
    }
    assert sum(figures["users"] for figures in found.regions.values()) == 60


def test_the_same_data_code_and_seed_build_the_same_content(dataset_folder: Path, tmp_path: Path) -> None:
    built, weights = [], []
    for at, name in enumerate(("one", "two")):
        train(dataset=dataset_folder, out=tmp_path / name, epochs=2, seed=3)
        with np.load(tmp_path / name / "towers.npz") as arrays:
            weights.append({key: arrays[key] for key in arrays.files})
        clock = ManualClock(wall_ms=1_000_000 + at)
        built.append(
            build_release(
                model=tmp_path / name, dataset=dataset_folder, out=tmp_path / "bundles", clock=clock,
                allow_failed_gates=True,
            )
        )  # fmt: skip
    for key, value in weights[0].items():
        assert np.array_equal(value, weights[1][key]), key
    assert built[0].content_sha256 == built[1].content_sha256
    assert built[0].release != built[1].release
    paths = {one.release: Path(one.path) for one in built}
    one, two = (_contents(path) for path in paths.values())
    found = compare(one, two, people=5, seed=0, progress=SilentProgress())
    assert found.notes == ()
    assert found.lists is not None
    assert (found.lists.overlap10, found.lists.same_first) == (1.0, 1.0)
    assert len(found.lists.people[0].before) == 10
    assert {metric.says for metric in found.metrics} <= {"", "within the noise"}


def _contents(bundle: Path) -> ReleaseContents:
    return ReleaseContents(manifest_of(bundle), lambda name: (bundle / name).read_bytes())


def test_the_bundle_is_what_its_manifest_says(bundle: Path) -> None:
    manifest = manifest_of(bundle)
    assert bundle.name == manifest.release_id
    assert names.RELEASE_ID_PATTERN.fullmatch(manifest.release_id)
    assert manifest.files.keys() >= names.REQUIRED_FILES
    assert any(name.startswith(names.SCANN_PREFIX) for name in manifest.files)
    on_disk = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert on_disk == {*manifest.files, "manifest.json"}
    assert not any(name.endswith((".pkl", ".pickle")) for name in on_disk)
    for name, entry in manifest.files.items():
        assert building._entry(bundle / name) == entry
    assert manifest.origin == "central"
    assert manifest.gates["beats_popularity"]
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_tables_have_the_shapes_and_types_of_the_contract(bundle: Path) -> None:
    shape = manifest_of(bundle).shape
    items, dim = shape.num_items, shape.dim
    wanted = {
        names.ITEM_VECTORS: ((items, dim), np.float32),
        names.ITEM_POPULARITY: ((items,), np.float32),
        names.ITEM_TREND: ((items,), np.float32),
        names.ITEM_CATEGORIES: ((items, shape.num_categories), np.float32),
        names.FEDERATED_ADAPTER: ((dim, dim), np.float32),
    }
    for name, (size, kind) in wanted.items():
        array = np.load(bundle / name, allow_pickle=False)
        assert (array.shape, array.dtype, array.flags.c_contiguous) == (size, kind, True), name
    assert np.load(bundle / names.SIMILAR_ROWS).dtype == np.int32
    catalogue = open_catalogue(bundle)
    assert len(catalogue) == items
    assert msgspec.json.decode((bundle / names.LISTS).read_bytes(), type=names.ReleaseLists).popular["all"]
    assert msgspec.json.decode((bundle / names.RULES).read_bytes(), type=names.Rules) == names.Rules()
    assert "| popularity |" in (bundle / names.MODEL_CARD).read_text()
    assert json.loads((bundle / names.EVALUATION).read_text())["users"] == 60


def test_what_a_region_counted_for_itself_leads_its_lists_and_nobody_elses(bundle: Path) -> None:
    tables = load_tables(bundle, manifest_of(bundle))
    here, elsewhere = standing_of(tables, "eu-north").popular, standing_of(tables, "us-east").popular
    assert [tables.items[row].item for row in here[:2].tolist()] == ["i7", "i31"]
    assert [tables.items[row].item for row in elsewhere[:2].tolist()] != ["i7", "i31"]
    assert "popular in eu-north is by the region's own counts of 2 items" in (bundle / names.MODEL_CARD).read_text()


def test_no_file_of_a_release_names_a_user(bundle: Path, data: Interactions) -> None:
    for path in bundle.rglob("*"):
        if path.suffix in (".json", ".md", ".msgpack"):
            content = path.read_bytes()
            assert not any(b'"%s"' % user.encode() in content for user in data.user_ids), path


def test_exports_answer_by_name_and_follow_the_history(bundle: Path, data: Interactions) -> None:
    shape = manifest_of(bundle).shape
    tower = open_runner((bundle / names.USER_TOWER).read_bytes())
    past = slice(data.starts[0], data.starts[1] - 1)
    history = encode_history(
        data.rows[past],
        data.strengths[past],
        data.times_s[past],
        now_s=data.times_s[past.stop],
        length=shape.history_length,
    )
    vector = tower(**{name: part[None] for name, part in history._asdict().items()})["vector"]
    assert vector.shape == (1, shape.dim)
    empty = tower(**{name: np.zeros((1, shape.history_length), dtype=np.int32) for name in HistoryInput._fields})
    assert np.isfinite(empty["vector"]).all()
    assert not np.allclose(vector, empty["vector"])
    item = open_runner((bundle / names.ITEM_TOWER).read_bytes())
    drama = {"categories": np.eye(shape.num_categories, dtype=np.float32)[:1]}
    untitled = title_slots("")[None]
    early, late = (
        item(**drama, year=np.asarray([slot], dtype=np.int32), title=untitled)["vector"] for slot in (81, 119)
    )
    assert early.shape == (1, shape.dim)
    assert not np.allclose(early, late)
    titled = item(**drama, year=np.asarray([81], dtype=np.int32), title=title_slots("Item 7")[None])["vector"]
    assert not np.allclose(early, titled)
    ranker = open_runner((bundle / names.RANKER).read_bytes())
    scores = ranker(features=np.zeros((shape.ranker_batch, shape.num_ranking_inputs), dtype=np.float32))[
        "probabilities"
    ]
    assert scores.shape == (shape.ranker_batch, len(shape.heads))
    assert ((scores > 0) & (scores < 1)).all()


def test_the_index_finds_what_exact_search_finds(bundle: Path) -> None:
    vectors = np.load(bundle / names.ITEM_VECTORS)
    searcher = scann_ops_pybind.load_searcher(str((bundle / names.SCANN_PREFIX).resolve()))
    rows, _ = searcher.search(vectors[3], final_num_neighbors=5)
    assert rows.tolist() == np.argsort(-(vectors @ vectors[3]), kind="stable")[:5].tolist()


def test_a_derived_release_differs_by_its_adapter_alone(
    bundle: Path, model: Path, dataset_folder: Path, tmp_path: Path
) -> None:
    adapter = np.load(bundle / names.FEDERATED_ADAPTER)
    adapter = adapter + 1e-3 * np.random.default_rng(0).normal(size=adapter.shape).astype(np.float32)

    def derive(changed_adapter: np.ndarray, parent: Path = bundle) -> Built:
        return derive_release(
            parent=parent,
            model=model,
            dataset=dataset_folder,
            adapter=changed_adapter,
            out=tmp_path,
            clock=ManualClock(),
        )

    built = derive(adapter)
    assert (built.origin, built.parent) == ("federated", bundle.name)
    assert built.gates["holds_active"]
    parent, child = manifest_of(bundle), manifest_of(Path(built.path))
    changed = {name for name in child.files if child.files[name] != parent.files.get(name)}
    assert {names.USER_TOWER, names.FEDERATED_ADAPTER} <= changed
    assert changed <= {
        names.USER_TOWER,
        names.FEDERATED_ADAPTER,
        names.EVALUATION,
        names.MODEL_CARD,
        names.ITEM_TOWER,
        names.RANKER,
    }
    assert names.ITEM_VECTORS not in changed
    assert names.LISTS not in changed  # with what a region counted for itself
    history = {name: np.ones((1, child.shape.history_length), dtype=np.int32) for name in HistoryInput._fields}
    before, after = (
        open_runner((path / names.USER_TOWER).read_bytes())(**history)["vector"] for path in (bundle, Path(built.path))
    )
    old = np.load(bundle / names.FEDERATED_ADAPTER)
    assert np.allclose(before @ np.linalg.inv(old) @ adapter, after, atol=1e-3)
    with pytest.raises(GateError, match="falls short of"):
        derive(-adapter)
    for wrong in (np.zeros((2, 2)), np.full(adapter.shape, np.nan)):
        with pytest.raises(ParentError, match="must be"):
            derive(wrong)
    with pytest.raises(ParentError, match="not a release bundle"):
        derive(adapter, model)
    assert [path.name for path in tmp_path.iterdir()] == [built.release]


def _without_events_of(rows: tuple[int, ...], bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `bundle` as if central had no event of some items, and so it is for what is built from now on."""
    parent = folder / bundle.name
    shutil.copytree(bundle, parent)

    def fewer(data: Interactions, ends: np.ndarray) -> np.ndarray:
        counts = item_counts(data, ends)
        counts[list(rows)] = 0
        return counts

    monkeypatch.setattr(building, "item_counts", fewer)
    catalogue = open_catalogue(bundle)
    items = [
        msgspec.structs.replace(catalogue[row], interactions=0) if row in rows else catalogue[row]
        for row in range(len(catalogue))
    ]
    shutil.rmtree(parent / names.CATALOGUE)
    write_catalogue(parent, items, np.load(bundle / names.ITEM_POPULARITY))
    return parent


def test_items_that_a_round_moved_move_in_vectors_index_and_tower_alike(
    bundle: Path, model: Path, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, old = np.load(bundle / names.FEDERATED_ADAPTER), np.load(bundle / names.ITEM_VECTORS)
    rows = np.array([3, 7, 11], dtype=np.int32)
    moves = 1e-2 * np.random.default_rng(0).normal(size=(3, old.shape[1])).astype(np.float32)
    parent = _without_events_of((3, 7), bundle, tmp_path / "parents", monkeypatch)

    def moved(chosen: np.ndarray, by: np.ndarray, reads: np.ndarray, parent: Path = parent) -> Built:
        left = save_outcome(tmp_path / "run", RUN, adapter, items=ItemMoves(chosen, by, reads)).parent
        return derive_release(
            parent=parent, model=model, dataset=dataset_folder, adapter=adapter, items=left / "items.npz",
            out=tmp_path / "out", clock=ManualClock(),
        )  # fmt: skip

    built = moved(rows, moves, np.array([5, -1, 11]))
    child = Path(built.path)
    assert (built.origin, built.parent) == ("federated", bundle.name)
    new = np.load(child / names.ITEM_VECTORS)
    assert np.allclose(new[rows] - old[rows], moves, atol=1e-6)
    assert np.array_equal(np.delete(new, rows, axis=0), np.delete(old, rows, axis=0))
    found, _ = scann_ops_pybind.load_searcher(str(child.resolve() / names.SCANN_PREFIX)).search(
        new[7], final_num_neighbors=5
    )
    assert found.tolist() == np.argsort(-(new @ new[7]), kind="stable")[:5].tolist()
    length = manifest_of(child).shape.history_length

    def differs(item: int) -> bool:
        history = {name: np.ones((1, length), dtype=np.int32) for name in HistoryInput._fields} | {
            "items": np.full((1, length), item, dtype=np.int32)
        }
        before, after = (
            open_runner((path / names.USER_TOWER).read_bytes())(**history)["vector"] for path in (bundle, child)
        )
        return not np.allclose(before, after, atol=1e-5)

    assert (differs(3 + 1), differs(4 + 1)) == (True, False)
    # What phones read in place of items that central never heard of; a further run starts from there.
    assert (built.stand_ins, names.STAND_INS in manifest_of(parent).files) == (1, False)
    assert manifest_of(child).files[names.STAND_INS].length < 200
    inside, before = (
        ReleaseContents(manifest_of(one), lambda name: (child / name).read_bytes()) for one in (child, parent)
    )
    assert (inside.stand_ins, before.stand_ins) == (1, 0)
    assert load_device_release(child).reading[[3, 5, 7, 11]].tolist() == [5, 5, -1, 11]
    further = moved(np.array([7, 12], dtype=np.int32), moves[:2], np.array([9, 12]), child)
    assert (further.parent, further.stand_ins) == (built.release, 2)
    assert load_device_release(Path(further.path)).reading[[3, 7, 12]].tolist() == [5, 9, 12]
    newest = np.load(Path(further.path) / names.ITEM_VECTORS) - old
    assert np.allclose(newest[[3, 7, 11, 12]], [moves[0], moves[1] + moves[0], moves[2], moves[1]], atol=1e-6)
    assert not np.delete(newest, [3, 7, 11, 12], axis=0).any()
    with pytest.raises(GateError, match="does not pass"):
        # The other way round the ring: whoever read on is now sent back.
        moved(np.arange(len(old), dtype=np.int32), old[::-1] - old, np.full(len(old), -1))
    for wrong, by in ((rows + 1000, moves), (rows[[0, 0, 1]], moves), (rows, moves[:, :2]), (rows, moves * np.nan)):
        with pytest.raises(ParentError, match="moves"):
            moved(wrong, by, rows)
    for reads, why in (([7, -1, 11], "in place of items"), ([5, -1], "in their place")):
        with pytest.raises(ParentError, match=why):
            moved(rows, moves, np.array(reads))
    with pytest.raises(ParentError, match="does not hold"):
        derive_release(
            parent=bundle, model=model, dataset=dataset_folder, adapter=adapter, items=model / "card.json",
            out=tmp_path / "out",
        )  # fmt: skip


def test_a_candidate_is_judged_against_the_active_release(
    bundle: Path, model: Path, dataset_folder: Path, tmp_path: Path
) -> None:
    proud = tmp_path / "active"
    shutil.copytree(bundle, proud)
    evaluation = json.loads((proud / names.EVALUATION).read_text())
    evaluation["stage"]["retrieval"]["ndcg10"] = 0.99
    (proud / names.EVALUATION).write_text(json.dumps(evaluation))
    out = tmp_path / "out"
    with pytest.raises(GateError, match="holds_active"):
        build_release(model=model, dataset=dataset_folder, out=out, active=proud)
    assert not out.exists()
    built = build_release(model=model, dataset=dataset_folder, out=out, active=proud, allow_failed_gates=True)
    assert built.gates["holds_active"] is False
    assert built.parent == bundle.name


def test_a_build_that_fails_leaves_nothing(
    model: Path, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(building, "build_index", full_disk)
    with pytest.raises(OSError, match="No space left"):
        build_release(model=model, dataset=dataset_folder, out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_table_too_large_for_the_tower_stays_outside_and_says_the_same(
    bundle: Path, model: Path, dataset_folder: Path, data: Interactions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("central.release.export.TABLE_BYTES_MAX", 0)
    built = Path(build_release(model=model, dataset=dataset_folder, out=tmp_path / "out").path)
    inside, outside = manifest_of(bundle).shape, manifest_of(built).shape
    assert (inside.tower_reads_vectors, outside.tower_reads_vectors) == (False, True)
    assert b"tower_reads_vectors" not in (bundle / "manifest.json").read_bytes()
    assert (built / names.USER_TOWER).stat().st_size < (bundle / names.USER_TOWER).stat().st_size
    vectors = load_tables(built, manifest_of(built)).arrays.vectors
    with pytest.raises(ReleaseContentError, match="reads the items' vectors"):
        TowerSet(built, outside)
    towers = TowerSet(bundle, inside), TowerSet(built, outside, vectors=vectors)
    for events in (0, 1, 5, inside.history_length):
        past = slice(data.starts[1] - 1 - min(events, data.starts[1] - 1), data.starts[1] - 1)
        history = encode_history(
            data.rows[past], data.strengths[past], data.times_s[past], now_s=data.times_s[past.stop],
            length=inside.history_length,
        )  # fmt: skip
        one, other = (each.user_vector(history) for each in towers)
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_an_export_that_differs_is_refused(
    model: Path, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("central.release.export.PARITY_MAX", 0.0)
    with pytest.raises(ExportError, match="differs from TensorFlow"):
        build_release(model=model, dataset=dataset_folder, out=tmp_path / "out")


def test_training_stopped_half_way_leaves_no_model(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(retrieval._Trainer, "_validate", stop)
    with pytest.raises(KeyboardInterrupt):
        train(dataset=dataset_folder, out=tmp_path / "model", epochs=1)
    assert list(tmp_path.iterdir()) == []


def test_a_minutes_budget_cuts_the_epochs(dataset_folder: Path, tmp_path: Path) -> None:
    card = train(dataset=dataset_folder, out=tmp_path / "model", minutes=0.0001)
    assert isinstance(card, ModelCard)
    assert card.epochs == 1


@pytest.mark.parametrize(
    "wrong",
    [{"minutes": 0.0}, {"minutes": float("nan")}, {"seed": -1}, {"ties": "maybe"}, {"epochs": 0}, {"protocol": "x"}],
)
def test_arguments_that_make_no_sense(wrong: dict[str, object], dataset_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError):
        train(dataset=dataset_folder, out=tmp_path / "model", **wrong)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_be_used(model: Path, dataset_folder: Path, raw_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no trained model"):
        evaluate(model=tmp_path, dataset=dataset_folder)
    with pytest.raises(ConflictError, match="something else"):
        train(dataset=dataset_folder, out=raw_folder)
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "towers.npz").write_bytes(b"not a zip")
    with pytest.raises(ModelError, match="does not read"):
        evaluate(model=broken, dataset=dataset_folder)
    np.savez(broken / "towers.npz", other=np.zeros((2, 2)))
    with pytest.raises(ModelError, match="does not fit"):
        evaluate(model=broken, dataset=dataset_folder)
    card = read_model_card(broken)
    (broken / "model.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(card, dataset_sha256="other")))
    with pytest.raises(ModelError, match="another content"):
        evaluate(model=broken, dataset=dataset_folder)
    (broken / "model.json").write_text("{")
    with pytest.raises(ModelError, match="does not read"):
        read_model_card(broken)


def test_a_region_answers_and_is_scored(model: Path, dataset_folder: Path, tmp_path: Path) -> None:
    requests = read_requests(write_served_requests(model=model, dataset=dataset_folder, out=tmp_path, users_max=9))
    answers = tmp_path / "answers.msgpack"
    answers.write_bytes(msgspec.msgpack.encode({asked.user: [asked.target] for asked in requests}))
    served = evaluate(model=model, dataset=dataset_folder, answers=answers).stage["served"]
    assert (served["users"], served["hr10"], served["answered"]) == (9.0, 1.0, 1.0)


def test_index_settings_follow_the_size_and_bad_vectors_are_refused(tmp_path: Path) -> None:
    assert tree_settings(20_000) is None
    large = tree_settings(1_000_000)
    assert large is not None
    assert (large.leaves, large.training_sample, large.reorder) == (2000, 400_000, 300)
    with pytest.raises(ReleaseIndexError, match="not finite"):
        build_index(np.full((20, 4), np.nan, dtype=np.float32), tmp_path)


def searched_with(report: names.IndexReport) -> tuple[int, int]:
    return report.leaves_to_search, report.reorder


def test_the_exact_neighbours_are_those_of_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(500, 8)).astype(np.float32), rng.normal(size=(7, 8)).astype(np.float32)
    monkeypatch.setattr("central.release.tuning._EXACT_BLOCK", 64)
    found = exact_neighbours(vectors, queries, 10)
    assert np.sort(found).tolist() == np.sort(np.argsort(-(queries @ vectors.T), axis=1)[:, :10]).tolist()
    assert recall_of(found[:, :5], found) == 0.5


def test_a_tree_index_keeps_no_path_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("central.release.index.BRUTE_FORCE_ITEMS_MAX", 100)
    vectors = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
    report = build_index(vectors, tmp_path / "scann")
    assert msgspec.json.decode((tmp_path / names.INDEX_REPORT).read_bytes(), type=names.IndexReport) == report
    chosen = next(one for one in report.trials if (one.leaves_to_search, one.reorder) == searched_with(report))
    assert chosen.recall == report.recall
    cheaper = [trial for trial in report.trials if trial.cost < chosen.cost]
    assert report.recall < report.recall_wanted or all(trial.recall < report.recall for trial in cheaper)
    for path in (tmp_path / "scann").iterdir():
        assert path.suffix not in (".pkl", ".pickle")
        assert str(tmp_path).encode() not in path.read_bytes()


def test_progress_has_a_silent_default() -> None:
    SilentProgress().advance(1, 1, "nothing")
    assert configuration.CARD == "model.json"
