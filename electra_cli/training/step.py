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
from electra_cli.modeling.electra_pretrainer import ElectraPretrainer
from electra_cli.training import losses, metrics
from electra_cli.training.distribution import Runtime
from electra_cli.training.optimization import AdamWeightDecay

Sums = dict[str, tf.Tensor]

# Sums that every train step returns, and their shapes; `num_steps` and `gradient_norm` are sums over steps.
_SCALAR_SUMS = (
    *("masked_lm_loss", "masked_lm_weight", "masked_lm_correct", "sampled_correct"),
    *("rtd_loss", "rtd_weight", "rtd_correct", "true_positives", "predicted_positives", "positives"),
    *("gradient_norm", "num_steps"),
)
TRAIN_SUM_SHAPES: dict[str, list[int]] = {
    **{name: [] for name in _SCALAR_SUMS},
    "positive_logits": [metrics.NUM_BINS],
    "negative_logits": [metrics.NUM_BINS],
}


def build_train_steps(
    model: ElectraPretrainer,
    optimizer: AdamWeightDecay,
    runtime: Runtime,
    config: ml_collections.FrozenConfigDict,
) -> Callable[[Iterator, tf.Tensor, tf.Tensor], Sums]:
    """Builds the function that trains.

    Args:
      model: the pretrainer, made in the strategy's scope.
      optimizer: its optimizer, built in the strategy's scope.
      runtime: strategy and compilation.
      config: a resolved config.

    Returns:
      A function of (iterator over distributed batches, step of the first, number of steps; both int64 scalars) that
      makes the steps and returns the sums `TRAIN_SUM_SHAPES` over all of them and all replicas.
    """
    strategy, num_replicas = runtime.strategy, runtime.num_replicas
    variables = model.trainable_variables
    seed = config.train.seed

    def compute_gradients(inputs, global_weights, step, replica):
        dropout_seed = randomness.fold_in(randomness.stream_seed(seed, randomness.Stream.DROPOUT, step), replica)
        with tf.GradientTape() as tape:
            outputs = model(inputs, training=True, seed=dropout_seed)
            loss, sums = _loss_and_sums(inputs, outputs, global_weights, config.objective)
        # The word table is used densely by the masked-LM head, so its gradient is dense anyhow.
        return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)], sums

    def apply_gradients(gradients):
        clipped, norm = tf.clip_by_global_norm(gradients, config.optimizer.clip_norm)
        optimizer.apply_gradients(zip(clipped, variables, strict=True), skip_gradients_aggregation=True)
        return norm

    if num_replicas == 1:

        @tf.function(jit_compile=runtime.jit_compile)
        def replica_step(inputs, step):
            gradients, sums = compute_gradients(inputs, _weights(inputs), step, 0)
            return {**sums, "gradient_norm": apply_gradients(gradients), "num_steps": tf.constant(1.0)}

    else:
        # All-reduce and Keras' update cross replicas, which XLA cannot: only what one replica computes is compiled.
        compute_gradients = tf.function(compute_gradients, jit_compile=runtime.jit_compile)

        def replica_step(inputs, step):
            context = tf.distribute.get_replica_context()
            global_weights = context.all_reduce(tf.distribute.ReduceOp.SUM, _weights(inputs))
            replica = context.replica_id_in_sync_group
            gradients, sums = compute_gradients(inputs, global_weights, step, replica)
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            norm = apply_gradients(gradients)
            return {**sums, "gradient_norm": norm / num_replicas, "num_steps": tf.constant(1.0 / num_replicas)}

    @tf.function
    def train_steps(iterator, first_step, num_steps):
        totals = {name: tf.zeros(shape) for name, shape in TRAIN_SUM_SHAPES.items()}
        for index in tf.range(num_steps):
            per_replica = strategy.run(replica_step, args=(next(iterator), first_step + index))
            totals = {name: totals[name] + _add_up(strategy, per_replica[name]) for name in totals}
        return totals

    return train_steps


def build_eval_step(
    model: ElectraPretrainer,
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
      A function of a batch that returns the sums of `TRAIN_SUM_SHAPES` but the last two scalars, and `unigram_loss`.
    """

    @tf.function(jit_compile=runtime.jit_compile)
    def replica_step(inputs):
        outputs = model(inputs, training=False)
        _, sums = _loss_and_sums(inputs, outputs, _weights(inputs), config.objective)
        if unigram_log_probs is not None:
            log_probs = tf.gather(tf.constant(unigram_log_probs), inputs[features.MASKED_LM_IDS])
            sums["unigram_loss"] = -tf.reduce_sum(log_probs * inputs[features.MASKED_LM_WEIGHTS])
        return sums

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
    rtd_sum, rtd_weight = losses.rtd_loss(outputs["disc_logits"], outputs["disc_label"], inputs[features.INPUT_MASK])
    global_masked_lm_weight, global_rtd_weight = (tf.maximum(weight, 1.0) for weight in global_weights)
    total = objective.generator_loss_weight * masked_lm_sum / global_masked_lm_weight
    total += objective.discriminator_loss_weight * rtd_sum / global_rtd_weight
    sums = {
        "masked_lm_loss": masked_lm_sum,
        "masked_lm_weight": masked_lm_weight,
        "rtd_loss": rtd_sum,
        "rtd_weight": rtd_weight,
        **metrics.batch_sums(inputs, outputs),
    }
    return total, sums


def _add_up(strategy: tf.distribute.Strategy, value: tf.Tensor) -> tf.Tensor:
    return strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
