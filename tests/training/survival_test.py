"""Runs whose checkpoints are damaged, killed while saving or out of space go on as if nothing had happened."""

import json
import pathlib
import shutil
import signal
import sys

import numpy as np
import pytest
import tensorflow as tf

from electra_cli.errors import ResumableError, UserError
from electra_cli.loggers.lines import Lines
from electra_cli.training import loop
from tests import forking
from tests.conftest import small_config
from tests.training.loop_test import assert_same_run, metrics_of, stop_at, train

pytestmark = pytest.mark.slow


@pytest.fixture
def config(data_dir):
    return tiny_config(data_dir)


def tiny_config(data_dir):
    """Six steps of the network that is quickest to build; checkpoints 2, 4 and 6."""
    config = small_config(data_dir)
    config.objective.name = "mlm"
    config.model.num_layers = 1
    config.train.num_steps, config.train.checkpoint_interval, config.train.log_interval = 6, 2, 2
    config.train.keep_checkpoints = 3
    return config


@pytest.fixture(scope="session")
def whole(data_dir, made_once):
    """A run never disturbed."""
    return made_once("whole", lambda workdir: train(tiny_config(data_dir), workdir, with_evaluation=False))


@pytest.fixture(scope="session")
def evaluated(data_dir, made_once):
    """A run never disturbed that evaluates every two steps and keeps the best."""
    config = tiny_config(data_dir)
    config.eval.interval, config.train.best_metric = 2, "masked_lm_loss"
    return made_once("evaluated", lambda workdir: train(config, workdir))


def steps_in(directory):
    return sorted(int(path.stem.split("-")[1]) for path in pathlib.Path(directory).glob("ckpt-*.index"))


def cut(file, size):
    file.write_bytes(file.read_bytes()[:size])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


# Of which file, what is done to it, and what is told.
DAMAGES = [
    ("data-00000-of-00001", lambda file: cut(file, file.stat().st_size // 2), "cannot be read: "),
    ("data-00000-of-00001", lambda file: cut(file, 0), "cannot be read: "),
    ("data-00000-of-00001", lambda file: file.unlink(), "its data file is missing"),
    ("data-00000-of-00001", flip, "Checksum does not match"),
    ("index", lambda file: cut(file, file.stat().st_size // 2), "the index cannot be read: "),
    ("index", lambda file: cut(file, 0), "the index cannot be read: "),
    ("index", lambda file: file.unlink(), "its index file is missing"),
    ("index", lambda file: file.write_bytes(bytes(range(256)) * 9), "the index cannot be read: "),
    ("index", flip, "the index cannot be read: "),
]


def test_damages_are_told_and_the_run_goes_on_exactly(config, tmp_path):
    """Each checkpoint but the first is damaged in another way."""
    last = config.train.num_steps = config.train.keep_checkpoints = len(DAMAGES) + 1
    config.train.steps_per_loop = config.train.checkpoint_interval = 1
    train(config, tmp_path / "whole", with_evaluation=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    directory = tmp_path / "run" / "checkpoints"
    for step, (ending, inflict, _) in enumerate(DAMAGES, 2):
        inflict(directory / f"ckpt-{step}.{ending}")
    lines = train(config, tmp_path / "run", with_evaluation=False)
    told = [line for line in lines if "damaged" in line]
    assert len(told) == len(DAMAGES)
    for step, line, (_, _, part) in zip(range(last, 1, -1), told, reversed(DAMAGES), strict=True):
        assert line.startswith(f"Checkpoint {directory}/ckpt-{step} is damaged (") and part in line
        assert line.endswith("ckpt-1 is used instead.") and "\n" not in line
    assert "Resuming from step 1." in lines
    assert_same_run(tmp_path / "whole", tmp_path / "run")  # metrics too: each step has one line
    assert steps_in(directory) == list(range(1, last + 1))


@pytest.mark.parametrize(
    "inflict",
    [lambda file: file.write_bytes(b"\xffgarbled"), lambda file: cut(file, 0), pathlib.Path.unlink],
    ids=["garbled", "emptied", "removed"],
)
def test_the_list_of_checkpoints_is_not_needed(whole, config, tmp_path, inflict):
    shutil.copytree(whole, tmp_path / "run")
    inflict(tmp_path / "run" / "checkpoints" / "checkpoint")
    lines = train(config, tmp_path / "run", with_evaluation=False)
    assert not any("damaged" in line for line in lines) and any("The run is complete" in line for line in lines)
    assert steps_in(tmp_path / "run" / "checkpoints") == [2, 4, 6]


def test_nothing_whole_or_another_model_ends_the_run_as_it_is(whole, config, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    for data in (tmp_path / "run" / "checkpoints").glob("*.data*"):
        cut(data, 100)
    before = metrics_of(tmp_path / "run")
    with pytest.raises(UserError, match=r"none of 3 checkpoints can be read; the newest is .*ckpt-6 .*put a complete"):
        train(config, tmp_path / "run", with_evaluation=False)
    assert metrics_of(tmp_path / "run") == before
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    shutil.copytree(whole / "checkpoints", tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "config.json").unlink()
    config.model.intermediate_size = 48
    with pytest.raises(
        UserError, match=r"ckpt-6 and the config are of different models: encoder/.*kernel is .* \[16, 48\]"
    ):
        train(config, tmp_path / "run", with_evaluation=False)
    assert metrics_of(tmp_path / "run") == before
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_full_disk_ends_the_run_and_it_goes_on(whole, config, tmp_path, monkeypatch):
    write = tf.train.Checkpoint.write

    def full_at_6(self, path, *rest):
        if "ckpt-6" in path:
            pathlib.Path(f"{path}.data-00000-of-00001").write_bytes(b"half")
            raise tf.errors.ResourceExhaustedError(None, None, f"{path}; No space left on device")
        return write(self, path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(tf.train.Checkpoint, "write", full_at_6)
        with pytest.raises(ResumableError, match=r"no checkpoint of step 6 could .*No space left .*make room"):
            train(config, tmp_path, with_evaluation=False)
    assert steps_in(tmp_path / "checkpoints") == [2, 4]
    assert not list((tmp_path / "checkpoints").glob("*6*"))
    assert "Resuming from step 4." in train(config, tmp_path, with_evaluation=False)
    assert_same_run(whole, tmp_path)


KILLED_WHILE_SAVING = """
import os, signal, sys
import tensorflow as tf
from electra_cli.training import loop
from tests.training.survival_test import tiny_config

rename = tf.io.gfile.rename
def rename_or_die(source, target, overwrite=False):
    if sys.argv[3] in source:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target, overwrite)
tf.io.gfile.rename = rename_or_die
config = tiny_config(sys.argv[1])
config.train.async_checkpoints = sys.argv[4] == "background"
loop.train(config, sys.argv[2], with_evaluation=False)
"""


def test_a_run_killed_while_saving_goes_on_exactly(whole, config, data_dir, tmp_path):
    workdir = tmp_path / "run"

    def kill(moment, where):
        arguments = [sys.executable, "-c", KILLED_WHILE_SAVING, str(data_dir), str(workdir), moment, where]
        killed = forking.run(arguments, capture_output=True, text=True, timeout=300)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert len(list((workdir / "checkpoints").glob(f"{moment.partition('.')[0]}.*"))) > 0
        return killed.stdout

    kill("ckpt-2.index", "foreground")  # while it is moved
    output = kill("ckpt-6.partial", "background")  # before it counts
    assert "Resuming from step 2." in output and "damaged" not in output
    lines = train(config, workdir, with_evaluation=False)
    assert "Resuming from step 4." in lines and not any("damaged" in line for line in lines)
    assert_same_run(whole, workdir)
    names = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert names == sorted(path.name for path in (whole / "checkpoints").iterdir())


def test_checkpoints_in_the_background_equal_those_in_the_foreground(whole, config, tmp_path, monkeypatch):
    config.train.async_checkpoints = True
    train(config, tmp_path / "run", with_evaluation=False)
    assert_same_run(whole, tmp_path / "run")
    assert steps_in(tmp_path / "run" / "checkpoints") == [2, 4, 6]
    for step in (2, 4):
        expected, found = (_tensors(run / f"checkpoints/ckpt-{step}") for run in (whole, tmp_path / "run"))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)

    # A stop says "saved" only of what is on the disk.
    def full(prefix, **more):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        patch.setattr(tf.raw_ops, "SaveV2", full)
        with pytest.raises(ResumableError, match="no checkpoint of step 4 could be written"):
            train(config, tmp_path / "stopped", with_evaluation=False)
    assert steps_in(tmp_path / "stopped" / "checkpoints") == [2]


def test_the_best_is_that_of_the_metrics_and_a_resume_compares_with_it(evaluated, config, tmp_path):
    losses = {line["step"]: line["masked_lm_loss"] for line in metrics_of(evaluated) if line["split"] == "validation"}
    assert list(losses) == [2, 4, 6]
    best = min(losses, key=losses.get)
    record = json.loads((evaluated / "checkpoints" / "best" / "best.json").read_text())
    assert (record["step"], record["value"]) == (best, losses[best])
    config.eval.interval, config.train.best_metric = 2, "masked_lm_loss"
    lines = []
    result = loop.evaluate(
        config, str(evaluated), Lines(lines.append), checkpoint=str(evaluated / "checkpoints" / "best")
    )
    assert result["masked_lm_loss"] == pytest.approx(losses[best], rel=1e-6)
    assert f"Held-out evaluation at step {best} on 20 examples" in lines[-1]

    # A record that no later step beats stays over a resume.
    shutil.copytree(evaluated, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("ckpt-6.*"):
        path.unlink()
    file = tmp_path / "run" / "checkpoints" / "best" / "best.json"
    file.write_text(json.dumps({**record, "value": 0.5}))
    assert "Resuming from step 4." in train(config, tmp_path / "run")
    assert json.loads(file.read_text())["value"] == 0.5
    assert_same_run(evaluated, tmp_path / "run")
    # One that is beaten is replaced by the step that beats it: here 6, the only one computed again.
    for path in (tmp_path / "run" / "checkpoints").glob("ckpt-6.*"):
        path.unlink()
    file.write_text(json.dumps({**record, "value": losses[6] + 0.001, "step": best}))
    train(config, tmp_path / "run")
    value = json.loads(file.read_text())
    assert value["value"] == min(losses[4], losses[6], losses[6] + 0.001)


def test_a_given_checkpoint_is_evaluated_and_started_from(whole, evaluated, config, tmp_path, monkeypatch):
    losses = {line["step"]: line["masked_lm_loss"] for line in metrics_of(evaluated) if line["split"] == "validation"}
    lines, given = [], str(whole / "checkpoints" / "ckpt-4")
    result = loop.evaluate(config, str(tmp_path / "none"), Lines(lines.append), checkpoint=given)
    assert result["masked_lm_loss"] == pytest.approx(losses[4], rel=1e-6)
    assert f"Evaluating checkpoint {given}." in lines
    assert "Held-out evaluation at step 4 on 20 examples" in lines[-1]
    assert not (tmp_path / "none").exists()

    seen = {}
    train_phase = loop.train_phase

    def look(run, *arguments):
        seen["weights"] = [variable.numpy() for variable in run.model.trainable_variables]
        seen["averages"] = [variable.numpy() for variable in run.optimizer._model_variables_moving_average]
        seen["iterations"] = int(run.optimizer.iterations.numpy())
        train_phase(run, *arguments)

    config.optimizer.ema_decay = 0.9
    monkeypatch.setattr(loop, "train_phase", look)
    stopped = tmp_path / "run"
    lines = train(config, stopped, with_evaluation=False, checkpoint=given)
    assert f"Starting at step 0 from the weights of {given}; the optimizer starts fresh." in lines
    source = [value for name, value in _tensors(given).items() if name.startswith(("model", "encoder"))]
    assert seen["iterations"] == 0
    for weight, average in zip(seen["weights"], seen["averages"], strict=True):
        np.testing.assert_array_equal(weight, average)
        assert any(weight.shape == value.shape and np.array_equal(weight, value) for value in source)
    assert steps_in(stopped / "checkpoints") == [2, 4, 6]
    lines = train(config, stopped, with_evaluation=False, checkpoint="/nowhere/any/more")
    assert "--checkpoint=/nowhere/any/more is not read: the run resumes from its own checkpoints." in lines
    config.model.hidden_size = 32
    with pytest.raises(UserError, match=r"are of different models: .*\[.*32.*\] by the config"):
        train(config, tmp_path / "other", with_evaluation=False, checkpoint=given)
    assert not (tmp_path / "other" / "config.json").exists()


def _tensors(path):
    reader = tf.train.load_checkpoint(str(path))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
