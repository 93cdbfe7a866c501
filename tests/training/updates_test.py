"""Updates of a model of one weight."""

import collections
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from electra_cli.config import default_config
from electra_cli.config.resolution import resolve
from electra_cli.training.distribution import Runtime
from electra_cli.training.optimization import build_optimizer, uses_loss_scaling
from electra_cli.training.updates import Updates
from tests import forking


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


OPTIMIZERS = {
    "adam_weight_decay": {"optimizer.ema_decay": 0.9},
    "adamw": {"optimizer.name": "adamw", "optimizer.ema_decay": 0.9},
    "lamb": {"optimizer.name": "lamb"},
    "stable_adamw": {"optimizer.name": "stable_adamw", "optimizer.ema_decay": 0.9},
    "float16": {"runtime.precision": "mixed_float16"},
}


def make_replicas_steps(num_replicas, changes, jit_compile, is_mirrored=True):
    """Makes four steps, of which one is infinite in one replica; returns all variables' values and the updates."""
    config = default_config()
    config.update_from_flattened_dict({"data.dir": "data", "train.num_steps": 10, **changes})
    config.optimizer.clip_norm = 0.5
    names = [f"CPU:{index}" for index in range(num_replicas)]
    strategy = tf.distribute.MirroredStrategy(names) if is_mirrored else tf.distribute.OneDeviceStrategy(names[0])
    with strategy.scope():
        draws = np.random.default_rng(0).standard_normal((300, 40)).astype(np.float32)
        variables = [tf.Variable(draws, name="dense/kernel"), tf.Variable(draws[0], name="dense/bias")]
        optimizer = build_optimizer(resolve(config, 100))
        optimizer.build(variables)
    is_scaled = uses_loss_scaling(optimizer)

    def compute_gradients(inputs, weights, step, replica):
        kernel, bias = (tf.convert_to_tensor(variable) for variable in variables)

        def compute_loss():
            loss = tf.reduce_sum(tf.tanh(tf.matmul(inputs, kernel) + bias)) / weights[0]
            is_bad = (step == 2) & (tf.reduce_max(inputs) > 99)
            return loss, {"loss": tf.where(is_bad, np.inf, loss)}

        with tf.GradientTape() as tape:
            tape.watch([kernel, bias])
            loss, sums = compute_loss()
            loss = optimizer.get_scaled_loss(loss) if is_scaled else loss
        return tape.gradient(loss, [kernel, bias]), sums

    def batch_weights(inputs):
        return [tf.cast(tf.shape(inputs)[0], tf.float32)]

    updates = Updates(compute_gradients, batch_weights, ("loss",), {"loss": []}, variables, optimizer,
                      Runtime(strategy, jit_compile, "a test"), 0.5)  # fmt: skip
    rows = np.random.default_rng(1).standard_normal((8, 300)).astype(np.float32)
    rows[5, 0] = 100.0
    batches = tf.data.Dataset.from_tensor_slices(rows).batch(8 // num_replicas).repeat()
    batches = iter(strategy.distribute_datasets_from_function(lambda _: batches))
    sums = [updates(batches, tf.constant(first, tf.int64), tf.constant(4, tf.int64)) for first in (0, 3)]
    variables += [*optimizer.variables]
    variables += [optimizer._loss_scale.current_loss_scale, optimizer.dynamic_counter] if is_scaled else []
    copies = [[copy.numpy() for copy in getattr(variable, "values", [variable])] for variable in variables]
    assert all(len(each) == num_replicas and (np.stack(each) == each[0]).all() for each in copies)
    return sums, [each[0] for each in copies], updates


def ops_run_one_by_one(function):
    """Counts the operations of a traced function and of those it calls, but for what XLA compiles."""
    graph = function._list_all_concrete_functions()[0].graph.as_graph_def()
    library = {called.signature.name: called for called in graph.library.function}
    counts, nodes = collections.Counter(), list(graph.node)
    while nodes:
        node = nodes.pop()
        called = [value.func.name for value in node.attr.values() if value.func.name in library]
        counts[node.op] += not called
        for name in called:
            if not library[name].attr["_XlaMustCompile"].b:
                nodes += library[name].node_def
    return counts


def waits_for_steps(function):
    """Returns whether the loop of steps asks anything but their number before it begins one."""
    graph = function._list_all_concrete_functions()[0].graph.as_graph_def()
    loop = next(node for node in graph.node if node.op in ("While", "StatelessWhile"))
    condition = next(each for each in graph.library.function if each.signature.name == loop.attr["cond"].func.name)
    nodes = {node.name: node for node in condition.node_def}
    needed, names = set(), [value.split(":")[0] for value in condition.ret.values()]
    while names:
        name = names.pop()
        if name in nodes:
            names += [each.lstrip("^").split(":")[0] for each in nodes[name].input]
        else:
            needed.add(name)
    types = {each.name: tf.as_dtype(each.type) for each in condition.signature.input_arg}
    return [name for name in needed if types[name] not in (tf.int32, tf.int64)]


def check_replicas(name, num_replicas=2):
    """Steps of several replicas are those of one, and nothing but what crosses replicas is left uncompiled."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * num_replicas)
    changes = OPTIMIZERS[name]
    tf_keras.mixed_precision.set_global_policy(changes.get("runtime.precision", "float32"))
    expected_sums, expected, _ = make_replicas_steps(1, changes, jit_compile=False, is_mirrored=False)
    assert [float(sums["num_updates"]) for sums in expected_sums] == [2.0, 4.0]
    assert [sums["nonfinite_replicas"].numpy().tolist() for sums in expected_sums] == [[1.0], [0.0]]
    for number, jit_compile in ((1, False), (num_replicas, False), (num_replicas, True)):
        found_sums, found, updates = make_replicas_steps(number, changes, jit_compile)
        nonfinite = [sums["nonfinite_replicas"].numpy().tolist() for sums in found_sums]
        assert nonfinite == [[0.0] * (number - 1) + [1.0], [0.0] * number]
        for first, second in zip(expected_sums, found_sums, strict=True):
            for key in ("num_steps", "num_updates", "gradient_norm"):
                np.testing.assert_allclose(second[key], first[key], rtol=1e-5)
        for first, second in zip(expected, found, strict=True):
            np.testing.assert_allclose(second, first, rtol=1e-4, atol=1e-7)
    ops = ops_run_one_by_one(updates._compiled_steps)
    assert ops["CollectiveReduceV2"] == 2 * num_replicas  # of weights, and of all gradients and sums in one buffer
    assert ops.pop("AssignVariableOp") == num_replicas  # a call begins
    assert not [op for op in ops if "Variable" in op or "MatMul" in op or "Sqrt" in op]
    assert not waits_for_steps(updates._compiled_steps)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_replicas_make_the_updates_of_one_in_compiled_functions(name):
    program = f"from tests.training.updates_test import check_replicas; check_replicas({name!r})"
    process = forking.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]
