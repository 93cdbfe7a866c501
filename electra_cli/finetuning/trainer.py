"""Trains one model after the other on the same examples, without touching files.

The optimizer is the original's Adam with a learning rate that falls from the head to the embeddings.
"""

import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import ml_collections
import numpy as np
import tensorflow as tf
import tf_keras

from electra_cli.config import default_config as default_pretraining_config
from electra_cli.data.input_pipeline import Part, pipeline_options
from electra_cli.errors import UserError
from electra_cli.finetuning.base import Encoded
from electra_cli.finetuning.model import TARGETS, StartingPoint, TaskModel, build_model, loss_sum, loss_weight
from electra_cli.modeling import features
from electra_cli.objectives.weights import assign_encoder
from electra_cli.training.cluster import find_cluster
from electra_cli.training.distribution import Runtime, build_runtime
from electra_cli.training.optimization import AdamWeightDecay, Optimizer, WarmupDecay, uses_loss_scaling
from electra_cli.training.steps import replica_dropout_seed
from electra_cli.training.updates import IntervalSums, Updates, gradients_of, with_counts

# Sets the weights of an encoder that was not pre-trained apart from other draws of the same seed.
_RANDOM_STREAM = 0x2A4D0
# What the steps add up: losses, and what they are divided by.
SUM_SHAPES: dict[str, list[int]] = {"loss": [], "weight": []}


def build_finetuning_runtime(config: ml_collections.ConfigDict) -> Runtime:
    """Picks the devices of a fine-tuning; must run before TensorFlow computes anything.

    Raises a `UserError` where devices are missing, there are several workers, or the replicas do not divide the batch.
    """
    settings = default_pretraining_config().runtime
    settings.update(config.runtime)
    cluster = find_cluster(settings, os.environ)
    if cluster is not None:  # before it waits for the others
        raise UserError(
            f"electra-finetune runs in one process, not in the {len(cluster.addresses)} that {cluster.source} names: "
            f"start it once, without that"
        )
    return build_runtime(settings, [(config.train.global_batch_size, 1)])


class Trainer:
    """Model, optimizer and compiled steps, which all seeds share; `config` is of `config.finetuning.fill_in`.

    Attributes:
      model, optimizer: the optimizer's `iterations` are the step.
      num_steps: updates of one fine-tuning.
      epoch_ends: the step that each epoch ends with.
      sums: those of the steps since they were last taken: `SUM_SHAPES`, with `updates.with_counts`.
      train_steps: makes steps, and adds their sums to `sums`; see `updates.Updates`.
    """

    def __init__(
        self,
        config: ml_collections.FrozenConfigDict,
        kind: str,
        num_outputs: int,
        start: StartingPoint,
        train: Encoded,
        runtime: Runtime,
    ):
        assert train.targets is not None
        self._config, self._kind, self._start, self._runtime = config, kind, start, runtime
        self._arrays = {**train.features, TARGETS: train.targets}
        self._num_rows, length = train.features[features.INPUT_WORD_IDS].shape
        sizes, initializer_range = start.network.sizes, start.initializer_range
        self._new_model = functools.partial(
            build_model, sizes, kind, num_outputs, config.model, initializer_range, length=length
        )
        num_epochs = config.train.num_epochs
        self.num_steps = max(1, self._num_rows * num_epochs // config.train.global_batch_size)
        self.epoch_ends = [math.ceil(self.num_steps * epoch / num_epochs) for epoch in range(1, num_epochs + 1)]
        with runtime.strategy.scope():
            self.model = self._new_model()
            precision, depths = config.runtime.precision, self.model.depths()
            self.optimizer = build_optimizer(config.optimizer, precision, depths, self.num_steps)
            self.optimizer.build(self.model.trainable_variables)
            self._seed = tf.Variable(0, dtype=tf.int32, trainable=False)
        self.sums = IntervalSums(with_counts(SUM_SHAPES))
        self.train_steps = Updates(
            self._compute_gradients,
            lambda inputs: [loss_weight(kind, inputs[TARGETS])],
            ("loss",),
            SUM_SHAPES,
            self.model.trainable_variables,
            self.optimizer,
            runtime,
            config.optimizer.clip_norm,
            self.sums,
        )
        self._predict = compile_model(self.model, runtime)

    def restart(self, seed: int) -> None:
        """Resets weights, optimizer and sums to what a seed begins with."""
        with self._runtime.strategy.scope():
            if self._start.is_random:
                # The seed itself would draw what a run with this `train.seed` began with, and its tables hardly move.
                seeds = np.random.SeedSequence([seed, _RANDOM_STREAM])
                tf_keras.utils.set_random_seed(int(seeds.generate_state(1)[0]))
                fresh = self._new_model()
            else:
                tf_keras.utils.set_random_seed(seed)  # of the head
                fresh = self._new_model()
                assign_encoder(fresh.encoder, self._start.network)
        for variable, value in zip(self.model.trainable_variables, fresh.trainable_variables, strict=True):
            variable.assign(value)
        reset(self.optimizer)
        self.sums.take()
        self._seed.assign(seed)

    def batches(self, seed: int, step: int) -> Iterator:
        """Returns distributed batches from a step on.

        Each epoch has its own order, from (seed, epoch); where one ends within a batch, the next one fills it.
        """
        num_replicas, batch_size = self._runtime.num_replicas, self._config.train.global_batch_size
        rows = shuffled_rows(self._num_rows, self.num_steps * batch_size, seed)
        rows = rows.reshape(self.num_steps, num_replicas, batch_size // num_replicas)[step:]
        return iter(_distribute(self._runtime, self._arrays, rows))

    def _compute_gradients(self, inputs, global_weights, step, replica):
        seed = replica_dropout_seed(self._seed, step, replica)

        def compute_loss(_):
            logits = self.model(inputs, training=True, seed=seed)
            total = loss_sum(self._kind, logits, inputs[TARGETS])
            sums = {"loss": total, "weight": loss_weight(self._kind, inputs[TARGETS])}
            return total / tf.maximum(global_weights[0], 1.0), sums

        return gradients_of(compute_loss, self.model.trainable_variables, self.optimizer)

    def logits(self, encoded: Encoded, before_batch: Callable[[], None] = lambda: None) -> np.ndarray:
        """Returns the logits of all rows, float32 [rows, ...]; `before_batch` may raise to end it."""
        return compute_logits(self._predict, encoded, self._runtime, self._config.train.global_batch_size, before_batch)


def compile_model(model: TaskModel, runtime: Runtime) -> Callable[[dict[str, tf.Tensor]], tf.Tensor]:
    """Returns a compiled function from features to logits, without dropout."""
    return runtime.function(lambda inputs: model(inputs, training=False))


def compute_logits(
    predict: Callable[[dict[str, tf.Tensor]], tf.Tensor],
    encoded: Encoded,
    runtime: Runtime,
    batch_size: int,
    before_batch: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Returns what `predict` returns for all rows, in batches of one size; the last is filled with the last row."""
    num_rows = len(encoded.example_indices)
    num_batches = -(-num_rows // batch_size)
    rows = np.minimum(np.arange(num_batches * batch_size), num_rows - 1)
    rows = rows.reshape(num_batches, runtime.num_replicas, batch_size // runtime.num_replicas)
    logits = []
    for batch in _distribute(runtime, encoded.features, rows):
        before_batch()
        per_replica = runtime.strategy.run(lambda inputs: predict(inputs), args=(batch,))
        logits += [replica.numpy() for replica in runtime.strategy.experimental_local_results(per_replica)]
    return np.concatenate(logits)[:num_rows]


def _distribute(
    runtime: Runtime, arrays: Mapping[str, np.ndarray], rows: np.ndarray
) -> tf.distribute.DistributedDataset:
    """Returns distributed batches of arrays [examples, ...]: those of `rows`, int64 [batches, replicas, examples]."""
    constants = {name: tf.constant(array) for name, array in arrays.items()}

    def make(part: Part) -> tf.data.Dataset:
        begin = part.index * part.num_replicas
        own = rows[:, begin : begin + part.num_replicas].reshape(-1, rows.shape[-1])
        dataset = tf.data.Dataset.from_tensor_slices(own)
        dataset = dataset.map(lambda chosen: {name: tf.gather(array, chosen) for name, array in constants.items()})
        return dataset.with_options(pipeline_options())

    return runtime.distribute(make)


def shuffled_rows(num_rows: int, num_wanted: int, seed: int) -> np.ndarray:
    """Returns int64 [num_wanted] rows, epoch after epoch, each in the order that follows from (seed, epoch)."""
    keys = ([seed, epoch] for epoch in range(-(-num_wanted // num_rows)))
    orders = [np.random.Generator(np.random.Philox(key=key)).permutation(num_rows) for key in keys]
    return np.concatenate(orders)[:num_wanted]


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
class LayerwiseAdam(AdamWeightDecay):
    """`AdamWeightDecay` with a factor for the learning rate of each weight that it is built on, in their order."""

    def __init__(self, learning_rate, factors: Sequence[float], name="layerwise_adam", **kwargs):
        super().__init__(learning_rate, name=name, **kwargs)
        self.factors = list(factors)

    def build(self, var_list):
        """Creates the moments."""
        if len(var_list) != len(self.factors):
            raise ValueError(f"{len(var_list)} weights, {len(self.factors)} factors")
        super().build(var_list)

    def rate_of(self, variable):
        """Returns the learning rate of a weight."""
        return super().rate_of(variable) * self.factors[self._index_dict[self._var_key(variable)]]

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "factors": self.factors}


def layer_factors(depths: Sequence[int], decay: float) -> list[float]:
    """Returns decay ** (greatest depth - depth) for each weight; the greatest is the head's."""
    return [decay ** (max(depths) - depth) for depth in depths]


def build_optimizer(settings, precision: str, depths: Sequence[int], num_steps: int) -> Optimizer:
    """Builds the optimizer of `num_steps` updates; `depths` as of `TaskModel.depths`; mixed_float16 scales losses."""
    warmup_steps = int(settings.warmup_fraction * num_steps)
    schedule = WarmupDecay(settings.learning_rate, num_steps, warmup_steps, settings.schedule)
    optimizer = LayerwiseAdam(
        schedule,
        layer_factors(depths, settings.layerwise_lr_decay),
        beta_1=settings.beta_1,
        beta_2=settings.beta_2,
        epsilon=settings.epsilon,
        weight_decay=settings.weight_decay_rate,
    )
    if precision == "mixed_float16":
        return tf_keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer


def reset(optimizer: Optimizer) -> None:
    """Restores the state of an optimizer before its first update."""
    for variable in optimizer.variables:  # of one that scales losses these are the inner one's
        variable.assign(tf.zeros_like(variable))
    if uses_loss_scaling(optimizer):
        optimizer.dynamic_counter.assign(0)
        optimizer._loss_scale.current_loss_scale.assign(optimizer.initial_scale)  # Keras shows its value only
