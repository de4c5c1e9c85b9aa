"""The parts of `bench index`: figures of a switch, and of several sizes in one run."""

from infra.bench.retrieval.switching import cost_of


def test_a_stall_is_the_longest_answer_less_the_longest_calm_one() -> None:
    found = cost_of([1.0] * 600 + [2.0], [1.0] * 398 + [9.0], [1.0] * 999 + [4.0])
    assert (found["switch_stall_ms"], found["answers_during_switch"]) == (5.0, 1000.0)
    assert found["switch_p999_extra_ms"] == 1.0
    assert (found["switch_loading_max_ms"], found["switch_after_max_ms"]) == (2.0, 9.0)
    assert cost_of([1.0], [2.0], [1.0, 3.0])["switch_stall_ms"] == 0.0
