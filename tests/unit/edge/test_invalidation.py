"""What an edge does with what it is told."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.cache import invalidation
from edge.cache.entry import Entry
from edge.cache.invalidation import SWITCH_GRACE_S, Ledger, follow_invalidations
from edge.cache.policy import Life, Standing, Usability, usability
from infra.contracts.messages import INVALIDATION_TOPIC, TRIAL_ARM, Invalidation
from infra.plumbing.clock import ManualClock
from infra.plumbing.grid.memory import MemoryGrid
from infra.plumbing.grid.port import GridUnavailableError
from tests.unit.edge.fakes import answer

LIFE = Life(60, 90, 600)


def entry(version: int = 0, *, personal: bool = True, release: str = "a" * 20, made_s: float = 0.0) -> Entry:
    held = answer(subject_version=version, personal=personal, release=release)
    return Entry(held, LIFE, made_s=made_s, asked=10)


def test_a_newer_version_overtakes_and_a_late_message_changes_nothing() -> None:
    ledger = Ledger(clock=ManualClock())
    ledger.apply(Invalidation(subject="s", subject_version=5, consumed=("x",)))
    assert ledger.standing(entry(4), "s") is Standing.OVERTAKEN
    assert ledger.standing(entry(5), "s") is Standing.CURRENT
    ledger.apply(Invalidation(subject="s", subject_version=3, opted_out=True))
    assert ledger.standing(entry(5), "s") is Standing.CURRENT
    assert "x" in ledger.consumed("s")
    assert "x" not in ledger.consumed("other")
    assert "x" not in ledger.consumed(None)
    assert ledger.standing(entry(0), "other") is Standing.CURRENT


def test_a_choice_that_comes_late_gives_way_to_a_later_choice_only() -> None:
    ledger = Ledger(clock=ManualClock())
    ledger.apply(Invalidation(subject="s", subject_version=5, consumed=("x",)))
    ledger.apply(Invalidation(subject="s", subject_version=3, opted_out=True))  # told again until the grid took it
    assert ledger.has_opted_out("s")
    ledger.apply(Invalidation(subject="s", subject_version=7, opted_out=False))
    ledger.apply(Invalidation(subject="s", subject_version=6, opted_out=True))
    assert not ledger.has_opted_out("s")
    ledger.apply(Invalidation(subject="s", subject_version=9, opted_out=True))
    ledger.apply(Invalidation(subject="s", subject_version=8, erased=True))
    assert ledger.has_opted_out("s")
    ledger.apply(Invalidation(subject="s", subject_version=10, erased=True))
    assert not ledger.has_opted_out("s")


def test_lists_from_before_an_opt_out_are_forbidden() -> None:
    ledger = Ledger(clock=ManualClock())
    ledger.apply(Invalidation(subject="s", subject_version=5, opted_out=True))
    assert ledger.has_opted_out("s")
    assert ledger.standing(entry(4), "s") is Standing.FORBIDDEN
    assert ledger.standing(entry(4, personal=False), "s") is Standing.OVERTAKEN
    assert ledger.standing(entry(5), "s") is Standing.CURRENT
    ledger.apply(Invalidation(subject="s", subject_version=6, opted_out=False))
    assert not ledger.has_opted_out("s")
    assert ledger.standing(entry(5), "s") is Standing.OVERTAKEN


def test_a_release_switch_overtakes_everything_else() -> None:
    clock = ManualClock()
    ledger = Ledger(clock=clock)
    assert ledger.learn(entry().answer)
    assert not ledger.learn(answer(release="b" * 20))
    ledger.apply(Invalidation(release="b" * 20))
    clock.advance(SWITCH_GRACE_S)
    assert ledger.standing(entry(personal=False), None) is Standing.OVERTAKEN
    assert ledger.standing(entry(release="b" * 20), None) is Standing.CURRENT


def test_after_a_switch_the_lists_before_are_shown_for_moments_while_they_are_made_anew() -> None:
    clock = ManualClock()
    ledger = Ledger(clock=clock)
    for release in ("a" * 20, "b" * 20):
        ledger.apply(Invalidation(release=release))
    assert ledger.standing(entry(), "s") is Standing.OUTGOING
    assert usability(LIFE, age_s=1.0, standing=Standing.OUTGOING) is Usability.REVALIDATE
    assert ledger.standing(entry(release="c" * 20), "s") is Standing.OVERTAKEN
    ledger.apply(Invalidation(subject="s", subject_version=1))
    assert ledger.standing(entry(), "s") is Standing.OVERTAKEN
    clock.advance(SWITCH_GRACE_S)
    assert ledger.standing(entry(), None) is Standing.OVERTAKEN


def test_a_lost_release_message_is_learned_from_answers_but_not_from_those_under_way() -> None:
    clock = ManualClock()
    ledger = Ledger(clock=clock)
    ledger.apply(Invalidation(release="b" * 20))
    assert not ledger.learn(answer(release="c" * 20, generated_at_ms=clock.now_ms() + 500))
    assert ledger.release == "b" * 20
    assert not ledger.learn(answer(release="b" * 20, generated_at_ms=clock.now_ms() + 9_000))
    assert ledger.learn(answer(release="c" * 20, generated_at_ms=clock.now_ms() + 9_000))
    assert ledger.release == "c" * 20


def test_an_answer_of_a_trial_says_nothing_of_what_the_region_runs_and_ends_with_the_trial() -> None:
    clock = ManualClock()
    ledger = Ledger(clock=clock)
    ledger.apply(Invalidation(release="a" * 20))
    clock.advance(10.0)
    tried = msgspec.structs.replace(answer(release="c" * 20), arm=TRIAL_ARM, generated_at_ms=clock.now_ms() + 3_600_000)
    held = Entry(tried, LIFE, made_s=clock.monotonic_s(), asked=10)
    assert not ledger.learn(tried)
    assert ledger.release == "a" * 20
    assert ledger.standing(held, "s") is Standing.CURRENT
    clock.advance(1.0)
    ledger.apply(Invalidation(release="a" * 20))  # the region says what it runs: the trial is over
    assert ledger.standing(held, "s") is Standing.OVERTAKEN


def test_withdrawn_items_go_and_come_back() -> None:
    ledger = Ledger(clock=ManualClock())
    ledger.apply(Invalidation(withdrawn=("x", "y")))
    epoch = ledger.withdrawn_epoch
    ledger.apply(Invalidation(restored=("x",)))
    assert "x" not in ledger.withdrawn
    assert "y" in ledger.withdrawn
    assert ledger.withdrawn_epoch > epoch


def test_after_a_reconnect_personal_lists_are_distrusted_and_the_release_is_unknown() -> None:
    clock = ManualClock()
    ledger = Ledger(clock=clock)
    ledger.apply(Invalidation(release="b" * 20))
    clock.advance(10)
    ledger.distrust()
    assert ledger.standing(entry(made_s=9.0), "s") is Standing.OVERTAKEN
    assert ledger.standing(entry(made_s=11.0), "s") is Standing.CURRENT
    assert ledger.standing(entry(made_s=9.0, personal=False), None) is Standing.CURRENT
    assert ledger.learn(entry().answer)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50), st.lists(st.integers(0, 500), max_size=30)), max_size=60)
)
def test_order_of_messages_does_not_matter_for_versions(messages: list[tuple[int, int, list[int]]]) -> None:
    built = [
        Invalidation(subject=f"s{subject}", subject_version=version, consumed=tuple(str(item) for item in items))
        for subject, version, items in messages
    ]
    one, other = Ledger(clock=ManualClock()), Ledger(clock=ManualClock())
    for message in built:
        one.apply(message)
    for message in reversed(built):
        other.apply(message)
        other.apply(message)
    for subject in range(10):
        assert one.version_of(f"s{subject}") == other.version_of(f"s{subject}")


def test_everything_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invalidation, "SUBJECTS_MAX", 10)
    monkeypatch.setattr(invalidation, "WITHDRAWN_MAX", 10)
    ledger = Ledger(clock=ManualClock())
    for number in range(30):
        items = tuple(f"{number}-{item}" for item in range(300))
        ledger.apply(Invalidation(subject=f"s{number}", subject_version=1, consumed=items))
        ledger.apply(Invalidation(withdrawn=(f"w{number}",)))
    assert ledger.forgotten == 20
    assert ledger.version_of("s0") == 0
    assert ledger.version_of("s29") == 1
    assert sum(f"29-{item}" in ledger.consumed("s29") for item in range(300)) == invalidation.CONSUMED_MAX
    assert "w29" in ledger.withdrawn
    assert "w0" not in ledger.withdrawn


async def test_messages_arrive_over_the_grid_and_unreadable_ones_cause_distrust() -> None:
    clock = ManualClock(elapsed_s=5.0)
    grid, ledger = MemoryGrid(clock=clock), Ledger(clock=clock)
    kinds: list[str] = []
    releases: list[str] = []
    heard = asyncio.Event()

    def counted(kind: str) -> None:
        kinds.append(kind)
        heard.set()

    async def say(message: bytes) -> None:
        heard.clear()
        await grid.publish(INVALIDATION_TOPIC, message)
        await asyncio.wait_for(heard.wait(), 5)

    erased: list[str] = []
    opted_out: list[str] = []
    task = asyncio.create_task(
        follow_invalidations(
            grid, ledger, counted=counted, on_release=releases.append, on_erased=erased.append,
            on_opted_out=opted_out.append,
        )
    )  # fmt: skip
    await asyncio.wait_for(heard.wait(), 5)
    await say(msgspec.json.encode(Invalidation(subject="s3", subject_version=1, opted_out=True)))
    await say(msgspec.json.encode(Invalidation(subject="s4", subject_version=1, opted_out=False)))
    await say(msgspec.json.encode(Invalidation(subject="s5", subject_version=1, erased=True)))
    await say(msgspec.json.encode(Invalidation(subject="s", subject_version=2)))
    await say(msgspec.json.encode(Invalidation(release="b" * 20)))
    await say(msgspec.json.encode(Invalidation(withdrawn=("x",))))
    await say(b"{nonsense")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await grid.close()
    assert kinds == ["reconnected", *4 * ["subject"], "release", "items", "malformed"]
    assert (opted_out, erased) == (["s3"], ["s5"])
    assert releases == ["b" * 20]
    assert ledger.version_of("s") == 2
    assert ledger.release is None


async def test_a_grid_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invalidation, "RESUBSCRIBE_S", 0.0)
    again = asyncio.Event()
    kinds: list[str] = []

    class Away(MemoryGrid):
        tries = 0

        async def subscribe(self, topic: str) -> AsyncIterator[bytes | None]:
            self.tries += 1
            if self.tries == 2:
                again.set()
            raise GridUnavailableError("gone.")
            yield None

    grid = Away(clock=ManualClock())
    ledger = Ledger(clock=ManualClock())
    task = asyncio.create_task(follow_invalidations(grid, ledger, counted=kinds.append, on_release=kinds.append))
    await asyncio.wait_for(again.wait(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert kinds[0] == "lost"


def test_other_rules_overtake_what_was_made_before_them() -> None:
    clock = ManualClock()
    ledger = Ledger(clock=clock)
    made_s = clock.monotonic_s()
    clock.advance(1.0)
    ledger.apply(Invalidation(rules="0123456789ab"))
    assert ledger.standing(entry(personal=False, made_s=made_s), None) is Standing.OVERTAKEN
    assert ledger.standing(entry(personal=False, made_s=clock.monotonic_s()), None) is Standing.CURRENT
