"""`python -m infra.bench.federated.failover_job ...`: test requests at home, and elsewhere with the phone's vector.

Runs in the region's environment, through the funnel that a region serves. Prints NDCG@10 by arm as JSON. At home the
region reads the history; elsewhere it has the vector that the phone computed, or nothing; seen items are taken off the
answer by the phone in all arms alike.
"""

import argparse
import asyncio
import json
import math
import sys
from pathlib import Path

import msgspec
import numpy as np

from federation.device.tower import DeviceRelease, load_device_release
from infra.contracts.messages import HomeRequest, RecommendationType
from infra.plumbing.clock import SystemClock
from region.funnel.funnel import Funnel
from region.funnel.plans import Budget
from region.funnel.recording import Recorder
from region.funnel.release import LoadedRelease
from region.funnel.understanding import Call
from region.replay.replaying import BUDGET_S, ReplayRequest, read_requests, serving
from region.store.port import Interactions, UserRow

ANSWER_ITEMS, TOP = 200, 10
ARMS = ("home", "away_with_vector", "away_without_vector")


def main() -> int:
    """Answer and score."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.federated.failover_job", description=__doc__)
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--requests", type=Path, required=True)
    arguments = parser.parse_args()
    sys.stdout.write(json.dumps(asyncio.run(_scored(arguments.release, arguments.requests))))
    return 0


async def _scored(folder: Path, requests_file: Path) -> dict[str, float]:
    targets = {one["user"]: one["target"] for one in _raw(requests_file)}
    requests = read_requests(requests_file)
    phone = load_device_release(folder)
    gains: dict[str, list[float]] = {arm: [] for arm in ARMS}
    async with serving(folder, clock=SystemClock()) as (release, funnel):
        for request in requests:
            for arm in ARMS:
                items = await _answer(arm, request, phone, release, funnel)
                kept = [item for item in items if item not in set(request.items)][:TOP]
                target = targets[request.user]
                gains[arm].append(1.0 / math.log2(kept.index(target) + 2.0) if target in kept else 0.0)
    return {arm: float(np.mean(values)) for arm, values in gains.items()} | {"users": float(len(requests))}


async def _answer(
    arm: str, request: ReplayRequest, phone: DeviceRelease, release: LoadedRelease, funnel: Funnel
) -> list[str]:
    row, vector = None, None
    if arm == "home":
        times_ms = tuple(round(at_s * 1000) for at_s in request.times_s)
        history = Interactions(tuple(request.items), tuple(request.strengths), times_ms)
        row = UserRow(subject="", history=history)
    elif arm == "away_with_vector":
        vector = tuple(float(number) for number in _vector(request, phone))
    clock = SystemClock()
    asked = HomeRequest(
        type=RecommendationType.PERSONAL, n=ANSWER_ITEMS, vector=vector,
        vector_release=release.release_id if vector else None,
    )  # fmt: skip
    call = Call(
        request=asked, row=row, release=release, now_s=request.now_s, budget=Budget(clock.monotonic_s(), BUDGET_S),
        recorder=Recorder(clock=clock),
    )  # fmt: skip
    return [item.item for item in await funnel.run(call)]


def _vector(request: ReplayRequest, phone: DeviceRelease) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    rows = [phone.rows[item] for item in request.items]
    return phone.base_vector(rows, request.strengths, request.times_s, now_s=request.now_s)


def _raw(path: Path) -> list[dict[str, str]]:
    # The replay's own type leaves the target out.
    found: list[dict[str, str]] = msgspec.msgpack.decode(path.read_bytes())
    return found


if __name__ == "__main__":
    sys.exit(main())
