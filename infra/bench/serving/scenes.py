"""What can be done to a world and undone again: every fault of bar 7, at every place where it can strike, and in pairs.

===============  ==========================================================  ======================
fault            what                                                         places
===============  ==========================================================  ======================
kill, stop       SIGKILL, SIGSTOP                                             home, all, grid
black-hole ...   the way to a region's API swallows, resets, answers 500,     home, all
                 drips, loses 30 %
clock-forward,   the wall clocks of processes go ten minutes wrong, and       home, all, grid
clock-back       right again: two steps in opposite directions
switch           another release is promoted                                  home, all
===============  ==========================================================  ======================

`home` is the home region's API (clocks: all its processes), `all` those of every region, `grid` the home region's grid,
which is reached over a Unix socket: there is no way to it that could be disturbed. Every two faults make one pair, at
places that take turns; of two faults of the way one strikes home and the other the region beside it.
"""

import functools
import itertools
import signal
from collections.abc import Callable
from dataclasses import dataclass

from infra.bench.serving.burning_world import AWAY, HOME, OPEN, SHAPES, BurningWorld
from infra.local.records import Part

CLOCK_STEP_S = 600.0
Deed = Callable[[BurningWorld], None]
PLACES = {"home": HOME, "all": "*", "away": AWAY}
CLOCKS = {"clock-forward": CLOCK_STEP_S, "clock-back": -CLOCK_STEP_S}
AT_GRID = ("kill", "stop", *CLOCKS)
FAULTS = ("kill", "stop", *SHAPES, *CLOCKS, "switch")


@dataclass(frozen=True, slots=True)
class Scene:
    """What is done, and undone. `kills` scenes count for how soon the first good answer comes."""

    name: str
    hurt: tuple[Deed, ...]
    heal: tuple[Deed, ...] = ()
    kills: bool = False


def scene(place: str, fault: str) -> Scene:
    """One fault at one place."""
    part, region = (Part.GRID, HOME) if place == "grid" else (Part.API, PLACES[place])
    name = f"{place} {fault}"
    if fault in SHAPES:
        return Scene(
            name, (lambda world: world.shape(region, SHAPES[fault]),), (lambda world: world.shape(region, OPEN),)
        )
    if fault in CLOCKS:
        whose = Part.GRID if place == "grid" else None
        return Scene(
            name, (lambda world: world.step_clocks(whose, region, CLOCKS[fault]),),
            (lambda world: world.step_clocks(whose, region, 0.0),),
        )  # fmt: skip
    if fault == "switch":
        return Scene(name, (lambda world: world.switch(region),))
    if fault == "kill":
        return Scene(name, (lambda world: world.signal(part, region, signal.SIGKILL),), kills=True)
    return Scene(
        name, (lambda world: world.signal(part, region, signal.SIGSTOP),),
        (lambda world: world.signal(part, region, signal.SIGCONT),),
    )  # fmt: skip


def pair(one: Scene, other: Scene) -> Scene:
    """Two scenes at once; a switch comes last, into a world that burns already."""
    first, last = (other, one) if one.name.endswith("switch") else (one, other)
    return Scene(
        f"{one.name} + {other.name}", first.hurt + last.hurt, first.heal + last.heal, kills=one.kills or other.kills
    )


def places_of(one: str, other: str, turn: int) -> tuple[str, str]:
    """Where two faults strike together; `turn` counts the pairs, so that places take turns."""
    if one in SHAPES and other in SHAPES:
        return "home", "away"  # two shapes of one way would be one
    if one in AT_GRID and turn % 2 == 0:
        return "grid", ("home", "all")[turn // 2 % 2]
    if other in AT_GRID and turn % 2 == 0:
        return ("home", "all")[turn // 2 % 2], "grid"
    return ("home", "all") if turn // 2 % 2 else ("all", "home")


@functools.cache
def scenes() -> dict[str, Scene]:
    """Every scene by name: faults alone, the home region with all its edges, and every pair of faults."""
    single = [scene(place, fault) for fault in FAULTS for place in ("home", "all")]
    single += [scene("grid", fault) for fault in AT_GRID]
    single.append(Scene("home with its edges", (lambda world: world.whole(kill=True),),
                        (lambda world: world.whole(kill=False),), kills=True))  # fmt: skip
    pairs = []
    for turn, (one, other) in enumerate(itertools.combinations(FAULTS, 2)):
        here, there = places_of(one, other, turn)
        pairs.append(pair(scene(here, one), scene(there, other)))
    return {made.name: made for made in (*single, *pairs)}
