"""The objective's options: embedding sharing, tied and uniform generators, generator sizes, and mlm."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from electra_cli.config.resolution import resolve
from electra_cli.modeling.layers import ElectraEmbeddings
from electra_cli.objectives.base import build_pretrainer, unigram_entropy, unigram_log_probs
from electra_cli.objectives.electra_pretrainer import ElectraPretrainer
from tests.modeling.common import LENGTH, SLOTS, VOCAB_SIZE, make_inputs


def build(config, **overrides):
    config.data.max_seq_length, config.data.mask_prob = LENGTH, 0.25
    config.update_from_flattened_dict(overrides)
    tf_keras.utils.set_random_seed(0)
    return build_pretrainer(resolve(config, VOCAB_SIZE))


def gradients(model, output, variables):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(make_inputs(), training=False)[output] ** 2)
    return tape.gradient(loss, variables)


def shared(model):
    """The weights that both networks have."""
    generator = {variable.ref() for variable in model.generator_network.trainable_variables}
    return [variable for variable in model.discriminator_network.trainable_variables if variable.ref() in generator]


@pytest.mark.parametrize(("sharing", "num_shared"), [("all", 5), ("word", 1), ("none", 0)])
def test_what_is_shared_and_who_trains_it(config, sharing, num_shared):
    model = build(config, **{"model.embedding_sharing": sharing})
    assert len(shared(model)) == num_shared
    assert model.masked_lm.embedding_table is model.generator_network.embeddings.word_embeddings
    # The RTD loss reaches the generator through what is shared and nothing else.
    reached = gradients(model, "disc_logits", model.generator_network.trainable_variables)
    names = {variable.ref() for variable in shared(model)}
    for variable, gradient in zip(model.generator_network.trainable_variables, reached, strict=True):
        assert (gradient is not None) == (variable.ref() in names), variable.name
    assert gradients(model, "disc_logits", model.masked_lm.dense.trainable_variables) == [None, None]


def test_gradient_disentangled_embeddings_are_a_sum_of_which_one_part_trains(config):
    model = build(config, **{"model.embedding_sharing": "gradient_disentangled"})
    generator, discriminator = model.generator_network.embeddings, model.discriminator_network.embeddings
    for name in ("word_embeddings", "position_embeddings", "type_embeddings"):
        assert not getattr(discriminator, name).numpy().any()
        getattr(discriminator, name).assign(tf.random.stateless_normal(getattr(discriminator, name).shape, [1, 2]))
    # The sum, looked up in one table, is what comes out.
    merged = ElectraEmbeddings(VOCAB_SIZE, 8, discriminator.max_position_embeddings)
    for name in ("word_embeddings", "position_embeddings", "type_embeddings"):
        getattr(merged, name).assign(getattr(generator, name) + getattr(discriminator, name))
    ids, types = tf.constant([[5, 6, 49]]), tf.constant([[0, 0, 1]])
    np.testing.assert_allclose(discriminator(ids, types), merged(ids, types), atol=1e-6)
    np.testing.assert_allclose(model.discriminator_network.get_embedding_table(), merged.word_embeddings, atol=1e-7)
    # The RTD loss trains the discriminator's part only, the masked-LM loss the generator's only.
    own, other = discriminator.word_embeddings, generator.word_embeddings
    assert gradients(model, "disc_logits", [own])[0] is not None
    assert gradients(model, "disc_logits", [other]) == [None]
    assert gradients(model, "lm_outputs", [own]) == [None]
    assert gradients(model, "lm_outputs", [other])[0] is not None


def test_tied_generator_is_one_network(config):
    model = build(config, **{"objective.tied_generator": True})
    assert model.generator_network is model.discriminator_network
    trained = {variable.ref() for variable in model.discriminator_network.trainable_variables}
    heads = [v for v in model.trainable_variables if v.ref() not in trained]
    # The masked-LM head (dense, LayerNorm, bias) and the discriminator's two products.
    assert len(heads) == 5 + 4
    copy = ElectraPretrainer.from_config(json.loads(json.dumps(model.get_config())))
    assert copy.generator_network is copy.discriminator_network


@pytest.mark.parametrize("sharing", ["none", "gradient_disentangled"])
def test_a_frozen_generator_is_not_trained_and_drops_nothing_out(config, sharing):
    options = {"model.embedding_sharing": sharing, "model.hidden_dropout": 0.5}
    learning = build(config, **options)
    model = build(config, **options, **{"objective.frozen_generator": True})
    of_generator = {v.ref() for v in (*model.generator_network.variables, *model.masked_lm.variables)}
    trained = {v.ref() for v in model.trainable_variables}
    assert not trained & of_generator and trained | of_generator == {v.ref() for v in model.variables}
    assert len(model.variables) == len(learning.trainable_variables)
    assert None not in gradients(model, "disc_logits", model.trainable_variables)
    seed = tf.constant([1, 2])
    for each, drops in ((model, False), (learning, True)):
        logits = [each(make_inputs(), training=training, seed=seed)["lm_outputs"] for training in (False, True)]
        assert np.array_equal(*logits) != drops
    rtd = [model(make_inputs(), training=training, seed=seed)["disc_logits"] for training in (False, True)]
    assert not np.array_equal(*rtd)


def test_uniform_generator_draws_every_token_as_often(config):
    model = build(config, **{"objective.uniform_generator": True})
    assert model.generator_network is None
    assert len(model.trainable_variables) == len(model.discriminator_network.trainable_variables) + 4
    uniform = (np.arange(VOCAB_SIZE) + 0.5) / VOCAB_SIZE
    inputs = {name: tf.repeat(value[:1], VOCAB_SIZE, 0) for name, value in make_inputs().items()}
    inputs["sampling_uniform"] = tf.tile(tf.constant(uniform[:, None], tf.float32), [1, SLOTS])
    outputs = model(inputs)
    assert not outputs["lm_outputs"].numpy().any()
    # Each of the draws, one for each token, hits the original of a slot once.
    slots = tf.gather(outputs["disc_label"], inputs["masked_lm_positions"], batch_dims=1).numpy()
    np.testing.assert_array_equal((slots == 0).sum(0), [1] * SLOTS)
    copy = ElectraPretrainer.from_config(json.loads(json.dumps(model.get_config())))
    assert copy.get_config() == model.get_config()


def test_generator_by_numbers(config):
    model = build(
        config,
        **{
            "model.generator_num_layers": 1,
            "model.generator_hidden_size": 12,
            "model.generator_num_attention_heads": 3,
            "model.generator_intermediate_size": 20,
        },
    )
    (block,) = model.generator_network.transformer_layers
    assert block.num_attention_heads == 3
    assert block.intermediate.kernel.shape == [12, 20]
    assert model.generator_network.embedding_projection.kernel.shape == [8, 12]


def test_mlm_is_the_generators_objective_on_the_discriminators_network(config):
    model = build(config, **{"objective.name": "mlm"})
    outputs = model(make_inputs())
    assert {name: value.shape.as_list() for name, value in outputs.items()} == {"lm_outputs": [4, SLOTS, VOCAB_SIZE]}
    assert model.encoder_network.get_config()["hidden_size"] == config.model.hidden_size
    assert model.checkpoint_items == {"encoder": model.encoder_network}
    # The same numbers as an ELECTRA whose generator has those sizes and weights.
    electra = build(config, **{"objective.name": "electra", "objective.tied_generator": True})
    electra.discriminator_network.set_weights(model.encoder_network.get_weights())
    for name in ("dense", "layer_norm"):
        getattr(electra.masked_lm, name).set_weights(getattr(model.masked_lm, name).get_weights())
    np.testing.assert_allclose(electra(make_inputs())["lm_outputs"], outputs["lm_outputs"], atol=1e-6)


def test_short_and_empty_rows_give_finite_outputs(config):
    model = build(config)
    inputs = make_inputs()
    for row, real in enumerate((0, 1, 2, 3)):
        mask = tf.cast(tf.range(LENGTH) < real, tf.int32)
        inputs["input_mask"] = tf.tensor_scatter_nd_update(inputs["input_mask"], [[row]], mask[None])
    inputs["masked_lm_weights"] = tf.zeros([4, SLOTS])
    outputs = model(inputs)
    assert all(np.isfinite(value).all() for value in outputs.values())
    assert outputs["disc_label"].numpy().sum() == 0


def test_unigram_baseline_by_hand():
    counts = np.array([1000, 0, 500, 500, 0, 2, 6])
    log_probs = unigram_log_probs(counts, (0, 2, 3, 4))
    # Laplace: 0 + 1, 2 + 1 and 6 + 1 of 11.
    np.testing.assert_allclose(np.exp(log_probs[[1, 5, 6]]), np.array([1, 3, 7]) / 11, rtol=1e-6)
    assert (log_probs[[0, 2, 3, 4]] == 0).all()


def test_the_entropy_is_that_of_tokens_that_may_be_masked():
    counts = np.array([1000, 500, 3, 1, 0])
    # Of 0 and 1, which are special, none; of the others 4, 2 and 1 with one added to each.
    shares = np.array([4, 2, 1]) / 7
    assert unigram_entropy(counts, (0, 1)) == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-6)
