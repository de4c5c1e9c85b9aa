"""What an edge has been told since it cached something: versions, consumed items, opt-outs, releases, withdrawals.

`Ledger` is a bounded state machine without I/O; `follow_invalidations` feeds it from the grid. A lost message is
bounded twice: by the life of the entries, and by `distrust` after every reconnect.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

import msgspec

from edge.cache.entry import Entry
from edge.cache.policy import Standing
from infra.contracts.messages import INVALIDATION_TOPIC, HomeAnswer, Invalidation
from infra.plumbing.clock import Clock
from infra.plumbing.grid.port import Grid, GridUnavailableError

SUBJECTS_MAX = 50_000
CONSUMED_MAX = 200
WITHDRAWN_MAX = 100_000
RESUBSCRIBE_S = 0.2
SETTLE_MS = 2_000


@dataclass(slots=True)
class SubjectNotes:
    """What has been heard of one subject. `epoch` changes whenever its filters do."""

    version: int = 0
    opted_out: bool = False
    opted_out_version: int = 0
    """Personal lists below this version were made before the subject opted out."""
    consumed: OrderedDict[str, None] | None = None
    epoch: int = 0


_NOTHING = SubjectNotes()


class Ledger:
    """Judges entries by what was heard; bounded, oldest subjects first out (entries' lives bound what that costs)."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._subjects: OrderedDict[str, SubjectNotes] = OrderedDict()
        self._withdrawn: OrderedDict[str, None] = OrderedDict()
        self._distrusted_before_s = float("-inf")
        self._other_rules_before_s = float("-inf")
        self._epochs = 0
        self._release_since_ms = 0
        self.release: str | None = None
        """The release that the region answers from, as far as this edge knows."""
        self.withdrawn_epoch = 0
        self.forgotten = 0

    def apply(self, message: Invalidation) -> None:
        """Take in one message; repeating it or receiving it late changes nothing."""
        if message.subject is not None:
            self._note_subject(message)
        if message.release is not None:
            self._switch(message.release)
        if message.withdrawn or message.restored:
            self._note_items(message)
        if message.rules is not None:
            self._other_rules_before_s = self._clock.monotonic_s()

    def distrust(self) -> None:
        """Messages may have been missed: personal lists made before now need the region's word again."""
        self._distrusted_before_s = self._clock.monotonic_s()
        self.release = None

    def learn(self, answer: HomeAnswer) -> bool:
        """Take the release from an answer of this region, in case a message was lost; returns whether it was news.

        Answers made within SETTLE_MS of the last switch prove nothing: they may have been under way, or come from a
        node that switches a moment later.
        """
        settled = answer.generated_at_ms > self._release_since_ms + SETTLE_MS
        if answer.release == self.release or (self.release is not None and not settled):
            return False
        self._switch(answer.release)
        return True

    def version_of(self, subject: str | None) -> int:
        """The newest version heard of."""
        return self._get(subject).version

    def has_opted_out(self, subject: str | None) -> bool:
        """Whether the subject wants no personal lists, as far as this edge knows."""
        return self._get(subject).opted_out

    def filter_epoch(self, subject: str | None) -> int:
        """Changes whenever `consumed` of the subject does."""
        return self._get(subject).epoch

    def consumed(self, subject: str | None) -> Container[str]:
        """Items that must not be shown to the subject any more."""
        return self._get(subject).consumed or ()

    @property
    def withdrawn(self) -> Container[str]:
        """Items that nobody may be shown."""
        return self._withdrawn

    def standing(self, entry: Entry, subject: str | None) -> Standing:
        """What has been heard about `entry` since it was made; `subject` is the one of its key."""
        answer = entry.answer
        if subject is not None:
            notes = self._get(subject)
            if answer.personal and answer.subject_version < notes.opted_out_version:
                return Standing.FORBIDDEN
            if answer.subject_version < notes.version or entry.made_s < self._distrusted_before_s:
                return Standing.OVERTAKEN
        if entry.made_s < self._other_rules_before_s:
            return Standing.OVERTAKEN
        if self.release is not None and answer.release != self.release:
            return Standing.OVERTAKEN
        return Standing.CURRENT

    def _switch(self, release: str) -> None:
        if release != self.release:
            self.release = release
            self._release_since_ms = self._clock.now_ms()

    def _get(self, subject: str | None) -> SubjectNotes:
        return self._subjects.get(subject, _NOTHING) if subject is not None else _NOTHING

    def _notes_for(self, subject: str) -> SubjectNotes:
        notes = self._subjects.get(subject)
        if notes is None:
            notes = self._subjects[subject] = SubjectNotes()
            if len(self._subjects) > SUBJECTS_MAX:
                self._subjects.popitem(last=False)
                self.forgotten += 1
        self._subjects.move_to_end(subject)
        return notes

    def _note_subject(self, message: Invalidation) -> None:
        notes = self._notes_for(str(message.subject))
        newer = message.subject_version >= notes.version
        notes.version = max(notes.version, message.subject_version)
        if message.opted_out is not None and newer:
            notes.opted_out = message.opted_out
            notes.opted_out_version = message.subject_version if message.opted_out else 0
        if message.consumed:
            notes.consumed = notes.consumed or OrderedDict()
            _add_bounded(notes.consumed, message.consumed, CONSUMED_MAX)
        self._touch(notes)

    def _touch(self, notes: SubjectNotes) -> None:
        self._epochs += 1
        notes.epoch = self._epochs

    def _note_items(self, message: Invalidation) -> None:
        _add_bounded(self._withdrawn, message.withdrawn, WITHDRAWN_MAX)
        for item in message.restored:
            self._withdrawn.pop(item, None)
        self.withdrawn_epoch += 1


def _add_bounded(into: OrderedDict[str, None], items: Iterable[str], size_max: int) -> None:
    for item in items:
        into[item] = None
        into.move_to_end(item)
    while len(into) > size_max:
        into.popitem(last=False)


async def follow_invalidations(
    grid: Grid, ledger: Ledger, *, counted: Callable[[str], None], on_release: Callable[[str], None]
) -> None:
    """Feed `ledger` from the grid until cancelled. A grid that is away is asked again after RESUBSCRIBE_S.

    Args:
        grid: what to listen to.
        ledger: what to tell.
        counted: told the kind of every message: `subject`, `release`, `rules`, `items`, `reconnected`, `malformed` or
            `lost`.
        on_release: told the release of every release switch.
    """
    while True:
        try:
            async for raw in grid.subscribe(INVALIDATION_TOPIC):
                if raw is None:
                    ledger.distrust()
                    counted("reconnected")
                    continue
                _take(raw, ledger, counted, on_release)
        except GridUnavailableError:
            counted("lost")
        await asyncio.sleep(RESUBSCRIBE_S)


def _take(raw: bytes, ledger: Ledger, counted: Callable[[str], None], on_release: Callable[[str], None]) -> None:
    try:
        message = msgspec.json.decode(raw, type=Invalidation)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Something was said that cannot be read: the same as something missed.
        ledger.distrust()
        counted("malformed")
        return
    ledger.apply(message)
    if message.release is not None:
        on_release(message.release)
    counted(_kind_of(message))


def _kind_of(message: Invalidation) -> str:
    if message.subject is not None:
        return "subject"
    if message.rules is not None:
        return "rules"
    return "release" if message.release is not None else "items"
