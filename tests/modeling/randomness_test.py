import numpy as np
import pytest
import tensorflow as tf

from electra_cli.modeling import fused
from electra_cli.modeling.randomness import draw_keys, fold_in, hash_bits


def reference_bits(count, first, second):
    """The hash in Python's integers."""
    bits = []
    for place in range(count):
        x = (place * 0x9E3779B9 + first) % 2**32
        x = ((x ^ (x >> 16)) * 0x21F0AAAD + second) % 2**32
        x = ((x ^ (x >> 15)) * 0xD35A2D97) % 2**32
        bits.append(x ^ (x >> 15))
    return bits


def test_hash_bits_equal_those_of_python():
    key = draw_keys(tf.constant([3, -4]), 1)[0]
    compiled = tf.function(hash_bits, jit_compile=True)
    for shape in ([], [35], [5, 7], [2, 3, 1, 4]):
        bits = hash_bits(shape, key)
        expected = np.reshape(reference_bits(np.prod(shape, dtype=int), *map(int, key.numpy())), shape)
        np.testing.assert_array_equal(bits, expected)
        np.testing.assert_array_equal(bits, compiled(shape, key))


def test_keys_follow_from_seed_and_index():
    first, other = draw_keys(tf.constant([3, -4]), 40).numpy(), draw_keys(tf.constant([3, -3]), 40).numpy()
    assert first.dtype == np.uint32 and len({*first.ravel(), *other.ravel()}) == 160
    np.testing.assert_array_equal(first, draw_keys(tf.constant([3, -4], tf.int64), 40))


@pytest.mark.parametrize("shape", [[2048, 1024], [64, 64, 512], [16, 4, 128, 256]])
def test_no_indices_are_kept_in_what_is_compiled(shape):
    """TensorFlow computes constants of up to 10 MiB when it traces; those of dropout would be 8 here."""

    @tf.function(jit_compile=True)
    def gradient(x, key):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = fused.dropout(x, 0.1, key)
        return tape.gradient(y, x)

    x, key = tf.ones(shape), tf.constant([1, 2], tf.uint32)
    assert len(gradient.experimental_get_compiler_ir(x, key)(stage="hlo_serialized")) < 100_000


def test_hash_bits_look_random():
    """Rates, runs and relations between neighbours, rows and seeds are those of independent fair draws."""
    draws = {}
    parent = tf.constant([12, 34])
    for name, seed in {0: [0, 0], 1: [0, 1], 2: [1, 0], 3: fold_in(parent, 0), 4: fold_in(parent, 1)}.items():
        for index, key in enumerate(draw_keys(tf.constant(seed), 2)):
            draws[name, index] = hash_bits([1024, 1024], key).numpy()
    for bits in draws.values():
        for bit in range(32):
            assert abs(((bits >> bit) & 1).mean() - 0.5) < 0.0025  # 5 standard deviations
        dropped = bits < int(0.1 * 2**32)
        assert abs(dropped.mean() - 0.1) < 0.0015
        assert abs(dropped.mean(0).std() / np.sqrt(0.09 / 1024) - 1) < 0.12
        assert abs(dropped.mean(1).std() / np.sqrt(0.09 / 1024) - 1) < 0.12
        for shift in (1, 2, 64, 128, 256):
            both = dropped & np.roll(dropped.ravel(), shift).reshape(dropped.shape)
            assert abs(both.mean() - 0.01) < 0.0005
        assert abs((dropped[1:] & dropped[:-1]).mean() - 0.01) < 0.0005
    values = list(draws.values())
    for first in range(len(values)):
        for second in range(first):
            both = (values[first] < int(0.1 * 2**32)) & (values[second] < int(0.1 * 2**32))
            assert abs(both.mean() - 0.01) < 0.0005
