"""The full softmax over the catalogue, without keeping what can be computed twice."""

from typing import Any, Final

from central.training.runtime import tf

LOGIT_CAP: Final = 60.0
"""exp(60) still fits float32, so no pass for the row maximum is needed; trained logits stay far below."""


def full_softmax_loss(
    hidden: Any, table: Any, targets: Any, weights: Any, *, bfloat16: bool, excluded: Any = None
) -> Any:  # fmt: skip
    """Mean cross entropy of `targets` under softmax(hidden @ table^T), with its gradient computed in the same pass.

    Args:
        hidden: `[tokens, dim] float32`.
        table: `[num_items, dim] float32`.
        targets: `[tokens] int32`, rows of `table`.
        weights: `[tokens] float32`, 0 for positions that predict nothing.
        bfloat16: multiply in bfloat16 (sums stay in float32).
        excluded: `[n] int32` places in the flattened `[tokens, num_items]`: items that cannot be the token's target,
            left out of its softmax. None of them may be its target; one may stand there more than once.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def loss(hidden: Any, table: Any) -> Any:
        kind = tf.bfloat16 if bfloat16 else tf.float32
        wide_hidden, wide_table = tf.cast(hidden, kind), tf.cast(table, kind)
        logits = tf.matmul(wide_hidden, wide_table, transpose_b=True)
        exponentials = tf.exp(tf.minimum(logits, tf.cast(LOGIT_CAP, kind)))
        if excluded is not None:
            nothing = tf.zeros([tf.shape(excluded)[0]], kind)
            flat = tf.tensor_scatter_nd_update(tf.reshape(exponentials, [-1]), excluded[:, None], nothing)
            exponentials = tf.reshape(flat, tf.shape(logits))
        sums = tf.cast(tf.reduce_sum(exponentials, axis=1), tf.float32)
        of_target = tf.gather(table, targets)
        share = weights / tf.maximum(tf.reduce_sum(weights), 1.0)
        value = tf.reduce_sum(share * (tf.math.log(sums) - tf.reduce_sum(hidden * of_target, axis=1)))

        def gradient(upstream: Any) -> tuple[Any, Any]:
            scale = (upstream * share)[:, None]
            over_sum = scale / sums[:, None]
            pulled = tf.cast(tf.matmul(exponentials, wide_table), tf.float32) * over_sum - of_target * scale
            pushed = tf.matmul(exponentials, tf.cast(hidden * over_sum, kind), transpose_a=True)
            own = tf.math.unsorted_segment_sum(hidden * scale, targets, tf.shape(table)[0])
            return pulled, tf.cast(pushed, tf.float32) - own

        return value, gradient

    return loss(hidden, table)
