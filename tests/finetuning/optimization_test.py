import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from electra_cli.config.finetuning import default_config
from electra_cli.finetuning.optimization import LayerwiseAdam, build_optimizer, layer_factors, reset


def test_one_update_by_hand():
    """No bias correction; m = 0.1 g, v = 0.001 g^2, update m / (sqrt(v) + epsilon), decay 0.5 of what is no bias."""
    kernel, bias = tf.Variable([2.0, -1.0], name="kernel"), tf.Variable([3.0], name="bias")
    optimizer = LayerwiseAdam(0.01, [1.0, 0.25], epsilon=1e-6, weight_decay=0.5)
    optimizer.build([kernel, bias])
    optimizer.apply_gradients([(tf.constant([0.5, -2.0]), kernel), (tf.constant([4.0]), bias)])
    step = 0.1 / np.sqrt(0.001)  # 3.1623 for any gradient, but for epsilon
    np.testing.assert_allclose(kernel, [2.0 - 0.01 * (step + 0.5 * 2.0), -1.0 - 0.01 * (-step + 0.5 * -1.0)], rtol=1e-5)
    np.testing.assert_allclose(bias, [3.0 - 0.01 * 0.25 * step], rtol=1e-5)


def test_factors_fall_from_the_head_to_the_embeddings():
    """google-research/electra, model/optimization.py: rate x decay ** (layers + 2 - depth)."""
    num_layers, decay = 12, 0.8
    depths = [0, 0, *range(1, num_layers + 1), num_layers + 2]
    assert layer_factors(depths, decay) == pytest.approx(
        [decay**14, decay**14, *(decay ** (num_layers + 2 - depth) for depth in range(1, 13)), 1.0]
    )
    assert layer_factors(depths, 1.0) == [1.0] * len(depths)


def test_a_factor_for_each_weight():
    with pytest.raises(ValueError, match="1 weights, 2 factors"):
        LayerwiseAdam(0.01, [1.0, 0.5]).build([tf.Variable([1.0])])
    optimizer = LayerwiseAdam(0.01, [1.0, 0.5])
    assert LayerwiseAdam.from_config(optimizer.get_config()).factors == [1.0, 0.5]


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_reset_makes_an_optimizer_as_new(precision):
    settings = default_config().optimizer
    settings.learning_rate, settings.layerwise_lr_decay = 0.01, 0.8
    variable = tf.Variable([1.0, 2.0])

    def build():
        optimizer = build_optimizer(settings, precision, [3], num_steps=10)
        optimizer.build([variable])
        return optimizer

    def state(optimizer):
        found = [value.numpy() for value in optimizer.variables]
        if precision == "mixed_float16":
            found += [optimizer.loss_scale.numpy(), optimizer.dynamic_counter.numpy()]
        return found

    used, new = build(), state(build())
    used.apply_gradients([(tf.constant([1.0, 1.0]), variable)])
    if precision == "mixed_float16":
        assert isinstance(used, tf_keras.mixed_precision.LossScaleOptimizer)
        used.apply_gradients([(tf.constant([np.inf, 1.0]), variable)])  # halves the scale
        assert used.loss_scale.numpy() == used.initial_scale / 2
    assert any(np.any(one != two) for one, two in zip(state(used), new, strict=True))
    reset(used)
    for one, two in zip(state(used), new, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_rate_rises_and_falls_to_nothing():
    settings = default_config().optimizer
    settings.learning_rate, settings.layerwise_lr_decay = 1.0, 0.5
    optimizer = build_optimizer(settings, "float32", [0, 2], num_steps=100)
    assert optimizer.factors == [0.25, 1.0]
    # The original's product of warm-up (the first tenth) and decay, after 1, 5, 10, 55 and 100 updates.
    rates = [float(optimizer._learning_rate(tf.constant(step - 1))) for step in (1, 5, 10, 55, 100)]
    assert rates == pytest.approx([0.1 * 0.99, 0.5 * 0.95, 0.9, 0.45, 0.0], abs=1e-6)
