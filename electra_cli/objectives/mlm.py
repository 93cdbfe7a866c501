"""BERT's masked language modeling: the baseline that ELECTRA is compared with, and what its generator learns."""

from typing import ClassVar

import numpy as np
import tensorflow as tf
import tf_keras

from electra_cli.modeling import features
from electra_cli.modeling.encoders import build_discriminator, encode
from electra_cli.modeling.fused import jit_region
from electra_cli.modeling.layers import gelu, truncated_normal
from electra_cli.objectives.base import Objective, Pretrainer, Tensors, ratio

# A masked language model has learned something when its loss is this fraction below that of the unigram distribution.
_MIN_GAIN = 0.01


class MaskedLMPretrainer(Pretrainer):
    """An encoder that predicts masked tokens (BERT, arXiv 1810.04805, section 3.1, without next-sentence prediction).

    The encoder is as those of `ElectraPretrainer`; activation and initializer are the head's.
    """

    def __init__(
        self,
        encoder_network: tf_keras.layers.Layer,
        activation,
        initializer: tf_keras.initializers.Initializer,
        name: str | None = None,
    ):
        super().__init__(name=name, autocast=False)
        self.encoder_network = encoder_network
        self.masked_lm = self.new_masked_lm(encoder_network, activation, initializer, "masked_lm")

    def call(self, inputs, training=None, seed=None):
        """Returns `lm_outputs`, logits of the slots, float32 [batch, num_token_predictions, vocab_size].

        Args:
          inputs: `features.UNMASKED`, int [batch, seq_length], and int [batch, num_token_predictions]
            `masked_lm_positions`.
          training: whether to drop out.
          seed: int32 [2] that dropout follows from; None: drawn from TensorFlow's global generator.
        """
        encoded = encode(self.encoder_network, inputs, training, seed)
        return {"lm_outputs": tf.cast(self.masked_lm(encoded, inputs[features.MASKED_LM_POSITIONS]), tf.float32)}

    @property
    def networks(self) -> dict[str, tf_keras.layers.Layer]:
        """Its one network, which has the role of a generator."""
        return {"generator": self.encoder_network}

    @property
    def checkpoint_items(self) -> dict[str, tf_keras.layers.Layer]:
        """The encoder, as 'encoder'."""
        return {"encoder": self.encoder_network}


class MaskedLMObjective(Objective):
    """Cross entropy of the masked tokens."""

    loss_names: ClassVar[tuple[str, ...]] = ("masked_lm_loss",)

    def _build_model(self) -> Pretrainer:
        initializer = truncated_normal(self._config.model.initializer_range)
        return MaskedLMPretrainer(build_discriminator(self._config), gelu, initializer, name="masked_lm_pretrainer")

    def sum_shapes(self) -> dict[str, list[int]]:
        """Those of `masked_lm_sums`, scalars."""
        return {name: [] for name in ("masked_lm_loss", "masked_lm_weight", "masked_lm_correct", "real_tokens")}

    def batch_weights(self, inputs: Tensors) -> list[tf.Tensor]:
        """The number of masked slots."""
        return [tf.reduce_sum(inputs[features.MASKED_LM_WEIGHTS])]

    def loss_and_sums(
        self, inputs: Tensors, outputs: Tensors, global_weights: list[tf.Tensor]
    ) -> tuple[tf.Tensor, Tensors]:
        """The mean loss of a masked slot, and `masked_lm_sums`."""
        sums = masked_lm_sums(inputs, outputs)
        return sums["masked_lm_loss"] / tf.maximum(global_weights[0], 1.0), sums

    def baseline_sums(self, inputs: Tensors, token_log_probs: tf.Tensor) -> Tensors:
        """Returns `unigram_loss`, in nats, over masked slots."""
        log_probs = tf.gather(token_log_probs, inputs[features.MASKED_LM_IDS])
        return {"unigram_loss": -tf.reduce_sum(log_probs * inputs[features.MASKED_LM_WEIGHTS])}

    def summarize(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns total loss, metrics of masked tokens and, where it is summed, their unigram baseline."""
        metrics = {
            "masked_lm_loss": ratio(sums["masked_lm_loss"], sums["masked_lm_weight"]),
            "masked_lm_accuracy": ratio(sums["masked_lm_correct"], sums["masked_lm_weight"]),
        }
        metrics = {"total_loss": metrics["masked_lm_loss"], **metrics}
        return metrics | self._summarize_baseline(sums)

    def _summarize_baseline(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        if "unigram_loss" not in sums:
            return {}
        return {"unigram_masked_lm_loss": float(sums["unigram_loss"] / sums["masked_lm_weight"])}

    def baselines(self, metrics: dict[str, float]) -> dict[str, str]:
        """Guessing by frequency."""
        if "unigram_masked_lm_loss" not in metrics:
            return {}
        unigram = metrics["unigram_masked_lm_loss"]
        return {"masked_lm_loss": f"{unigram:.4f}  unigram distribution"}

    def find_collapse(self, metrics: dict[str, float], unigram_loss: float | None) -> dict[str, str]:
        """A generator is to be better than guessing by frequency."""
        loss = metrics["masked_lm_loss"]
        if unigram_loss is not None and loss > (1.0 - _MIN_GAIN) * unigram_loss:
            message = (
                f"masked_lm_loss {loss:.3f} is no better than guessing by frequency ({unigram_loss:.3f}): the masked "
                f"language model has collapsed or never learned. The usual cause is a learning rate too high for the "
                f"batch, or too short a warm-up: see config.optimizer.learning_rate and config.optimizer.warmup_steps"
            )
            return {"generator": message}
        return {}

    def choices(self, inputs: Tensors, outputs: Tensors) -> Tensors:
        """The likeliest token of each slot."""
        return {"choices": tf.argmax(outputs["lm_outputs"], axis=-1, output_type=tf.int32)}


OBJECTIVE = MaskedLMObjective


def masked_lm_sums(inputs: Tensors, outputs: Tensors) -> Tensors:
    """Returns sums of a batch from `features.MASKED` and `lm_outputs` [batch, num_token_predictions, vocab_size].

    They are float32 scalars: `masked_lm_loss` (nats), `masked_lm_weight`, `masked_lm_correct` (slots), `real_tokens`.
    """
    ids, weights = inputs[features.MASKED_LM_IDS], inputs[features.MASKED_LM_WEIGHTS]
    loss, weight = masked_lm_loss(outputs["lm_outputs"], ids, weights)
    predicted_ids = tf.argmax(_rows(outputs["lm_outputs"]), axis=-1, output_type=tf.int32)
    is_correct = tf.cast(tf.equal(predicted_ids, tf.reshape(ids, [-1])), tf.float32)
    return {
        "masked_lm_loss": loss,
        "masked_lm_weight": weight,
        "masked_lm_correct": tf.reduce_sum(is_correct * tf.reshape(weights, [-1])),
        "real_tokens": tf.reduce_sum(tf.cast(inputs[features.INPUT_MASK], tf.float32)),
    }


def masked_lm_loss(logits: tf.Tensor, ids: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross entropy of the generator, in nats (paper, section 2: L_MLM).

    Args:
      logits: float32 [batch, num_token_predictions, vocab_size].
      ids: int32 [batch, num_token_predictions], the originals.
      weights: float32 [batch, num_token_predictions].

    Returns (sum over masked slots, number of masked slots), float32 scalars.
    """
    losses = _cross_entropy(_rows(logits), tf.reshape(ids, [-1]))
    return tf.reduce_sum(losses * tf.reshape(weights, [-1])), tf.reduce_sum(weights)


def cross_entropy(logits: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Returns -log softmax(logits)[ids], in nats, float32 [...], of float32 [..., vocab_size] and int32 [...]."""
    return tf.reshape(_cross_entropy(_rows(logits), tf.reshape(ids, [-1])), tf.shape(ids))


def _rows(logits: tf.Tensor) -> tf.Tensor:
    """Returns a row for each slot of the batch: TPUs would copy [batch, num_token_predictions, vocab_size], padded."""
    return tf.reshape(logits, [-1, logits.shape[-1]])


def _cross_entropy(logits: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Cross entropy of each slot, float32 [slots], from float32 [slots, vocab_size] and int32 [slots].

    TensorFlow's own takes five times as long on a CPU, most of it to find where the gradient is one less.
    """

    @tf.custom_gradient
    def apply(logits, ids):
        largest = tf.reduce_max(tf.stop_gradient(logits), axis=-1)
        total = _sum_of_exp(logits, largest)
        of_originals = tf.gather(tf.stop_gradient(logits), ids, batch_dims=1)

        def gradients(gradient):
            return _logits_gradient(logits, largest, total, ids, gradient), None

        return tf.math.log(total) - (of_originals - largest), gradients

    return apply(logits, ids)


@jit_region
def _sum_of_exp(logits, largest):
    return tf.reduce_sum(tf.exp(logits - largest[..., tf.newaxis]), axis=-1)


@jit_region
def _logits_gradient(logits, largest, total, ids, gradient):
    probabilities = tf.exp(logits - largest[..., tf.newaxis]) / total[..., tf.newaxis]
    is_original = tf.equal(tf.range(logits.shape[-1]), ids[..., tf.newaxis])
    return (probabilities - tf.cast(is_original, tf.float32)) * gradient[..., tf.newaxis]
