"""Gaussian noise from a cryptographic source, and the sum that may leave a region.

Uniform bits are the key stream of ChaCha20 (RFC 8439) under a fresh 256-bit key per draw; Box-Muller turns them into
Gaussians. Never a global generator, never Mersenne Twister: who guesses the generator's state subtracts the noise.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from federation.privacy.clipping import NORM_TOLERANCE

Entropy = Callable[[int], bytes]
"""Gives that many bytes from the operating system (`secrets.token_bytes`); tests give fixed ones."""

KEY_BYTES = 32
GRID_STEPS = 1 << 20
"""Released sums are rounded to the clipping norm over this: the low bits of a float tell about its summands."""


def gaussian(shape: tuple[int, ...], *, entropy: Entropy) -> npt.NDArray[np.float64]:
    """Independent standard Gaussians of `shape`, from one fresh key.

    Raises:
        ValueError: `entropy` gave fewer bytes than asked.
    """
    count = int(np.prod(shape))
    pairs = (count + 1) // 2
    uniforms = _uniforms(2 * pairs, entropy)
    radius = np.sqrt(-2.0 * np.log(uniforms[:pairs]))
    angle = 2.0 * np.pi * uniforms[pairs:]
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return both[:count].reshape(shape)


def noised_sum(
    total: npt.NDArray[np.float64], *, clipping_norm: float, noise_multiplier: float, entropy: Entropy
) -> npt.NDArray[np.float32]:
    """`total` plus Gaussian noise of standard deviation noise_multiplier * clipping_norm in every coordinate.

    The privacy unit is one user of one round: each user's summand has a norm of at most `clipping_norm`. (Updates
    are taken up to a relative NORM_TOLERANCE above it, so the deviation is that much larger.) The result is rounded
    to a grid; that is post-processing and costs nothing.

    Raises:
        ValueError: norm or multiplier is not positive.
    """
    if clipping_norm <= 0.0 or noise_multiplier <= 0.0:
        raise ValueError("clipping norm and noise multiplier must be positive")
    deviation = noise_multiplier * clipping_norm * (1.0 + NORM_TOLERANCE)
    noised = total + deviation * gaussian(total.shape, entropy=entropy)
    step = clipping_norm / GRID_STEPS
    return (np.round(noised / step) * step).astype(np.float32)


def coin(probability: float, *, entropy: Entropy) -> bool:
    """True with this probability (to 2**-64), independently each time: Poisson sampling of one phone."""
    return int.from_bytes(entropy(8), "big") < round(probability * 2**64)


def _uniforms(count: int, entropy: Entropy) -> npt.NDArray[np.float64]:
    """`count` numbers in (0, 1), multiples of 2**-53 shifted by half a step, so that 0 never comes up."""
    key = entropy(KEY_BYTES)
    if len(key) != KEY_BYTES:
        raise ValueError(f"the entropy source gave {len(key)} bytes instead of {KEY_BYTES}")
    # A key is used once, so the nonce may stand still.
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8 * count))
    words = np.frombuffer(stream, dtype="<u8") >> np.uint64(11)
    return (words.astype(np.float64) + 0.5) * 2.0**-53
