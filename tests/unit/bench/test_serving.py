"""The parts of the measurements of the edge that say something by themselves."""

from pathlib import Path

from infra.bench.serving.load import Caller, write_requests
from infra.bench.serving.policies import RIVALS, Clairvoyant, Own, Theine, next_uses
from infra.bench.serving.traces import Trace, make_trace


def small_trace() -> Trace:
    return make_trace(requests=4_000, keys=400, exponent=0.9, scan_share=0.1, moved_share=0.5, seed=1)


def test_a_trace_is_the_same_for_the_same_seed_and_holds_scans() -> None:
    trace = small_trace()
    assert trace == small_trace()
    scanned = [key for key in trace.keys if key >= 400]
    assert len(scanned) == len(set(scanned)) == 400
    assert len(trace.keys) == 4_400


def test_next_uses_of_a_short_trace() -> None:
    assert next_uses([1, 2, 1, 1, 3]) == [2, 6, 3, 8, 9]


def test_nobody_beats_who_knows_the_future_when_sizes_are_equal() -> None:
    made = small_trace()
    trace = Trace(keys=made.keys, sizes=[1] * len(made.sizes), working_set_bytes=400)
    rates = {}
    for name, make in {"edge": Own, **RIVALS, "clairvoyant": Clairvoyant}.items():
        policy = make(trace, 60)
        rates[name] = sum(policy.ask(key) for key in trace.keys)
        if isinstance(policy, Theine):
            policy.close()
    assert max(rates, key=lambda name: rates[name]) == "clairvoyant"
    assert min(rates.values()) > 0


def test_requests_differ_in_users_and_header_lines(tmp_path: Path) -> None:
    path = tmp_path / "requests"
    callers = [Caller(f"token-{number}", f'"tag-{number}"') for number in range(50)]
    write_requests(path, callers, target=lambda number: f"/v1/x?n={number}", count=200, seed=3, conditional=True)
    lines = path.read_text().splitlines()
    assert len(lines) == 200
    assert len(set(lines)) > 150
    for line in lines:
        assert line.startswith("GET /v1/x?n=")
        assert " HTTP/1.1~Host: " in line
        assert line.endswith('"~~')
        token = line.partition("Bearer token-")[2].partition("~")[0]
        assert f'If-None-Match: "tag-{token}"' in line
