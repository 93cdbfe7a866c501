"""Metrics as sums that add up over replicas, batches and steps, and their ratios at the end of an interval."""

from typing import Any

import numpy as np
import tensorflow as tf

from electra_cli.modeling import features

# The area under the ROC curve is taken from histograms of the discriminator's logits: bins of 1/512 from -16 to 16. At
# the beginning all logits lie within some hundredths of each other, and wider bins would hide what is learned.
_LOGIT_RANGE = 16.0
NUM_BINS = 16_384

# The sums of a batch and their shapes: of every objective, and those that only electra has.
_MASKED_LM_SUMS = ("masked_lm_loss", "masked_lm_weight", "masked_lm_correct", "real_tokens")
_RTD_SUMS = ("rtd_loss", "rtd_correct", "sampled_correct", "true_positives", "predicted_positives", "positives")
_RTD_HISTOGRAMS = ("positive_logits", "negative_logits")


def sum_shapes(objective: str) -> dict[str, list[int]]:
    """Returns the names and shapes of the sums, all float32, that a batch of an objective has."""
    shapes: dict[str, list[int]] = {name: [] for name in _MASKED_LM_SUMS}
    if objective == "electra":
        shapes |= {name: [] for name in _RTD_SUMS}
        shapes |= {name: [NUM_BINS] for name in _RTD_HISTOGRAMS}
    return shapes


def masked_lm_sums(inputs: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Counts what the masked language model did in a batch (its loss apart).

    Args:
      inputs: `features.MASKED`.
      outputs: `lm_outputs` [batch, num_token_predictions, vocab_size].

    Returns:
      float32 scalars: `masked_lm_correct` (slots), `real_tokens`.
    """
    predicted_ids = tf.argmax(outputs["lm_outputs"], axis=-1, output_type=tf.int32)
    is_correct = tf.cast(tf.equal(predicted_ids, inputs[features.MASKED_LM_IDS]), tf.float32)
    return {
        "masked_lm_correct": tf.reduce_sum(is_correct * inputs[features.MASKED_LM_WEIGHTS]),
        "real_tokens": tf.reduce_sum(tf.cast(inputs[features.INPUT_MASK], tf.float32)),
    }


def rtd_sums(inputs: dict[str, tf.Tensor], outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Counts what the discriminator did in a batch (its loss apart).

    Args:
      inputs: `features.MASKED`.
      outputs: `disc_logits` and `disc_label`, [batch, seq_length].

    Returns:
      float32 scalars: `sampled_correct` (slots), `true_positives`, `predicted_positives`, `positives`, `rtd_correct`
      (tokens); and float32 [NUM_BINS] `positive_logits`, `negative_logits`, histograms.
    """
    slots = inputs[features.MASKED_LM_WEIGHTS]
    replaced_slots = tf.gather(outputs["disc_label"], inputs[features.MASKED_LM_POSITIONS], batch_dims=1)
    tokens = tf.cast(inputs[features.INPUT_MASK], tf.float32)
    labels = tf.cast(outputs["disc_label"], tf.float32)
    predicted = tf.cast(outputs["disc_logits"] > 0, tf.float32)
    return {
        "sampled_correct": tf.reduce_sum((1.0 - tf.cast(replaced_slots, tf.float32)) * slots),
        "true_positives": tf.reduce_sum(predicted * labels * tokens),
        "predicted_positives": tf.reduce_sum(predicted * tokens),
        "positives": tf.reduce_sum(labels * tokens),
        "rtd_correct": tf.reduce_sum(tf.cast(tf.equal(predicted, labels), tf.float32) * tokens),
        "positive_logits": _histogram(outputs["disc_logits"], labels * tokens),
        "negative_logits": _histogram(outputs["disc_logits"], (1.0 - labels) * tokens),
    }


def _histogram(logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    scaled = (logits + _LOGIT_RANGE) * (NUM_BINS / (2 * _LOGIT_RANGE))
    bins = tf.clip_by_value(tf.cast(tf.floor(scaled), tf.int32), 0, NUM_BINS - 1)
    return tf.math.unsorted_segment_sum(tf.reshape(weights, [-1]), tf.reshape(bins, [-1]), NUM_BINS)


def summarize(sums: dict[str, np.ndarray], objective: Any) -> dict[str, float]:
    """Turns sums over an interval into metrics.

    Args:
      sums: those of `sum_shapes`, as numpy values.
      objective: the section `objective` of a config: name and loss weights.

    Returns:
      Metrics under their names in TensorBoard. Losses are in nats; the rest are fractions. A ratio of nothing is 0.
      The objective mlm has only the first three.
    """
    masked_lm_loss = _ratio(sums["masked_lm_loss"], sums["masked_lm_weight"])
    masked_lm_accuracy = _ratio(sums["masked_lm_correct"], sums["masked_lm_weight"])
    if objective.name == "mlm":
        return {
            "total_loss": masked_lm_loss,
            "masked_lm_loss": masked_lm_loss,
            "masked_lm_accuracy": masked_lm_accuracy,
        }
    rtd_loss = _ratio(sums["rtd_loss"], sums["real_tokens"])
    return {
        "total_loss": objective.generator_loss_weight * masked_lm_loss + objective.discriminator_loss_weight * rtd_loss,
        "masked_lm_loss": masked_lm_loss,
        "masked_lm_accuracy": masked_lm_accuracy,
        "sampled_masked_lm_accuracy": _ratio(sums["sampled_correct"], sums["masked_lm_weight"]),
        "rtd_loss": rtd_loss,
        "rtd_accuracy": _ratio(sums["rtd_correct"], sums["real_tokens"]),
        "rtd_auc": area_under_curve(sums["positive_logits"], sums["negative_logits"]),
        "rtd_precision": _ratio(sums["true_positives"], sums["predicted_positives"]),
        "rtd_recall": _ratio(sums["true_positives"], sums["positives"]),
        "replaced_fraction": _ratio(sums["positives"], sums["real_tokens"]),
    }


def area_under_curve(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Returns the area under the ROC curve of two histograms over ascending scores.

    It is the probability that a random positive scores above a random negative; equal bins count half. Without
    positives or without negatives there is no curve: 0.5.
    """
    positives, negatives = np.asarray(positives, np.float64), np.asarray(negatives, np.float64)
    if not positives.sum() or not negatives.sum():
        return 0.5
    negatives_below = np.cumsum(negatives) - negatives
    wins: np.float64 = np.sum(positives * (negatives_below + 0.5 * negatives))
    return float(wins / (positives.sum() * negatives.sum()))


def _ratio(total: np.ndarray, weight: np.ndarray) -> float:
    return float(total) / float(weight) if weight else 0.0


class IntervalSums(tf.Module):
    """Sums since the last line of metrics; in the checkpoint, so a stop in an interval does not change its line."""

    def __init__(self, shapes: dict[str, list[int]]):
        super().__init__()
        # Float64: an interval may hold more tokens than the 16 million that float32 counts to.
        self.sums = {name: tf.Variable(tf.zeros(shape, tf.float64), trainable=False) for name, shape in shapes.items()}

    def add(self, sums: dict[str, tf.Tensor]) -> None:
        """Adds float32 sums of the same names and shapes."""
        for name, variable in self.sums.items():
            variable.assign_add(tf.cast(sums[name], tf.float64))

    def take(self) -> dict[str, np.ndarray]:
        """Returns the sums and starts anew."""
        taken = {name: variable.numpy() for name, variable in self.sums.items()}
        for variable in self.sums.values():
            variable.assign(tf.zeros_like(variable))
        return taken
