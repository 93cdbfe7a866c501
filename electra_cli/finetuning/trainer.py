"""Trains one model after the other on the same examples: encoder and arrays in, weights and logits out. No files."""

from collections.abc import Callable, Iterator, Mapping

import ml_collections
import numpy as np
import tensorflow as tf
import tf_keras

from electra_cli.data.input_pipeline import Part, pipeline_options
from electra_cli.finetuning import model
from electra_cli.finetuning.base import Encoded
from electra_cli.finetuning.model import StartingPoint, TaskModel, build_encoder, build_model
from electra_cli.finetuning.optimization import build_optimizer, reset
from electra_cli.modeling import features
from electra_cli.objectives.weights import assign_encoder
from electra_cli.training.distribution import Runtime
from electra_cli.training.optimization import uses_loss_scaling
from electra_cli.training.steps import replica_dropout_seed
from electra_cli.training.updates import IntervalSums, Updates, with_counts

# What the steps add up: losses, and what they are divided by.
SUM_SHAPES: dict[str, list[int]] = {"loss": [], "weight": []}


class Trainer:
    """Model, optimizer and compiled steps, which all seeds share.

    Args:
      config: a config of `config.fill_in`.
      kind: the kind of task.
      num_outputs: outputs of the head.
      start: the encoder.
      train: the training examples.
      runtime: devices.

    Attributes:
      model: the model.
      optimizer: its optimizer; its `iterations` are the step.
      num_steps: updates of one fine-tuning.
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
        self._config, self._kind, self._num_outputs = config, kind, num_outputs
        self._start, self._runtime = start, runtime
        self._arrays = {**train.features, model.TARGETS: train.targets}
        self._num_rows, self._length = train.features[features.INPUT_WORD_IDS].shape
        batch_size = config.train.global_batch_size
        self.num_steps = max(1, self._num_rows * config.train.num_epochs // batch_size)
        with runtime.strategy.scope():
            self.model = self._new_model()
            self.optimizer = build_optimizer(
                config.optimizer, config.runtime.precision, self.model.depths(), self.num_steps
            )
            self.optimizer.build(self.model.trainable_variables)
            self._seed = tf.Variable(0, dtype=tf.int32, trainable=False)
        self.sums = IntervalSums(with_counts(SUM_SHAPES))
        self.train_steps = Updates(
            self._compute_gradients,
            lambda inputs: [model.weight(kind, inputs[model.TARGETS])],
            ("loss",),
            SUM_SHAPES,
            self.model.trainable_variables,
            self.optimizer,
            runtime,
            config.optimizer.clip_norm,
            self.sums,
        )
        self._predict = tf.function(lambda inputs: self.model(inputs, training=False), jit_compile=runtime.jit_compile)

    def _new_model(self) -> TaskModel:
        settings, encoder_range = self._config.model, self._start.initializer_range
        encoder = build_encoder(
            self._start.network.sizes,
            hidden_dropout=settings.hidden_dropout,
            attention_dropout=settings.attention_dropout,
            initializer_range=encoder_range,
        )
        return build_model(
            encoder,
            self._kind,
            self._num_outputs,
            dropout_rate=settings.head_dropout,
            initializer_range=encoder_range,
            length=self._length,
        )

    def restart(self, seed: int) -> None:
        """Gives the model the weights that a seed begins with, and optimizer and sums their state before a step."""
        with self._runtime.strategy.scope():
            tf_keras.utils.set_random_seed(seed)  # of the head, and of an encoder without weights
            fresh = self._new_model()
            if not self._start.is_random:
                assign_encoder(fresh.encoder, self._start.network)
        for variable, value in zip(self.model.trainable_variables, fresh.trainable_variables, strict=True):
            variable.assign(value)
        reset(self.optimizer)
        self.sums.take()
        self._seed.assign(seed)

    def batches(self, seed: int, step: int) -> Iterator:
        """Returns distributed batches from a step on.

        Every epoch has an order of its own, which follows from (seed, epoch); where one ends within a batch, the next
        one fills it.

        Args:
          seed: the seed of the fine-tuning.
          step: steps made before.
        """
        num_replicas, batch_size = self._runtime.num_replicas, self._config.train.global_batch_size
        rows = shuffled_rows(self._num_rows, self.num_steps * batch_size, seed)
        rows = rows.reshape(self.num_steps, num_replicas, batch_size // num_replicas)[step:]
        return iter(_distribute(self._runtime, self._arrays, rows))

    def _compute_gradients(self, inputs, global_weights, step, replica):
        variables = self.model.trainable_variables
        seed = replica_dropout_seed(self._seed, step, replica)
        with tf.GradientTape() as tape:
            logits = self.model(inputs, training=True, seed=seed)
            total = model.loss_sum(self._kind, logits, inputs[model.TARGETS])
            loss = total / tf.maximum(global_weights[0], 1.0)
            if uses_loss_scaling(self.optimizer):
                loss = self.optimizer.get_scaled_loss(loss)
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]
        return gradients, {"loss": total, "weight": model.weight(self._kind, inputs[model.TARGETS])}

    def logits(self, encoded: Encoded, before_batch: Callable[[], None] = lambda: None) -> np.ndarray:
        """Returns the logits of all rows, float32 [rows, ...]; `before_batch` may raise to end it."""
        return compute_logits(self._predict, encoded, self._runtime, self._config.train.global_batch_size, before_batch)


def compute_logits(
    predict: Callable[[dict[str, tf.Tensor]], tf.Tensor],
    encoded: Encoded,
    runtime: Runtime,
    batch_size: int,
    before_batch: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Returns what `predict` makes of all rows, in batches of one size; the last is filled with the last row."""
    num_rows = len(encoded.example_indices)
    num_batches = -(-num_rows // batch_size)
    rows = np.minimum(np.arange(num_batches * batch_size), num_rows - 1)
    rows = rows.reshape(num_batches, runtime.num_replicas, batch_size // runtime.num_replicas)
    found = []
    for batch in _distribute(runtime, encoded.features, rows):
        before_batch()
        per_replica = runtime.strategy.run(lambda inputs: predict(inputs), args=(batch,))
        found += [part.numpy() for part in runtime.strategy.experimental_local_results(per_replica)]
    return np.concatenate(found)[:num_rows]


def _distribute(
    runtime: Runtime, arrays: Mapping[str, np.ndarray], rows: np.ndarray
) -> tf.distribute.DistributedDataset:
    """Returns distributed batches of arrays.

    Args:
      runtime: devices.
      arrays: by name, [examples, ...].
      rows: the examples of each batch and replica, int64 [batches, replicas, examples].
    """
    constants = {name: tf.constant(array) for name, array in arrays.items()}

    def make(part: Part) -> tf.data.Dataset:
        begin = part.index * part.num_replicas
        own = rows[:, begin : begin + part.num_replicas].reshape(-1, rows.shape[-1])
        return (
            tf.data.Dataset.from_tensor_slices(own)
            .map(lambda chosen: {name: tf.gather(array, chosen) for name, array in constants.items()})
            .with_options(pipeline_options())
        )

    return runtime.distribute(make)


def shuffled_rows(num_rows: int, num_wanted: int, seed: int) -> np.ndarray:
    """Returns int64 [num_wanted] rows, epoch after epoch, each in the order that follows from (seed, epoch)."""
    num_epochs = -(-num_wanted // num_rows)
    orders = [
        np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_rows) for epoch in range(num_epochs)
    ]
    return np.concatenate(orders)[:num_wanted]
