"""The optimizer of fine-tuning: the original's Adam with a learning rate that falls from the head to the embeddings."""

from collections.abc import Sequence

import tensorflow as tf
import tf_keras

from electra_cli.training.optimization import AdamWeightDecay, Optimizer, WarmupDecay, uses_loss_scaling


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
class LayerwiseAdam(AdamWeightDecay):
    """`AdamWeightDecay` with a factor for the learning rate of each weight.

    Args:
      learning_rate: rate or schedule.
      factors: one for each weight that it is built on, in their order.
      **kwargs: of `AdamWeightDecay`.
    """

    def __init__(self, learning_rate, factors: Sequence[float], name="layerwise_adam", **kwargs):
        super().__init__(learning_rate, name=name, **kwargs)
        self.factors = list(factors)

    def build(self, var_list):
        """Creates the moments.

        Raises:
          ValueError: there are more or fewer weights than factors.
        """
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
    """Builds the optimizer of a fine-tuning.

    Args:
      settings: the section `optimizer` of a resolved config.
      precision: `config.runtime.precision`; with mixed_float16 losses are scaled.
      depths: of each weight, `TaskModel.depths`.
      num_steps: updates of the whole run.
    """
    schedule = WarmupDecay(
        settings.learning_rate, num_steps, int(settings.warmup_fraction * num_steps), settings.schedule
    )
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
    """Makes an optimizer as it was before its first update."""
    for variable in optimizer.variables:  # of one that scales losses these are the inner one's
        variable.assign(tf.zeros_like(variable))
    if uses_loss_scaling(optimizer):
        optimizer.dynamic_counter.assign(0)
        optimizer._loss_scale.current_loss_scale.assign(optimizer.initial_scale)  # Keras shows its value only
