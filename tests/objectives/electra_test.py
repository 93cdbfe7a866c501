import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from electra_cli.config import default_config
from electra_cli.config.pretraining import BEST_METRICS
from electra_cli.objectives.base import objective_of
from electra_cli.objectives.electra import ElectraObjective, area_under_curve, rtd_loss, rtd_sums
from electra_cli.objectives.mlm import MaskedLMObjective, masked_lm_loss, masked_lm_sums


def test_masked_lm_loss_is_cross_entropy_over_used_slots():
    logits = np.log([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]]]).astype(np.float32)
    total, weight = masked_lm_loss(tf.constant(logits), tf.constant([[0, 2, 1]]), tf.constant([[1.0, 1.0, 0.0]]))
    assert float(total) == pytest.approx(-np.log(0.5) - np.log(0.8), rel=1e-6)
    assert float(weight) == 2.0


def test_rtd_loss_is_binary_cross_entropy_over_real_tokens():
    logits = np.log(np.array([[0.9 / 0.1, 0.2 / 0.8, 5.0]])).astype(np.float32)
    total = rtd_loss(tf.constant(logits), tf.constant([[1, 0, 1]]), tf.constant([[1, 1, 0]]))
    assert float(total) == pytest.approx(-np.log(0.9) - np.log(0.8), rel=1e-6)


def test_metrics_by_hand():
    inputs = {
        "input_mask": tf.constant([[1, 1, 1, 1, 1, 0]]),
        "masked_lm_positions": tf.constant([[1, 2, 3]]),
        "masked_lm_ids": tf.constant([[7, 8, 9]]),
        "masked_lm_weights": tf.constant([[1.0, 1.0, 1.0]]),
    }
    outputs = {
        "lm_outputs": tf.one_hot([[7, 8, 5]], 12),  # two of three best guesses are right
        "disc_label": tf.constant([[0, 0, 1, 1, 0, 0]]),  # one of three samples was right
        "disc_logits": tf.constant([[-2.0, 1.0, 3.0, -1.0, -3.0, 9.0]]),
    }
    sums = masked_lm_sums(inputs, outputs) | {"masked_lm_loss": 6.0, "masked_lm_weight": 3.0}
    sums |= rtd_sums(inputs, outputs) | {"rtd_loss": 2.0}
    assert sums.keys() == ElectraObjective(default_config()).sum_shapes().keys()
    sums = {name: np.asarray(value) for name, value in sums.items()}
    result = ElectraObjective(default_config()).summarize(sums)
    assert result == pytest.approx(
        {
            "masked_lm_loss": 2.0,
            "rtd_loss": 0.4,
            "total_loss": 2.0 + 50 * 0.4,
            "masked_lm_accuracy": 2 / 3,
            "sampled_masked_lm_accuracy": 1 / 3,
            "rtd_accuracy": 3 / 5,
            "rtd_precision": 1 / 2,
            "rtd_recall": 1 / 2,
            "replaced_fraction": 2 / 5,
            "rtd_auc": 5 / 6,
        }
    )
    masked_lm = MaskedLMObjective(default_config())
    expected = {"total_loss": 2.0, "masked_lm_loss": 2.0, "masked_lm_accuracy": 2 / 3}
    assert masked_lm.summarize({name: sums[name] for name in masked_lm.sum_shapes()}) == expected


def test_the_loss_of_weights_that_change():
    """That of an interval weighs the losses of each step by its weights."""
    config = default_config()
    config.objective.generator_loss_weight_end, config.objective.discriminator_loss_weight_end = 3.0, 10.0
    objective = ElectraObjective(config)
    batch = {
        "input_mask": tf.constant([[1, 1, 1, 0]]),
        "masked_lm_positions": tf.constant([[1, 2]]),
        "masked_lm_ids": tf.constant([[2, 0]]),
        "masked_lm_weights": tf.constant([[1.0, 1.0]]),
    }
    totals, expected = {}, 0.0
    for (generator_weight, discriminator_weight), logit in (((1.0, 50.0), 1.0), ((3.0, 10.0), -2.0)):
        weights = {"generator_loss_weight": generator_weight, "discriminator_loss_weight": discriminator_weight}
        inputs = batch | {name: tf.constant(weight) for name, weight in weights.items()}
        outputs = {
            "lm_outputs": logit * tf.one_hot([[2, 0]], 3),
            "disc_logits": tf.fill([1, 4], logit),
            "disc_label": tf.constant([[0, 1, 0, 0]]),
        }
        loss, sums = objective.loss_and_sums(inputs, outputs, objective.batch_weights(inputs))
        masked_lm = np.log(np.exp(logit) + 2) - logit
        rtd = (2 * np.log1p(np.exp(logit)) + np.log1p(np.exp(-logit))) / 3
        assert float(loss) == pytest.approx(generator_weight * masked_lm + discriminator_weight * rtd, rel=1e-5)
        expected += (generator_weight * masked_lm + discriminator_weight * rtd) / 2  # steps of as many tokens
        assert sums.keys() == objective.sum_shapes().keys()
        totals = {name: totals.get(name, 0.0) + value.numpy().astype(np.float64) for name, value in sums.items()}
    assert objective.summarize(totals)["total_loss"] == pytest.approx(expected, rel=1e-5)


def test_area_under_curve_agrees_with_sklearn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 5000)
    logits = (rng.normal(size=5000) * 2 + labels).astype(np.float32)
    outputs = {
        "disc_logits": tf.constant(logits[None]),
        "disc_label": tf.constant(labels[None]),
        "lm_outputs": tf.zeros([1, 1, 2]),
    }
    inputs = {
        "input_mask": tf.ones([1, 5000], tf.int32),
        "masked_lm_positions": tf.zeros([1, 1], tf.int32),
        "masked_lm_ids": tf.zeros([1, 1], tf.int32),
        "masked_lm_weights": tf.zeros([1, 1]),
    }
    sums = rtd_sums(inputs, outputs)
    area = area_under_curve(sums["positive_logits"].numpy(), sums["negative_logits"].numpy())
    assert area == pytest.approx(roc_auc_score(labels, logits), abs=1e-3)


@given(st.integers(1, 7), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_sums_of_parts_add_up_to_those_of_the_whole(cut, seed):
    rng = np.random.default_rng(seed)
    batch = {
        "input_mask": rng.integers(0, 2, (8, 6)),
        "masked_lm_positions": rng.integers(0, 6, (8, 2)),
        "masked_lm_ids": rng.integers(0, 3, (8, 2)),
        "masked_lm_weights": rng.integers(0, 2, (8, 2)).astype(np.float32),
        "lm_outputs": rng.normal(size=(8, 2, 3)).astype(np.float32),
        "disc_label": rng.integers(0, 2, (8, 6)),
        "disc_logits": rng.normal(size=(8, 6)).astype(np.float32),
    }

    def sums(rows):
        part = {
            name: tf.constant(value[rows], None if value.dtype == np.float32 else tf.int32)
            for name, value in batch.items()
        }
        return {**masked_lm_sums(part, part), **rtd_sums(part, part)}

    whole, first, second = sums(slice(None)), sums(slice(0, cut)), sums(slice(cut, None))
    for name, value in whole.items():
        rtol = 1e-5 if name.endswith("loss") else 0.0  # counts are exact
        np.testing.assert_allclose(value, first[name] + second[name], rtol=rtol, err_msg=name)


def test_area_without_a_class_is_chance():
    assert area_under_curve(np.zeros(3), np.ones(3)) == area_under_curve(np.ones(3), np.zeros(3)) == 0.5


def test_ratio_of_nothing_is_zero():
    sums = {name: np.zeros(shape) for name, shape in ElectraObjective(default_config()).sum_shapes().items()}
    result = ElectraObjective(default_config()).summarize(sums)
    assert {value for name, value in result.items() if name != "rtd_auc"} == {0.0}


@pytest.mark.parametrize("objective", BEST_METRICS)
def test_the_best_checkpoint_can_be_told_by_every_metric_that_has_a_better(objective):
    config = default_config()
    config.objective.name = objective
    sums = {name: np.ones(shape) for name, shape in objective_of(config).sum_shapes().items()}
    names = objective_of(config).summarize(sums).keys()
    assert set(BEST_METRICS[objective]) == names - {"replaced_fraction"}


def test_the_objective_added_in_the_documentation():
    """docs/objectives.md: the discriminator learns from the masked slots alone."""
    page = (pathlib.Path(__file__).parents[2] / "docs/objectives.md").read_text(encoding="utf-8")
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1), names)
    inputs = {
        "input_mask": tf.constant([[1, 1, 1, 1, 0]]),
        "masked_lm_positions": tf.constant([[1, 3, 0]]),
        "masked_lm_ids": tf.constant([[7, 8, 0]]),
        "masked_lm_weights": tf.constant([[1.0, 1.0, 0.0]]),
    }
    outputs = {
        "lm_outputs": tf.zeros([1, 3, 10]),
        "disc_label": tf.constant([[0, 0, 1, 1, 0]]),
        "disc_logits": tf.constant([[-2.0, 1.0, 3.0, -1.0, 9.0]]),
    }
    objective = names["OBJECTIVE"](default_config())
    weights = objective.batch_weights(inputs)
    loss, sums = objective.loss_and_sums(inputs, outputs, weights)
    rtd = np.log1p(np.exp(1.0))  # of both slots: an original judged at 1, a replaced one at -1
    assert float(loss) == pytest.approx(np.log(10) + 50 * rtd, rel=1e-6)
    metrics = objective.summarize({name: np.asarray(value) for name, value in sums.items()})
    assert (metrics["rtd_accuracy"], metrics["replaced_fraction"]) == (0.0, 0.5)
