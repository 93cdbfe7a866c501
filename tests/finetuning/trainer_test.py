import numpy as np
import pytest
import tensorflow as tf

from electra_cli.config.finetuning import fill_in
from electra_cli.finetuning import model as losses
from electra_cli.finetuning.base import Encoded
from electra_cli.finetuning.model import build_encoder
from electra_cli.finetuning.trainer import Trainer, compute_logits, shuffled_rows
from electra_cli.interop.starting_points import StartingPoint
from electra_cli.modeling import features
from electra_cli.modeling.sizes import EncoderSizes
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
    encoder = build_encoder(SIZES, hidden_dropout=0.0, attention_dropout=0.0, initializer_range=0.1)
    zeros = tf.zeros([1, 8], tf.int32)
    encoder({"input_word_ids": zeros, "input_mask": zeros + 1, "input_type_ids": zeros})
    return StartingPoint("a test", Network("discriminator", read_encoder(encoder), 2), is_random, 0.1, None)


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
    assert float(sums["weight"]) == float(losses.weight(kind, tf.constant(encoded.targets[rows])))
    assert np.any(model.head_output.kernel.numpy() != before)
    logits = made_trainer.logits(encoded)
    np.testing.assert_allclose(logits, model(encoded.features, training=False), atol=1e-5)
