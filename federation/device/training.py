"""A phone's part of a round: rebuild the personal part, train the shared core, clip, and send only that.

The history is read as a sequence: each event is to be predicted from those before it, served and sensitive ones
alike. The older half of the examples (support) rebuilds the personal part with the core fixed; the newer half (query)
trains the core with the personal part fixed. The personal part and everything it was made of stay here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federation.device.model import (
    Candidates,
    all_items,
    item_statistics,
    loss_and_gradients,
    moved_items,
    sampled_items,
)
from federation.device.store import LocalHistory
from federation.device.tower import DeviceRelease
from federation.messages import Part, RoundPlan, from_bytes, reads_of, rows_of
from federation.privacy.clipping import clip
from infra.plumbing.errors import AtollError

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int32]


class TrainingError(AtollError):
    """This phone cannot do the task; it drops out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """Bounds of local work: what keeps a step within a phone's time, energy and memory."""

    examples_max: int = 200
    """Newest events that are predicted; one tower call each."""
    examples_min: int = 4
    """Below this there is nothing to learn from: the update is zero, and is sent all the same."""
    full_catalogue_max: int = 20_000
    """Up to so many items all compete; above, a sample does."""
    negatives: int = 1_000
    personal_steps: int = 15
    personal_learning_rate: float = 0.5
    personal_decay: float = 0.2
    """Pull of the personal part towards zero, added to the gradient: few events must not make a taste."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Base vectors `[num_examples, dim]` and the items that came next `[num_examples]`, oldest first."""

    base: Float32Array
    targets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)

    def part(self, start: int, stop: int) -> "Examples":
        """Examples from `start` up to `stop`."""
        return Examples(self.base[start:stop], self.targets[start:stop])


@dataclass(frozen=True, slots=True)
class LocalTraining:
    """What a phone did: `update` may be sent, masked; the losses (on the query half) stay here, for its owner.

    `update`: float32 of the plan's shape, no longer than the plan's clipping norm.
    """

    update: Float32Array
    examples: int
    loss_before: float
    loss_after: float
    clipped: bool


def steps_of(plan: RoundPlan, history: LocalHistory, settings: LocalSettings) -> int:
    """What a round costs a phone at most: tower calls and gradients."""
    calls = min(max(len(history) - 1, 0), settings.examples_max)
    return calls + (1 if plan.part is Part.ITEMS else settings.personal_steps + plan.local_steps + 2)


def examples_of(
    history: LocalHistory, release: DeviceRelease, settings: LocalSettings, *, reads: IntArray | None = None
) -> Examples:  # fmt: skip
    """The newest examples of a history: each event with the tower's vector of what it reads of what came before.

    `reads [num_items]` is the row that is read in place of each, or -1; by default what `release.reads` says.
    """
    read = reads[history.rows] if reads is not None else release.reads(history.rows, sensitive=history.sensitive)
    first = max(1, len(history) - settings.examples_max)
    positions = [position for position in range(first, len(history)) if (read[:position] >= 0).any()]
    base = np.zeros((len(positions), release.tower.dim), dtype=np.float32)
    for index, position in enumerate(positions):
        past = history.before(position).read_as(read[:position])
        base[index] = release.base_vector(
            past.rows, past.strengths, past.times_s, now_s=float(history.times_s[position])
        )
    return Examples(base, history.rows[positions].astype(np.int64))


def reconstruct(
    examples: Examples, release: DeviceRelease, *, basis: Float32Array, core: Float64Array,
    rng: np.random.Generator, settings: LocalSettings,
) -> Float64Array:  # fmt: skip
    """The personal part that explains `examples` with the core fixed, `[dim] float64`; zero without examples.

    Plain gradient descent from zero, a fixed number of steps, with decay.
    """
    personal = np.zeros(release.tower.dim)
    if not len(examples):
        return personal
    candidates = candidates_for(examples, release, rng=rng, settings=settings)
    for _ in range(settings.personal_steps):
        gradients = loss_and_gradients(examples.base, candidates, basis=basis, core=core, personal=personal)
        personal = personal - settings.personal_learning_rate * (
            gradients.personal + settings.personal_decay * personal
        )
    return personal


def train_round(
    plan: RoundPlan, release: DeviceRelease, history: LocalHistory, *, rng: np.random.Generator,
    settings: LocalSettings | None = None,
) -> LocalTraining:  # fmt: skip
    """Train the shared core on this phone's own history and make the update for the gateway.

    Args:
        plan: the task.
        release: the release that the plan names.
        history: everything this phone knows, sensitive events included.
        rng: draws negatives only; nothing private depends on its strength.
        settings: bounds of local work.

    Raises:
        TrainingError: the plan is for another release or another shape, or training did not stay finite.
    """
    bounds = settings or LocalSettings()
    basis, start = _opened(plan, release)
    if plan.part is Part.ITEMS:
        examples = examples_of(history, release, bounds, reads=_reads(plan, release))
        return _items(plan, release, examples, basis, start)
    examples = examples_of(history, release, bounds)
    core = start.copy()
    loss_before = loss_after = 0.0
    if len(examples) >= bounds.examples_min:
        middle = len(examples) // 2
        support, query = examples.part(0, middle), examples.part(middle, len(examples))
        personal = reconstruct(support, release, basis=basis, core=start, rng=rng, settings=bounds)
        candidates = candidates_for(query, release, rng=rng, settings=bounds)

        def at(point: Float64Array) -> tuple[float, Float64Array]:
            found = loss_and_gradients(query.base, candidates, basis=basis, core=point, personal=personal)
            return found.loss, found.core

        loss_before = at(core)[0]
        core = _descend(core, plan, at)
        loss_after = at(core)[0]
    change = core - start
    if not np.isfinite(change).all():
        raise TrainingError("local training did not stay finite.", fix="A smaller local learning rate would.")
    clipped = clip(change, plan.clipping_norm)
    too_long = bool(np.linalg.norm(change) > plan.clipping_norm)
    return LocalTraining(clipped, len(examples), loss_before, loss_after, too_long)


def _items(
    plan: RoundPlan, release: DeviceRelease, examples: Examples, directions: Float32Array, core: Float64Array
) -> LocalTraining:
    """One look at the phone's own events for the items of the server's slice; the whole slice is answered for."""
    rows = rows_of(plan)
    found = np.zeros(plan.shape)
    if len(examples):
        vectors = moved_items(release.item_vectors, rows=rows, core=core, directions=directions)
        found = item_statistics(examples.base, examples.targets, vectors=vectors, rows=rows, directions=directions)
    too_long = bool(np.linalg.norm(found) > plan.clipping_norm)
    return LocalTraining(clip(found, plan.clipping_norm), len(examples), 0.0, 0.0, too_long)


def _reads(plan: RoundPlan, release: DeviceRelease) -> npt.NDArray[np.int32]:
    """What the tower reads in place of every item, `[num_items]`: by the plan in its slice, else by the release."""
    rows, reads = rows_of(plan), reads_of(plan)
    found = release.reading.copy()
    if max(rows.max(initial=0), reads.max(initial=0)) >= len(found):
        raise TrainingError("the task names items that this release does not have.", fix="Fetch the release again.")
    found[rows] = reads
    return found


def candidates_for(
    examples: Examples, release: DeviceRelease, *, rng: np.random.Generator, settings: LocalSettings
) -> Candidates:
    """All items where the catalogue is small enough, else a sample."""
    vectors = release.item_vectors
    if len(vectors) <= settings.full_catalogue_max:
        return all_items(vectors, examples.targets)
    return sampled_items(
        vectors, examples.targets, log_q=release.log_q, negatives=settings.negatives, rng=rng
    )  # fmt: skip


def _descend(
    core: Float64Array, plan: RoundPlan, at: Callable[[Float64Array], tuple[float, Float64Array]]
) -> Float64Array:
    for _ in range(plan.local_steps):
        core = core - plan.local_learning_rate * at(core)[1]
    return core


def _opened(plan: RoundPlan, release: DeviceRelease) -> tuple[Float32Array, Float64Array]:
    if plan.release != release.release_id or plan.dim != release.tower.dim:
        raise TrainingError("the task is for a release that this phone does not hold.", fix="Fetch that release.")
    basis = from_bytes(plan.basis, (plan.dim, plan.rank), what="basis of the plan")
    core = from_bytes(plan.core, plan.core_shape, what="core of the plan")
    return basis, core.astype(np.float64)
