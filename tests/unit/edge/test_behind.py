"""What an edge shows at once when its region goes back to the release before."""

import pytest

from edge.cache.behind import KEPT_BEHIND_S, active_of, behind
from edge.cache.entry import Entry
from edge.cache.invalidation import Ledger
from edge.cache.policy import Life
from infra.contracts.messages import TRIAL_ARM, Invalidation
from infra.plumbing.clock import ManualClock
from tests.unit.edge.fakes import answer

OLD, NEW, OTHER = "a" * 20, "b" * 20, "c" * 20
LIFE = Life(60, 90, 600)


class Scene:
    """The list of one key on one edge: made anew, and looked for, as `ListFiller` does it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.ledger = Ledger(clock=self.clock)
        self.ledger.switch(OLD)
        self.held: Entry | None = None

    def fill(self, release: str, *, version: int = 0, arm: str | None = None) -> Entry:
        made = answer(release=release, personal=True, subject_version=version, arm=arm)
        entry = Entry(made, LIFE, made_s=self.clock.monotonic_s(), asked=10)
        entry.before = behind(self.held, entry, self.ledger, now_s=self.clock.monotonic_s())
        self.held = entry
        return entry

    def tell(self, **words: object) -> None:
        self.clock.advance(1.0)
        self.ledger.apply(Invalidation(**words))  # type: ignore[arg-type]

    @property
    def shown(self) -> Entry:
        assert self.held is not None
        return active_of(self.held, "s", self.ledger, now_s=self.clock.monotonic_s())


def test_going_back_shows_the_list_of_before_and_going_on_that_of_after() -> None:
    scene = Scene()
    old = scene.fill(OLD)
    scene.tell(release=NEW)
    new = scene.fill(NEW)
    assert (scene.shown, new.before) == (new, old)
    again = scene.fill(NEW)
    assert (again.before, new.before) == (old, old)
    assert again.size_bytes() > old.size_bytes() + Scene().fill(NEW).size_bytes() - 1
    scene.tell(release=OLD)
    assert scene.shown is old
    scene.tell(release=NEW)
    assert scene.shown is again


def test_a_fill_that_comes_late_does_not_take_the_active_list_away() -> None:
    scene = Scene()
    old = scene.fill(OLD)
    scene.tell(release=NEW)
    scene.fill(NEW)
    scene.tell(release=OLD)
    assert scene.shown is old
    scene.held, scene.shown.before = scene.shown, None  # as `ListFiller.find` leaves it
    late = scene.fill(NEW)
    assert (scene.held, scene.shown) == (late, old)


def test_a_third_release_leaves_one_list_behind() -> None:
    scene = Scene()
    old = scene.fill(OLD)
    scene.tell(release=NEW)
    new = scene.fill(NEW)
    scene.tell(release=OTHER)
    other = scene.fill(OTHER)
    assert (other.before, new.before) == (new, None)
    scene.tell(release=OLD)
    assert scene.shown is other
    assert old.before is None


@pytest.mark.parametrize(
    "word", [{"subject": "s", "subject_version": 1}, {"rules": "r"}, {"purged": ("item:h-1",)}, {"opted_out": True}]
)
def test_what_was_heard_since_holds_for_what_stands_behind(word: dict[str, object]) -> None:
    scene = Scene()
    scene.fill(OLD)
    scene.tell(release=NEW)
    scene.fill(NEW)
    scene.tell(**({"subject": "s", "subject_version": 1} | word if "opted_out" in word else word))
    latest = scene.fill(NEW, version=1)
    scene.tell(release=OLD)
    assert scene.shown is latest


def test_it_is_kept_for_a_while_and_no_longer_than_it_may_be_shown() -> None:
    scene = Scene()
    scene.fill(OLD)
    scene.tell(release=NEW)
    assert scene.fill(NEW).before is not None
    scene.clock.advance(91.0)
    scene.ledger.switch(OLD)
    assert scene.shown is scene.held
    scene.ledger.switch(NEW)
    assert scene.fill(NEW).before is None
    scene.fill(NEW)
    scene.tell(release=OLD)
    scene.clock.advance(KEPT_BEHIND_S)
    assert scene.fill(OLD).before is None


def test_a_canary_that_ends_shows_what_the_active_release_made() -> None:
    scene = Scene()
    old = scene.fill(OLD)
    tried = scene.fill(NEW, arm=TRIAL_ARM)
    assert (scene.shown, tried.before) == (tried, old)
    again = scene.fill(NEW, arm=TRIAL_ARM)
    assert again.before is old
    scene.tell(release=OLD)  # the region says so when a trial ends
    assert scene.shown is old
    assert scene.fill(OLD).before is None
