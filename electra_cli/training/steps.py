"""Compiled steps of training and evaluation, which return sums of losses and metrics."""

import functools
from collections.abc import Callable

import ml_collections
import numpy as np
import tensorflow as tf

from electra_cli.modeling import randomness
from electra_cli.modeling.schedules import scheduled_values
from electra_cli.objectives.base import Pretrainer, objective_of
from electra_cli.training.distribution import Runtime
from electra_cli.training.optimization import Optimizer
from electra_cli.training.updates import ComputeGradients, IntervalSums, Sums, Updates, add_up, gradients_of


def build_train_steps(
    model: Pretrainer,
    optimizer: Optimizer,
    runtime: Runtime,
    config: ml_collections.FrozenConfigDict,
    interval_sums: IntervalSums | None = None,
) -> Updates:
    """Returns the updates of a model and its optimizer, built in the strategy's scope."""
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
) -> ComputeGradients:
    """Returns a function that computes gradients in `train.gradient_accumulation_steps` parts, one after the other."""
    objective, variables = objective_of(config), model.trainable_variables
    num_parts = config.train.gradient_accumulation_steps

    def compute_part(inputs, global_weights, step, dropout_seed):
        inputs = {**inputs, **scheduled_values(config, objective.scheduled_keys, step)}
        compute_loss = functools.partial(objective.training_loss, model, inputs, dropout_seed, global_weights)
        return gradients_of(compute_loss, variables, optimizer)

    def compute_gradients(inputs, global_weights, step, replica):
        dropout_seed = replica_dropout_seed(config.train.seed, step, replica)
        if num_parts == 1:
            return compute_part(inputs, global_weights, step, dropout_seed)
        parts = {name: tf.reshape(x, [num_parts, -1, *x.shape[1:]]) for name, x in inputs.items()}
        total = [tf.zeros(variable.shape, tf.float32) for variable in variables]
        total_sums = {name: tf.zeros(shape) for name, shape in objective.sum_shapes().items()}

        def add_part(index, total, total_sums):
            part = {name: x[index] for name, x in parts.items()}
            gradients, sums = compute_part(part, global_weights, step, randomness.fold_in(dropout_seed, index))
            return index + 1, _add_apart(total, gradients), {name: total_sums[name] + sums[name] for name in total_sums}

        _, total, total_sums = tf.while_loop(lambda index, *_: index < num_parts, add_part, (0, total, total_sums))
        return total, total_sums

    return compute_gradients


@functools.partial(tf.function, autograph=False, experimental_attributes={"_noinline": True})
def _add_apart(first: list[tf.Tensor], second: list[tf.Tensor]) -> list[tf.Tensor]:
    """Adds tensors, kept apart from what computes them.

    Grappler would merge it with the sums within gradients, by temporary variables that in a loop exist already.
    """
    return [one + other for one, other in zip(first, second, strict=True)]


def replica_dropout_seed(seed: tf.Tensor | int, step: tf.Tensor | int, replica: tf.Tensor | int) -> tf.Tensor:
    """Returns the seed, int64 [2], of a replica's dropout after `step` updates of a run with `train.seed`."""
    return randomness.fold_in(randomness.stream_seed(seed, randomness.Stream.DROPOUT, step), replica)


def build_eval_step(
    model: Pretrainer,
    runtime: Runtime,
    config: ml_collections.FrozenConfigDict,
    token_log_probs: np.ndarray | None,
) -> Callable[[dict[str, tf.Tensor]], Sums]:
    """Returns a function from a distributed batch to the objective's sums over all replicas.

    With `token_log_probs`, float32 [vocab_size] (`unigram_log_probs`), its `baseline_sums` are among them.
    """
    objective = objective_of(config)

    @runtime.function
    def evaluate(inputs):
        outputs = model(inputs, training=False)
        _, sums = objective.loss_and_sums(inputs, outputs, objective.batch_weights(inputs))
        if token_log_probs is not None:
            sums |= objective.baseline_sums(inputs, tf.constant(token_log_probs))
        return sums

    def replica_step(inputs):
        return evaluate(inputs)  # a compiled function itself would be called once, across replicas

    @functools.partial(tf.function, autograph=False)
    def eval_step(inputs):
        per_replica = runtime.strategy.run(replica_step, args=(inputs,))
        return {name: add_up(runtime.strategy, value) for name, value in per_replica.items()}

    return eval_step
