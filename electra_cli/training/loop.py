"""Trains and evaluates a model in a workdir: phases, calls of some updates each, and hooks between them."""

import contextlib
import time
from collections.abc import Iterator, Sequence

import ml_collections
import tensorflow as tf

from electra_cli.config.checks import notices
from electra_cli.data.input_pipeline import reading, training_batches
from electra_cli.data.source import OpenedRun, Phase, describe, fingerprint, phase_at
from electra_cli.errors import Interrupted, ResumableError, UserError
from electra_cli.files import LOCK_FILE
from electra_cli.loggers.lines import Lines
from electra_cli.loggers.logger import Logger
from electra_cli.objectives.costs import matmul_flops
from electra_cli.training.distribution import reporting_lost_workers
from electra_cli.training.evaluation import check_validation
from electra_cli.training.hooks import (
    Evaluate,
    Histograms,
    Hook,
    LogMetrics,
    RolledBack,
    SaveCheckpoints,
    StopOnRequest,
    Update,
)
from electra_cli.training.run import Run, TrainingRun, check_memory, open_run
from electra_cli.training.steps import build_train_steps
from electra_cli.training.stopping import StopRequest, watching_for_notice
from electra_cli.training.throughput import StepsPerCall, Throughput
from electra_cli.training.updates import Sums, Updates
from electra_cli.training.watch import LossSpikes, NonFiniteSteps, WarnOfCollapse
from electra_cli.workdir.checkpoints import Checkpoints
from electra_cli.workdir.run_files import CONFIG_FILE, check_config, has_record
from electra_cli.workdir.workdir import Workdir, changed_devices


def default_hooks(run: TrainingRun, *, with_evaluation: bool) -> list[Hook]:
    """Returns the hooks of every run, in the order of their calls."""
    return [
        NonFiniteSteps(),
        LossSpikes(),
        LogMetrics(),
        WarnOfCollapse(run.objective, run.config.optimizer.warmup_steps, run.config.train.num_steps),
        SaveCheckpoints(),
        Histograms(),
        StopOnRequest(),
        *([Evaluate()] if with_evaluation else []),
    ]


def train(
    config: ml_collections.ConfigDict | OpenedRun,
    workdir: str,
    *,
    with_evaluation: bool,
    logger: Logger | None = None,
    checkpoint: str | None = None,
    wandb_project: str | None = None,
    hooks: Sequence[Hook] = (),
) -> None:
    """Trains in a workdir, from its newest checkpoint on, to `train.num_steps`.

    Args:
      config: with overrides, or as `source.read_run` returns it.
      with_evaluation: whether to evaluate every `eval.interval` steps and at the end.
      logger: None: prints lines.
      checkpoint: for `checkpoint_files.find_checkpoint`; a run that has no checkpoint begins with its weights.
      wandb_project: project of Weights & Biases where the run is mirrored; None: nowhere.
      hooks: are called after the default ones, as `probes.prober.probe_hooks`.

    Raises:
      UserError: config, data, workdir and checkpoint do not fit, a checkpoint cannot be written, or more steps than
        `watch` allows had an infinite loss, or one far above those before.
      Interrupted: SIGTERM or SIGINT came; the run is saved.
    """
    logger = logger or Lines()
    flags = {"--mode": "train_and_eval" if with_evaluation else "train", "--checkpoint": checkpoint}
    runtime, resolved, phases = open_run(config, logger, flags=flags)
    check_memory(runtime, phases)
    if with_evaluation:
        for phase in phases:
            check_validation(phase.source)
    if not runtime.is_chief:
        logger = Logger()
    with (
        Workdir(workdir, is_writer=runtime.is_chief) as directory,
        StopRequest() as stop,
        watching_for_notice(stop),
        contextlib.ExitStack() as stack,
    ):
        runtime.check_shared("--workdir", workdir, LOCK_FILE)
        differences = check_config(workdir, resolved, fingerprint(phases))
        is_news = bool(differences) or not has_record(workdir)
        for difference in differences + changed_devices(workdir, resolved, runtime.devices):
            logger.notice(f"Changed since the run began: {difference}")
        logger = stack.enter_context(directory.recording(logger, wandb_project=wandb_project, config=resolved))
        for notice in notices(resolved, with_evaluation) if is_news else ():
            logger.warning(f"Note: {notice}")
        logger.notice(f"Devices: {runtime.description}")
        with reporting_lost_workers(runtime):
            run = TrainingRun(runtime, resolved, phases, logger, directory, stop)
            _run(run, [*default_hooks(run, with_evaluation=with_evaluation), *hooks], checkpoint)


def _run(run: TrainingRun, hooks: Sequence[Hook], checkpoint: str | None) -> None:
    """Trains from the newest checkpoint, or from the weights of `checkpoint`, to the end."""
    num_steps = run.config.train.num_steps
    with run.open_checkpoints({name: module for hook in hooks for name, module in hook.modules(run).items()}):
        lines, lost_step = run.restore(checkpoint)
        with _recording_end(run, hooks, lost_step):
            if run.step:
                for hook in hooks:
                    hook.resume(run, lines)
            if run.step == num_steps:
                run.logger.notice(f"The run is complete: all {num_steps:,} steps are done.")
            else:
                if run.step:
                    run.logger.notice(f"Resuming from step {run.step:,}.")
                run.measure_devices()
                train_phases(run, hooks)
    for hook in hooks:
        hook.end(run)
    run.logger.notice(
        f"Trained to step {num_steps:,}; checkpoints and metrics are in {run.workdir.path} (electra-report shows them)"
    )


@contextlib.contextmanager
def _recording_end(run: TrainingRun, hooks: Sequence[Hook], lost_step: int) -> Iterator[None]:
    """Records that training starts, unless all steps are done, and how it ends: complete, stopped or with an error."""
    if run.step < run.config.train.num_steps:
        run.logger.event("start", run.step, devices=run.runtime.devices, lost_step=lost_step)
    try:
        try:
            yield
        except Interrupted:
            for hook in hooks:
                hook.at_stop(run)
            raise
    except Interrupted:
        run.logger.event(
            "stop", int(run.optimizer.iterations.numpy()), reason=run.stop.name or "another worker's signal"
        )
        raise
    except UserError as error:
        with contextlib.suppress(ResumableError):  # the error itself is reported; a full disk may be behind both
            run.logger.event("error", int(run.optimizer.iterations.numpy()), reason=str(error))
        raise
    run.logger.event("end", run.step)


def train_phases(run: TrainingRun, hooks: Sequence[Hook]) -> None:
    """Makes the remaining updates, phase after phase; after a roll-back also those that it undid."""
    compiled: tuple[Phase, Updates] | None = None
    while run.step < run.config.train.num_steps:
        phase = phase_at(run.phases, run.step + 1)
        if compiled is None or compiled[0] is not phase:
            steps = build_train_steps(run.model, run.optimizer, run.runtime, phase.config, run.interval_sums)
            compiled = phase, steps
        with contextlib.suppress(RolledBack):
            train_phase(run, phase, compiled[1], hooks)


def train_phase(run: TrainingRun, phase: Phase, train_steps: Updates, hooks: Sequence[Hook]) -> None:
    """Makes the updates of a phase from `run.step` on, some in each call, with the hooks after each call."""
    run.logger.notice(describe(phase, len(run.phases)))
    if run.step == phase.begin:
        run.monitor.forget_losses()  # those of other examples
    batches = _open_batches(run, phase)
    run.throughput = Throughput(run.step, run.config.train.num_steps, matmul_flops(phase.config) / run.flops_per_second)
    pace = StepsPerCall()
    _report_progress(run, pace, phase)
    while run.step < phase.end:
        sums = _make_updates(run, pace, phase, train_steps, batches)
        _report_progress(run, pace, phase)
        ends_interval = run.step % phase.config.train.log_interval == 0 or run.step == phase.end
        update = Update(sums, run.summarize() if ends_interval else None)
        for hook in hooks:
            hook.after_update(run, update)
        if sums["nonfinite_replicas"].numpy().any():
            batches = _open_batches(run, phase)  # those of steps that were not made were taken
    with run.logger.status("Closing the examples"):
        del batches


def _open_batches(run: TrainingRun, phase: Phase) -> Iterator:
    """Returns the batches of a phase from `run.step` on."""
    with run.logger.status("Opening the examples"):
        num_skipped = int(run.monitor.num_skipped.numpy())
        return training_batches(phase, run.runtime.distribute, run.step + num_skipped, num_skipped)


def _make_updates(run: TrainingRun, pace: StepsPerCall, phase: Phase, train_steps: Updates, batches: Iterator) -> Sums:
    """Makes the updates of one call: `pace.steps`, at most to the end of a loop (`train.steps_per_loop`)."""
    first, loop = run.step, phase.config.train.steps_per_loop
    last = min(phase.end, (first // loop + 1) * loop, first + pace.steps)
    status: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if not pace.num_calls:
        text = f"Building step {first + 1:,}; the first takes longer than the others"
        status = run.logger.status(text, in_lines=True)
    start = time.monotonic()
    with status, reading(phase.source.data_dir, f"between steps {first:,} and {last:,}", phase.source.train):
        sums = train_steps(batches, tf.constant(first, tf.int64), tf.constant(last - first, tf.int64))
        num_made = round(float(sums["num_steps"]))  # waits for the result
    # The mean over workers, since all must make the same number of steps at once.
    pace.measure(num_made, run.runtime.total(time.monotonic() - start) / run.runtime.num_workers)
    run.step += num_made
    run.throughput.add(float(sums["real_tokens"]), float(sums["input_wait_seconds"]))
    return sums


def _report_progress(run: TrainingRun, pace: StepsPerCall, phase: Phase) -> None:
    which = f"phase {phase.number + 1} of {len(run.phases)}" if len(run.phases) > 1 else ""
    num_steps = run.config.train.num_steps
    run.logger.progress(run.step, num_steps, pace.seconds_per_step * (num_steps - run.step), which)


def evaluate(
    config: ml_collections.ConfigDict | OpenedRun,
    workdir: str,
    logger: Logger | None = None,
    *,
    checkpoint: str | None = None,
    hooks: Sequence[Hook] = (),
) -> dict[str, float]:
    """Evaluates the newest checkpoint of a workdir, or `checkpoint`, and changes nothing; arguments as of `train`.

    Returns the metrics of `Evaluator.run` and of the hooks. Raises a `UserError` if there is no checkpoint, or config,
    data and workdir do not fit.
    """
    logger = logger or Lines()
    runtime, resolved, phases = open_run(config, logger, flags={"--mode": "eval", "--checkpoint": checkpoint})
    check_config(workdir, resolved, fingerprint(phases))
    runtime.check_shared("--workdir", workdir, CONFIG_FILE)
    logger.notice(f"Devices: {runtime.description}")
    with reporting_lost_workers(runtime):
        run = Run(runtime, resolved, phases, logger)
        checkpoints = Checkpoints(tf.io.gfile.join(workdir, "checkpoints"), run.model, run.optimizer, logger=logger)
        with logger.status("Restoring the checkpoint"):
            step = (
                checkpoints.restore_newest()
                if not checkpoint
                else checkpoints.restore_for_evaluation(checkpoint, with_optimizer=resolved.optimizer.ema_decay > 0)
            )
        if step is None:
            raise UserError(f"--workdir={workdir} holds no checkpoint; train first with --mode=train")
        run.step = step
        check_validation(run.phase.source)
        result: dict[str, float] = {}
        for hook in (Evaluate(), *hooks):
            result |= hook.evaluate(run)
        return result
