"""The compiled train and eval steps of pre-training: model, optimizer and strategy in, sums of losses and metrics out.

The losses are means over the masked slots and real tokens of the global batch, however it is divided (`updates.py`).
"""

import functools
from collections.abc import Callable

import ml_collections
import numpy as np
import tensorflow as tf

from electra_cli.modeling import randomness
from electra_cli.objectives.base import Pretrainer, objective_of
from electra_cli.training.distribution import Runtime
from electra_cli.training.optimization import Optimizer, uses_loss_scaling
from electra_cli.training.updates import IntervalSums, Sums, Updates, add_up


def build_train_steps(
    model: Pretrainer,
    optimizer: Optimizer,
    runtime: Runtime,
    config: ml_collections.FrozenConfigDict,
    interval_sums: IntervalSums | None = None,
) -> Updates:
    """Returns what trains.

    Args:
      model: the pretrainer, made in the strategy's scope.
      optimizer: its optimizer, built in the strategy's scope.
      runtime: strategy and compilation.
      config: a resolved config.
      interval_sums: as of `Updates`.
    """
    objective = objective_of(config)
    return Updates(
        build_gradients(model, optimizer, config),
        objective.batch_weights,
        objective.loss_names,
        objective.sum_shapes(),
        model.trainable_variables,
        optimizer,
        runtime,
        config.optimizer.clip_norm,
        interval_sums,
    )


def build_gradients(
    model: Pretrainer, optimizer: Optimizer, config: ml_collections.FrozenConfigDict
) -> Callable[..., tuple[list[tf.Tensor], Sums]]:
    """Builds the function that computes what one replica contributes to a step.

    Args:
      model: the pretrainer.
      optimizer: its optimizer, which may scale losses.
      config: a resolved config.

    Returns:
      A function of (inputs, global_weights, step, replica): the replica's share of a batch, the `batch_weights` of the
      whole batch, the steps made before (int64) and the replica's number. It returns the gradients of all trainable
      variables, float32, scaled if the optimizer scales losses, and the objective's sums.
    """
    objective, variables = objective_of(config), model.trainable_variables
    num_parts = config.train.gradient_accumulation_steps

    def compute_part(inputs, global_weights, dropout_seed):
        with tf.GradientTape() as tape:
            outputs = model(inputs, training=True, seed=dropout_seed)
            loss, sums = objective.loss_and_sums(inputs, outputs, global_weights)
            if uses_loss_scaling(optimizer):
                loss = optimizer.get_scaled_loss(loss)
        # The word table is used densely by the masked-LM head, so its gradient is dense anyhow.
        return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)], sums

    def compute_gradients(inputs, global_weights, step, replica):
        dropout_seed = replica_dropout_seed(config.train.seed, step, replica)
        if num_parts == 1:
            return compute_part(inputs, global_weights, dropout_seed)
        parts = {name: tf.reshape(x, [num_parts, -1, *x.shape[1:]]) for name, x in inputs.items()}
        total = [tf.zeros(variable.shape, tf.float32) for variable in variables]
        total_sums = {name: tf.zeros(shape) for name, shape in objective.sum_shapes().items()}
        for index in tf.range(num_parts):
            part = {name: x[index] for name, x in parts.items()}
            gradients, sums = compute_part(part, global_weights, randomness.fold_in(dropout_seed, index))
            total = _add_apart(total, gradients)
            total_sums = {name: total_sums[name] + sums[name] for name in total_sums}
        return total, total_sums

    return compute_gradients


@functools.partial(tf.function, experimental_attributes={"_noinline": True})
def _add_apart(first: list[tf.Tensor], second: list[tf.Tensor]) -> list[tf.Tensor]:
    """Adds tensors, kept apart from what computes them.

    TensorFlow's optimizer of graphs would make one sum of this and the sums that gradients are, with temporary
    variables, which in a loop exist already.
    """
    return [one + other for one, other in zip(first, second, strict=True)]


def replica_dropout_seed(seed: tf.Tensor | int, step: tf.Tensor | int, replica: tf.Tensor | int) -> tf.Tensor:
    """Returns what the dropout of a replica follows from, int64 [2], after `step` updates of a run with that seed."""
    return randomness.fold_in(randomness.stream_seed(seed, randomness.Stream.DROPOUT, step), replica)


def build_eval_step(
    model: Pretrainer,
    runtime: Runtime,
    config: ml_collections.FrozenConfigDict,
    token_log_probs: np.ndarray | None,
) -> Callable[[dict[str, tf.Tensor]], Sums]:
    """Builds the function that evaluates one distributed batch.

    Args:
      model: the pretrainer.
      runtime: strategy and compilation.
      config: a resolved config.
      token_log_probs: float32 [vocab_size], `unigram_log_probs`; None: no baseline.

    Returns:
      A function of a batch that returns the objective's sums and, if asked, its `baseline_sums`.
    """
    objective = objective_of(config)

    @tf.function(jit_compile=runtime.jit_compile)
    def evaluate(inputs):
        outputs = model(inputs, training=False)
        _, sums = objective.loss_and_sums(inputs, outputs, objective.batch_weights(inputs))
        if token_log_probs is not None:
            sums |= objective.baseline_sums(inputs, tf.constant(token_log_probs))
        return sums

    def replica_step(inputs):
        return evaluate(inputs)  # a compiled function itself would be called once, across replicas

    @tf.function
    def eval_step(inputs):
        per_replica = runtime.strategy.run(replica_step, args=(inputs,))
        return {name: add_up(runtime.strategy, value) for name, value in per_replica.items()}

    return eval_step
