"""Each hook alone, with a run that only records what is asked of it."""

import types

import numpy as np
import pytest
import tensorflow as tf

from electra_cli.errors import Interrupted, UserError
from electra_cli.loggers.logger import Logger
from electra_cli.training import hooks, replay, watch
from electra_cli.training.hooks import RolledBack, Update
from electra_cli.training.run import LossMonitor, TrainingRun


class Recorder(Logger):
    """Keeps the calls."""

    def __init__(self):
        self.calls = []

    def notice(self, text):
        self.calls.append(("notice", text))

    def warning(self, text):
        self.calls.append(("warning", text))

    def metrics(self, split, step, values, line):
        self.calls.append((split, step, values, line))

    def histograms(self, step, variables):
        self.calls.append(("histograms", step))

    def event(self, event, step, **details):
        self.calls.append((event, step, details))


class FakeRun:
    """A run of 40 steps in two phases, with checkpoints every four steps and metrics every two."""

    end_if_asked = TrainingRun.end_if_asked
    advise_restart = TrainingRun.advise_restart

    def __init__(self, step):
        self.step, self.saved_step, self.saved = step, -1, []
        self.logger, self.monitor = Recorder(), LossMonitor()
        phase_config = types.SimpleNamespace(optimizer=types.SimpleNamespace(warmup_steps=2))
        self.phase = types.SimpleNamespace(number=0, end=30 if step <= 30 else 40, config=phase_config)
        self.config = types.SimpleNamespace(
            train=types.SimpleNamespace(num_steps=40, checkpoint_interval=4, log_interval=2, histograms=True),
            watch=types.SimpleNamespace(max_nonfinite_steps=1, spike_factor=3.0, max_rollbacks=1),
        )
        self.runtime = types.SimpleNamespace(is_chief=True, total=float)
        self.stop = types.SimpleNamespace(requested=False, name="SIGTERM")
        self.workdir = types.SimpleNamespace(path="run")
        self.checkpoints = types.SimpleNamespace(check=lambda: None)
        self.throughput = types.SimpleNamespace(line=lambda step, values: f"step {step}")
        self.interval_sums = tf.Module()
        self.model = types.SimpleNamespace(trainable_variables=[])

    def save(self):
        self.saved.append(self.step)

    def restore_before(self, step):
        self.restored_before, self.step = step, (step - 1) // 4 * 4
        return self.step > 0


def update(metrics=None, nonfinite=(0.0, 0.0)):
    return Update({"nonfinite_replicas": tf.constant(nonfinite)}, metrics)


def test_metrics_are_logged_where_an_interval_ends():
    run, hook = FakeRun(6), hooks.LogMetrics()
    hook.after_update(run, update())
    assert run.logger.calls == []
    hook.after_update(run, update({"total_loss": 1.0}))
    assert run.logger.calls == [("train", 6, {"total_loss": 1.0}, "step 6")]
    assert hook.modules(run) == {"interval_sums": run.interval_sums}


def test_checkpoints_are_saved_at_intervals_ends_of_phases_and_stops():
    hook = hooks.SaveCheckpoints()
    saved = []
    for step in range(26, 34):
        run = FakeRun(step)
        hook.after_update(run, update())
        saved += run.saved
    assert saved == [28, 30, 32]
    run = FakeRun(29)
    hook.at_stop(run)
    assert run.saved == [29]

    def fail():
        raise UserError("the disk is full")

    run.checkpoints.check = fail  # one that was being written in the background
    with pytest.raises(UserError, match="the disk is full"):
        hook.after_update(run, update())


def test_histograms_are_written_at_intervals_of_checkpoints_where_they_are_asked_for():
    written = []
    for step in range(28, 33):
        run = FakeRun(step)
        hooks.Histograms().after_update(run, update())
        written += run.logger.calls
    assert written == [("histograms", 28), ("histograms", 32)]
    run.config.train.histograms = False
    run.logger.calls.clear()
    hooks.Histograms().after_update(run, update())
    assert run.logger.calls == []


def test_a_stop_ends_a_run_that_is_not_complete():
    run = FakeRun(7)
    hooks.StopOnRequest().after_update(run, update())
    run.stop.requested = True
    with pytest.raises(Interrupted, match="stopped by SIGTERM at step 7; saved"):
        hooks.StopOnRequest().after_update(run, update())
    run.stop.name = ""
    with pytest.raises(Interrupted, match="stopped by another worker's signal at step 7"):
        hooks.StopOnRequest().after_update(run, update())
    run.step = 40
    hooks.StopOnRequest().after_update(run, update())


def test_steps_that_are_not_finite_are_kept_and_counted(monkeypatch):
    records = []
    monkeypatch.setattr(replay, "save_record", lambda path, record, model: records.append(record) or f"{path}/ckpt")
    run, hook = FakeRun(7), watch.NonFiniteSteps()
    run.monitor.num_skipped.assign(3)
    hook.after_update(run, update())
    assert records == [] and run.logger.calls == []
    hook.after_update(run, update(nonfinite=(0.0, 1.0)))
    assert records == [replay.Record(step=7, data_step=9, phase=1, num_replicas=2, nonfinite_replicas=[1])]
    event, (_, warning) = run.logger.calls
    assert event == ("nonfinite", 7, {"replicas": [1]})
    assert warning.startswith("Warning, step 7: the loss or gradient of replica 1 is infinite or NaN; kept in run/ckpt")
    assert warning.endswith("(1 of 1 allowed).")
    run.saved_step = 4
    with pytest.raises(UserError, match=r"step 7: .*\(the last checkpoint here is of step 4\), or allow .*, now 1"):
        hook.after_update(run, update(nonfinite=(1.0, 0.0)))
    assert int(run.monitor.num_nonfinite.numpy()) == 2
    assert hook.modules(run) == {"watch": run.monitor}


def spike(run, hook):
    """Takes the hook through ten calm intervals and one that is no more."""
    for _ in range(10):
        hook.after_update(run, update({"total_loss": 2.0}))
    hook.after_update(run, update())  # within an interval
    hook.after_update(run, update({"real_tokens": 0.0}))  # all of whose steps were skipped
    hook.after_update(run, update({"total_loss": 6.1}))


def test_a_spike_of_the_loss_is_rolled_back_to_before_its_interval():
    run, hook = FakeRun(11), watch.LossSpikes()
    with pytest.raises(RolledBack):
        spike(run, hook)
    assert (run.restored_before, run.step) == (11, 8)  # the interval began after step 10
    assert (int(run.monitor.num_rollbacks.numpy()), int(run.monitor.num_skipped.numpy())) == (1, 3)
    event, (_, warning) = run.logger.calls
    assert event == ("rollback", 11, {"restored_step": 8, "total_loss": 6.1, "median": 2.0})
    assert warning.startswith(
        "Warning, step 11: total_loss 6.100 is more than 3 times the median 2.000: rolled back to"
    )
    with pytest.raises(UserError, match="after 1 roll-backs, all that config"):
        hook.after_update(run, update({"total_loss": 7.0}))


def test_no_spike_is_looked_for_during_warm_up_or_where_none_is_asked_for():
    run = FakeRun(2)
    spike(run, watch.LossSpikes())
    assert run.monitor.median() is None
    run = FakeRun(11)
    run.config.watch.spike_factor = 0.0
    spike(run, watch.LossSpikes())
    run = FakeRun(3)
    with pytest.raises(UserError, match="and no checkpoint is there to roll back to"):
        spike(run, watch.LossSpikes())


class Evaluator:
    """In place of the real one."""

    num_examples = 20

    def __init__(self, model, optimizer, runtime, phase):
        self.phase = phase

    def run(self, before_batch=lambda: None):
        before_batch()
        return {"total_loss": 1.5, "masked_lm_loss": 1.25}

    def samples(self):
        return []


@pytest.fixture
def evaluated_run(monkeypatch):
    """A run whose evaluation is due, and a list that its best checkpoints are put into."""
    monkeypatch.setattr(hooks, "Evaluator", Evaluator)
    run, best = FakeRun(8), []
    run.optimizer, run.phase_number, run.is_evaluation_due = None, dict, lambda: True
    run.checkpoints.save_if_best = lambda step, result: best.append((step, result["total_loss"]))
    run.throughput.restart = lambda step: None
    return run, best


def test_evaluation_is_logged_and_may_be_the_best(evaluated_run):
    run, best = evaluated_run
    hook = hooks.Evaluate()
    hook.after_update(run, update())
    values = {"total_loss": 1.5, "masked_lm_loss": 1.25}
    assert run.logger.calls == [("validation", 8, values, "step 8 held-out  masked_lm_loss 1.2500")]
    assert best == [(8, 1.5)]
    run.stop.requested = True
    with pytest.raises(Interrupted, match="while evaluating step 8; saved"):
        hook.after_update(run, update())


def test_a_resumed_run_evaluates_what_a_stop_kept_it_from(evaluated_run):
    run, best = evaluated_run
    line = {"step": 8, "split": "validation", "total_loss": 2.5, "num_examples": 20}
    hooks.Evaluate().resume(run, [{**line, "step": 4}, line])
    assert run.logger.calls == [] and best == [(8, 2.5)]
    hooks.Evaluate().resume(run, [{**line, "num_examples": 12}])  # of another number of examples
    assert [call[:2] for call in run.logger.calls] == [("validation", 8)] and best[1:] == [(8, 1.5)]
    run.is_evaluation_due = lambda: False
    hooks.Evaluate().resume(run, [])
    assert len(best) == 2


def test_collapse_is_looked_for_by_the_frequencies_of_the_data():
    run = FakeRun(20)
    run.phase.source = types.SimpleNamespace(token_counts=np.array([7, 0, 2]))
    run.phase.masking = types.SimpleNamespace(special_token_ids=(0,))
    seen = []
    objective = types.SimpleNamespace(find_collapse=lambda values, loss: seen.append(loss) or {"generator": "is bad"})
    hook = watch.WarnOfCollapse(objective, warmup_steps=0, num_steps=40)
    hook._begin = 20
    hook.after_update(run, update())
    hook.after_update(run, update({"total_loss": 1.0}))
    shares = np.array([1, 3]) / 4
    assert seen == [pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-6)]
    assert run.logger.calls == [("warning", "Warning, step 20: is bad.")]
