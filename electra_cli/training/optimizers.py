"""Optimizers that Keras lacks: the original's Adam, and LAMB."""

import inspect

import tensorflow as tf
import tf_keras

from electra_cli import compilation

# Parts of names of weights that are not decayed (google-research/electra, `model/optimization.py`).
NOT_DECAYED = ["layer_norm", "LayerNorm", "bias"]
# Entries of a weight from which on its update is compiled.
_LARGE = 10_000
# What starts at 0 (gradient-disentangled embeddings) would hardly leave it, were its updates as small as itself.
_NOT_ADAPTED = "_difference"


class _WithMoments(tf_keras.optimizers.Optimizer):
    """An optimizer with two moments of each gradient, m and v.

    Args:
      learning_rate: rate or schedule.
      beta_1: decay of the first moment.
      beta_2: decay of the second moment.
      epsilon: added to the root of the second moment.
      weight_decay: decay of all weights but biases and LayerNorm.
      **kwargs: name and moving average, of `tf_keras.optimizers.Optimizer`.
    """

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

    def _update_moments(self, gradient: tf.Tensor, variable: tf.Variable) -> tuple[tf.Variable, tf.Variable]:
        index = self._index_dict[self._var_key(variable)]
        m, v = self._m[index], self._v[index]
        m.assign(self.beta_1 * m + (1.0 - self.beta_1) * gradient)
        v.assign(self.beta_2 * v + (1.0 - self.beta_2) * tf.square(gradient))
        return m, v

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
        index = self._index_dict[self._var_key(variable)]
        m, v = self._m[index], self._v[index]
        has_decay = self.weight_decay is not None and self._use_weight_decay(variable)
        # What is small is not worth a compilation.
        update = _adam_update if variable.shape.num_elements() >= _LARGE else inspect.unwrap(_adam_update)
        new_values = update(
            gradient,
            *(tf.convert_to_tensor(part) for part in (variable, m, v)),
            self.rate_of(variable),
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            weight_decay=self.weight_decay if has_decay else 0.0,
        )
        for part, value in zip((variable, m, v), new_values, strict=True):
            part.assign(value)

    def rate_of(self, variable):
        """Returns the learning rate of a weight, a scalar of its type."""
        return tf.cast(self.learning_rate, variable.dtype)

    def _apply_weight_decay(self, variables):
        """Keras' separate decay, which is part of the update here."""


@compilation.part
def _adam_update(gradient, weight, m, v, rate, *, beta_1, beta_2, epsilon, weight_decay):
    m = beta_1 * m + (1.0 - beta_1) * gradient
    v = beta_2 * v + (1.0 - beta_2) * tf.square(gradient)
    return weight - rate * (m / (tf.sqrt(v) + epsilon) + weight_decay * weight), m, v


@tf_keras.utils.register_keras_serializable(package="electra_pretrain")
class Lamb(_WithMoments):
    """LAMB (arXiv 1904.00962, algorithm 2): Adam whose update is scaled, weight by weight, to the weight's norm.

    tf-models-official's LAMB computes the same, but is an optimizer of Keras' legacy kind, which neither averages
    weights nor scales losses as the others do. Weights are those of this model: query, key and value are one. An update
    that loss scaling leaves out counts in the bias correction.
    """

    def __init__(self, learning_rate, weight_decay=0.01, name="lamb", **kwargs):
        # Keras' own decay is a step before the update; here it is part of the update that is scaled.
        super().__init__(learning_rate, weight_decay=0.0, name=name, **kwargs)
        self.scaled_weight_decay = weight_decay

    def update_step(self, gradient, variable):
        """Updates one weight."""
        m, v = self._update_moments(gradient, variable)
        num_updates = tf.cast(self.iterations + 1, variable.dtype)
        corrected_m = m / (1.0 - tf.pow(tf.cast(self.beta_1, variable.dtype), num_updates))
        corrected_v = v / (1.0 - tf.pow(tf.cast(self.beta_2, variable.dtype), num_updates))
        update = corrected_m / (tf.sqrt(corrected_v) + self.epsilon)
        ratio = tf.ones([], variable.dtype)
        if self._use_weight_decay(variable):
            update += self.scaled_weight_decay * variable
        if self._use_weight_decay(variable) and _NOT_ADAPTED not in variable.name:
            weight_norm, update_norm = tf.norm(variable), tf.norm(update)
            ratio = tf.where(
                (weight_norm > 0) & (update_norm > 0), tf.math.divide_no_nan(weight_norm, update_norm), 1.0
            )
        variable.assign_sub(tf.cast(self.learning_rate, variable.dtype) * ratio * update)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "weight_decay": self.scaled_weight_decay}
