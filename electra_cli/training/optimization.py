"""The original's optimizer: Adam without bias correction, decoupled weight decay, linear warm-up and decay."""

import ml_collections
import tensorflow as tf
import tf_keras

# Parts of names of weights that are not decayed (google-research/electra, `model/optimization.py`).
_NOT_DECAYED = ["layer_norm", "LayerNorm", "bias"]


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
class LinearWarmupDecay(tf_keras.optimizers.schedules.LearningRateSchedule):
    """peak x (1 - step / num_steps) x min(1, step / warmup_steps), where step is 1 at the first update.

    Args:
      peak: learning rate that the product starts from.
      num_steps: steps after which the rate is 0.
      warmup_steps: steps of linear warm-up; 0: none.
    """

    def __init__(self, peak: float, num_steps: int, warmup_steps: int):
        super().__init__()
        self.peak = peak
        self.num_steps = num_steps
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        """Returns the rate, float32, of the update after `step` updates were made."""
        update = tf.cast(step, tf.float32) + 1.0
        rate = self.peak * (1.0 - tf.minimum(update / self.num_steps, 1.0))
        if self.warmup_steps:
            rate *= tf.minimum(1.0, update / self.warmup_steps)
        return rate

    def get_config(self):
        """Returns the constructor's arguments."""
        return {"peak": self.peak, "num_steps": self.num_steps, "warmup_steps": self.warmup_steps}


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
class AdamWeightDecay(tf_keras.optimizers.Optimizer):
    """BERT's Adam, which ELECTRA uses: no bias correction; weight decay is added to the update, not to the gradient.

    update = m / (sqrt(v) + epsilon) + weight_decay x weight, times the learning rate. Every optimizer of
    tf-models-official and Keras corrects the bias of m and v, which changes the first thousands of steps.

    Args:
      learning_rate: rate or schedule.
      beta_1: decay of the first moment.
      beta_2: decay of the second moment.
      epsilon: added to the root of the second moment.
      weight_decay: decay of all weights but biases and LayerNorm.
      name: name of the optimizer.
    """

    def __init__(
        self,
        learning_rate,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        weight_decay=0.01,
        name="adam_weight_decay",
        **kwargs,
    ):
        super().__init__(name=name, weight_decay=weight_decay or None, jit_compile=False, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.exclude_from_weight_decay(var_names=_NOT_DECAYED)

    def build(self, var_list):
        """Creates two moments for each weight."""
        super().build(var_list)
        if getattr(self, "_moments_built", False):
            return
        self._m = [self.add_variable_from_reference(variable, "m") for variable in var_list]
        self._v = [self.add_variable_from_reference(variable, "v") for variable in var_list]
        self._moments_built = True

    def update_step(self, gradient, variable):
        """Updates one weight; its decay was applied before (`Optimizer.apply_gradients`)."""
        index = self._index_dict[self._var_key(variable)]
        m, v = self._m[index], self._v[index]
        m.assign(self.beta_1 * m + (1.0 - self.beta_1) * gradient)
        v.assign(self.beta_2 * v + (1.0 - self.beta_2) * tf.square(gradient))
        rate = tf.cast(self.learning_rate, variable.dtype)
        variable.assign_sub(rate * m / (tf.sqrt(v) + self.epsilon))

    def get_config(self):
        """Returns the constructor's arguments."""
        base = super().get_config()
        names = ("name", "weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "use_ema", "ema_momentum")
        return {
            **{name: base[name] for name in (*names, "ema_overwrite_frequency")},
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


def build_optimizer(config: ml_collections.FrozenConfigDict) -> AdamWeightDecay:
    """Builds the optimizer of a resolved config, with its schedule. Clipping is the training step's work."""
    settings = config.optimizer
    return AdamWeightDecay(
        LinearWarmupDecay(settings.learning_rate, config.train.num_steps, settings.warmup_steps),
        beta_1=settings.beta_1,
        beta_2=settings.beta_2,
        epsilon=settings.epsilon,
        weight_decay=settings.weight_decay_rate,
    )
