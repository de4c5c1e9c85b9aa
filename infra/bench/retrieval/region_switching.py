"""A whole region under a caller while its operator promotes one release after the other: what the caller notices."""

import asyncio
import itertools
import re
import shutil
from pathlib import Path

import aiohttp
import msgspec
import uvloop

from infra.bench.catalogue import BenchRequest
from infra.bench.miss.node import Node, decode, personal, running_node, shape_of
from infra.bench.retrieval.switching import AFTER_ANSWERS, CALM_ANSWERS, answers, cost_of, until
from infra.contracts.residency import encode_regional
from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError
from region.releases import commands

SETTLED_WITHIN_S = 600.0
SETTLED_EVERY_S = 0.5
_SUGGESTIONS = re.compile(r"^atoll_region_suggest_build_seconds (\S+)", re.MULTILINE)


def switched_regions(request: BenchRequest, release: Path) -> list[dict[str, float]]:
    """One region over `release`, switched `request.runs` times to another of the same size; what each switch cost."""
    with running_node(request, release) as node:
        return [
            uvloop.run(switched_region(node, twin_of(release, node, number), request.clock))
            for number in range(request.runs)
        ]


async def switched_region(node: Node, to_release: str, clock: Clock) -> dict[str, float]:
    """The region promotes `to_release`, which lies on its disk, while one caller asks for one list after the other."""
    people = itertools.cycle(node.subjects)
    headers = {"Atoll-Service-Key": node.key}
    async with aiohttp.ClientSession() as session:

        async def ask() -> None:
            body = encode_regional(personal(next(people)))
            async with session.post(f"{node.server.base}/v1/recommend", data=body, headers=headers) as response:
                answer = await response.read()
                response.raise_for_status()
            if not decode(answer).items:
                raise UnavailableError("the region answered with an empty list while it switched.")

        built = await _suggestions(session, node, "", clock)
        calm = await answers(ask, CALM_ANSWERS, clock)
        promoting = asyncio.create_task(
            asyncio.to_thread(commands.promote, node.server.base, node.operator_key, release=to_release)
        )
        during = await until(promoting, ask, clock)
        during += await answers(ask, AFTER_ANSWERS, clock)
        # It builds them once a release, on a core; what is compared with is undisturbed.
        await _suggestions(session, node, built, clock)
        calm += await answers(ask, max(0, len(during) - CALM_ANSWERS), clock)
    return cost_of(during, calm) | {"promote_ms": promoting.result().took_ms}


def twin_of(release: Path, node: Node, number: int) -> str:
    """The same release under another name on the node's disk, as another build of the same vectors; returns its name.

    Its files are linked, not copied: what the region does with them is what it does with any other release.
    """
    manifest = shape_of(release)
    twin = msgspec.structs.replace(manifest, created_at_ms=manifest.created_at_ms + 1 + number)
    place = node.state / "releases" / twin.release_id
    shutil.copytree(release, place, copy_function=lambda source, into: Path(into).hardlink_to(source))
    # A file of its own: writing into the link would change the other release.
    (place / "manifest.json").unlink()
    (place / "manifest.json").write_bytes(twin.canonical_bytes())
    return twin.release_id


async def _suggestions(session: aiohttp.ClientSession, node: Node, before: str, clock: Clock) -> str:
    """Waits until the node's suggestions are built and others than `before`; returns what tells them.

    Raises:
        UnavailableError: they are not built in time.
    """
    ends_s = clock.monotonic_s() + SETTLED_WITHIN_S
    while clock.monotonic_s() < ends_s:
        async with session.get(f"{node.server.base}/metrics") as response:
            found = _SUGGESTIONS.search(await response.text())
        if found and float(found[1]) > 0.0 and found[1] != before:
            return found[1]
        await asyncio.sleep(SETTLED_EVERY_S)
    raise UnavailableError(f"the index of suggestions was not built in {SETTLED_WITHIN_S:.0f} s.")
