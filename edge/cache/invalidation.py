"""What an edge has been told since it cached something: versions, opt-outs, releases, withdrawals, purges.

`Ledger` is a bounded state machine without I/O; `follow_invalidations` feeds it from the grid, `edge.cache.notices`
from the region itself. What a lost message can do is bounded by the life of the entries, by `distrust` after every
reconnect, by the version check on what the grid holds, by asking the region now and then, and, while the grid is
silent (`edge.cache.pulse`), by SILENT_LIFE_S for personal lists.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Container, Iterable
from dataclasses import dataclass

import msgspec

from edge.cache.entry import Entry
from edge.cache.kept_out import KeptOut
from edge.cache.policy import Standing
from edge.cache.pulse import Pulse
from edge.cache.purges import PurgeNotes
from infra.contracts.kept_out import ItemsKeptOut
from infra.contracts.lists import ChoiceMark
from infra.contracts.messages import INVALIDATION_TOPIC, TRIAL_ARM, HomeAnswer, Invalidation
from infra.plumbing.clock import Clock
from infra.plumbing.grid.port import Grid, GridUnavailableError

SUBJECTS_MAX = 50_000
CONSUMED_MAX = 200
WITHDRAWN_MAX = 100_000
RESUBSCRIBE_S = 0.2
SETTLE_MS = 2_000
SWITCH_GRACE_S = 0.4
"""How long lists of the release before are still shown, each at most until it is made anew."""
CONFIRM_S = 30.0
"""How long what the grid withdrew holds without the region's own word."""
SILENT_LIFE_S = 1.0
"""While nothing can be heard of its subject's events, a personal list is made anew after so long."""


@dataclass(slots=True)
class SubjectNotes:
    """What has been heard of one subject. `epoch` changes whenever its filters do."""

    version: int = 0
    choice_version: int = 0
    """Of the newest choice or erasure heard of: a word that comes late gives way to a later choice only."""
    opted_out: bool = False
    opted_out_version: int = 0
    """Personal lists below this version were made before the subject opted out or was erased."""
    consumed: OrderedDict[str, None] | None = None
    epoch: int = 0


_NOTHING = SubjectNotes()


class Ledger:
    """Judges entries by what was heard; bounded, oldest subjects first out (entries' lives bound what that costs)."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._subjects: OrderedDict[str, SubjectNotes] = OrderedDict()
        self._withdrawn: OrderedDict[str, float] = OrderedDict()
        """By item: when the grid said so; -inf for what the region itself says."""
        self._distrusted_before_s = float("-inf")
        self._knows_since_s = clock.monotonic_s()
        """Every word about every subject since then is known: none was before the start, or forgotten, or lost."""
        self._other_rules_before_s = float("-inf")
        self._no_trial_before_s = float("-inf")
        self._epochs = 0
        self._release_since_ms = 0
        self.release_since_s = float("-inf")
        """Since when, by the monotonic clock, the region answers from `release`."""
        self.release_before: str | None = None
        """What it answered from before that."""
        self._purges = PurgeNotes()
        self.kept_out = KeptOut()
        self._silent = False
        self.on_subject: Callable[[str], None] = lambda _subject: None
        """Told every subject of which something was heard."""
        self.generation = 0
        """Goes up whenever what was heard may concern lists of any subject: what held before must be judged anew."""
        self.edition = 0
        """Goes up when lists made before may not be what a new call should get: fills from before are not joined."""
        self.release: str | None = None
        """The release that the region answers from, as far as this edge knows."""
        self.withdrawn_epoch = 0
        self.forgotten = 0

    @property
    def silent(self) -> bool:
        """Whether the grid carries no messages at present."""
        return self._silent

    @silent.setter
    def silent(self, silent: bool) -> None:
        if silent != self._silent:
            self._silent = silent
            self.generation += 1

    def apply(self, message: Invalidation) -> None:
        """Take in one message; repeating it or receiving it late changes nothing."""
        if message.subject is not None:
            self._note_subject(message)
        if message.release is not None:
            self.switch(message.release)
            # A region that says what it runs tries nothing any more: it says so when a trial ends.
            self._no_trial_before_s = self._clock.monotonic_s()
            self.generation += 1
        if message.purged:
            self.purge(message.purged, at_s=self._clock.monotonic_s())
        if message.withdrawn or message.restored:
            self._note_items(message)
        if message.rules is not None:
            self._other_rules_before_s = self._clock.monotonic_s()
            self._begin_edition()

    def purge(self, names: Iterable[str], *, at_s: float) -> None:
        """Lists from `at_s` (monotonic) or before that carry one of `names` need the region's word."""
        self._purges.note(names, at_s=at_s)
        self._begin_edition()

    def replace_withdrawn(self, items: Iterable[str]) -> bool:
        """The region's own word on what is withdrawn; returns whether that is news.

        The answer may be older than what the grid said in the meantime, or come from a node that has not heard yet::

            asked ...... node answers: nothing withdrawn ............ the answer is taken: x would be shown again
                                          x withdrawn, heard over the grid

        so what the grid withdrew stays withdrawn for CONFIRM_S whatever the answer leaves out.
        """
        recent_s = self._clock.monotonic_s() - CONFIRM_S
        held = {item: at_s for item, at_s in self._withdrawn.items() if at_s > recent_s}
        wanted = OrderedDict.fromkeys(items, float("-inf")) | held
        if wanted.keys() == self._withdrawn.keys():
            return False
        while len(wanted) > WITHDRAWN_MAX:
            wanted.popitem(last=False)
        self._withdrawn = wanted
        self._begin_withdrawals()
        return True

    def keep_out(self, groups: Iterable[ItemsKeptOut]) -> None:
        """What the region's hard rules keep out from now on."""
        if self.kept_out.replace(groups):
            self._begin_withdrawals()

    def distrust(self) -> None:
        """Messages may have been missed: personal lists made before now need the region's word again."""
        self._distrusted_before_s = self._knows_since_s = self._clock.monotonic_s()
        self.release = None
        self._begin_edition()

    def learn(self, answer: HomeAnswer) -> bool:
        """Take the release from an answer of this region, in case a message was lost; returns whether it was news.

        An answer of a trial proves nothing: the region goes on answering others from what it runs.
        Answers made within SETTLE_MS of the last switch prove nothing: they may have been under way, or come from a
        node that switches a moment later.
        """
        if answer.arm == TRIAL_ARM:
            return False
        settled = answer.generated_at_ms > self._release_since_ms + SETTLE_MS
        if answer.release == self.release or (self.release is not None and not settled):
            return False
        return self.switch(answer.release)

    def version_of(self, subject: str | None) -> int:
        """The newest version heard of."""
        return self._get(subject).version

    def has_opted_out(self, subject: str | None) -> bool:
        """Whether the subject wants no personal lists, as far as this edge knows."""
        return self._get(subject).opted_out

    def may_have_missed(self, made_s: float) -> bool:
        """Whether a choice may have been made since `made_s` (monotonic) of which this edge does not know."""
        return made_s < self._knows_since_s

    def take_choice(self, subject: str, mark: ChoiceMark) -> None:
        """What the region's mark in the grid says of a subject."""
        self.apply(
            Invalidation(
                subject=subject, subject_version=mark.version, opted_out=mark.opted_out, erased=mark.opted_out is None
            )
        )

    def filter_epoch(self, subject: str | None) -> int:
        """Changes whenever `consumed` of the subject does."""
        return self._get(subject).epoch

    def consumed(self, subject: str | None) -> Container[str]:
        """Items that must not be shown to the subject any more."""
        return self._get(subject).consumed or ()

    @property
    def rules_since_s(self) -> float:
        """Since when the region's rules of now hold (monotonic): lists made before have not passed them."""
        return self._other_rules_before_s

    @property
    def withdrawn(self) -> Collection[str]:
        """Items that nobody may be shown."""
        return self._withdrawn

    def standing(self, entry: Entry, subject: str | None) -> Standing:
        """What has been heard about `entry` since it was made; `subject` is the one of its key."""
        answer = entry.answer
        if subject is not None:
            notes = self._subjects.get(subject, _NOTHING)
            if answer.personal and answer.subject_version < notes.opted_out_version:
                return Standing.FORBIDDEN
            known_from_s = self._knows_since_s if answer.precomputed else self._distrusted_before_s
            if answer.subject_version < notes.version or entry.made_s < max(known_from_s, self._distrusted_before_s):
                return Standing.OVERTAKEN
            if self.silent and entry.age_s(self._clock.monotonic_s()) > SILENT_LIFE_S:
                return Standing.OVERTAKEN
        other = self._is_of_another_release(entry)
        if (other and not self._is_outgoing(entry)) or entry.made_s < self._other_rules_before_s:
            return Standing.OVERTAKEN
        if entry.made_s <= self._purges.last_s and self._purges.overtake(entry):
            return Standing.OVERTAKEN
        return Standing.OUTGOING if other else Standing.CURRENT

    def switch(self, release: str) -> bool:
        """The region answers from `release`; returns whether that is news."""
        if release == self.release:
            return False
        self.release_before, self.release = self.release, release
        self._release_since_ms, self.release_since_s = self._clock.now_ms(), self._clock.monotonic_s()
        self._begin_edition()
        return True

    def _begin_edition(self) -> None:
        self.edition += 1
        self.generation += 1

    def _begin_withdrawals(self) -> None:
        self.withdrawn_epoch += 1
        self.generation += 1

    def _is_of_another_release(self, entry: Entry) -> bool:
        if entry.answer.arm == TRIAL_ARM:
            return entry.made_s < self._no_trial_before_s
        return self.release is not None and entry.answer.release != self.release

    def _is_outgoing(self, entry: Entry) -> bool:
        # A switch makes every list of the region old at once. For moments they are shown while they are made anew, or
        # else all callers would wait in one queue before the region.
        lately = self._clock.monotonic_s() - self.release_since_s < SWITCH_GRACE_S
        return lately and entry.answer.arm != TRIAL_ARM and entry.answer.release == self.release_before

    def _get(self, subject: str | None) -> SubjectNotes:
        return self._subjects.get(subject, _NOTHING) if subject is not None else _NOTHING

    def _notes_for(self, subject: str) -> SubjectNotes:
        notes = self._subjects.get(subject)
        if notes is None:
            notes = self._subjects[subject] = SubjectNotes()
            if len(self._subjects) > SUBJECTS_MAX:
                self._subjects.popitem(last=False)
                self._knows_since_s = self._clock.monotonic_s()
                self.forgotten += 1
        self._subjects.move_to_end(subject)
        return notes

    def _note_subject(self, message: Invalidation) -> None:
        notes = self._notes_for(str(message.subject))
        newer = message.subject_version >= notes.choice_version
        notes.version = max(notes.version, message.subject_version)
        if newer and (message.erased or message.opted_out is not None):
            notes.choice_version = message.subject_version
        if message.erased and newer:
            notes.opted_out = False
        if message.opted_out is not None and newer:
            notes.opted_out = message.opted_out
            notes.opted_out_version = message.subject_version if message.opted_out else 0
        if message.erased:
            # Lists of before are as forbidden as those from before an opt-out; what follows is like of any subject.
            notes.opted_out_version = max(notes.opted_out_version, message.subject_version)
            notes.consumed = None
        if message.consumed:
            notes.consumed = notes.consumed or OrderedDict()
            _add_bounded(notes.consumed, message.consumed, CONSUMED_MAX)
        self._epochs += 1
        notes.epoch = self._epochs
        self.on_subject(str(message.subject))

    def _note_items(self, message: Invalidation) -> None:
        for item in message.withdrawn:
            self._withdrawn[item] = self._clock.monotonic_s()
            self._withdrawn.move_to_end(item)
        while len(self._withdrawn) > WITHDRAWN_MAX:
            self._withdrawn.popitem(last=False)
        for item in message.restored:
            self._withdrawn.pop(item, None)
        self._begin_withdrawals()


def _add_bounded(into: OrderedDict[str, None], items: Iterable[str], size_max: int) -> None:
    for item in items:
        into[item] = None
        into.move_to_end(item)
    while len(into) > size_max:
        into.popitem(last=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ear:
    """Who else listens.

    pulse: for the pulses of `node`.
    missed: called when messages may have been lost, when items were withdrawn or restored, which is written down, and
    when others are kept out, which have to be asked for.
    """

    node: str
    pulse: Pulse
    missed: Callable[[], None]


async def follow_invalidations(
    grid: Grid,
    ledger: Ledger,
    *,
    counted: Callable[[str], None],
    on_release: Callable[[str], None],
    on_erased: Callable[[str], None] = lambda _subject: None,
    on_opted_out: Callable[[str], None] = lambda _subject: None,
    ear: Ear | None = None,
) -> None:
    """Feed `ledger` from the grid until cancelled. A grid that is away is asked again after RESUBSCRIBE_S.

    Args:
        grid: what to listen to.
        ledger: what to tell.
        counted: told the kind of every message: `subject`, `release`, `rules`, `items`, `purge`, `reconnected`,
            `malformed` or `lost`; pulses are not counted.
        on_release: told the release of every release switch.
        on_erased: told every subject that was erased.
        on_opted_out: told every subject that opted out.
        ear: who else listens.
    """
    while True:
        try:
            async for raw in grid.subscribe(INVALIDATION_TOPIC):
                message = _read(raw)
                if message is None:
                    ledger.distrust()
                    counted("reconnected" if raw is None else "malformed")
                    if ear is not None:
                        ear.missed()
                elif message.pulse is not None:
                    if ear is not None and message.pulse == ear.node:
                        ear.pulse.heard()
                else:
                    _take(message, ledger, counted, on_release)
                    if message.subject is not None and (message.erased or message.opted_out):
                        (on_erased if message.erased else on_opted_out)(message.subject)
                    if ear is not None and (message.withdrawn or message.restored or message.kept_out):
                        ear.missed()
        except GridUnavailableError:
            counted("lost")
        await asyncio.sleep(RESUBSCRIBE_S)


def _read(raw: bytes | None) -> Invalidation | None:
    """The message; None for a reconnect and for what cannot be read, which is the same as something missed."""
    try:
        return None if raw is None else msgspec.json.decode(raw, type=Invalidation)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _take(
    message: Invalidation, ledger: Ledger, counted: Callable[[str], None], on_release: Callable[[str], None]
) -> None:
    ledger.apply(message)
    if message.release is not None:
        on_release(message.release)
    counted(_kind_of(message))


def _kind_of(message: Invalidation) -> str:
    if message.subject is not None:
        return "subject"
    if message.rules is not None:
        return "rules"
    if message.purged:
        return "purge"
    return "release" if message.release is not None else "items"
