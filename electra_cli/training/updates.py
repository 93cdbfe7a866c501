"""Optimizer updates over all replicas, compiled: what a replica contributes in, steps out. Knows no objective.

Every replica divides its sums by the weights of the global batch, gradients are added up over replicas, and then
clipped. So the update does not depend on how a batch is divided.

A step whose loss or gradient is not finite changes nothing but the count of steps, and ends the call.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from electra_cli.training.distribution import Runtime
from electra_cli.training.optimization import Optimizer, uses_loss_scaling

# Which Keras' dynamic loss scale does not go below.
_LEAST_LOSS_SCALE = 1.0
Sums = dict[str, tf.Tensor]
Inputs = dict[str, tf.Tensor]
# A replica's inputs, the weights of the global batch, the steps made before and the replica's number in; gradients of
# all variables and sums out.
ComputeGradients = Callable[..., tuple[list[tf.Tensor], Sums]]
# Distributed inputs and the steps made before in; sums over replicas, `nonfinite` [replicas], the gradient's norm and
# the number of updates (0 where loss scaling left it out) out.
Update = Callable[[Inputs, tf.Tensor], tuple[Sums, tf.Tensor, tf.Tensor, tf.Tensor]]


def build_update(
    compute_gradients: ComputeGradients,
    weights_of: Callable[[Inputs], list[tf.Tensor]],
    losses: Sequence[str],
    variables: Sequence[tf.Variable],
    optimizer: Optimizer,
    runtime: Runtime,
    clip_norm: float,
) -> Update:
    """Builds the function that makes one update.

    Args:
      compute_gradients: what one replica contributes: gradients of `variables`, float32, scaled if the optimizer scales
        losses, and sums, float32.
      weights_of: the weights that a replica's inputs have in the means of the global batch, float32 scalars.
      losses: names among the sums that must be finite.
      variables: what is trained.
      optimizer: built on `variables`.
      runtime: strategy and compilation.
      clip_norm: global norm that the gradient of the whole batch is clipped to.
    """
    updater = _Updater(losses, variables, optimizer, runtime.num_replicas, clip_norm)
    build = _build_for_one if runtime.num_replicas == 1 else _build_for_several
    return build(compute_gradients, weights_of, updater, runtime)


class _Updater:
    """What becomes of gradients; the arguments are those of `build_update`."""

    def __init__(
        self,
        losses: Sequence[str],
        variables: Sequence[tf.Variable],
        optimizer: Optimizer,
        num_replicas: int,
        clip_norm: float,
    ):
        self._losses, self._variables, self._optimizer = losses, variables, optimizer
        self._num_replicas, self._clip_norm = num_replicas, clip_norm
        self._scales_losses = uses_loss_scaling(optimizer)

    def is_usable(self, norm):
        """Returns whether a gradient of this norm may be applied, or is one for loss scaling to leave out."""
        is_finite = tf.math.is_finite(norm)
        if not self._scales_losses:
            return is_finite
        # An infinite gradient is the scale's doing, which is halved then, until it cannot be.
        return is_finite | (self._optimizer.loss_scale > _LEAST_LOSS_SCALE)

    def find_nonfinite(self, gradients, sums, replica):
        """Returns float32 [replicas], 1 for this replica if its loss or gradient is not finite; and the norm."""
        norm = tf.linalg.global_norm(gradients)
        loss = tf.add_n([sums[name] for name in self._losses])
        is_finite = tf.math.is_finite(loss) & self.is_usable(norm)
        return tf.one_hot(replica, self._num_replicas) * tf.where(is_finite, 0.0, 1.0), norm

    def apply(self, gradients, norm):
        """Makes an update; returns the norm of the gradient and the number of updates."""
        if self._scales_losses:
            gradients = self._optimizer.get_unscaled_gradients(gradients)
            norm = tf.linalg.global_norm(gradients)
        clipped, _ = tf.clip_by_global_norm(gradients, self._clip_norm, use_norm=norm)
        pairs = zip(clipped, self._variables, strict=True)
        self._optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
        is_update = tf.math.is_finite(norm) if self._scales_losses else tf.constant(True)
        return tf.where(is_update, norm, 0.0), tf.cast(is_update, tf.float32)

    def leave_out(self):
        """Counts a step without an update; returns as `apply`."""
        self._optimizer.iterations.assign_add(1)
        return tf.constant(0.0), tf.constant(0.0)


def _build_for_one(
    compute_gradients: ComputeGradients,
    weights_of: Callable[[Inputs], list[tf.Tensor]],
    updater: _Updater,
    runtime: Runtime,
) -> Update:
    @tf.function(jit_compile=runtime.jit_compile)
    def make_step(inputs, step):
        gradients, sums = compute_gradients(inputs, weights_of(inputs), step, 0)
        nonfinite, norm = updater.find_nonfinite(gradients, sums, 0)
        norm, num_updates = tf.cond(nonfinite[0] > 0, updater.leave_out, lambda: updater.apply(gradients, norm))
        return sums, nonfinite, norm, num_updates

    return lambda inputs, step: runtime.strategy.run(make_step, args=(inputs, step))


def _build_for_several(
    compute_gradients: ComputeGradients,
    weights_of: Callable[[Inputs], list[tf.Tensor]],
    updater: _Updater,
    runtime: Runtime,
) -> Update:
    strategy = runtime.strategy
    # All-reduce and Keras' update cross replicas, which XLA cannot: only what one replica computes is compiled.
    compute_replica_gradients = tf.function(compute_gradients, jit_compile=runtime.jit_compile)

    def replica_gradients(inputs, step):
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group
        global_weights = context.all_reduce(tf.distribute.ReduceOp.SUM, weights_of(inputs))
        gradients, sums = compute_replica_gradients(inputs, global_weights, step, replica)
        nonfinite, _ = updater.find_nonfinite(gradients, sums, replica)
        # Every replica applies the same sum.
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        return gradients, tf.linalg.global_norm(gradients), sums, nonfinite

    def update_on_all(inputs, step):
        gradients, norm, sums, nonfinite = strategy.run(replica_gradients, args=(inputs, step))
        sums, nonfinite = {name: add_up(strategy, sums[name]) for name in sums}, add_up(strategy, nonfinite)
        # A sum of finite gradients may be infinite: then it is that of all.
        is_known = tf.reduce_any(nonfinite > 0) | updater.is_usable(of_all(strategy, norm))
        nonfinite = tf.where(is_known, nonfinite, tf.ones_like(nonfinite))
        if tf.reduce_any(nonfinite > 0):
            norm, num_updates = strategy.run(updater.leave_out)
        else:
            norm, num_updates = strategy.run(updater.apply, args=(gradients, norm))
        return sums, nonfinite, of_all(strategy, norm), of_all(strategy, num_updates)

    return update_on_all


def with_counts(shapes: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Returns the shapes of sums and of what `build_steps` adds to them, all float32.

    They are `num_steps`, `num_updates` (steps that were not skipped because a gradient was not finite), and
    `gradient_norm`, a sum over updates.
    """
    return {**shapes, "gradient_norm": [], "num_updates": [], "num_steps": []}


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


def build_steps(
    update: Update,
    sum_shapes: Mapping[str, list[int]],
    num_replicas: int,
    interval_sums: IntervalSums | None = None,
) -> Callable[[Iterator, tf.Tensor, tf.Tensor], Sums]:
    """Builds the function that makes many updates in one call.

    Args:
      update: makes one.
      sum_shapes: names and shapes of its sums, `with_counts`.
      num_replicas: replicas that it divides a batch over.
      interval_sums: what each step's sums are added to, one step after the other, so that their digits do not depend
        on how many steps are made at once.

    Returns:
      A function of (iterator over distributed batches, step of the first, number of steps; both int64 scalars); see
      `steps.build_train_steps`.
    """

    @tf.function
    def train_steps(iterator, first_step, num_steps):
        totals = {name: tf.zeros(shape) for name, shape in sum_shapes.items()}
        nonfinite = tf.zeros([num_replicas])
        waited, step_end = tf.zeros([], tf.float64), tf.timestamp()
        for index in tf.range(num_steps):
            batch = next(iterator)
            waited += tf.maximum(_time_after(batch) - step_end, 0.0)
            sums, nonfinite, norm, num_updates = update(batch, first_step + index)
            step_end = _time_after((sums, norm))
            nonfinite = tf.ensure_shape(nonfinite, [num_replicas])
            is_whole = tf.logical_not(tf.reduce_any(nonfinite > 0))
            sums = {name: tf.where(is_whole, value, tf.zeros_like(value)) for name, value in sums.items()}
            sums |= {"gradient_norm": norm, "num_updates": num_updates, "num_steps": tf.constant(1.0)}
            if interval_sums is not None:
                interval_sums.add(sums)
            totals = {name: totals[name] + sums[name] for name in totals}
            if not is_whole:
                break
        return {**totals, "nonfinite_replicas": nonfinite, "input_wait_seconds": waited}

    return train_steps


def add_up(strategy: tf.distribute.Strategy, value: tf.Tensor) -> tf.Tensor:
    """Returns the sum of a value over replicas."""
    return strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)


def of_all(strategy: tf.distribute.Strategy, value: tf.Tensor) -> tf.Tensor:
    """Returns a value that is the same on all replicas."""
    return strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None)


def _time_after(tensors) -> tf.Tensor:
    """Returns the time, in seconds, float64, when all tensors of a structure are there."""
    with tf.control_dependencies(tf.nest.flatten(tensors, expand_composites=True)):
        return tf.timestamp()
