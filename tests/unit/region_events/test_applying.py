import hashlib
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from infra.contracts.events import EventType
from infra.contracts.features import AFFINITIES_MAX, AFFINITY_HALF_LIFE_MS, SESSION_GAP_MS
from region.store.aggregates import AggregateKey, keys_of, merge_trends, sum_counters
from region.store.applying import ApplyRules, Outcome, apply_event, apply_events, choose
from region.store.port import OffsetEvent, Session
from region.store.state import DAY_MS, RowContent, SubjectState, WriterNotes, decode_state, encode_content, encode_notes
from tests.contract.building import ALICE, BOB, NOW_MS, VISITOR, placed

RULES = ApplyRules(history_max=5)


class Kept:
    """What an adapter without transactions keeps: values by key, each written on its own."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[bytes, bytes]] = {}
        self.aggregates: dict[AggregateKey, bytes] = {}
        self.offsets: dict[int, int] = {}

    def outcome(self, events: Sequence[OffsetEvent]) -> Outcome:
        return apply_events(
            events, applied=self.offsets, load=self._load, load_aggregate=self.aggregates.get, rules=RULES
        )

    def apply(self, events: Sequence[OffsetEvent], *, writes_max: int = 1_000_000) -> list[str]:
        """Write in the order that the rules ask for, `writes_max` values at most; who is told."""
        outcome = self.outcome(events)
        writes = [(self.aggregates, key, content) for key, content in outcome.aggregates.items()]
        for container, key, content in writes[:writes_max]:
            container[key] = content
        left = writes_max - len(writes)
        for subject, state in list(outcome.states.items())[: max(left, 0)]:
            self.rows[subject] = (encode_content(state), encode_notes(state))
        if left > len(outcome.states):
            self.offsets.update(outcome.offsets)
        return [change.subject for change in outcome.changes]

    def _load(self, subject: str) -> SubjectState | None:
        kept = self.rows.get(subject)
        return decode_state(*kept) if kept else None


def row_after(*events: OffsetEvent, rules: ApplyRules = RULES) -> RowContent:
    """The row of the first event's subject."""
    outcome = apply_events(events, applied={}, load=lambda _: None, rules=rules)
    return outcome.states[events[0].logged.subject].row


def test_an_event_id_is_not_recognised_across_two_others() -> None:
    """The remembered digests stand side by side; what matches between two of them is no event id."""
    digest = hashlib.blake2b(placed(1).logged.event.event_id.encode(), digest_size=8).digest()
    state = SubjectState(notes=WriterNotes(event_ids=b"\x00" * 3 + digest + b"\x00" * 5))
    assert apply_event(state, placed(1), rules=RULES)
    assert not apply_event(state, placed(2, number=1), rules=RULES)


def test_events_out_of_order_are_applied_in_order() -> None:
    outcome = apply_events(
        [placed(3, item="c"), placed(1, item="a"), placed(2, item="b")],
        applied={0: 1},
        load=lambda _: None,
        rules=RULES,
    )
    assert outcome.states[ALICE].row.items == ["b", "c"]
    assert outcome.offsets == {0: 3}


def test_a_bound_of_nothing_keeps_nothing_and_still_says_what_was_seen() -> None:
    outcome = apply_events([placed(1, item="a")], applied={}, load=lambda _: None, rules=ApplyRules(history_max=0))
    assert outcome.states[ALICE].row.items == []
    assert outcome.changes[0].consumed == ("a",)


def test_consumed_items_are_named_once() -> None:
    events = [placed(1, item="a"), placed(2, item="a"), placed(3, item="b", kind=EventType.LIKE)]
    outcome = apply_events(events, applied={}, load=lambda _: None, rules=RULES)
    assert outcome.changes[0].consumed == ("a", "b")


def test_affinities_fade_and_negatives_count_against() -> None:
    later = NOW_MS + AFFINITY_HALF_LIFE_MS
    row = row_after(
        placed(1, kind=EventType.LIKE, at_ms=NOW_MS, categories=("Drama", "Comedy"), brand="b"),
        placed(2, kind=EventType.DISLIKE, at_ms=later, categories=("Comedy",), received_ms=later),
    )
    drama, comedy = row.affinities["category"]["Drama"], row.affinities["category"]["Comedy"]
    assert (drama.value, drama.at_ms, drama.at(later)) == (0.5, NOW_MS, 0.25)
    assert (comedy.value, comedy.at_ms) == (0.25 - 1.0, later)
    assert set(row.affinities) == {"category", "brand"}


def test_affinities_are_the_same_in_any_order_up_to_rounding() -> None:
    early = placed(1, kind=EventType.LIKE, at_ms=NOW_MS - DAY_MS, categories=("Drama",))
    late = placed(2, kind=EventType.VIEW, at_ms=NOW_MS, categories=("Drama",))
    one = row_after(early, late).affinities["category"]["Drama"]
    other = row_after(placed(1, kind=EventType.VIEW, at_ms=NOW_MS, categories=("Drama",)),
                      placed(2, kind=EventType.LIKE, at_ms=NOW_MS - DAY_MS, categories=("Drama",)))  # fmt: skip
    assert abs(one.value - other.affinities["category"]["Drama"].value) < 1e-12


def test_the_weakest_affinity_makes_room() -> None:
    strong = [placed(n, kind=EventType.LIKE, brand=f"b{n:02}") for n in range(1, AFFINITIES_MAX + 1)]
    weak = placed(AFFINITIES_MAX + 1, kind=EventType.SKIP, brand="weak")
    more = placed(AFFINITIES_MAX + 2, kind=EventType.DISLIKE, brand="more")
    names = set(row_after(*strong, weak, more).affinities["brand"])
    assert len(names) == AFFINITIES_MAX
    assert "weak" not in names, "the one nearest to zero goes, on either side of it"


def test_a_pause_ends_a_session_and_a_late_event_does_not_begin_one() -> None:
    first, second = NOW_MS, NOW_MS + SESSION_GAP_MS
    row = row_after(placed(1, at_ms=first), placed(2, at_ms=second, kind=EventType.SEARCH))
    assert row.session == Session(first, second, 2)
    third = second + SESSION_GAP_MS + 1
    row = row_after(placed(1, at_ms=first), placed(2, at_ms=third), placed(3, at_ms=first + 1))
    assert row.session == Session(third, third, 1)
    assert row.counters.interactions == 3


def test_a_session_subject_that_comes_back_too_late_begins_anew() -> None:
    kept = ApplyRules(session_life_ms=1000)
    row = row_after(placed(1, subject=VISITOR), placed(2, subject=VISITOR, received_ms=NOW_MS + 1001), rules=kept)
    assert (row.version, row.items) == (1, ["item-2"])
    row = row_after(placed(1, subject=VISITOR), placed(2, subject=VISITOR, received_ms=NOW_MS + 1000), rules=kept)
    assert row.version == 2
    row = row_after(placed(1), placed(2, received_ms=NOW_MS + 1001), rules=kept)
    assert row.version == 2, "a user is no session"


def test_behaviour_leaves_the_history_when_its_life_is_over() -> None:
    rules = ApplyRules(behaviour_life_ms=2 * DAY_MS)
    row = row_after(placed(1, item="old"), placed(2, item="new", received_ms=NOW_MS + 4 * DAY_MS), rules=rules)
    assert (row.items, len(row.times_ms), len(row.strengths), len(row.received_days)) == (["new"], 1, 1, 1)


def test_a_search_is_counted_and_its_text_is_kept_nowhere() -> None:
    state = SubjectState()
    event = placed(1, kind=EventType.SEARCH, query="a secret wish")
    assert apply_event(state, event, rules=RULES)
    assert state.row.counters.searches == 1
    assert (state.row.version, state.row.items) == (0, [])
    assert b"secret" not in encode_content(state) + encode_notes(state)


def test_ignored_events_are_noted_by_spans_of_the_log() -> None:
    state = SubjectState()
    apply_event(state, placed(1), rules=RULES)
    choose(state, opted_out=True, now_ms=NOW_MS)
    for offset in (4, 9):
        assert not apply_event(state, placed(offset), rules=RULES)
    choose(state, opted_out=False, now_ms=NOW_MS)
    apply_event(state, placed(11), rules=RULES)
    choose(state, opted_out=True, now_ms=NOW_MS)
    apply_event(state, placed(12), rules=RULES)
    assert (state.row.ignored, state.row.choices) == ([(4, 9), (12, 12)], 3)


@given(cuts=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=8))
def test_a_write_cut_short_anywhere_counts_once_and_everybody_is_told(cuts: list[tuple[int, int]]) -> None:
    """Aggregates, then rows, then the offset: applied again after a kill at any write, nothing counts twice."""
    events = [
        placed(
            offset,
            subject=ALICE if offset % 3 else BOB,
            item=f"i{offset % 4}",
            categories=("Drama",),
            partition=0 if offset % 3 else 1,
        )
        for offset in range(1, 13)
    ]
    whole, broken = Kept(), Kept()
    whole.apply(events)
    told: set[str] = set()
    for upto, writes in cuts:
        told |= set(broken.apply([event for event in events if event.offset <= upto], writes_max=writes))
    told |= set(broken.apply(events))
    assert (broken.rows, broken.offsets) == (whole.rows, whole.offsets)
    assert told >= {ALICE, BOB}
    trends = [[c for key, c in sorted(kept.aggregates.items()) if key.kind == "trend"] for kept in (whole, broken)]
    assert merge_trends(trends[0], limit=9) == merge_trends(trends[1], limit=9)
    items = [[(k.scope, c) for k, c in kept.aggregates.items() if k.kind == "item"] for kept in (whole, broken)]
    assert sum_counters(items[0], limit=9) == sum_counters(items[1], limit=9)


def test_the_aggregates_of_an_event_can_be_named_before_it_is_applied() -> None:
    events = [
        placed(1, categories=("Drama", "Drama", "")),
        placed(2, kind=EventType.IMPRESSION),
        placed(3, kind=EventType.SKIP),
    ]
    named = {key for event in events for key in keys_of(event, RULES.weights)}
    assert set(Kept().outcome(events).aggregates) <= named
    assert {key.scope for key in named if key.kind == "trend"} == {"", "Drama"}
