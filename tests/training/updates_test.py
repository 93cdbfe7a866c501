"""Updates of a model of one weight."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from electra_cli.training.distribution import Runtime
from electra_cli.training.updates import Updates


@pytest.fixture
def weight():
    return tf.Variable(1.0)


def make_steps(weight, optimizer, gradient):
    """Returns a function that makes so many steps, whose gradients are those of `gradient`."""
    optimizer.build([weight])
    is_scaled = isinstance(optimizer, tf_keras.mixed_precision.LossScaleOptimizer)

    def compute_gradients(inputs, weights, step, replica):
        scale = optimizer.loss_scale if is_scaled else 1.0
        return [scale * gradient(step)], {"loss": tf.constant(1.0)}

    runtime = Runtime(tf.distribute.OneDeviceStrategy("/cpu:0"), False, "a test")
    steps = Updates(
        compute_gradients, lambda _: [tf.constant(1.0)], ("loss",), {"loss": []}, [weight], optimizer, runtime, 1.0
    )
    batches = iter(tf.data.Dataset.from_tensors(tf.zeros([])).repeat())
    return lambda number: steps(batches, optimizer.iterations.read_value(), tf.constant(number, tf.int64))


def test_gradients_that_stay_infinite_end_a_run_that_scales_losses_too(weight):
    inner = tf_keras.optimizers.SGD(0.5)
    optimizer = tf_keras.mixed_precision.LossScaleOptimizer(inner, initial_scale=8.0)
    sums = make_steps(weight, optimizer, lambda step: tf.where(step == 0, 1.0, float("nan")))(100)
    # One update, three steps that halve the scale to 1, and one that nothing can help.
    assert (sums["num_updates"].numpy(), sums["num_steps"].numpy()) == (1.0, 4.0 + 1.0)
    assert optimizer.loss_scale.numpy() == 1.0 and optimizer.iterations.numpy() == 5
    np.testing.assert_array_equal(sums["nonfinite_replicas"], [1.0])
    assert weight.numpy() == 0.5


def test_a_gradient_that_the_scale_made_infinite_only_halves_it(weight):
    optimizer = tf_keras.mixed_precision.LossScaleOptimizer(tf_keras.optimizers.SGD(0.5), initial_scale=8.0)
    sums = make_steps(weight, optimizer, lambda step: tf.where(step == 1, float("inf"), 1.0))(3)
    assert (sums["num_updates"].numpy(), sums["num_steps"].numpy()) == (2.0, 3.0)
    np.testing.assert_array_equal(sums["nonfinite_replicas"], [0.0])
    assert optimizer.loss_scale.numpy() == 4.0 and weight.numpy() == 0.0


def test_without_scaling_it_ends_the_call(weight):
    optimizer = tf_keras.optimizers.SGD(0.5)
    sums = make_steps(weight, optimizer, lambda step: tf.where(step == 1, float("inf"), 0.25))(3)
    assert (sums["num_updates"].numpy(), sums["num_steps"].numpy(), optimizer.iterations.numpy()) == (1.0, 2.0, 2)
    assert sums["gradient_norm"].numpy() == 0.25 and weight.numpy() == 0.875
    np.testing.assert_array_equal(sums["nonfinite_replicas"], [1.0])
