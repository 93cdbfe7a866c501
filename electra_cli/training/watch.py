"""Hooks that detect steps that are not finite, spikes of the loss, and networks that learn nothing."""

import numpy as np
import tensorflow as tf

from electra_cli.errors import UserError
from electra_cli.objectives.base import Objective, unigram_entropy
from electra_cli.training import replay
from electra_cli.training.hooks import Hook, RolledBack, Update
from electra_cli.training.run import TrainingRun

# "Long after warm-up": so many times its steps, so many steps after it, and this fraction of the run.
_WARMUPS, _STEPS_AFTER_WARMUP, _FRACTION_OF_RUN = 3, 500, 0.25


class NonFiniteSteps(Hook):
    """Keeps steps that were skipped because they were not finite; ends the run after `watch.max_nonfinite_steps`."""

    def modules(self, run: TrainingRun) -> dict[str, tf.Module]:
        return {"watch": run.monitor}

    def after_update(self, run: TrainingRun, update: Update) -> None:
        nonfinite_replicas = update.sums["nonfinite_replicas"].numpy()
        if not nonfinite_replicas.any():
            return
        step, monitor = run.step, run.monitor
        replicas = [int(replica) for replica in np.flatnonzero(nonfinite_replicas)]
        data_step = step - 1 + int(monitor.num_skipped.numpy())
        record = replay.Record(step, data_step, run.phase.number + 1, len(nonfinite_replicas), replicas)
        kept = "worker 0 keeps it for --mode=replay"
        if run.runtime.is_chief:
            kept = f"kept in {replay.save_record(run.workdir.path, record, run.model)} for --mode=replay"
        monitor.num_nonfinite.assign_add(1)
        count, allowed = int(monitor.num_nonfinite.numpy()), run.config.watch.max_nonfinite_steps
        run.logger.event("nonfinite", step, replicas=replicas)
        numbers = ", ".join(map(str, replicas))
        what = f"step {step:,}: the loss or gradient of replica {numbers} is infinite or NaN; {kept}"
        if count > allowed:
            raise UserError(
                f"{what}. {run.advise_restart()}, or allow some such steps by config.watch.max_nonfinite_steps, "
                f"now {allowed}"
            )
        run.logger.warning(f"Warning, {what}. Its update is skipped ({count} of {allowed} allowed).")


class LossSpikes(Hook):
    """Rolls the run back when the loss of an interval is far above those before, with `watch.spike_factor`.

    It resumes from the checkpoint before that interval, with other examples; `watch.max_rollbacks` times, else it ends.
    """

    def modules(self, run: TrainingRun) -> dict[str, tf.Module]:
        return {"watch": run.monitor}

    def after_update(self, run: TrainingRun, update: Update) -> None:
        factor = run.config.watch.spike_factor
        if not factor or not update.metrics or "total_loss" not in update.metrics:
            return
        if run.step <= run.phase.config.optimizer.warmup_steps:
            return
        loss, median = update.metrics["total_loss"], run.monitor.median()
        if median is not None and loss > factor * median:
            self._roll_back(run, loss, median)
            raise RolledBack
        run.monitor.add_loss(loss)

    def _roll_back(self, run: TrainingRun, loss: float, median: float) -> None:
        settings, monitor, step = run.config.watch, run.monitor, run.step
        what = (
            f"step {step:,}: total_loss {loss:.3f} is more than {settings.spike_factor:g} times the median {median:.3f}"
        )
        num_rollbacks, num_skipped = int(monitor.num_rollbacks.numpy()), int(monitor.num_skipped.numpy())
        if num_rollbacks >= settings.max_rollbacks:
            raise UserError(
                f"{what}, after {num_rollbacks} roll-backs, all that config.watch.max_rollbacks allows. "
                f"{run.advise_restart()}"
            )
        interval = run.config.train.log_interval
        if not run.restore_before((step - 1) // interval * interval + 1):
            raise UserError(f"{what}, and no checkpoint is there to roll back to. {run.advise_restart()}")
        # The state of the checkpoint was restored, that of the monitor too.
        monitor.num_rollbacks.assign(num_rollbacks + 1)
        monitor.num_skipped.assign(num_skipped + step - run.step)
        run.logger.event("rollback", step, restored_step=run.step, total_loss=loss, median=median)
        run.logger.warning(
            f"Warning, {what}: rolled back to step {run.step:,}, from where it continues with other examples "
            f"({num_rollbacks + 1} of {settings.max_rollbacks} times)."
        )


class WarnOfCollapse(Hook):
    """Warns of networks that have learned nothing long after warm-up, once each until they recover."""

    def __init__(self, objective: Objective, warmup_steps: int, num_steps: int):
        self._objective = objective
        self._begin = max(_WARMUPS * warmup_steps, warmup_steps + _STEPS_AFTER_WARMUP, _FRACTION_OF_RUN * num_steps)
        self._collapsed: set[str] = set()

    def after_update(self, run: TrainingRun, update: Update) -> None:
        if update.metrics is None or "total_loss" not in update.metrics:
            return
        counts, special = run.phase.source.token_counts, run.phase.masking.special_token_ids
        unigram_loss = None if counts is None else unigram_entropy(counts, special)
        for warning in self.find(run.step, update.metrics, unigram_loss):
            run.logger.warning(warning)

    def find(self, step: int, values: dict[str, float], unigram_loss: float | None) -> list[str]:
        """Returns the warnings by the metrics of an interval and `unigram_entropy`, if known."""
        if step < self._begin:
            return []
        messages = self._objective.find_collapse(values, unigram_loss)
        new = [text for name, text in messages.items() if name not in self._collapsed]
        self._collapsed = set(messages)
        return [f"Warning, step {step:,}: {text}." for text in new]
