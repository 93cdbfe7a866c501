import numpy as np
import pytest
import tensorflow as tf
from official.modeling.optimization import lamb

from electra_cli.config.resolution import resolve
from electra_cli.training.optimization import (
    AdamWeightDecay,
    Lamb,
    StableAdamW,
    WarmupDecay,
    averaged_weights,
    build_optimizer,
    uses_loss_scaling,
)


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.99 * 0.1), (4, 0.95 * 0.5), (9, 0.9), (49, 0.5), (99, 0.0), (500, 0.0)]
)
def test_schedule(step, factor):
    schedule = WarmupDecay(peak=2.0, num_steps=100, warmup_steps=10)
    assert float(schedule(tf.constant(step, tf.int64))) == pytest.approx(2.0 * factor, rel=1e-6, abs=1e-9)
    assert WarmupDecay.from_config(schedule.get_config()).get_config() == schedule.get_config()


@pytest.mark.parametrize(
    ("decay", "factors"),
    [
        # 100 steps, 10 of warm-up; the update after step 54 is number 55, half of the way from 10 to 100.
        ("cosine", {0: 0.1, 9: 1.0, 54: 0.5, 99: 0.0, 32: 0.5 * (1 + np.cos(np.pi * 23 / 90)), 200: 0.0}),
        ("warmup_stable_decay", {0: 0.1, 4: 0.5, 9: 1.0, 54: 1.0, 79: 1.0, 80: 0.95, 89: 0.5, 99: 0.0, 200: 0.0}),
    ],
)
def test_other_schedules(decay, factors):
    schedule = WarmupDecay(2.0, 100, 10, decay, decay_fraction=0.2)
    for step, factor in factors.items():
        assert float(schedule(step)) == pytest.approx(2.0 * factor, rel=1e-5, abs=1e-6), step
    assert WarmupDecay.from_config(schedule.get_config()).get_config() == schedule.get_config()
    with pytest.raises(ValueError, match="decay='square'"):
        WarmupDecay(2.0, 100, 10, "square")


@pytest.mark.parametrize("decay", ["linear", "cosine", "warmup_stable_decay"])
def test_warmup_as_long_as_the_run_or_longer(decay):
    rates = [float(WarmupDecay(1.0, 10, warmup, decay)(step)) for warmup in (10, 50) for step in range(10)]
    assert np.isfinite(rates).all()
    assert min(rates) >= 0
    assert max(rates) <= 1


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


def by_name(rng):
    shapes = {"dense/kernel": (3, 2), "dense/bias": (2,), "layer_norm/gamma": (2,)}
    return [tf.Variable(rng.normal(size=shape).astype(np.float32), name=name) for name, shape in shapes.items()]


def test_lamb_equals_that_of_tf_models_official():
    rng = np.random.default_rng(0)
    ours, theirs = by_name(rng), by_name(np.random.default_rng(0))
    schedule = WarmupDecay(0.1, 10, 3)
    optimizer = Lamb(schedule, weight_decay=0.2, beta_2=0.98)
    official = lamb.LAMB(
        schedule, beta_2=0.98, epsilon=1e-6, weight_decay_rate=0.2, exclude_from_weight_decay=["layer_norm", "bias"]
    )
    for _ in range(8):
        gradients = [tf.constant(rng.normal(size=variable.shape), tf.float32) for variable in ours]
        optimizer.apply_gradients(zip(gradients, ours, strict=True))
        official.apply_gradients(zip(gradients, theirs, strict=True))
    for first, second in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(first, second, rtol=2e-5, atol=1e-6)
    copy = Lamb.from_config(optimizer.get_config())
    assert (copy.weight_decay, copy.get_config()) == (0.2, optimizer.get_config())


def test_lamb_takes_what_starts_at_0_away_from_it():
    table, difference = (tf.Variable(tf.zeros([2, 2]), name=f"word_embeddings{end}") for end in ("", "_difference"))
    optimizer = Lamb(1e-2, weight_decay=0.0)
    optimizer.build([table, difference])
    for _ in range(10):
        optimizer.apply_gradients([(tf.ones([2, 2]), table), (tf.ones([2, 2]), difference)])
    np.testing.assert_allclose(difference, np.full((2, 2), -0.1), rtol=1e-3)
    assert np.abs(table).max() < 0.02


def test_stable_adamw_is_adamw_with_smaller_steps_after_a_spike():
    rng = np.random.default_rng(0)
    variables = by_name(rng)
    optimizer = StableAdamW(WarmupDecay(0.1, 10, 3), beta_1=0.9, beta_2=0.98, weight_decay=0.2)
    optimizer.build(variables)
    expected = [variable.numpy().astype(np.float64) for variable in variables]
    m, v = ([np.zeros_like(value) for value in expected] for _ in range(2))
    clipped = []
    for step in range(1, 8):
        scale = 100.0 if step == 5 else 1.0
        gradients = [scale * rng.normal(size=value.shape).astype(np.float32) for value in expected]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        rate = 0.1 * (1 - step / 10) * min(1, step / 3)
        for index, gradient in enumerate(gradients):
            m[index] = 0.9 * m[index] + 0.1 * gradient
            v[index] = 0.98 * v[index] + 0.02 * gradient**2
            corrected_m, corrected_v = m[index] / (1 - 0.9**step), v[index] / (1 - 0.98**step)
            excess = np.sqrt(np.mean(gradient**2 / np.maximum(corrected_v, 1e-12)))
            clipped += [step] if excess > 1.5 else []
            decay = 0.2 * expected[index] if index == 0 else 0.0
            update = corrected_m / (np.sqrt(corrected_v) + 1e-6) + decay
            expected[index] -= rate / max(1.0, excess) * update
    assert set(clipped) >= {5} and len(clipped) < 7
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable, value, rtol=1e-4, atol=1e-6)
    copy = StableAdamW.from_config(optimizer.get_config())
    assert (copy.weight_decay, copy.get_config()) == (0.2, optimizer.get_config())


def build(config, **overrides):
    config.update_from_flattened_dict(overrides)
    return build_optimizer(resolve(config, 100))


def test_adamw_corrects_the_bias(config):
    variable = tf.Variable([[2.0]], name="dense/kernel")
    flat = {"optimizer.warmup_steps": 0, "optimizer.learning_rate": 0.1, "train.num_steps": 10**6}
    optimizer = build(config, **flat, **{"optimizer.name": "adamw", "optimizer.weight_decay_rate": 0.5})
    optimizer.build([variable])
    optimizer.apply_gradients([(tf.constant([[0.3]]), variable)])
    # Corrected, the first update is the gradient's sign; the decay is 0.5 of the weight.
    assert float(variable[0, 0]) == pytest.approx(2.0 - 0.1 * (1.0 + 0.5 * 2.0), rel=1e-4)
    bias = tf.Variable([2.0], name="dense/bias")
    optimizer = build(config)
    optimizer.build([bias])
    optimizer.apply_gradients([(tf.constant([0.3]), bias)])
    assert float(bias[0]) == pytest.approx(1.9, rel=1e-4)
    # Without correction it is sqrt(1 - 0.999) / (1 - 0.9) = 0.316 times as large.
    plain = build(config, **{"optimizer.name": "adam_weight_decay"})
    bias.assign([2.0])
    plain.build([bias])
    plain.apply_gradients([(tf.constant([0.3]), bias)])
    assert float(bias[0]) == pytest.approx(2.0 - 0.1 * 0.1 / np.sqrt(0.001), rel=1e-4)


@pytest.mark.parametrize("name", ["adam_weight_decay", "adamw", "stable_adamw", "lamb"])
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_averages_of_weights(config, name, precision):
    overrides = {"optimizer.name": name, "optimizer.ema_decay": 0.8, "runtime.precision": precision}
    optimizer = build(config, **overrides)
    assert uses_loss_scaling(optimizer) == (precision == "mixed_float16")
    variables = by_name(np.random.default_rng(0))
    optimizer.build(variables)
    averages = [variable.numpy() for variable in variables]
    for _ in range(3):
        optimizer.apply_gradients([(tf.ones_like(variable), variable) for variable in variables])
        averages = [0.8 * average + 0.2 * v.numpy() for average, v in zip(averages, variables, strict=True)]
    trained = [variable.numpy() for variable in variables]
    with averaged_weights(optimizer, variables):
        for variable, average in zip(variables, averages, strict=True):
            np.testing.assert_allclose(variable, average, rtol=1e-5)
    for variable, value in zip(variables, trained, strict=True):
        np.testing.assert_array_equal(variable, value)
    without = build(config, **{"optimizer.ema_decay": 0.0})
    with averaged_weights(without, variables):
        np.testing.assert_array_equal(variables[0], trained[0])
