"""What a link does to the bytes that cross it: a pure plan of moments, and the modes of failure."""

import enum
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

RETRANSMIT_S = 0.2
"""The shortest wait of Linux before it sends a packet again."""
LOSSES_MAX = 6


class LinkMode(enum.StrEnum):
    """How a link treats connections."""

    OPEN = "open"
    BLACK_HOLE = "black-hole"
    """Connections are accepted and bytes are read, and nothing ever arrives or comes back."""
    RESET = "reset"
    """Connections, old and new, are reset."""
    ERRORS = "errors"
    """The far end is not asked: every HTTP request is answered 500."""


class LinkShape(msgspec.Struct, frozen=True, kw_only=True):
    """Disturbance of one link; the default disturbs nothing."""

    mode: LinkMode = LinkMode.OPEN
    latency_ms: float = 0.0
    """Added to each direction."""
    bandwidth_bytes_s: float = 0.0
    """Of each direction of each connection; 0: unlimited."""
    loss: float = 0.0
    """Share of packets that are lost: TCP sends them again, after RETRANSMIT_S and twice as long each further time."""


@dataclass(slots=True)
class Lane:
    """One direction of one connection: when the next chunk arrives at the far end."""

    free_at_s: float = 0.0

    def arrival_s(self, shape: LinkShape, length: int, now_s: float, losses: int = 0) -> float:
        """The moment at which `length` bytes read at `now_s` are to be passed on.

        Bytes leave one after the other at the bandwidth, then travel for the latency; order is kept. `losses` is how
        often they were lost on the way: what comes behind them waits too.
        """
        sent_s = max(now_s, self.free_at_s)
        if shape.bandwidth_bytes_s > 0:
            sent_s += length / shape.bandwidth_bytes_s
        sent_s += RETRANSMIT_S * (2.0**losses - 1.0)
        self.free_at_s = sent_s
        return sent_s + shape.latency_ms / 1000


def losses_of(shape: LinkShape, chance: Callable[[], float]) -> int:
    """How often in a row a packet is lost; `chance` draws from 0 to 1."""
    losses = 0
    while losses < LOSSES_MAX and chance() < shape.loss:
        losses += 1
    return losses
