"""The compiled train and eval steps: model, optimizer and strategy in, sums of losses and metrics out.

The losses are means over the masked slots and real tokens of the global batch: every replica divides its sums by the
weights of all replicas, gradients are added up over replicas, and then clipped. So the update does not depend on how a
batch is divided.
"""

from collections.abc import Callable, Iterator

import ml_collections
import numpy as np
import tensorflow as tf

from electra_cli import features, randomness
from electra_cli.modeling.pretrainers import Pretrainer
from electra_cli.training import losses, metrics
from electra_cli.training.distribution import Runtime
from electra_cli.training.optimization import Optimizer, uses_loss_scaling

Sums = dict[str, tf.Tensor]


def train_sum_shapes(objective: str) -> dict[str, list[int]]:
    """Returns the names and shapes of what train steps of an objective return, all float32.

    Beside the sums of `metrics.sum_shapes`: `num_steps`, `num_updates` (steps that were not left out because a gradient
    was not finite, which loss scaling makes happen), and `gradient_norm`, a sum over updates.
    """
    return {**metrics.sum_shapes(objective), "gradient_norm": [], "num_updates": [], "num_steps": []}


def build_train_steps(
    model: Pretrainer,
    optimizer: Optimizer,
    runtime: Runtime,
    config: ml_collections.FrozenConfigDict,
    interval_sums: metrics.IntervalSums | None = None,
) -> Callable[[Iterator, tf.Tensor, tf.Tensor], Sums]:
    """Builds the function that trains.

    Args:
      model: the pretrainer, made in the strategy's scope.
      optimizer: its optimizer, built in the strategy's scope.
      runtime: strategy and compilation.
      config: a resolved config.
      interval_sums: what each step's sums are added to, one step after the other, so that their digits do not depend
        on how many steps are made at once.

    Returns:
      A function of (iterator over distributed batches, step of the first, number of steps; both int64 scalars) that
      makes the steps and returns the sums `train_sum_shapes` over all of them and all replicas.
    """
    strategy, num_replicas = runtime.strategy, runtime.num_replicas
    variables = model.trainable_variables
    num_parts = config.train.gradient_accumulation_steps

    def compute_part(inputs, global_weights, dropout_seed):
        with tf.GradientTape() as tape:
            outputs = model(inputs, training=True, seed=dropout_seed)
            loss, sums = _loss_and_sums(inputs, outputs, global_weights, config.objective)
            if uses_loss_scaling(optimizer):
                loss = optimizer.get_scaled_loss(loss)
        # The word table is used densely by the masked-LM head, so its gradient is dense anyhow.
        return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)], sums

    def compute_gradients(inputs, global_weights, step, replica):
        step_seed = randomness.stream_seed(config.train.seed, randomness.Stream.DROPOUT, step)
        dropout_seed = randomness.fold_in(step_seed, replica)
        if num_parts == 1:
            return compute_part(inputs, global_weights, dropout_seed)
        parts = {name: tf.reshape(x, [num_parts, -1, *x.shape[1:]]) for name, x in inputs.items()}
        total = [tf.zeros(variable.shape, tf.float32) for variable in variables]
        total_sums = {name: tf.zeros(shape) for name, shape in metrics.sum_shapes(config.objective.name).items()}
        for index in tf.range(num_parts):
            part = {name: x[index] for name, x in parts.items()}
            gradients, sums = compute_part(part, global_weights, randomness.fold_in(dropout_seed, index))
            total = [first + second for first, second in zip(total, gradients, strict=True)]
            total_sums = {name: total_sums[name] + sums[name] for name in total_sums}
        return total, total_sums

    def apply_gradients(gradients):
        if uses_loss_scaling(optimizer):
            gradients = optimizer.get_unscaled_gradients(gradients)
        clipped, norm = tf.clip_by_global_norm(gradients, config.optimizer.clip_norm)
        optimizer.apply_gradients(zip(clipped, variables, strict=True), skip_gradients_aggregation=True)
        is_update = tf.math.is_finite(norm) if uses_loss_scaling(optimizer) else tf.constant(True)
        return {
            "gradient_norm": tf.where(is_update, norm, 0.0),
            "num_updates": tf.cast(is_update, tf.float32),
            "num_steps": tf.constant(1.0),
        }

    if num_replicas == 1:

        @tf.function(jit_compile=runtime.jit_compile)
        def replica_step(inputs, step):
            gradients, sums = compute_gradients(inputs, _weights(inputs), step, 0)
            return {**sums, **apply_gradients(gradients)}

    else:
        # All-reduce and Keras' update cross replicas, which XLA cannot: only what one replica computes is compiled.
        compute_replica_gradients = tf.function(compute_gradients, jit_compile=runtime.jit_compile)

        def replica_step(inputs, step):
            context = tf.distribute.get_replica_context()
            global_weights = context.all_reduce(tf.distribute.ReduceOp.SUM, _weights(inputs))
            replica = context.replica_id_in_sync_group
            gradients, sums = compute_replica_gradients(inputs, global_weights, step, replica)
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            # Every replica applies the same sum.
            return {**sums, **{name: x / num_replicas for name, x in apply_gradients(gradients).items()}}

    @tf.function
    def train_steps(iterator, first_step, num_steps):
        totals = {name: tf.zeros(shape) for name, shape in train_sum_shapes(config.objective.name).items()}
        for index in tf.range(num_steps):
            per_replica = strategy.run(replica_step, args=(next(iterator), first_step + index))
            sums = {name: _add_up(strategy, per_replica[name]) for name in totals}
            if interval_sums is not None:
                interval_sums.add(sums)
            totals = {name: totals[name] + sums[name] for name in totals}
        return totals

    return train_steps


def build_eval_step(
    model: Pretrainer,
    runtime: Runtime,
    config: ml_collections.FrozenConfigDict,
    unigram_log_probs: np.ndarray | None,
) -> Callable[[dict[str, tf.Tensor]], Sums]:
    """Builds the function that evaluates one distributed batch.

    Args:
      model: the pretrainer.
      runtime: strategy and compilation.
      config: a resolved config.
      unigram_log_probs: float32 [vocab_size], log-probabilities of the unigram baseline; None: no baseline.

    Returns:
      A function of a batch that returns the sums of `metrics.sum_shapes` and, with a baseline, `unigram_loss`.
    """

    @tf.function(jit_compile=runtime.jit_compile)
    def evaluate(inputs):
        outputs = model(inputs, training=False)
        _, sums = _loss_and_sums(inputs, outputs, _weights(inputs), config.objective)
        if unigram_log_probs is not None:
            log_probs = tf.gather(tf.constant(unigram_log_probs), inputs[features.MASKED_LM_IDS])
            sums["unigram_loss"] = -tf.reduce_sum(log_probs * inputs[features.MASKED_LM_WEIGHTS])
        return sums

    def replica_step(inputs):
        return evaluate(inputs)  # a compiled function itself would be called once, across replicas

    @tf.function
    def eval_step(inputs):
        per_replica = runtime.strategy.run(replica_step, args=(inputs,))
        return {name: _add_up(runtime.strategy, value) for name, value in per_replica.items()}

    return eval_step


def _weights(inputs: dict[str, tf.Tensor]) -> list[tf.Tensor]:
    """Masked slots and real tokens of a batch, float32 scalars."""
    tokens = tf.cast(inputs[features.INPUT_MASK], tf.float32)
    return [tf.reduce_sum(inputs[features.MASKED_LM_WEIGHTS]), tf.reduce_sum(tokens)]


def _loss_and_sums(inputs, outputs, global_weights, objective) -> tuple[tf.Tensor, Sums]:
    masked_lm_sum, masked_lm_weight = losses.masked_lm_loss(
        outputs["lm_outputs"], inputs[features.MASKED_LM_IDS], inputs[features.MASKED_LM_WEIGHTS]
    )
    global_masked_lm_weight, global_rtd_weight = (tf.maximum(weight, 1.0) for weight in global_weights)
    total = masked_lm_sum / global_masked_lm_weight
    sums = {
        "masked_lm_loss": masked_lm_sum,
        "masked_lm_weight": masked_lm_weight,
        **metrics.masked_lm_sums(inputs, outputs),
    }
    if objective.name == "mlm":
        return total, sums
    rtd_sum = losses.rtd_loss(outputs["disc_logits"], outputs["disc_label"], inputs[features.INPUT_MASK])
    total = objective.generator_loss_weight * total
    total += objective.discriminator_loss_weight * rtd_sum / global_rtd_weight
    return total, {**sums, "rtd_loss": rtd_sum, **metrics.rtd_sums(inputs, outputs)}


def _add_up(strategy: tf.distribute.Strategy, value: tf.Tensor) -> tf.Tensor:
    return strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
