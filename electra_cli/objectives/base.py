"""The interface of objectives for training and evaluation.

An objective is a file of this room, named as in `objective.name`: its model, loss, sums and metrics. Its costs are in
`costs.py`, which plans read without TensorFlow.
"""

import abc
import importlib
from collections.abc import Callable
from typing import Any, ClassVar

import ml_collections
import numpy as np
import tensorflow as tf
import tf_keras

from electra_cli.modeling import features
from electra_cli.modeling.modern import ModernMaskedLM
from electra_cli.modeling.tf_models import MaskedLM
from electra_cli.objectives.costs import network_sizes
from electra_cli.objectives.sizes import check_network

Tensors = dict[str, tf.Tensor]
# Takes the gradients of a part of the loss, and returns tensors for what is to be computed after that.
TakeGradients = Callable[[tf.Tensor, Tensors], Tensors]


class Pretrainer(tf_keras.Model):
    """A model that an objective trains: called on a batch (`features.MASKED`), `training` and a dropout `seed`.

    Attributes:
      masked_lm: the head that predicts masked tokens, `MaskedLM` of tf-models-official or the network's own; None:
        there is none.
    """

    masked_lm: Any

    @staticmethod
    def new_masked_lm(
        network: tf_keras.layers.Layer, activation: Any, initializer: tf_keras.initializers.Initializer, name: str
    ) -> tf_keras.layers.Layer:
        """Returns a new `masked_lm` of an encoder; activation and initializer are for one without a head of its own."""
        table = network.get_embedding_table()
        if hasattr(network, "new_prediction_head"):
            return ModernMaskedLM(table, network.new_prediction_head(), name=name)
        return MaskedLM(embedding_table=table, activation=activation, initializer=initializer, name=name)

    @property
    def networks(self) -> dict[str, tf_keras.layers.Layer]:
        """The encoders by their role in exports, 'discriminator' or 'generator'."""
        raise NotImplementedError

    @property
    def checkpoint_items(self) -> dict[str, tf_keras.layers.Layer]:
        """The network to fine-tune, as 'encoder': what tf-models-official's tasks restore."""
        raise NotImplementedError


class Objective(abc.ABC):
    """An objective by a resolved config (of one phase, when there are several).

    Sums are float32 and add up over replicas, steps and batches; those of `loss_names` must be finite.

    In training, inputs also have the present values of those `scheduled_keys` that change over the run, float32 scalars
    by the names of the keys without section, for the model and the loss.
    """

    loss_names: ClassVar[tuple[str, ...]]
    scheduled_keys: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: ml_collections.FrozenConfigDict):
        self._config = config

    def build_model(self) -> Pretrainer:
        """Builds the model, with all weights created, in the scope of the strategy that trains it."""
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
        """Returns the divisors of a batch's losses, float32 scalars that add up over replicas."""

    @abc.abstractmethod
    def loss_and_sums(
        self, inputs: Tensors, outputs: Tensors, global_weights: list[tf.Tensor]
    ) -> tuple[tf.Tensor, Tensors]:
        """Returns a replica's share of the loss and its sums, from the model's inputs (`features.MASKED`) and outputs.

        `global_weights` are the `batch_weights` of the whole batch. In training it is called once for each network,
        with that network's outputs alone, and returns that network's share.
        """

    def training_loss(
        self,
        model: Pretrainer,
        inputs: Tensors,
        seed: tf.Tensor,
        global_weights: list[tf.Tensor],
        take_gradients: TakeGradients,
    ) -> tuple[tf.Tensor, Tensors]:
        """Calls the model with dropout; returns what is left of the loss to take gradients of, and all sums.

        Of several networks that no gradient flows between, each gives up what it keeps before the next one runs, where
        XLA compiles the step.
        """
        return self.loss_and_sums(inputs, model(inputs, training=True, seed=seed), global_weights)

    @abc.abstractmethod
    def baseline_sums(self, inputs: Tensors, token_log_probs: tf.Tensor) -> Tensors:
        """Returns further sums of held-out batches: those of guessing by frequency (`unigram_log_probs`)."""

    @abc.abstractmethod
    def summarize(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns the metrics of sums over an interval, `baseline_sums` among them or not.

        Losses are in nats; the rest are fractions. A ratio of nothing is 0.
        """

    @abc.abstractmethod
    def baselines(self, metrics: dict[str, float]) -> dict[str, str]:
        """Returns descriptions of baselines to print next to held-out metrics, by their names."""

    @abc.abstractmethod
    def find_collapse(self, metrics: dict[str, float], unigram_loss: float | None) -> dict[str, str]:
        """Returns messages, by role, for networks no better than a baseline in an interval of training.

        `unigram_loss` is `unigram_entropy`, if known.
        """

    @abc.abstractmethod
    def choices(self, inputs: Tensors, outputs: Tensors) -> Tensors:
        """Returns `choices`, int32 [batch, num_token_predictions], the token put at each slot, for samples.

        With a discriminator also `replaced`, float32 [batch, seq_length], its probabilities of replacement.
        """


def objective_of(config: ml_collections.FrozenConfigDict) -> Objective:
    """Returns the objective of a resolved config: `OBJECTIVE` of the file that `objective.name` names."""
    return importlib.import_module(f"{__package__}.{config.objective.name}").OBJECTIVE(config)


def build_pretrainer(config: ml_collections.FrozenConfigDict) -> Pretrainer:
    """Builds the model of a resolved config, as `Objective.build_model`; a `UserError` where memory cannot hold it."""
    for size in reversed(network_sizes(config)):
        if size is not None:
            check_network(size)
    return objective_of(config).build_model()


def ratio(total: np.ndarray, weight: np.ndarray) -> float:
    """Returns total / weight, 0 where the weight is."""
    return float(total) / float(weight) if weight else 0.0


def unigram_log_probs(token_counts: np.ndarray, special_token_ids: tuple[int, ...]) -> np.ndarray:
    """Returns the log-probabilities, float32 [vocab_size], of the unigram distribution of maskable tokens.

    One is added to each count, int64 [vocab_size], in the training data (Laplace), so that a token seen only in
    held-out text costs finitely much. Special tokens, which are never masked, get no share.
    """
    counts = token_counts.astype(np.float64) + 1.0
    counts[list(special_token_ids)] = 0.0
    with np.errstate(divide="ignore"):
        log_probs = np.log(counts / counts.sum())
    # Unused slots have these ids and a weight of 0, and 0 x -inf would be NaN.
    log_probs[list(special_token_ids)] = 0.0
    return log_probs.astype(np.float32)


def unigram_entropy(token_counts: np.ndarray, special_token_ids: tuple[int, ...]) -> float:
    """Returns the loss, in nats, of guessing masked tokens by their frequency (`unigram_log_probs`)."""
    log_probs: np.ndarray = unigram_log_probs(token_counts, special_token_ids).astype(np.float64)
    shares = np.exp(log_probs)
    return float(-(shares * log_probs).sum())  # special tokens have a logarithm of 0
