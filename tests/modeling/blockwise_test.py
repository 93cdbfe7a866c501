"""Blockwise attention is the attention that keeps all probabilities, and keeps none."""

import math
import re

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from electra_cli.modeling import blockwise, fused
from electra_cli.modeling.randomness import hash_at, hash_bits

SCALE = 0.35
KEY = np.array([12345, 999], np.uint32)
WAYS = {
    "eager": lambda function: function,
    "compiled": lambda function: tf.function(function, jit_compile=True, autograph=False),
    "regions": lambda function: tf.function(fused.with_jit_regions(function), autograph=False),
}


def segments(rng, batch, length, has_documents):
    """Returns the segments of queries and keys, and which tokens are none of padding."""
    is_real = np.arange(length) < rng.integers(1, length + 1, [batch, 1])
    if has_documents:
        documents = np.sort(rng.integers(1, 4, [batch, length])) * is_real
        return documents.astype(np.int32), documents.astype(np.int32), is_real
    return np.ones([batch, length], np.int32), is_real.astype(np.int32), is_real


def full_attention(query, key, value, query_segments, key_segments, rate, window, direction):
    """The same with all probabilities at once."""
    length = query.shape[2]
    positions = np.arange(length)
    is_seen = query_segments[:, :, np.newaxis] == key_segments[:, np.newaxis]
    is_seen &= direction * (positions[:, np.newaxis] - positions) >= 0
    if window is not None:
        is_seen &= np.abs(positions[:, np.newaxis] - positions) <= window
    padding_scores = np.where(is_seen, 0.0, -10_000.0).astype(np.float32)[:, np.newaxis]
    scores = tf.matmul(query, key, transpose_b=True) * SCALE + padding_scores
    probabilities = tf.nn.softmax(scores)
    if rate:
        is_kept = hash_bits(tf.shape(scores), KEY) >= tf.constant(int(rate * 2**32), tf.uint32)
        probabilities = tf.where(is_kept, probabilities / (1.0 - rate), 0.0)
    return tf.matmul(probabilities, value)


def check(seed, length, window, rate, has_documents, way, direction=0):
    """Output and gradients of real tokens equal those of `full_attention`."""
    rng = np.random.default_rng(seed)
    batch, heads, width = 2, 3, 4
    inputs = [tf.constant(rng.standard_normal((batch, heads, length, width)), tf.float32) for _ in range(3)]
    *places, is_real = segments(rng, batch, length, has_documents)
    weights = rng.standard_normal((batch, heads, length, width)) * is_real[:, np.newaxis, :, np.newaxis]

    def run(attend, *inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = attend(*inputs) * tf.constant(weights, tf.float32)
        return [output, *tape.gradient(output, inputs)]

    expected = run(lambda *inputs: full_attention(*inputs, *places, rate, window, direction), *inputs)

    def attend(*inputs):
        seen = blockwise.Segments(*map(tf.constant, places), window, direction)
        return blockwise.attention(*inputs, seen, SCALE, rate, KEY)

    found = WAYS[way](lambda *inputs: run(attend, *inputs))(*inputs)
    for first, second in zip(expected, found, strict=True):
        np.testing.assert_allclose(second, first, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("length", "window", "rate", "has_documents"),
    [
        (300, None, 0.1, True),  # two blocks and a part of one
        (128, None, 0.0, False),
        (300, 40, 0.1, True),
        (257, 64, 0.0, False),
        (500, 100, 0.1, True),
    ],
)
def test_it_equals_full_attention(length, window, rate, has_documents, way):
    check(0, length, window, rate, has_documents, way)


@hypothesis.given(
    seed=st.integers(0, 1000),
    length=st.integers(1, 400),
    window=st.none() | st.integers(1, 400),
    documents=st.booleans(),
    direction=st.sampled_from([-1, 0, 1]),
)
@hypothesis.settings(max_examples=25, deadline=None)
def test_any_length_window_and_direction(seed, length, window, documents, direction):
    check(seed, length, window, 0.2, documents, "eager", direction)


def test_hashes_at_indices():
    indices = tf.constant(np.arange(2 * 3 * 5).reshape(2, 3, 5), tf.uint32)
    np.testing.assert_array_equal(hash_at(indices, KEY), hash_bits([2, 3, 5], KEY))


def compiled(length, window):
    """Returns what XLA computes for a forward and backward pass, as text."""

    @tf.function(jit_compile=True, autograph=False)
    def run(query, key, value, gradient, ones):
        with tf.GradientTape() as tape:
            tape.watch([query, key, value])
            output = blockwise.attention(query, key, value, blockwise.Segments(ones, ones, window), SCALE, 0.1, KEY)
        return output, tape.gradient(output, [query, key, value], output_gradients=gradient)

    inputs = [tf.zeros([1, 4, length, 16])] * 4 + [tf.ones([1, length], tf.int32)]
    return run.experimental_get_compiler_ir(*inputs)(stage="optimized_hlo")


def largest_tensor(length, window):
    """Returns the entries of the largest tensor that XLA computes for a forward and backward pass."""
    text = compiled(length, window)
    return max(math.prod(map(int, sizes.split(","))) for sizes in re.findall(r"\w\[([\d,]+)\]", text))


@pytest.mark.parametrize("window", [None, 64])
def test_memory_grows_with_the_length(window):
    short, long = largest_tensor(1024, window), largest_tensor(4096, window)
    assert 4 * 1024 * 128 <= short < 4 * 1024 * 1024
    assert long == 4 * short  # full attention's were 16 times as large


@pytest.mark.parametrize("window", [None, 64])
def test_scores_are_computed_again_for_the_gradient(window):
    """Two products forward; backward, of four gradients, and that of the scores: XLA does not keep these instead."""
    assert len(re.findall(r" dot\(", compiled(512, window))) == 7
