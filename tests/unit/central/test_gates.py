"""Gates and the served figures: pure functions of figures."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from central.datasets.interactions import Interactions, leave_last_out
from central.evaluation.gates import judge
from central.evaluation.served import (
    ServedRequest,
    read_answers,
    read_requests,
    score_answers,
    served_requests,
    write_requests,
)
from infra.plumbing.errors import InvalidInputError

share = st.floats(0.0, 1.0)


def test_the_first_release_must_beat_popularity() -> None:
    good = judge(candidate={"ndcg10": 0.2}, popularity={"ndcg10": 0.1}, active=None)
    assert good.passed
    assert good.gates == {"beats_popularity": True}
    bad = judge(candidate={"ndcg10": 0.1}, popularity={"ndcg10": 0.1}, active=None)
    assert not bad.passed
    assert "does not beat 0.1000" in bad.sentences[0]


@given(share, share)
def test_a_candidate_may_fall_two_percent_under_the_active_release(found: float, active: float) -> None:
    verdict = judge(candidate={"ndcg10": found}, popularity={"ndcg10": -1.0}, active={"ndcg10": active})
    assert verdict.gates["holds_active"] == (found >= active * 0.98)
    assert len(verdict.sentences) == len(verdict.gates)


def test_the_ranker_must_hold_the_retrieval_order() -> None:
    verdict = judge(
        candidate={"ndcg10": 0.2}, popularity={"ndcg10": 0.1}, active=None,
        ranked={"ndcg10": 0.1}, ranked_baseline={"ndcg10": 0.2},
    )  # fmt: skip
    assert verdict.gates == {"beats_popularity": True, "ranker_holds": False}


@pytest.mark.parametrize("figures", [{}, {"ndcg10": float("nan")}])
def test_a_figure_that_is_missing_or_no_number_passes_nothing(figures: dict[str, float]) -> None:
    verdict = judge(
        candidate=figures, popularity={"ndcg10": 0.1}, active={"ndcg10": 0.1}, ranked=figures, ranked_baseline=figures
    )
    assert not any(verdict.gates.values())
    assert not judge(candidate={"ndcg10": 1.0}, popularity=figures, active=figures).passed


def request(user: str, target: str, *history: str) -> ServedRequest:
    return ServedRequest(
        user=user, region="us-east", items=history, strengths=(4,) * len(history),
        times_s=tuple(float(n) for n in range(len(history))), now_s=99.0, target=target,
    )  # fmt: skip


def test_served_figures_by_hand() -> None:
    requests = [request("a", "x", "h"), request("b", "y"), request("c", "z"), request("d", "w")]
    answers = {"a": ["h", "q", "x"], "b": ["y", "y"], "c": []}
    figures, _ = score_answers(requests, answers)
    assert figures["hr10"] == 0.5
    assert figures["ndcg10"] == pytest.approx((1.0 / np.log2(3.0) + 1.0) / 4)
    assert figures["answered"] == 0.5
    assert figures["not_filtered"] == 2.0  # one of the history, one twice


def test_requests_hold_the_history_and_never_the_target(data: Interactions, tmp_path: Path) -> None:
    split = leave_last_out(data)
    requests = served_requests(data, split)
    assert read_requests(write_requests(requests, tmp_path)) == requests
    assert len(requests) == 60
    for line, asked in enumerate(requests):
        assert len(asked.items) == data.lengths[split.users[line]] - 1
        assert asked.target not in asked.items
        assert asked.now_s > asked.times_s[-1]
    assert len(served_requests(data, split, users_max=7)) == 7


def test_files_that_do_not_read(tmp_path: Path) -> None:
    bad = tmp_path / "bad.msgpack"
    bad.write_bytes(msgspec.msgpack.encode({"a": 5}))
    for read in (read_answers, read_requests):
        with pytest.raises(InvalidInputError, match="does not read"):
            read(bad)
        with pytest.raises(InvalidInputError, match="does not read"):
            read(tmp_path / "absent")
