"""Compiled optimizer updates over all replicas, from what each contributes. Knows no objective.

Every replica divides its sums by the weights of the global batch, gradients are added up over replicas, and then
clipped. So the update does not depend on how a batch is divided.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from electra_cli.modeling.fused import in_order, is_compiled_by_xla
from electra_cli.training.distribution import Runtime
from electra_cli.training.optimization import Optimizer, own_copies, uses_loss_scaling

_ON_READ, _OF_FIRST = tf.VariableSynchronization.ON_READ, tf.VariableAggregation.ONLY_FIRST_REPLICA
_MIRRORED = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
# The least that Keras' dynamic loss scale becomes.
_MIN_LOSS_SCALE = 1.0
Sums = dict[str, tf.Tensor]
Inputs = dict[str, tf.Tensor]
# Computes what one replica contributes: from its inputs, the weights of the global batch, the number of earlier steps
# (int64) and the replica's number, float32 gradients of all variables, scaled if the optimizer does; and float32 sums.
ComputeGradients = Callable[..., tuple[list[tf.Tensor], Sums]]


class _State(NamedTuple):
    """What a replica's update changes: its own copies where several are compiled, each by itself."""

    optimizer: Optimizer
    variables: Sequence[tf.Variable]
    is_halted: tf.Variable  # float32: 1 after a step of this call that was not finite


def gradients_of(
    compute_loss: Callable[..., tuple[tf.Tensor, Sums]], variables: Sequence[tf.Variable], optimizer: Optimizer
) -> tuple[list[tf.Tensor], Sums]:
    """Returns the gradients of a loss, scaled if the optimizer does, and its sums.

    Args:
      compute_loss: returns the loss and its sums. It is called with a function (`objectives.base.TakeGradients`) that
        takes the gradients of a part of the loss at once where XLA compiles the step, and else leaves it to
        TensorFlow's executor when it computes them, which on CPUs is 5 % quicker; what is returned is the rest.
    """
    shares: list[list[tf.Tensor]] = [[] for _ in variables]
    parts: list[tf.Tensor] = []

    def take(loss: tf.Tensor) -> None:
        if uses_loss_scaling(optimizer):
            loss = optimizer.get_scaled_loss(loss)
        with tape.stop_recording():
            for gradients, gradient in zip(shares, tape.gradient(loss, variables), strict=True):
                if gradient is not None:  # That of a word table is dense once a head uses the table, too.
                    gradients.append(tf.convert_to_tensor(gradient))

    def take_first(loss: tf.Tensor, following: Inputs) -> Inputs:
        if not is_compiled_by_xla():
            parts.append(loss)
            return following
        take(loss)
        shares[:], following = in_order(shares, following)
        return following

    with tf.GradientTape(persistent=True) as tape:
        loss, sums = compute_loss(take_first)
        take(tf.add_n([*parts, loss]))
    return [tf.add_n(gradients) for gradients in shares], sums


def with_counts(shapes: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Returns the shapes of sums and of those that `Updates` adds, all float32.

    These are `num_steps`, `num_updates` (steps that were not skipped) and `gradient_norm`, summed over updates.
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
        """Returns the sums and starts again."""
        taken = {name: variable.numpy() for name, variable in self.sums.items()}
        for variable in self.sums.values():
            variable.assign(tf.zeros_like(variable))
        return taken


class Updates:
    """Makes updates, many in one call, in which no device waits for the host between steps.

    A step whose loss or gradient is not finite changes nothing but the count of steps, and those after it in the call
    change nothing at all. Gradients that loss scaling makes infinite are no such case: their update is skipped and the
    scale halved, down to 1.

    Args:
      batch_weights: the weights that a replica's inputs have in the means of the global batch, float32 scalars.
      loss_names: sums that must be finite.
      optimizer: built on `variables`.
      clip_norm: global norm that the gradient of the whole batch is clipped to.
      interval_sums: each step's sums are added to them, one step after the other, so that their digits do not depend
        on how many steps are made at once.
    """

    def __init__(
        self,
        compute_gradients: ComputeGradients,
        batch_weights: Callable[[Inputs], list[tf.Tensor]],
        loss_names: Sequence[str],
        sum_shapes: Mapping[str, list[int]],
        variables: Sequence[tf.Variable],
        optimizer: Optimizer,
        runtime: Runtime,
        clip_norm: float,
        interval_sums: IntervalSums | None = None,
    ):
        self._compute_gradients, self._batch_weights = compute_gradients, batch_weights
        self._loss_names, self._sum_shapes = loss_names, with_counts(sum_shapes)
        self._variables, self._optimizer, self._clip_norm = variables, optimizer, clip_norm
        self._strategy, self._num_replicas = runtime.strategy, runtime.num_replicas
        self._interval_sums = interval_sums
        self._scales_losses = uses_loss_scaling(optimizer)
        # A condition of XLA's on a GPU makes the host wait; elsewhere one saves the passes that a choice takes.
        self._chooses = runtime.jit_compile and not self._scales_losses
        with runtime.strategy.scope():
            self._is_halted = tf.Variable(0.0, trainable=False, synchronization=_ON_READ, aggregation=_OF_FIRST)
        # A mirrored strategy's own way to update is none for a compiled function, even of a single replica.
        self._is_one_program = not isinstance(runtime.strategy, _MIRRORED)
        self._states = [_State(optimizer, variables, self._is_halted)]
        if not self._is_one_program:
            halted = runtime.strategy.experimental_local_results(self._is_halted)
            copies = own_copies(optimizer, variables, runtime.strategy)
            self._states = [_State(*copy, own) for copy, own in zip(copies, halted, strict=True)]
        self._contribute = self._contribution
        if self._is_one_program:
            self._compiled_step = runtime.function(self._whole_step)
        else:
            # XLA compiles what lies before the all-reduce on GPUs and CPUs, and what lies after it.
            self._contribute = runtime.function(self._contribution)
            self._updates = [runtime.function(functools.partial(self._update, state)) for state in self._states]
        self._compiled_steps = tf.function(runtime.with_jit_regions(self._steps), autograph=False)

    def __call__(self, batches: Iterator, first_step: tf.Tensor, num_steps: tf.Tensor) -> Sums:
        """Makes `num_steps` (int64) steps after `first_step` (int64), up to the first that is not finite.

        Takes `num_steps` batches in any case. Returns the sums, `with_counts`, over all steps and replicas;
        `nonfinite_replicas`, float32 [replicas], 1 where loss or gradient were not finite; and `input_wait_seconds`,
        float64, the time for which a step could have begun but its batch was not there.
        """
        return self._compiled_steps(batches, first_step, num_steps)

    def to_hlo(self, inputs: Inputs, step: tf.Tensor) -> bytes:
        """Returns the step of one replica as a serialized HloModuleProto; needs `jit_compile` and a single replica."""
        return self._compiled_step.experimental_get_compiler_ir(inputs, step)(stage="hlo_serialized")

    def _steps(self, batches, first_step, num_steps):
        shapes = {**self._sum_shapes, "nonfinite_replicas": [self._num_replicas]}
        for state in self._states:
            state.is_halted.assign(0.0, read_value=False)

        def make_step(index, totals, waited, step_end):
            batch = batches.get_next()
            waited += tf.maximum(_time_after(batch) - step_end, 0.0)
            sums = self._step(batch, first_step + index)
            with tf.device("CPU:0"):  # where it is when it is computed; on a GPU when that is enqueued
                norm = tf.identity(sums["gradient_norm"])
            step_end = _time_after((sums, norm))
            if self._interval_sums is not None:
                self._interval_sums.add(sums)
            totals = {name: tf.ensure_shape(totals[name] + sums[name], shape) for name, shape in shapes.items()}
            return index + 1, totals, waited, step_end

        totals = {name: tf.zeros(shape) for name, shape in shapes.items()}
        begin = (tf.zeros_like(num_steps), totals, tf.zeros([], tf.float64), tf.timestamp())
        _, totals, waited, _ = tf.while_loop(lambda index, *_: index < num_steps, make_step, begin)
        return {**totals, "input_wait_seconds": waited}

    def _step(self, inputs, step):
        """Returns the sums of a step over replicas, as `__call__`."""
        if self._is_one_program:
            return _of_replica(self._strategy, 0, self._strategy.run(self._compiled_step, args=(inputs, step)))
        totals = self._strategy.run(self._totals, args=(inputs, step))
        results = []
        for index, (state, update) in enumerate(zip(self._states, self._updates, strict=True)):
            with tf.device(state.variables[0].device):
                results.append(update(*_of_replica(self._strategy, index, totals)))
        return results[0]

    def _whole_step(self, inputs, step):
        """All that a replica does in a step; returns as `_step`."""
        return self._update(self._states[0], *self._totals(inputs, step))

    def _totals(self, inputs, step):
        """Returns what all replicas contribute: sums, gradients, and float32 [replicas] which are not finite."""
        context = tf.distribute.get_replica_context()
        add_up = functools.partial(context.all_reduce, tf.distribute.ReduceOp.SUM)
        global_weights = add_up(self._batch_weights(inputs))
        return add_up(self._contribute(inputs, global_weights, step, context.replica_id_in_sync_group))

    def _contribution(self, inputs, global_weights, step, replica):
        gradients, sums = self._compute_gradients(inputs, global_weights, step, replica)
        loss = tf.add_n([sums[name] for name in self._loss_names])
        is_finite = tf.math.is_finite(loss)
        if self._num_replicas > 1:  # Of one alone, `_update` looks at the gradient.
            is_finite &= self._is_usable(self._optimizer, tf.linalg.global_norm(gradients))
        return sums, gradients, tf.one_hot(replica, self._num_replicas) * tf.where(is_finite, 0.0, 1.0)

    def _update(self, state, sums, gradients, nonfinite):
        """Updates a replica's weights, as all others do, unless a loss or gradient was not finite; see `_step`."""
        norm = tf.linalg.global_norm(gradients)
        # A sum of finite gradients may be infinite: then it is that of all.
        is_known = tf.reduce_any(nonfinite > 0) | self._is_usable(state.optimizer, norm)
        nonfinite = tf.where(is_known, nonfinite, tf.ones_like(nonfinite))
        is_made = tf.equal(state.is_halted, 0.0)
        is_whole = is_made & ~tf.reduce_any(nonfinite > 0)
        num_steps = state.optimizer.iterations + tf.cast(is_made, tf.int64)
        apply = functools.partial(self._apply, state, gradients, norm)
        counts = _choose_after(is_whole, state, apply) if self._chooses else tf.cond(is_whole, apply, _no_counts)
        state.optimizer.iterations.assign(num_steps)
        state.is_halted.assign(tf.where(is_whole, 0.0, 1.0))
        sums = {name: tf.where(is_whole, value, tf.zeros_like(value)) for name, value in sums.items()}
        made = tf.cast(is_made, tf.float32)
        return {**sums, **counts, "num_steps": made, "nonfinite_replicas": nonfinite * made}

    def _is_usable(self, optimizer, norm):
        """Returns whether a gradient of this norm may be applied, or loss scaling skips it."""
        is_finite = tf.math.is_finite(norm)
        if not self._scales_losses:
            return is_finite
        # The scale made it infinite, and is halved then, until it cannot be.
        return is_finite | (optimizer.loss_scale > _MIN_LOSS_SCALE)

    def _apply(self, state, gradients, norm):
        """Makes an update; returns the gradient's norm and the number of updates."""
        if self._scales_losses:
            gradients = state.optimizer.get_unscaled_gradients(gradients)
            norm = tf.linalg.global_norm(gradients)
        clipped, _ = tf.clip_by_global_norm(gradients, self._clip_norm, use_norm=norm)
        pairs = zip(clipped, state.variables, strict=True)
        state.optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
        is_update = tf.math.is_finite(norm) if self._scales_losses else tf.constant(True)
        return {"gradient_norm": tf.where(is_update, norm, 0.0), "num_updates": tf.cast(is_update, tf.float32)}


def _no_counts():
    """Returns as `Updates._apply` where no update is made."""
    return {"gradient_norm": tf.constant(0.0), "num_updates": tf.constant(0.0)}


def _choose_after(is_whole, state, apply):
    """Makes an update and, unless `is_whole`, restores what was before it."""
    changed = [*state.variables, *state.optimizer.variables]
    before = [tf.identity(variable) for variable in changed]
    counts = apply()
    for variable, value in zip(changed, before, strict=True):
        variable.assign(tf.where(is_whole, variable, value))
    return {name: tf.where(is_whole, counts[name], none) for name, none in _no_counts().items()}


def _of_replica(strategy, index, values):
    """Returns what one of this process's replicas has of a structure of values."""
    return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[index], values)


def add_up(strategy: tf.distribute.Strategy, value: tf.Tensor) -> tf.Tensor:
    """Returns the sum of a value over replicas."""
    return strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)


def _time_after(tensors) -> tf.Tensor:
    """Returns the time, in seconds, float64, when all tensors of a structure are there."""
    with tf.control_dependencies(tf.nest.flatten(tensors, expand_composites=True)):
        return tf.timestamp()
