import ml_collections
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from electra_cli.finetuning.model import build_model, loss_sum, loss_weight
from electra_cli.objectives.costs import EncoderSizes

SIZES = EncoderSizes(20, 4, 8, 3, 2, 8, 16, 2)


def model_of(kind, num_outputs, dropout=0.0):
    rates = ml_collections.ConfigDict(dict.fromkeys(("hidden_dropout", "attention_dropout", "head_dropout"), dropout))
    return build_model(SIZES, kind, num_outputs, rates, 0.2, length=6)


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


def test_classification_is_cross_entropy():
    logits = tf.constant([[0.0, 0.0], [1.0, 3.0]])
    targets = tf.constant([0, 0])
    expected = np.log(2) + np.log(np.e + np.e**3) - 1
    assert float(loss_sum("classification", logits, targets)) == pytest.approx(expected)
    assert float(loss_weight("classification", targets)) == 2.0


def test_regression_is_the_squared_difference():
    targets = tf.constant([1.0, -1.0, 2.0])
    assert float(loss_sum("regression", tf.constant([[0.5], [1.0], [2.0]]), targets)) == 0.25 + 4.0
    assert float(loss_weight("regression", targets)) == 3.0


def test_tagging_counts_words_alone():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=[2, 4, 3]).astype(np.float32)
    targets = np.array([[-1, 2, 0, -1], [-1, -1, 1, -1]], np.int32)
    entropy = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1, reduction="sum")
    assert float(loss_sum("tagging", logits, targets)) == pytest.approx(float(entropy(targets, logits)), rel=1e-6)
    assert float(loss_weight("tagging", targets)) == 3.0
    assert float(loss_weight("tagging", np.full([1, 2], -1))) == 0.0


def test_question_answering_is_the_mean_of_both_ends():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=[3, 5, 2]).astype(np.float32)
    targets = np.array([[0, 0], [1, 4], [3, 3]], np.int32)
    expected = 0.0
    for row, ends in enumerate(targets):
        for end, position in enumerate(ends):
            scores = logits[row, :, end].astype(np.float64)
            expected += (np.log(np.exp(scores).sum()) - scores[position]) / 2
    assert float(loss_sum("question_answering", logits, targets)) == pytest.approx(expected, rel=1e-6)
    assert float(loss_weight("question_answering", targets)) == 3.0
