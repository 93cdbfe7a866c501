"""Checkpoints of a model of a few numbers: damage, kills, full disks, what is kept. Runs are in survival_test.py."""

import json
import os
import pathlib
import random
import threading

import numpy as np
import pytest
import tensorflow as tf

from electra_cli.config import default_config
from electra_cli.errors import ResumableError, UserError
from electra_cli.loggers.lines import Lines
from electra_cli.workdir import checkpoint_files
from electra_cli.workdir.checkpoint_files import (
    CheckpointFiles,
    find_checkpoint,
    find_damage,
    has_optimizer,
    step_of,
)
from electra_cli.workdir.checkpoints import Checkpoints


class Model(tf.Module):
    def __init__(self, width=3, num_layers=1):
        super().__init__()
        self.checkpoint_items = {}
        self.layers_ = [tf.Variable(tf.zeros([width, 50])) for _ in range(num_layers)]


class Optimizer(tf.Module):
    use_ema = False

    def __init__(self):
        super().__init__()
        self._iterations = self.iterations = tf.Variable(0, dtype=tf.int64)


class Run:
    """A model whose weights are the step, and its checkpoints."""

    def __init__(self, directory, *, width=3, num_layers=1, **settings):
        train = default_config().train
        train.update({"keep_checkpoints": 3, "checkpoint_interval": 2, **settings})
        self.model, self.optimizer, self.lines = Model(width, num_layers), Optimizer(), []
        self.checkpoints = Checkpoints(
            str(directory), self.model, self.optimizer, None, train, Lines(self.lines.append)
        )

    def save(self, *steps, save=True):
        for step in steps:
            self.optimizer.iterations.assign(step)
            for variable in self.model.layers_:
                variable.assign(tf.fill(variable.shape, float(step)))
            if save:
                self.checkpoints.save()
        return self

    def evaluated(self, step, **result):
        self.save(step, save=False)
        self.checkpoints.save_if_best(step, {"num_examples": 20, **result})

    def values(self):
        return {float(x) for variable in self.model.layers_ for x in np.unique(variable.numpy())}


def steps_in(directory):
    return CheckpointFiles(str(directory)).steps()


def names_in(directory):
    return sorted(path.name for path in pathlib.Path(directory).iterdir())


def data_of(directory, step):
    return pathlib.Path(directory) / f"ckpt-{step}.data-00000-of-00001"


def index_of(directory, step):
    return pathlib.Path(directory) / f"ckpt-{step}.index"


class Killed(BaseException):
    """What no handler for errors sees, as none sees SIGKILL."""


def flip(file, position, bit=0):
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(content)


def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(tmp_path):
    Run(tmp_path).save(8)
    path = str(tmp_path / "ckpt-8")
    rng = random.Random(0)
    unnoticed = 0
    for file in (index_of(tmp_path, 8), data_of(tmp_path, 8)):
        whole = file.read_bytes()
        positions = range(len(whole)) if len(whole) < 100 else sorted(rng.sample(range(len(whole)), 150))
        for position in positions:
            flip(file, position, rng.randrange(8))
            if find_damage(path) is None:  # unused bytes at the end of the index
                unnoticed += 1
                again = Run(tmp_path)
                assert again.checkpoints.restore_newest() == 8
                assert again.values() == {8.0}
                assert file.suffix == ".index" and position > len(whole) - 100
            file.write_bytes(whole)
    assert unnoticed < 50
    assert find_damage(path) is None


def test_tensors_larger_than_what_is_read_at_once_are_checked_to_the_end(tmp_path):
    Run(tmp_path, width=100_000).save(8)  # 20 MB
    flip(data_of(tmp_path, 8), 19_999_999)
    assert "Checksum does not match" in find_damage(str(tmp_path / "ckpt-8"))


def test_nothing_of_a_damaged_checkpoint_is_restored(tmp_path):
    Run(tmp_path, num_layers=5).save(4, 8, 12)
    flip(data_of(tmp_path, 12), 1200)  # in the middle: some tensors are intact
    index_of(tmp_path, 8).unlink()
    run = Run(tmp_path, num_layers=5)
    assert run.checkpoints.restore_newest() == 4
    assert run.values() == {4.0}
    assert len(run.lines) == 2
    assert "ckpt-12 is damaged (" in run.lines[0] and "Checksum does not match" in run.lines[0]
    assert run.lines[0].endswith("ckpt-4 is used instead.")
    assert "ckpt-8 is damaged (its index file is missing); ckpt-4 is used" in run.lines[1]


def test_all_damaged_or_gone(tmp_path):
    assert Run(tmp_path).checkpoints.restore_newest() is None
    Run(tmp_path).save(4, 8)
    for step in (4, 8):
        data_of(tmp_path, step).unlink()
    message = r"none of 2 checkpoints can be read; the newest is .*ckpt-8 \(its data file is missing\): put a complete"
    with pytest.raises(UserError, match=message):
        Run(tmp_path).checkpoints.restore_newest()
    for step in (4, 8):
        index_of(tmp_path, step).unlink()
    with pytest.raises(UserError, match="held checkpoints, and none is left: put one back"):
        Run(tmp_path).checkpoints.restore_newest()


def test_what_cannot_be_read_now_is_not_called_damaged(tmp_path, monkeypatch):
    Run(tmp_path).save(4, 8)

    def refuse(path):
        raise tf.errors.PermissionDeniedError(None, None, f"{path}; Permission denied")

    monkeypatch.setattr(tf.train, "load_checkpoint", refuse)
    with pytest.raises(UserError, match=r"ckpt-8 cannot be read now: .*Permission denied; fix that"):
        Run(tmp_path).checkpoints.restore_newest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 4}, r"model/layers_/0 is float32 \[4, 50\] by the config, float32 \[3, 50\] in the checkpoint;"),
        ({"num_layers": 3}, r"model/layers_/1 is not in the checkpoint \(and 1 more differences\)"),
    ],
)
def test_a_checkpoint_of_another_model_is_no_damage(tmp_path, changes, message):
    Run(tmp_path).save(4, 8)
    with pytest.raises(UserError, match=rf"ckpt-8 and the config are of different models: {message}"):
        Run(tmp_path, **changes).checkpoints.restore_newest()


def test_a_checkpoint_with_more_layers_is_of_another_model(tmp_path):
    Run(tmp_path, num_layers=2).save(8)
    run = Run(tmp_path)
    with pytest.raises(UserError, match="model/layers_/1 is only in the checkpoint"):
        run.checkpoints.restore_newest()
    assert run.values() == {0.0}


def test_a_checkpoint_of_another_kind(tmp_path):
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "ckpt-8"), tensor_names=["x"], shape_and_slices=[""], tensors=[tf.zeros([2])]
    )
    with pytest.raises(UserError, match=r"it was not written by tf\.train\.Checkpoint"):
        Run(tmp_path).checkpoints.restore_newest()


@pytest.mark.parametrize("content", [None, b"", b"\x00garbled\xff", b'model_checkpoint_path: "ckpt-99"\n'])
def test_the_state_file_is_not_needed(tmp_path, content):
    Run(tmp_path).save(4, 8)
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "ckpt-8")
    state = tmp_path / "checkpoint"
    state.unlink() if content is None else state.write_bytes(content)
    run = Run(tmp_path)
    assert run.checkpoints.restore_newest() == 8
    assert run.values() == {8.0} and run.lines == []
    run.save(12)
    assert tf.train.get_checkpoint_state(str(tmp_path)).all_model_checkpoint_paths == [
        str(tmp_path / f"ckpt-{step}") for step in (4, 8, 12)
    ]


def test_checkpoints_are_what_tensorflow_writes_and_reads(tmp_path):
    Run(tmp_path).save(4)
    run = Run(tmp_path)
    other = tf.train.Checkpoint(model=run.model, optimizer=run.optimizer)
    other.restore(str(tmp_path / "ckpt-4")).assert_existing_objects_matched().assert_consumed()
    assert run.values() == {4.0}
    manager = tf.train.CheckpointManager(other, str(tmp_path), max_to_keep=5)
    run.save(6, save=False)
    manager.save(checkpoint_number=6)
    again = Run(tmp_path)
    assert again.checkpoints.restore_newest() == 6 and again.values() == {6.0}


def count_calls(monkeypatch, patch):
    """Patches the file operations of saving with `patch(name, number of the call, original)`; returns the count."""
    calls = [0]
    operations = [(tf.io.gfile, name) for name in ("rename", "remove", "rmtree", "makedirs")]
    for module, name in (*operations, (os, "replace")):
        original = getattr(module, name)

        def patched(*args, _name=name, _original=original, **kwargs):
            calls[0] += 1
            patch(_name, calls[0])
            return _original(*args, **kwargs)

        monkeypatch.setattr(module, name, patched)
    return calls


@pytest.mark.parametrize("with_old_one", [False, True], ids=["new", "in_place_of_another"])
def test_a_kill_at_any_moment_of_saving_leaves_whole_checkpoints(tmp_path, monkeypatch, with_old_one):
    """Kills before every change of the file system in turn; then recovers and goes on."""
    outcomes = []
    for kill_at in range(1, 30):
        directory = tmp_path / str(kill_at)
        Run(directory, keep_checkpoints=2).save(4, 6)
        if with_old_one:
            old = Run(directory, keep_checkpoints=2)
            old.save(8, save=False)
            old.model.layers_[0].assign(tf.fill([3, 50], 7.5))
            old.checkpoints.save()
        run = Run(directory, keep_checkpoints=2)

        def kill(_, number, kill_at=kill_at):
            if number == kill_at:
                raise Killed

        with monkeypatch.context() as patch:
            count_calls(patch, kill)
            try:
                run.save(8)
                finished = True
            except Killed:
                finished = False
        again = Run(directory, keep_checkpoints=2)
        again.checkpoints.recover()
        step = again.checkpoints.restore_newest()
        assert again.lines == []  # nothing half is taken for a checkpoint, not even for a damaged one
        assert again.values() <= ({8.0, 7.5} if step == 8 else {6.0})
        assert step == 8 or (step == 6 and not with_old_one)
        outcomes.append((step, again.values()))
        assert not [name for name in names_in(directory) if "partial" in name or "complete" in name or ".tmp" in name]
        again.save(10)
        assert steps_in(directory)[-1] == 10
        if finished:
            break
    assert finished and len(outcomes) >= 7
    assert len({str(outcome) for outcome in outcomes}) == 2  # some kept the old state, some have the new


def test_leftovers_of_killed_saves_are_removed(tmp_path):
    Run(tmp_path).save(4)
    (tmp_path / "ckpt-8_temp").mkdir()
    (tmp_path / "ckpt-8_temp" / "part-00000-of-00001.data-00000-of-00001").write_text("x")
    (tmp_path / "ckpt-8.partial").mkdir()
    (tmp_path / "ckpt-8.partial" / "ckpt-8.index").write_text("x")
    (tmp_path / "ckpt-8.data-00000-of-00001.tempstate123").write_text("x")
    (tmp_path / "checkpoint.tmp0af").write_text("x")
    (tmp_path / "notes.txt").write_text("mine")
    run = Run(tmp_path)
    run.checkpoints.recover()
    assert names_in(tmp_path) == ["checkpoint", "ckpt-4.data-00000-of-00001", "ckpt-4.index", "notes.txt"]
    assert run.checkpoints.restore_newest() == 4


@pytest.mark.parametrize("name", ["ckpt-8.partial", "ckpt-8.complete"])
def test_links_in_place_of_leftovers_are_removed_and_not_followed(tmp_path, name):
    Run(tmp_path / "other").save(2)
    Run(tmp_path / "run").save(4)
    before = names_in(tmp_path / "other")
    for recovers in (True, False):
        (tmp_path / "run" / name).symlink_to(tmp_path / "other")
        run = Run(tmp_path / "run")
        if recovers:
            run.checkpoints.recover()
        elif name == "ckpt-8.partial":
            run.save(8)
        assert names_in(tmp_path / "other") == before
    assert steps_in(tmp_path / "run") == ([4, 8] if name == "ckpt-8.partial" else [4])


@pytest.mark.parametrize("in_background", [False, True])
def test_a_full_disk_leaves_the_others_and_nothing_half(tmp_path, monkeypatch, in_background):
    run = Run(tmp_path, async_checkpoints=in_background).save(4, 8)
    run.checkpoints.wait()
    before = names_in(tmp_path)

    def full(path, *_, **__):
        pathlib.Path(f"{path}.data-00000-of-00001").write_bytes(b"half")
        raise tf.errors.ResourceExhaustedError(None, None, f"{path}; No space left on device")

    if in_background:
        monkeypatch.setattr(tf.raw_ops, "SaveV2", lambda prefix, **_: full(prefix))
    else:
        monkeypatch.setattr(run.checkpoints._checkpoint, "write", full)
    message = r"no checkpoint of step 12 could be written to .*No space left on device\); earlier ones are intact: make"
    with pytest.raises(ResumableError, match=message):
        run.save(12)
        assert in_background  # told at the next look
        run.checkpoints.wait()
    assert names_in(tmp_path) == before
    assert find_damage(str(tmp_path / "ckpt-8")) is None
    run.checkpoints.wait()  # told once


@pytest.mark.parametrize("call", range(1, 6))
def test_any_other_failure_of_writing_is_told_too(tmp_path, monkeypatch, call):
    run = Run(tmp_path).save(4)

    def fail(_, number):
        if number == call:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        count_calls(patch, fail)
        with pytest.raises(ResumableError, match="No space left on device"):
            run.save(8)
    again = Run(tmp_path)
    again.checkpoints.recover()
    assert again.checkpoints.restore_newest() in (4, 8)
    assert again.lines == [] and not [name for name in names_in(tmp_path) if "partial" in name]


def test_newest_and_every_so_many_steps_are_kept(tmp_path):
    run = Run(tmp_path, keep_checkpoints=2, keep_every_steps=8)
    seen = []
    for step in (4, 8, 10, 12, 16, 20, 24, 28):
        run.save(step)
        seen.append(steps_in(tmp_path))
    assert seen == [
        [4],
        [4, 8],
        [8, 10],
        [8, 10, 12],
        [8, 12, 16],
        [8, 16, 20],
        [8, 16, 20, 24],
        [8, 16, 24, 28],
    ]


@pytest.mark.parametrize("name", ["g[1]", "g?", "g*", r"g\1", "g [1], ü"])
def test_a_path_is_no_pattern(tmp_path, name):
    other = Run(tmp_path / "g1").save(2, 4, 6)
    run = Run(tmp_path / name, keep_checkpoints=1).save(2, 4)
    assert [steps_in(tmp_path / each) for each in ("g1", name)] == [[2, 4, 6], [4]]
    assert names_in(tmp_path / name) == ["checkpoint", "ckpt-4.data-00000-of-00001", "ckpt-4.index"]
    run.save(5, save=False)
    assert run.checkpoints.restore_newest() == 4 and run.values() == {4.0}
    other.checkpoints.restore_weights(str(tmp_path / name))
    assert other.values() == {4.0} and other.lines == run.lines == []
    assert step_of(str(tmp_path / name / "ckpt-4")) == 4 and has_optimizer(str(tmp_path / name / "ckpt-4"))


def test_those_that_stops_left_do_not_push_out_others(tmp_path):
    run = Run(tmp_path, keep_checkpoints=3, checkpoint_interval=100).save(100, 200, 300, 310, 330, 350)
    assert steps_in(tmp_path) == [100, 200, 300, 350]
    assert run.checkpoints.restore_before(201) == 200
    assert steps_in(tmp_path) == [100, 200]
    run.save(400)
    assert steps_in(tmp_path) == [100, 200, 400]


def test_damaged_checkpoints_do_not_push_out_the_newest(tmp_path):
    Run(tmp_path).save(4, 8, 12)
    data_of(tmp_path, 12).write_bytes(b"")
    run = Run(tmp_path, keep_checkpoints=1)
    assert run.checkpoints.restore_newest() == 8
    run.save(10)
    assert steps_in(tmp_path) == [10]


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [("masked_lm_loss", [3.0, 2.0, 2.5, 2.0, float("nan")], 4), ("rtd_auc", [0.5, 0.6, 0.7, float("nan"), 0.7], 6)],
)
def test_the_best_is_kept_with_its_value(tmp_path, metric, values, best):
    run = Run(tmp_path, best_metric=metric)
    for step, value in zip((2, 4, 6, 8, 10), values, strict=True):
        run.evaluated(step, **{metric: value})
    record = json.loads((tmp_path / "best" / "best.json").read_text())
    value = values[best // 2 - 1]
    assert record == {"step": best, "metric": metric, "value": value, "num_examples": 20, "phase": 1}
    assert steps_in(tmp_path / "best") == [best]
    assert steps_in(tmp_path) == []
    assert find_checkpoint(str(tmp_path / "best"), print) == str(tmp_path / "best" / f"ckpt-{best}")


def test_the_best_is_compared_with_after_a_resume(tmp_path):
    Run(tmp_path, best_metric="rtd_loss").evaluated(2, rtd_loss=1.0)

    def resumed(**changes):
        run = Run(tmp_path, **{"best_metric": "rtd_loss", **changes})
        run.checkpoints.recover()
        return run

    resumed().evaluated(4, rtd_loss=1.5)
    assert steps_in(tmp_path / "best") == [2]
    resumed().evaluated(6, rtd_loss=0.5)
    assert steps_in(tmp_path / "best") == [6]
    resumed(best_metric="rtd_auc").evaluated(8, rtd_auc=0.1)  # another metric: nothing to compare with
    assert steps_in(tmp_path / "best") == [8]
    run = resumed(best_metric="rtd_auc")
    run.save(9, save=False)
    run.checkpoints.save_if_best(9, {"rtd_auc": 0.0, "num_examples": 30})  # nor on other examples
    assert steps_in(tmp_path / "best") == [9]


@pytest.mark.parametrize("what", ["record", "data"])
def test_a_damaged_best_is_chosen_anew(tmp_path, what):
    Run(tmp_path, best_metric="rtd_loss").evaluated(2, rtd_loss=1.0)
    file = tmp_path / "best" / "best.json" if what == "record" else data_of(tmp_path / "best", 2)
    file.write_bytes(file.read_bytes()[:10])
    run = Run(tmp_path, best_metric="rtd_loss")
    run.checkpoints.recover()
    assert len(run.lines) == 1 and "damaged" in run.lines[0] and "is chosen again from here on" in run.lines[0]
    run.evaluated(4, rtd_loss=2.0)
    assert steps_in(tmp_path / "best") == [4]


def test_a_kill_while_the_best_is_written_keeps_one_that_is_whole(tmp_path, monkeypatch):
    for kill_at in range(1, 30):
        directory = tmp_path / str(kill_at)
        Run(directory, best_metric="rtd_loss").evaluated(2, rtd_loss=1.0)
        run = Run(directory, best_metric="rtd_loss")
        run.checkpoints.recover()

        def kill(_, number, kill_at=kill_at):
            if number == kill_at:
                raise Killed

        with monkeypatch.context() as patch:
            count_calls(patch, kill)
            try:
                run.evaluated(4, rtd_loss=0.5)
                finished = True
            except Killed:
                finished = False
        again = Run(directory, best_metric="rtd_loss")
        again.checkpoints.recover()
        record = json.loads((directory / "best" / "best.json").read_text())
        assert steps_in(directory / "best") == [record["step"]] and again.lines == []
        assert record["value"] == {2: 1.0, 4: 0.5}[record["step"]]
        if finished:
            break
    assert finished and record["step"] == 4


def bundle(directory, step):
    reader = tf.train.load_checkpoint(str(pathlib.Path(directory) / f"ckpt-{step}"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def test_in_the_background_equals_in_the_foreground(tmp_path):
    Run(tmp_path / "sync").save(4, 8, 12)
    with Run(tmp_path / "async", async_checkpoints=True).save(4, 8, 12).checkpoints:
        pass
    for step in (4, 8, 12):
        expected, found = bundle(tmp_path / "sync", step), bundle(tmp_path / "async", step)
        assert expected.keys() == found.keys() and len(expected) == 4
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_what_is_written_in_the_background_is_of_the_moment_of_saving(tmp_path, monkeypatch):
    run = Run(tmp_path, async_checkpoints=True).save(4)
    may_write, original = threading.Event(), tf.raw_ops.SaveV2

    def slowly(**arguments):
        assert may_write.wait(60)
        return original(**arguments)

    monkeypatch.setattr(tf.raw_ops, "SaveV2", slowly)
    run.save(8)
    run.save(9, save=False)  # training goes on
    assert steps_in(tmp_path) == [4]
    may_write.set()
    run.checkpoints.wait()
    assert steps_in(tmp_path) == [4, 8]
    again = Run(tmp_path)
    assert again.checkpoints.restore_newest() == 8 and again.values() == {8.0}


def test_an_error_in_the_background_is_told_at_the_end_with_the_error_that_ends(tmp_path, monkeypatch):
    run = Run(tmp_path, async_checkpoints=True).save(4)

    def full(**_):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.raw_ops, "SaveV2", full)
    with pytest.raises(ResumableError, match="no checkpoint of step 8"), run.checkpoints:
        run.save(8)
    with pytest.raises(UserError, match=r"^the loss is nan; besides, no checkpoint of step 8"), run.checkpoints:
        run.save(8)
        raise UserError("the loss is nan")
    assert steps_in(tmp_path) == [4]


def test_a_file_in_place_of_the_directory_is_no_run_without_checkpoints(tmp_path):
    (tmp_path / "checkpoints").write_text("x")
    checkpoints = Run(tmp_path / "checkpoints").checkpoints
    for use in (checkpoints.recover, checkpoints.restore_newest):
        with pytest.raises(UserError, match=r"checkpoints is no directory: put the one back that held the checkpoints"):
            use()


def test_weights_alone(tmp_path):
    Run(tmp_path / "checkpoints").save(4, 8)
    for path in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "ckpt-8",
                 tmp_path / "checkpoints" / "ckpt-8.index"):  # fmt: skip
        run = Run(tmp_path / "new")
        run.checkpoints.restore_weights(str(path))
        assert run.values() == {8.0} and run.optimizer.iterations.numpy() == 0
        assert run.lines == []
    run.checkpoints.restore_weights(str(tmp_path / "checkpoints" / "ckpt-4"))
    assert run.values() == {4.0}
    data_of(tmp_path / "checkpoints", 8).write_bytes(b"x")
    with pytest.raises(UserError, match=r"--checkpoint=.*ckpt-8 is damaged \(.*give another"):
        run.checkpoints.restore_weights(str(tmp_path / "checkpoints" / "ckpt-8"))
    run.checkpoints.restore_weights(str(tmp_path))
    assert "ckpt-4 is used instead" in run.lines[-1]
    (tmp_path / "empty").mkdir()
    for path, message in (("empty", "holds no checkpoint"), ("nowhere", "no such checkpoint or directory; give a")):
        with pytest.raises(UserError, match=message):
            run.checkpoints.restore_weights(str(tmp_path / path))


def prune_at(monkeypatch, writer, call):
    """Lets a run save its next checkpoint, and remove all others, before the n-th time that one is opened."""
    opened, load = [], tf.train.load_checkpoint

    def load_after(path):
        opened.append(path)
        if len(opened) == call:
            writer.save(10)
        return load(path)

    monkeypatch.setattr(tf.train, "load_checkpoint", load_after)
    return opened


@pytest.mark.parametrize("how", ["restore_newest", "restore_weights", "restore_for_evaluation"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_reader_beside_a_run_that_removes_old_ones_takes_the_next_newest(tmp_path, monkeypatch, how, call):
    writer = Run(tmp_path, keep_checkpoints=1).save(4, 8)
    run = Run(tmp_path)
    opened = prune_at(monkeypatch, writer, call)
    if how == "restore_newest":
        assert run.checkpoints.restore_newest() == (8 if len(opened) < call else 10)
    elif how == "restore_weights":
        run.checkpoints.restore_weights(str(tmp_path))
    else:
        assert run.checkpoints.restore_for_evaluation(str(tmp_path), with_optimizer=False) in (8, 10)
    assert run.values() == ({8.0} if len(opened) < call else {10.0})
    assert not any("damaged" in line for line in run.lines)


def test_one_that_was_named_and_is_removed_is_not_replaced_by_another(tmp_path, monkeypatch):
    writer = Run(tmp_path, keep_checkpoints=1).save(4, 8)
    prune_at(monkeypatch, writer, 2)
    with pytest.raises(UserError, match=r"--checkpoint=.*ckpt-8: no such checkpoint or directory"):
        Run(tmp_path).checkpoints.restore_weights(str(tmp_path / "ckpt-8"))


def test_files_are_forced_to_the_disk_before_they_count(tmp_path, monkeypatch):
    events = []
    fsync, rename = checkpoint_files.os.fsync, tf.io.gfile.rename
    monkeypatch.setattr(checkpoint_files.os, "fsync", lambda number: (events.append("fsync"), fsync(number)))
    monkeypatch.setattr(
        tf.io.gfile, "rename", lambda source, *rest, **more: (events.append(source[-8:]), rename(source, *rest, **more))
    )
    Run(tmp_path).save(4)
    assert events[:3] == ["fsync"] * 3  # data, index, their directory
    assert events[3] == ".partial"
