"""ELECTRA (Clark et al., ICLR 2020): a generator's masked language modeling and replaced token detection (RTD)."""

from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from electra_cli.modeling import features
from electra_cli.modeling.encoders import build_discriminator, build_generator
from electra_cli.modeling.layers import gelu, truncated_normal
from electra_cli.modeling.schedules import schedule_of
from electra_cli.objectives.base import Pretrainer, TakeGradients, Tensors, ratio
from electra_cli.objectives.electra_pretrainer import ElectraPretrainer, sample_tokens
from electra_cli.objectives.mlm import MaskedLMObjective

# The area under the ROC curve follows from histograms of the discriminator's logits: bins of 1/512 from -16 to 16. At
# first all logits lie within some hundredths of each other, and wider bins would hide what is learned.
_LOGIT_RANGE = 16.0
NUM_BINS = 16_384
_RTD_SUMS = ("rtd_loss", "rtd_correct", "sampled_correct", "true_positives", "predicted_positives", "positives")
_RTD_HISTOGRAMS = ("positive_logits", "negative_logits")
# A discriminator has learned something when it is right more often than by calling all tokens original, or ranks
# replaced tokens higher.
_MIN_AUC = 0.55
# The keys of the weights of the losses.
_WEIGHTS = {"masked_lm_loss": "generator_loss_weight", "rtd_loss": "discriminator_loss_weight"}


class ElectraObjective(MaskedLMObjective):
    """`generator_loss_weight` x the loss of the masked tokens + `discriminator_loss_weight` x that of RTD."""

    loss_names: ClassVar[tuple[str, ...]] = ("masked_lm_loss", "rtd_loss")
    scheduled_keys: ClassVar[tuple[str, ...]] = (
        "objective.sampling_temperature",
        *(f"objective.{weight}" for weight in _WEIGHTS.values()),
    )

    def _build_model(self) -> Pretrainer:
        objective = self._config.objective
        if objective.uniform_generator or objective.tied_generator:
            discriminator = build_discriminator(self._config)
            generator = None if objective.uniform_generator else discriminator
        else:
            generator = build_generator(self._config)
            discriminator = build_discriminator(self._config, generator.embeddings)
        model = ElectraPretrainer(generator, discriminator, **self._settings(), name="electra_pretrainer")
        if objective.frozen_generator:
            model.networks["generator"].trainable = model.masked_lm.trainable = False
        return model

    def _settings(self) -> dict[str, Any]:
        """Returns arguments of `ElectraPretrainer`: all but the networks."""
        config, objective = self._config, self._config.objective
        return {
            "vocab_size": config.derived.vocab_size,
            "num_classes": 0,
            "num_token_predictions": config.derived.max_predictions_per_seq,
            "mlm_activation": gelu,
            "mlm_initializer": truncated_normal(config.model.initializer_range),
            "disallow_correct": objective.disallow_correct,
            "sampling_temperature": objective.sampling_temperature,
            "uniform_generator": objective.uniform_generator,
        }

    def sum_shapes(self) -> dict[str, list[int]]:
        """Those of `masked_lm_sums` and `rtd_sums`, and weighted losses where their weights change over the run."""
        histograms = {name: [NUM_BINS] for name in _RTD_HISTOGRAMS}
        scalars: dict[str, list[int]] = {name: [] for name in (*_RTD_SUMS, *self._weighted().values())}
        return {**super().sum_shapes(), **scalars, **histograms}

    def _weighted(self) -> dict[str, str]:
        """Returns the losses whose weight changes, and the names of the sums of weight x loss."""
        changing = (loss for loss, key in _WEIGHTS.items() if schedule_of(self._config, f"objective.{key}"))
        return {loss: f"weighted_{loss}" for loss in changing}

    def batch_weights(self, inputs: Tensors) -> list[tf.Tensor]:
        """The numbers of masked slots and of real tokens."""
        return [*super().batch_weights(inputs), tf.reduce_sum(tf.cast(inputs[features.INPUT_MASK], tf.float32))]

    def loss_and_sums(
        self, inputs: Tensors, outputs: Tensors, global_weights: list[tf.Tensor]
    ) -> tuple[tf.Tensor, Tensors]:
        """The weighted sum of the mean losses, and the sums of `sum_shapes`, of the networks with outputs."""
        weights = {loss: inputs.get(key, self._config.objective[key]) for loss, key in _WEIGHTS.items()}
        loss, sums = tf.constant(0.0), Tensors()
        if "lm_outputs" in outputs:
            masked_lm_loss, sums = super().loss_and_sums(inputs, outputs, global_weights)
            loss += weights["masked_lm_loss"] * masked_lm_loss
        if "disc_logits" in outputs:
            sums |= rtd_sums(inputs, outputs)
            loss += weights["rtd_loss"] * sums["rtd_loss"] / tf.maximum(global_weights[1], 1.0)
        weighted = self._weighted().items()
        return loss, {**sums, **{name: weights[loss] * sums[loss] for loss, name in weighted if loss in sums}}

    def training_loss(
        self,
        model: Pretrainer,
        inputs: Tensors,
        seed: tf.Tensor,
        global_weights: list[tf.Tensor],
        take_gradients: TakeGradients,
    ) -> tuple[tf.Tensor, Tensors]:
        """The generator's gradients are taken before the discriminator runs."""
        sums = Tensors()

        def before_discriminator(generated: Tensors, corrupted: Tensors) -> Tensors:
            loss, of_generator = self.loss_and_sums(inputs, generated, global_weights)
            sums.update(of_generator)
            return take_gradients(loss, corrupted)

        outputs = model(inputs, training=True, seed=seed, before_discriminator=before_discriminator)
        left = {name: value for name, value in outputs.items() if name != "lm_outputs"}  # the discriminator's loss
        loss, more = self.loss_and_sums(inputs, left, global_weights)
        return loss, {**sums, **more}

    def summarize(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns total loss, metrics of generator and discriminator and, where it is summed, the unigram baseline."""
        divisors = {"masked_lm_loss": sums["masked_lm_weight"], "rtd_loss": sums["real_tokens"]}
        losses = {name: ratio(sums[name], divisor) for name, divisor in divisors.items()}
        weighted = {name: self._config.objective[_WEIGHTS[name]] * loss for name, loss in losses.items()}
        # A weight that changes within the interval is that of each step.
        weighted |= {loss: ratio(sums[name], divisors[loss]) for loss, name in self._weighted().items()}
        return {
            "total_loss": weighted["masked_lm_loss"] + weighted["rtd_loss"],
            "masked_lm_loss": losses["masked_lm_loss"],
            "masked_lm_accuracy": ratio(sums["masked_lm_correct"], sums["masked_lm_weight"]),
            "sampled_masked_lm_accuracy": ratio(sums["sampled_correct"], sums["masked_lm_weight"]),
            "rtd_loss": losses["rtd_loss"],
            "rtd_accuracy": ratio(sums["rtd_correct"], sums["real_tokens"]),
            "rtd_auc": area_under_curve(sums["positive_logits"], sums["negative_logits"]),
            "rtd_precision": ratio(sums["true_positives"], sums["predicted_positives"]),
            "rtd_recall": ratio(sums["true_positives"], sums["positives"]),
            "replaced_fraction": ratio(sums["positives"], sums["real_tokens"]),
            **self._summarize_baseline(sums),
        }

    def baselines(self, metrics: dict[str, float]) -> dict[str, str]:
        """Guessing by frequency; chance; calling every token original."""
        all_original = 1.0 - metrics["replaced_fraction"]
        return super().baselines(metrics) | {
            "rtd_auc": "0.5000  chance",
            "rtd_accuracy": f"{all_original:.4f}  calling every token original",
        }

    def find_collapse(self, metrics: dict[str, float], unigram_loss: float | None) -> dict[str, str]:
        """A discriminator is to be better than calling every token original."""
        messages = super().find_collapse(metrics, unigram_loss)
        if messages and self._config.objective.frozen_generator:
            messages["generator"] = (
                f"masked_lm_loss {metrics['masked_lm_loss']:.3f} of the frozen generator is no better than guessing by "
                f"frequency ({unigram_loss:.3f}), trained too little or on other text: see config.init.generator"
            )
        accuracy, auc, all_original = metrics["rtd_accuracy"], metrics["rtd_auc"], 1.0 - metrics["replaced_fraction"]
        if accuracy <= all_original + 1e-3 and auc < _MIN_AUC:
            messages["discriminator"] = (
                f"rtd_accuracy {accuracy:.4f} is that of calling every token original ({all_original:.4f}), and "
                f"rtd_auc {auc:.3f} is near chance: the discriminator has collapsed or not begun to learn. The usual "
                f"cause is a learning rate too high or a generator too strong: see config.optimizer.learning_rate and "
                f"config.model.generator_size"
            )
        return messages

    def choices(self, inputs: Tensors, outputs: Tensors) -> Tensors:
        """The samples of the generator, drawn again as the model draws: it returns labels only."""
        objective = self._config.objective
        sampled_ids = sample_tokens(
            outputs["lm_outputs"],
            inputs[features.SAMPLING_UNIFORM],
            tf.cast(inputs[features.MASKED_LM_IDS], tf.int32) if objective.disallow_correct else None,
            objective.sampling_temperature,
        )
        return {"choices": sampled_ids, "replaced": tf.sigmoid(tf.cast(outputs["disc_logits"], tf.float32))}


OBJECTIVE = ElectraObjective


def rtd_sums(inputs: Tensors, outputs: Tensors) -> Tensors:
    """Returns sums of a batch from `features.MASKED`, and `disc_logits` and `disc_label`, [batch, seq_length].

    They are float32 scalars, `rtd_loss` (nats), `sampled_correct` (slots), `true_positives`, `predicted_positives`,
    `positives` and `rtd_correct` (tokens); and histograms, float32 [NUM_BINS], `positive_logits`, `negative_logits`.
    """
    slots = inputs[features.MASKED_LM_WEIGHTS]
    replaced_slots = tf.gather(outputs["disc_label"], inputs[features.MASKED_LM_POSITIONS], batch_dims=1)
    tokens = tf.cast(inputs[features.INPUT_MASK], tf.float32)
    labels = tf.cast(outputs["disc_label"], tf.float32)
    predicted = tf.cast(outputs["disc_logits"] > 0, tf.float32)
    return {
        "rtd_loss": rtd_loss(outputs["disc_logits"], outputs["disc_label"], inputs[features.INPUT_MASK]),
        "sampled_correct": tf.reduce_sum((1.0 - tf.cast(replaced_slots, tf.float32)) * slots),
        "true_positives": tf.reduce_sum(predicted * labels * tokens),
        "predicted_positives": tf.reduce_sum(predicted * tokens),
        "positives": tf.reduce_sum(labels * tokens),
        "rtd_correct": tf.reduce_sum(tf.cast(tf.equal(predicted, labels), tf.float32) * tokens),
        "positive_logits": _histogram(outputs["disc_logits"], labels * tokens),
        "negative_logits": _histogram(outputs["disc_logits"], (1.0 - labels) * tokens),
    }


def rtd_loss(logits: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Returns the discriminator's binary cross entropy, in nats, summed over real tokens (paper, section 2: L_Disc).

    All are [batch, seq_length]: float32 logits, int32 labels (1: replaced) and int32 mask (1: a real token).
    """
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.cast(labels, tf.float32), logits=logits)
    return tf.reduce_sum(losses * tf.cast(mask, tf.float32))


def _histogram(logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    scaled = (logits + _LOGIT_RANGE) * (NUM_BINS / (2 * _LOGIT_RANGE))
    bins = tf.clip_by_value(tf.cast(tf.floor(scaled), tf.int32), 0, NUM_BINS - 1)
    return tf.math.unsorted_segment_sum(tf.reshape(weights, [-1]), tf.reshape(bins, [-1]), NUM_BINS)


def area_under_curve(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Returns the area under the ROC curve of two histograms over ascending scores; 0.5 where one is empty.

    It is the probability that a random positive scores above a random negative; equal bins count half.
    """
    positives, negatives = np.asarray(positives, np.float64), np.asarray(negatives, np.float64)
    if not positives.sum() or not negatives.sum():
        return 0.5
    negatives_below = np.cumsum(negatives) - negatives
    wins: np.float64 = np.sum(positives * (negatives_below + 0.5 * negatives))
    return float(wins / (positives.sum() * negatives.sum()))
