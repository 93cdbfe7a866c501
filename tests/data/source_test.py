"""Phases of one run: what follows from `config.phases`, and that a run through them is what its parts are."""

import numpy as np
import pytest
import tensorflow as tf

from electra_cli.config.resolution import check, divide, resolve
from electra_cli.data import input_pipeline
from electra_cli.data.source import describe_epochs, describe_repetition, phase_at, read_run
from electra_cli.errors import Interrupted, UserError
from electra_cli.training.optimization import build_optimizer
from tests.conftest import SEQ_LENGTH, VOCAB_SIZE, prepare_small
from tests.graphs import without_graphs
from tests.training.loop_test import assert_same_run, metrics_of, stop_at, train
from tests.training.survival_test import tiny_config


@pytest.fixture(scope="session")
def long_data_dir(corpus_file, data_dir, tmp_path_factory):
    """The same text and vocabulary in examples of twice the length."""
    output = tmp_path_factory.mktemp("long") / "data"
    return prepare_small(corpus_file, output, max_seq_length=2 * SEQ_LENGTH, vocab_file=data_dir / "vocab.txt")[0]


@pytest.fixture
def config(data_dir, long_data_dir):
    """Four steps of 8 short examples, then two of 4 long ones."""
    config = tiny_config(data_dir)
    config.model.max_position_embeddings = 2 * SEQ_LENGTH
    config.train.log_interval = config.train.checkpoint_interval = 2
    config.phases.num_steps = (4, 2)
    config.phases.data_dir = (str(data_dir), str(long_data_dir))
    config.phases.max_seq_length = (SEQ_LENGTH, 2 * SEQ_LENGTH)
    config.phases.global_batch_size = (8, 4)
    config.phases.learning_rate = (5e-3, 1e-3)
    return config


def test_each_phase_has_its_own_values(config, data_dir, long_data_dir):
    run = read_run(config)
    first, second = run.phases
    assert run.resolved.derived.vocab_size == VOCAB_SIZE
    assert (first.begin, first.end, second.begin, second.end) == (0, 4, 4, 6)
    assert [phase.source.data_dir for phase in (first, second)] == [str(data_dir), str(long_data_dir)]
    assert [phase.config.train.global_batch_size for phase in (first, second)] == [8, 4]
    # (0.15 + 0.005) x length, rounded down
    assert [phase.masking.max_predictions_per_seq for phase in (first, second)] == [4, 9]
    assert [phase_at([first, second], step).number for step in (1, 4, 5, 6)] == [0, 0, 1, 1]


def test_the_learning_rate_of_a_phase_scales_the_one_schedule(config):
    config.optimizer.warmup_steps = 0
    schedule = build_optimizer(resolve(config, VOCAB_SIZE))._learning_rate
    rates = [float(build_rate(schedule, step)) for step in range(6)]
    decay = [1 - step / 6 for step in range(1, 7)]
    np.testing.assert_allclose(rates, np.array([5e-3] * 4 + [1e-3] * 2) * decay, rtol=1e-6)


def build_rate(schedule, step):
    return schedule(tf.constant(step, tf.int64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases.num_steps": (4, 3)}, r"are 7 steps together but config\.train\.num_steps=6: set that to 7"),
        ({"phases.num_steps": (4, 0, 2)}, "give the steps of each phase, 1 or more"),
        ({"phases.max_seq_length": (32,)}, r"1 values for 2 phases \(config\.phases\.num_steps\); give one for each"),
        ({"phases.global_batch_size": (8, "4")}, r"config\.phases\.global_batch_size=.*: give a value of type int"),
        ({"phases.max_seq_length": (32, 128)}, r"in phase 2 of 2 \(config\.phases\), config\.data\.max_seq_length=128"),
        ({"phases.global_batch_size": (8, 5), "train.gradient_accumulation_steps": 2}, "in phase 2 of 2"),
    ],
)  # fmt: skip
def test_phases_that_do_not_fit_are_named(config, changes, message):
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        check(config)


def test_phases_need_one_vocabulary(config, corpus_file, tmp_path, data_dir):
    other = prepare_small(corpus_file, tmp_path / "other", max_seq_length=2 * SEQ_LENGTH, lower_case=False)[0]
    config.phases.data_dir = (str(data_dir), str(other))
    with pytest.raises(UserError, match="have different vocabularies: prepare the data of all phases with the same"):
        read_run(config)


def test_a_command_line_gives_directories_without_quotes(config):
    config.phases.data_dir = ("first,second",)
    assert [phase.config.data.dir for phase in divide(config)] == ["first", "second"]


@pytest.mark.slow
@without_graphs()
def test_a_run_of_two_phases_stops_and_goes_on_to_the_bit(config, tmp_path, monkeypatch):
    lines = train(config, tmp_path / "whole")
    text = "\n".join(lines)
    assert "Phase 1 of 2, to step 4. Data: " in text and "examples of 32 tokens; 4 steps of 8 are" in text
    assert "Phase 2 of 2, to step 6. Data: " in text and "examples of 64 tokens; 2 steps of 4 are" in text
    found = [(line["split"], line["step"], line["phase"]) for line in metrics_of(tmp_path / "whole")]
    assert found == [("train", 2, 1), ("train", 4, 1), ("validation", 4, 1), ("train", 6, 2), ("validation", 6, 2)]
    for step in (4, 5):
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(Interrupted, match=f"step {step}"):
                train(config, tmp_path / "run")
    train(config, tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
@without_graphs()
def test_the_steps_of_a_phase_are_those_of_a_run_on_its_data(config, data_dir, tmp_path, monkeypatch):
    """The first phase is the run without a second; the second begins with the first examples of its data."""
    train(config, tmp_path / "both", with_evaluation=False)
    seen = []
    dataset = input_pipeline.training_dataset

    def remember(*arguments, start_step, first_step, **more):
        seen.append((more["max_seq_length"], start_step - first_step))
        return dataset(*arguments, start_step=start_step, first_step=first_step, **more)

    monkeypatch.setattr(input_pipeline, "training_dataset", remember)
    alone = tiny_config(data_dir)
    alone.model.max_position_embeddings = 2 * SEQ_LENGTH
    alone.optimizer.learning_rate = 5e-3
    train(alone, tmp_path / "alone", with_evaluation=False)
    first = [{k: v for k, v in line.items() if k != "phase"} for line in metrics_of(tmp_path / "both")]
    assert first[:2] == metrics_of(tmp_path / "alone")[:2]
    train(config, tmp_path / "again", with_evaluation=False)
    assert seen == [(32, 0), (32, 0), (64, 0)]


@pytest.mark.parametrize(
    ("num_epochs", "text"),
    [
        (0.00123, "0.00123 epochs"),
        (1.1875, "1.19 epochs"),
        (99.4, "99.4 epochs"),
        (100, "100 epochs"),
        (3958.2, "3,958 epochs"),
    ],
)
def test_epochs_as_people_read_them(num_epochs, text):
    assert describe_epochs(num_epochs) == text


def test_text_that_is_repeated_too_often():
    assert describe_repetition(40) == ""
    assert describe_repetition(41).startswith("Each pass over the same text teaches less than the one before: more")
