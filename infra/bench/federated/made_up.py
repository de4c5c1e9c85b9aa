"""Vectors of made-up histories, as a deployed run has them: what steps are judged on."""

import numpy as np
import numpy.typing as npt

from federation.rounds.directions import MADE_UP_STRENGTH, QUERIES, made_up_histories
from infra.bench.federated.tower import NumpyTower, Sequences


def made_up_vectors(
    tower: NumpyTower, heard: npt.NDArray[np.integer], *, count: int = QUERIES, seed: int = 0
) -> npt.NDArray[np.float32]:
    """`[count, dim]`: the tower's vectors of histories drawn by how often central heard of each item."""
    longest = min(tower.history_length, int(np.count_nonzero(heard)))
    drawn = made_up_histories(heard / heard.sum(), longest=longest, count=count, rng=np.random.default_rng(seed))
    # The last event of each is what is asked for: it is not read, and only its time matters.
    rows, times_s = zip(*((np.append(rows, 0), np.append(at, at[-1])) for rows, at in drawn), strict=True)
    starts = np.concatenate([[0], np.cumsum([len(one) for one in rows])])
    strengths = np.full(starts[-1], MADE_UP_STRENGTH)
    events = Sequences(np.concatenate(rows), strengths, np.concatenate(times_s), starts)
    return tower.last(events, np.arange(count), tower.table)
