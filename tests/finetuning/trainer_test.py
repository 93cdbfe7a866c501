import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from electra_cli.config.finetuning import default_config, fill_in
from electra_cli.errors import UserError
from electra_cli.finetuning import model as losses
from electra_cli.finetuning.base import Encoded
from electra_cli.finetuning.trainer import (
    LayerwiseAdam,
    Trainer,
    build_finetuning_runtime,
    build_optimizer,
    compute_logits,
    layer_factors,
    reset,
    shuffled_rows,
)
from electra_cli.interop.starting_points import StartingPoint
from electra_cli.modeling import features
from electra_cli.objectives.costs import EncoderSizes
from electra_cli.objectives.weights import Network, read_encoder
from electra_cli.training.distribution import Runtime
from tests.finetuning import synthetic

SIZES = EncoderSizes(
    vocab_size=30,
    embedding_size=8,
    hidden_size=8,
    num_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    max_position_embeddings=8,
    type_vocab_size=2,
)
NUM_OUTPUTS = {"classification": 3, "regression": 1, "tagging": 4, "question_answering": 2}


def runtime(jit_compile=False):
    return Runtime(tf.distribute.OneDeviceStrategy("/cpu:0"), jit_compile, "a test")


def examples(kind, num_rows=12, length=8):
    rng = np.random.default_rng(0)
    targets = {
        "classification": rng.integers(0, 3, [num_rows]).astype(np.int32),
        "regression": rng.random([num_rows]).astype(np.float32),
        "tagging": rng.integers(-1, 4, [num_rows, length]).astype(np.int32),
        "question_answering": rng.integers(0, length, [num_rows, 2]).astype(np.int32),
    }
    arrays = {
        features.INPUT_WORD_IDS: rng.integers(0, 30, [num_rows, length]).astype(np.int32),
        features.INPUT_MASK: np.ones([num_rows, length], np.int32),
        features.INPUT_TYPE_IDS: np.zeros([num_rows, length], np.int32),
    }
    return Encoded(arrays, targets[kind], np.arange(num_rows, dtype=np.int32))


def starting_point(is_random=False):
    model = losses.build_model(SIZES, "classification", 2, default_config().model, 0.1, length=8)
    return StartingPoint("a test", Network("discriminator", read_encoder(model.encoder), 2), is_random, 0.1, None)


def trainer(kind, jit_compile=False, is_random=False, **overrides):
    settings = {"train.global_batch_size": 4, "train.num_epochs": 1, **overrides}
    config = fill_in(synthetic.config_for(kind, {"train": "x"}, **settings), kind, SIZES.hidden_size)
    return Trainer(config, kind, NUM_OUTPUTS[kind], starting_point(is_random), examples(kind), runtime(jit_compile))


def test_every_epoch_has_an_order_of_its_own():
    rows = shuffled_rows(10, 30, seed=4)
    epochs = rows.reshape(3, 10)
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    np.testing.assert_array_equal(shuffled_rows(10, 17, seed=4), rows[:17])
    assert any(shuffled_rows(10, 30, seed=5) != rows)


def test_batches_follow_from_seed_and_step():
    """An epoch of 12 rows in batches of 8: the next one fills the last."""
    made_trainer = trainer("regression", **{"train.global_batch_size": 8, "train.num_epochs": 2})
    assert made_trainer.num_steps == 3
    targets = examples("regression").targets
    batches = [batch[losses.TARGETS].numpy() for batch in made_trainer.batches(3, 0)]
    np.testing.assert_array_equal(np.concatenate(batches), targets[shuffled_rows(12, 24, 3)])
    later = [batch[losses.TARGETS].numpy() for batch in made_trainer.batches(3, 2)]
    np.testing.assert_array_equal(later, batches[2:])


def test_weights_begin_with_the_encoder_or_follow_from_the_seed():
    given, drawn = trainer("classification"), trainer("classification", is_random=True)

    def weights(made_trainer, seed):
        made_trainer.restart(seed)
        return read_encoder(made_trainer.model.encoder), made_trainer.model.head_output.kernel.numpy()

    first, second = weights(given, 0), weights(given, 1)
    for name, value in given._start.network.weights.items():
        np.testing.assert_array_equal(first[0][name], value)
        np.testing.assert_array_equal(second[0][name], value)
    assert np.any(first[1] != second[1])  # the head
    one, two, again = weights(drawn, 0), weights(drawn, 1), weights(drawn, 0)
    name = "encoder/layer_0/output/dense/kernel"
    assert np.any(one[0][name] != two[0][name])
    np.testing.assert_array_equal(one[0][name], again[0][name])
    np.testing.assert_array_equal(one[1], again[1])


@pytest.mark.parametrize("seed", [0, 1])
def test_random_weights_are_not_those_that_a_run_of_the_same_seed_begins_with(seed):
    drawn = trainer("classification", is_random=True)
    tf_keras.utils.set_random_seed(seed)  # as `training.run.build_model` does
    began = starting_point().network.weights
    drawn.restart(seed)
    weights = read_encoder(drawn.model.encoder)
    tables = [name for name, value in began.items() if value.std() > 0]
    assert "embeddings/word_embeddings" in tables and len(tables) > 5
    for name in tables:
        correlation = np.corrcoef(weights[name].ravel(), began[name].ravel())[0, 1]
        assert abs(correlation) < 5 / np.sqrt(began[name].size), name


def test_predictions_come_in_order_whatever_the_batch():
    """Seven rows in batches of four."""
    arrays = {name: array[:7] for name, array in examples("regression").features.items()}
    encoded = Encoded(arrays, None, np.arange(7, dtype=np.int32))
    seen = []
    found = compute_logits(
        lambda inputs: tf.cast(inputs[features.INPUT_WORD_IDS], tf.float32),
        encoded,
        runtime(),
        4,
        before_batch=lambda: seen.append(1),
    )
    np.testing.assert_array_equal(found, arrays[features.INPUT_WORD_IDS])
    assert len(seen) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(synthetic.MAKERS))
def test_whole_steps_compile_with_xla(kind):
    """Train and predict step, whose shapes are static, compute what model and loss do operation by operation."""
    made_trainer, encoded = trainer(kind, jit_compile=True), examples(kind)
    made_trainer.restart(0)
    model, rows = made_trainer.model, shuffled_rows(12, 12, 0)[:4]
    inputs = {name: tf.constant(array[rows]) for name, array in encoded.features.items()}
    expected = losses.loss_sum(kind, model(inputs, training=False), tf.constant(encoded.targets[rows]))
    before = model.head_output.kernel.numpy()
    zero, one = tf.constant(0, tf.int64), tf.constant(1, tf.int64)
    sums = made_trainer.train_steps(made_trainer.batches(0, 0), zero, one)
    assert float(sums["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(sums["weight"]) == float(losses.loss_weight(kind, tf.constant(encoded.targets[rows])))
    assert np.any(model.head_output.kernel.numpy() != before)
    logits = made_trainer.logits(encoded)
    np.testing.assert_allclose(logits, model(encoded.features, training=False), atol=1e-5)


def test_one_update_by_hand():
    """No bias correction; m = 0.1 g, v = 0.001 g^2, update m / (sqrt(v) + epsilon), decay 0.5 of what is no bias."""
    kernel, bias = tf.Variable([2.0, -1.0], name="kernel"), tf.Variable([3.0], name="bias")
    optimizer = LayerwiseAdam(0.01, [1.0, 0.25], epsilon=1e-6, weight_decay=0.5)
    optimizer.build([kernel, bias])
    optimizer.apply_gradients([(tf.constant([0.5, -2.0]), kernel), (tf.constant([4.0]), bias)])
    step = 0.1 / np.sqrt(0.001)  # 3.1623 for any gradient, but for epsilon
    np.testing.assert_allclose(kernel, [2.0 - 0.01 * (step + 0.5 * 2.0), -1.0 - 0.01 * (-step + 0.5 * -1.0)], rtol=1e-5)
    np.testing.assert_allclose(bias, [3.0 - 0.01 * 0.25 * step], rtol=1e-5)


def test_factors_fall_from_the_head_to_the_embeddings():
    """google-research/electra, model/optimization.py: rate x decay ** (layers + 2 - depth)."""
    num_layers, decay = 12, 0.8
    depths = [0, 0, *range(1, num_layers + 1), num_layers + 2]
    assert layer_factors(depths, decay) == pytest.approx(
        [decay**14, decay**14, *(decay ** (num_layers + 2 - depth) for depth in range(1, 13)), 1.0]
    )
    assert layer_factors(depths, 1.0) == [1.0] * len(depths)


def test_a_factor_for_each_weight():
    with pytest.raises(ValueError, match="1 weights, 2 factors"):
        LayerwiseAdam(0.01, [1.0, 0.5]).build([tf.Variable([1.0])])
    optimizer = LayerwiseAdam(0.01, [1.0, 0.5])
    assert LayerwiseAdam.from_config(optimizer.get_config()).factors == [1.0, 0.5]


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_reset_makes_an_optimizer_as_new(precision):
    settings = default_config().optimizer
    settings.learning_rate, settings.layerwise_lr_decay = 0.01, 0.8
    variable = tf.Variable([1.0, 2.0])

    def build():
        optimizer = build_optimizer(settings, precision, [3], num_steps=10)
        optimizer.build([variable])
        return optimizer

    def state(optimizer):
        found = [value.numpy() for value in optimizer.variables]
        if precision == "mixed_float16":
            found += [optimizer.loss_scale.numpy(), optimizer.dynamic_counter.numpy()]
        return found

    used, new = build(), state(build())
    used.apply_gradients([(tf.constant([1.0, 1.0]), variable)])
    if precision == "mixed_float16":
        assert isinstance(used, tf_keras.mixed_precision.LossScaleOptimizer)
        used.apply_gradients([(tf.constant([np.inf, 1.0]), variable)])  # halves the scale
        assert used.loss_scale.numpy() == used.initial_scale / 2
    assert any(np.any(one != two) for one, two in zip(state(used), new, strict=True))
    reset(used)
    for one, two in zip(state(used), new, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_rate_rises_and_falls_to_nothing():
    settings = default_config().optimizer
    settings.learning_rate, settings.layerwise_lr_decay = 1.0, 0.5
    optimizer = build_optimizer(settings, "float32", [0, 2], num_steps=100)
    assert optimizer.factors == [0.25, 1.0]
    # The original's product of warm-up (the first tenth) and decay, after 1, 5, 10, 55 and 100 updates.
    rates = [float(optimizer._learning_rate(tf.constant(step - 1))) for step in (1, 5, 10, 55, 100)]
    assert rates == pytest.approx([0.1 * 0.99, 0.5 * 0.95, 0.9, 0.45, 0.0], abs=1e-6)


def test_several_workers_are_refused_before_they_are_waited_for(monkeypatch):
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(UserError, match="in one process, not in the 2 that TF_CONFIG names: start it once, without"):
        build_finetuning_runtime(default_config())
