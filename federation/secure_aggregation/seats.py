"""Who sits beside whom in a large cohort: drawn by all of its phones together, so that no gateway chooses. No I/O.

A phone's neighbours hold the shares of its secrets: whoever seats it among accomplices reads its update. So seats are
drawn by commit and reveal. Every advert carries a commitment; the gateway shows each phone the commitments of the whole
cohort (`Gathering`); only then does a phone give its nonce away, and the order of the seats is a hash over all of it.
Whatever a phone was shown, its own nonce was not known when that list was made.

Who leaves in between keeps a nonce back. If the others were seated without it, a gateway whose accomplices leave or
stay would choose among as many seatings as it has subsets of them. So the draw is made again without those who left,
with fresh nonces of all others, and a phone takes part in DRAWS_MAX at most: so many seatings there are to choose from.
Nonces are the links of a hash chain (Lamport 1981): one commitment is enough for all draws.
"""

import functools
import hashlib

NONCE_BYTES = 16
DRAWS_MAX = 4


def chain(secret: bytes) -> tuple[bytes, ...]:
    """The commitment, and the nonces of the first to the last draw; each is a hash of the one behind it."""
    links = [_link(secret)]
    for _ in range(DRAWS_MAX):
        links.append(_link(links[-1]))
    return tuple(reversed(links))


def commitment_of(nonce: bytes, *, draw: int) -> bytes:
    """The commitment of whoever has this nonce in this draw, counted from 1."""
    for _ in range(draw):
        nonce = _link(nonce)
    return nonce


def split(commitments: bytes) -> tuple[bytes, ...]:
    """The commitments of a gathering, or its nonces, one by one.

    Raises:
        ValueError: it is cut off, or one stands in it twice.
    """
    found = tuple(commitments[at : at + NONCE_BYTES] for at in range(0, len(commitments), NONCE_BYTES))
    if len(commitments) % NONCE_BYTES or len(set(found)) != len(found):
        raise ValueError("commitments of another length, or one of them twice")
    return found


@functools.lru_cache(maxsize=16)
def order(session: str, draw: int, commitments: bytes, nonces: bytes) -> tuple[bytes, ...]:
    """Commitments by seat. Remembered: it is the same for a whole cohort.

    Args:
        session: of the gateway.
        draw: from 1.
        commitments: of the gathering, in its order.
        nonces: in the same order.

    Raises:
        ValueError: a nonce is not that of its commitment.
    """
    found = split(commitments)
    shown = [nonces[at : at + NONCE_BYTES] for at in range(0, len(nonces), NONCE_BYTES)]
    if len(shown) != len(found) or any(
        commitment_of(nonce, draw=draw) != one for nonce, one in zip(shown, found, strict=True)
    ):
        raise ValueError("a nonce is not what was committed to")
    seed = hashlib.sha256(f"atoll seats\0{session}\0{draw}\0".encode() + commitments + nonces).digest()
    return tuple(sorted(found, key=lambda one: hashlib.sha256(seed + one).digest()))


def _link(value: bytes) -> bytes:
    return hashlib.sha256(b"atoll seat\0" + value).digest()[:NONCE_BYTES]
