"""Worlds that close behind each test, whatever becomes of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.region.worlds import World, build_world

NewWorld = Callable[..., World]


@pytest.fixture
def new_world(tmp_path: Path) -> Iterator[NewWorld]:
    """Makes worlds by the keywords of `build_world`."""
    built: list[World] = []

    def make(**how: Any) -> World:
        built.append(build_world(tmp_path, **how))
        return built[-1]

    yield make
    for world in built:
        world.close()


@pytest.fixture
def world(new_world: NewWorld) -> World:
    return new_world()
