"""The leak check: what was learned from must not move when the test is changed."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from central.datasets.interactions import Interactions, Split
from central.evaluation.results import LeakCheck
from central.training.popularity import item_counts, recent_counts
from central.training.similar import similar_items
from central.training.transitions import follower_links, soon_links
from central.training.windows import epoch_batches, event_table


def check_leaks(data: Interactions, split: Split, *, history_length: int, seed: int = 0) -> LeakCheck:
    """Looks for ways from the test into what is learned, by trying them."""
    learned = _learned_positions(data, split, history_length, seed)
    held_out = np.concatenate([split.valid_at, split.test_at])
    inputs = int(np.isin(held_out, learned).sum())
    moved = _tables_moved(data, split, seed)
    before = [data.rows[place] in data.rows[data.starts[data.users[place]] : place] for place in split.test_at.tolist()]
    cut = float(np.median(data.times_s[split.test_at])) if split.test_at.size else np.inf
    known = np.arange(data.rows.size) < split.known_ends[data.users]
    return LeakCheck(
        passed=not inputs and not moved, learned_inputs=inputs, tables_moved=moved,
        taken_before=float(np.mean(before)) if before else 0.0,
        later_share=float((data.times_s[known] > cut).mean()) if known.any() else 0.0,
    )  # fmt: skip


def _learned_positions(data: Interactions, split: Split, length: int, seed: int) -> npt.NDArray[np.int64]:
    """Positions that one epoch of training windows reads or predicts, found by numbering the events."""
    numbered = replace(event_table(data), items=np.arange(1, data.rows.size + 1, dtype=np.int32))
    batches = epoch_batches(
        numbered, data.starts[:-1], split.train_ends, length=length, rows_per_batch=8, rng=np.random.default_rng(seed)
    )
    seen = [
        part[batch.weights > 0] - shift for batch in batches for part, shift in ((batch.items, 1), (batch.targets, 0))
    ]
    return np.unique(np.concatenate(seen)) if seen else np.zeros(0, dtype=np.int64)


def _tables_moved(data: Interactions, split: Split, seed: int) -> tuple[str, ...]:
    changed = data.rows.copy()
    turn = np.random.default_rng(seed).integers(1, max(len(data.items), 2), split.test_at.size)
    changed[split.test_at] = (changed[split.test_at] + turn) % len(data.items)
    other = replace(data, rows=changed)
    ends = split.known_ends
    tables: dict[str, Callable[[Interactions], Sequence[npt.NDArray[np.generic]]]] = {
        "popularity": lambda seen: (item_counts(seen, ends),),
        "trend": lambda seen: (recent_counts(seen, ends),),
        "similar": lambda seen: similar_items(seen, ends),
        "followers": lambda seen: follower_links(seen, ends),
        "soon": lambda seen: soon_links(seen, ends),
    }
    return tuple(
        name
        for name, made in tables.items()
        if not all(np.array_equal(one, two) for one, two in zip(made(data), made(other), strict=True))
    )
