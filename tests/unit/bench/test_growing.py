"""Counters whose processes are killed in between."""

from infra.bench.serving.growing import Grown


def test_what_grew_is_summed_over_processes_and_their_restarts() -> None:
    grown = Grown()
    grown.look({"a": {"first": 100.0, "hedged": 3.0}, "b": {"first": 50.0}})
    assert grown.totals == {"first": 0.0, "hedged": 0.0}
    grown.look({"a": {"first": 110.0, "hedged": 4.0}})  # b does not answer
    assert grown.totals == {"first": 10.0, "hedged": 1.0}
    grown.look({"a": {"first": 7.0}, "b": {"first": 55.0, "hedged": 2.0}})  # a was killed and came back
    assert grown.totals == {"first": 22.0, "hedged": 3.0}
