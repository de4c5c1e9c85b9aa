"""Fixed-point numbers in the ring of integers modulo 2**32: sums are exact, whoever adds them in whatever order.

Numbers are cut towards zero, so that the norm of what is sent is never above the norm that was clipped to: the
privacy accounting needs no room for rounding. A step is the clipping norm over STEPS, and COHORT_MAX of the largest
values that clipping allows still fit into half the ring.
"""

import numpy as np
import numpy.typing as npt

RingArray = npt.NDArray[np.uint32]
Float64Array = npt.NDArray[np.float64]

RING_BITS = 32
STEPS = 1 << 18
COHORT_MAX = (1 << (RING_BITS - 1)) // STEPS - 1
"""8,191 phones in one sum."""


def to_ring(update: npt.NDArray[np.floating], *, clipping_norm: float) -> RingArray:
    """`update` as ring numbers, same shape.

    Raises:
        ValueError: a number is not finite or larger than the clipping norm.
    """
    scaled = update.astype(np.float64) * (STEPS / clipping_norm)
    # The float32 of a clipped update may lie a rounding above the norm; the cut brings it back.
    if not np.isfinite(scaled).all() or np.abs(scaled).max(initial=0.0) >= STEPS * (1.0 + 1e-6) + 1.0:
        raise ValueError("an update must be finite and clipped before it is put into the ring")
    whole = np.clip(np.trunc(scaled), -STEPS, STEPS).astype(np.int64)
    return whole.astype(np.uint32)


def from_ring(total: RingArray, *, clipping_norm: float) -> Float64Array:
    """A sum of at most COHORT_MAX updates as numbers again, same shape."""
    signed: Float64Array = total.view(np.int32).astype(np.float64) * (clipping_norm / STEPS)
    return signed


def to_wire(values: RingArray) -> bytes:
    """Little-endian bytes."""
    return np.ascontiguousarray(values, dtype="<u4").tobytes()


def from_wire(raw: bytes) -> RingArray:
    """Inverse of `to_wire`; a read-only view. The caller checks the length."""
    return np.frombuffer(raw, dtype="<u4")
