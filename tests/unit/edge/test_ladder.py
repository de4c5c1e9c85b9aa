"""The ladder as a decision: total, ends soon, never skips what must be tried, never serves what must not be."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edge.answering.climb import after
from edge.cache.policy import Usability
from edge.routing.ladder import NETWORK_MIN_S, Rung, Shares, Situation, Try, next_rung

SERVING = {rung for rung in Rung if rung.value.startswith("serve")}
ASKING = [Rung.FILL, Rung.ASK_WITH_VECTOR, Rung.ASK_AWAY]
outcomes = st.sampled_from([Try.ANSWERED, Try.FAILED, Try.LATE, Try.REFUSED, Try.SHED])
situations = st.builds(
    Situation,
    entry=st.none() | st.sampled_from(Usability),
    enough=st.booleans(),
    fill=st.sampled_from([Try.NOT_YET, Try.POINTLESS, Try.REFUSED]),
    vector=st.sampled_from([Try.NOT_YET, Try.POINTLESS]),
)


@given(situations, st.lists(outcomes, min_size=3, max_size=3), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_every_call_ends_on_a_serving_rung_within_four_decisions(
    situation: Situation, results: list[Try], times: list[float]
) -> None:
    asked: list[Rung] = []
    for decision in range(4):
        rung = next_rung(situation, remaining_s=times[decision])
        if rung in SERVING:
            break
        assert rung not in asked
        asked.append(rung)
        situation = after(situation, rung, results[decision])
    assert rung in SERVING
    assert asked == sorted(asked, key=ASKING.index)
    if rung is Rung.SERVE_FRESH:
        assert situation.entry is Usability.FRESH
        assert situation.enough
    if rung in (Rung.SERVE_STALE, Rung.SERVE_WHILE_REFRESHING):
        assert situation.entry is not None
        assert situation.entry < Usability.NEVER
    if rung is Rung.SERVE_FILLED:
        assert situation.fill is Try.ANSWERED


@given(situations)
def test_overtaken_entries_are_not_served_before_a_fill_was_tried(situation: Situation) -> None:
    overtaken = replace(situation, entry=Usability.ON_ERROR, fill=Try.NOT_YET)
    assert next_rung(overtaken, remaining_s=1.0) is Rung.FILL
    assert next_rung(replace(overtaken, fill=Try.FAILED), remaining_s=1.0) is Rung.SERVE_STALE


@given(situations)
def test_what_one_region_cannot_carry_is_not_ranked_by_another(situation: Situation) -> None:
    shed = replace(situation, entry=None, fill=Try.SHED)
    assert next_rung(shed, remaining_s=1.0) is Rung.ASK_AWAY
    assert next_rung(replace(shed, away=Try.SHED), remaining_s=1.0) is Rung.SERVE_RELEASE


@given(situations)
def test_without_time_nobody_is_asked(situation: Situation) -> None:
    assert next_rung(situation, remaining_s=NETWORK_MIN_S / 2) in SERVING


def test_the_order_of_the_rungs() -> None:
    nothing = Situation(entry=None, enough=False)
    assert next_rung(nothing, remaining_s=1) is Rung.FILL
    failed = replace(nothing, fill=Try.FAILED)
    assert next_rung(failed, remaining_s=1) is Rung.ASK_WITH_VECTOR
    without = replace(failed, vector=Try.FAILED)
    assert next_rung(without, remaining_s=1) is Rung.ASK_AWAY
    assert next_rung(replace(without, away=Try.LATE), remaining_s=1) is Rung.SERVE_RELEASE
    assert next_rung(replace(without, away=Try.ANSWERED), remaining_s=1) is Rung.SERVE_AWAY
    assert next_rung(replace(failed, vector=Try.ANSWERED), remaining_s=1) is Rung.SERVE_VECTOR
    assert next_rung(replace(nothing, fill=Try.REFUSED), remaining_s=1) is Rung.SERVE_RELEASE


@given(st.floats(0, 10))
def test_every_rung_leaves_time_for_the_ones_below(remaining_s: float) -> None:
    shares = Shares()
    for rung in ASKING:
        assert shares.of(rung, remaining_s) <= 0.8 * remaining_s
    assert shares.of(Rung.FILL, -1.0) == 0.0
