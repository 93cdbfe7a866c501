"""What training, evaluation and reports know of what is learned.

An objective is a file of this room, named as in `objective.name`: its model, loss, sums and metrics. What a batch costs
is in `costs.py`, which plans read without TensorFlow.
"""

import abc
import importlib
from typing import Any, ClassVar

import ml_collections
import numpy as np
import tensorflow as tf
import tf_keras

from electra_cli.modeling import features

Tensors = dict[str, tf.Tensor]


class Pretrainer(tf_keras.Model):
    """A model that an objective trains: called on a batch (`features.MASKED`), `training` and a dropout `seed`.

    Attributes:
      masked_lm: `MaskedLM` of tf-models-official, the head that predicts masked tokens; None where nothing does.
    """

    masked_lm: Any

    @property
    def networks(self) -> dict[str, tf_keras.layers.Layer]:
        """The encoders by their role in exports, 'discriminator' or 'generator'."""
        raise NotImplementedError

    @property
    def checkpoint_items(self) -> dict[str, tf_keras.layers.Layer]:
        """What a checkpoint for fine-tuning holds: the network that people keep, as 'encoder'."""
        raise NotImplementedError


class Objective(abc.ABC):
    """What is learned, for a resolved config (of one phase, when there are several).

    Sums are float32 and add up over replicas, steps and batches.

    Attributes:
      loss_names: sums that must be finite.
    """

    loss_names: ClassVar[tuple[str, ...]]

    def __init__(self, config: ml_collections.FrozenConfigDict):
        self._config = config

    def build_model(self) -> Pretrainer:
        """Builds the model, with all weights created. Must be called in the scope of the strategy that trains it."""
        model = self._build_model()
        tokens = tf.zeros([1, self._config.data.max_seq_length], tf.int32)
        slots = tf.zeros([1, self._config.derived.max_predictions_per_seq], tf.int32)
        model(
            {
                **dict.fromkeys(features.UNMASKED, tokens),
                features.MASKED_LM_POSITIONS: slots,
                features.MASKED_LM_IDS: slots,
                features.MASKED_LM_WEIGHTS: tf.cast(slots, tf.float32),
                features.SAMPLING_UNIFORM: tf.cast(slots, tf.float32),
            }
        )
        return model

    @abc.abstractmethod
    def _build_model(self) -> Pretrainer: ...

    @abc.abstractmethod
    def sum_shapes(self) -> dict[str, list[int]]:
        """Returns the names and shapes of the sums of a batch; `real_tokens` and `loss_names` are among them."""

    @abc.abstractmethod
    def batch_weights(self, inputs: Tensors) -> list[tf.Tensor]:
        """Returns what the losses of a batch are divided by, float32 scalars that add up over replicas."""

    @abc.abstractmethod
    def loss_and_sums(
        self, inputs: Tensors, outputs: Tensors, global_weights: list[tf.Tensor]
    ) -> tuple[tf.Tensor, Tensors]:
        """Returns a replica's share of the loss and its sums.

        Args:
          inputs: `features.MASKED`, what the model was called on.
          outputs: what it returned.
          global_weights: `batch_weights` of the whole batch.
        """

    @abc.abstractmethod
    def baseline_sums(self, inputs: Tensors, token_log_probs: tf.Tensor) -> Tensors:
        """Returns further sums of held-out batches: those of guessing by frequency (`unigram_log_probs`)."""

    @abc.abstractmethod
    def summarize(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """Turns sums over an interval into metrics, named as in TensorBoard; with `baseline_sums`, into theirs too.

        Losses are in nats; the rest are fractions. A ratio of nothing is 0.
        """

    @abc.abstractmethod
    def baselines(self, metrics: dict[str, float]) -> dict[str, str]:
        """Returns what to print next to held-out metrics, by their names: a baseline and what it is of."""

    @abc.abstractmethod
    def find_collapse(self, metrics: dict[str, float], unigram_loss: float | None) -> dict[str, str]:
        """Returns a message for each network that is no better than a baseline, by its role.

        Args:
          metrics: those of an interval of training.
          unigram_loss: what `unigram_entropy` returns, if known.
        """

    @abc.abstractmethod
    def choices(self, inputs: Tensors, outputs: Tensors) -> Tensors:
        """Returns what samples show: `choices`, int32 [batch, num_token_predictions], the token put at each slot.

        With a discriminator also `replaced`, float32 [batch, seq_length], the probability it gives to a replacement.
        """


def objective_of(config: ml_collections.FrozenConfigDict) -> Objective:
    """Returns the objective of a resolved config: `OBJECTIVE` of the file that `objective.name` names."""
    return importlib.import_module(f"{__package__}.{config.objective.name}").OBJECTIVE(config)


def build_pretrainer(config: ml_collections.FrozenConfigDict) -> Pretrainer:
    """Builds the model of a resolved config; see `Objective.build_model`."""
    return objective_of(config).build_model()


def ratio(total: np.ndarray, weight: np.ndarray) -> float:
    """Returns total / weight, 0 where the weight is."""
    return float(total) / float(weight) if weight else 0.0


def unigram_log_probs(token_counts: np.ndarray, special_token_ids: tuple[int, ...]) -> np.ndarray:
    """Returns the log-probabilities, float32 [vocab_size], of the unigram distribution of maskable tokens.

    Args:
      token_counts: int64 [vocab_size], counts in the training data; one is added to each (Laplace), so that a token
        seen only in held-out text costs finitely much.
      special_token_ids: ids that are never masked, which get no share.
    """
    counts = token_counts.astype(np.float64) + 1.0
    counts[list(special_token_ids)] = 0.0
    with np.errstate(divide="ignore"):
        log_probs = np.log(counts / counts.sum())
    # Weights of 0 meet these ids (unused slots), and 0 x -inf would be NaN.
    log_probs[list(special_token_ids)] = 0.0
    return log_probs.astype(np.float32)


def unigram_entropy(token_counts: np.ndarray, special_token_ids: tuple[int, ...]) -> float:
    """Returns the loss, in nats, of guessing masked tokens by their frequency; arguments as of `unigram_log_probs`."""
    log_probs: np.ndarray = unigram_log_probs(token_counts, special_token_ids).astype(np.float64)
    shares = np.exp(log_probs)
    return float(-(shares * log_probs).sum())  # those without a share have a logarithm of 0
