import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from electra_cli.finetuning.model import loss_sum, weight


def test_classification_is_cross_entropy():
    logits = tf.constant([[0.0, 0.0], [1.0, 3.0]])
    targets = tf.constant([0, 0])
    expected = np.log(2) + np.log(np.e + np.e**3) - 1
    assert float(loss_sum("classification", logits, targets)) == pytest.approx(expected)
    assert float(weight("classification", targets)) == 2.0


def test_regression_is_the_squared_difference():
    targets = tf.constant([1.0, -1.0, 2.0])
    assert float(loss_sum("regression", tf.constant([[0.5], [1.0], [2.0]]), targets)) == 0.25 + 4.0
    assert float(weight("regression", targets)) == 3.0


def test_tagging_counts_words_alone():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=[2, 4, 3]).astype(np.float32)
    targets = np.array([[-1, 2, 0, -1], [-1, -1, 1, -1]], np.int32)
    entropy = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1, reduction="sum")
    assert float(loss_sum("tagging", logits, targets)) == pytest.approx(float(entropy(targets, logits)), rel=1e-6)
    assert float(weight("tagging", targets)) == 3.0
    assert float(weight("tagging", np.full([1, 2], -1))) == 0.0


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
    assert float(weight("question_answering", targets)) == 3.0
