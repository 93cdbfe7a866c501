"""Whole fine-tunings on made sets: what is learned, stopped and started again, and what is not done twice."""

import itertools
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from electra_cli.errors import Interrupted, UserError
from electra_cli.finetuning import finetune as finetune_module
from electra_cli.finetuning import seed_run
from electra_cli.finetuning.finetune import finetune, format_scores
from electra_cli.finetuning.question_answering import QuestionAnswering
from electra_cli.finetuning.sentences import Classification
from electra_cli.loggers.lines import JsonLines, Lines, Quiet
from electra_cli.loggers.logger import Logger
from electra_cli.training import throughput
from electra_cli.training.stopping import StopRequest
from electra_cli.workdir.checkpoint_files import CheckpointFiles, has_optimizer
from electra_cli.workdir.workdir import RunRecords
from tests import forking
from tests.finetuning import synthetic
from tests.graphs import without_graphs
from tests.terminal import Terminal

LEARNED = {"classification": "accuracy", "regression": "spearman", "tagging": "f1", "question_answering": "exact_match"}


@pytest.mark.parametrize(
    "kind", ["classification", *(pytest.param(kind, marks=pytest.mark.slow) for kind in list(synthetic.MAKERS)[1:])]
)
def test_a_function_of_the_words_is_learned(kind, tmp_path, encoder):
    files = synthetic.write(kind, tmp_path)
    summary = finetune(
        synthetic.config_for(kind, files),
        str(tmp_path / "tuned"),
        synthetic.start_from("random", like=encoder),
        Logger(),
    )
    assert summary["splits"]["validation"]["median"][LEARNED[kind]] > 0.98
    assert summary["task"] == kind and summary["seeds"] == [0]
    lines = [json.loads(line) for line in (tmp_path / "tuned/seed-0/metrics.jsonl").read_text().splitlines()]
    last = lines[-2]
    assert last["split"] == "validation"
    assert {name: last[name] for name in summary["splits"]["validation"]["median"]} == pytest.approx(
        summary["splits"]["validation"]["median"]
    )
    assert lines[-1]["split"] == "train" and lines[-1]["loss"] < lines[1]["loss"]


class StopAt(StopRequest):
    """Is stopped when it is asked for the n-th time: after each step, and before each batch of predictions."""

    def __init__(self, number):
        self._left = number
        super().__init__()
        self.name = "a test"

    @property
    def requested(self):
        self._left -= 1
        return self._left < 0

    @requested.setter
    def requested(self, _):
        pass


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return synthetic.write("classification", tmp_path_factory.mktemp("made"), 64, 20)


@pytest.fixture(scope="module")
def short(files, encoder, shared_trainer):
    """Fine-tunes briefly: (workdir, stop after so many questions, overrides) in, summary out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput, "_SECONDS_AT_ONCE", 0.0)  # one step a call

        def run(workdir, stop_at=10_000, logger=None, **overrides):
            patch.setattr(finetune_module, "StopRequest", lambda: StopAt(stop_at))
            more = {key.replace("__", "."): value for key, value in overrides.items()}
            config = synthetic.config_for("classification", files, **{**synthetic.SHORT, **more})
            return finetune(config, str(workdir), synthetic.start_from(encoder), logger or Logger())

        yield run


@pytest.fixture(scope="module")
def whole(short, tmp_path_factory):
    """A workdir of a fine-tuning that was never stopped, with its summary."""
    workdir = tmp_path_factory.mktemp("never_stopped") / "whole"
    summary = short(workdir)
    return workdir, summary


def contents(directory: pathlib.Path) -> dict[str, bytes]:
    """All that a fine-tuning leaves, checkpoints as arrays; TensorBoard's files hold times."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_dir() or "tensorboard" in name or name.endswith((".lock", "checkpoint")):
            continue
        if ".data-" in name:
            reader = tf.train.load_checkpoint(str(path).split(".data-")[0])
            shapes = reader.get_variable_to_shape_map()
            found[name] = b"".join(reader.get_tensor(key).tobytes() for key in sorted(shapes) if "/.ATTR" in key)
        elif not name.endswith(".index"):
            found[name] = path.read_bytes()
    return found


# Questions of an epoch: 7 steps, 3 batches of its evaluation and the 8th step. Then 3 batches of predictions.
@pytest.mark.parametrize(
    "stops", [(3, 8), *(pytest.param(stops, marks=pytest.mark.slow) for stops in ((9,), (21, 0), (24,)))]
)
def test_stopped_and_started_again_is_as_never_stopped(tmp_path, short, whole, stops):
    workdir, summary = whole
    for stop_at in stops:
        with pytest.raises(Interrupted, match=r"stopped by a test at step \d+ of seed 0; saved: the same command"):
            short(tmp_path / "stopped", stop_at)
        with pytest.raises(Interrupted):
            short(tmp_path / "other", 2, train__seeds=(stop_at + 5,))  # leaves its state in the trainer
    told = []
    assert short(tmp_path / "stopped", logger=Lines(told.append)) == summary
    assert any(line.startswith("seed 0: resuming from step") for line in told)
    expected = contents(workdir)
    assert contents(tmp_path / "stopped") == expected
    assert {"seed-0/metrics.jsonl", "seed-0/predictions-validation.jsonl", "seed-0/scores.json"} <= set(expected)


class Killed(BaseException):
    """Ends a fine-tuning as a kill does, at once."""


def kill_at(monkeypatch, owner, name, number, *, after):
    """Kills before or after the n-th call of a function."""
    original, calls = getattr(owner, name), []

    def killing(*args):
        calls.append(1)
        if after:
            original(*args)
        if len(calls) == number:
            raise Killed
        if not after:
            original(*args)

    monkeypatch.setattr(owner, name, killing)
    return original


# Of an epoch: the metrics of validation, those of training, the checkpoint. At the end: predictions, scores, the model.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "number", "after"),
    [
        (RunRecords, "metrics", 3, True),
        (CheckpointFiles, "write", 2, True),
        (seed_run, "write_json", 1, False),
        (seed_run, "write_json", 1, True),
        (CheckpointFiles, "write", 3, True),
    ],
)
def test_a_kill_loses_and_repeats_nothing(tmp_path, short, whole, monkeypatch, owner, name, number, after):
    workdir, summary = whole
    original = kill_at(monkeypatch, owner, name, number, after=after)
    with pytest.raises(Killed):
        short(tmp_path / "killed")
    monkeypatch.setattr(owner, name, original)
    assert short(tmp_path / "killed") == summary
    found, expected = contents(tmp_path / "killed"), contents(workdir)
    if (name, after) == ("write_json", True):  # the scores are there, so that the model stays as it was saved to go on
        name = "seed-0/checkpoints/ckpt-16.data-00000-of-00001"
        assert len(found.pop(name)) > len(expected.pop(name))
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_a_kill_among_the_metrics_of_a_resumed_epoch(tmp_path, short, whole, monkeypatch, number):
    """After a stop within an evaluation there is a checkpoint whose step has no, some or all metrics."""
    with pytest.raises(Interrupted):
        short(tmp_path / "killed", 9)
    original = kill_at(monkeypatch, RunRecords, "metrics", number, after=True)
    with pytest.raises(Killed):
        short(tmp_path / "killed")
    monkeypatch.setattr(RunRecords, "metrics", original)
    short(tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(whole[0])


@pytest.mark.slow
def test_without_validation_metrics_are_written_once(tmp_path, short):
    overrides = {"data__validation": "", "data__validation_fraction": 0.0}
    with pytest.raises(Interrupted):
        short(tmp_path / "stopped", 8, **overrides)  # behind the first epoch
    summary = short(tmp_path / "stopped", **overrides)
    assert summary["splits"] == {} and summary["seeds"] == [0]
    lines = (tmp_path / "stopped/seed-0/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [8, 16]


def test_json_tells_all_that_is_written(tmp_path, short):
    told = []
    summary = short(
        tmp_path / "tuned",
        train__seeds=(0, 3),
        logger=JsonLines(told.append, clock=itertools.count(step=20).__next__),
    )
    records = [json.loads(line) for line in told]
    epochs = [record for record in records if record["event"] == "epoch"]
    assert [(record["seed"], record["epoch"], record["step"]) for record in epochs] == [
        (0, 1, 8), (0, 2, 16), (3, 1, 8), (3, 2, 16)
    ]  # fmt: skip
    for seed in (0, 3):
        for line in (tmp_path / f"tuned/seed-{seed}/metrics.jsonl").read_text().splitlines():
            line = json.loads(line)
            (record,) = [record for record in epochs if (record["seed"], record["step"]) == (seed, line["step"])]
            prefix = "validation_" if line.pop("split") == "validation" else ""
            assert all(record[name if name == "step" else prefix + name] == value for name, value in line.items())
    progress_of = [(record["step"], record["phase"]) for record in records if record["event"] == "progress"]
    assert progress_of == [
        *((step, "seed 0, 1 of 2") for step in range(17)), *((step, "seed 3, 2 of 2") for step in range(16, 33))
    ]  # fmt: skip
    assert {record["num_steps"] for record in records if record["event"] == "progress"} == {32}
    saved = [record for record in records if record["event"] == "checkpoint"]
    assert [record["step"] for record in saved] == [8, 16, 8, 16]
    assert saved[0]["path"] == str(tmp_path / "tuned/seed-0/checkpoints/ckpt-8")
    (scores,) = [record for record in records if record["event"] == "scores"]
    assert {name: scores[name] for name in summary} == summary


def test_seeds_added_later_are_trained_and_the_old_ones_not_again(tmp_path, short, whole, files):
    workdir, first = whole
    shutil.copytree(workdir, tmp_path / "tuned")
    told = []
    both = short(tmp_path / "tuned", train__seeds=(0, 3), logger=Lines(told.append))
    assert "seed 0: done before" in told and any(line.startswith("seed 3  epoch 2/2") for line in told)
    assert contents(tmp_path / "tuned/seed-0") == contents(workdir / "seed-0")
    assert both["seeds"] == [0, 3]
    by_seed = both["splits"]["validation"]["seeds"]
    assert by_seed["0"] == first["splits"]["validation"]["seeds"]["0"]
    values = [scores["accuracy"] for scores in by_seed.values()]
    assert both["splits"]["validation"]["median"]["accuracy"] == pytest.approx(np.mean(values))
    assert both["splits"]["validation"]["max"]["accuracy"] == max(values)
    labels = {
        name: [line.rsplit("\t", 1)[1] for line in pathlib.Path(files[name]).read_text().splitlines()[1:]]
        for name in ("train", "validation")
    }
    guess = min(sorted(set(labels["train"])), key=lambda label: -labels["train"].count(label))
    guessed = both["splits"]["validation"]["most_frequent_class"]
    assert guessed["accuracy"] == labels["validation"].count(guess) / len(labels["validation"]) and guessed["mcc"] == 0
    assert json.loads((tmp_path / "tuned/scores.json").read_text()) == both
    table, where, how = told[-3:]
    assert where == f"Models and predictions: {tmp_path}/tuned/seed-*; scores: {tmp_path}/tuned/scores.json."
    flag = f"--workdir={tmp_path}/tuned"
    assert how.startswith(f"To predict: electra-finetune {flag} --predict=FILE --output=predicted.jsonl; to export: ")
    assert how.endswith(f"electra-export {flag} --format=huggingface --output_dir=DIR")
    head, accuracy, *_, legend = table.splitlines()
    assert head.split()[3:] == ["median", "min", "max", "guess", "seed", "0", "seed", "3"]
    assert accuracy.split()[:2] == ["accuracy", "*"] and float(accuracy.split()[5]) == guessed["accuracy"]
    assert legend.startswith("*: the score that models are compared by; guess: always the most frequent class")
    short(tmp_path / "alone", train__seeds=(3,))
    assert contents(tmp_path / "alone/seed-3") == contents(tmp_path / "tuned/seed-3")
    assert contents(workdir / "seed-0")["metrics.jsonl"] != contents(tmp_path / "alone/seed-3")["metrics.jsonl"]


def test_the_legend_explains_the_signs_that_are_shown():
    summary = {"primary_score": "accuracy", "splits": {}}

    def legend(scores, **more):
        split = {"num_examples": 2, "median": scores, "seeds": {"0": scores}, **more}
        return format_scores({**summary, "splits": {"validation": split}}).splitlines()[1 + len(scores) :]

    assert legend({"accuracy": 0.5}) == []
    assert legend({"accuracy": 0.5, "f1": 0.25}) == ["*: the score that models are compared by"]
    assert legend({"accuracy": 0.5}, most_frequent_class={"accuracy": 0.5}) == [
        "guess: always the most frequent class of the training data"
    ]


def test_files_to_predict_may_come_and_change_later(tmp_path, short, whole):
    tuned, test = tmp_path / "tuned", tmp_path / "test.tsv"
    shutil.copytree(whole[0], tuned)
    before = contents(tuned)
    long_text = " ".join(synthetic.WORDS)  # longer than what was trained on
    test.write_text(f"text\tlabel\n{long_text}\tanimal\nthe city\tnone\n")
    told = []
    summary = short(tuned, data__test=str(test), logger=Lines(told.append))
    assert "seed 0: trained before" in told and summary["splits"]["test"]["num_examples"] == 2
    after = contents(tuned)
    untouched = {name for name in before if name not in ("scores.json", "config.json", "seed-0/scores.json")}
    assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}
    right = summary["splits"]["test"]["seeds"]["0"]["accuracy"]

    test.write_text(f"text\tlabel\n{long_text}\tnone\nthe city\tanimal\n")  # the opposite
    assert short(tuned, data__test=str(test))["splits"]["test"]["seeds"]["0"]["accuracy"] == 1.0 - right
    test.write_text("text\nthe quick fox\n")
    assert "test" not in short(tuned, data__test=str(test))["splits"]
    (line,) = (tuned / "seed-0/predictions-test.jsonl").read_text().splitlines()
    assert json.loads(line).keys() == {"id", "prediction"}
    told.clear()
    short(tuned, data__test=str(test), logger=Lines(told.append))
    assert "seed 0: done before" in told
    test.write_text("text\nthe quick dog\n")
    with pytest.raises(Interrupted):  # while predicting: nothing of the model is written again
        short(tuned, 0, data__test=str(test))
    short(tuned, data__test=str(test))
    assert {name: contents(tuned)[name] for name in untouched} == {name: before[name] for name in untouched}


def test_a_split_that_lacks_the_primary_score_is_scored_again(tmp_path, short, whole):
    shutil.copytree(whole[0], tmp_path / "tuned")
    file = tmp_path / "tuned/seed-0/scores.json"
    scores = json.loads(file.read_text())
    del scores["validation"]["scores"]["accuracy"]
    file.write_text(json.dumps(scores))
    assert short(tmp_path / "tuned") == whole[1]
    assert contents(tmp_path / "tuned") == contents(whole[0])


def test_another_fine_tuning_in_the_workdir_is_refused(tmp_path, short, whole, files):
    tuned = tmp_path / "tuned"
    shutil.copytree(whole[0], tuned)
    with pytest.raises(UserError, match=r"holds another fine-tuning: train\.num_epochs: 2 -> 3; give the old values"):
        short(tuned, train__num_epochs=3)
    path = pathlib.Path(files["train"])
    text = path.read_text()
    path.write_text(text.replace("fox", "dog"))
    try:
        with pytest.raises(UserError, match="its examples, or the weights it starts from"):
            short(tuned)
    finally:
        path.write_text(text)
    (tuned / "seed-0/scores.json").write_text("[")
    with pytest.raises(
        UserError, match=r"scores\.json is damaged .*: remove it, then the same command writes it again"
    ):
        short(tuned)
    (tuned / "seed-0/scores.json").unlink()
    told = []
    assert short(tuned, logger=Lines(told.append)) == whole[1]
    assert "seed 0: trained before" in told
    assert contents(tuned) == contents(whole[0])


def test_the_finished_model_has_no_optimizer(whole):
    path = CheckpointFiles(str(whole[0] / "seed-0/checkpoints")).newest(print, "")
    assert path.endswith("ckpt-16") and not has_optimizer(path)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_fine_tuning(tmp_path, short):
    message = r"seed 0, step \d+: the loss or gradient is infinite or NaN; give a lower"
    with without_graphs(), pytest.raises(UserError, match=message):
        short(tmp_path / "tuned", optimizer__learning_rate=1e30)


def test_lengths_are_padded_to_what_hardware_divides_well():
    task = Classification()
    assert task.padded_length(np.array([3, 17]), 128) == 24
    assert task.padded_length(np.array([3, 16]), 128) == 16
    assert task.padded_length(np.array([500]), 100) == 100
    answers = QuestionAnswering(doc_stride=4, max_answer_length=4, num_best=1)
    assert answers.padded_length(np.array([7]), 128) == 16  # a question and a context of a word each


def test_lengths_without_room_for_text(tmp_path, encoder):
    files = synthetic.write("question_answering", tmp_path, 64, 20)
    config = synthetic.config_for("question_answering", files, **{"data.max_seq_length": 12})
    with pytest.raises(
        UserError, match=r"max_seq_length=12, of \d+ that the encoder has: .* answering takes 16 at least"
    ):
        finetune(config, str(tmp_path / "tuned"), synthetic.start_from(encoder), Logger())


def test_few_steps_are_warned_of_and_one_is_refused(tmp_path, encoder, short):
    told = []
    overrides = {"train.num_epochs": 1, "train.global_batch_size": 64}
    files = synthetic.write("classification", tmp_path, 64, 20)
    with pytest.raises(UserError, match=r"^64 training examples in 1 epoch make 1 step of config\.train\.global_batch"):
        config = synthetic.config_for("classification", files, **overrides)
        finetune(config, str(tmp_path / "one"), synthetic.start_from(encoder), Logger())

    class Named(Lines):
        """Tells what is done as well."""

        def status(self, text, *, in_lines=False):
            told.append(text)
            return super().status(text, in_lines=in_lines)

    with without_graphs():
        short(tmp_path / "named", train__num_epochs=1, logger=Named(told.append))
    assert any("; 1 epoch makes 8 steps of 8; " in line for line in told)
    assert "Saving step 8 of seed 0" in told and f"Models and predictions: {tmp_path}/named/seed-0; " in told[-2]
    told.clear()
    short(tmp_path / "named", train__num_epochs=1, logger=Quiet(Lines(told.append)))
    assert told[0] == (
        "64 training examples in 1 epoch make 8 steps of config.train.global_batch_size=8, which learn little: give a "
        "smaller one, or more config.train.num_epochs."
    )


def test_files_may_move_but_not_change(tmp_path, short, whole, files):
    workdir, summary = whole
    shutil.copytree(workdir, tmp_path / "tuned")
    (tmp_path / "moved.tsv").write_text(pathlib.Path(files["train"]).read_text())
    assert short(tmp_path / "tuned", data__train=str(tmp_path / "moved.tsv")) == summary
    (tmp_path / "moved.tsv").write_text(pathlib.Path(files["train"]).read_text() + "the fox\tanimal\n")
    with pytest.raises(UserError, match="its examples, or the weights it starts from"):
        short(tmp_path / "tuned", data__train=str(tmp_path / "moved.tsv"))


@pytest.mark.slow
def test_two_devices_learn_as_one_does(tmp_path, encoder):
    """Without dropout, which is drawn for each replica."""
    files = synthetic.write("tagging", tmp_path, 64, 20)
    program = (
        "import tensorflow as tf\n"
        "from tests.finetuning import synthetic\n"
        "from electra_cli.finetuning.finetune import finetune\n"
        "overrides = {'train.num_epochs': 2, 'train.global_batch_size': 8}\n"
        f"config = synthetic.config_for('tagging', {files!r}, **overrides)\n"
        "for number in (2, 0):\n"
        "    config.runtime.logical_cpus = number\n"
        "    tf.config.run_functions_eagerly(not number)\n"  # a graph takes more time to make
        f"    finetune(config, f'{tmp_path}/{{number}}', synthetic.start_from({encoder!r}))\n"
    )
    result = forking.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "2 logical CPUs, strategy mirrored" in result.stdout and "CPU, strategy one_device" in result.stdout
    one, two = ((tmp_path / number / "seed-0/metrics.jsonl").read_text().splitlines() for number in ("0", "2"))
    assert len(one) == len(two) == 4
    for first, second in zip(one, two, strict=True):
        assert json.loads(first) == pytest.approx(json.loads(second), abs=1e-5)


_SPOILED = """
import sys
import tensorflow as tf
from electra_cli.errors import UserError
from electra_cli.finetuning import trainer
from electra_cli.finetuning.finetune import finetune
from tests.finetuning import synthetic

compute = trainer.Trainer._compute_gradients

def spoil(self, inputs, weights, step, replica):
    gradients, sums = compute(self, inputs, weights, step, replica)
    if where == "loss":
        is_bad = (tf.cast(replica, tf.int64) == 1) & (step == 3)
        return gradients, {**sums, "loss": tf.where(is_bad, float("nan"), sums["loss"])}
    large = tf.where(step == 3, 3e38, 0.0)  # twice of which is infinite
    return [gradient + large for gradient in gradients], sums

trainer.Trainer._compute_gradients = spoil
tf.config.run_functions_eagerly(True)  # which saves the making of a graph for each
files, directory, encoder = FILES, DIRECTORY, ENCODER
config = synthetic.config_for("tagging", files, **{"train.num_epochs": 2, "train.global_batch_size": 8})
config.runtime.logical_cpus = 2
for where in ("loss", "sum"):
    try:
        finetune(config, f"{directory}/{where}", synthetic.start_from(encoder))
    except UserError as error:
        print(f"{where}: {error}")
"""


@pytest.mark.slow
def test_a_step_that_is_not_finite_on_any_device_ends_the_fine_tuning(tmp_path, encoder):
    files = synthetic.write("tagging", tmp_path, 64, 20)
    program = _SPOILED
    for name, value in (("FILES", files), ("DIRECTORY", str(tmp_path)), ("ENCODER", encoder)):
        program = program.replace(name, repr(value))
    result = forking.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    for where in ("loss", "sum"):
        assert f"{where}: seed 0, step 4: the loss or gradient is infinite or NaN; give a lower" in result.stdout


@pytest.mark.slow
def test_the_command_saves_itself_on_sigterm_and_goes_on(tmp_path, encoder):
    files = synthetic.write("classification", tmp_path, 256, 40)

    def flags(workdir):
        return [
            sys.executable, "-m", "electra_cli.commands.finetune", "--config=classification", f"--init={encoder}",
            f"--workdir={tmp_path / workdir}", *(f"--config.data.{name}={path}" for name, path in files.items()),
            "--config.train.num_epochs=400", "--config.train.global_batch_size=8", "--config.data.max_seq_length=32",
        ]  # fmt: skip

    process = forking.Popen(flags("stopped"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "stopped/seed-0/metrics.jsonl"
    end = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert errors.count("\n") == 1 and "stopped by SIGTERM at step" in errors and "the same command resumes" in errors
    steps = CheckpointFiles(str(tmp_path / "stopped/seed-0/checkpoints")).steps()
    assert len(steps) == 1 and 0 < steps[0] < 12_800
    again = Terminal(flags("stopped"), columns=100, start=subprocess.Popen)  # it shows that TensorFlow starts
    again.read_until("/12,800, seed 0")
    shown = again.read_until("  epoch ")
    again.process.kill()
    again.end()
    assert f"seed 0: resuming from step {steps[0]:,}\r\n" in shown
    assert "starting TensorFlow, " in shown and "building step " in shown
