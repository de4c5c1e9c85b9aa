"""The embedded grid's wire: frames of a 4-byte big-endian length and a msgpack array. No I/O.

A call is answered by a reply with the same id. Id 0 is never asked: replies with it are a topic's messages.
"""

import enum

import msgspec

from infra.plumbing.errors import InvalidInputError
from infra.plumbing.grid.port import KEY_BYTES_MAX, VALUE_BYTES_MAX

FRAME_BYTES_MAX = VALUE_BYTES_MAX + KEY_BYTES_MAX + 64
_HEAD_BYTES = 4


class Operation(enum.IntEnum):
    """What a client may ask."""

    PING = 0
    GET = 1
    PUT = 2
    DELETE = 3
    PUBLISH = 4
    SUBSCRIBE = 5


class Call(msgspec.Struct, array_like=True, frozen=True):
    """A question. `key` is the topic where there is one; `ttl_s` belongs to PUT."""

    id: int
    operation: Operation
    key: str = ""
    value: bytes = b""
    ttl_s: float = 0.0


class Reply(msgspec.Struct, array_like=True, frozen=True):
    """An answer (`error` empty: done), or with id 0 a message of `topic` (`value` None: some were missed)."""

    id: int
    value: bytes | None = None
    topic: str = ""
    error: str = ""


class FrameError(InvalidInputError):
    """The peer does not speak this protocol; the connection is of no more use."""


_ENCODER = msgspec.msgpack.Encoder()
_CALLS = msgspec.msgpack.Decoder(Call)
_REPLIES = msgspec.msgpack.Decoder(Reply)


def encode_frame(message: Call | Reply) -> bytes:
    """One frame."""
    body = _ENCODER.encode(message)
    return len(body).to_bytes(_HEAD_BYTES, "big") + body


def decode_call(body: bytes) -> Call:
    """A frame's body as a call.

    Raises:
        FrameError: it is none.
    """
    try:
        return _CALLS.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError("a frame is not a call.") from error


def decode_reply(body: bytes) -> Reply:
    """A frame's body as a reply.

    Raises:
        FrameError: it is none.
    """
    try:
        return _REPLIES.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError("a frame is not a reply.") from error


class FrameReader:
    """Puts frames together from whatever pieces arrive. What was fed stays until it is taken: take before you feed."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._start = 0

    def feed(self, data: bytes) -> None:
        """Put a piece behind what is there."""
        del self._buffer[: self._start]
        self._start = 0
        self._buffer += data

    def take(self) -> bytes | None:
        """The body of the next complete frame, or None.

        Raises:
            FrameError: the frame says it is longer than FRAME_BYTES_MAX.
        """
        begin = self._start + _HEAD_BYTES
        if len(self._buffer) < begin:
            return None
        length = int.from_bytes(self._buffer[self._start : begin], "big")
        if length > FRAME_BYTES_MAX:
            raise FrameError(f"a frame of {length} bytes is longer than {FRAME_BYTES_MAX}.")
        if len(self._buffer) < begin + length:
            return None
        self._start = begin + length
        return bytes(self._buffer[begin : self._start])
