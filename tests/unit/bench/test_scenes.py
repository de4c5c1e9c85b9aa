"""The scenes of the chaos bench: every fault at every place, every two faults together, and what heals undoes them."""

import itertools
import re
from collections import Counter
from typing import Any, cast

import pytest

from infra.bench.serving.burning_world import BurningWorld
from infra.bench.serving.scenes import AT_GRID, FAULTS, scenes


class Hands:
    """Notes what is done to a world, by what can be done to it."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **named: self.done.append((name, *given, *named.values()))


def test_every_fault_is_played_at_every_place_where_it_can_strike() -> None:
    alone = {name for name in scenes() if " + " not in name}
    expected = {f"{place} {fault}" for place in ("home", "all") for fault in FAULTS}
    assert alone == expected | {f"grid {fault}" for fault in AT_GRID} | {"home with its edges"}


def test_every_two_faults_are_played_together_and_every_place_takes_part() -> None:
    pairs = [name.split(" + ") for name in scenes() if " + " in name]
    faults = [tuple(part.partition(" ")[2] for part in pair) for pair in pairs]
    assert Counter(faults) == Counter(itertools.combinations(FAULTS, 2))
    places = Counter(part.partition(" ")[0] for pair in pairs for part in pair)
    assert min(places[place] for place in ("home", "all", "grid")) >= 10
    # Two shapes of one link would be one: the second takes the place of the first.
    shaped = [pair for pair in pairs if all(re.search("black|reset|err|drip|loss", part) for part in pair)]
    assert all({part.partition(" ")[0] for part in pair} == {"home", "away"} for pair in shaped)


@pytest.mark.parametrize("name", sorted(scenes()))
def test_what_is_hurt_is_healed(name: str) -> None:
    scene, hands = scenes()[name], Hands()
    for deed in (*scene.hurt, *scene.heal):
        deed(cast("BurningWorld", hands))
    kinds = Counter(entry[0] for entry in hands.done)
    signals = [entry[-1].name for entry in hands.done if entry[0] == "signal"]
    assert kinds["shape"] % 2 == kinds["step_clocks"] % 2 == 0
    assert signals.count("SIGSTOP") == signals.count("SIGCONT")
    assert scene.kills == ("SIGKILL" in signals or kinds["whole"] > 0)
    offsets = [entry[-1] for entry in hands.done if entry[0] == "step_clocks"]
    assert offsets[len(offsets) // 2 :] == [0.0] * (len(offsets) // 2)
