"""ELECTRA's two losses as sums in float32, so that means can be taken over replicas and steps."""

import tensorflow as tf


def masked_lm_loss(logits: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross entropy of the generator, in nats (paper, section 2: L_MLM).

    Args:
      logits: float32 [batch, num_token_predictions, vocab_size].
      ids: int32 [batch, num_token_predictions], the originals.
      weights: float32 [batch, num_token_predictions].

    Returns:
      (sum over masked slots, number of masked slots), float32 scalars.
    """
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=ids, logits=logits)
    return tf.reduce_sum(losses * weights), tf.reduce_sum(weights)


def rtd_loss(logits: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Binary cross entropy of the discriminator, in nats (paper, section 2: L_Disc).

    Args:
      logits: float32 [batch, seq_length].
      labels: int32 [batch, seq_length], 1 for a replaced token.
      mask: int32 [batch, seq_length], 1 for a real token.

    Returns:
      Sum over real tokens, a float32 scalar.
    """
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.cast(labels, tf.float32), logits=logits)
    return tf.reduce_sum(losses * tf.cast(mask, tf.float32))
