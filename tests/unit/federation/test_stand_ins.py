"""What is read in place of items that central never heard of: from rounds to the outcome, the bundle and the phone."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from federation.device.store import LocalHistory
from federation.device.tower import DeviceReleaseError, load_device_release
from federation.device.training import LocalSettings, examples_of, train_round
from federation.device.vector import personal_part, portable_vector
from federation.flower.plan import PrivacyPlan, RegionLink, RunPlan, TrainingPlan
from federation.flower.training import TrainingRun
from federation.messages import Part, Phase, RegionalSum, RoundPlan, reads_of, rows_of, to_bytes
from federation.rounds.parts import shared_part
from infra.contracts.release import CATALOGUE, STAND_INS
from infra.plumbing.catalogue.writing import write_catalogue
from infra.plumbing.clock import ManualClock
from infra.plumbing.releases.stand_ins import NOT_READ, StandIns, StandInsError
from tests.unit.federation.building import ITEMS, catalogue, fixed_entropy, history, write_release

UNHEARD = np.arange(0, ITEMS, 4, dtype=np.int32)
"""The quiet items: all events of them stay on phones."""
HEARD = np.where(np.isin(np.arange(ITEMS), UNHEARD), 0, 7)
STANDING = StandIns.of(UNHEARD[:6], np.array([1, 2, 3, 5, 6, NOT_READ]))
TRAINING = TrainingPlan(part=Part.ITEMS, categories=("quiet",), rank=3, stage_rounds=1)


def _release(folder: Path, stand_ins: StandIns | None = STANDING) -> Path:
    root = write_release(folder)
    items = [
        msgspec.structs.replace(item, interactions=int(count)) for item, count in zip(catalogue(), HEARD, strict=True)
    ]
    shutil.rmtree(root / CATALOGUE)
    write_catalogue(root, items, np.zeros(ITEMS, dtype=np.float32))
    if stand_ins is not None:
        (root / STAND_INS).write_bytes(stand_ins.encoded())
    return root


def _known(count: int = 40) -> LocalHistory:
    """A phone's history: the events of quiet items, and some others, are known to it alone."""
    known = history(count)
    return LocalHistory(known.rows, known.strengths, known.times_s, known.sensitive | (known.rows % 4 == 0))


def test_a_stand_in_takes_the_place_of_an_item_that_nobody_else_heard_of(tmp_path: Path) -> None:
    release, known = load_device_release(_release(tmp_path)), _known()
    read = release.reads(known.rows, sensitive=known.sensitive)
    for row, sensitive, found in zip(known.rows, known.sensitive, read, strict=True):
        standing = dict(zip(STANDING.rows.tolist(), STANDING.reads.tolist(), strict=True)).get(int(row), NOT_READ)
        assert found == (standing if HEARD[row] == 0 and sensitive else row)
    vector = portable_vector(release, known, now_s=2e9).vector
    inside = known.read_as(read)
    np.testing.assert_array_equal(vector, release.base_vector(inside.rows, inside.strengths, inside.times_s, now_s=2e9))
    bare = load_device_release(_release(tmp_path / "bare", None))
    left_out = known.read_as(np.where(HEARD[known.rows] == 0, NOT_READ, known.rows).astype(np.int32))
    without = portable_vector(bare, known, now_s=2e9).vector
    np.testing.assert_array_equal(without, portable_vector(bare, left_out, now_s=2e9).vector)
    assert not np.array_equal(vector, without)
    mine, theirs = (personal_part(one, known, rng=np.random.default_rng(0)) for one in (release, bare))
    assert not np.array_equal(mine, theirs)


def test_served_events_are_read_as_the_region_reads_them(tmp_path: Path) -> None:
    release, known = load_device_release(_release(tmp_path)), _known()
    nothing = np.zeros(len(known), dtype=np.bool_)
    np.testing.assert_array_equal(release.reads(known.rows, sensitive=nothing), known.rows)


class _Told:
    """Regions whose phones say the same each round; what they were asked is kept."""

    def __init__(self) -> None:
        self.plans: list[RoundPlan] = []

    def ask(self, plan: RoundPlan, *, timeout_s: float) -> list[RegionalSum]:
        assert timeout_s > 0.0
        self.plans.append(plan)
        # Each item comes up as often as it is expected, with users of one taste or another.
        total = np.zeros(plan.shape)
        total[:, :-2] = np.random.default_rng(8).normal(size=(plan.shape[0], plan.shape[1] - 2))
        total[:, -1] = 10.0
        return [
            RegionalSum(
                round_id=plan.round_id, region="us-east", phase=Phase.CLOSED, shape=plan.shape, total=to_bytes(total),
                weight=30, clipping_norm=plan.clipping_norm, noise_multiplier=plan.noise_multiplier,
            )
        ]  # fmt: skip


def _run(release: Path, folder: Path, *, rounds: int) -> tuple[_Told, dict[str, np.ndarray]]:
    plan = RunPlan(
        rounds=rounds, regions={"us-east": RegionLink(gateway_url="http://x", round_key_file="k")},
        release_directory=str(release), outcome_directory=str(folder / "outcome"), training=TRAINING,
        privacy=PrivacyPlan(ledger_file=str(folder / "ledger"), population="phones", noise_multiplier=4.0),
    )  # fmt: skip
    regions = _Told()
    outcome = TrainingRun(plan, regions=regions, clock=ManualClock(), entropy=fixed_entropy()).run()
    assert outcome.ok, outcome
    with np.load(folder / "outcome" / "items.npz") as left:
        return regions, dict(left)


def test_the_outcome_says_what_phones_read_in_the_last_round_and_a_phone_then_reads_the_same(tmp_path: Path) -> None:
    root = _release(tmp_path, None)
    asked, left = _run(root, tmp_path, rounds=3)
    assert [(reads_of(plan) == NOT_READ).all() for plan in asked.plans] == [True, False, False]
    last = asked.plans[-1]
    np.testing.assert_array_equal(left["rows"], rows_of(last))
    np.testing.assert_array_equal(left["reads"], reads_of(last))
    assert left["moves"].any()
    # As `release derive --items` puts it into the bundle.
    found = StandIns.of(left["rows"], left["reads"])
    found.check(HEARD)
    (root / STAND_INS).write_bytes(found.encoded())
    release, known = load_device_release(root), _known()
    everywhere = np.arange(ITEMS, dtype=np.int32)
    everywhere[rows_of(last)] = reads_of(last)
    mine, measured = (examples_of(known, release, LocalSettings(), reads=reads) for reads in (None, everywhere))
    np.testing.assert_array_equal(mine.base, measured.base)
    np.testing.assert_array_equal(mine.targets, measured.targets)


def test_a_further_run_starts_from_the_stand_ins_and_from_how_popular_items_are(tmp_path: Path) -> None:
    with_them, without = (
        shared_part(TRAINING, _release(tmp_path / str(number), one)) for number, one in enumerate((STANDING, None))
    )
    reads = with_them.reads()
    assert reads[:6].tolist() == [1, 2, 3, 5, 6, NOT_READ]
    assert (without.reads() == NOT_READ).all()
    np.testing.assert_array_equal(with_them.core[:5], 0.0)
    assert without.core[:5, -1].any()
    np.testing.assert_array_equal(with_them.core[5:], without.core[5:])
    asked, _ = _run(_release(tmp_path / "run"), tmp_path, rounds=2)
    np.testing.assert_array_equal(reads_of(asked.plans[0]), reads)


def test_outside_of_the_slice_a_round_reads_what_the_release_says(tmp_path: Path) -> None:
    release, known = load_device_release(_release(tmp_path)), _known()
    rows = UNHEARD[6:]
    asked = RoundPlan(
        round_id="a" * 16, release=release.release_id, part=Part.ITEMS, dim=release.tower.dim, rank=2,
        basis=to_bytes(np.eye(release.tower.dim)[:, :2]), core=to_bytes(np.zeros((len(rows), 2))),
        rows=rows.astype("<i4").tobytes(), reads=np.full(len(rows), NOT_READ, "<i4").tobytes(), clipping_norm=1e3,
        noise_multiplier=1.0,
    )  # fmt: skip
    one = train_round(asked, release, known, rng=np.random.default_rng(0)).update
    bare = load_device_release(_release(tmp_path / "bare", None))
    assert not np.array_equal(one, train_round(asked, bare, known, rng=np.random.default_rng(0)).update)


def _array(rows: list[int], reads: list[int], kind: str = "<i4") -> np.ndarray:
    return np.array([rows, reads], dtype=kind)


@pytest.mark.parametrize(
    ("damaged", "why"),
    [
        (b"", "cannot be used"),
        (b"\x93NUMPY nonsense", "cannot be used"),
        (STANDING.encoded()[:-4], "cannot be used"),
        (STANDING.encoded().replace(b"(2, 5)", b"((((( "), "cannot be used"),
        (STANDING.encoded().replace(b"(2, 5), }" + 19 * b" ", b"(2, 99999999999999999999), }"), "cannot be used"),
        (_array([0], [1], "<i8"), "int32"),
        (np.zeros(4, dtype="<i4"), "int32"),
        (np.zeros((3, 1), dtype="<i4"), "int32"),
        (_array([0], [ITEMS]), "does not have"),
        (_array([ITEMS], [1]), "does not have"),
        (_array([0], [-2]), "does not have"),
        (_array([4, 0], [1, 1]), "once"),
        (_array([0, 0], [1, 1]), "once"),
        (_array([0], [4]), "central knows"),
        (_array([1], [2]), "central knows"),
    ],
)
def test_a_damaged_array_is_refused(tmp_path: Path, damaged: bytes | np.ndarray, why: str) -> None:
    root = _release(tmp_path)
    if isinstance(damaged, bytes):
        (root / STAND_INS).write_bytes(damaged)
    else:
        np.save(root / STAND_INS, damaged)
    with pytest.raises(DeviceReleaseError, match=why) as refused:
        load_device_release(root)
    assert STAND_INS in refused.value.message
    assert refused.value.fix == "Fetch the release again."


def test_stand_ins_of_one_run_are_joined_with_those_before() -> None:
    before = StandIns.of(np.array([4, 0, 8]), np.array([1, 2, 3]))
    assert (before.rows.tolist(), before.reads.tolist()) == ([0, 4, 8], [2, 1, 3])
    rows = np.array([8, 4, 12, 5])
    newer = StandIns.of(rows, np.array([NOT_READ, 6, 7, 5]))
    joined = before.but_of(rows).joined(newer)
    assert (joined.rows.tolist(), joined.reads.tolist()) == ([0, 4, 12], [2, 6, 7])
    assert len(joined.encoded()) == 128 + 8 * 3
    with pytest.raises(StandInsError, match="read in their place"):
        StandIns(np.zeros(2, dtype=np.int32), np.zeros(1, dtype=np.int32)).check(HEARD)
