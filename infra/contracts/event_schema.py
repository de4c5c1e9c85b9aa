"""The schema of events over time: what producers of other versions may send, and what may change between versions.

Within a major version fields and event types are only added, and an added field has a default. So

* a producer of an older minor sends less than this code knows: the defaults stand in;
* a producer of a newer minor sends more: unknown fields are left out and counted, events of an unknown type are
  turned back one by one, the others are taken;
* a producer of another major is refused as a whole.

`event_schema.json` records the schema of the last version. At start-up a region compares its own messages with it
(`problems`): whatever would break producers or the log is refused, with what broke and what to do.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from infra.contracts.event_weights import EventType
from infra.contracts.events import SCHEMA_VERSION, Event, EventAck, EventBatch, LoggedEvent, RejectedEvent
from infra.contracts.residency import Global, GlobalMessage, Regional, RegionalMessage

RECORD = Path(__file__).with_name("event_schema.json")
_TYPES = frozenset(kind.value for kind in EventType)
_MESSAGES: tuple[type[msgspec.Struct], ...] = (EventBatch, EventAck, LoggedEvent)
"""What is written by one process and read by another of another version; what they hold is described with them."""
_RAISE_MINOR = "Raise the minor in SCHEMA_VERSION (infra/contracts/events.py) and run `./atoll events schema --record`."
_RAISE_MAJOR = (
    "Undo it, or give the field a default and keep the old one; if it must be, raise the major in SCHEMA_VERSION, "
    "replay or expire the logs of older majors, and run `./atoll events schema --record`."
)


class SchemaRecord(GlobalMessage, frozen=True, kw_only=True):
    """A schema as it is recorded. `fields`: by `Message.field`, its type; `required`: those without a default."""

    version: Global[str]
    fields: Global[dict[str, str]]
    required: Global[tuple[str, ...]]
    types: Global[tuple[str, ...]]
    fingerprint: Global[str] = ""

    def with_fingerprint(self) -> "SchemaRecord":
        """The record with the hash of everything else in it."""
        bare = msgspec.structs.replace(self, fingerprint="")
        digest = hashlib.sha256(msgspec.json.encode(bare, order="sorted")).hexdigest()
        return msgspec.structs.replace(self, fingerprint=digest)


class SchemaProblem(GlobalMessage, frozen=True, kw_only=True):
    """A change that the versions do not allow."""

    what: Global[str]
    fix: Global[str]


class ReadBatch(RegionalMessage, frozen=True, kw_only=True):
    """A batch as far as this version knows it."""

    batch: Regional[EventBatch]
    unknown_fields: Global[int] = 0
    """How many fields were left out."""
    rejected: Regional[tuple[RejectedEvent, ...]] = ()
    """Events of types that only a newer minor knows, by their place in what was sent."""
    places: Global[tuple[int, ...]] = ()
    """Places in what was sent of the events in `batch`, when some were rejected."""


def parse_version(text: str) -> tuple[int, int]:
    """Major and minor.

    Raises:
        ValueError: it is not two numbers with a dot between them.
    """
    major, dot, minor = text.partition(".")
    if not dot or not (major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit()):
        raise ValueError("schema_version must be two numbers with a dot between them")
    return int(major), int(minor)


class _StrictEvent(Event, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event without a field that this version does not know."""


class _StrictBatch(EventBatch, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch of them."""

    events: Regional[tuple[_StrictEvent, ...]]


_BATCH = msgspec.json.Decoder(EventBatch)
_STRICT = msgspec.json.Decoder(_StrictBatch)
_KNOWN: Mapping[type, frozenset[str]] = {kind: frozenset(kind.__struct_fields__) for kind in (Event, EventBatch)}


def read_batch(body: bytes) -> ReadBatch:
    """The batch in a JSON body, from a producer of any minor version.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: it is not JSON, or not a batch.
    """
    try:
        batch = _BATCH.decode(body)
    except msgspec.ValidationError:
        return _read_newer(body)
    unknown = _unknown_fields(msgspec.json.decode(body)) if _holds_more(body) else 0
    return ReadBatch(batch=batch, unknown_fields=unknown)


def whole_ack(ack: EventAck, read: ReadBatch) -> EventAck:
    """An acknowledgement of what was passed on, told by the places in what was sent."""
    if not read.rejected:
        return ack
    moved = [RejectedEvent(index=read.places[one.index], reason=one.reason) for one in ack.rejected]
    rejected = tuple(sorted([*moved, *read.rejected], key=lambda one: one.index))
    return msgspec.structs.replace(ack, rejected=rejected)


def describe() -> SchemaRecord:
    """The schema of this code."""
    _, components = msgspec.json.schema_components(_MESSAGES)
    fields: dict[str, str] = {}
    required: list[str] = []
    for name, component in components.items():
        required += [f"{name}.{field}" for field in component.get("required", ())]
        for field, schema in component.get("properties", {}).items():
            shape = {key: value for key, value in schema.items() if key not in ("default", "description", "title")}
            fields[f"{name}.{field}"] = msgspec.json.encode(shape, order="sorted").decode()
    types = tuple(sorted(kind.value for kind in EventType))
    return SchemaRecord(
        version=SCHEMA_VERSION, fields=dict(sorted(fields.items())), required=tuple(sorted(required)), types=types
    ).with_fingerprint()


def load_record(path: Path = RECORD) -> SchemaRecord:
    """What was recorded.

    Raises:
        OSError, msgspec.DecodeError: the file cannot be read.
    """
    return msgspec.json.decode(path.read_bytes(), type=SchemaRecord)


def problems(recorded: SchemaRecord, current: SchemaRecord) -> list[SchemaProblem]:
    """Everything that changed between the two and may not under the version that `current` claims; empty: all is well.

    An equal version allows no change, a newer minor allows additions, a newer major is recorded before it runs.
    """
    if recorded.fingerprint != recorded.with_fingerprint().fingerprint:
        return [SchemaProblem(what="the recorded schema was edited by hand", fix="Restore event_schema.json.")]
    was, now = parse_version(recorded.version), parse_version(current.version)
    if now < was or now[0] != was[0]:
        what = f"the code says schema {current.version}, {recorded.version} is recorded"
        return [SchemaProblem(what=what, fix="Run `./atoll events schema --record` once the change is reviewed.")]
    found = [SchemaProblem(what=what, fix=_RAISE_MAJOR) for what in _breaks(recorded, current)]
    if now == was:
        found += [SchemaProblem(what=what, fix=_RAISE_MINOR) for what in _additions(recorded, current)]
    return found


def _breaks(was: SchemaRecord, now: SchemaRecord) -> list[str]:
    gone = [f"{name} was removed" for name in was.fields if name not in now.fields]
    changed = [
        f"{name} was {shape} and is {now.fields[name]}"
        for name, shape in was.fields.items()
        if name in now.fields and now.fields[name] != shape
    ]
    needed = [f"{name} is required now" for name in now.required if name not in was.required]
    types = [f"the event type {name} was removed" for name in was.types if name not in now.types]
    return gone + changed + needed + types


def _additions(was: SchemaRecord, now: SchemaRecord) -> list[str]:
    fields = [f"{name} was added" for name in now.fields if name not in was.fields and name not in now.required]
    optional = [f"{name} is not required any more" for name in was.required if name not in now.required]
    return (
        fields
        + [name for name in optional if name.split(" ")[0] in now.fields]
        + [f"the event type {name} was added" for name in now.types if name not in was.types]
    )


def _holds_more(body: bytes) -> bool:
    """Whether the body holds a field that this version does not know. Costs a second decoding, 0.3 us an event."""
    try:
        _STRICT.decode(body)
    except msgspec.ValidationError:
        return True
    return False


def _unknown_fields(sent: Any) -> int:
    """How many fields of a batch and its events are not known here."""
    count = sum(name not in _KNOWN[EventBatch] for name in sent)
    return count + sum(name not in _KNOWN[Event] for event in sent["events"] for name in event)


def _read_newer(body: bytes) -> ReadBatch:
    """A batch that could not be read as a whole: from a newer minor its unknown types are turned back, one by one.

    Raises:
        msgspec.ValidationError: it is wrong for another reason.
    """
    sent = msgspec.json.decode(body)
    if not _is_newer(sent):
        _BATCH.decode(body)
    kept, places, rejected = [], [], []
    for index, event in enumerate(sent["events"]):
        kind = event.get("type") if isinstance(event, dict) else None
        if isinstance(kind, str) and kind not in _TYPES:
            rejected.append(RejectedEvent(index=index, reason="type is not known here: its schema is newer"))
        else:
            kept.append(event)
            places.append(index)
    batch = msgspec.convert({**sent, "events": kept}, EventBatch)
    return ReadBatch(
        batch=batch, unknown_fields=_unknown_fields({**sent, "events": kept}), rejected=tuple(rejected),
        places=tuple(places),
    )  # fmt: skip


def _is_newer(sent: Any) -> bool:
    if not isinstance(sent, dict) or not isinstance(sent.get("events"), list):
        return False
    try:
        version = parse_version(str(sent.get("schema_version", "")))
    except ValueError:
        return False
    ours = parse_version(SCHEMA_VERSION)
    return version[0] == ours[0] and version[1] > ours[1]
