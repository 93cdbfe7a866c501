import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from electra_cli.objectives.corruption import corrupt, put_at_positions, sample_tokens


def sample(logits, uniform, disallowed=None, jit=False):
    function = tf.function(sample_tokens, jit_compile=True) if jit else sample_tokens
    arguments = [tf.constant(logits, tf.float32), tf.constant(uniform, tf.float32)]
    return function(*arguments, None if disallowed is None else tf.constant(disallowed)).numpy()


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("vocab_size", [1, 2, 10, 101, 1000])
def test_samples_invert_the_cumulative_distribution(jit, vocab_size):
    rng = np.random.default_rng(vocab_size)
    logits = rng.normal(size=(2, 3, vocab_size)) * 3
    uniform = rng.uniform(size=(2, 3)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = [
        [np.searchsorted(np.cumsum(p), u) for p, u in zip(*row, strict=True)]
        for row in zip(probabilities, uniform, strict=True)
    ]
    np.testing.assert_array_equal(sample(logits, uniform, jit=jit), expected)


def test_samples_have_the_probabilities_of_the_softmax():
    probabilities = np.array([0.5, 0.0, 0.3, 0.15, 0.05])
    with np.errstate(divide="ignore"):
        logits = np.broadcast_to(np.log(probabilities), (1, 20_000, 5))
    uniform = np.random.default_rng(0).uniform(size=(1, 20_000))
    shares = np.bincount(sample(logits, uniform)[0], minlength=5) / 20_000
    np.testing.assert_allclose(shares, probabilities, atol=0.01)
    assert shares[1] == 0


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_those_of_the_softmax(temperature, dtype):
    rng = np.random.default_rng(7)
    logits = tf.cast(rng.normal(size=40) * 1.5, dtype)
    uniform = tf.constant(rng.uniform(size=(1, 200_000)), tf.float32)
    samples = sample_tokens(tf.tile(logits[None, None], [1, 200_000, 1]), uniform, temperature=temperature)
    probabilities = np.exp(tf.cast(logits, tf.float64).numpy() / temperature)
    expected = 200_000 * probabilities / probabilities.sum()
    assert scipy.stats.chisquare(np.bincount(samples[0], minlength=40), expected).pvalue > 1e-3


def test_temperature_divides_the_logits():
    rng = np.random.default_rng(3)
    logits, uniform = rng.normal(size=(2, 50, 30)) * 3, rng.uniform(size=(2, 50))
    warm = sample_tokens(tf.constant(logits, tf.float32), tf.constant(uniform, tf.float32), temperature=2.0)
    np.testing.assert_array_equal(warm, sample(logits / 2, uniform))
    assert (warm.numpy() != sample(logits, uniform)).any()
    cold = sample_tokens(tf.constant(logits, tf.float32), tf.constant(uniform, tf.float32), temperature=1e-6)
    np.testing.assert_array_equal(cold, logits.argmax(-1))


def test_the_ends_of_the_distribution():
    last = np.nextafter(np.float32(1), np.float32(0))
    np.testing.assert_array_equal(sample(np.zeros((1, 2, 10)), [[0.0, last]]), [[0, 9]])
    # What may not be drawn is not drawn at the ends either.
    np.testing.assert_array_equal(sample(np.zeros((1, 2, 10)), [[0.0, last]], [[0, 9]]), [[1, 8]])


def test_a_certain_generator_is_followed_whatever_the_draw():
    logits = np.full((1, 3, 30_522), -50.0)
    logits[0, :, 12_345] = 50.0
    np.testing.assert_array_equal(sample(logits, [[0.0, 0.5, 0.999999]]), [[12_345] * 3])


def test_sampling_has_no_gradient():
    logits = tf.zeros([1, 2, 10])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        total = tf.reduce_sum(tf.cast(sample_tokens(logits, tf.constant([[0.3, 0.7]])), tf.float32))
    assert tape.gradient(total, logits) is None


def test_values_are_put_at_positions():
    sequence = tf.constant([[10, 11, 12, 13], [20, 21, 22, 23]])
    positions = tf.constant([[0, 3, 0], [2, 2, 1]])
    values = tf.constant([[7, 8, 9], [5, 6, 4]])
    # A weight of 0 writes nothing, position 0 can be written, and of two values for one position the greater is taken.
    weights = tf.constant([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    np.testing.assert_array_equal(
        put_at_positions(sequence, positions, values, weights), [[7, 11, 12, 8], [20, 21, 6, 23]]
    )


def test_labels_tell_what_differs_from_the_original():
    inputs = {
        "input_word_ids": tf.constant([[2, 4, 8, 4, 10, 3]]),  # 7 8 9 10, the first and third masked, 10 left as it is
        "input_mask": tf.ones([1, 6], tf.int32),
        "input_type_ids": tf.zeros([1, 6], tf.int32),
        "masked_lm_positions": tf.constant([[1, 3, 4, 0]]),
        "masked_lm_ids": tf.constant([[7, 9, 10, 0]]),
        "masked_lm_weights": tf.constant([[1.0, 1.0, 1.0, 0.0]]),
    }
    corrupted, labels = corrupt(inputs, tf.constant([[7, 6, 5, 99]]))
    np.testing.assert_array_equal(corrupted["input_word_ids"], [[2, 7, 8, 6, 5, 3]])
    np.testing.assert_array_equal(labels, [[0, 0, 0, 1, 1, 0]])
