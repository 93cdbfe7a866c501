"""What each network of a pretrainer computes by itself, on text as it is, without masks and corruption."""

import tensorflow as tf
import tf_keras

from electra_cli.modeling.encoders import ElectraEncoder
from electra_cli.objectives.base import Pretrainer
from electra_cli.objectives.electra_pretrainer import ElectraPretrainer

Inputs = dict[str, tf.Tensor]


def encoder_of(model: Pretrainer, role: str) -> ElectraEncoder:
    """Returns the network of a role, 'discriminator' or 'generator', which the model must have."""
    if not isinstance(model, ElectraPretrainer):
        return model.encoder_network
    network = model.discriminator_network if role == "discriminator" else model.generator_network
    assert network is not None
    return network


def masked_lm_of(model: Pretrainer) -> tf_keras.layers.Layer:
    """Returns the head of the generator, which the model must have."""
    assert model.masked_lm is not None
    return model.masked_lm


def hidden_states(model: Pretrainer, role: str, inputs: Inputs) -> list[tf.Tensor]:
    """Returns the output of each layer, float32 [batch, seq_length, hidden_size].

    Args:
      model: a pretrainer of `build_pretrainer`.
      role: 'discriminator' or 'generator'.
      inputs: int32 [batch, seq_length] of `features.UNMASKED`.
    """
    return encoder_of(model, role)(inputs, training=False)["encoder_outputs"]


def discriminator_logits(model: ElectraPretrainer, encoded: tf.Tensor) -> tf.Tensor:
    """Returns float32 [batch, seq_length]: the logits of "was replaced" from the last layer's output."""
    logits = model.discriminator_head(model.discriminator_projection(encoded))
    return tf.cast(tf.squeeze(logits, axis=-1), tf.float32)


def generator_logits(model: Pretrainer, encoded: tf.Tensor, positions: tf.Tensor | None = None) -> tf.Tensor:
    """Returns float32 [batch, n, vocab_size]: the logits of tokens from the last layer's output.

    Args:
      model: a pretrainer.
      encoded: [batch, seq_length, hidden_size].
      positions: int32 [batch, n]; None: all.
    """
    if positions is None:
        batch_size, length = tf.shape(encoded)[0], tf.shape(encoded)[1]
        positions = tf.tile(tf.range(length)[tf.newaxis], [batch_size, 1])
    return tf.cast(masked_lm_of(model)(encoded, positions), tf.float32)
