import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from electra_cli.config.resolution import resolve
from electra_cli.modeling.layers import gelu
from electra_cli.objectives.base import build_pretrainer
from electra_cli.objectives.electra_pretrainer import ElectraPretrainer
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
