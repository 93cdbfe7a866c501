"""Our `ElectraPretrainer` against the class of that name in tf-models-official."""

import unittest

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from official.nlp.modeling.models import electra_pretrainer as theirs
from official.nlp.modeling.models import electra_pretrainer_test as their_tests

from electra_cli.objectives.electra_pretrainer import ElectraPretrainer
from tests.modeling.common import LENGTH, SLOTS, VOCAB_SIZE, make_inputs, tf_models_encoder


def build(kind, discriminator_size=16, **options):
    arguments = {
        "vocab_size": VOCAB_SIZE,
        "num_classes": 2,
        "num_token_predictions": SLOTS,
        "mlm_activation": "gelu",
        "mlm_initializer": tf_keras.initializers.TruncatedNormal(stddev=0.2),
    }
    return kind(tf_models_encoder(8), tf_models_encoder(discriminator_size), **{**arguments, **options})


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Theirs and ours with the weights of their checkpoint; both sample the likeliest token."""
    monkeypatch.setattr(
        theirs, "sample_from_softmax", lambda logits, disallow: tf.one_hot(tf.argmax(logits, -1), VOCAB_SIZE)
    )
    tf_keras.utils.set_random_seed(5)
    original = build(theirs.ElectraPretrainer)
    original(make_inputs())
    path = tf.train.Checkpoint(model=original, **original.checkpoint_items).save(str(tmp_path / "ckpt"))
    ours = build(ElectraPretrainer, sampling_temperature=1e-6)
    ours(make_inputs())
    status = tf.train.Checkpoint(model=ours, **ours.checkpoint_items).restore(path)
    status.assert_existing_objects_matched()
    return original, ours


@pytest.mark.parametrize("seed", range(5))
def test_outputs_equal_theirs_with_weights_of_their_checkpoint(pair, seed):
    inputs = make_inputs(seed=seed)
    expected, found = (model(inputs) for model in pair)
    assert expected.keys() == found.keys()
    for name in ("lm_outputs", "sentence_outputs", "disc_logits"):
        np.testing.assert_allclose(found[name], expected[name], atol=2e-6, err_msg=name)
    np.testing.assert_array_equal(found["disc_label"], expected["disc_label"])
    assert 0 < found["disc_label"].numpy().sum() < found["disc_label"].shape.num_elements()


def test_predictions_equal_theirs(tmp_path):
    inputs = make_inputs()
    original = build(theirs.ElectraPretrainer, output_type="predictions")
    expected = original(inputs)["lm_outputs"]
    path = tf.train.Checkpoint(model=original).save(str(tmp_path / "ckpt"))
    ours = build(ElectraPretrainer, output_type="predictions")
    ours(inputs)
    tf.train.Checkpoint(model=ours).restore(path).assert_existing_objects_matched()
    np.testing.assert_allclose(ours(inputs)["lm_outputs"], expected, atol=2e-6)


@pytest.mark.parametrize("name", unittest.TestLoader().getTestCaseNames(their_tests.ElectraPretrainerTest))
def test_their_own_tests_hold_for_ours(monkeypatch, name):
    monkeypatch.setattr(their_tests.electra_pretrainer, "ElectraPretrainer", ElectraPretrainer)
    result = unittest.TestResult()
    their_tests.ElectraPretrainerTest(name).run(result)
    problems = [text for _, text in (*result.errors, *result.failures)]
    assert result.testsRun == 1
    assert not problems, problems[0]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_their_networks_train_in_mixed_precision(policy):
    tf_keras.mixed_precision.set_global_policy(policy)
    try:
        model = build(ElectraPretrainer)
        with tf.GradientTape() as tape:
            outputs = model(make_inputs(), training=True)
            loss = tf.reduce_mean(outputs["lm_outputs"]) + tf.reduce_mean(outputs["disc_logits"])
        gradients = tape.gradient(loss, model.discriminator_head.trainable_variables)
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    assert {name: value.dtype for name, value in outputs.items()} == {
        "lm_outputs": tf.float32,
        "sentence_outputs": tf.float32,
        "disc_logits": tf.float32,
        "disc_label": tf.int32,
    }
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_where_theirs_is_wrong(pair):
    original, ours = pair
    inputs = make_inputs()
    # They leave position 0 as it is: the masked token stays in the discriminator's input and is no replacement.
    at_start = {**inputs, "masked_lm_positions": tf.zeros_like(inputs["masked_lm_positions"])}
    at_start["masked_lm_ids"] = tf.fill([4, SLOTS], 49)
    assert original(at_start)["disc_label"].numpy().sum() == 0
    likeliest = ours(at_start)["lm_outputs"].numpy()[:, 0].argmax(-1)
    np.testing.assert_array_equal(ours(at_start)["disc_label"][:, 0], likeliest != 49)
    # They fail on int64 ids.
    wide = {name: tf.cast(value, tf.int64) if value.dtype == tf.int32 else value for name, value in inputs.items()}
    with pytest.raises((TypeError, AssertionError, tf.errors.InvalidArgumentError)):
        original(wide)
    np.testing.assert_array_equal(ours(wide)["disc_label"], ours(inputs)["disc_label"])
    # They give both heads one activation; ours may differ.
    other = build(ElectraPretrainer, discriminator_activation="relu")
    assert (other.mlm_activation, other.discriminator_projection.activation) == (
        tf_keras.activations.gelu,
        tf_keras.activations.relu,
    )
    assert ours(inputs)["disc_logits"].shape[1] == LENGTH
