"""Runs that are tried out."""

import collections
import dataclasses
import json
import math
import shutil

import pytest
import tensorflow as tf

from electra_cli.config.resolution import resolve
from electra_cli.data.source import read_run
from electra_cli.errors import Interrupted, UserError
from electra_cli.loggers.lines import JsonLines, Lines
from electra_cli.loggers.logger import Logger
from electra_cli.objectives.sizes import CheckpointSize, checkpoint_size
from electra_cli.planning import dry_run
from electra_cli.planning.dry_run import PhaseTrial, Trial, check_room, describe
from electra_cli.planning.scale import GIB
from electra_cli.training.distribution import Runtime
from electra_cli.training.run import Run, TrainingRun, open_run
from electra_cli.training.stopping import StopRequest
from electra_cli.workdir.workdir import Workdir
from tests.conftest import small_config

SIZE = CheckpointSize(one=GIB // 2, num_kept=3, num_for_good=0, kept=2 * GIB)
Usage = collections.namedtuple("Usage", "total used free")


def everything_in(directory):
    return {path: path.read_bytes() if path.is_file() else None for path in directory.rglob("*")}


@pytest.fixture
def free(monkeypatch):
    """Makes the disk have that many free bytes."""

    def make(free_bytes):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, free_bytes))

    return make


def test_room(tmp_path, free):
    free(2 * GIB)
    assert check_room(str(tmp_path / "deep" / "run"), SIZE) == 2 * GIB
    free(2 * GIB - 1)
    with pytest.raises(
        UserError,
        match=r"will take 2\.00 GiB \(3 that are kept, and one being written\) but 2\.00 GiB "
        r"are free there: make room, lower config\.train\.keep_checkpoints$",
    ):
        check_room(str(tmp_path / "run"), SIZE)
    assert everything_in(tmp_path) == {}
    # What checkpoints of the run take already is theirs.
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "ckpt-2.index").write_bytes(b"x")
    before = everything_in(tmp_path)
    assert check_room(str(tmp_path / "run"), SIZE) == 2 * GIB - 1
    assert everything_in(tmp_path) == before


def test_places_that_will_not_do(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in ("file", "file/run"):
        with pytest.raises(UserError, match="cannot be written"):
            check_room(str(tmp_path / path), SIZE)
    with Workdir(str(tmp_path / "held")), pytest.raises(UserError, match="another process trains here"):
        check_room(str(tmp_path / "held"), SIZE)


def trial_of(**changes):
    phase = PhaseTrial(1, 600, 12.0, 1, 2.0, 1000.0, 0.25, 33.3, 6, 4.0, 10.0)
    return Trial(**{"step": 400, "num_steps": 1000, "num_parameters": 5, "phases": (phase,), "checkpoints": SIZE,
                    "free_bytes": 64 * GIB, "peak_bytes": GIB, **changes})  # fmt: skip


def test_what_is_told():
    trial = trial_of()
    assert trial.seconds == 12 + 600 * 2 + 4 + 6 * 10
    lines = describe(trial, "run").splitlines()
    assert lines[:7] == [
        "Dry run of the run in run, from step 400 on; nothing was written there.",
        "  first step   12.0 s, with building it",
        "  others       2 s, median of 1: 1,000 real tokens/s, utilization 25%; total_loss 33.300",
        "  evaluation   10 s, by some batches of it",
        "The run would take:",
        "  time         21m 16s at this speed: 20m 0s for 600 steps, 1m 16s for 6 evaluations and for building; more "
        "for checkpoints",
        "  disk         2.00 GiB: 3 checkpoints of 0.50 GiB, and one being written; 64.00 GiB are free",
    ]
    assert lines[7].startswith("  memory       1.00 GiB at the peak so far") and len(lines) == 8
    assert describe(trial_of(phases=(), step=1000), "run").endswith("The run is complete: all 1,000 steps are done.")
    assert "free" not in describe(trial_of(free_bytes=None), "gs://b/run")


@pytest.mark.parametrize(
    ("interval", "begin", "expected"), [(6, 0, 2), (6, 6, 1), (6, 7, 1), (5, 0, 3), (5, 10, 1), (0, 0, 1)]
)
def test_evaluations_that_are_left_are_those_of_training(config, tmp_path, interval, begin, expected):
    config.train.steps_per_loop, config.train.checkpoint_interval = 1, 4
    config.eval.interval = interval
    (phase,) = read_run(config).phases
    assert dry_run._num_evaluations(phase, begin) == expected


def save_untrained(config, workdir, step):
    """Makes what a run leaves that has saved a step, but for training it."""
    runtime, resolved, phases = open_run(config, Logger())
    with Workdir(str(workdir)) as directory, StopRequest() as stop:
        run = TrainingRun(runtime, resolved, phases, Logger(), directory, stop)
        with run.open_checkpoints({}):
            run.restore(None)
            run.step = step
            run.optimizer.iterations.assign(step)
            run.save()


@pytest.mark.slow
def test_nothing_is_left_and_the_run_is_foreseen(config, tmp_path, monkeypatch):
    config.objective.name = "mlm"  # quicker to build
    config.phases.num_steps = (4, 8)
    lines = []
    trial = dry_run.dry_run(config, str(tmp_path / "run"), with_evaluation=True, logger=JsonLines(lines.append))
    assert not (tmp_path / "run").exists()
    assert (trial.step, trial.num_steps) == (0, 12)
    assert [(phase.num_steps, phase.num_evaluations) for phase in trial.phases] == [(4, 1), (8, 2)]
    assert trial.checkpoints == checkpoint_size(resolve(config, 160))
    for phase in trial.phases:
        assert 0 < phase.step_seconds < phase.first_step_seconds and phase.evaluation_seconds > 0
        assert 4 < phase.total_loss < 6  # of 160 tokens: ln(160) = 5.08
    record = json.loads(lines[-1])
    assert record["event"] == "dry_run" and record["seconds"] == trial.seconds

    # From a checkpoint in the middle of the second phase.
    save_untrained(config, tmp_path / "run", 8)
    before, text = everything_in(tmp_path / "run"), []
    trial = dry_run.dry_run(config, str(tmp_path / "run"), with_evaluation=False, logger=Lines(text.append))
    assert everything_in(tmp_path / "run") == before
    assert (trial.step, [phase.number for phase in trial.phases], trial.phases[0].num_steps) == (8, [2], 4)
    assert trial.phases[0].num_evaluations == 0 and not math.isnan(trial.seconds)
    assert len(text[-1].splitlines()) < 25 and "  phase 2\n" in text[-1]
    config.train.seed = 1
    with pytest.raises(UserError, match="holds a run of another config"):
        dry_run.dry_run(config, str(tmp_path / "run"), with_evaluation=False)

    # From the weights of a checkpoint, with which a run begins; its steps are those above.
    monkeypatch.setattr(dry_run, "_try_phase", lambda *_: trial.phases[0])
    config.phases.num_steps = ()
    checkpoint = str(tmp_path / "run" / "checkpoints" / "ckpt-8")
    begun = dry_run.dry_run(
        config, str(tmp_path / "new"), with_evaluation=False, logger=Lines(text.append), checkpoint=checkpoint
    )
    assert begun.step == 0 and f"Starting at step 0 from the weights of {checkpoint};" in "".join(text)


def test_workers_make_the_same_number_of_steps_whatever_each_of_them_measures(data_dir, monkeypatch):
    """One that made a step more would wait for the others in it for ever."""
    totals = []

    def total(runtime, value):  # of this worker, and another that measured five seconds a step
        totals.append(value)
        return value + 5.0

    config = small_config(data_dir)
    config.objective.name = "mlm"  # quicker to build
    runtime, resolved, phases = open_run(config, Lines(lambda _: None))
    run = Run(runtime, resolved, phases, Lines(lambda _: None))
    monkeypatch.setattr(Runtime, "total", total)
    run.runtime = dataclasses.replace(runtime, num_workers=2)
    trial = dry_run._try_phase(run, phases[0], 1e9, with_evaluation=False)
    assert (trial.num_timed, len(totals)) == (1, 2)
    assert trial.step_seconds == pytest.approx((totals[1] + 5.0) / 2)


def test_a_worker_that_is_lost_meanwhile_is_named(data_dir, tmp_path, monkeypatch):
    def lose_worker(*_):
        raise tf.errors.UnavailableError(None, None, "Connection reset by /job:worker/replica:0/task:1")

    def open_two(*arguments, **more):
        runtime, *rest = open_run(*arguments, **more)
        return dataclasses.replace(runtime, num_workers=2), *rest

    monkeypatch.setattr(dry_run, "open_run", open_two)
    monkeypatch.setattr(dry_run, "_try_phase", lose_worker)
    with pytest.raises(Interrupted, match=r"^worker 0 lost worker 1, which was killed or cannot be reached"):
        dry_run.dry_run(small_config(data_dir), str(tmp_path), with_evaluation=False, logger=Lines(lambda _: None))
