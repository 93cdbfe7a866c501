"""The run: config and workdir in, a trained and evaluated model in the workdir out."""

import contextlib

import ml_collections
import tensorflow as tf

from electra_cli.config.resolution import notices
from electra_cli.data.source import OpenedRun, Phase, fingerprint, phase_at, read_run
from electra_cli.errors import UserError
from electra_cli.loggers.lines import Lines
from electra_cli.loggers.logger import Logger
from electra_cli.objectives.base import objective_of
from electra_cli.probes.prober import Prober, describe, read_probes
from electra_cli.training import replay
from electra_cli.training.distribution import Runtime, build_runtime, reporting_lost_workers
from electra_cli.training.evaluation import Evaluator, check_validation, format_table
from electra_cli.training.run import Run, build_model
from electra_cli.training.stopping import StopRequest, watching_for_notice
from electra_cli.workdir.checkpoints import Checkpoints
from electra_cli.workdir.workdir import Workdir, check_config


def evaluate(
    config: ml_collections.ConfigDict | OpenedRun,
    workdir: str,
    logger: Logger | None = None,
    *,
    checkpoint: str | None = None,
) -> dict[str, float]:
    """Evaluates the newest checkpoint of a workdir, or one that is given, and changes nothing there.

    Args:
      config: with overrides, or what `source.read_run` made of it.
      workdir: directory of a run of that config.
      logger: receives progress reports; None: prints lines.
      checkpoint: what `checkpoint_files.find_checkpoint` takes.

    Returns:
      The metrics of `Evaluator.run` and, with `eval.probes`, those of `Prober.run`.

    Raises:
      UserError: no checkpoint, or config, data and workdir do not fit.
    """
    logger = logger or Lines()
    runtime, resolved, phases = open_run(config, logger)
    check_config(workdir, resolved, fingerprint(phases))
    logger.notice(f"Devices: {runtime.description}")
    with logger.status("Building the model"):
        model, optimizer = build_model(resolved, runtime)
    checkpoints = Checkpoints(tf.io.gfile.join(workdir, "checkpoints"), model, optimizer, logger=logger)
    with logger.status("Restoring the checkpoint"):
        step = (
            checkpoints.restore_newest()
            if not checkpoint
            else checkpoints.restore_for_evaluation(checkpoint, with_optimizer=resolved.optimizer.ema_decay > 0)
        )
    if step is None:
        raise UserError(f"--workdir={workdir} holds no checkpoint; train first with --mode=train")
    phase, probed = phase_at(phases, step), read_probes(resolved)
    check_validation(phase.source)
    evaluator = Evaluator(model, optimizer, runtime, phase)
    with logger.status(f"Evaluating {evaluator.num_examples:,} held-out examples"):
        result = evaluator.run()
    logger.result("evaluation", {"step": step, **result}, format_table(objective_of(resolved), result, step))
    if probed:
        with logger.status(f"Probing {len(probed)} labelled files"):
            found = Prober(resolved, phases, probed, model, optimizer, runtime).run()
        assert found is not None  # nothing stops it
        logger.result("probes", {"step": step, **found}, describe(step, found))
        result |= found
    return result


def replay_step(config: ml_collections.ConfigDict | OpenedRun, workdir: str, logger: Logger | None = None) -> bool:
    """Computes the last step of a workdir that was not finite again, on one device, and says what in it is not finite.

    Args:
      config: the config of the run.
      workdir: its directory; nothing is changed there.
      logger: receives progress reports; None: prints lines.

    Returns:
      Whether something is not finite again.

    Raises:
      UserError: no such step was kept, or config, data and workdir do not fit.
    """
    logger = logger or Lines()
    path, record = replay.find_record(workdir)
    runtime, resolved, phases = open_run(config, logger, alone=True)
    check_config(workdir, resolved, fingerprint(phases))
    logger.notice(f"Devices: {runtime.description}")
    with logger.status("Building the model"):
        model, optimizer = build_model(resolved, runtime)
    directory = tf.io.gfile.join(workdir, replay.DIRECTORY)
    Checkpoints(directory, model, optimizer, logger=logger).restore_weights(path)

    def tell(line: str) -> None:
        logger.result("replay", {"text": line}, line)

    with logger.status(f"Computing step {record.step:,} again"):
        return replay.replay(record, phases[record.phase - 1], model, optimizer, tell)


def train(
    config: ml_collections.ConfigDict | OpenedRun,
    workdir: str,
    *,
    with_evaluation: bool,
    logger: Logger | None = None,
    checkpoint: str | None = None,
    wandb_project: str | None = None,
) -> None:
    """Trains in a workdir, from its newest checkpoint on, to `train.num_steps`.

    Args:
      config: with overrides, or what `source.read_run` made of it.
      workdir: directory of the run.
      with_evaluation: whether to evaluate every `eval.interval` steps and at the end.
      logger: receives progress reports; None: prints lines.
      checkpoint: what `checkpoint_files.find_checkpoint` takes; a run that has no checkpoint begins with its weights.
      wandb_project: project of Weights & Biases where the run is mirrored; None: nowhere.

    Raises:
      UserError: config, data, workdir and checkpoint do not fit, a checkpoint cannot be written, or more steps than
        `watch` allows had an infinite loss, or a loss far above those before.
      Interrupted: SIGTERM or SIGINT came; the run is saved.
    """
    logger = logger or Lines()
    runtime, resolved, phases = open_run(config, logger)
    if with_evaluation:
        for phase in phases:
            check_validation(phase.source)
    probed = read_probes(resolved) if with_evaluation else ()
    if not runtime.is_chief:
        logger = Logger()
    with (
        Workdir(workdir, is_writer=runtime.is_chief) as directory,
        StopRequest() as stop,
        watching_for_notice(stop),
        contextlib.ExitStack() as stack,
    ):
        for difference in check_config(workdir, resolved, fingerprint(phases), runtime.devices):
            logger.notice(f"Changed since the run began: {difference}")
        logger = stack.enter_context(directory.recording(logger, wandb_project=wandb_project, config=resolved))
        for notice in notices(resolved, with_evaluation):
            logger.warning(f"Note: {notice}")
        logger.notice(f"Devices: {runtime.description}")
        with reporting_lost_workers(runtime):
            run = Run(resolved, phases, runtime, directory, stop, probed, with_evaluation, logger)
            with run.checkpoints:
                step = run.restore(checkpoint)
                run.train(step)
            run.conclude()


def open_run(
    config: ml_collections.ConfigDict | OpenedRun, logger: Logger, *, alone: bool = False
) -> tuple[Runtime, ml_collections.FrozenConfigDict, list[Phase]]:
    """Finds the devices and opens the data.

    Args:
      config: with overrides, or what `source.read_run` made of it.
      logger: receives progress reports.
      alone: as of `build_runtime`.

    Returns:
      The devices, the resolved config and its phases.

    Raises:
      UserError: as `build_runtime`, `read_run` and `DataSource.load`.
    """
    with logger.status("Looking for devices"):
        run = config if isinstance(config, OpenedRun) else read_run(config)
        trains = [phase.config.train for phase in run.phases]
        batches = [(train.global_batch_size, train.gradient_accumulation_steps) for train in trains]
        runtime = build_runtime(run.resolved.runtime, batches, alone=alone)
    with logger.status("Opening the data"):
        for phase in run.phases:
            phase.source.load()
    return runtime, run.resolved, list(run.phases)
