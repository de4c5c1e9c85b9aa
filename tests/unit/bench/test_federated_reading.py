"""What `bench federated` measures of stand-ins is what a phone has of them that holds the derived release."""

import secrets
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from federation.device.store import LocalHistory
from federation.device.tower import DeviceRelease, device_release
from federation.device.training import LocalSettings, examples_of
from federation.device.vector import portable_vector
from federation.flower.plan import items_training
from federation.rounds.directions import MADE_UP_STRENGTH, made_up_histories
from infra.bench.federated.made_up import made_up_vectors
from infra.bench.federated.scenes import CEILING, SENSITIVE
from infra.bench.federated.simulation import Learned, Recipe, Scene
from infra.bench.federated.tower import NumpyTower, Sequences
from infra.contracts.features import GAP_BUCKETS, HistoryInput
from infra.contracts.release import CatalogueItem
from infra.plumbing.catalogue.reading import Catalogue
from infra.plumbing.releases.stand_ins import NOT_READ, StandIns

ITEMS, DIM, USERS, EVENTS, LENGTH = 40, 8, 5, 30, 64
QUIET = np.arange(ITEMS) % 4 == 0


def _weights(rng: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
    shapes = {
        "positions": (LENGTH, DIM), "strengths": (6, DIM), "gaps_before": (GAP_BUCKETS, DIM),
        "gaps_after": (GAP_BUCKETS, DIM), "norm_scale": (DIM,), "norm_shift": (DIM,), "adapter": (DIM, DIM),
        "block0_query": (DIM, DIM), "block0_key": (DIM, DIM), "block0_value": (DIM, DIM), "block0_out": (DIM, DIM),
        "block0_norm_attention_scale": (DIM,), "block0_norm_attention_shift": (DIM,), "block0_widen": (DIM, 2 * DIM),
        "block0_norm_feed_scale": (DIM,), "block0_norm_feed_shift": (DIM,), "block0_widen_bias": (2 * DIM,),
        "block0_narrow": (2 * DIM, DIM), "block0_narrow_bias": (DIM,),
    }  # fmt: skip
    return {f"weight_{name}": rng.normal(size=shape, scale=0.5).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A few users with towers that nobody trained; every fourth item's events stay on phones."""
    rng = np.random.default_rng(3)
    count = USERS * EVENTS
    rows = np.concatenate([rng.permutation(ITEMS)[:EVENTS] for _ in range(USERS)])
    np.savez(
        tmp_path / "events.npz", allow_pickle=False, rows=rows,
        strengths=rng.integers(1, 6, count), times_s=np.cumsum(rng.uniform(1, 5000, count)),
        starts=np.arange(USERS + 1) * EVENTS, evaluated=np.arange(USERS), regions=np.zeros(USERS, dtype=np.int64),
        silent=np.zeros(USERS, dtype=np.bool_), sensitive_items=QUIET, genres=np.array(["quiet"]),
    )  # fmt: skip
    for name in (SENSITIVE, CEILING):
        table = rng.normal(size=(ITEMS, DIM)).astype(np.float32)
        np.savez(
            tmp_path / f"{name}.npz", allow_pickle=False, history_length=LENGTH, heads=2, table=table,
            check=np.zeros((1, DIM), dtype=np.float32), **_weights(rng),
        )  # fmt: skip
    return Scene(tmp_path, SENSITIVE)


class _OnePhone:
    """The same tower, asked as a phone asks it: one history at a time."""

    def __init__(self, tower: NumpyTower) -> None:
        self.dim, self.history_length, self._tower = DIM, LENGTH, tower

    def vector(self, inputs: HistoryInput) -> npt.NDArray[np.float32]:
        known = inputs.items[None] > 0
        vectors = self._tower._forward(tuple(part[None] for part in inputs), known, self._tower.table)
        return np.asarray(vectors[0, -1], dtype=np.float32)


def _release(scene: Scene, learned: Learned) -> DeviceRelease:
    items = (CatalogueItem(item=f"i{row}", interactions=int(count)) for row, count in enumerate(scene.heard))
    found = StandIns.of(np.arange(ITEMS), learned.reads)
    found.check(scene.heard)
    catalogue = Catalogue.of(tuple(items), np.zeros(ITEMS, dtype=np.float32))
    return device_release("0" * 20, _OnePhone(scene.towers[SENSITIVE]), learned.table, catalogue, found)


def _history(events: Sequences, user: int) -> LocalHistory:
    """What the phone of `user` knows: all but the event that is asked for."""
    own = slice(events.starts[user], events.starts[user + 1] - 1)
    rows = events.rows[own].astype(np.int32)
    return LocalHistory(rows, events.strengths[own].astype(np.int32), events.times_s[own], QUIET[rows])


def test_a_phone_with_the_derived_release_reads_what_is_measured(scene: Scene) -> None:
    known = np.flatnonzero(scene.heard > 0)
    reads = np.where(scene.heard > 0, np.arange(ITEMS), NOT_READ)
    quiet = np.flatnonzero(QUIET)
    reads[quiet[:-2]] = known[np.arange(len(quiet) - 2) % len(known)]
    learned = Learned(scene.towers[SENSITIVE].table, reads)
    release, measured = _release(scene, learned), scene.reading(reads)
    np.testing.assert_array_equal(release.reading, reads)
    bare = _release(scene, Learned(learned.table, np.where(scene.heard > 0, np.arange(ITEMS), NOT_READ)))
    for line, (user, one) in enumerate(zip(scene.users, scene.examples(measured, scene.users), strict=True)):
        history = _history(scene.events, int(user))
        now_s = float(scene.events.times_s[scene.test_at[line]])
        mine, without = (portable_vector(held, history, now_s=now_s).vector for held in (release, bare))
        np.testing.assert_allclose(mine, measured.last[line], atol=1e-4)
        np.testing.assert_allclose(without, scene.released().last[line], atol=1e-4)
        assert np.abs(mine - without).max() > 1e-2
        examples = examples_of(history, release, LocalSettings())
        np.testing.assert_array_equal(examples.targets, one.targets)
        # The measurement tells the tower of the gap to the next event that is read, a phone of that to the one asked.
        read = reads[examples.targets] != NOT_READ
        np.testing.assert_allclose(examples.base[read], one.base[read], atol=1e-4)


def test_what_steps_are_judged_on_is_what_a_deployed_run_makes_up(scene: Scene) -> None:
    known = int(np.count_nonzero(scene.heard))
    found = made_up_vectors(scene.towers[SENSITIVE], scene.heard, count=4, seed=2)
    release = _release(scene, Learned(scene.towers[SENSITIVE].table, scene.unmoved()))
    drawn = made_up_histories(
        scene.heard / scene.heard.sum(), longest=min(LENGTH, known), count=4, rng=np.random.default_rng(2)
    )
    for vector, (rows, times_s) in zip(found, drawn, strict=True):
        strengths = np.full(len(rows), MADE_UP_STRENGTH)
        own = release.base_vector(rows, strengths, times_s, now_s=float(times_s[-1]))
        np.testing.assert_allclose(vector, own, atol=1e-4)


def test_rounds_whose_step_is_implausible_are_void_where_they_are_measured(scene: Scene) -> None:
    recipe = Recipe(items_training((), noise_multiplier=0.0), rounds=2)
    learned = scene.ours(recipe, entropy=secrets.token_bytes)
    assert learned.void == 0
    assert not np.array_equal(learned.table, scene.towers[SENSITIVE].table)

    class Lying(Scene):
        def _round(self, *arguments: object) -> tuple[npt.NDArray[np.float64], float]:
            mean, deviation = super()._round(*arguments)  # type: ignore[arg-type]
            return -mean, deviation

    scene.__class__ = Lying
    assert scene.ours(recipe, entropy=secrets.token_bytes).void == 2
