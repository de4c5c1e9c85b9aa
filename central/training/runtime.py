"""The one door to TensorFlow: sets what must be set before its first import, and hands the modules out.

TensorFlow Recommenders 0.7 stands on Keras 2, which TensorFlow 2.20 takes from `tf_keras` only when
`TF_USE_LEGACY_KERAS` is set before the first import. Everything in central imports `tf`, `tfrs` and `keras` from here.
"""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # noqa: TID251 (TensorFlow reads it at import, there is no other way)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # noqa: TID251 (likewise; its start-up lines are not for people)

import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras as keras

# It warns of what is so on purpose: parts without a gradient where a dataset has no categories or no order.
logging.getLogger("tensorflow").setLevel(logging.ERROR)

__all__ = ["keras", "native_words_kept", "prefers_bfloat16", "seed_everything", "tf", "tfrs"]


def prefers_bfloat16(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine multiplies bfloat16 matrices faster than float32 ones."""
    try:
        flags = cpu_info.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@contextlib.contextmanager
def native_words_kept() -> Iterator[None]:
    """What libraries write past Python to the error output is said only if the block fails: it is not for people."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        outside = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(outside, kept.read())
            raise
        finally:
            os.dup2(outside, 2)
            os.close(outside)


def seed_everything(seed: int) -> None:
    """Same seed, same machine: same weights."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
