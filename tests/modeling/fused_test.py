import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from electra_cli.modeling import fused
from electra_cli.modeling.randomness import hash_bits

KEY = np.array([123456789, 2345678901], np.uint32)


@pytest.fixture(params=[False, True], ids=["plain", "compiled"])
def trace(request):
    """A `tf.function` whose regions are compiled by themselves, or not."""
    return lambda function: tf.function(fused.with_jit_regions(function, request.param))


def normal(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def check(trace, function, reference, *inputs, atol=2e-6):
    """Output and gradients of `function` are those of `reference`, which TensorFlow differentiates."""
    weights = normal(*reference(*inputs).shape, seed=9)

    def run(f, inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = f(*inputs)
            loss = tf.reduce_sum(tf.cast(output, tf.float32) * weights)
        return output, tape.gradient(loss, inputs)

    expected, expected_gradients = run(reference, inputs)
    output, gradients = trace(lambda *inputs: run(function, inputs))(*inputs)
    np.testing.assert_allclose(output, expected, atol=atol)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, wanted, atol=10 * atol, rtol=1e-5)
    narrow = [tf.cast(x, tf.bfloat16) if x.shape.rank > 1 else x for x in inputs]
    output, gradients = trace(lambda *inputs: run(function, inputs))(*narrow)
    assert output.dtype == tf.bfloat16
    for gradient, wanted, x in zip(
        [output, *gradients], [expected, *expected_gradients], [output, *narrow], strict=True
    ):
        assert gradient.dtype == x.dtype
        # bfloat16 has 8 digits, of which an input, an output and what lies between lose one each.
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(tf.cast(gradient, tf.float32) / scale, wanted / scale, atol=0.03)


def kept(shape, rate, key=KEY):
    return tf.cast(hash_bits(shape, key).numpy() >= np.uint32(int(rate * 2**32)), tf.float32) / (1 - rate)


def reference_norm(x, gamma, beta):
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return (x - mean) / tf.sqrt(variance + 1e-12) * gamma + beta


def test_gelu(trace):
    x = np.linspace(-4, 4, 41)
    gelu = trace(fused.gelu)
    np.testing.assert_allclose(gelu(tf.constant(x)), x * 0.5 * (1 + special.erf(x / np.sqrt(2))), rtol=1e-6, atol=1e-7)
    check(trace, fused.gelu, lambda x: tf.nn.gelu(x, approximate=False), normal(5, 7))


def test_layer_norm(trace):
    check(trace, fused.layer_norm, reference_norm, normal(3, 5, 8), normal(8, seed=1), normal(8, seed=2))


@pytest.mark.parametrize(("rate", "key"), [(0.3, KEY), (0.3, None), (0.0, KEY)])
def test_add_and_norm(trace, rate, key):
    mask = kept([3, 5, 8], rate) if key is not None else 1.0
    check(
        trace,
        lambda *inputs: fused.add_and_norm(*inputs, rate, key),
        lambda x, residual, gamma, beta: reference_norm(residual + x * mask, gamma, beta),
        normal(3, 5, 8),
        normal(3, 5, 8, seed=1),
        normal(8, seed=2),
        normal(8, seed=3),
    )


@pytest.mark.parametrize(("rate", "key"), [(0.3, KEY), (0.3, None), (0.0, KEY)])
def test_attention_probabilities(trace, rate, key):
    padding_scores = tf.constant([[0.0, 0.0, -10_000.0], [0.0, 0.0, 0.0]])[:, tf.newaxis, tf.newaxis, :]
    mask = kept([2, 2, 4, 3], rate) if key is not None else 1.0
    check(
        trace,
        lambda scores: fused.attention_probabilities(scores, padding_scores, 0.5, rate, key),
        lambda scores: tf.nn.softmax(0.5 * scores + padding_scores) * mask,
        normal(2, 2, 4, 3),
    )


def test_affine(trace):
    def in_one_type(x, kernel, bias):
        return fused.affine(x, kernel, tf.cast(bias, x.dtype))

    inputs = normal(2, 3, 5), normal(5, 4, seed=1), normal(4, seed=2)
    check(trace, in_one_type, lambda x, kernel, bias: tf.tensordot(x, kernel, 1) + bias, *inputs)


def test_dropout_at_rates_0_and_quarter_and_without_a_key(trace):
    x = tf.ones([100, 100])
    assert fused.dropout(x, 0.5, None) is x
    assert fused.dropout(x, 0.0, KEY) is x
    dropout = trace(lambda key: fused.dropout(x, 0.25, key))
    dropped = dropout(KEY).numpy()
    np.testing.assert_allclose(np.unique(dropped), [0, 4 / 3])
    assert abs((dropped == 0).mean() - 0.25) < 0.02
    np.testing.assert_array_equal(dropped, dropout(KEY))
    assert (dropped != dropout(KEY + 1).numpy()).any()
    check(trace, lambda x: fused.dropout(x, 0.3, KEY), lambda x: x * kept([5, 6], 0.3), normal(5, 6))


def test_affine_takes_sizes_that_are_known_when_it_runs_only():
    rng = np.random.default_rng(0)
    x, kernel, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 5, 3), (3, 4), (4,)))
    unknown = tf.function(
        fused.affine, input_signature=[tf.TensorSpec([None, None, 3]), *map(tf.TensorSpec, ((3, 4), (4,)))]
    )
    np.testing.assert_allclose(unknown(x, kernel, bias), x @ kernel + bias, atol=1e-6)


@pytest.mark.parametrize("enabled", [False, True])
def test_regions_are_compiled_where_who_traces_asks_for_it(enabled):
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            output = fused.gelu(x)
        return tape.gradient(output, x)

    graph = tf.function(fused.with_jit_regions(run, enabled)).get_concrete_function(normal(5, 7)).graph
    compiled = [function for function in graph.as_graph_def().library.function if function.attr["_XlaMustCompile"].b]
    assert len(compiled) == (2 if enabled else 0)  # forward and backward
    assert not tf.function(run).get_concrete_function(normal(5, 7)).graph.as_graph_def().library.function


def test_what_comes_later_waits_for_what_comes_first():
    found = []

    def look():
        found.append(fused.is_compiled_by_xla())

    @tf.function(jit_compile=True)
    def run(x):
        tf.function(look)()
        (doubled,), then = fused.in_order([2.0 * x], {"a": x, "b": x + 1.0})
        return doubled, then["a"], then["b"]

    np.testing.assert_array_equal(run(tf.constant(3.0)), [6.0, 3.0, 4.0])
    assert run.experimental_get_compiler_ir(tf.constant(3.0))(stage="hlo").count("opt-barrier(") == 1
    tf.function(look)()
    look()
    assert found == [True, False, False]
