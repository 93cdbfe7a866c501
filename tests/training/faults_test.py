"""What happens to machines and files, inflicted on runs in processes of their own, which go on as if it had not."""

import collections
import concurrent.futures
import dataclasses
import functools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time

import pytest
import tensorflow as tf

from electra_cli.config import default_config, flatten
from electra_cli.training.workdir import read_metrics
from tests.conftest import prepare_small, small_config
from tests.training.loop_test import assert_same_run, metrics_of, weights_of
from tests.training.processes import Run, clock_set_back, limit_files, slow_disk
from tests.training.survival_test import steps_in

pytestmark = pytest.mark.slow

NUM_KILLS = 20
SECONDS_TO_STOP = 30.0  # from the end of the step under way to the end of the process


class Starter:
    """Starts runs of a config in a workdir."""

    def __init__(self, config, workdir):
        self.workdir = pathlib.Path(workdir)
        self._logs = self.workdir.parent / f"{self.workdir.name}.logs"
        self._logs.mkdir()
        default = flatten(default_config())
        self._keys = {key: value for key, value in flatten(config).items() if value != default[key]}

    def start(self, *faults, mode="train_and_eval", **changes) -> Run:
        """Starts a process with other values of some keys (`train__seed` is train.seed)."""
        keys = {**self._keys, **{key.replace("__", "."): value for key, value in changes.items()}}
        flags = [f"--config.{key}={value}" for key, value in keys.items()]
        return Run(["--config=small", *flags, f"--workdir={self.workdir}", f"--mode={mode}"], self._logs, *faults)

    def finish(self, *faults, **changes) -> Run:
        """Starts a process, which must end well."""
        run = self.start(*faults, **changes)
        assert run.end() == 0, run.output + run.errors
        assert run.errors == "" and "damaged" not in run.output
        return run

    def fail(self, *faults, **changes) -> str:
        """Starts a process that must end as at a mistake of the user's, and returns the one line that it tells."""
        run = self.start(*faults, **changes)
        assert run.end() == 2, run.output + run.errors
        return told(run)


def told(run):
    """Returns the one line that a run that has ended told on standard error."""
    assert run.errors.count("\n") == 1 and run.errors.startswith("electra-pretrain: "), run.errors
    return run.errors.strip()


def in_pairs(function, cases):
    """Calls a function with each case, two at a time."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(function, cases))


@pytest.fixture(scope="module")
def data(corpus_file, tmp_path_factory):
    """Prepared data of some twenty shards, of which a run of 12 steps reads a few."""
    return prepare_small(corpus_file, tmp_path_factory.mktemp("shards") / "data", shard_size_mb=0.0006)[0]


def quick_config(data_dir):
    """Twelve steps, saved every two and evaluated every four, of the network that is quickest to build."""
    config = small_config(data_dir)
    config.objective.name = "mlm"
    config.model.num_layers = 1
    config.model.generator_size = default_config().model.generator_size
    config.train.checkpoint_interval, config.train.keep_checkpoints = 2, 10
    config.eval.interval = 4
    return config


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The run of that config that was never disturbed."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    Starter(quick_config(data), workdir).finish()
    assert steps_in(workdir / "checkpoints") == [2, 4, 6, 8, 10, 12]
    return workdir


@pytest.fixture
def begun(whole, data, tmp_path):
    """Begins a run: a workdir as it was after step 6."""

    def begin(workdir=tmp_path / "run", data_dir=data):
        shutil.copytree(whole, workdir)
        for path in (workdir / "checkpoints").glob("ckpt-*"):
            if int(re.match(r"ckpt-(\d+)", path.name)[1]) > 6:
                path.unlink()
        file = workdir / "metrics.jsonl"
        kept = [line for line in file.read_text().splitlines() if json.loads(line)["step"] <= 6]
        file.write_text("".join(f"{line}\n" for line in kept))
        return Starter(quick_config(data_dir), workdir)

    return begin


@dataclasses.dataclass
class Moment:
    """When to kill: behind the beginning of something, by a share of the time that it usually takes."""

    stage: str
    occurrence: int
    share: float
    in_background: bool

    def kill(self, starter: Starter, usual: dict[str, float]) -> Run:
        run = starter.start(slow_disk, train__async_checkpoints=self.in_background)
        assert self.stage == "starting" or run.wait_for(self.stage, self.occurrence), "the run was done before"
        time.sleep(self.share * usual[self.stage])
        run.send(signal.SIGKILL)
        assert run.end() == -signal.SIGKILL, run.output + run.errors
        assert run.errors == ""
        return run


def draw_moments(seed):
    """Draws when to kill: the first time before anything is saved, then in any order."""
    rng = random.Random(seed)
    stages = ["starting"] * 4 + ["computing"] * 3 + ["evaluating"] * 3 + ["saving"] * 9
    rng.shuffle(stages)
    moments = []
    for stage in ["starting", *stages]:
        in_background = rng.random() < 0.5
        # The first checkpoint of a process is written in the foreground; the first step is part of starting.
        later = stage == "computing" or (stage == "saving" and in_background)
        moments.append(Moment(stage, 2 if later else 1, rng.random(), in_background))
    return moments


def test_killed_at_twenty_random_moments_equals_never_killed(data, tmp_path):
    config = small_config(data)
    config.model.num_layers = 1
    config.train.num_steps = 40
    config.train.checkpoint_interval, config.train.keep_checkpoints, config.train.keep_every_steps = 2, 2, 8
    config.train.best_metric = "rtd_loss"
    whole = Starter(config, tmp_path / "whole")
    undisturbed = whole.finish(slow_disk)
    usual = {name: sum(times) / len(times) for name in ("computing", "saving", "evaluating")
             for times in [undisturbed.seconds(name)[1:]]}  # fmt: skip
    begin = next(when for note, when in undisturbed.noted if note == "end computing")
    usual["starting"] = begin - undisturbed.started

    starter = Starter(config, tmp_path / "run")
    killed_in: collections.Counter[str] = collections.Counter()
    saved = 0
    for number, moment in enumerate(draw_moments(seed=5), 1):
        run = moment.kill(starter, usual)
        going_on = re.search(r"Going on from step (\d+)\.", run.output)
        if going_on:
            # Nothing that was saved is lost; the checkpoint that the kill before fell into may count or not.
            assert saved <= int(going_on[1]) <= saved + 2
        elif saved:
            assert not run.doing  # it was killed before it looked
        assert "damaged" not in run.output
        stage = "+".join(sorted(run.doing)) or ("starting" if not run.noted else "between")
        killed_in.update(run.doing or [stage])
        saved = max([saved, int(going_on[1]) if going_on else 0, *run.saved])
        print(f"kill {number:2}: {'background' if moment.in_background else 'foreground'} {stage:22} saved {saved}")
    assert sum(killed_in.values()) >= NUM_KILLS
    assert killed_in["saving"] >= 3 and killed_in["evaluating"] >= 1, killed_in
    assert killed_in["starting"] + killed_in["computing"] >= 2, killed_in

    assert f"Going on from step {saved}" in starter.finish().output or saved == 0
    assert_same_run(whole.workdir, starter.workdir)
    for directory in ("checkpoints", "checkpoints/best"):
        names = [sorted(path.name for path in (run.workdir / directory).iterdir()) for run in (whole, starter)]
        assert names[0] == names[1]
    records = [(run.workdir / "checkpoints" / "best" / "best.json").read_text() for run in (whole, starter)]
    assert records[0] == records[1]


# What is under way when the signal comes, how many times it has begun, the seconds since then, and keys.
STOPS = {
    "the first step is compiled": ("computing", 1, 0.5, {}),
    "evaluating": ("evaluating", 1, 0.0, {}),
    "saving": ("saving", 1, 0.02, {}),
    "saving in the background": ("saving", 2, 0.02, {"train__async_checkpoints": True}),
    "saving the best": ("saving", 3, 0.02, {"train__best_metric": "masked_lm_loss"}),
}


def test_sigterm_loses_nothing_whatever_is_under_way(whole, data, tmp_path):
    def stop_and_go_on(name):
        stage, occurrence, seconds, changes = STOPS[name]
        starter = Starter(quick_config(data), tmp_path / name.replace(" ", "_"))
        run = starter.start(slow_disk, **changes)
        assert run.wait_for(stage, occurrence), name
        time.sleep(seconds)
        sent = run.send(signal.SIGTERM)
        assert run.end() == 75, name + run.output + run.errors
        assert stage in run.doing_at(sent), f"{name}: the signal came when it was over"
        line = re.fullmatch(
            r"electra-pretrain: stopped by SIGTERM (at|while evaluating) step (\d+); "
            r"saved: the same command goes on from there",
            told(run),
        )
        assert line, told(run)
        step_end = next(when for note, when in run.noted if note == "end computing")
        assert run.ended - max(sent, step_end) < SECONDS_TO_STOP
        assert steps_in(starter.workdir / "checkpoints")[-1] == int(line[2])
        assert f"Going on from step {line[2]}." in starter.finish(**changes).output
        assert_same_run(whole, starter.workdir)
        print(f"SIGTERM while {name}: {told(run)} after {run.ended - sent:.2f} s")

    in_pairs(stop_and_go_on, STOPS)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets a test mount nothing")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk, bytes_left):
    status = os.statvfs(disk)
    with open(disk / "ballast", "wb") as stream:
        stream.write(bytes(status.f_bavail * status.f_bsize - bytes_left))


def content_of(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_a_disk_full_while_saving_leaves_the_checkpoints_before(whole, begun, small_disk):
    starter = begun(small_disk / "run")
    checkpoints = starter.workdir / "checkpoints"
    before = content_of(checkpoints)
    assert len(before["ckpt-6.data-00000-of-00001"]) > 60_000
    fill(small_disk, 48_000)  # for config, metrics and TensorBoard
    message = starter.fail()
    assert "no checkpoint of step 8 could be written to" in message and "No space left on device" in message
    assert content_of(checkpoints) == before and [path for path in checkpoints.iterdir() if path.is_dir()] == []
    (small_disk / "ballast").unlink()
    assert "Going on from step 6." in starter.finish().output
    assert_same_run(whole, starter.workdir)


def test_a_write_that_fails_while_saving_leaves_the_checkpoints_before(whole, begun):
    """The same on machines that let a test mount nothing: the kernel refuses to let a file grow."""
    starter = begun()
    before = content_of(starter.workdir / "checkpoints")
    message = starter.fail(functools.partial(limit_files, 32_000), train__async_checkpoints=True)
    assert "no checkpoint of step 8 could be written to" in message and "File too large" in message
    assert content_of(starter.workdir / "checkpoints") == before
    assert "Going on from step 6." in starter.finish().output
    assert_same_run(whole, starter.workdir)


def test_a_disk_full_while_metrics_are_written(whole, begun, small_disk):
    starter = begun(small_disk / "run")
    run = starter.start()
    assert run.wait_for("computing")
    fill(small_disk, 0)
    assert run.end() == 2, run.output + run.errors
    assert re.search(r"metrics of step \d+ could not be written to .*No space left on device", told(run)), told(run)
    (small_disk / "ballast").unlink()
    assert "Going on from step 6." in starter.finish().output
    assert_same_run(whole, starter.workdir)


def test_a_disk_full_while_the_config_is_written(whole, begun, small_disk):
    starter = begun(small_disk / "run")
    before = content_of(starter.workdir)
    fill(small_disk, 0)
    message = starter.fail(train__log_interval=4)
    assert "config.json" in message and "No space left on device" in message
    assert content_of(starter.workdir) == before
    (small_disk / "ballast").unlink()
    assert "Going on from step 6." in starter.finish().output
    assert_same_run(whole, starter.workdir)


def test_a_clock_that_is_set_back_changes_nothing(whole, begun):
    starter = begun()
    for step, seconds in ((2, 4_000_000_000), (4, 2_000_000_000), (6, 1_000_000_000)):  # 2096, 2033, 2001
        for path in (starter.workdir / "checkpoints").glob(f"ckpt-{step}.*"):
            os.utime(path, (seconds, seconds))
    for name in ("config.json", "metrics.jsonl", "checkpoints/checkpoint"):
        os.utime(starter.workdir / name, (4_000_000_000, 4_000_000_000))
    run = starter.finish(clock_set_back)
    assert "Going on from step 6." in run.output
    assert_same_run(whole, starter.workdir)
    rates = [line["tokens_per_second"] for line in read_metrics(str(starter.workdir)) if line["split"] == "train"]
    usual = [line["tokens_per_second"] for line in read_metrics(str(whole)) if line["split"] == "train"]
    assert len(rates) == 6
    assert usual[-1] / 30 < rates[-1] < usual[-1] * 30
    left = re.findall(r"tokens/s  (.*) left", run.output)
    assert left and left[-1] == "0s" and all(re.fullmatch(r"\d+s", text) for text in left)


def test_a_second_run_in_a_workdir_ends_and_does_not_disturb_the_first(whole, data, tmp_path):
    starter = Starter(quick_config(data), tmp_path / "run")
    first = starter.start(slow_disk)
    assert first.wait_for("computing")
    assert starter.fail() == (
        f"electra-pretrain: error: --workdir={starter.workdir}: another process trains here; wait for it or choose "
        f"another directory"
    )
    assert starter.fail(train__log_interval=4).endswith("choose another directory")
    assert first.wait_for("saving", 2)
    reader = starter.start(mode="eval")  # evaluating takes no lock
    assert reader.end() == 0, reader.errors
    assert re.search(r"Held-out evaluation at step \d+ on 20 examples", reader.output)
    assert first.end() == 0 and first.errors == ""
    assert_same_run(whole, starter.workdir)
    assert "Held-out evaluation at step 12" in starter.finish().output  # the lock is gone with the process
