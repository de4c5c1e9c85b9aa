"""Memory of a training on Parquet files of 1 and of 20 million interactions: it must not grow with them.

Both are made up here (zipf items, rows in time), imported and trained on by central's own code for a fixed time, in a
process of its own each; the figure is the highest resident memory of that process, import and training together.
Options: `small` and `large` (interactions, default 1000000 and 20000000), `sample` (held in memory, default 100000),
`minutes` (of the towers' training, default 0.5).
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, at_most
from infra.local.tiers import source_root, tier_python
from infra.plumbing.errors import AtollError

ITEMS, PER_USER, CHUNK = 2_000, 40, 1_000_000
JOB_TIMEOUT_S = 1200.0
RATIO_MAX = 1.25


class JobFailedError(AtollError):
    """The training's process did not come to its end."""


class Told(msgspec.Struct, frozen=True):
    """What the training's process says."""

    interactions: int
    import_rss_mb: float
    rss_mb: float
    import_s: float
    train_s: float


def run(request: BenchRequest) -> Measured:
    """Both sizes once: the figures are sizes, which hardly differ from run to run."""
    small = int(request.number("small", 60_000 if request.quick else 1_000_000))
    large = int(request.number("large", 240_000 if request.quick else 20_000_000))
    told = []
    for done, interactions in enumerate((small, large), start=1):
        told.append(_once(request, interactions))
        request.progress.advance(done, 2, "trained")
    one, other = told
    figures = {
        "rss_mb_1m": one.rss_mb, "rss_mb_20m": other.rss_mb, "rss_ratio": other.rss_mb / one.rss_mb,
        "import_rss_mb_1m": one.import_rss_mb, "import_rss_mb_20m": other.import_rss_mb,
        "import_s_20m": other.import_s, "train_s_20m": other.train_s,
    }  # fmt: skip
    return Measured(
        figures=figures,
        bars=(at_most("memory at 20 M against 1 M interactions", figures["rss_ratio"], RATIO_MAX, unit="x"),),
        notes=(
            f"{one.interactions:,} and {other.interactions:,} interactions; ranker and tables learn from a sample of "
            "users, the towers from everybody, for a fixed time",
            "one run: the sizes of two processes, not times",
        ),
    )


def _once(request: BenchRequest, interactions: int) -> Told:
    folder = request.work / str(interactions)
    write_parquet(folder / "raw", interactions, seed=0)
    sample = int(request.number("sample", 20_000 if request.quick else 100_000))
    minutes = request.number("minutes", 0.05 if request.quick else 0.5)
    command = [
        tier_python("central", request.environments), "-m", "infra.bench.scale.training_job", "--raw",
        str(folder / "raw"), "--work", str(folder), "--sample", str(sample), "--minutes", str(minutes),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, cwd=source_root(), capture_output=True, check=False, timeout=JOB_TIMEOUT_S, text=True
        )
    except subprocess.TimeoutExpired:
        fix = "Ask for less: --set large=5000000."
        raise JobFailedError(f"training took more than {JOB_TIMEOUT_S:.0f} s.", fix=fix) from None
    if done.returncode:
        raise JobFailedError(f"training ended with {done.returncode}: {done.stderr[-600:]}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Told)


def write_parquet(folder: Path, interactions: int, *, seed: int) -> None:
    """Made-up interactions in the order of time, a part in memory at once."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())])
    with pq.ParquetWriter(folder / "interactions.parquet", schema) as writer:
        for table in _tables(interactions, schema, np.random.default_rng(seed)):
            writer.write_table(table)


def _tables(interactions: int, schema: pa.Schema, rng: np.random.Generator) -> Iterator[pa.Table]:
    users = max(interactions // PER_USER, 10)
    popularity = 1.0 / np.arange(1, ITEMS + 1)
    cumulated = np.cumsum(popularity / popularity.sum())
    for begin in range(0, interactions, CHUNK):
        count = min(CHUNK, interactions - begin)
        user = rng.integers(0, users, count)
        item = np.minimum(np.searchsorted(cumulated, rng.random(count)), ITEMS - 1)
        # People keep to their own corner of the catalogue, so that there is something to learn.
        item = (item + user % 16 * (ITEMS // 16)) % ITEMS
        moment = 1_700_000_000 + (begin + np.arange(count)) // 10
        yield pa.table(
            {
                "user_id": pa.array(user).cast(pa.string()), "item_id": pa.array(item).cast(pa.string()),
                "timestamp": pa.array(moment),
            },
            schema=schema,
        )  # fmt: skip
