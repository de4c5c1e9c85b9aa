"""HTTP/1.1 messages out of captured bytes, and what their bodies hold once every encoding is undone."""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HEAD_BYTES_MAX = 256 << 10
DECODED_BYTES_MAX = 256 << 20
ARCHIVE_MEMBERS_MAX = 10_000
_REQUEST = re.compile(rb"[A-Z]{3,10} \S+ HTTP/1\.[01]$")
_RESPONSE = re.compile(rb"HTTP/1\.[01] (\d{3})(?: .*)?$")


class UndecodableError(Exception):
    """A body whose encoding cannot be undone here."""


@dataclass(frozen=True, slots=True)
class HttpMessage:
    """One request or response. `body` is without chunks, but still under its content encoding."""

    start_line: bytes
    headers: tuple[tuple[str, str], ...]
    body: bytes
    chunked: bool

    @property
    def method(self) -> str:
        """Of a request."""
        return self.start_line.split(b" ", 1)[0].decode(errors="replace")

    def header(self, name: str) -> str:
        """All values of a header, joined by commas, lower case."""
        return ",".join(value for key, value in self.headers if key == name).lower()


@dataclass(frozen=True, slots=True)
class ParsedStream:
    """The messages of one direction of one connection, and how many bytes behind them were no message."""

    messages: tuple[HttpMessage, ...]
    bytes_unparsed: int


def parse_stream(stream: bytes, *, answers_to: Sequence[str] | None = None) -> ParsedStream:
    """Messages from the start of `stream`.

    Args:
        stream: all bytes of one direction.
        answers_to: None for requests; for responses the methods of the requests, in order (an answer to HEAD has no
            body).
    """
    messages: list[HttpMessage] = []
    position = 0
    while position < len(stream):
        method = None
        if answers_to is not None:
            final = sum(1 for message in messages if not message.start_line.split()[1].startswith(b"1"))
            method = answers_to[final] if final < len(answers_to) else "GET"
        parsed = _parse_one(stream, position, method)
        if parsed is None:
            break
        message, position = parsed
        messages.append(message)
    return ParsedStream(tuple(messages), len(stream) - position)


def _parse_one(stream: bytes, position: int, answers_to: str | None) -> tuple[HttpMessage, int] | None:
    end = stream.find(b"\r\n\r\n", position, position + HEAD_BYTES_MAX)
    if end < 0:
        return None
    start_line, *lines = stream[position:end].split(b"\r\n")
    is_response = answers_to is not None
    if not (_RESPONSE if is_response else _REQUEST).match(start_line):
        return None
    headers = tuple(_header(line) for line in lines)
    fields = dict(headers)
    body_at = end + 4
    if is_response and (answers_to == "HEAD" or start_line.split()[1] in (b"204", b"304") or _is_interim(start_line)):
        return HttpMessage(start_line, headers, b"", chunked=False), body_at
    if "chunked" in fields.get("transfer-encoding", "").lower():
        body, after = _dechunk(stream, body_at)
        return HttpMessage(start_line, headers, body, chunked=True), after
    length = fields.get("content-length", "")
    if length.isascii() and length.isdigit():
        after = min(body_at + int(length), len(stream))
    else:
        after = len(stream) if is_response else body_at
    return HttpMessage(start_line, headers, stream[body_at:after], chunked=False), after


def _is_interim(start_line: bytes) -> bool:
    return start_line.split()[1].startswith(b"1")


def _header(line: bytes) -> tuple[str, str]:
    name, _, value = line.partition(b":")
    return name.decode("latin-1").strip().lower(), value.decode("latin-1").strip()


def _dechunk(stream: bytes, position: int) -> tuple[bytes, int]:
    """The body and the position behind it; a body that breaks off ends with what there is."""
    parts: list[bytes] = []
    while True:
        line_end = stream.find(b"\r\n", position, position + 1024)
        size_text = stream[position:line_end].split(b";")[0].strip() if line_end >= 0 else b""
        try:
            size = int(size_text, 16)
        except ValueError:
            return b"".join(parts), len(stream)
        position = line_end + 2
        if size == 0:
            trailer_end = stream.find(b"\r\n", position)
            while trailer_end > position:  # trailers end with an empty line
                position, trailer_end = trailer_end + 2, stream.find(b"\r\n", trailer_end + 2)
            return b"".join(parts), trailer_end + 2 if trailer_end >= 0 else len(stream)
        parts.append(stream[position : position + size])
        position += size + 2
        if position > len(stream):
            return b"".join(parts), len(stream)


def decoded_views(message: HttpMessage) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of a body that the raw capture does not show as it is: without chunks, without content encodings.

    Raises:
        UndecodableError: an encoding is unknown, damaged or too large.
    """
    body = message.body
    if message.chunked:
        yield "body", body
    encodings = [part.strip() for part in message.header("content-encoding").split(",") if part.strip()]
    for encoding in reversed(encodings):
        body = _decode(body, encoding)
        yield f"body, {encoding} undone", body


def plain_body(message: HttpMessage) -> bytes:
    """The body with all encodings undone.

    Raises:
        UndecodableError: an encoding is unknown, damaged or too large.
    """
    body = message.body
    for name, view in decoded_views(message):
        if name.startswith("body"):
            body = view
    return body


def _decode(body: bytes, encoding: str) -> bytes:
    if encoding in ("identity", ""):
        return body
    if encoding in ("gzip", "x-gzip"):
        return _inflate(body, 31)
    if encoding == "deflate":
        try:
            return _inflate(body, 15)
        except UndecodableError:
            return _inflate(body, -15)
    if encoding == "zstd":
        return unzstd(body)
    raise UndecodableError(f"content encoding {encoding!r}")


def _inflate(body: bytes, window_bits: int) -> bytes:
    try:
        decoder = zlib.decompressobj(window_bits)
        content = decoder.decompress(body, DECODED_BYTES_MAX)
    except zlib.error as error:
        raise UndecodableError(str(error)) from error
    if decoder.unconsumed_tail:
        raise UndecodableError("the body is too large once it is decoded")
    return content


def unzstd(body: bytes) -> bytes:
    """What a Zstandard stream holds (RFC 8878).

    Raises:
        UndecodableError: it is damaged, larger than DECODED_BYTES_MAX, or cannot be decoded here.
    """
    try:
        import zstandard  # noqa: PLC0415 - not part of this tier's lock
    except ImportError as error:
        raise UndecodableError("zstd cannot be decoded here: install `zstandard`") from error
    try:
        content: bytes = zstandard.ZstdDecompressor().stream_reader(body).read(DECODED_BYTES_MAX + 1)
    except zstandard.ZstdError as error:
        raise UndecodableError(str(error)) from error
    if len(content) > DECODED_BYTES_MAX:
        raise UndecodableError("the body is too large once it is decoded")
    return content
