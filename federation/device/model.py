"""What is trained on the phone: loss and gradients in NumPy.

A user vector is ``u = b + (b @ basis) @ core @ basis.T + personal``: `b` comes out of the released tower, `core`
(`[rank, rank]`) is shared and its change is sent, `personal` (`[dim]`) is rebuilt on the phone and never sent
(Federated Reconstruction, Singhal et al. 2021, arXiv 2102.03448). The loss is the softmax cross entropy of the next
item over a set of candidate items, with log-Q correction where they are a sample (Bengio and Senecal 2008).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Items that a target competes with.

    `vectors`: `[num_candidates, dim]`; `log_q`: `[num_candidates]`, subtracted from the scores (zeros when all items
    are here); `targets`: `[num_examples]`, position of each example's target among the candidates.
    """

    vectors: FloatArray
    log_q: FloatArray
    targets: IntArray


@dataclass(frozen=True, slots=True)
class Gradients:
    """Mean loss over the examples, and its gradients: `core [rank, rank]`, `personal [dim]`."""

    loss: float
    core: npt.NDArray[np.float64]
    personal: npt.NDArray[np.float64]


def user_vectors(base: FloatArray, *, basis: FloatArray, core: FloatArray, personal: FloatArray) -> FloatArray:
    """``b + (b @ basis) @ core @ basis.T + personal`` for every row of `base`. `[num_examples, dim]`."""
    return base + (base @ basis) @ core @ basis.T + personal


def loss_and_gradients(
    base: FloatArray, candidates: Candidates, *, basis: FloatArray, core: FloatArray, personal: FloatArray
) -> Gradients:
    """Mean softmax loss of the targets, and its gradients.

    Args:
        base: `[num_examples, dim]` vectors of the released tower, at least one.
        candidates: what the targets compete with.
        basis: `[dim, rank]`.
        core: `[rank, rank]`.
        personal: `[dim]`.
    """
    # In the precision of the vectors: float32 on a phone, float64 where gradients are checked.
    kind = base.dtype
    users = user_vectors(base, basis=basis, core=core.astype(kind), personal=personal.astype(kind))
    logits = users @ candidates.vectors.T - candidates.log_q
    logits -= logits.max(axis=1, keepdims=True)
    exponentials = np.exp(logits)
    total = exponentials.sum(axis=1, keepdims=True)
    count = len(base)
    rows = np.arange(count)
    loss = float(np.mean(np.log(total[:, 0]) - logits[rows, candidates.targets]))
    errors = exponentials / total
    errors[rows, candidates.targets] -= 1.0
    per_user = (errors @ candidates.vectors) / count
    return Gradients(
        loss=loss,
        core=((base @ basis).T @ (per_user @ basis)).astype(np.float64),
        personal=per_user.sum(axis=0).astype(np.float64),
    )


def all_items(vectors: FloatArray, targets: IntArray) -> Candidates:
    """Every item of the catalogue competes; no correction is needed."""
    return Candidates(vectors, np.zeros(len(vectors), dtype=vectors.dtype), targets)


def sampled_items(
    vectors: FloatArray, targets: IntArray, *, log_q: FloatArray, negatives: int, rng: np.random.Generator
) -> Candidates:
    """The targets and `negatives` items drawn with probability exp(log_q) compete; scores are corrected by log-Q.

    An item drawn twice, or drawn and a target, competes once.
    """
    drawn = rng.choice(len(vectors), size=negatives, p=np.exp(log_q) / np.exp(log_q).sum())
    rows, inverse = np.unique(np.concatenate([targets, drawn]), return_inverse=True)
    # The chance of an item to be among the draws: what a sampled softmax must be corrected by.
    correction = np.log(-np.expm1(negatives * np.log1p(-np.exp(log_q[rows])))).astype(vectors.dtype)
    return Candidates(vectors[rows], correction, inverse[: len(targets)].astype(np.int64))


def item_statistics(
    base: FloatArray, targets: IntArray, *, vectors: FloatArray, rows: IntArray, directions: FloatArray
) -> npt.NDArray[np.float64]:
    """What these examples say about the items at `rows`: `[rows, rank + 1] float64`.

    The first `rank` columns are the gradient of the log-likelihood by the item's vector, in `directions` (observed
    minus expected: softmax regression on fixed user vectors). The last is the item's mass, how often it came up plus
    how often it was expected: the server divides by it, so that rare and frequent items move equally far.

    Args:
        base: `[num_examples, dim]` user vectors.
        targets: `[num_examples]` catalogue rows that came next.
        vectors: `[num_items, dim]`, with what has been learned so far.
        rows: `[rows]` catalogue rows of the slice.
        directions: `[dim, rank]`.
    """
    logits = base @ vectors.T
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    expected = logits[:, rows]
    place = np.full(len(vectors), -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    at = place[targets]
    features = base @ directions
    found = np.zeros((len(rows), directions.shape[1] + 1))
    found[:, :-1] = -(expected.T @ features)
    found[:, -1] = expected.sum(axis=0)
    np.add.at(found[:, :-1], at[at >= 0], features[at >= 0])
    np.add.at(found[:, -1], at[at >= 0], 1.0)
    return found


def moved_items(
    vectors: npt.NDArray[np.float32], *, rows: IntArray, core: FloatArray, directions: FloatArray
) -> npt.NDArray[np.float32]:
    """`vectors` with the items at `rows` moved by ``core @ directions.T``; a copy."""
    moved = vectors.copy()
    moved[rows] += (core @ directions.T).astype(np.float32)
    return moved
