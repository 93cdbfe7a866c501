"""From settings to an optimizer with its schedule, loss scaling and moving average."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import ml_collections
import tensorflow as tf
import tf_keras

from electra_cli.config import phases_of
from electra_cli.training.optimizers import NOT_DECAYED, AdamWeightDecay, Lamb
from electra_cli.training.schedules import WarmupDecay

# Keras' LossScaleOptimizer is none by type, but wraps one and has its methods.
Optimizer: TypeAlias = tf_keras.optimizers.Optimizer


def build_optimizer(config: ml_collections.FrozenConfigDict) -> Optimizer:
    """Builds the optimizer of a resolved config. Clipping is the training step's work.

    With `runtime.precision=mixed_float16` it scales losses dynamically and leaves out updates that are not finite;
    they count as steps, of the schedule and of bias corrections.
    """
    settings = config.optimizer
    first, *later = phases_of(config)
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
        optimizer = {"adam_weight_decay": AdamWeightDecay, "lamb": Lamb}[settings.name](schedule, **arguments)
    if config.runtime.precision == "mixed_float16":
        return tf_keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer


def uses_loss_scaling(optimizer: Optimizer) -> bool:
    """Returns whether `get_scaled_loss` and `get_unscaled_gradients` must be called."""
    return isinstance(optimizer, tf_keras.mixed_precision.LossScaleOptimizer)


@contextlib.contextmanager
def averaged_weights(optimizer: Optimizer, variables: Sequence[tf.Variable]) -> Iterator[None]:
    """Within it, the trained weights are their moving averages, when the optimizer keeps them.

    Args:
      optimizer: an optimizer of `build_optimizer`, built on `variables`.
      variables: the trained weights.
    """
    inner = optimizer.inner_optimizer if uses_loss_scaling(optimizer) else optimizer
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
    """Returns what evaluation takes for the trained weights: their moving averages, or where none are kept they.

    Args:
      optimizer: an optimizer of `build_optimizer`, built on `variables`.
      variables: the trained weights.
    """
    inner = optimizer.inner_optimizer if uses_loss_scaling(optimizer) else optimizer
    return inner._model_variables_moving_average if inner.use_ema else variables


def start_averages(optimizer: Optimizer, variables: Sequence[tf.Variable]) -> None:
    """Makes the moving averages, when the optimizer keeps them, start from the weights as they are now.

    Args:
      optimizer: an optimizer of `build_optimizer`, built on `variables`.
      variables: the trained weights.
    """
    inner = optimizer.inner_optimizer if uses_loss_scaling(optimizer) else optimizer
    if inner.use_ema:
        for average, variable in zip(inner._model_variables_moving_average, variables, strict=True):
            average.assign(variable)
