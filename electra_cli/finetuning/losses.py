"""The loss of each kind of task, as a sum and its weight."""

import tensorflow as tf

TARGETS = "targets"


def weight(kind: str, targets: tf.Tensor) -> tf.Tensor:
    """Returns what the loss is divided by, a float32 scalar: rows, or of tagging words.

    Args:
      kind: the kind of task.
      targets: see `loss_sum`.
    """
    if kind == "tagging":
        return tf.reduce_sum(tf.cast(targets >= 0, tf.float32))
    return tf.cast(tf.shape(targets)[0], tf.float32)


def loss_sum(kind: str, logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Returns the sum of the losses of all rows (tagging: of all words), a float32 scalar.

    Classification and tagging: cross-entropy, in nats. Regression: the squared difference, in deviations of the
    training labels, so that 1 is guessing their mean. Question answering: the mean of the cross-entropies of the first
    and the last position.

    Args:
      kind: the kind of task.
      logits: float32 [rows, outputs]; tagging and question answering [rows, length, outputs].
      targets: classification int32 [rows]; regression float32 [rows], scaled (`LabelMap.scaled`); tagging int32
        [rows, length], -1 where there is no word; question answering int32 [rows, 2].
    """
    if kind == "regression":
        return tf.reduce_sum(tf.square(logits[:, 0] - targets))
    if kind == "question_answering":
        by_end = tf.transpose(logits, [0, 2, 1])  # [rows, 2, length]
        return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, by_end)) / 2.0
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(targets, 0), logits)
    return tf.reduce_sum(tf.where(targets >= 0, losses, 0.0))
