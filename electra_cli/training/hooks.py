"""Hooks, each one thing that a run does between updates; `loop.default_hooks` lists them in order."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from electra_cli.loggers.logger import METRIC_DIGITS
from electra_cli.training.evaluation import Evaluator, format_table
from electra_cli.training.run import Run, TrainingRun
from electra_cli.training.updates import Sums

# Lines of metrics.jsonl, as dictionaries.
MetricsLines = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Update:
    """The sums of a call of `updates.Updates`, and the metrics of the interval (`train.log_interval`) that it ends."""

    sums: Sums
    metrics: dict[str, float] | None


class Hook:
    """Something that a run does between updates; methods that a hook does not override do nothing."""

    def modules(self, run: TrainingRun) -> dict[str, tf.Module]:
        """Returns state for the checkpoint, by name."""
        return {}

    def resume(self, run: TrainingRun, lines: MetricsLines) -> None:
        """Is called after a restore, with the metrics up to that step, to do what a stop prevented there."""

    def after_update(self, run: TrainingRun, update: Update) -> None:
        """Is called after each call of some updates; may raise `RolledBack`, `Interrupted` or a `UserError`."""

    def at_stop(self, run: TrainingRun) -> None:
        """Is called when a hook has raised an `Interrupted`."""

    def end(self, run: TrainingRun) -> None:
        """Is called at the end of a complete run, whose last checkpoint is on the disk."""

    def evaluate(self, run: Run) -> dict[str, float]:
        """Returns and reports metrics of a run that is only evaluated (`loop.evaluate`)."""
        return {}


class RolledBack(Exception):
    """The run was set back to an earlier step, from where it continues."""


class LogMetrics(Hook):
    """Logs the metrics of each interval."""

    def modules(self, run: TrainingRun) -> dict[str, tf.Module]:
        return {"interval_sums": run.interval_sums}

    def after_update(self, run: TrainingRun, update: Update) -> None:
        if update.metrics is not None:
            run.logger.metrics("train", run.step, update.metrics, run.throughput.line(run.step, update.metrics))


class SaveCheckpoints(Hook):
    """Saves every `train.checkpoint_interval` steps, at the end of each phase, and at a stop."""

    def after_update(self, run: TrainingRun, update: Update) -> None:
        run.checkpoints.check()
        if run.step % run.config.train.checkpoint_interval == 0 or run.step == run.phase.end:
            run.save()

    def at_stop(self, run: TrainingRun) -> None:
        run.save()


class Histograms(Hook):
    """Writes histograms of the weights every `train.checkpoint_interval` steps, with `train.histograms`."""

    def after_update(self, run: TrainingRun, update: Update) -> None:
        if run.config.train.histograms and run.step % run.config.train.checkpoint_interval == 0:
            run.logger.histograms(run.step, run.model.trainable_variables)


class StopOnRequest(Hook):
    """Ends the run when a worker was asked to stop, unless it is complete."""

    def after_update(self, run: TrainingRun, update: Update) -> None:
        if run.step < run.config.train.num_steps:
            run.end_if_asked(f"at step {run.step:,}")


class Evaluate(Hook):
    """Evaluates every `eval.interval` steps and at the end of each phase, and keeps the best checkpoint."""

    def __init__(self) -> None:
        self._evaluator: Evaluator | None = None
        self._result: dict[str, float] = {}

    def resume(self, run: TrainingRun, lines: MetricsLines) -> None:
        # The stop may have come between saving and evaluating.
        evaluated = [
            line
            for line in lines
            if (line["split"], line["step"]) == ("validation", run.step)
            and line["num_examples"] == self._evaluator_of(run).num_examples
        ]
        if evaluated:
            self._result = {name: value for name, value in evaluated[-1].items() if name not in ("step", "split")}
            run.checkpoints.save_if_best(run.step, self._result)  # the stop may have come before this
        elif run.is_evaluation_due():
            self._evaluate(run)

    def after_update(self, run: TrainingRun, update: Update) -> None:
        if run.is_evaluation_due():
            self._evaluate(run)
            run.throughput.restart(run.step)

    def end(self, run: TrainingRun) -> None:
        self._report_result(run)

    def evaluate(self, run: Run) -> dict[str, float]:
        evaluator = self._evaluator_of(run)
        with run.logger.status(f"Evaluating {evaluator.num_examples:,} held-out examples"):
            self._result = evaluator.run()
        self._report_result(run)
        return self._result

    def _report_result(self, run: Run) -> None:
        table = format_table(run.objective, self._result, run.step)
        run.logger.result("evaluation", {"step": run.step, **self._result}, table)

    def _evaluate(self, run: TrainingRun) -> None:
        evaluator, step = self._evaluator_of(run), run.step
        with run.logger.status(f"Evaluating {evaluator.num_examples:,} held-out examples"):
            result = evaluator.run(before_batch=lambda: run.end_if_asked(f"while evaluating step {step:,}"))
        result |= run.phase_number()
        samples = evaluator.samples()
        names = [name for name in METRIC_DIGITS if name in result and name != "total_loss"]
        line = "  ".join([f"step {step:,} held-out", *(f"{name} {result[name]:.4f}" for name in names)])
        run.logger.metrics("validation", step, result, line)
        if samples:
            run.logger.samples(step, samples)
        self._result = result
        run.checkpoints.save_if_best(step, result)

    def _evaluator_of(self, run: Run) -> Evaluator:
        if self._evaluator is None or self._evaluator.phase is not run.phase:
            self._evaluator = Evaluator(run.model, run.optimizer, run.runtime, run.phase)
        return self._evaluator
