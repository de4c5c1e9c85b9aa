"""Bodies and queries of the gateway's doors."""

from typing import Protocol, TypeVar

import msgspec
from aiohttp import web

from infra.plumbing.errors import InvalidInputError
from infra.plumbing.http.bodies import NOT_JSON

M = TypeVar("M", bound=msgspec.Struct)
WAIT_S_MAX = 30.0


class Reader(Protocol):
    """Makes a message of a body: `decoded` or `unpacked`."""

    def __call__(self, body: bytes, kind: type[M]) -> M:
        """Raises InvalidInputError when the body is not one."""
        ...


async def body_of(request: web.Request, kind: type[M]) -> M:
    """The request's body as `kind`.

    Raises:
        InvalidInputError: it is not one.
    """
    return decoded(await request.read(), kind)


def decoded(body: bytes, kind: type[M]) -> M:
    """`body` as `kind`.

    Raises:
        InvalidInputError: it is not one.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except NOT_JSON as error:
        raise InvalidInputError(f"the body is not a usable {kind.__name__}: {error}.") from error


def unpacked(body: bytes, kind: type[M]) -> M:
    """`body`, MessagePack, as `kind`.

    Raises:
        InvalidInputError: it is not one.
    """
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the body is not a usable {kind.__name__}: {error}.") from error


def json_answer(body: bytes, *, status: int = 200) -> web.Response:
    """A JSON answer that nobody keeps."""
    return web.Response(
        status=status, body=body, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def wait_s_of(text: str) -> float:
    """How long a caller is willing to wait, from 0 to WAIT_S_MAX.

    Raises:
        InvalidInputError: something else.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not 0.0 <= seconds <= WAIT_S_MAX:
        raise InvalidInputError(f"wait_s must be a number from 0 to {WAIT_S_MAX:.0f}.")
    return seconds
