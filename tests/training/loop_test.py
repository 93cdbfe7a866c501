import dataclasses
import json
import os
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf

from electra_cli import files
from electra_cli.config import default_config
from electra_cli.data.input_pipeline import reading
from electra_cli.data.source import DataSplit, RecordFormat
from electra_cli.data.vocabulary import Vocabulary
from electra_cli.errors import Interrupted, UserError
from electra_cli.interop.runs import load_run
from electra_cli.loggers.lines import Lines
from electra_cli.objectives.electra import ElectraObjective
from electra_cli.training import loop
from electra_cli.training.evaluation import Evaluator, format_table
from electra_cli.training.hooks import Hook
from electra_cli.training.run import TrainingRun, open_run
from electra_cli.training.watch import NonFiniteSteps
from electra_cli.workdir.run_files import read_config, read_metrics, read_record
from electra_cli.workdir.workdir import RunRecords, Workdir
from tests import conftest
from tests.conftest import MODERN, prepare_small
from tests.graphs import without_graphs

LIKE_A_PATTERN = "exp [1], ü"
NOT_REPRODUCIBLE = ("tokens_per_second", "model_flops_utilization", "input_wait_fraction")


def small_config(data_dir):
    """The small network, of one layer."""
    config = conftest.small_config(data_dir)
    config.model.num_layers = 1
    return config


@pytest.fixture
def config(data_dir):
    return small_config(data_dir)


def train(config, workdir, with_evaluation=True, lines=None, **more):
    """Trains and returns the lines that are logged, which `lines` has where an error ends the run."""
    lines = [] if lines is None else lines
    loop.train(config, str(workdir), with_evaluation=with_evaluation, logger=Lines(lines.append), **more)
    return lines


SPLITS = ("train", "validation")


def metrics_of(workdir):
    return [
        {name: value for name, value in line.items() if name not in NOT_REPRODUCIBLE}
        for line in read_metrics(str(workdir))
    ]


def events_of(workdir):
    return [json.loads(line) for line in (workdir / "events.jsonl").read_text().splitlines()]


def weights_of(workdir):
    path = tf.train.latest_checkpoint(os.path.join(workdir, "checkpoints"))
    reader = tf.train.load_checkpoint(path)
    return {
        name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")
    }


def assert_same_run(first, second):
    assert metrics_of(first) == metrics_of(second)
    expected, found = weights_of(first), weights_of(second)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if "save_counter" not in name:
            np.testing.assert_array_equal(value, found[name], err_msg=name)


def stop_at(monkeypatch, step):
    """Sends SIGTERM to this process as soon as `step` is computed."""
    check = NonFiniteSteps.after_update

    def check_and_stop(self, run, update):
        check(self, run, update)
        if run.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(NonFiniteSteps, "after_update", check_and_stop)


@pytest.fixture(scope="session")
def finished(data_dir, made_once):
    """A run of 12 steps with dropout, never stopped, and what it logged; a test that changes it takes a copy."""

    def fill(directory):
        (directory / "log").write_text("\n".join(train(small_config(data_dir), directory / "run")))

    directory = made_once("finished", fill)
    return directory / "run", (directory / "log").read_text().splitlines()


def test_a_run_writes_what_it_should(finished):
    workdir, lines = finished
    steps = {split: [line["step"] for line in metrics_of(workdir) if line["split"] == split] for split in SPLITS}
    assert steps == {"train": [2, 4, 6, 8, 10, 12], "validation": [6, 12]}
    record = json.loads((workdir / "config.json").read_text())
    assert record["config"]["derived"]["vocab_size"] == 160
    kept = sorted(path.name for path in (workdir / "checkpoints").glob("*.index"))
    assert kept == ["ckpt-12.index", "ckpt-4.index", "ckpt-8.index"]
    assert any((workdir / "tensorboard" / "validation").iterdir())
    assert [(event["event"], event["step"]) for event in events_of(workdir)] == [("start", 0), ("end", 12)]
    tokens = [line["real_tokens"] for line in metrics_of(workdir) if line["split"] == "train"]
    assert len(tokens) == 6 and all(0 < number <= 2 * 8 * 32 and number == int(number) for number in tokens)
    text = "\n".join(lines)
    assert "12 steps of 8 are" in text
    assert "unigram distribution" in text
    last = metrics_of(workdir)[-1]
    assert last["unigram_masked_lm_loss"] == pytest.approx(3.5, abs=0.4)
    assert {
        "rtd_auc",
        "masked_lm_loss",
        "rtd_precision",
        "replaced_fraction",
        "sampled_masked_lm_accuracy",
    } < last.keys()


def test_a_run_can_be_used_where_its_data_is_gone(finished, data_dir, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    assert (workdir / "vocab.txt").read_bytes() == (data_dir / "vocab.txt").read_bytes()
    record = json.loads((workdir / "config.json").read_text())
    assert record["tokenizer"] == {"lower_case": True}
    record["config"]["data"]["dir"], record["tokenizer"]["lower_case"] = str(tmp_path / "gone"), False
    (workdir / "config.json").write_text(json.dumps(record))
    tokenizer = load_run(str(workdir), notice=lambda _: None).tokenizer
    assert tokenizer.vocabulary == Vocabulary.from_file(str(data_dir / "vocab.txt")) and not tokenizer.rules.lower_case


def test_a_finished_run_says_so(finished, config, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    before = metrics_of(workdir)
    lines = train(config, workdir)
    assert "The run is complete: all 12 steps are done." in lines
    assert any("rtd_auc" in line for line in lines)
    assert metrics_of(workdir) == before


def test_a_run_that_resumes_within_its_last_evaluation_ends(finished, config, tmp_path, monkeypatch):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in read_metrics(str(workdir))[:-1])  # as it was before
    )
    (workdir / "events.jsonl").unlink()

    def stop_evaluating(self, before_batch, run=Evaluator.run):
        os.kill(os.getpid(), signal.SIGTERM)
        return run(self, before_batch)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="while evaluating step 12; saved"):
        patch.setattr(Evaluator, "run", stop_evaluating)
        train(config, workdir)
    train(config, workdir)
    assert [(event["event"], event["step"]) for event in events_of(workdir)] == [("stop", 12), ("end", 12)]
    assert_same_run(finished[0], workdir)


def test_weights_that_a_run_began_with_stay_recorded(finished, config, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    before = json.loads((workdir / "config.json").read_text())["config"]["init"]
    config.init.generator = "another"
    lines = train(config, workdir)
    assert (
        'Changed since the run began: init.generator: "" -> "another" (not read: the run resumes from its own '
        "checkpoint, if it has any)"
    ) in lines
    assert json.loads((workdir / "config.json").read_text())["config"]["init"] == before
    assert "Changed since the run began" not in "".join(train(small_config(config.data.dir), workdir))


def test_notes_on_the_config_are_not_repeated(config, tmp_path):
    config.train.num_steps, config.optimizer.warmup_steps = 4, 3
    config.train.checkpoint_interval, config.eval.interval = 2, 0
    notes = [[line for line in train(config, tmp_path / "run") if line.startswith("Note: ")] for _ in range(2)]
    assert len(notes[0]) == 1 and "more than half of the run" in notes[0][0] and notes[1] == []
    config.eval.num_samples = 1
    assert [line for line in train(config, tmp_path / "run") if line.startswith("Note: ")] == notes[0]


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_stopped_and_killed_and_started_again_equals_never_stopped(finished, data_dir, tmp_path, monkeypatch):
    """In directories whose path would be a pattern, and has characters beyond ASCII."""
    workdir = tmp_path / LIKE_A_PATTERN / "run"
    config = small_config(shutil.copytree(data_dir, tmp_path / LIKE_A_PATTERN / "data"))

    def stop_evaluating(self, before_batch, run=Evaluator.run):
        os.kill(os.getpid(), signal.SIGTERM)
        return run(self, before_batch)

    def kill(run, is_evaluation_due=TrainingRun.is_evaluation_due):
        if run.step == 10:
            raise Killed
        return is_evaluation_due(run)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="stopped by SIGTERM at step 6; saved"):
        stop_at(patch, 6)  # before the evaluation that is due
        train(config, workdir)
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="while evaluating step 6; saved"):
        patch.setattr(Evaluator, "run", stop_evaluating)
        train(config, workdir)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(TrainingRun, "is_evaluation_due", kill)
        train(config, workdir)
    assert metrics_of(workdir)[-1]["step"] == 10  # beyond the checkpoint of step 8
    with open(workdir / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 12, "spl')  # cut by the kill
    config.train.steps_per_loop = 1
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="stopped by SIGTERM at step 9; saved"):
        stop_at(patch, 9)  # within an interval of metrics
        train(config, workdir)
    assert (workdir / "checkpoints" / "ckpt-9.index").exists()
    assert "Resuming from step 9." in train(config, workdir)
    details = ("event", "step", "lost_step", "reason")
    assert [[event[name] for name in details if name in event] for event in events_of(workdir)] == [
        *(["start", 0, 0], ["stop", 6, "SIGTERM"]),
        *(["start", 6, 0], ["stop", 6, "SIGTERM"]),  # within the evaluation that was due
        ["start", 6, 0],  # killed
        *(["start", 8, 10], ["stop", 9, "SIGTERM"]),
        *(["start", 9, 0], ["end", 12]),
    ]
    assert_same_run(finished[0], shutil.copytree(workdir, tmp_path / "copy"))  # of a name TensorFlow can read
    lines = []
    loop.evaluate(config, str(workdir), logger=Lines(lines.append))
    assert lines[1].startswith("Held-out evaluation at step 12")
    with pytest.raises(UserError, match=r"--workdir=gs://bucket/exp \[1\]: TensorFlow takes \[\.\.\.\] and"):
        train(config, "gs://bucket/exp [1]")


def resumable(config):
    """Makes step 10 one that is saved and lies within an interval of metrics."""
    config.train.log_interval, config.train.checkpoint_interval, config.eval.interval = 4, 10, 0
    return config


def assert_resumes_to_the_bit(config, whole, workdir):
    """Checks that a `resumable` run that was killed between steps 10 and 12 equals one that never was."""
    shutil.copytree(whole, workdir)
    for file in (workdir / "checkpoints").glob("ckpt-12.*"):
        file.unlink()
    config.train.steps_per_loop = 1
    lines = train(config, workdir)
    assert "Resuming from step 10." in lines
    assert any(line.startswith("step 12/12  total_loss") for line in lines)
    assert_same_run(whole, workdir)


def mlm_config(data_dir):
    config = resumable(small_config(data_dir))
    config.objective.name, config.data.mask_token_prob, config.data.random_token_prob = "mlm", 0.8, 0.1
    return config


@pytest.fixture(scope="session")
def mlm(data_dir, made_once):
    """A run of BERT's objective, never stopped."""
    return made_once("mlm", lambda directory: train(mlm_config(data_dir), directory / "run")) / "run"


@pytest.mark.slow
def test_masked_language_modeling_resumes_to_the_bit(mlm, data_dir, tmp_path):
    assert_resumes_to_the_bit(mlm_config(data_dir), mlm, tmp_path / "run")
    assert not any("rtd_auc" in line for line in metrics_of(mlm))


@pytest.mark.slow
@without_graphs()
def test_a_frozen_generator_keeps_the_weights_of_another_run(mlm, data_dir, tmp_path):
    config = mlm_config(data_dir)
    config.objective.name, config.objective.frozen_generator = "electra", True
    config.model.embedding_sharing, config.optimizer.ema_decay = "gradient_disentangled", 0.9
    config.model.generator_hidden_size, config.model.generator_intermediate_size = 16, 32
    config.model.generator_num_attention_heads = 2
    with pytest.raises(UserError, match="its weights would stay random"):
        train(config, tmp_path / "whole")
    config.init.generator = str(mlm)
    train(config, tmp_path / "whole")
    old, new = (load_run(str(workdir), notice=lambda _: None) for workdir in (mlm, tmp_path / "whole"))
    pairs = zip(old.network("generator").weights.items(), new.network("generator").weights.items(), strict=True)
    for (name, value), (_, found) in pairs:
        np.testing.assert_array_equal(value, found, err_msg=name)
    lines = metrics_of(tmp_path / "whole")
    held_out = [[line["masked_lm_loss"] for line in each if line["split"] == "validation"][-1]
                for each in (metrics_of(mlm), lines)]  # fmt: skip
    assert held_out[0] == pytest.approx(held_out[1], rel=1e-5)
    trained = [line["rtd_loss"] for line in lines if line["split"] == "train"]
    assert trained[-1] < trained[0]
    config.init.generator = ""  # which a run that resumes does not need
    assert_resumes_to_the_bit(config, tmp_path / "whole", tmp_path / "run")
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["config"]["init"]
    assert recorded["generator"] == str(mlm)


@pytest.mark.slow
@without_graphs()
def test_modern_energies_resume_to_the_bit(config, tmp_path):
    config = resumable(config)
    config.update_from_flattened_dict({"objective.name": "electric", **MODERN, "model.remat": True})
    train(config, tmp_path / "whole")
    assert_resumes_to_the_bit(config, tmp_path / "whole", tmp_path / "run")
    assert "rtd_auc" in metrics_of(tmp_path / "run")[-2]


@pytest.mark.slow
@without_graphs()
def test_float16_and_values_that_change_resume_to_the_bit(config, tmp_path):
    config = resumable(config)
    config.update_from_flattened_dict({
        "runtime.precision": "mixed_float16",
        "optimizer.name": "adamw",
        "optimizer.ema_decay": 0.9,
        "train.gradient_accumulation_steps": 2,
        "data.mask_unit": "word",
        "data.max_ngram": 3,
        "model.embedding_sharing": "gradient_disentangled",
    })  # fmt: skip
    config.data.mask_prob, config.data.mask_prob_end = 0.3, 0.1
    config.objective.sampling_temperature, config.objective.sampling_temperature_end = 2.0, 0.5
    config.objective.generator_loss_weight_end, config.objective.discriminator_loss_weight_end = 0.0, 10.0
    train(config, tmp_path / "whole")
    assert_resumes_to_the_bit(config, tmp_path / "whole", tmp_path / "run")
    *trained, evaluated = metrics_of(tmp_path / "whole")
    begins_and_ends = {
        "mask_prob": (0.3, 0.1), "sampling_temperature": (2.0, 0.5),
        "generator_loss_weight": (1.0, 0.0), "discriminator_loss_weight": (50.0, 10.0),
    }  # fmt: skip
    for name, (begin, end) in begins_and_ends.items():
        expected = [begin + (end - begin) * (line["step"] - 1) / 11 for line in trained]
        assert [line[name] for line in trained] == pytest.approx(expected, rel=1e-5, abs=1e-7), name
    assert not begins_and_ends.keys() & evaluated.keys()  # made with the values of the first step
    expected = evaluated["masked_lm_loss"] + 50 * evaluated["rtd_loss"]
    assert evaluated["total_loss"] == pytest.approx(expected, rel=1e-6)
    assert sum(line["skipped_updates"] for line in trained[:2]) < 8  # the scale of the loss is found by step 8
    assert "loss_scale" in trained[-1] and "rtd_auc" in trained[-1]


def test_eval_mode_evaluates_the_newest_checkpoint(finished, config):
    workdir, _ = finished
    before = {path: path.stat().st_mtime for path in workdir.rglob("*")}
    lines = []
    result = loop.evaluate(config, str(workdir), Lines(lines.append))
    expected = {name: value for name, value in metrics_of(workdir)[-1].items() if name not in ("step", "split")}
    assert result == pytest.approx(expected, rel=1e-6)
    assert "Held-out evaluation at step 12 on 20 examples" in lines[-1]
    assert {path: path.stat().st_mtime for path in workdir.rglob("*")} == before


def test_bad_workdirs(finished, config, tmp_path, corpus_file):
    with pytest.raises(UserError, match="holds no checkpoint; train first"):
        loop.evaluate(config, str(tmp_path))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        train(config, tmp_path / "file" / "run")
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    config.train.seed = 5
    with pytest.raises(UserError, match=r"holds a run of another config: train\.seed: 0 -> 5; give the old values"):
        train(config, workdir)
    config.train.seed = 0
    config.data.dir = str(prepare_small(corpus_file, tmp_path / "other", seed=1)[0])
    with pytest.raises(UserError, match="holds a run on other data"):
        train(config, workdir)
    with Workdir(str(tmp_path / "held")), pytest.raises(UserError, match="another process trains here"):
        train(config, tmp_path / "held")


def test_a_finished_run_is_evaluated_anew_on_another_number_of_examples(finished, config, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    config.eval.num_examples = 12
    assert "Held-out evaluation at step 12 on 12 examples" in train(config, workdir)[-2]
    assert [line["num_examples"] for line in metrics_of(workdir) if line["split"] == "validation"] == [20, 20, 12]


def test_harmless_changes_are_named(finished, config, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    record = json.loads((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps({**record, "devices": "8 GPUs"}))
    config.train.checkpoint_interval = 6
    lines = train(config, workdir, with_evaluation=False)
    interval, devices = (line for line in lines if line.startswith("Changed since the run began"))
    assert interval == "Changed since the run began: train.checkpoint_interval: 4 -> 6"
    assert devices.startswith("Changed since the run began: devices: 8 GPUs -> CPU: each step keeps its examples")
    assert not any("Changed" in line for line in train(config, workdir, with_evaluation=False))


def test_a_damaged_config_is_named(config, tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        train(config, tmp_path)


def test_metrics_that_cannot_be_written_are_told_in_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(files, "open_file", full)
    with pytest.raises(UserError, match=r"metrics of step 8 could not be written to .* \(No space left .*make room"):
        RunRecords(str(tmp_path)).metrics("train", 8, {"total_loss": 1.0}, "")


def test_validation_that_will_not_do(config, corpus_file, tmp_path):
    config.data.dir = str(prepare_small(corpus_file, tmp_path / "data", validation_fraction=0.0)[0])
    with pytest.raises(UserError, match="has no validation examples"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_infinite_loss_ends_the_run_before_it_is_saved(config, tmp_path):
    config.optimizer.learning_rate = 1e30
    config.train.log_interval, config.train.checkpoint_interval = 12, 2
    config.optimizer.warmup_steps = 0
    with pytest.raises(
        UserError, match=r"step 2: the loss or gradient of replica 0 is .*lower config\.optimizer\.learn"
    ):
        train(config, tmp_path, with_evaluation=False)
    assert tf.train.latest_checkpoint(str(tmp_path / "checkpoints")) is None


@pytest.mark.slow
def test_a_shard_that_is_damaged_is_named(finished, config, data_dir, tmp_path):
    """In a run that begins with a checkpoint, both in directories whose path would be a pattern."""
    data = shutil.copytree(data_dir, tmp_path / LIKE_A_PATTERN / "data")
    start = shutil.copytree(finished[0], tmp_path / LIKE_A_PATTERN / "start")
    shard = next(data.glob("train-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    config.data.dir = str(data)
    lines = []
    with pytest.raises(UserError, match=r"reading .* failed between steps 0 and 1: .*prepare the data again"):
        train(config, tmp_path / "run", lines=lines, checkpoint=str(start))
    assert any(f"from the weights of {start}/checkpoints/ckpt-12" in line for line in lines)


def test_only_errors_of_reading_are_told_as_damage():
    split = DataSplit((), (), "", RecordFormat.ELECTRA_PRETRAIN)
    for error in (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.DataLossError):
        with pytest.raises(error), reading("data", "in a test", split):
            raise error(None, None, "No algorithm worked!")  # as a GPU says of a product
    dataset = tf.data.Dataset.from_tensors(b"no example").map(
        lambda x: tf.io.parse_example([x], {"a": tf.io.RaggedFeature(tf.int64)})
    )
    with pytest.raises(UserError, match="reading data failed in a test"), reading("data", "in a test", split):
        next(iter(dataset))


@pytest.mark.slow
def test_the_model_learns_to_tell_replaced_tokens(config, tmp_path):
    config.train.num_steps, config.train.global_batch_size = 400, 32
    config.train.steps_per_loop, config.train.log_interval, config.train.checkpoint_interval = 50, 100, 400
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 3e-3, 50
    config.model.num_layers, config.model.initializer_range = 2, 0.1
    config.model.hidden_dropout = config.model.attention_dropout = 0.0
    config.model.hidden_size, config.model.intermediate_size, config.model.embedding_size = 32, 64, 32
    config.eval.interval, config.eval.num_examples = 0, 0
    train(config, tmp_path)
    last = metrics_of(tmp_path)[-1]
    assert last["masked_lm_loss"] < last["unigram_masked_lm_loss"] - 0.8
    assert last["rtd_auc"] > 0.65


@pytest.mark.slow
def test_evaluation_uses_the_average_and_training_does_not(finished, config, tmp_path):
    config.optimizer.ema_decay = 0.99
    train(config, tmp_path)
    plain, averaged = metrics_of(finished[0]), metrics_of(tmp_path)
    for first, second in zip(plain, averaged, strict=True):
        assert (first == second) == (first["split"] == "train")


def test_table_without_a_baseline():
    table = format_table(
        ElectraObjective(default_config()),
        {"masked_lm_loss": 1.0, "replaced_fraction": 0.1, "rtd_accuracy": 0.95, "num_examples": 20},
        7,
    )
    assert "unigram" not in table
    assert "0.9000  calling every token original" in table


class LosesWorker(Hook):
    """Fails as a sum over replicas does whose other worker was killed."""

    def evaluate(self, run):
        raise tf.errors.UnavailableError(None, None, "Connection reset by /job:worker/replica:0/task:1")


def test_a_worker_that_is_lost_while_others_evaluate_is_named(finished, monkeypatch):
    workdir, _ = finished
    config = read_config(read_record(str(workdir)), "config.json")

    def open_two(*arguments, **more):
        runtime, *rest = open_run(*arguments, **more)
        return dataclasses.replace(runtime, num_workers=2), *rest

    monkeypatch.setattr(loop, "open_run", open_two)
    with pytest.raises(Interrupted) as error:
        loop.evaluate(config, str(workdir), Lines(lambda _: None), hooks=[LosesWorker()])
    assert str(error.value) == (
        "worker 0 lost worker 1, which was killed or cannot be reached; start all 2 again: they resume from the newest "
        "checkpoint"
    )
