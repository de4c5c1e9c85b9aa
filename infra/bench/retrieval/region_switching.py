"""A whole region under a caller while its operator promotes one release after the other: what the caller notices."""

import asyncio
import itertools
import re
from pathlib import Path

import aiohttp
import msgspec
import uvloop

from infra.bench.catalogue import BenchRequest
from infra.bench.miss.kept import link_tree
from infra.bench.miss.node import Node, decode, personal, running_node, shape_of
from infra.bench.retrieval.switching import AFTER_ANSWERS, CALM_ANSWERS, answers, cost_of, until
from infra.contracts.discovery import SuggestAnswer, SuggestCall
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

        await _suggesting(session, node, clock)
        built = await _built(session, node)
        calm = await answers(ask, CALM_ANSWERS, clock)
        promoting = asyncio.create_task(
            asyncio.to_thread(commands.promote, node.server.base, node.operator_key, release=to_release)
        )
        loading = await until(promoting, ask, clock)
        after = await answers(ask, AFTER_ANSWERS, clock)
        # It builds them once a release, on a core; what is compared with is undisturbed.
        await _built_anew(session, node, built, clock)
        calm += await answers(ask, max(0, len(loading) + len(after) - CALM_ANSWERS), clock)
    return cost_of(loading, after, calm) | {"promote_ms": promoting.result().took_ms}


def twin_of(release: Path, node: Node, number: int) -> str:
    """The same release under another name on the node's disk, as another build of the same vectors; returns its name.

    Its files are linked, not copied: what the region does with them is what it does with any other release.
    """
    manifest = shape_of(release)
    twin = msgspec.structs.replace(manifest, created_at_ms=manifest.created_at_ms + 1 + number)
    place = node.state / "releases" / twin.release_id
    link_tree(release, place)
    # A file of its own: writing into the link would change the other release.
    (place / "manifest.json").unlink()
    (place / "manifest.json").write_bytes(twin.canonical_bytes())
    return twin.release_id


async def _suggesting(session: aiohttp.ClientSession, node: Node, clock: Clock) -> None:
    """Until the node suggests: from an index that it built, or that was kept for it.

    Raises:
        UnavailableError: it does not in time.
    """
    ends_s = clock.monotonic_s() + SETTLED_WITHIN_S
    body, headers = encode_regional(SuggestCall(q="ti")), {"Atoll-Service-Key": node.key}
    while clock.monotonic_s() < ends_s:
        async with session.post(f"{node.server.base}/v1/suggest", data=body, headers=headers) as response:
            response.raise_for_status()
            if not msgspec.json.decode(await response.read(), type=SuggestAnswer).degraded:
                return
        await asyncio.sleep(SETTLED_EVERY_S)
    raise UnavailableError(f"the region did not suggest anything in {SETTLED_WITHIN_S:.0f} s.")


async def _built(session: aiohttp.ClientSession, node: Node) -> str:
    """How long the node's last building of suggestions took, in its own digits: another building has others."""
    async with session.get(f"{node.server.base}/metrics") as response:
        found = _SUGGESTIONS.search(await response.text())
    return found[1] if found else ""


async def _built_anew(session: aiohttp.ClientSession, node: Node, before: str, clock: Clock) -> None:
    """Until the node built suggestions after those of `before`.

    Raises:
        UnavailableError: they are not built in time.
    """
    ends_s = clock.monotonic_s() + SETTLED_WITHIN_S
    while clock.monotonic_s() < ends_s:
        if await _built(session, node) != before:
            return
        await asyncio.sleep(SETTLED_EVERY_S)
    raise UnavailableError(f"the index of suggestions was not built in {SETTLED_WITHIN_S:.0f} s.")
