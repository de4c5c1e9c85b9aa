"""Whose SuperLink a round runs over, and that the standing SuperNodes find theirs again afterwards."""

import argparse
from pathlib import Path

import msgspec
import pytest

from infra.cli.federation import _superlink
from infra.local.configuration import WorldConfiguration, default_configuration
from infra.local.layout import Layout, layout_of
from infra.local.records import Part, ProcessState, ProcessStatus, WorldStatus

PORTS = {"superlink": 7000}
KILLED_BEFORE = "us-west"


class _World:
    """Keeps what it is told."""

    def __init__(self, configuration: WorldConfiguration, state: Path, *, killed: str = "") -> None:
        self.configuration, self.ports, self.layout = configuration, PORTS, layout_of(state)
        self.told: list[tuple[object, ...]] = []
        self._killed = killed

    layout: Layout

    def status(self) -> WorldStatus:
        processes = tuple(
            ProcessStatus(
                name=f"{region}/supernode", part=Part.SUPERNODE, region=region, pid=1, address="", restarts=0,
                rss_mb=1.0, state=ProcessState.KILLED if region == self._killed else ProcessState.READY,
            )
            for region in self.configuration.region_names if self.configuration.federation
        )  # fmt: skip
        return WorldStatus(
            state_directory="s", supervisor_pid=1, ready=True, live=True, processes=processes, balancer_url="",
            repository_url="", region_urls={}, edge_urls={}, gateway_urls={}, export_policies={}, authority="",
            ports={}, rss_mb=1.0, peak_rss_mb=1.0, restarts=0, files_cut=0,
        )  # fmt: skip

    def aim_link(self, origin: str, port: int, *, host: str = "127.0.0.1") -> None:
        self.told.append(("aim", origin, port == PORTS["superlink"]))

    def kill(self, region: str, part: str) -> None:
        self.told.append(("kill", region, part))

    def heal(self, region: str, part: str) -> None:
        self.told.append(("heal", region, part))


STANDING = msgspec.structs.replace(default_configuration(), federation=True)
PLAIN, SECURED = argparse.Namespace(plain=True), argparse.Namespace(plain=False)
NO_SILOS: frozenset[str] = frozenset()


def test_a_round_runs_over_what_stands_and_changes_nothing_there(tmp_path: Path) -> None:
    world = _World(STANDING, tmp_path)
    with _superlink(SECURED, world, NO_SILOS) as link:
        assert link.standing.address == "127.0.0.1:7000"
        assert "standing" in link.said
    assert world.told == []


def test_a_world_where_nothing_stands_aims_its_links_at_the_rounds_own(tmp_path: Path) -> None:
    world = _World(default_configuration(), tmp_path)
    with _superlink(SECURED, world, NO_SILOS) as link:
        assert link.standing is None
        assert link.port > 0
        assert "of this round's own, since this world has none" in link.said
    assert world.told == [("aim", region, False) for region in STANDING.region_names]


def test_a_round_that_brings_its_own_borrows_the_links_and_gives_them_back_even_if_it_fails(tmp_path: Path) -> None:
    world = _World(STANDING, tmp_path, killed=KILLED_BEFORE)
    with pytest.raises(InterruptedError), _superlink(PLAIN, world, NO_SILOS):
        raise InterruptedError
    assert world.told[:2] == [("kill", "us-east", "supernode"), ("kill", "us-central", "supernode")]
    aimed_back = [("aim", region, True) for region in STANDING.region_names]
    # Who was killed before stays so, and whoever comes next finds nothing to give back.
    assert not list(world.layout.flower.glob("*.json"))
    assert world.told[-5:] == [*aimed_back, ("heal", "us-east", "supernode"), ("heal", "us-central", "supernode")]


def test_what_a_killed_round_has_borrowed_is_given_back_by_the_next_one(tmp_path: Path) -> None:
    killed = _World(STANDING, tmp_path)
    left = _superlink(PLAIN, killed, NO_SILOS)
    left.__enter__()
    (note,) = killed.layout.flower.glob("*.json")
    kept = note.read_bytes()
    left.__exit__(InterruptedError, InterruptedError(), None)  # gives back what this test then has been left
    note.write_bytes(kept)
    world = _World(STANDING, tmp_path)
    with _superlink(SECURED, world, NO_SILOS) as link:
        assert "standing" in link.said
    assert world.told == [
        *(("aim", region, True) for region in STANDING.region_names),
        *(("heal", region, "supernode") for region in STANDING.region_names),
    ]
    assert not note.exists()
