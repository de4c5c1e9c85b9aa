"""Parquet of any size: sorted on disk, a sample in memory, everybody in the towers' training, nobody's future in it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from central.commands import describe_dataset, import_dataset, train, validate_dataset
from central.datasets import parquet, streaming
from central.datasets.interactions import Interactions, load_dataset
from central.datasets.parquet import import_parquet
from central.datasets.streaming import PARQUET, Stream
from central.datasets.text import DatasetError
from central.training.windows import streamed_batches
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.progress import SilentProgress
from tests.unit.central.conftest import synthetic_rows, write_synthetic


def write_parquet(folder: Path, **columns: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / PARQUET)
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ring of the other tests, in Parquet; rows shuffled over users as a log has them."""
    folder = write_synthetic(tmp_path_factory.mktemp("ring"))
    rows = synthetic_rows(users=60, items=40)
    rows = [rows[at] for at in np.argsort([row[2] for row in rows], kind="stable")]
    users, items, times, values = zip(*rows, strict=True)
    (folder / "interactions.csv").unlink()
    return write_parquet(
        folder, user_id=list(users), item_id=list(items), timestamp=list(times), value=[float(v) for v in values]
    )  # fmt: skip


def import_it(raw: Path, out: Path, *, sample: int) -> Interactions:
    import_parquet(raw, out, name=None, progress=SilentProgress(), sample=sample)
    return load_dataset(out)


def histories(data: Interactions) -> dict[str, list[tuple[str, int, float]]]:
    return {
        user: [
            (data.items.ids[data.rows[at]], int(data.strengths[at]), float(data.times_s[at]))
            for at in range(data.starts[number], data.starts[number + 1])
        ]
        for number, user in enumerate(data.user_ids)
    }


def test_what_fits_is_what_the_csv_is(raw: Path, data: Interactions, tmp_path: Path) -> None:
    found = import_it(raw, tmp_path / "whole", sample=10**6)
    assert found.stream is None
    assert histories(found) == histories(data)
    assert sorted(found.items.titles) == sorted(data.items.titles)
    assert found.regions == data.regions
    assert not list(tmp_path.glob(".sorting*"))
    assert validate_dataset(source=str(raw)).interactions == found.card.interactions


def test_what_does_not_fit_is_sampled_by_users_and_streamed_whole(
    raw: Path, data: Interactions, tmp_path: Path
) -> None:
    found = import_it(raw, tmp_path / "part", sample=200)
    everybody = histories(data)
    some = histories(found)
    assert 0 < len(some) < 60
    assert len(found.items) == len(data.items)
    # The last user of the sample may be cut off; all others are whole.
    assert sum(everybody[user] == events for user, events in some.items()) >= len(some) - 1
    assert found.stream is not None
    assert found.card.stream_interactions == found.stream.card.interactions == data.rows.size
    small = Stream(tmp_path / "part" / "stream", shard_interactions=150)
    shards = list(small.shards())
    assert len(shards) > 3
    streamed = [
        [
            (found.items.ids[shard.rows[at]], int(shard.strengths[at]), float(shard.times_s[at]))
            for at in range(shard.starts[user], shard.starts[user + 1])
        ]
        for shard in shards
        for user in range(len(shard.starts) - 1)
    ]
    assert sorted(streamed) == sorted(everybody.values())
    shuffled = [len(shard.rows) for shard in small.shards(np.random.default_rng(1))]
    assert sorted(shuffled) == sorted(len(shard.rows) for shard in shards)


def test_nobodys_last_two_interactions_are_learned_from(raw: Path, data: Interactions, tmp_path: Path) -> None:
    found = import_it(raw, tmp_path / "part", sample=200)
    assert found.stream is not None
    batches = streamed_batches(found.stream, length=20, rows_per_batch=4, rng=np.random.default_rng(0))
    targets = sum(int(batch.weights.sum()) for batch in batches)
    assert targets == sum(len(events) - 3 for events in histories(data).values())


def test_without_timestamps_stream_and_sample_agree_on_an_order_that_is_not_the_files(tmp_path: Path) -> None:
    rows = [(f"u{user}", f"i{item}") for user in range(40) for item in range(30)]
    users, items = zip(*rows, strict=True)
    raw = write_parquet(tmp_path / "raw", user_id=list(users), item_id=list(items), time=[0] * len(rows))
    part = import_it(raw, tmp_path / "part", sample=300)
    assert part.stream is not None
    assert (part.card.has_times, part.card.unread_columns) == (False, ("time",))
    whole = int(part.starts[-2])  # the last user of the sample may be cut off
    assert next(iter(part.stream.shards())).rows[:whole].tolist() == part.rows[:whole].tolist()
    first = [part.items.ids[row] for row in part.rows[: part.starts[1]]]
    assert sorted(first) == sorted(f"i{item}" for item in range(30))
    assert first != [f"i{item}" for item in range(30)]
    small = import_it(raw, tmp_path / "small", sample=10**6)
    assert (small.stream, small.card.has_times, small.rows.size) == (None, False, len(rows))


def test_the_command_trains_on_it(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet.import_parquet, "__kwdefaults__", {"sample": 300})
    import_dataset(source=str(raw), out=tmp_path / "part")
    card = train(dataset=tmp_path / "part", out=tmp_path / "model", epochs=2, seed=1)
    assert len(card.curve) == 2
    assert "Larger than memory" in describe_dataset(dataset=tmp_path / "part").implies[0]
    with pytest.raises(InvalidInputError, match="larger than memory"):
        train(dataset=tmp_path / "part", out=tmp_path / "other", protocol="global-time")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": ["a"], "timestamp": [1]}, "no column item_id"),
        ({"user_id": ["a", None], "item_id": ["b", "c"], "timestamp": [1, 2]}, "1 rows of"),
        ({"user_id": ["a"], "item_id": ["b"], "timestamp": [1_700_000_000_000]}, "no moment"),
        ({"user_id": ["a"], "item_id": ["b"], "timestamp": [1], "event_type": ["waved"]}, "waved"),
        ({"user_id": ["a"], "item_id": ["b"], "timestamp": [1]}, "too few"),
    ],
)
def test_what_cannot_be_used_is_said(columns: dict[str, list[object]], message: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "raw", **columns)
    with pytest.raises(DatasetError, match=message):
        import_dataset(source=str(tmp_path / "raw"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_parquet_and_kinds_without_bound(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / PARQUET).write_bytes(b"no")
    with pytest.raises(DatasetError, match="cannot be read"):
        import_dataset(source=str(tmp_path / "raw"), out=tmp_path / "out")
    monkeypatch.setattr(parquet, "KINDS_MAX", 2)
    with pytest.raises(DatasetError, match="kinds of events"):
        import_dataset(source=str(raw), out=tmp_path / "out")
    assert set(streaming.queries()) >= {"events", "bad", "kinds", "items", "sorted", "columns", "sample", "catalogue"}
