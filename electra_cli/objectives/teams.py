"""TEAMS (Shen et al., ACL 2021, arXiv 2106.00139): ELECTRA, and the selection of the original among candidates.

Beside detecting replaced tokens, the discriminator chooses, at each masked slot, the original token among candidates:
itself and others that are drawn from the generator's distribution. The generator's first layers are the
discriminator's. The discriminator's last layers exist twice, for detection and for selection; the network that is kept
has those of detection, and is ELECTRA's.
"""

import math
from typing import ClassVar

import numpy as np
import tensorflow as tf
import tf_keras

from electra_cli.modeling import features, randomness
from electra_cli.modeling.encoders import build_discriminator, build_generator
from electra_cli.modeling.layers import Encoder, LayerNorm, sub_seed
from electra_cli.modeling.modern import ModernEncoder
from electra_cli.objectives.base import Pretrainer, Tensors, ratio
from electra_cli.objectives.costs import num_shared_layers
from electra_cli.objectives.electra import ElectraObjective
from electra_cli.objectives.electra_pretrainer import Activation, ElectraPretrainer, sample_tokens

# The discriminator has learned to select when the loss is this fraction below that of choosing at random.
_MIN_GAIN = 0.01


class SelectionHead(tf_keras.layers.Layer):
    """Compares an encoder's output at each slot with the embeddings of candidates.

    Activation and initializer are for an encoder that makes no head of its own.
    """

    def __init__(
        self, encoder: Encoder, activation: Activation, initializer: tf_keras.initializers.Initializer, **kwargs
    ):
        super().__init__(**kwargs)
        self.embedding_table = encoder.get_embedding_table()
        if isinstance(encoder, ModernEncoder):
            self.transform = encoder.new_prediction_head()
        else:
            width = encoder.embeddings.embedding_size
            dense = tf_keras.layers.Dense(width, activation, kernel_initializer=initializer, name="dense")
            self.transform = tf_keras.Sequential([dense, LayerNorm(name="layer_norm")], name="transform")

    def call(self, encoded, positions, candidates):
        """Returns logits, float32 [batch, num_token_predictions, num_candidates].

        Args:
          encoded: [batch, seq_length, hidden_size].
          positions: int32 [batch, num_token_predictions].
          candidates: int32 [batch, num_token_predictions, num_candidates].
        """
        x = self.transform(tf.gather(encoded, positions, batch_dims=1))
        rows = tf.gather(tf.convert_to_tensor(self.embedding_table), candidates)
        return tf.cast(tf.squeeze(tf.matmul(rows, x[..., tf.newaxis]), axis=-1), tf.float32)


class TeamsPretrainer(ElectraPretrainer):
    """ELECTRA with selection; networks that share layers cannot be made from a config of this model.

    Args:
      selection_network: shares all layers with the discriminator but the last `num_task_layers`.
      num_candidates: at each slot, the original among them.

    The others are as of `ElectraPretrainer`.
    """

    def __init__(
        self,
        generator_network: Encoder,
        discriminator_network: Encoder,
        selection_network: Encoder,
        *,
        num_task_layers: int,
        num_candidates: int,
        **kwargs,
    ):
        super().__init__(generator_network, discriminator_network, **kwargs)
        self.selection_network = selection_network
        self.num_task_layers = num_task_layers
        self.num_candidates = num_candidates
        self.selection_head = SelectionHead(
            selection_network, self.discriminator_activation, self._new_initializer(), name="selection_head"
        )

    def _corrupt(self, inputs, lm_logits, seed):
        """With `candidates`, int32 [batch, num_token_predictions, num_candidates], the original first."""
        corrupted, labels = super()._corrupt(inputs, lm_logits, seed)
        uniform = self._sampling_uniform(inputs, sub_seed(seed, 1))
        temperature = inputs.get(features.SAMPLING_TEMPERATURE, self.sampling_temperature)
        original_ids = inputs[features.MASKED_LM_IDS]
        candidates = draw_candidates(lm_logits, uniform, original_ids, self.num_candidates, temperature)
        return {**corrupted, "candidates": candidates}, labels

    def _judge(self, inputs, corrupted, training, seed):
        """Returns `disc_logits`, and `selection_logits` of the candidates."""
        detected = self.discriminator_network(corrupted, training=training, seed=sub_seed(seed, 2))["encoder_outputs"]
        selected = self.selection_network(
            corrupted, training=training, seed=sub_seed(seed, 3), lower=detected[: -self.num_task_layers]
        )
        positions, candidates = inputs[features.MASKED_LM_POSITIONS], corrupted["candidates"]
        return {
            "disc_logits": self._detect(detected[-1]),
            "selection_logits": self.selection_head(selected["sequence_output"], positions, candidates),
        }

    def get_config(self):
        """Raises NotImplementedError."""
        raise NotImplementedError("the networks of TEAMS share layers: build them by build_pretrainer")


def draw_candidates(
    logits: tf.Tensor,
    uniform: tf.Tensor,
    original_ids: tf.Tensor,
    num_candidates: int,
    temperature: float | tf.Tensor = 1.0,
) -> tf.Tensor:
    """Returns the original and `num_candidates` - 1 other tokens for each slot, drawn as by `sample_tokens`.

    They are drawn one after the other, without replacement. The numbers to draw with are hashes of `uniform`, so that
    they, too, do not depend on the replica.

    Args:
      logits: float [batch, num_token_predictions, vocab_size].
      uniform: float32 [batch, num_token_predictions], in [0, 1), independent of each other.
      original_ids: int32 [batch, num_token_predictions].

    Returns int32 [batch, num_token_predictions, num_candidates], the originals first.
    """
    candidates = original_ids[..., tf.newaxis]
    bits = tf.bitcast(tf.cast(uniform, tf.float32), tf.uint32)
    for key in tf.unstack(randomness.draw_keys(tf.constant([0, num_candidates]), num_candidates - 1)):
        # The 24 bits that float32 has between 0 and 1.
        draws = tf.cast(tf.bitwise.right_shift(randomness.hash_at(bits, key), tf.constant(8, tf.uint32)), tf.float32)
        drawn = sample_tokens(logits, draws * 2.0**-24, candidates, temperature)
        candidates = tf.concat([candidates, drawn[..., tf.newaxis]], axis=-1)
    return candidates


class TeamsObjective(ElectraObjective):
    """The losses of ELECTRA, and `selection_loss_weight` x that of selection."""

    loss_names: ClassVar[tuple[str, ...]] = (*ElectraObjective.loss_names, "selection_loss")

    def _build_model(self) -> Pretrainer:
        config, objective = self._config, self._config.objective
        discriminator = build_discriminator(config)
        selection = build_discriminator(config, discriminator.embeddings, "selection")
        selection.share_layers(discriminator, config.model.num_layers - objective.task_layers)
        generator = build_generator(config, discriminator.embeddings)
        generator.share_layers(discriminator, num_shared_layers(config))
        return TeamsPretrainer(
            generator,
            discriminator,
            selection,
            num_task_layers=objective.task_layers,
            num_candidates=objective.num_candidates,
            **self._settings(),
            name="teams_pretrainer",
        )

    def sum_shapes(self) -> dict[str, list[int]]:
        """Those of ELECTRA and of `selection_sums`."""
        return {**super().sum_shapes(), "selection_loss": [], "selection_correct": []}

    def loss_and_sums(
        self, inputs: Tensors, outputs: Tensors, global_weights: list[tf.Tensor]
    ) -> tuple[tf.Tensor, Tensors]:
        """As of ELECTRA; the discriminator also has the loss of selection and `selection_sums`."""
        loss, sums = super().loss_and_sums(inputs, outputs, global_weights)
        if "selection_logits" in outputs:
            sums |= selection_sums(inputs, outputs)
            weight = self._config.objective.selection_loss_weight
            loss += weight * sums["selection_loss"] / tf.maximum(global_weights[0], 1.0)
        return loss, sums

    def summarize(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns the metrics of ELECTRA, and loss and accuracy of selection."""
        loss = ratio(sums["selection_loss"], sums["masked_lm_weight"])
        metrics = super().summarize(sums)
        metrics["total_loss"] += self._config.objective.selection_loss_weight * loss
        accuracy = ratio(sums["selection_correct"], sums["masked_lm_weight"])
        return {**metrics, "selection_loss": loss, "selection_accuracy": accuracy}

    def baselines(self, metrics: dict[str, float]) -> dict[str, str]:
        """Those of ELECTRA; choosing at random."""
        number = self._config.objective.num_candidates
        return super().baselines(metrics) | {
            "selection_loss": f"{math.log(number):.4f}  chance",
            "selection_accuracy": f"{1 / number:.4f}  chance",
        }

    def find_collapse(self, metrics: dict[str, float], unigram_loss: float | None) -> dict[str, str]:
        """Selection is to be better than choosing at random."""
        messages = super().find_collapse(metrics, unigram_loss)
        loss, chance = metrics["selection_loss"], math.log(self._config.objective.num_candidates)
        if loss > (1.0 - _MIN_GAIN) * chance:
            messages["selection"] = (
                f"selection_loss {loss:.3f} is no better than choosing at random ({chance:.3f}): the selection of "
                f"originals has collapsed or not begun to learn. The usual cause is a learning rate too high: see "
                f"config.optimizer.learning_rate"
            )
        return messages


OBJECTIVE = TeamsObjective


def selection_sums(inputs: Tensors, outputs: Tensors) -> Tensors:
    """Returns sums of a batch from `features.MASKED` and `selection_logits` [batch, num_token_predictions, candidates].

    They are float32 scalars: `selection_loss` (nats, the cross entropy of the first candidate, the original) and
    `selection_correct` (slots where it is above all others).
    """
    logits, weights = outputs["selection_logits"], inputs[features.MASKED_LM_WEIGHTS]
    losses = tf.reduce_logsumexp(logits, axis=-1) - logits[..., 0]
    is_correct = tf.cast(logits[..., 0] > tf.reduce_max(logits[..., 1:], axis=-1), tf.float32)
    return {
        "selection_loss": tf.reduce_sum(losses * weights),
        "selection_correct": tf.reduce_sum(is_correct * weights),
    }
