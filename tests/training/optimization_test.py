import numpy as np
import pytest
import tensorflow as tf

from electra_cli.training.optimizers import AdamWeightDecay
from electra_cli.training.schedules import WarmupDecay


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.99 * 0.1), (4, 0.95 * 0.5), (9, 0.9), (49, 0.5), (99, 0.0), (500, 0.0)]
)
def test_schedule(step, factor):
    schedule = WarmupDecay(peak=2.0, num_steps=100, warmup_steps=10)
    assert float(schedule(tf.constant(step, tf.int64))) == pytest.approx(2.0 * factor, rel=1e-6, abs=1e-9)
    assert WarmupDecay.from_config(schedule.get_config()).get_config() == schedule.get_config()


def test_schedule_without_warmup():
    assert float(WarmupDecay(1.0, 10, 0)(0)) == pytest.approx(0.9)


def test_updates_equal_a_computation_by_hand():
    rng = np.random.default_rng(0)
    kernel, bias, gamma = (rng.normal(size=size).astype(np.float32) for size in ((3, 2), (2,), (2,)))
    names = ("dense/kernel", "dense/bias", "layer_norm/gamma")
    variables = [tf.Variable(value, name=name) for value, name in zip((kernel, bias, gamma), names, strict=True)]
    optimizer = AdamWeightDecay(WarmupDecay(0.1, 10, 3), beta_1=0.9, beta_2=0.99, epsilon=1e-6, weight_decay=0.2)
    optimizer.build(variables)
    expected = [value.astype(np.float64) for value in (kernel, bias, gamma)]
    m, v = ([np.zeros_like(value) for value in expected] for _ in range(2))
    for step in range(1, 6):
        gradients = [rng.normal(size=value.shape).astype(np.float32) for value in expected]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        rate = 0.1 * (1 - step / 10) * min(1, step / 3)
        for index, gradient in enumerate(gradients):
            m[index] = 0.9 * m[index] + 0.1 * gradient
            v[index] = 0.99 * v[index] + 0.01 * gradient**2
            decay = 0.2 * expected[index] if index == 0 else 0.0  # neither biases nor LayerNorm
            expected[index] -= rate * (m[index] / (np.sqrt(v[index]) + 1e-6) + decay)
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable, value, rtol=1e-5, atol=1e-6)
    assert int(optimizer.iterations) == 5


def test_config_round_trip():
    optimizer = AdamWeightDecay(WarmupDecay(0.1, 10, 3), weight_decay=0.2, beta_2=0.98)
    copy = AdamWeightDecay.from_config(optimizer.get_config())
    assert (copy.beta_2, copy.weight_decay, copy.get_config()) == (0.98, 0.2, optimizer.get_config())
