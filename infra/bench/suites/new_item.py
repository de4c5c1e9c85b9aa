"""An item posted at a region's door: how long until lists of people of its taste show it, and are rid of it again.

A world of real processes over a dataset where everybody likes one colour. Lists of people who like the colour are asked
for at the edges, so they are cached; then an item of that colour, which no release holds, is posted at the home
region's door, and the lists are asked for again and again, through the edges. `visible_s`: from the post to the first
list that shows it; `half_visible_s`: until half of those people have seen it (the window's length, if they have not);
`shown_share`, `shown_to_others_share`: of those people, and of people of other tastes, how many have seen it by the
end of the window; `gone_s`: from its removal until no list shows it. Options: `window_s` (default 15).
"""

import asyncio
from collections.abc import Callable, Iterable

import aiohttp

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, at_most, medians
from infra.bench.ring import COLOURS, REGIONS, USERS, write_tastes
from infra.bench.serving.burning_world import HOME, BurningWorld, burning_world
from infra.plumbing.errors import UnavailableError
from infra.plumbing.tokens import issue_token
from region.additions.messages import NewItem
from region.releases import commands

PEOPLE = 8
POLL_S = 0.1
PATIENCE_S = 90.0
GONE_AFTER_ROUNDS = 2
"""So many rounds of all lists without the item say that it is gone."""
People = dict[str, dict[str, str]]


def run(request: BenchRequest) -> Measured:
    """One item after the other, each of another colour."""
    window_s = request.number("window_s", 5.0 if request.quick else 15.0)
    rounds = []
    with burning_world(request, write=write_tastes) as world:
        for number in range(request.runs):
            colour = number % len(COLOURS)
            rounds.append(asyncio.run(_round(request, world, number, colour, window_s)))
            request.progress.advance(number + 1, request.runs, "items posted")
    figures = medians(rounds)
    return Measured(
        figures=figures,
        bars=(at_most("a new item is seen in a list", figures["visible_s"], 60.0, unit="s"),),
        notes=(
            f"{PEOPLE} people who like the item's colour and {PEOPLE} who do not, pages of 10, asked every {POLL_S} s "
            f"at the edges of {HOME}, for {window_s:.0f} s after the post.",
        ),
    )


async def _round(
    request: BenchRequest, world: BurningWorld, number: int, colour: int, window_s: float
) -> dict[str, float]:
    url, key = world.world.region_url(HOME), world.world.keys(HOME).operator_key
    fans = _people(request, world, lambda user: user % len(COLOURS) == colour)
    others = _people(request, world, lambda user: user % len(COLOURS) != colour)
    item = NewItem(item=f"new-{number}", title=f"New {number}", categories=(COLOURS[colour],))
    async with aiohttp.ClientSession() as session:
        lists = _Lists(session, world.world.edge_urls(HOME))
        for _ in range(2):
            await lists.showing(item.item, fans | others)
        posted_s = request.clock.monotonic_s()
        await asyncio.to_thread(commands.add_items, url, key, items=[item])
        seen: dict[str, float] = {}
        while request.clock.monotonic_s() - posted_s < window_s or not seen:
            for who in await lists.showing(item.item, fans):
                seen.setdefault(who, request.clock.monotonic_s() - posted_s)
            if request.clock.monotonic_s() - posted_s > PATIENCE_S:
                raise UnavailableError(f"no list showed the item within {PATIENCE_S:.0f} s.")
            await asyncio.sleep(POLL_S)
        among_others = await lists.showing(item.item, others)
        gone_s = await _until_gone(request, world, lists, item.item, fans | others)
    in_order = sorted(seen.values())
    return {
        "visible_s": in_order[0],
        "half_visible_s": in_order[PEOPLE // 2 - 1] if len(in_order) >= PEOPLE // 2 else window_s,
        "shown_share": len(seen) / PEOPLE,
        "shown_to_others_share": len(among_others) / PEOPLE,
        "gone_s": gone_s,
    }


async def _until_gone(
    request: BenchRequest, world: BurningWorld, lists: "_Lists", item: str, people: People
) -> float:  # fmt: skip
    """Seconds from the removal until the last list that showed it."""
    url, key = world.world.region_url(HOME), world.world.keys(HOME).operator_key
    removed_s = last_s = request.clock.monotonic_s()
    await asyncio.to_thread(commands.remove_items, url, key, items=[item])
    quiet = 0
    while quiet < GONE_AFTER_ROUNDS:
        quiet = quiet + 1 if not await lists.showing(item, people) else 0
        if not quiet:
            last_s = request.clock.monotonic_s()
        if last_s - removed_s > PATIENCE_S:
            raise UnavailableError(f"lists show the removed item after {PATIENCE_S:.0f} s.")
    return last_s - removed_s


class _Lists:
    """Pages of people at the edges of one region, in turn."""

    def __init__(self, session: aiohttp.ClientSession, edges: Iterable[str]) -> None:
        self._session = session
        self._edges = tuple(edges)

    async def showing(self, item: str, people: People) -> set[str]:
        """Who of `people` has the item on a page of ten, at any of the edges."""
        shown = await asyncio.gather(
            *(self._shows(edge, item, headers) for headers in people.values() for edge in self._edges)
        )
        names = [who for who in people for _ in self._edges]
        return {who for who, shows in zip(names, shown, strict=True) if shows}

    async def _shows(self, edge: str, item: str, headers: dict[str, str]) -> bool:
        path = f"{edge}/v1/recommendations/personal?n=10"
        async with self._session.get(path, headers=headers) as response:
            answer = await response.json()
            response.raise_for_status()
        return any(one["item"] == item for one in answer["items"])


def _people(request: BenchRequest, world: BurningWorld, likes: Callable[[int], bool]) -> People:
    """PEOPLE of the home region, with what they sign in by."""
    keys = world.world.keys(HOME)
    users = [user for user in range(0, USERS, len(REGIONS)) if likes(user)][:PEOPLE]
    return {
        f"u{user}": {
            "Authorization": f"Bearer {issue_token(keys, f'u{user}', clock=request.clock, life_s=3600)}",
            "Atoll-Client-Region": HOME,
        }
        for user in users
    }
