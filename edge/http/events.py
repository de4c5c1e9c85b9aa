"""Feedback and privacy on their way to the home region. Nothing is said to be taken before the home region has it."""

import re
from typing import TypeVar

import msgspec

from edge.answering.parts import Parts
from edge.answering.relay import relay
from edge.calls import Caller
from edge.http.bodies import CallerChoice, CallerOnboarding
from edge.routing.concurrency import Priority
from edge.routing.dispatch import Attempts
from edge.routing.port import CallFailure, RegionCallError
from infra.contracts.event_schema import ReadBatch, read_batch, whole_ack
from infra.contracts.events import EVENTS_PER_BATCH_MAX, EventAck, EventBatch
from infra.contracts.messages import Invalidation, OptOutAnswer, OptOutCall, RelayedCall
from infra.contracts.residency import encode_regional
from infra.plumbing.errors import (
    AtollError,
    InvalidInputError,
    OverloadedError,
    UnauthorizedError,
    UnavailableError,
)
from infra.plumbing.http.bodies import NOT_JSON

M = TypeVar("M", bound=msgspec.Struct)

# Only names of fields and places in lists can stand in such a path, so it may be shown to the caller.
_PLACE = re.compile(r"`(\$[A-Za-z_.\[\]0-9]{0,80})`$")
_RETRY = "Send the same call again after Retry-After; events that were taken count once."


def parse_events(body: bytes) -> ReadBatch:
    """The checked batch, from a producer of any minor version, without a subject.

    Raises:
        InvalidInputError: not JSON of the right shape, no event, too many, or a batch that says whose it is.
    """
    try:
        read = read_batch(body)
    except NOT_JSON as error:
        raise _not_usable(error, "a batch of events", ("events", "schema_version")) from None
    if not 1 <= len(read.batch.events) + len(read.rejected) <= EVENTS_PER_BATCH_MAX:
        raise InvalidInputError(
            "the batch has the wrong size.", fix=f"Send JSON with: 1 to {EVENTS_PER_BATCH_MAX} events."
        )
    if read.batch.subject is not None:
        raise InvalidInputError(
            "the batch says whose it is.",
            fix="Send JSON with: events, schema_version. The token or session says whose.",
        )
    return read


def parse_choice(body: bytes) -> bool:
    """Whether the caller opts out.

    Raises:
        InvalidInputError: not JSON of the right shape.
    """
    return _decoded(body, CallerChoice, "a choice").opted_out


def parse_onboarding(body: bytes) -> CallerOnboarding:
    """What the caller chose.

    Raises:
        InvalidInputError: not JSON of the right shape.
    """
    return _decoded(body, CallerOnboarding, "what somebody chose")


async def take_read(parts: Parts, read: ReadBatch, caller: Caller, *, timeout_s: float) -> EventAck:
    """Hand on what this version knows of a batch, and tell what it does not. Raises as `take_events` does."""
    parts.metrics.unknown_fields.inc(read.unknown_fields)
    if not read.batch.events:
        return EventAck(accepted=0, duplicates=0, rejected=read.rejected)
    return whole_ack(await take_events(parts, read.batch, caller, timeout_s=timeout_s), read)


async def take_events(parts: Parts, batch: EventBatch, caller: Caller, *, timeout_s: float) -> EventAck:
    """Hand events to their subject's home region; returns when they are durable there.

    Raises:
        UnauthorizedError: neither token nor session says whose they are.
        InvalidInputError: the region refuses the batch.
        OverloadedError, UnavailableError: nothing is lost: the caller has them and sends them again.
    """
    try:
        ack = await _take_events(parts, batch, caller, timeout_s)
    except AtollError as error:
        parts.metrics.events.labels(type(error).__name__).inc()
        raise for_caller(error) from error
    parts.metrics.events.labels("acknowledged").inc()
    return ack


async def opt_out(parts: Parts, caller: Caller, *, opted_out: bool, timeout_s: float) -> None:
    """Tell the home region, then hold to it here at once.

    Raises:
        UnauthorizedError: no token.
        UnavailableError: the home region does not answer; nothing has changed.
    """
    if caller.principal is None:
        raise UnauthorizedError("this choice needs a token.", fix="Send `Authorization: Bearer <token>`.")
    attempts = parts.dispatcher.attempts(Priority.EVENT)
    try:
        if caller.subject is None:
            relayed = RelayedCall(token=caller.token or "", opted_out=opted_out)
            await relay(parts, caller.principal.home, relayed, OptOutAnswer, attempts, timeout_s=timeout_s)
            return
        version = await _choose(parts, OptOutCall(subject=caller.subject, opted_out=opted_out), attempts, timeout_s)
    except RegionCallError as error:
        raise for_caller(error) from error
    parts.ledger.apply(Invalidation(subject=caller.subject, subject_version=version, opted_out=opted_out))
    if opted_out:
        parts.filler.drop_subject(caller.subject)


async def _choose(parts: Parts, call: OptOutCall, attempts: Attempts, timeout_s: float) -> int:
    async def ask(url: str, timeout_s: float) -> int:
        return (await parts.region.opt_out(url, call, timeout_s=timeout_s)).version

    deadline_s = parts.clock.monotonic_s() + timeout_s
    reply = await parts.dispatcher.ask(
        parts.own_region, ask, deadline_s=deadline_s, attempts=attempts, try_timeout_s=timeout_s / 2
    )
    return reply.answer


async def _take_events(parts: Parts, batch: EventBatch, caller: Caller, timeout_s: float) -> EventAck:
    attempts = parts.dispatcher.attempts(Priority.EVENT)
    if caller.is_traveller and caller.principal is not None and caller.token is not None:
        call = RelayedCall(token=caller.token, events=encode_regional(batch))
        return await relay(parts, caller.principal.home, call, EventAck, attempts, timeout_s=timeout_s)
    if caller.viewer is None:
        raise UnauthorizedError(
            "nothing says whose events these are.", fix="Send `Authorization: Bearer <token>` or `Atoll-Session`."
        )
    owned = msgspec.structs.replace(batch, subject=caller.viewer)

    async def ask(url: str, timeout_s: float) -> EventAck:
        return await parts.region.send_events(url, owned, timeout_s=timeout_s)

    reply = await parts.dispatcher.ask(
        parts.own_region, ask, deadline_s=parts.clock.monotonic_s() + timeout_s, attempts=attempts,
        try_timeout_s=timeout_s / 2,
    )  # fmt: skip
    return reply.answer


def for_caller(error: AtollError) -> AtollError:
    """What a caller is told of a failed call to the region."""
    if not isinstance(error, RegionCallError):
        return error
    if error.failure is CallFailure.REFUSED:
        return InvalidInputError("the home region refused the call.", fix="Check ids, times and values.")
    if error.failure is CallFailure.SHED or error.status in (429, 503):
        return OverloadedError("the home region takes nothing at the moment.", fix=_RETRY)
    return UnavailableError("the home region does not answer.", fix=_RETRY)


def _decoded(body: bytes, kind: type[M], what: str) -> M:
    try:
        return msgspec.json.decode(body, type=kind)
    except NOT_JSON as error:
        raise _not_usable(error, what, kind.__struct_fields__) from None


def _not_usable(error: Exception, what: str, fields: tuple[str, ...]) -> InvalidInputError:
    place = _PLACE.search(str(error))
    where = f" at {place.group(1)}" if place is not None else ""
    return InvalidInputError(f"the body is not {what}{where}.", fix=f"Send JSON with: {', '.join(fields)}.")
