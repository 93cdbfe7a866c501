"""One process' share of a run: training, logging, saving and evaluating, from the newest checkpoint to the end."""

import contextlib
import math
import time
from collections.abc import Sequence

import ml_collections
import numpy as np
import tensorflow as tf
import tf_keras

from electra_cli.data.input_pipeline import reading, training_batches
from electra_cli.data.source import Phase, describe, fingerprint, phase_at
from electra_cli.errors import Interrupted, ResumableError, UserError
from electra_cli.loggers.logger import Logger
from electra_cli.objectives.base import Pretrainer, build_pretrainer, objective_of, unigram_entropy
from electra_cli.objectives.flops import matmul_flops
from electra_cli.probes import prober as probes
from electra_cli.probes.probe_files import ProbeExamples
from electra_cli.training import replay
from electra_cli.training.distribution import Runtime
from electra_cli.training.evaluation import Evaluator, format_table
from electra_cli.training.initialization import Changes, start_from
from electra_cli.training.optimization import Optimizer, build_optimizer, uses_loss_scaling
from electra_cli.training.steps import TrainSteps, build_train_steps
from electra_cli.training.stopping import StopRequest
from electra_cli.training.throughput import Pace, Progress, measure_flops_per_second
from electra_cli.training.updates import IntervalSums, with_counts
from electra_cli.training.watch import CollapseNotices, Watch
from electra_cli.workdir.checkpoints import Checkpoints
from electra_cli.workdir.run_files import read_metrics
from electra_cli.workdir.workdir import Workdir


def build_model(config: ml_collections.FrozenConfigDict, runtime: Runtime) -> tuple[Pretrainer, Optimizer]:
    """Builds model and optimizer of a resolved config, with all their variables."""
    with runtime.strategy.scope():
        # The one use of the global generator: initial weights, which follow from the seed too.
        tf_keras.utils.set_random_seed(config.train.seed)
        model = build_pretrainer(config)
        optimizer = build_optimizer(config)
        optimizer.build(model.trainable_variables)
    return model, optimizer


class Run:
    """One process' share of a run.

    Args:
      config: the resolved config of the whole run.
      phases: its phases.
      runtime: devices.
      directory: the workdir, entered.
      stop: asks for a stop.
      probed: the examples of `eval.probes`; none where nothing is evaluated.
      with_evaluation: whether to evaluate.
      logger: receives progress reports.

    Attributes:
      checkpoints: of the workdir.
    """

    def __init__(
        self,
        config: ml_collections.FrozenConfigDict,
        phases: list[Phase],
        runtime: Runtime,
        directory: Workdir,
        stop: StopRequest,
        probed: Sequence[ProbeExamples],
        with_evaluation: bool,
        logger: Logger,
    ):
        self._config, self._phases, self._runtime = config, phases, runtime
        self._directory, self._stop, self._logger = directory, stop, logger
        self._with_evaluation = with_evaluation
        with logger.status("Building the model"):
            self._model, self._optimizer = build_model(config, runtime)
        self._objective = objective_of(config)
        self._sums = IntervalSums(with_counts(self._objective.sum_shapes()))
        self._watch = Watch()
        self._collapse = CollapseNotices(self._objective, config.optimizer.warmup_steps, config.train.num_steps)
        self.checkpoints = Checkpoints(
            directory.checkpoint_dir,
            self._model,
            self._optimizer,
            {"interval_sums": self._sums, "watch": self._watch},
            config.train,
            logger,
            is_writer=runtime.is_chief,
        )
        self._prober = probes.Prober(config, phases, probed, self._model, self._optimizer, runtime) if probed else None
        self._evaluator: Evaluator | None = None
        self._train_steps: tuple[Phase, TrainSteps] | None = None
        self._last_result: dict[str, float] | None = None
        self._saved_step = -1
        self._lost_step = 0
        self._flops_per_second = math.nan

    def train(self, step: int) -> None:
        """Trains, logs, saves and evaluates from a step to the last, phase after phase."""
        if step == self._config.train.num_steps:
            self._logger.notice(f"The run is complete: all {step:,} steps are done.")
            return
        count = sum(math.prod(variable.shape) for variable in self._model.trainable_variables)
        with self._logger.status("Measuring how fast the devices are"):
            self._flops_per_second = measure_flops_per_second(self._runtime)
        self._logger.notice(
            f"Model: {count / 1e6:.1f} million parameters. Measured peak in matrix products: "
            f"{self._flops_per_second / 1e12:.2f} TFLOP/s, which utilization is relative to."
        )
        self._logger.event("start", step, devices=self._runtime.devices, lost_step=self._lost_step)
        try:
            while step < self._config.train.num_steps:
                step = self._train_phase(phase_at(self._phases, step + 1), step)
        except (Interrupted, UserError) as end:
            self._record_early_end(end)
            raise
        self._logger.event("end", step)

    def _record_early_end(self, end: Interrupted | UserError) -> None:
        step = int(self._optimizer.iterations.numpy())
        if isinstance(end, Interrupted):
            self._logger.event("stop", step, reason=self._stop.name or "another worker's signal")
            return
        with contextlib.suppress(ResumableError):  # the error itself is told; a full disk may be the reason for both
            self._logger.event("error", step, reason=str(end))

    def _train_phase(self, phase: Phase, step: int) -> int:
        """Trains from a step to the end of a phase, or until it is rolled back; returns the step to go on from."""
        self._logger.notice(describe(phase, len(self._phases)))
        if step == phase.begin:
            self._watch.forget_losses()
        train, num_steps = phase.config.train, phase.config.train.num_steps
        train_steps = self._train_steps_of(phase)
        with self._logger.status("Opening the examples"):
            iterator = training_batches(phase, self._runtime.distribute, step + int(self._watch.num_skipped.numpy()))
        utilization = matmul_flops(phase.config) / self._flops_per_second
        progress, pace = Progress(step, num_steps, utilization), Pace()
        build: contextlib.AbstractContextManager[None] = self._logger.status(
            f"Building step {step + 1:,}; the first takes longer than the others", in_lines=True
        )
        which = f"phase {phase.number + 1} of {len(self._phases)}" if self._phases[1:] else ""
        self._logger.progress(step, num_steps, pace.seconds_per_step, which)
        while step < phase.end:
            loop_end = (step // train.steps_per_loop + 1) * train.steps_per_loop
            target = min(phase.end, loop_end, step + pace.steps)
            start = time.monotonic()
            with build, reading(phase.source.data_dir, f"between steps {step:,} and {target:,}", phase.source.train):
                sums = train_steps(iterator, tf.constant(step, tf.int64), tf.constant(target - step, tf.int64))
                num_made = round(float(sums["num_steps"]))  # waits for the result
            build = contextlib.nullcontext()
            # The mean over workers, since all must make the same number of steps at once.
            pace.measure(num_made, self._runtime.total(time.monotonic() - start) / self._runtime.num_workers)
            step += num_made
            self._logger.progress(step, num_steps, pace.seconds_per_step * (num_steps - step), which)
            progress.add(float(sums["real_tokens"]), float(sums["input_wait_seconds"]))
            self._check_finite(phase, step, sums["nonfinite_replicas"].numpy())
            if step % train.log_interval == 0 or step == phase.end:
                values = self._summarize(step, progress)
                if "total_loss" in values and self._is_spike(phase, step, values["total_loss"]):
                    return self._roll_back(step, values["total_loss"])
                self._log(phase, step, values, progress)
            self.checkpoints.check()
            is_asked = self._is_stop_asked()
            if step % train.checkpoint_interval == 0 or step == phase.end or is_asked:
                self._save(step)
            if is_asked and step < num_steps:
                raise self._interruption(f"at step {step:,}")
            if self._is_evaluation_due(step):
                self._evaluate(step)
                progress.restart(step)
            if self._prober is not None and self._prober.is_due(step, self._is_evaluation_due(step)):
                self._probe(self._prober, step)
                progress.restart(step)
        with self._logger.status("Closing the examples"):
            del iterator
        return step

    def _train_steps_of(self, phase: Phase) -> TrainSteps:
        """Returns the compiled steps of a phase: the same again after a roll-back."""
        if self._train_steps is None or self._train_steps[0] is not phase:
            steps = build_train_steps(self._model, self._optimizer, self._runtime, phase.config, self._sums)
            self._train_steps = phase, steps
        return self._train_steps[1]

    def conclude(self) -> None:
        """Says how the run ended, once its last checkpoint is on the disk."""
        num_steps = self._config.train.num_steps
        if self._with_evaluation:
            self._show_result(num_steps)
        self._logger.notice(
            f"Trained to step {num_steps:,}; checkpoints and metrics are in {self._directory.path} (electra-report "
            f"shows them)"
        )

    def restore(self, checkpoint: str | None) -> int:
        """Restores the newest checkpoint, or begins a run with the weights of `checkpoint`; returns the step."""
        with self._logger.status("Looking for a checkpoint, and restoring it"):
            self.checkpoints.recover()
            self._runtime.wait_for_all()
            step = self.checkpoints.restore_newest()
        self._check_agreement(step)
        if step is None and (checkpoint or self._config.init.checkpoint):
            changes = Changes.of(self._config, self._phases[0].source.vocabulary)
            path = checkpoint or self._config.init.checkpoint
            start_from(path, self._model, self._optimizer, changes, self._logger)
        elif checkpoint:
            self._logger.notice(f"--checkpoint={checkpoint} is not read: the run goes on from its own checkpoints.")
        computed = [line["step"] for line in read_metrics(self._directory.path)]
        # Not before, so that a checkpoint of another model does not bind the workdir to the config.
        tokenizer = self._phases[0].source.tokenizer
        self._directory.write_config(self._config, fingerprint(self._phases), self._runtime.devices, tokenizer)
        self._logger.hparams(self._config)
        lines = self._directory.drop_metrics_after(step or 0)
        self._lost_step = max((other for other in computed if other > (step or 0)), default=0)
        if step is None:
            if computed:
                self._logger.notice(
                    f"No checkpoint is in {self._directory.checkpoint_dir}: the run begins again at step 0."
                )
            return 0
        self._saved_step = step
        evaluated = [
            line
            for line in lines
            if self._with_evaluation
            and (line["split"], line["step"]) == ("validation", step)
            and line["num_examples"] == self._evaluator_at(step).num_examples
        ]
        if evaluated:
            self._last_result = {name: value for name, value in evaluated[-1].items() if name not in ("step", "split")}
            self.checkpoints.save_if_best(step, self._last_result)  # the stop may have come before this
        elif self._is_evaluation_due(step):
            self._evaluate(step)  # the stop came between saving and evaluating
        if self._prober is not None and self._prober.is_due(step, self._is_evaluation_due(step), lines):
            self._probe(self._prober, step)
        if step < self._config.train.num_steps:
            self._logger.notice(f"Going on from step {step:,}.")
        return step

    def _check_finite(self, phase: Phase, step: int, nonfinite_replicas: np.ndarray) -> None:
        """Keeps and tells a step that was left out because it was not finite; ends the run if it is one too many.

        Args:
          phase: its phase.
          step: its number.
          nonfinite_replicas: float32 [replicas], 1 for a replica whose loss or gradient was not finite.
        """
        if not nonfinite_replicas.any():
            return
        replicas = [int(replica) for replica in np.flatnonzero(nonfinite_replicas)]
        data_step = step - 1 + int(self._watch.num_skipped.numpy())
        record = replay.Record(step, data_step, phase.number + 1, len(nonfinite_replicas), replicas)
        kept = "worker 0 keeps it for --mode=replay"
        if self._runtime.is_chief:
            kept = f"kept in {replay.save_record(self._directory.path, record, self._model)} for --mode=replay"
        self._watch.num_nonfinite.assign_add(1)
        count, allowed = int(self._watch.num_nonfinite.numpy()), self._config.watch.max_nonfinite_steps
        self._logger.event("nonfinite", step, replicas=replicas)
        numbers = ", ".join(map(str, replicas))
        what = f"step {step:,}: the loss or gradient of replica {numbers} is infinite or NaN; {kept}"
        if count > allowed:
            raise UserError(
                f"{what}. {self._begin_anew()}, or allow some such steps by config.watch.max_nonfinite_steps, "
                f"now {allowed}"
            )
        self._logger.warning(f"Warning, {what}. Its update is left out ({count} of {allowed} allowed).")

    def _begin_anew(self) -> str:
        last = (
            f"the last checkpoint here is of step {self._saved_step:,}"
            if self._saved_step > 0
            else "none is saved here"
        )
        return (
            f"Begin a run with a lower config.optimizer.learning_rate or more config.optimizer.warmup_steps in another "
            f"--workdir ({last})"
        )

    def _is_spike(self, phase: Phase, step: int, loss: float) -> bool:
        factor, median = self._config.watch.spike_factor, self._watch.median()
        if not factor or step <= phase.config.optimizer.warmup_steps:
            return False
        if median is not None and loss > factor * median:
            return True
        self._watch.add_loss(loss)
        return False

    def _roll_back(self, step: int, loss: float) -> int:
        """Goes back to the checkpoint before the interval that ends at `step`; returns its step."""
        settings, median = self._config.watch, self._watch.median()
        what = (
            f"step {step:,}: total_loss {loss:.3f} is more than {settings.spike_factor:g} times the median {median:.3f}"
        )
        num_rollbacks, num_skipped = (
            int(count.numpy()) for count in (self._watch.num_rollbacks, self._watch.num_skipped)
        )
        if num_rollbacks >= settings.max_rollbacks:
            raise UserError(
                f"{what}, after {num_rollbacks} roll-backs, all that config.watch.max_rollbacks allows. "
                f"{self._begin_anew()}"
            )
        self.checkpoints.wait()
        self._runtime.wait_for_all()
        interval = self._config.train.log_interval
        restored = self.checkpoints.restore_before((step - 1) // interval * interval + 1)
        self._check_agreement(restored)
        if restored is None:
            raise UserError(f"{what}, and no checkpoint is there to roll back to. {self._begin_anew()}")
        self._watch.roll_back(num_rollbacks + 1, num_skipped + step - restored)
        self._saved_step, self._last_result = restored, None
        self._directory.drop_metrics_after(restored)
        self._logger.event("rollback", step, restored_step=restored, total_loss=loss, median=median)
        self._logger.warning(
            f"Warning, {what}: rolled back to step {restored:,}, from where it goes on with other examples "
            f"({num_rollbacks + 1} of {settings.max_rollbacks} times)."
        )
        return restored

    def _check_agreement(self, step: int | None) -> None:
        """Raises a `ResumableError` where workers restored different steps, as from a directory seen too late."""
        number = 0 if step is None else step + 1
        for part in divmod(number, 4096):  # of sizes that float32 sums up exactly
            if abs(self._runtime.total(part) / self._runtime.num_workers - part) > 1e-2:
                found = "nothing" if step is None else f"step {step:,}"
                raise ResumableError(
                    f"worker {self._runtime.worker_index} restored {found} and others another step: "
                    f"{self._directory.path} does not look the same to all of them; start all again"
                )

    def _summarize(self, step: int, progress: Progress) -> dict[str, float]:
        """Returns the metrics since the last line of them."""
        sums = self._sums.take()
        # Where all steps were left out there are no losses.
        values = self._objective.summarize(sums) if sums["real_tokens"] else {}
        values["real_tokens"] = float(sums["real_tokens"])
        values["gradient_norm"] = float(sums["gradient_norm"] / max(1.0, sums["num_updates"]))
        if uses_loss_scaling(self._optimizer):
            values["loss_scale"] = float(self._optimizer.loss_scale.numpy())
        if uses_loss_scaling(self._optimizer) or sums["num_steps"] > sums["num_updates"]:
            values["skipped_updates"] = float(sums["num_steps"] - sums["num_updates"])
        # The rate that the last update was made with.
        values["learning_rate"] = float(self._optimizer.learning_rate.numpy())
        return values | progress.rates(step) | self._phase_number(step)

    def _log(self, phase: Phase, step: int, values: dict[str, float], progress: Progress) -> None:
        self._logger.metrics("train", step, values, progress.line(step, values))
        counts, special = phase.source.token_counts, phase.masking.special_token_ids
        baseline = None if counts is None else unigram_entropy(counts, special)
        for notice in self._collapse.look(step, values, baseline) if "total_loss" in values else ():
            self._logger.warning(notice)

    def _save(self, step: int) -> None:
        if step != self._saved_step:
            if not all(np.isfinite(variable.numpy()).all() for variable in self._model.trainable_variables):
                raise UserError(f"step {step:,} made weights infinite or NaN; they are not saved. {self._begin_anew()}")
            with self._logger.status(f"Saving step {step:,}"):
                self.checkpoints.save()
            if self._config.train.histograms and step % self._config.train.checkpoint_interval == 0:
                self._logger.histograms(step, self._model.trainable_variables)
            self._runtime.wait_for_all()
            self._saved_step = step

    def _is_stop_asked(self) -> bool:
        """Whether any worker was asked to stop: all of them stop behind the same step."""
        return self._runtime.total(self._stop.requested) > 0

    def _interruption(self, where: str) -> Interrupted:
        name = self._stop.name or "another worker's signal"
        return Interrupted(f"stopped by {name} {where}; saved: the same command goes on from there")

    def _is_evaluation_due(self, step: int) -> bool:
        interval = self._config.eval.interval
        is_last = any(step == phase.end for phase in self._phases)
        return self._with_evaluation and (is_last or (interval > 0 and step > 0 and step % interval == 0))

    def _evaluator_at(self, step: int) -> Evaluator:
        phase = phase_at(self._phases, step)
        if self._evaluator is None or self._evaluator.phase is not phase:
            self._evaluator = Evaluator(self._model, self._optimizer, self._runtime, phase)
        return self._evaluator

    def _phase_number(self, step: int) -> dict[str, float]:
        """Returns what lines of metrics say of the phase, where there are several."""
        return {"phase": phase_at(self._phases, step).number + 1} if len(self._phases) > 1 else {}

    def _evaluate(self, step: int) -> None:
        def end_if_asked() -> None:
            if self._is_stop_asked():
                raise self._interruption(f"while evaluating step {step:,}")

        try:
            evaluator = self._evaluator_at(step)
            with self._logger.status(f"Evaluating {evaluator.num_examples:,} held-out examples"):
                result = evaluator.run(before_batch=end_if_asked) | self._phase_number(step)
            samples = evaluator.samples()
        except Interrupted:
            self._save(step)  # here, where the weights are the trained ones again and not their average
            raise
        shown = [f"{name} {result[name]:.4f}" for name in ("masked_lm_loss", "rtd_loss", "rtd_auc") if name in result]
        self._logger.metrics("validation", step, result, "  ".join([f"step {step:,} held-out", *shown]))
        if samples:
            self._logger.samples(step, samples)
        self._last_result = result
        self.checkpoints.save_if_best(step, result)

    def _probe(self, prober: probes.Prober, step: int) -> None:
        """Probes in the chief; other workers wait for it."""
        with self._logger.status(f"Probing the encoder of step {step:,}"):
            values = prober.run(lambda: self._stop.requested) if self._runtime.is_chief else None
        if values is not None:
            self._logger.metrics(probes.SPLIT, step, values, probes.describe(step, values))
        if self._is_stop_asked():
            self._save(step)
            raise self._interruption(f"while probing step {step:,}")

    def _show_result(self, step: int) -> None:
        assert self._last_result is not None  # the last step is always evaluated
        table = format_table(self._objective, self._last_result, step)
        self._logger.result("evaluation", {"step": step, **self._last_result}, table)
