"""Reading bodies: bounded in size and time, decoded strictly, refused by the name of the field, not its value."""

import asyncio
import re
from typing import TypeVar

import msgspec
from aiohttp import web

from infra.contracts.event_schema import ReadBatch, read_batch
from infra.plumbing.errors import AtollError, InvalidInputError
from infra.plumbing.http.bodies import NOT_JSON

M = TypeVar("M", bound=msgspec.Struct)

BODY_READ_TIMEOUT_S = 5.0
_PATH = re.compile(r"at `\$\.?(?P<path>[A-Za-z0-9_.\[\]]{1,80})`")
_HARMLESS = re.compile(r"(Expected `[^`]{1,60}`(, got `[a-z]{1,20}`)?|Object missing required field `[a-z_]{1,40}`)")


async def read_body(request: web.Request, *, bytes_max: int) -> bytes:
    """The body, at most `bytes_max` of it.

    Raises:
        HTTPRequestEntityTooLarge: it is larger.
        HTTPRequestTimeout: it did not arrive within BODY_READ_TIMEOUT_S.
        RequestPayloadError: it is not coded as its head says; the frame around every handler knows what to answer.
    """
    declared = request.content_length
    if declared is not None and declared > bytes_max:
        raise web.HTTPRequestEntityTooLarge(max_size=bytes_max, actual_size=declared)
    # A small body has come with its head: nothing is waited for then.
    if request.content.is_eof():
        body = await request.read()
    else:
        body = await _read_in_time(request)
    if len(body) > bytes_max:
        raise web.HTTPRequestEntityTooLarge(max_size=bytes_max, actual_size=len(body))
    return body


async def _read_in_time(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_READ_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None


def decode_body(body: bytes, kind: type[M]) -> M:
    """The message in `body`.

    Raises:
        InvalidInputError: it is not JSON, or a field is missing, of the wrong type or out of its range.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _named(str(error)) from None
    except NOT_JSON:
        raise InvalidInputError("the body is not valid JSON in UTF-8.") from None


def decode_batch(body: bytes) -> ReadBatch:
    """The events in `body`, from an edge of any minor version of their schema.

    Raises:
        InvalidInputError: as `decode_body` does.
    """
    try:
        return read_batch(body)
    except msgspec.ValidationError as error:
        raise _named(str(error)) from None
    except NOT_JSON:
        raise InvalidInputError("the body is not valid JSON in UTF-8.") from None


def _named(message: str) -> AtollError:
    """What is wrong with which field. Of msgspec's own words only those without a value of the caller's are kept."""
    path = _PATH.search(message)
    where = f"the field {path['path']}" if path else "the body"
    harmless = _HARMLESS.match(message)
    if harmless is None:
        return InvalidInputError(f"{where} holds a value that is not allowed.")
    return InvalidInputError(f"{where} is not as it must be: {harmless[0].replace('`', '')}.")
