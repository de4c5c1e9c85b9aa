"""Commands over a Unix socket: one JSON object a line there, one back.

``{"command": "kill", "region": "us-east", "part": "all"}`` is answered by ``{"ok": true, "result": ...}`` or
``{"ok": false, "error": "...", "fix": "..."}``.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from infra.plumbing.errors import AtollError, InvalidInputError, UnavailableError

REQUEST_BYTES_MAX = 64 << 10
ANSWER_BYTES_MAX = 8 << 20

Request = dict[str, Any]
Handler = Callable[[Request], Awaitable[Any]]


class ControlUnavailableError(UnavailableError):
    """Nobody answers at the socket: the process that owned it is gone."""


class ControlRefusedError(AtollError):
    """The process answered that it cannot do what was asked."""


async def serve_control(path: Path, handler: Handler) -> asyncio.Server:
    """Answer commands at `path`, readable by the owner only; a socket left by a dead process is replaced."""
    path.unlink(missing_ok=True)  # noqa: ASYNC240 - once, before anything is served

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.LimitOverrunError, ValueError):
            while line := await reader.readline():
                writer.write(await _answer(line, handler) + b"\n")
                await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(connected, path=str(path), limit=REQUEST_BYTES_MAX)
    path.chmod(0o600)  # noqa: ASYNC240 - once, before anything is served
    return server


async def _answer(line: bytes, handler: Handler) -> bytes:
    try:
        request = msgspec.json.decode(line, type=dict[str, Any])
        return msgspec.json.encode({"ok": True, "result": await handler(request)})
    except AtollError as error:
        return msgspec.json.encode({"ok": False, "error": error.message, "fix": error.fix})
    except msgspec.DecodeError as error:
        return msgspec.json.encode({"ok": False, "error": f"the command is not a JSON object: {error}.", "fix": ""})


def call_control(path: Path, request: Request, *, timeout_s: float = 10.0) -> Any:
    """Send one command and wait for its answer; returns `result`.

    Raises:
        ControlUnavailableError: nobody answers in time.
        ControlRefusedError: the answer is an error.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            connection.sendall(msgspec.json.encode(request) + b"\n")
            answer = msgspec.json.decode(_read_line(connection), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise ControlUnavailableError(
            f"nobody answers at {path}: {error}.", fix="Start the world with `./atoll world up`."
        ) from error
    if not answer.get("ok"):
        raise ControlRefusedError(str(answer.get("error")), fix=str(answer.get("fix", "")))
    return answer.get("result")


def text_field(request: Request, name: str, default: str | None = None) -> str:
    """A string of a command.

    Raises:
        InvalidInputError: it is missing and has no default, or is not a string.
    """
    value = request.get(name, default)
    if not isinstance(value, str):
        raise InvalidInputError(f"the command has no {name!r}.", fix=f"Send {name} as a string.")
    return value


def number_field(request: Request, name: str, default: float) -> float:
    """A number of a command, not negative.

    Raises:
        InvalidInputError: it is not one.
    """
    value = request.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise InvalidInputError(f"{name} is not a number of 0 or more.", fix=f"Send {name} as a number.")
    return float(value)


def _read_line(connection: socket.socket) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        chunk = connection.recv(65_536)
        if not chunk or len(received) > ANSWER_BYTES_MAX:
            raise OSError("the answer broke off")
        received += chunk
    return bytes(received)
