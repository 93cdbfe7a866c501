"""ELECTRA's two losses as sums in float32, so that means can be taken over replicas and steps."""

import tensorflow as tf

from electra_cli.modeling import compilation


def masked_lm_loss(logits: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross entropy of the generator, in nats (paper, section 2: L_MLM).

    Args:
      logits: float32 [batch, num_token_predictions, vocab_size].
      ids: int32 [batch, num_token_predictions], the originals.
      weights: float32 [batch, num_token_predictions].

    Returns:
      (sum over masked slots, number of masked slots), float32 scalars.
    """
    return tf.reduce_sum(_cross_entropy(logits, ids) * weights), tf.reduce_sum(weights)


def _cross_entropy(logits: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Cross entropy of each slot, float32 [batch, num_token_predictions].

    TensorFlow's own takes five times as long on a CPU, most of it to find where the gradient is one less.
    """

    @tf.custom_gradient
    def apply(logits, ids):
        largest = tf.reduce_max(tf.stop_gradient(logits), axis=-1)
        total = _sum_of_exp(logits, largest)
        of_originals = tf.gather(tf.stop_gradient(logits), ids, batch_dims=2)

        def gradients(gradient):
            return _logits_gradient(logits, largest, total, ids, gradient), None

        return tf.math.log(total) - (of_originals - largest), gradients

    return apply(logits, ids)


@compilation.part
def _sum_of_exp(logits, largest):
    return tf.reduce_sum(tf.exp(logits - largest[..., tf.newaxis]), axis=-1)


@compilation.part
def _logits_gradient(logits, largest, total, ids, gradient):
    probabilities = tf.exp(logits - largest[..., tf.newaxis]) / total[..., tf.newaxis]
    is_original = tf.equal(tf.range(logits.shape[-1]), ids[..., tf.newaxis])
    return (probabilities - tf.cast(is_original, tf.float32)) * gradient[..., tf.newaxis]


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
