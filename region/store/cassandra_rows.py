"""The table of rows: values under their subjects' keys, written if the revision is still the one that was read."""

import math
from typing import NamedTuple

from region.store.applying import ApplyRules, bare_state
from region.store.cassandra_link import CassandraLink
from region.store.port import UserRow
from region.store.sealed import CONTENT, NOTES, RowSeals
from region.store.state import SubjectState, decode_state, encode_content, encode_notes, row_of
from region.store.subjects import is_session

FIRST_REVISION = 1
Loaded = tuple[SubjectState | None, int | None]
"""A state and the revision that it was read at."""


class Kept(NamedTuple):
    """What is kept of a subject, as `load_state` selects it."""

    revision: int | None
    version: int | None
    content: bytes | None
    notes: bytes | None
    bare_content: bytes | None
    bare_notes: bytes | None


class CassandraRows:
    """Rows as the store needs them; raises what link and seals raise.

    Args:
        link: the store's.
        seals: open and seal values.
        rules: how long rows live.
        timeout_s: of every call that is not told another.
    """

    def __init__(self, link: CassandraLink, seals: RowSeals, *, rules: ApplyRules, timeout_s: float) -> None:
        self._link = link
        self._seals = seals
        self._rules = rules
        self._timeout_s = timeout_s

    @property
    def are_sealed(self) -> bool:
        """Whether what rows say lies under their subjects' keys."""
        return self._seals.are_on

    async def read(self, subject: str, *, timeout_s: float) -> UserRow | None:
        """The row as readers see it; None when there is none that opens."""
        found = await self._link.ask("read_subject", (subject,), timeout_s=timeout_s)
        if found and found[0][0] is not None:
            content = await self._seals.open(found[0][0], about=CONTENT, timeout_s=timeout_s)
            if content is not None:
                return row_of(subject, content)
        # Of somebody who opted out and was not heard of for long the choice is left: nobody else pays for reading it.
        bare = await self._link.ask("read_choice", (subject,), timeout_s=timeout_s) if found else None
        return row_of(subject, bare[0][0]) if bare and bare[0][0] is not None else None

    async def load(self, subject: str) -> Loaded:
        """The state to apply events to."""
        found = await self._link.ask("load_state", (subject,), timeout_s=self._timeout_s)
        return (await self._opened(Kept(*found[0])), found[0][0]) if found else (None, None)

    async def named(self, subject: str) -> tuple[str, Loaded]:
        """The same beside its name."""
        return subject, await self.load(subject)

    async def kept(self, subject: str) -> Kept | None:
        """What is kept of a row, whether it opens or not; None when nothing is."""
        found = await self._link.ask("load_state", (subject,), timeout_s=self._timeout_s)
        kept = Kept(*found[0]) if found else None
        return kept if kept is not None and (kept.content or kept.bare_content) else None

    async def version_of(self, kept: Kept) -> int:
        """The version that a row had reached. It stands in the clear: the row's key may have gone before the row."""
        if kept.version is not None:
            return kept.version
        state = await self._opened(kept)  # written before versions stood apart
        return state.row.version if state is not None else 0

    async def save(self, subject: str, state: SubjectState, revision: int | None) -> bool:
        """Write a row if it still stands at `revision`; says whether it did."""
        new, version = FIRST_REVISION if revision is None else revision + 1, state.row.version
        content, notes = await self._seals.seal(
            subject, encode_content(state), encode_notes(state), timeout_s=self._timeout_s
        )
        ttl_s = self._life_s(subject)
        if state.row.choices and not is_session(subject):
            bare = bare_state(state, now_ms=state.row.touched_ms) if state.row.opted_out else None
            bare_values = (encode_content(bare), encode_notes(bare)) if bare is not None else (None, None)
            found = await self._link.ask(
                "save_choice", (ttl_s, content, notes, subject, revision, new, version, *bare_values, subject),
                timeout_s=self._timeout_s,
            )  # fmt: skip
        else:
            found = await self._link.ask(
                "save_state", (ttl_s, new, version, content, notes, subject, revision), timeout_s=self._timeout_s
            )
        return bool(found[0][0])

    async def seal(self, subject: str) -> bool:
        """Put a row of before there were keys under its subject's; whether it did. It lives no longer for it."""
        found = await self._link.ask("load_plain", (subject,), timeout_s=self._timeout_s)
        if not found or not found[0][1] or self._seals.is_sealed(found[0][1]):
            return False
        revision, content, notes, left_s = found[0]
        version = decode_state(content, notes).row.version
        sealed = await self._seals.seal(subject, content, notes, timeout_s=self._timeout_s)
        # Whoever wrote it meanwhile has put it under its key.
        done = await self._link.ask(
            "seal_row", (left_s or 0, version, *sealed, subject, revision), timeout_s=self._timeout_s
        )
        return bool(done[0][0])

    async def stays(self, subject: str, epoch: object) -> bool:
        """Whether a row that was just written can be read: its key may have been erased since `epoch` was."""
        if await self.epoch() == epoch:
            return True
        return (await self.load(subject))[0] is not None

    async def epoch(self) -> object:
        """Changes when anybody is erased; keys of before are let go of."""
        return await self._seals.keep_up(timeout_s=self._timeout_s)

    async def row_of(self, subject: str, content: bytes | None, *, timeout_s: float) -> UserRow:
        """A row of a walk. One whose content ran out has only the choice of who opted out: nothing to learn from."""
        opened = await self._seals.open(content, about=CONTENT, timeout_s=timeout_s) if content else None
        return row_of(subject, opened) if opened else UserRow(subject=subject)

    async def renew(self) -> None:
        """Let go of keys."""
        await self._seals.renew()

    async def _opened(self, kept: Kept) -> SubjectState | None:
        if kept.content is not None and kept.notes is not None:
            content = await self._seals.open(kept.content, about=CONTENT, timeout_s=self._timeout_s)
            notes = await self._seals.open(kept.notes, about=NOTES, timeout_s=self._timeout_s)
            if content is not None and notes is not None:
                return decode_state(content, notes)
        if kept.bare_content is not None and kept.bare_notes is not None:
            return decode_state(kept.bare_content, kept.bare_notes)
        return None

    def _life_s(self, subject: str) -> int:
        life_ms = self._rules.session_life_ms if is_session(subject) else self._rules.behaviour_life_ms
        return max(1, math.ceil(life_ms / 1000))
