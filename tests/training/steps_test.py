"""Compiled steps: XLA, accumulation, loss scaling, clipping, and that a model learns in every precision."""

import time

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from electra_cli.config.resolution import resolve
from electra_cli.data.input_pipeline import training_dataset
from electra_cli.data.masking import masking_settings
from electra_cli.data.source import open_data
from electra_cli.objectives.base import objective_of
from electra_cli.training import run
from electra_cli.training.distribution import build_runtime
from electra_cli.training.steps import (
    _add_apart,
    build_eval_step,
    build_gradients,
    build_train_steps,
    replica_dropout_seed,
)
from tests.conftest import MODERN, prepare_small, small_config
from tests.graphs import without_graphs

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def restore_policy():
    yield
    tf_keras.mixed_precision.set_global_policy("float32")


@pytest.fixture
def config(config):
    """The small network, of one layer."""
    config.model.num_layers = 1
    return config


class Steps:
    """A model on prepared data, with its steps."""

    def __init__(self, config, **overrides):
        config = config.copy_and_resolve_references()
        config.update_from_flattened_dict(overrides)
        self.source = open_data(config.data.dir, config.data.max_seq_length)
        self.config = resolve(config, self.source.vocabulary.size)
        train = self.config.train
        batches = [(train.global_batch_size, train.gradient_accumulation_steps)]
        self.runtime = build_runtime(self.config.runtime, batches)
        self.model, self.optimizer = run.build_model(self.config, self.runtime)
        self.train_steps = build_train_steps(self.model, self.optimizer, self.runtime, self.config)

    def dataset(self):
        return training_dataset(
            self.source.train,
            masking_settings(self.config, self.source),
            pad_id=0,
            max_seq_length=self.config.data.max_seq_length,
            global_batch_size=self.config.train.global_batch_size,
            seed=0,
            start_step=0,
        )

    def run(self, num_steps, dataset=None):
        batches = iter(self.dataset() if dataset is None else dataset)
        first = self.optimizer.iterations.numpy()
        sums = self.train_steps(batches, tf.constant(first, tf.int64), tf.constant(num_steps, tf.int64))
        return {name: value.numpy() for name, value in sums.items()}


def losses(steps, sums):
    return objective_of(steps.config).summarize(sums)


SCHEDULES = {
    "data.mask_prob_end": 0.3,
    "objective.sampling_temperature_end": 0.5,
    "objective.generator_loss_weight_end": 2.0,
    "objective.discriminator_loss_weight_end": 10.0,
    "train.value_schedule": "cosine",
}
NO_DROPOUT = {"model.hidden_dropout": 0.0, "model.attention_dropout": 0.0}


@pytest.fixture(scope="session")
def packed(corpus_file, made_once):
    """Prepared data whose examples have several documents."""
    settings = {"packing": "full", "document_separator": "line"}
    return made_once("packed", lambda root: prepare_small(corpus_file, root / "data", **settings)) / "data"


COMPILED = {"runtime.jit_compile": "true"}
IN_BLOCKS = {"runtime.attention": "blockwise"}


@pytest.mark.parametrize(
    ("is_packed", "overrides", "variants"),
    [
        (False, {"model.embedding_sharing": "word"}, [COMPILED, {}]),
        (
            True,
            {
                **MODERN,
                "optimizer.name": "lamb",
                "optimizer.schedule": "cosine",
                "optimizer.ema_decay": 0.9,
                "train.gradient_accumulation_steps": 2,
                "model.embedding_sharing": "gradient_disentangled",
                "objective.disallow_correct": True,
                "data.mask_unit": "word",
                **SCHEDULES,
            },
            [COMPILED],
        ),
        (True, {"model.embedding_sharing": "none", "objective.frozen_generator": True}, [{**COMPILED, **IN_BLOCKS}]),
        (
            False,
            {
                **MODERN,
                "model.num_layers": 2,  # of which the second has a window
                "objective.name": "mlm",
                "optimizer.name": "adamw",
                "optimizer.schedule": "warmup_stable_decay",
                "train.gradient_accumulation_steps": 2,
            },
            [{**COMPILED, **IN_BLOCKS}, IN_BLOCKS],
        ),
    ],
    ids=["electra", "modern", "frozen", "modern mlm"],
)
def test_steps_agree_however_they_are_compiled(request, config, is_packed, overrides, variants):
    """By XLA as a whole, with attention in blocks, or not at all: with dropout, whose decisions are the same."""
    if is_packed:
        config.data.dir = str(request.getfixturevalue("packed"))
    config.train.num_steps = 3
    config.update_from_flattened_dict(overrides)
    plain = Steps(config, **{"runtime.attention": "full"})
    assert plain.config.model.attention_dropout > 0
    batch = next(iter(plain.dataset()))
    assert ("document_ids" in batch) == is_packed
    baseline = np.full(plain.source.vocabulary.size, -3.0, np.float32)

    def evaluate(steps):
        return build_eval_step(steps.model, steps.runtime, steps.config, baseline)(batch)

    with without_graphs():
        expected, expected_sums = losses(plain, plain.run(3)), evaluate(plain)
    for variant in variants:
        steps = Steps(config, **variant)
        found = losses(steps, steps.run(3))
        for name in (name for name in expected if name.endswith("loss")):
            assert found[name] == pytest.approx(expected[name], rel=1e-5), (variant, name)
        for first, second in zip(steps.model.get_weights(), plain.model.get_weights(), strict=True):
            np.testing.assert_allclose(first, second, atol=1e-4)
        sums = evaluate(steps)
        assert sums.keys() == {*objective_of(plain.config).sum_shapes(), "unigram_loss"}
        for name in (name for name in sums if name.endswith("loss")):
            assert float(sums[name]) == pytest.approx(float(expected_sums[name]), rel=1e-3), (variant, name)
        assert float(sums["unigram_loss"]) == pytest.approx(3.0 * float(sums["masked_lm_weight"]), rel=1e-6)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"objective.tied_generator": True, "objective.generator_loss_weight": 2.0},
        {"objective.uniform_generator": True},
        {"objective.frozen_generator": True, "model.embedding_sharing": "none"},
        {"objective.name": "electric"},
        {"objective.name": "teams", "model.num_layers": 2},
        {"objective.name": "mlm"},
    ],
    ids=lambda overrides: "_".join(map(str, overrides.values())) or "electra",
)
def test_gradients_that_are_taken_network_by_network_are_those_of_the_loss(config, overrides):
    steps = Steps(config, **overrides)
    objective, variables = objective_of(steps.config), steps.model.trainable_variables
    batch = next(iter(steps.dataset()))
    weights, step = objective.batch_weights(batch), tf.constant(5, tf.int64)
    gradients, sums = build_gradients(steps.model, steps.optimizer, steps.config)(batch, weights, step, 0)
    with tf.GradientTape() as tape:
        outputs = steps.model(batch, training=True, seed=replica_dropout_seed(steps.config.train.seed, step, 0))
        loss, expected = objective.loss_and_sums(batch, outputs, weights)
    for gradient, whole in zip(gradients, tape.gradient(loss, variables), strict=True):
        np.testing.assert_allclose(gradient, tf.convert_to_tensor(whole), rtol=1e-5, atol=1e-6)
    assert sums.keys() == objective.sum_shapes().keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(sums[name], value)


@pytest.mark.parametrize(("name", "num_barriers"), [("electra", 1), ("electric", 1), ("teams", 1), ("mlm", 0)])
def test_the_discriminator_runs_after_the_generators_gradients(config, name, num_barriers):
    steps = Steps(config, **{"objective.name": name, "model.num_layers": 2, **COMPILED})
    hlo = steps.train_steps.to_hlo(next(iter(steps.dataset())), tf.constant(0, tf.int64))
    assert hlo.count(b"opt-barrier") == 2 * num_barriers  # its name and what it is


def test_four_parts_of_8_equal_32(config):
    config.update_from_flattened_dict(NO_DROPOUT)
    config.train.global_batch_size = 32
    whole, parts = Steps(config), Steps(config, **{"train.gradient_accumulation_steps": 4})
    with without_graphs():
        expected = whole.run(3)
    found = parts.run(3)
    assert expected["masked_lm_weight"] == found["masked_lm_weight"]
    for name in ("masked_lm_loss", "rtd_loss", "gradient_norm"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    for first, second in zip(parts.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_allclose(first, second, atol=2e-6)


def test_clipping_bounds_the_update(config):
    config.optimizer.clip_norm = 1e-12
    config.optimizer.weight_decay_rate = 0.0
    config.optimizer.warmup_steps = 0
    steps = Steps(config)
    before = steps.model.get_weights()
    with without_graphs():
        assert steps.run(1)["num_updates"] == 1.0
    pairs = zip(steps.model.get_weights(), before, strict=True)
    assert max(np.abs(first - second).max() for first, second in pairs) < 1e-6


def test_a_gradient_that_overflows_is_left_out_and_the_scale_halved(config):
    steps = Steps(config, **{"runtime.precision": "mixed_float16"})
    before = steps.model.get_weights()
    scale = steps.optimizer._loss_scale  # what a run of thousands of good steps would have come to
    scale._current_loss_scale.assign(2.0**120)
    sums = steps.run(1)
    assert (sums["num_steps"], sums["num_updates"], sums["gradient_norm"]) == (1.0, 0.0, 0.0)
    assert np.isfinite(sums["masked_lm_loss"])
    assert int(steps.optimizer.iterations) == 1
    assert float(steps.optimizer.loss_scale) == 2.0**119
    for first, second in zip(before, steps.model.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)
    scale._current_loss_scale.assign(2.0**10)
    sums = steps.run(2)
    assert sums["num_updates"] == 2.0
    assert 0 < sums["gradient_norm"] < 1e3
    assert any((first != second).any() for first, second in zip(before, steps.model.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("precision", "overrides"), [("float32", {}), ("mixed_float16", {}), ("mixed_bfloat16", MODERN)]
)
def test_150_steps_learn_one_batch_by_heart(config, precision, overrides):
    config.update_from_flattened_dict(
        {
            **overrides,
            **NO_DROPOUT,
            "runtime.precision": precision,
            "model.num_layers": 2,
            "model.hidden_size": 32,
            "model.intermediate_size": 64,
            "model.embedding_size": 32,
            "model.generator_size": 1.0,
            "model.initializer_range": 0.1,
            "optimizer.learning_rate": 1e-2,
            "optimizer.warmup_steps": 20,
            "optimizer.beta_2": 0.98,
            "train.num_steps": 150,
            "train.global_batch_size": 2,
            "data.mask_token_prob": 1.0,
        }
    )
    steps = Steps(config)
    dataset = steps.dataset().take(1).cache().repeat()
    steps.run(140, dataset)
    result = losses(steps, steps.run(10, dataset))
    assert result["masked_lm_loss"] < 0.1
    assert result["rtd_accuracy"] > 0.99
    assert {variable.dtype for variable in steps.model.trainable_variables} == {tf.float32}


@pytest.fixture(scope="module")
def steps(data_dir):
    """Steps of the small network, whatever its weights."""
    config = small_config(data_dir)
    config.model.num_layers = 1
    return Steps(config)


def test_waiting_for_batches_is_measured(steps):
    ready = steps.dataset().take(1).cache().repeat()
    steps.run(1, ready)
    little = steps.run(3, ready)["input_wait_seconds"]

    def wait():
        time.sleep(0.6)
        return np.int64(0)

    ticks = tf.data.Dataset.from_generator(
        lambda: (wait() for _ in range(9)), output_signature=tf.TensorSpec([], tf.int64)
    )
    slow = tf.data.Dataset.zip(ticks, ready).map(lambda _, batch: batch)
    start = time.monotonic()
    much = steps.run(3, slow)["input_wait_seconds"]
    assert 1.0 < much < time.monotonic() - start
    assert little < 0.4 * much


def test_batches_with_little_or_nothing_to_mask(steps):
    batch = {name: value.numpy() for name, value in next(iter(steps.dataset())).items()}
    batch["masked_lm_weights"] = np.zeros_like(batch["masked_lm_weights"])
    for tokens in range(4):
        mask = (np.arange(steps.config.data.max_seq_length) < tokens).astype(np.int32)
        batch["input_mask"] = np.broadcast_to(mask, batch["input_mask"].shape)
        if tokens == 3:  # [CLS] x [SEP]
            batch["masked_lm_weights"][:, 0] = 1.0
            batch["masked_lm_positions"][:, 0] = 1
        sums = steps.run(1, tf.data.Dataset.from_tensors(batch))
        assert sums["real_tokens"] == 8 * tokens
        assert sums["masked_lm_weight"] == (8 if tokens == 3 else 0)
        assert all(np.isfinite(value).all() for value in (*sums.values(), *steps.model.get_weights()))
        assert (losses(steps, sums)["total_loss"] > 0) == (tokens > 0)


def test_bfloat16_loses_at_most_1_percent_in_300_steps(config):
    """Over new batches with dropout, as a run sees them."""
    flat = {"train.num_steps": 300, "optimizer.learning_rate": 1e-3, "optimizer.warmup_steps": 30}
    flat |= {"model.hidden_size": 64, "model.intermediate_size": 128, "model.embedding_size": 64}
    found = {}
    for precision in ("float32", "mixed_bfloat16"):
        steps = Steps(config, **flat, **{"runtime.precision": precision})
        batches = steps.dataset().take(300).cache()
        start = losses(steps, steps.run(10, batches))
        steps.run(240, batches.skip(10))
        found[precision] = losses(steps, steps.run(50, batches.skip(250)))
        assert found[precision]["masked_lm_loss"] < 0.95 * start["masked_lm_loss"]
    for name in ("total_loss", "masked_lm_loss", "rtd_loss"):
        # Below it may be by more: 300 steps apart, two runs differ by chance and by processor.
        assert found["mixed_bfloat16"][name] < 1.01 * found["float32"][name]


def test_sums_of_parts_are_kept_apart_from_their_terms():
    """Or TensorFlow's optimizer of graphs joins them with temporary variables, which fail in a loop over parts."""
    first, second = [tf.constant([1.0, 2.0]), tf.constant(3.0)], [tf.constant([4.0, 5.0]), tf.constant(6.0)]
    total = _add_apart(first, second)
    assert [value.numpy().tolist() for value in total] == [[5.0, 7.0], 9.0]

    @tf.function
    def add():
        return _add_apart([tf.sqrt(first[0])], [tf.square(second[0]) + tf.square(first[0])])

    calls = [op for op in add.get_concrete_function().graph.get_operations() if op.type == "PartitionedCall"]
    (name,) = {op.get_attr("f").name for op in calls}
    definition = add.get_concrete_function().graph._get_function(name).cached_definition
    assert definition.attr["_noinline"].b
