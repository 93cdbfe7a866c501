"""The run: config and workdir in, a trained and evaluated model in the workdir out."""

import math
import time
from collections.abc import Callable, Iterator

import ml_collections
import tensorflow as tf
import tf_keras

from electra_cli.config import notices
from electra_cli.data.input_pipeline import Part, training_dataset
from electra_cli.data.source import reading
from electra_cli.errors import Interrupted, UserError
from electra_cli.modeling.pretrainers import Pretrainer, build_pretrainer
from electra_cli.training import metrics
from electra_cli.training.checkpoints import Checkpoints
from electra_cli.training.distribution import Runtime, build_runtime, reporting_lost_workers
from electra_cli.training.evaluation import Evaluator, check_validation, format_table
from electra_cli.training.optimization import Optimizer, build_optimizer, uses_loss_scaling
from electra_cli.training.phases import Phase, fingerprint, open_phases, phase_at
from electra_cli.training.progress import Pace, Progress
from electra_cli.training.signals import StopRequest
from electra_cli.training.step import build_train_steps, train_sum_shapes
from electra_cli.training.workdir import Workdir, check_config

Print = Callable[[str], None]


def evaluate(
    config: ml_collections.ConfigDict, workdir: str, say: Print = print, *, checkpoint: str | None = None
) -> dict[str, float]:
    """Evaluates the newest checkpoint of a workdir, or one that is given, and changes nothing there.

    Args:
      config: a config (`config.default_config`) with overrides.
      workdir: directory of a run of that config.
      say: prints a line.
      checkpoint: what `checkpoint_files.find_checkpoint` takes.

    Returns:
      The metrics of `Evaluator.run`.

    Raises:
      UserError: no checkpoint, or config, data and workdir do not fit.
    """
    runtime = build_runtime(config)
    resolved, phases = open_phases(config)
    check_config(workdir, resolved, fingerprint(phases))
    say(f"Devices: {runtime.description}")
    model, optimizer = _build(resolved, runtime)
    checkpoints = Checkpoints(tf.io.gfile.join(workdir, "checkpoints"), model, optimizer, say=say)
    step = (
        checkpoints.restore_newest()
        if not checkpoint
        else checkpoints.restore_for_evaluation(checkpoint, with_optimizer=resolved.optimizer.ema_decay > 0)
    )
    if step is None:
        raise UserError(f"--workdir={workdir} holds no checkpoint; train first with --mode=train")
    phase = phase_at(phases, step)
    check_validation(phase.source, phase.config)
    result = Evaluator(model, optimizer, runtime, phase).run()
    say(format_table(result, step))
    return result


def train(
    config: ml_collections.ConfigDict,
    workdir: str,
    *,
    with_evaluation: bool,
    say: Print = print,
    checkpoint: str | None = None,
) -> None:
    """Trains in a workdir, from its newest checkpoint on, to `train.num_steps`.

    Args:
      config: a config (`config.default_config`) with overrides.
      workdir: directory of the run.
      with_evaluation: whether to evaluate every `eval.interval` steps and at the end.
      say: prints a line.
      checkpoint: what `checkpoint_files.find_checkpoint` takes; a run that has no checkpoint begins with its weights.

    Raises:
      UserError: config, data, workdir and checkpoint do not fit, a checkpoint cannot be written, or the loss became
        infinite or NaN.
      Interrupted: SIGTERM or SIGINT came; the run is saved.
    """
    runtime = build_runtime(config)
    resolved, phases = open_phases(config)
    if with_evaluation:
        for phase in phases:
            check_validation(phase.source, phase.config)
    if not runtime.is_chief:
        say = _say_nothing
    with Workdir(workdir, is_writer=runtime.is_chief) as directory, StopRequest() as stop:
        for difference in check_config(workdir, resolved, fingerprint(phases)):
            say(f"Changed since the run began: {difference}")
        for notice in notices(resolved, with_evaluation):
            say(f"Note: {notice}")
        say(f"Devices: {runtime.description}")
        run = _Run(resolved, phases, runtime, directory, stop, with_evaluation, say)
        with reporting_lost_workers(runtime):
            with run.checkpoints:
                step = run.restore(checkpoint)
                run.train(step)
            run.conclude()


def _say_nothing(_: str) -> None:
    """What workers other than the chief say."""


class _Run:
    """One process' share of a run: model, data and workdir, from the newest checkpoint to the end or a stop."""

    def __init__(
        self,
        config: ml_collections.FrozenConfigDict,
        phases: list[Phase],
        runtime: Runtime,
        directory: Workdir,
        stop: StopRequest,
        with_evaluation: bool,
        say: Print,
    ):
        self._config, self._phases, self._runtime = config, phases, runtime
        self._directory, self._stop, self._say = directory, stop, say
        self._with_evaluation = with_evaluation
        self._model, self._optimizer = _build(config, runtime)
        self._sums = metrics.IntervalSums(train_sum_shapes(config.objective.name))
        self.checkpoints = Checkpoints(
            directory.checkpoint_dir,
            self._model,
            self._optimizer,
            self._sums,
            config.train,
            say,
            is_writer=runtime.is_chief,
        )
        self._evaluator: Evaluator | None = None
        self._last_result: dict[str, float] | None = None
        self._saved_step = -1

    def train(self, step: int) -> None:
        """Trains, logs, saves and evaluates from a step to the last, phase after phase."""
        if step == self._config.train.num_steps:
            self._say(f"The run is complete: all {step:,} steps are done.")
            return
        count = sum(math.prod(variable.shape) for variable in self._model.trainable_variables)
        self._say(f"Model: {count / 1e6:.1f} million parameters.")
        for phase in self._phases:
            if step < phase.end:
                self._train_phase(phase, step)
                step = phase.end

    def _train_phase(self, phase: Phase, step: int) -> None:
        self._describe(phase, step)
        train, num_steps = phase.config.train, phase.config.train.num_steps
        train_steps = build_train_steps(self._model, self._optimizer, self._runtime, phase.config, self._sums)
        iterator = self._batches(phase, step)
        progress, pace = Progress(step, num_steps), Pace()
        while step < phase.end:
            loop_end = (step // train.steps_per_loop + 1) * train.steps_per_loop
            target = min(phase.end, loop_end, step + pace.steps)
            start = time.monotonic()
            with reading(phase.source.data_dir, f"between steps {step:,} and {target:,}"):
                sums = train_steps(iterator, tf.constant(step, tf.int64), tf.constant(target - step, tf.int64))
            self._check_finite(sums, step, target)
            # The mean over workers, since all must make the same number of steps at once.
            pace.measure(target - step, self._runtime.total(time.monotonic() - start) / self._runtime.num_workers)
            step = target
            progress.add(float(sums["real_tokens"]))
            if step % train.log_interval == 0 or step == phase.end:
                self._log(step, progress)
            self.checkpoints.check()
            is_asked = self._is_stop_asked()
            if step % train.checkpoint_interval == 0 or step == phase.end or is_asked:
                self._save(step)
            if is_asked and step < num_steps:
                raise self._interruption(f"at step {step:,}")
            if self._is_evaluation_due(step):
                self._evaluate(step)
                progress.restart(step)

    def conclude(self) -> None:
        """Says how the run ended, once its last checkpoint is on the disk."""
        num_steps = self._config.train.num_steps
        if self._with_evaluation:
            self._show_result(num_steps)
        self._say(f"Trained to step {num_steps:,}; checkpoints and metrics are in {self._directory.path}")

    def restore(self, checkpoint: str | None) -> int:
        """Restores the newest checkpoint, or begins a run with the weights of `checkpoint`; returns the step."""
        self.checkpoints.recover()
        self._runtime.wait_for_all()
        step = self.checkpoints.restore_newest()
        if checkpoint and step is None:
            self.checkpoints.start_from(checkpoint)
        elif checkpoint:
            self._say(f"--checkpoint={checkpoint} is not read: the run goes on from its own checkpoints.")
        # Not before, so that a checkpoint of another model does not bind the workdir to the config.
        self._directory.adopt_config(self._config, fingerprint(self._phases))
        lines = self._directory.open_metrics(step or 0)
        if step is None:
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
        if step < self._config.train.num_steps:
            self._say(f"Going on from step {step:,}.")
        return step

    def _batches(self, phase: Phase, step: int) -> Iterator:
        def make(part: Part) -> tf.data.Dataset:
            return training_dataset(
                phase.source.train,
                phase.masking,
                pad_id=phase.source.vocabulary.pad_id,
                max_seq_length=phase.config.data.max_seq_length,
                global_batch_size=phase.config.train.global_batch_size,
                seed=phase.config.train.seed,
                start_step=step,
                first_step=phase.begin,
                part=part,
            )

        return iter(self._runtime.distribute(make))

    def _check_finite(self, sums: dict[str, tf.Tensor], first: int, last: int) -> None:
        # After every call, so that weights that are not finite are never saved.
        for name in ("masked_lm_loss", "rtd_loss", "gradient_norm"):
            if name in sums and not math.isfinite(float(sums[name])):
                raise UserError(
                    f"{name} became {float(sums[name])} between steps {first:,} and {last:,}: begin a run with a lower "
                    f"config.optimizer.learning_rate or more config.optimizer.warmup_steps in another --workdir "
                    f"(the last checkpoint here is of step {max(self._saved_step, 0):,})"
                )

    def _log(self, step: int, progress: Progress) -> None:
        sums = self._sums.take()
        values = metrics.summarize(sums, self._config.objective)
        values["gradient_norm"] = float(sums["gradient_norm"] / max(1.0, sums["num_updates"]))
        if uses_loss_scaling(self._optimizer):
            values["loss_scale"] = float(self._optimizer.loss_scale.numpy())
            values["skipped_updates"] = float(sums["num_steps"] - sums["num_updates"])
        # The rate that the last update was made with.
        values["learning_rate"] = float(self._optimizer.learning_rate.numpy())
        values["tokens_per_second"] = progress.tokens_per_second()
        values |= self._phase_number(step)
        self._directory.write_metrics("train", step, values)
        self._say(progress.line(step, values))

    def _save(self, step: int) -> None:
        if step != self._saved_step:
            self.checkpoints.save()
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
            result = self._evaluator_at(step).run(before_batch=end_if_asked) | self._phase_number(step)
        except Interrupted:
            self._save(step)  # here, where the weights are the trained ones again and not their average
            raise
        self._directory.write_metrics("validation", step, result)
        self._last_result = result
        self.checkpoints.save_if_best(step, result)
        shown = [f"{name} {result[name]:.4f}" for name in ("masked_lm_loss", "rtd_loss", "rtd_auc") if name in result]
        self._say("  ".join([f"step {step:,} held-out", *shown]))

    def _show_result(self, step: int) -> None:
        if self._last_result is None:
            self._evaluate(step)
        assert self._last_result is not None
        self._say(format_table(self._last_result, step))

    def _describe(self, phase: Phase, step: int) -> None:
        batch_size, num_steps = phase.config.train.global_batch_size, phase.end - phase.begin
        num_examples = phase.source.train.num_examples
        which = f"Phase {phase.number + 1} of {len(self._phases)}, to step {phase.end:,}. " if self._phases[1:] else ""
        self._say(
            f"{which}Data: {num_examples:,} examples of {phase.config.data.max_seq_length} tokens; {num_steps:,} steps "
            f"of {batch_size} are {num_steps * batch_size / num_examples:.2f} epochs."
        )
        self._say(f"Building step {step + 1:,}; the first takes longer than the others.")


def _build(config: ml_collections.FrozenConfigDict, runtime: Runtime) -> tuple[Pretrainer, Optimizer]:
    with runtime.strategy.scope():
        # The one use of the global generator: initial weights, which follow from the seed too.
        tf_keras.utils.set_random_seed(config.train.seed)
        model = build_pretrainer(config)
        optimizer = build_optimizer(config)
        optimizer.build(model.trainable_variables)
    return model, optimizer
