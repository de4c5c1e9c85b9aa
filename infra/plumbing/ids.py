"""The only place that draws identifiers and randomness for them."""

import random
import re
import secrets

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{8,64}")


def new_request_id() -> str:
    """A fresh request id: 24 hex digits."""
    return secrets.token_hex(12)


def new_trace_id() -> str:
    """A fresh trace id (W3C Trace Context): 32 hex digits."""
    return secrets.token_hex(16)


def accept_request_id(offered: str | None) -> str:
    """`offered` when it is a harmless identifier (8 to 64 letters, digits, `_.:-`), else a fresh one."""
    return offered if offered and _REQUEST_ID.fullmatch(offered) else new_request_id()


class RequestIds:
    """Fresh request ids like `new_request_id`'s, drawn `BATCH` at a time: one system call for many."""

    BATCH = 256

    def __init__(self) -> None:
        self.ready: list[bytes] = []
        """Ids to pop; `take` when it is empty."""

    def take(self) -> bytes:
        """The next id: 24 hex digits, as bytes."""
        if not self.ready:
            digits = secrets.token_hex(12 * self.BATCH).encode()
            self.ready += [digits[start : start + 24] for start in range(0, len(digits), 24)]
        return self.ready.pop()


def is_request_id(offered: str) -> bool:
    """Whether `offered` is a harmless identifier: 8 to 64 letters, digits or any of `_.:-`."""
    return _REQUEST_ID.fullmatch(offered) is not None


_CHANCE = random.Random(secrets.randbits(256))  # noqa: S311 - chance, not secrets


def uniform(low: float, high: float) -> float:
    """A number between `low` and `high`: for jitter, so that processes do not act in step. Not for privacy noise.

    Mersenne Twister, seeded once from the system: a draw makes no system call, and requests are sampled by it.
    """
    return _CHANCE.uniform(low, high)
