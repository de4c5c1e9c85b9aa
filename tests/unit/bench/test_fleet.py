"""The fleet computed from one node: its arithmetic, and runs that were not what they should be."""

import re

import pytest

from infra.bench.serving.load import Loaded
from infra.bench.suites.fleet import _ANSWERS, ORDER, Piece, nodes, of_pieces


def piece(kind: str, *, cpu_us: float, requests: int, steps: dict[str, float]) -> Piece:
    seen = Loaded(rps=requests / 2, cpu_us=cpu_us, p50_ms=1, p99_ms=2, requests=requests, refused=0, load_busy=0.5)
    return Piece(kind, seen, steps)


def test_a_fleet_is_what_its_requests_cost() -> None:
    found = nodes(20.0, 1000.0, peak=180_000, utilisation=0.6)
    # 180,000/s * (0.6 * 20 us + 0.4 * 1000 us) = 74.16 cores' work; at 60 % of each: 123.6.
    assert found == {"nodes_at_60": 124, "nodes_at_70": 95, "nodes_at_80": 65}


def test_pieces_count_by_their_requests_and_say_what_they_were() -> None:
    node = of_pieces(
        [
            piece("hit", cpu_us=20.0, requests=3000, steps={"fresh": 3000}),
            piece("miss", cpu_us=900.0, requests=100, steps={"home": 100}),
            piece("miss", cpu_us=1200.0, requests=200, steps={"home": 150, "release": 50}),
            piece("hit", cpu_us=40.0, requests=1000, steps={"fresh": 990, "stale": 10}),
        ]
    )
    assert node["hit_cpu_us"] == pytest.approx(25.0)
    assert node["miss_cpu_us"] == pytest.approx(1100.0)
    assert node["hit_fresh_share"] == pytest.approx(3990 / 4000)
    assert node["miss_home_share"] == pytest.approx(250 / 300)
    assert [kind for kind in ORDER if kind == "hit"] == ["hit", "hit"]


def test_what_an_edge_counts_is_read() -> None:
    text = 'atoll_edge_answers_total{step="failover-vector",type="personal"} 1.2e+03\n# HELP x\n'
    assert re.findall(_ANSWERS, text) == [("failover-vector", "1.2e+03")]
