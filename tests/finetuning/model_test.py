import numpy as np
import pytest
import tensorflow as tf

from electra_cli.finetuning.model import build_encoder, build_model
from electra_cli.modeling.sizes import EncoderSizes

SIZES = EncoderSizes(20, 4, 8, 3, 2, 8, 16, 2)


def model_of(kind, num_outputs, dropout=0.0):
    encoder = build_encoder(SIZES, hidden_dropout=dropout, attention_dropout=dropout, initializer_range=0.2)
    return build_model(encoder, kind, num_outputs, dropout_rate=dropout, initializer_range=0.2, length=6)


def inputs(seed=0):
    ids = np.random.default_rng(seed).integers(5, 20, [2, 6]).astype(np.int32)
    return {"input_word_ids": ids, "input_mask": np.ones_like(ids), "input_type_ids": np.zeros_like(ids)}


@pytest.mark.parametrize("kind", ["classification", "tagging"])
def test_depths_are_those_of_the_original(kind):
    """google-research/electra: /embeddings/ and /embeddings_project/ 0, encoder/layer_i/ i + 1, the head layers + 2."""
    model = model_of(kind, 3)
    depths = {id(variable): depth for variable, depth in zip(model.trainable_variables, model.depths(), strict=True)}

    def of(layer):
        return {depths[id(variable)] for variable in layer.trainable_variables}

    assert of(model.encoder.embeddings) == of(model.encoder.embedding_projection) == {0}
    assert [of(layer) for layer in model.encoder.transformer_layers] == [{1}, {2}, {3}]
    assert of(model.head_output) == {5}
    if kind == "classification":
        assert of(model.head_dense) == {5}
    assert set(depths.values()) == {0, 1, 2, 3, 5}


def test_heads_by_hand():
    x = inputs()
    model = model_of("classification", 3)
    first = model.encoder(x)["sequence_output"].numpy()[:, 0]
    hidden = first @ model.head_dense.kernel.numpy() + model.head_dense.bias.numpy()
    hidden = tf.nn.gelu(hidden, approximate=False).numpy()
    expected = hidden @ model.head_output.kernel.numpy() + model.head_output.bias.numpy()
    np.testing.assert_allclose(model(x, training=False), expected, rtol=1e-5, atol=1e-6)
    model = model_of("question_answering", 2)
    assert model.head_dense is None
    expected = model.encoder(x)["sequence_output"].numpy() @ model.head_output.kernel.numpy()
    np.testing.assert_allclose(model(x, training=False), expected, rtol=1e-5, atol=1e-6)


def test_dropout_follows_from_its_seed():
    model, x = model_of("classification", 3, dropout=0.3), inputs()
    one, same, other = (model(x, training=True, seed=tf.constant([0, seed])).numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)
    np.testing.assert_array_equal(model(x, training=False), model(x, training=False, seed=tf.constant([0, 1])))
