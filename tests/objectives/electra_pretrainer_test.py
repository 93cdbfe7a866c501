import json

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tf_keras

from electra_cli.config.resolution import resolve
from electra_cli.modeling.layers import gelu
from electra_cli.objectives.base import build_pretrainer
from electra_cli.objectives.electra_pretrainer import ElectraPretrainer, corrupt, put_at_positions, sample_tokens
from tests.modeling.common import LENGTH, SLOTS, VOCAB_SIZE, make_inputs, tf_models_encoder


@pytest.fixture
def resolved(config):
    config.data.max_seq_length = LENGTH
    config.data.mask_prob = 0.25
    return resolve(config, VOCAB_SIZE)


@pytest.fixture
def model(resolved):
    tf_keras.utils.set_random_seed(0)
    return build_pretrainer(resolved)


def test_outputs_of_the_contract(model):
    outputs = model(make_inputs())
    assert {name: (value.shape.as_list(), value.dtype) for name, value in outputs.items()} == {
        "lm_outputs": ([4, SLOTS, VOCAB_SIZE], tf.float32),
        "sentence_outputs": ([4, 0], tf.float32),
        "disc_logits": ([4, LENGTH], tf.float32),
        "disc_label": ([4, LENGTH], tf.int32),
    }
    assert model.checkpoint_items == {"encoder": model.discriminator_network}


def test_embeddings_are_shared_and_all_weights_train(model):
    generator, discriminator = model.generator_network, model.discriminator_network
    assert generator.embeddings is discriminator.embeddings
    assert generator.get_embedding_table() is model.masked_lm.embedding_table
    inputs = make_inputs()
    with tf.GradientTape() as tape:
        outputs = model(inputs, training=True, seed=tf.constant([1, 2]))
        loss = tf.reduce_mean(outputs["lm_outputs"] ** 2) + tf.reduce_mean(outputs["disc_logits"] ** 2)
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(gradient is not None for gradient in gradients)
    names = [variable.name for variable in model.trainable_variables]
    assert len(names) == len({variable.ref() for variable in model.trainable_variables})
    # 3 tables and their LayerNorm; the generator as wide as the embeddings, the discriminator with a projection (2),
    # each of 2 blocks of 4 products and 2 LayerNorms; the masked-LM head (5); the discriminator's head of two products.
    assert len(names) == 3 + 2 + 2 * 12 + 2 + 2 * 12 + 5 + 4


def test_the_generator_does_not_learn_from_the_discriminator(model):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(make_inputs())["disc_logits"])
    head = [*model.masked_lm.trainable_variables, *model.generator_network.transformer_layers[0].trainable_variables]
    own = [variable for variable in head if variable is not model.masked_lm.embedding_table]
    assert tape.gradient(loss, own) == [None] * len(own)


def test_labels_are_where_the_discriminator_saw_another_token(model):
    inputs = make_inputs()
    labels = model(inputs)["disc_label"].numpy()
    outside = np.ones_like(labels)
    np.put_along_axis(outside, inputs["masked_lm_positions"].numpy(), 0, 1)
    assert labels.sum() > 0
    assert (labels * outside).sum() == 0


def test_padding_changes_nothing(model):
    inputs = make_inputs()
    altered = dict(inputs)
    altered["input_word_ids"] = tf.where(inputs["input_mask"] > 0, inputs["input_word_ids"], 7)
    for name in ("lm_outputs", "disc_logits"):
        first, second = model(inputs)[name].numpy()[-1], model(altered)[name].numpy()[-1]
        np.testing.assert_allclose(first[:8], second[:8], atol=1e-6)


def test_int64_features_will_do(model):
    inputs = make_inputs()
    wide = {name: tf.cast(value, tf.int64) if value.dtype == tf.int32 else value for name, value in inputs.items()}
    for name, value in model(inputs).items():
        np.testing.assert_array_equal(value, model(wide)[name])


def test_seed_decides_dropout_and_sampling(resolved):
    model = build_pretrainer(resolved)
    inputs = make_inputs(32)
    del inputs["sampling_uniform"]
    first, again, other = (model(inputs, training=True, seed=tf.constant([1, seed])) for seed in (2, 2, 3))
    for name in ("lm_outputs", "disc_logits", "disc_label"):
        np.testing.assert_array_equal(first[name], again[name])
        assert (first[name].numpy() != other[name].numpy()).any()
    assert (model(inputs)["disc_label"].numpy() != model(inputs)["disc_label"].numpy()).any()


def test_disallow_correct_never_samples_the_original(resolved):
    model = build_pretrainer(resolved)
    model.disallow_correct = True
    inputs = make_inputs(64)
    labels = tf.gather(model(inputs)["disc_label"], inputs["masked_lm_positions"], batch_dims=1)
    assert (labels.numpy() == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_bfloat16", 2**-6), ("mixed_float16", 2**-9)])
def test_xla_and_mixed_precision_agree_with_float32(config, policy, tolerance):
    config.data.max_seq_length, config.data.mask_prob, config.model.initializer_range = LENGTH, 0.25, 0.3
    resolved = resolve(config, VOCAB_SIZE)
    tf_keras.utils.set_random_seed(0)
    model = build_pretrainer(resolved)
    inputs = make_inputs()
    expected = model(inputs)
    compiled = tf.function(model, jit_compile=True)(inputs)
    for name in ("lm_outputs", "disc_logits", "disc_label"):
        np.testing.assert_allclose(compiled[name], expected[name], atol=1e-5)
    try:
        tf_keras.mixed_precision.set_global_policy(policy)
        mixed = build_pretrainer(resolved)
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    mixed.set_weights(model.get_weights())
    assert mixed.trainable_variables[0].dtype == tf.float32
    outputs = mixed(inputs)
    # Equal samples, so that both discriminators see the same; a few roundings of a half precision apart.
    np.testing.assert_array_equal(outputs["disc_label"], expected["disc_label"])
    for name in ("lm_outputs", "disc_logits"):
        spread = np.abs(expected[name]).max()
        assert spread > 0.5
        assert np.abs(outputs[name] - expected[name]).max() < 4 * tolerance * spread
        assert np.abs(outputs[name] - expected[name]).max() > 0


def test_config_is_json_and_builds_the_same_model(model):
    config = json.loads(json.dumps(model.get_config()))
    copy = ElectraPretrainer.from_config(config)
    assert copy(make_inputs())["lm_outputs"].shape == [4, SLOTS, VOCAB_SIZE]
    assert copy.mlm_activation is gelu
    assert copy.get_config() == model.get_config()


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="vocab_size=51 but the generator's word table has 50 rows"):
        ElectraPretrainer(tf_models_encoder(8), tf_models_encoder(16), 51, 2, SLOTS)
    with pytest.raises(ValueError, match="output_type='loss'"):
        ElectraPretrainer(tf_models_encoder(8), tf_models_encoder(16), VOCAB_SIZE, 2, SLOTS, output_type="loss")


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
