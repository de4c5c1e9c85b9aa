"""The plants of `bench residency`: every one is found by a search that knows its secrets, and by none that does not."""

import pytest

from infra.bench.residency.bypasses import CENTRAL, judge
from infra.bench.residency.plants import Planted, as_capture, forms, planted
from infra.local.residency.scan import Searcher, scan_with
from infra.plumbing.keys import RegionKeys

KEYS = RegionKeys.generate("us-east")
ONE = Planted(
    pseudonym=KEYS.pseudonym("user", "u0"), user_id="u0", event_id="bench-0123456789abcdef", item="i1",
    affinity=2.384192736451, session="session-0123456789",
)  # fmt: skip
SECRETS: dict[str, list[str | bytes]] = {
    "pseudonym": [ONE.pseudonym], "user id": [ONE.user_id], "event id": [ONE.event_id], "session": [ONE.session],
    "feature": [repr(ONE.affinity), *(forms(ONE)[name] for name in ("feature as a double", "feature, big-endian"))],
}  # fmt: skip


def test_every_plant_is_found() -> None:
    searcher = Searcher(SECRETS)
    missed = [
        (form, place)
        for form, place, streams in planted(ONE)
        if scan_with({"us-east--us-west": as_capture(streams)}, searcher).leaks_total == 0
    ]
    assert missed == []
    assert sum(1 for _ in planted(ONE)) > 900


@pytest.mark.parametrize("kind", ["pseudonym", "user id", "event id", "session", "feature"])
def test_a_search_that_does_not_know_a_secret_misses_its_plants(kind: str) -> None:
    """So that a search which finds everything everywhere would not pass for a good one."""
    searcher = Searcher({name: held for name, held in SECRETS.items() if name != kind})
    found = [
        scan_with({"us-east--us-west": as_capture(streams)}, searcher).leaks_total > 0
        for form, place, streams in planted(ONE)
        if place == "request body"
    ]
    assert not all(found)


def test_a_connection_past_the_links_is_seen() -> None:
    place_of = {
        "east/edge-1": "east", "east/api": "east", "west/api": "west", "balancer": "", "wan": "",
        "repository": CENTRAL,
    }  # fmt: skip
    listening = {("127.0.0.1", number): name for number, name in enumerate(place_of)}
    number_of = {name: address for address, name in listening.items()}

    def judged(name: str, other: str) -> tuple[int, set[tuple[str, str]]]:
        return judge(listening, [(name, number_of[other])], place_of)

    for allowed in (
        ("east/edge-1", "east/api"),
        ("east/edge-1", "wan"),
        ("balancer", "west/api"),
        ("wan", "repository"),
    ):
        assert judged(*allowed) == (1, set())
    for past in (("east/edge-1", "west/api"), ("east/api", "repository")):
        assert judged(*past) == (1, {past})
    assert judge(listening, [("east/api", ("127.0.0.1", 99))], place_of) == (0, set())
