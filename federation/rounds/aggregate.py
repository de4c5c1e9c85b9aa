"""Central's side of a round: regional sums -> one mean -> one step of the shared core. Pure functions.

All of it is post-processing of sums that carry their noise already, so none of it costs privacy.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from federation.messages import Phase, RegionalSum, RoundPlan, from_bytes
from infra.plumbing.errors import InvalidInputError

Float64Array = npt.NDArray[np.float64]
TRIM_COHORTS_MIN = 4
"""With fewer cohorts there is nobody to outvote a bad one."""
TRIM_SHARE = 0.25
ITEM_PRIOR = 5.0
"""Events that an item is taken to have had at least, so that a single one does not move it far."""
NOISE_FLOOR = 3.0
"""Deviations of the noise below which an item's mass is not believed."""
POPULARITY_MAX = 50.0
"""Beyond it, in either direction, an item's popularity is not put to the power."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """The shared core and its momentum, `[rank, rank] float64` each."""

    core: Float64Array
    momentum: Float64Array


@dataclass(frozen=True, slots=True)
class Answers:
    """What the regions' answers to a plan are good for.

    sums: what may be averaged, in the order of the regions; a region's cohorts as a sum each.
    refused: why a region's sum was not used, by region. It was given away all the same, so the round stays booked.
    """

    sums: tuple[RegionalSum, ...]
    refused: Mapping[str, str]


def judged(answers: Sequence[RegionalSum], plan: RoundPlan, *, regions: Collection[str]) -> Answers:
    """Tell the closed sums that answer `plan` from those that do not; a region that answers badly harms nobody else.

    Refused is who answers another round, has another shape or norm, less noise or more sampling than planned, holds a
    number that is not finite, or gives two different sums. What does not come from one of `regions` is left out.
    """
    sums: list[RegionalSum] = []
    refused: dict[str, str] = {}
    for region in sorted(regions):
        own = list(dict.fromkeys(one for one in answers if one.region == region and one.phase is Phase.CLOSED))
        try:
            if len(own) > 1:
                raise InvalidInputError("it answered twice, and not the same.")
            sums += [part for one in own for part in _sound(one, plan)]
        except InvalidInputError as error:
            refused[region] = f"the region's sum is not used: {error}"
    return Answers(tuple(sums), refused)


def _sound(one: RegionalSum, plan: RoundPlan) -> list[RegionalSum]:
    fits = (
        one.round_id == plan.round_id and one.shape == plan.shape and one.clipping_norm == plan.clipping_norm
        and one.noise_multiplier >= plan.noise_multiplier and one.sampling_probability <= plan.sampling_probability
    )  # fmt: skip
    parts = _cohorts(one)
    if not fits or any(part.weight < 1 for part in parts):
        raise InvalidInputError("it does not answer this round's plan.")
    for part in parts:
        from_bytes(part.total, part.shape, what="sum")
    return parts


def _cohorts(one: RegionalSum) -> list[RegionalSum]:
    if not one.cohorts:
        return [one]
    return [
        msgspec.structs.replace(one, total=cohort.total, weight=cohort.weight, cohorts=()) for cohort in one.cohorts
    ]


def mean_update(sums: Sequence[RegionalSum]) -> Float64Array:
    """The mean update over all users of these sums, `[rank, rank]`; robust when there are enough cohorts.

    With at least TRIM_COHORTS_MIN cohorts the mean is taken coordinate by coordinate over cohort means without the
    TRIM_SHARE largest and smallest (Yin et al. 2018); below that it is total / weight.

    Raises:
        ValueError: no sums.
    """
    if not sums:
        raise ValueError("there is no sum to take a mean of")
    totals = [from_bytes(one.total, one.shape, what="regional sum").astype(np.float64) for one in sums]
    if len(sums) < TRIM_COHORTS_MIN:
        mean: Float64Array = np.sum(totals, axis=0) / sum(one.weight for one in sums)
        return mean
    means = np.sort(np.stack([total / one.weight for total, one in zip(totals, sums, strict=True)]), axis=0)
    cut = max(1, int(len(sums) * TRIM_SHARE))
    trimmed: Float64Array = means[cut : len(sums) - cut].mean(axis=0)
    return trimmed


def noise_deviation(sums: Sequence[RegionalSum]) -> float:
    """Standard deviation of the noise in each coordinate of `mean_update` (its untrimmed form)."""
    variance = sum((one.noise_multiplier * one.clipping_norm) ** 2 for one in sums)
    return float(np.sqrt(variance) / max(1, sum(one.weight for one in sums)))


def shrink(update: Float64Array, *, deviation: float, norm_max: float) -> Float64Array:
    """`update` scaled towards zero by what its noise is known to add to its norm.

    Positive-part James-Stein estimator: where noise swamps the signal, the step goes to zero instead of anywhere.
    A mean of updates clipped to `norm_max` is no longer than `norm_max` itself, so the rest is noise too.
    """
    squared = float(np.sum(update**2))
    if squared == 0.0:
        return update
    kept = max(0.0, 1.0 - max(update.size - 2, 0) * deviation**2 / squared)
    length = kept * squared**0.5
    return update * (kept * min(1.0, norm_max / length) if length > 0.0 else 0.0)


def server_step(
    state: ServerState, update: Float64Array, *, learning_rate: float, momentum: float
) -> ServerState:  # fmt: skip
    """FedAvgM (Hsu et al. 2019): momentum = momentum * old + update; core += learning rate * momentum."""
    velocity = momentum * state.momentum + update
    return ServerState(core=state.core + learning_rate * velocity, momentum=velocity)


@dataclass(frozen=True, slots=True)
class StepBounds:
    """How items move at a look.

    learning_rate: of the tastes.
    momentum: of the tastes; 0 where noise would be carried from round to round.
    taste_region: how far a taste moves at most, in whitened features: by so much the item's score changes for a user a
        deviation away from the mean.
    popularity_region: how far the log of an item's popularity moves at most.
    """

    learning_rate: float
    momentum: float
    taste_region: float
    popularity_region: float = POPULARITY_MAX


def item_step(
    state: ServerState, mean: Float64Array, *, centre: Float64Array, heard: npt.NDArray[np.integer], weight: float,
    deviation: float, taste_deviation: float, bounds: StepBounds,
) -> ServerState:  # fmt: skip
    """The items' parameters after one look at them: popularity by proportional fitting, tastes by a damped Newton step.

    How often an item came up and how often it was expected follow from the mass (their sum) and the gradient along
    popularity (their difference). Popularity moves by the log of their ratio, which fits one item alone exactly, but by
    no more than `popularity_region`;
    tastes by gradient over mass, which is Newton's step to first order, tastes being whitened, but by no more than
    `taste_region` an item: those who would take an item have more of its taste than all users on average, so the whole
    step overshoots. A row whose tastes its noise explains does not move in them (positive-part James-Stein, per row).

    What central has heard of an item holds it where it was released, as so many events would (a Gaussian prior of that
    precision, tastes being whitened): phones' events of an item that central knows well would else be learned by heart.

    All of it is post-processing of one sum whose sensitivity is the plan's clipping norm: a phone's rows, gradients
    and masses together, are clipped as one vector.

    Args:
        state: `[rows, rank]` each, the last column popularity. Only tastes have momentum.
        mean: `[rows, rank + 1]`, per user: gradients, and in the last column the mass.
        centre: `[rank - 1]`, the mean of the tastes' features.
        heard: `[rows]`, events of each item that its released vector was trained on.
        weight: users in the mean.
        deviation: of the noise in the last two columns of `mean`.
        taste_deviation: of that in the others.
        bounds: of the step.
    """
    mass, excess = np.maximum(mean[:, -1], 0.0), mean[:, -2]
    floor = max(ITEM_PRIOR / max(weight, 1.0), NOISE_FLOOR * deviation)
    seen, expected = np.maximum((mass + excess) / 2.0, 0.0), np.maximum((mass - excess) / 2.0, 0.0)
    prior, popularity_now = heard / max(weight, 1.0), np.clip(state.core[:, -1], -POPULARITY_MAX, POPULARITY_MAX)
    popularity = np.log((seen + floor + prior) / (expected + floor + prior * np.exp(popularity_now)))
    tastes = mean[:, :-2] - excess[:, None] * centre
    squares = np.maximum((tastes**2).sum(axis=1), np.finfo(np.float64).tiny)
    # Taking the centre off brings the noise of `excess` along.
    variance = taste_deviation**2 * tastes.shape[1] + deviation**2 * float(centre @ centre)
    kept = np.maximum(0.0, 1.0 - variance / squares)
    pulled = tastes * kept[:, None] - prior[:, None] * state.core[:, :-1]
    steps = bounds.learning_rate * pulled / (np.maximum(np.maximum(seen, expected), floor) + prior)[:, None]
    lengths = np.maximum(np.linalg.norm(steps, axis=1, keepdims=True), bounds.taste_region)
    velocity = bounds.momentum * state.momentum
    velocity[:, :-1] += steps * (bounds.taste_region / lengths)
    velocity[:, -1] = np.clip(popularity, -bounds.popularity_region, bounds.popularity_region)
    return ServerState(core=state.core + velocity, momentum=velocity)


def principal_basis(item_vectors: npt.NDArray[np.floating], rank: int) -> npt.NDArray[np.float32]:
    """The `rank` directions in which a catalogue's vectors differ most: `[dim, rank]`, orthonormal columns.

    Public (it comes from a released catalogue), so fixing it beforehand costs no privacy. The sign of each direction
    is fixed by its largest coordinate.

    Raises:
        ValueError: rank is below 1 or above dim.
    """
    dim = item_vectors.shape[1]
    if not 1 <= rank <= dim:
        raise ValueError(f"the rank must lie between 1 and {dim}, not {rank}")
    _, vectors = np.linalg.eigh(np.cov(item_vectors.astype(np.float64), rowvar=False).reshape(dim, dim))
    basis = vectors[:, ::-1][:, :rank]
    largest = np.argmax(np.abs(basis), axis=0)
    signed: npt.NDArray[np.float32] = (basis * np.sign(basis[largest, np.arange(rank)])).astype(np.float32)
    return signed


def stepped_adapter(
    adapter: npt.NDArray[np.floating], *, basis: npt.NDArray[np.floating], core: Float64Array
) -> npt.NDArray[np.float32]:
    """``adapter @ (I + basis @ core @ basis.T)``, `[dim, dim] float32`."""
    step = np.eye(adapter.shape[1]) + basis.astype(np.float64) @ core @ basis.astype(np.float64).T
    stepped: npt.NDArray[np.float32] = (adapter.astype(np.float64) @ step).astype(np.float32)
    return stepped
