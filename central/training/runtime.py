"""The one door to TensorFlow: sets what must be set before its first import, and hands the modules out.

TensorFlow Recommenders 0.7 stands on Keras 2, which TensorFlow 2.20 takes from `tf_keras` only when
`TF_USE_LEGACY_KERAS` is set before the first import. Everything in central imports `tf`, `tfrs` and `keras` from here.
"""

import os
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # noqa: TID251 (TensorFlow reads it at import, there is no other way)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # noqa: TID251 (likewise; its start-up lines are not for people)

import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras as keras

__all__ = ["keras", "prefers_bfloat16", "seed_everything", "tf", "tfrs"]


def prefers_bfloat16(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine multiplies bfloat16 matrices faster than float32 ones."""
    try:
        flags = cpu_info.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def seed_everything(seed: int) -> None:
    """Same seed, same machine: same weights."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
