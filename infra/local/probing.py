"""Asking a process whether it lives and is ready, without an HTTP library: the supervisor stays small."""

import asyncio
import contextlib
import re
import ssl
from dataclasses import dataclass

from infra.local.records import ProbeKind

_ANSWER_BYTES_MAX = 16 << 10
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_WAITING_FOR = re.compile(rb'"for":\s*"([^"]{0,200})"')


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe found. `detail`: what the process waits for, or why it did not answer."""

    live: bool
    ready: bool
    detail: str = ""


async def probe(
    kind: ProbeKind, address: str, *, timeout_s: float, tls: ssl.SSLContext | None = None
) -> Finding:  # fmt: skip
    """Ask once; an answer that does not come in time is a process that is not live. `tls` is for HTTPS."""
    try:
        async with asyncio.timeout(timeout_s):
            if kind is ProbeKind.UNIX:
                return await _connect(address)
            if kind is ProbeKind.TCP:
                return await _connect_port(address)
            return await _get_ready(address, tls if kind is ProbeKind.HTTPS else None)
    except TimeoutError:
        return Finding(live=False, ready=False, detail=f"no answer within {timeout_s:g} s")
    except OSError as error:
        return Finding(live=False, ready=False, detail=error.strerror or "no connection")


def judge(answer: bytes) -> Finding:
    """What an HTTP answer to GET /health/ready means; a process without that page is ready when it answers."""
    status = _STATUS.match(answer)
    if status is None:
        return Finding(live=False, ready=False, detail="the answer is not HTTP")
    if status[1] in (b"200", b"404"):
        return Finding(live=True, ready=True)
    waiting = _WAITING_FOR.search(answer)
    detail = waiting[1].decode(errors="replace") if waiting else f"status {status[1].decode()}"
    return Finding(live=True, ready=False, detail=detail)


async def _connect(path: str) -> Finding:
    _reader, writer = await asyncio.open_unix_connection(path)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Finding(live=True, ready=True)


async def _connect_port(address: str) -> Finding:
    host, _, port = address.rpartition(":")
    _reader, writer = await asyncio.open_connection(host, int(port))
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Finding(live=True, ready=True)


async def _get_ready(address: str, tls: ssl.SSLContext | None) -> Finding:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
    try:
        writer.write(f"GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while chunk := await reader.read(_ANSWER_BYTES_MAX):
            answer += chunk
            if len(answer) >= _ANSWER_BYTES_MAX:
                break
        return judge(answer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
