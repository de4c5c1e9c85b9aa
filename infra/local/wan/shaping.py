"""What a link does to the bytes that cross it: a pure plan of moments, and the modes of failure."""

import enum
from dataclasses import dataclass

import msgspec


class LinkMode(enum.StrEnum):
    """How a link treats connections."""

    OPEN = "open"
    BLACK_HOLE = "black-hole"
    """Connections are accepted and bytes are read, and nothing ever arrives or comes back."""
    RESET = "reset"
    """Connections, old and new, are reset."""


class LinkShape(msgspec.Struct, frozen=True, kw_only=True):
    """Disturbance of one link; the default disturbs nothing."""

    mode: LinkMode = LinkMode.OPEN
    latency_ms: float = 0.0
    """Added to each direction."""
    bandwidth_bytes_s: float = 0.0
    """Of each direction of each connection; 0: unlimited."""


@dataclass(slots=True)
class Lane:
    """One direction of one connection: when the next chunk arrives at the far end."""

    free_at_s: float = 0.0

    def arrival_s(self, shape: LinkShape, length: int, now_s: float) -> float:
        """The moment at which `length` bytes read at `now_s` are to be passed on.

        Bytes leave one after the other at the bandwidth, then travel for the latency; order is kept.
        """
        sent_s = max(now_s, self.free_at_s)
        if shape.bandwidth_bytes_s > 0:
            sent_s += length / shape.bandwidth_bytes_s
        self.free_at_s = sent_s
        return sent_s + shape.latency_ms / 1000
