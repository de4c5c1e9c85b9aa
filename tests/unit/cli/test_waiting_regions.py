"""A world whose regions follow no channel: what its start says that operators have to do."""

from types import SimpleNamespace

import pytest

from infra.cli.world import _waiting
from infra.local.records import ProcessState


@pytest.mark.parametrize(
    ("states", "says"),
    [
        ({"us-east": ProcessState.READY, "us-west": ProcessState.READY}, ""),
        (
            {"us-west": ProcessState.LIVE, "us-east": ProcessState.LIVE, "": ProcessState.LIVE},
            ". us-east, us-west wait for a release: ./atoll region us-east pull, then promote RELEASE",
        ),
    ],
)
def test_regions_that_wait_for_their_operators_are_named(states: dict[str, ProcessState], says: str) -> None:
    processes = [SimpleNamespace(region=region, state=state) for region, state in states.items()]
    assert _waiting(SimpleNamespace(status=lambda: SimpleNamespace(processes=processes))) == says
