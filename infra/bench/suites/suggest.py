"""Suggestions over a large catalogue: how long the index takes beside the requests, and what a question costs.

Builds the index of made-up titles in a process of its own, as a region does, while a loop in this process measures how
late it gets to its work; then asks for prefixes of words of the catalogue, one in four with a typo. `--set items=N`
(default 1,000,000). There is no rival in the run: no kept library answers prefixes by popularity with typos.
"""

import asyncio
import subprocess
from pathlib import Path

import numpy as np
import psutil

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, at_most, percentile
from infra.contracts.release import ITEM_POPULARITY, CatalogueItem
from infra.local.tiers import source_root, tier_python
from infra.plumbing.catalogue.writing import write_catalogue
from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError
from region.suggest.index import SuggestIndex

SYLLABLES = ("ka", "mo", "ri", "ten", "sol", "ver", "da", "lun", "pe", "tas", "qui", "nor", "el", "fa", "gro", "mi")
QUESTIONS = 4_000


def run(request: BenchRequest) -> Measured:
    """Build once, ask often."""
    items = int(request.number("items", 20_000 if request.quick else 1_000_000))
    release, out = request.work / "release", request.work / "suggest" / "bench"
    words = _catalogue(release, items)
    built = asyncio.run(_build(request, release, out))
    figures = {"items": float(items), **built, "disk_mb": _size(out) / 1e6, **_ask(request.clock, out, words)}
    bars = (
        at_most("a question over the catalogue, p99", figures["find_p99_ms"], 5.0, unit="ms"),
        at_most("how late other work gets while it is built", figures["build_stall_ms"], 50.0, unit="ms"),
    )
    return Measured(figures=figures, bars=bars, notes=("one run: the build is long and repeats itself closely",))


def _catalogue(release: Path, items: int) -> list[str]:
    rng = np.random.default_rng(3)
    words = sorted({"".join(rng.choice(SYLLABLES, size=rng.integers(2, 5))) for _ in range(40_000)})
    picked = rng.zipf(1.3, size=(items, 3)) % len(words)
    catalogue = (
        CatalogueItem(item=f"item-{row}", title=" ".join(words[place] for place in places), categories=("c",))
        for row, places in enumerate(picked.tolist())
    )
    release.mkdir(parents=True)
    popularity = rng.random(items).astype(np.float32)
    write_catalogue(release, catalogue, popularity)
    np.save(release / ITEM_POPULARITY, popularity)
    return words


async def _build(request: BenchRequest, release: Path, out: Path) -> dict[str, float]:
    clock = request.clock
    started_s = latest_s = clock.monotonic_s()
    worst_s = 0.0
    process = await asyncio.create_subprocess_exec(
        tier_python("region", request.environments), "-m", "region.suggest", "--release", str(release),
        "--out", str(out), cwd=source_root(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    ending = asyncio.create_task(process.communicate())
    while not ending.done():
        await asyncio.wait({ending}, timeout=0.005)
        now_s = clock.monotonic_s()
        worst_s, latest_s = max(worst_s, now_s - latest_s - 0.005), now_s
    _, said = await ending
    if process.returncode:
        raise UnavailableError(f"the index was not built: {said.decode(errors='replace')[-400:]}")
    return {"build_s": clock.monotonic_s() - started_s, "build_stall_ms": 1000 * worst_s}


def _ask(clock: Clock, out: Path, words: list[str]) -> dict[str, float]:
    before, started_s = psutil.Process().memory_info().rss, clock.monotonic_s()
    index = SuggestIndex.load(out)
    loaded_s, rng, took, found = clock.monotonic_s() - started_s, np.random.default_rng(5), [], 0
    for number in range(QUESTIONS):
        word = words[int(rng.integers(len(words)))]
        typed = word[: int(rng.integers(1, len(word) + 1))]
        if number % 4 == 0 and len(word) > 4:
            typed = word[0] + word[2] + word[1] + word[3:]
        started_s = clock.monotonic_s()
        found += index.find(typed).count > 0
        took.append(1000 * (clock.monotonic_s() - started_s))
    return {
        "load_ms": 1000 * loaded_s, "find_p50_ms": percentile(took, 0.5), "find_p99_ms": percentile(took, 0.99),
        "answered_share": found / QUESTIONS, "rss_mb": (psutil.Process().memory_info().rss - before) / 1e6,
    }  # fmt: skip


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
