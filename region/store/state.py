"""A subject's state: what its row says, what only the writer needs to know, and how both are kept as bytes.

An adapter keeps two values per subject and looks into neither: `content` is what a request reads, `notes` is what
the writer reads besides. Both are msgpack arrays; a later version of this code adds fields at the end, with defaults.
"""

from dataclasses import dataclass, field

import msgspec

from infra.contracts.features import AFFINITY_KINDS, DecayedValue
from region.store.port import Erasure, Interactions, Session, SubjectCounters, UserRow, pack_affinities

DAY_MS = 86_400_000


class RowContent(msgspec.Struct, array_like=True):
    """A row; the history in columns, oldest first."""

    version: int = 0
    opted_out: bool = False
    offset: int = 0
    """Place in the log of the last event taken in."""
    last_event_ms: int = 0
    touched_ms: int = 0
    """When the region last heard of the subject, by the region's own clock: what its life counts from."""
    items: list[str] = msgspec.field(default_factory=list)
    strengths: list[int] = msgspec.field(default_factory=list)
    times_ms: list[int] = msgspec.field(default_factory=list)
    received_days: list[int] = msgspec.field(default_factory=list)
    """Day (Unix time over DAY_MS) on which the region received each entry: what an entry's life counts from."""
    impressions: int = 0
    counters: SubjectCounters = SubjectCounters()
    session: Session | None = None
    affinities: dict[str, dict[str, DecayedValue]] = msgspec.field(default_factory=dict)
    """By kind and name."""
    ignored: list[tuple[int, int]] = msgspec.field(default_factory=list)
    """Offsets, first and last, of events that were ignored because the subject had opted out."""
    choices: int = 0
    """How often the subject opted out or in: each raised the version, and none stands in the log."""
    imported: bool = False
    """Whether the row began as an import, which does not stand in the log either."""
    follows: list[str] = msgspec.field(default_factory=list)
    """What the subject follows, the latest last."""


class RowView(msgspec.Struct, array_like=True):
    """`RowContent` as far as a request reads it, field by field in the same places: the rest is passed over unread."""

    version: int = 0
    opted_out: bool = False
    offset: int = 0
    last_event_ms: int = 0
    touched_ms: msgspec.Raw = msgspec.Raw()
    items: list[str] = msgspec.field(default_factory=list)
    strengths: list[int] = msgspec.field(default_factory=list)
    times_ms: list[int] = msgspec.field(default_factory=list)
    received_days: msgspec.Raw = msgspec.Raw()
    impressions: int = 0
    counters: SubjectCounters = SubjectCounters()
    session: Session | None = None
    affinities: msgspec.Raw = msgspec.Raw()
    """Read where somebody looks into them (`UserRow.affinities`)."""
    ignored: list[tuple[int, int]] = msgspec.field(default_factory=list)
    choices: int = 0
    imported: bool = False
    follows: list[str] = msgspec.field(default_factory=list)


class WriterNotes(msgspec.Struct, array_like=True):
    """What applying needs to know and no request does."""

    event_ids: bytes = b""
    """Digests of the last event ids."""


@dataclass(slots=True)
class SubjectState:
    """Both, while events are applied."""

    row: RowContent = field(default_factory=RowContent)
    notes: WriterNotes = field(default_factory=WriterNotes)


def begin_state(erasure: Erasure | None) -> SubjectState:
    """The state of a subject of whom there is no row."""
    return SubjectState() if erasure is None else SubjectState(RowContent(version=erasure.version))


_ENCODER = msgspec.msgpack.Encoder()
_VIEW = msgspec.msgpack.Decoder(RowView)
_CONTENT = msgspec.msgpack.Decoder(RowContent)
_NOTES = msgspec.msgpack.Decoder(WriterNotes)
_ERASURE = msgspec.msgpack.Decoder(Erasure)


def encode_content(state: SubjectState) -> bytes:
    """What `row_of` reads."""
    return _ENCODER.encode(state.row)


def encode_notes(state: SubjectState) -> bytes:
    """What `decode_state` needs besides."""
    return _ENCODER.encode(state.notes)


def encode_erasure(erasure: Erasure) -> bytes:
    """What `decode_erasure` reads."""
    return _ENCODER.encode(erasure)


def decode_erasure(content: bytes) -> Erasure:
    """Inverse of `encode_erasure`.

    Raises:
        msgspec.DecodeError: the bytes are of something else.
    """
    return _ERASURE.decode(content)


def decode_state(content: bytes, notes: bytes) -> SubjectState:
    """Inverse of the two encoders.

    Raises:
        msgspec.DecodeError: the bytes are of something else.
    """
    return SubjectState(_CONTENT.decode(content), _NOTES.decode(notes))


def row_of(subject: str, content: bytes) -> UserRow:
    """The row as readers see it.

    Raises:
        msgspec.DecodeError: the bytes are of something else.
    """
    return to_row(subject, _VIEW.decode(content))


def to_row(subject: str, row: RowContent | RowView) -> UserRow:
    """The row as readers see it."""
    return UserRow(
        subject=subject,
        version=row.version,
        history=Interactions(tuple(row.items), tuple(row.strengths), tuple(row.times_ms)),
        impressions=row.impressions,
        opted_out=row.opted_out,
        last_event_ms=row.last_event_ms,
        offset=row.offset,
        counters=row.counters,
        session=row.session,
        affinities_packed=_packed(row.affinities),
        ignored=tuple(row.ignored),
        choices=row.choices,
        imported=row.imported,
        follows=tuple(row.follows),
    )


def _packed(affinities: msgspec.Raw | dict[str, dict[str, DecayedValue]]) -> bytes:
    if isinstance(affinities, dict):
        return pack_affinities(affinities)
    packed = bytes(affinities)
    return b"" if packed == _NO_AFFINITIES else packed


_NO_AFFINITIES = msgspec.msgpack.encode({})


def from_row(row: UserRow, *, now_ms: int) -> SubjectState:
    """The state that an imported row stands for; the region has it since `now_ms`."""
    affinities = row.affinities
    history = Interactions.of(sorted(row.history, key=lambda entry: entry.at_ms))
    content = RowContent(
        version=row.version,
        opted_out=row.opted_out,
        last_event_ms=row.last_event_ms,
        touched_ms=now_ms,
        items=list(history.items),
        strengths=list(history.strengths),
        times_ms=list(history.times_ms),
        received_days=[now_ms // DAY_MS] * len(history),
        impressions=row.impressions,
        counters=row.counters,
        session=row.session,
        affinities={
            kind: {one.name: DecayedValue(one.value, one.at_ms) for one in affinities[kind]}
            for kind in AFFINITY_KINDS
            if affinities.get(kind)
        },
        imported=True,
        follows=list(row.follows),
    )
    return SubjectState(content, WriterNotes())


def upgrade_content(
    version: int, impressions: int, opted_out: int, last_event_ms: int, touched_ms: int, history: bytes
) -> bytes:
    """The content of a row of the store's first schema, which knew a history and an impression count only."""
    items, strengths, times_ms = msgspec.msgpack.decode(history, type=tuple[list[str], list[int], list[int]])
    row = RowContent(
        version=version, impressions=impressions, opted_out=bool(opted_out), last_event_ms=last_event_ms,
        touched_ms=touched_ms, items=items, strengths=strengths, times_ms=times_ms,
        received_days=[touched_ms // DAY_MS] * len(items),
        counters=SubjectCounters(interactions=len(items)), imported=True,
    )  # fmt: skip
    return _ENCODER.encode(row)


def upgrade_notes(event_ids: bytes) -> bytes:
    """The notes beside it."""
    return _ENCODER.encode(WriterNotes(event_ids=event_ids))
