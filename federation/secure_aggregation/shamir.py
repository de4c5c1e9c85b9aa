"""Shamir's secret sharing (1979) of 32-byte secrets over the prime field of 2**256 + 297."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

PRIME = (1 << 256) + 297
"""The smallest prime above 2**256, so that every 32-byte secret is an element."""
SECRET_BYTES = 32
SHARE_BYTES = 33
_COEFFICIENT_BYTES = 48
"""So many random bytes reduced modulo PRIME are uniform to 2**-127."""

Entropy = Callable[[int], bytes]


class ShareError(ValueError):
    """Shares that do not fit together, or too few."""


def split(secret: bytes, *, holders: Sequence[int], threshold: int, entropy: Entropy) -> dict[int, bytes]:
    """Shares of `secret`, by holder; any `threshold` of them give it back, fewer say nothing.

    Args:
        secret: 32 bytes.
        holders: distinct non-negative numbers.
        threshold: at least 1 and at most the number of holders.
        entropy: source of the polynomial.

    Raises:
        ShareError: an argument is out of its bounds.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= len(holders) or len(set(holders)) != len(holders):
        raise ShareError("a secret has 32 bytes, and its distinct holders are at least the threshold")
    coefficients = [int.from_bytes(entropy(_COEFFICIENT_BYTES), "big") % PRIME for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret, "big"))
    shares = {}
    for holder in holders:
        value, point = 0, holder + 1
        for coefficient in coefficients:
            value = (value * point + coefficient) % PRIME
        shares[holder] = value.to_bytes(SHARE_BYTES, "big")
    return shares


def join(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """The secret from at least `threshold` shares (by holder; the lowest holders are used).

    Raises:
        ShareError: too few shares, a malformed one, or they give no 32-byte secret.
    """
    if len(shares) < threshold:
        raise ShareError(f"{len(shares)} shares, where {threshold} are needed")
    used = tuple(sorted(shares)[:threshold])
    weights = _weights(used)
    secret = sum([_value(shares[holder]) * weight for holder, weight in zip(used, weights, strict=True)]) % PRIME
    if secret >> (8 * SECRET_BYTES):
        raise ShareError("the shares do not belong together")
    return secret.to_bytes(SECRET_BYTES, "big")


@functools.lru_cache(maxsize=4096)
def _weights(holders: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's weights of the points of these holders at zero; the two secrets of a phone have the same holders.

    One inverse for all of them (Montgomery's trick): an inverse costs as much as a hundred products.
    """
    points = [holder + 1 for holder in holders]
    whole = math.prod(points) % PRIME
    # The numerator of a point is the product of the others, whole / point; so point joins the denominator.
    denominators = [
        point * math.prod([other - point for other in points if other != point]) % PRIME for point in points
    ]
    return tuple(whole * inverse % PRIME for inverse in _inverses(denominators))


def _inverses(values: Sequence[int]) -> list[int]:
    """The inverses of values that are not zero modulo PRIME."""
    before = [1]
    for value in values:
        before.append(before[-1] * value % PRIME)
    left = pow(before[-1], -1, PRIME)
    found = [0] * len(values)
    for index in range(len(values) - 1, -1, -1):
        found[index] = left * before[index] % PRIME
        left = left * values[index] % PRIME
    return found


def _value(share: bytes) -> int:
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise ShareError("a malformed share")
    return value
