"""Learning rates and optimizers, with three that Keras lacks: the original's Adam, LAMB and StableAdamW."""

import contextlib
import copy
import inspect
import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import ml_collections
import tensorflow as tf
import tf_keras

from electra_cli.config.resolution import divide
from electra_cli.modeling.fused import jit_region


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
class WarmupDecay(tf_keras.optimizers.schedules.LearningRateSchedule):
    """peak x min(1, step / warmup_steps) x decay(step), where step is 1 at the first update and num_steps at the last.

    The decay, which ends at 0, is one of

    - `linear`: 1 - step / num_steps from the first step on, as google-research/electra computes it
      (`model/optimization.py`);
    - `cosine`: half a cosine from the end of warm-up on (SGDR, arXiv 1608.03983, equation 5, one period);
    - `warmup_stable_decay`: 1, then a straight line in the last `decay_fraction` of the run (the schedule of MiniCPM,
      arXiv 2404.06395, section 4.2).

    Of `later_peaks`, (step, peak) pairs, each holds after its step.
    """

    def __init__(
        self,
        peak: float,
        num_steps: int,
        warmup_steps: int,
        decay: str = "linear",
        decay_fraction: float = 0.1,
        later_peaks: Sequence[tuple[int, float]] = (),
    ):
        super().__init__()
        if decay not in ("linear", "cosine", "warmup_stable_decay"):
            raise ValueError(f"decay={decay!r}: is 'linear', 'cosine' or 'warmup_stable_decay'")
        self.peak = peak
        self.num_steps = num_steps
        self.warmup_steps = warmup_steps
        self.decay = decay
        self.decay_fraction = decay_fraction
        self.later_peaks = [tuple(pair) for pair in later_peaks]

    def __call__(self, step):
        """Returns the rate, float32, of the update after `step` updates."""
        update = tf.cast(step, tf.float32) + 1.0
        peak = tf.constant(self.peak, tf.float32)
        for begin, later_peak in self.later_peaks:
            peak = tf.where(update > begin, later_peak, peak)
        rate = peak * self._decay(update)
        if self.warmup_steps:
            rate *= tf.minimum(1.0, update / self.warmup_steps)
        return rate

    def _decay(self, update: tf.Tensor) -> tf.Tensor:
        if self.decay == "linear":
            return 1.0 - tf.minimum(update / self.num_steps, 1.0)
        if self.decay == "cosine":
            begin = min(self.warmup_steps, self.num_steps - 1)
            return 0.5 * (1.0 + tf.cos(math.pi * self._progress(update, begin)))
        begin = self.num_steps - max(1, round(self.decay_fraction * self.num_steps))
        return 1.0 - self._progress(update, begin)

    def _progress(self, update: tf.Tensor, begin: int) -> tf.Tensor:
        """Fraction of the way from step `begin` to the last, from 0 to 1."""
        return tf.clip_by_value((update - begin) / (self.num_steps - begin), 0.0, 1.0)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = ("peak", "num_steps", "warmup_steps", "decay", "decay_fraction", "later_peaks")
        return {name: getattr(self, name) for name in names}


# Parts of names of weights that are not decayed (google-research/electra, `model/optimization.py`).
NOT_DECAYED = ["layer_norm", "LayerNorm", "bias"]
# Entries of a weight from which on its update is compiled.
_LARGE = 10_000
# What starts at 0 (gradient-disentangled embeddings) would hardly leave it, were its updates as small as itself.
_NOT_ADAPTED = "_difference"


class _WithMoments(tf_keras.optimizers.Optimizer):
    """An optimizer with two moments of each gradient, m and v; its updates decay all but biases and LayerNorm."""

    def __init__(self, learning_rate, beta_1=0.9, beta_2=0.999, epsilon=1e-6, weight_decay=0.01, **kwargs):
        # The step that calls it is compiled as a whole.
        super().__init__(weight_decay=weight_decay or None, **{"jit_compile": False, **kwargs})
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.exclude_from_weight_decay(var_names=NOT_DECAYED)

    def build(self, var_list):
        """Creates two moments for each weight."""
        super().build(var_list)
        if getattr(self, "_built", False):  # Keras' name: its own build looks at it
            return
        self._built = True
        self._m = [self.add_variable_from_reference(variable, "m") for variable in var_list]
        self._v = [self.add_variable_from_reference(variable, "v") for variable in var_list]

    def _moments_of(self, variable: tf.Variable) -> tuple[tf.Variable, tf.Variable]:
        index = self._index_dict[self._var_key(variable)]
        return self._m[index], self._v[index]

    def _corrected_moments(self, gradient: tf.Tensor, variable: tf.Variable) -> tuple[tf.Tensor, tf.Tensor]:
        """Updates the moments of a weight; returns them as if they had not started at 0."""
        m, v = self._moments_of(variable)
        m.assign(self.beta_1 * m + (1.0 - self.beta_1) * gradient)
        v.assign(self.beta_2 * v + (1.0 - self.beta_2) * tf.square(gradient))
        num_updates = tf.cast(self.iterations + 1, variable.dtype)
        corrected_m = m / (1.0 - tf.pow(tf.cast(self.beta_1, variable.dtype), num_updates))
        corrected_v = v / (1.0 - tf.pow(tf.cast(self.beta_2, variable.dtype), num_updates))
        return corrected_m, corrected_v

    def _decay_of(self, variable: tf.Variable) -> float:
        has_decay = self.weight_decay is not None and self._use_weight_decay(variable)
        return self.weight_decay if has_decay else 0.0

    def _apply_weight_decay(self, variables):
        """Keras' separate decay, which is part of the update here."""

    def get_config(self):
        """Returns the constructor's arguments."""
        names = ("name", "weight_decay", "use_ema", "ema_momentum", "ema_overwrite_frequency", "jit_compile")
        base = super().get_config()
        return {
            **{name: base[name] for name in names},
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
class AdamWeightDecay(_WithMoments):
    """BERT's Adam, which ELECTRA uses: no bias correction; weight decay is added to the update, not to the gradient.

    update = m / (sqrt(v) + epsilon) + weight_decay x weight, times the learning rate. Every optimizer of
    tf-models-official and Keras corrects the bias of m and v, which changes the first thousands of steps.
    """

    def __init__(self, learning_rate, name="adam_weight_decay", **kwargs):
        super().__init__(learning_rate, name=name, **kwargs)

    def update_step(self, gradient, variable):
        """Updates one weight, with its decay."""
        m, v = self._moments_of(variable)
        update = _adam_update if variable.shape.num_elements() >= _LARGE else _small_adam_update
        new_values = update(
            gradient,
            *(tf.convert_to_tensor(part) for part in (variable, m, v)),
            self.rate_of(variable),
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            weight_decay=self._decay_of(variable),
        )
        for part, value in zip((variable, m, v), new_values, strict=True):
            part.assign(value)

    def rate_of(self, variable):
        """Returns the learning rate of a weight, a scalar of its type."""
        return tf.cast(self.learning_rate, variable.dtype)


@jit_region
def _adam_update(gradient, weight, m, v, rate, *, beta_1, beta_2, epsilon, weight_decay):
    m = beta_1 * m + (1.0 - beta_1) * gradient
    v = beta_2 * v + (1.0 - beta_2) * tf.square(gradient)
    return weight - rate * (m / (tf.sqrt(v) + epsilon) + weight_decay * weight), m, v


# What is small is not worth a compilation. Most weights are, so one trace serves all of their shapes.
_small_adam_update = tf.function(inspect.unwrap(_adam_update), autograph=False, reduce_retracing=True)


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
class Lamb(_WithMoments):
    """LAMB (arXiv 1904.00962, algorithm 2): Adam whose update is scaled, weight by weight, to the weight's norm.

    tf-models-official's is an optimizer of Keras' legacy kind, which neither averages weights nor scales losses as the
    others do. Query, key and value are one weight here. Updates that loss scaling skips count in the bias correction.
    """

    def __init__(self, learning_rate, name="lamb", **kwargs):
        super().__init__(learning_rate, name=name, **kwargs)

    def update_step(self, gradient, variable):
        """Updates one weight."""
        m, v = self._corrected_moments(gradient, variable)
        update = m / (tf.sqrt(v) + self.epsilon) + self._decay_of(variable) * variable
        ratio = tf.ones([], variable.dtype)
        if self._use_weight_decay(variable) and _NOT_ADAPTED not in variable.name:
            weight_norm, update_norm = tf.norm(variable), tf.norm(update)
            ratio = tf.where(
                (weight_norm > 0) & (update_norm > 0), tf.math.divide_no_nan(weight_norm, update_norm), 1.0
            )
        variable.assign_sub(tf.cast(self.learning_rate, variable.dtype) * ratio * update)


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
class StableAdamW(_WithMoments):
    """AdamW with smaller steps for a weight whose gradient is larger than v expects (arXiv 2304.13013, algorithm 2).

    The rate, also of the decay, is divided by max(1, sqrt(mean(gradient^2 / max(v, epsilon^2)))): AdaFactor's clipping
    of updates, with which spikes of the loss are rarer. Query, key and value are one weight here.
    """

    def __init__(self, learning_rate, name="stable_adamw", **kwargs):
        super().__init__(learning_rate, name=name, **kwargs)

    def update_step(self, gradient, variable):
        """Updates one weight, with its decay."""
        m, v = self._corrected_moments(gradient, variable)
        excess = tf.sqrt(tf.reduce_mean(tf.square(gradient) / tf.maximum(v, self.epsilon**2)))
        rate = tf.cast(self.learning_rate, variable.dtype) / tf.maximum(excess, 1.0)
        variable.assign_sub(rate * (m / (tf.sqrt(v) + self.epsilon) + self._decay_of(variable) * variable))


_OURS = {"adam_weight_decay": AdamWeightDecay, "lamb": Lamb, "stable_adamw": StableAdamW}
# Keras' LossScaleOptimizer is none by type, but wraps one and has its methods.
Optimizer: TypeAlias = tf_keras.optimizers.Optimizer


def build_optimizer(config: ml_collections.FrozenConfigDict) -> Optimizer:
    """Builds the optimizer of a resolved config; `Updates` clips.

    With `runtime.precision=mixed_float16` it scales losses dynamically and skips updates that are not finite; they
    count as steps, of the schedule and of bias corrections.
    """
    settings = config.optimizer
    first, *later = divide(config)
    schedule = WarmupDecay(
        first.config.optimizer.learning_rate,
        config.train.num_steps,
        settings.warmup_steps,
        settings.schedule,
        settings.decay_fraction,
        [(phase.begin, phase.config.optimizer.learning_rate) for phase in later],
    )
    arguments = {
        "beta_1": settings.beta_1,
        "beta_2": settings.beta_2,
        "epsilon": settings.epsilon,
        "weight_decay": settings.weight_decay_rate,
        "use_ema": settings.ema_decay > 0,
        "ema_momentum": settings.ema_decay,
    }
    if settings.name == "adamw":
        optimizer = tf_keras.optimizers.AdamW(schedule, jit_compile=False, **arguments)
        optimizer.exclude_from_weight_decay(var_names=NOT_DECAYED)
    else:
        optimizer = _OURS[settings.name](schedule, **arguments)
    if config.runtime.precision == "mixed_float16":
        return tf_keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer


def uses_loss_scaling(optimizer: Optimizer) -> bool:
    """Returns whether `get_scaled_loss` and `get_unscaled_gradients` must be called."""
    return isinstance(optimizer, tf_keras.mixed_precision.LossScaleOptimizer)


def inner_optimizer(optimizer: Optimizer) -> Optimizer:
    """Returns the optimizer without its wrapper that scales losses, if it has one."""
    return optimizer.inner_optimizer if uses_loss_scaling(optimizer) else optimizer


def own_copies(
    optimizer: Optimizer, variables: Sequence[tf.Variable], strategy: tf.distribute.Strategy
) -> list[tuple[Optimizer, list[tf.Variable]]]:
    """Returns an optimizer and the variables that it is built on, for each of this process's replicas.

    They are the replica's own copies, outside of any strategy: what updates them is a function like any other, which
    XLA compiles, where Keras would make one update after the other across replicas. All must make the same ones.
    """

    def own(part, index):
        if isinstance(part, tf.Variable):
            return strategy.experimental_local_results(part)[index]
        if isinstance(part, list):
            return [own(each, index) for each in part]
        if part is inner_optimizer(optimizer) or part is getattr(optimizer, "_loss_scale", optimizer):
            return copied(part, index)
        return part

    def copied(tracked, index):
        result = copy.copy(tracked)
        vars(result).update({name: own(value, index) for name, value in vars(tracked).items()})
        return result

    num_replicas = len(strategy.experimental_local_results(variables[0]))
    copies = [(copied(optimizer, index), own(list(variables), index)) for index in range(num_replicas)]
    for each, _ in copies:
        inner_optimizer(each)._distribution_strategy = tf.distribute.get_strategy()
        if uses_loss_scaling(each):
            each._loss_has_been_scaled = True  # by the optimizer that it is a copy of; Keras would warn
    return copies


@contextlib.contextmanager
def averaged_weights(optimizer: Optimizer, variables: Sequence[tf.Variable]) -> Iterator[None]:
    """Replaces the trained weights for a while by their moving averages, if the optimizer keeps any."""
    inner = inner_optimizer(optimizer)
    if not inner.use_ema:
        yield
        return
    trained = [tf.identity(variable) for variable in variables]
    inner.finalize_variable_values(variables)
    try:
        yield
    finally:
        for variable, value in zip(variables, trained, strict=True):
            variable.assign(value)


def evaluated_values(optimizer: Optimizer, variables: Sequence[tf.Variable]) -> Sequence[tf.Variable]:
    """Returns the moving averages of the trained weights; themselves where the optimizer keeps none."""
    inner = inner_optimizer(optimizer)
    return inner._model_variables_moving_average if inner.use_ema else variables


def start_averages(optimizer: Optimizer, variables: Sequence[tf.Variable]) -> None:
    """Starts the moving averages, if the optimizer keeps any, from the present weights."""
    inner = inner_optimizer(optimizer)
    if inner.use_ema:
        for average, variable in zip(inner._model_variables_moving_average, variables, strict=True):
            average.assign(variable)
