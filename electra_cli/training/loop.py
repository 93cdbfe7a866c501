"""The run: config and workdir in, a trained and evaluated model in the workdir out."""

import ml_collections
import tensorflow as tf

from electra_cli.config import notices
from electra_cli.errors import UserError
from electra_cli.training import replay
from electra_cli.training.checkpoints import Checkpoints
from electra_cli.training.distribution import build_runtime, reporting_lost_workers
from electra_cli.training.evaluation import Evaluator, check_validation, format_table
from electra_cli.training.phases import fingerprint, open_phases, phase_at
from electra_cli.training.preemption import watching_for_notice
from electra_cli.training.run import Print, Run, build_model
from electra_cli.training.signals import StopRequest
from electra_cli.training.workdir import Workdir, check_config


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
    model, optimizer = build_model(resolved, runtime)
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


def replay_step(config: ml_collections.ConfigDict, workdir: str, say: Print = print) -> bool:
    """Computes the last step of a workdir that was not finite again, on one device, and says what in it is not finite.

    Args:
      config: the config of the run.
      workdir: its directory; nothing is changed there.
      say: prints a line.

    Returns:
      Whether something is not finite again.

    Raises:
      UserError: no such step was kept, or config, data and workdir do not fit.
    """
    config = config.copy_and_resolve_references()
    config.runtime.strategy, config.runtime.logical_cpus = "one_device", 0
    path, record = replay.find_record(workdir)
    runtime = build_runtime(config, alone=True)
    resolved, phases = open_phases(config)
    check_config(workdir, resolved, fingerprint(phases))
    say(f"Devices: {runtime.description}")
    model, optimizer = build_model(resolved, runtime)
    Checkpoints(tf.io.gfile.join(workdir, replay.DIRECTORY), model, optimizer, say=say).restore_weights(path)
    return replay.replay(record, phases[record.phase - 1], model, optimizer, say)


def train(
    config: ml_collections.ConfigDict,
    workdir: str,
    *,
    with_evaluation: bool,
    say: Print = print,
    checkpoint: str | None = None,
    wandb_project: str | None = None,
) -> None:
    """Trains in a workdir, from its newest checkpoint on, to `train.num_steps`.

    Args:
      config: a config (`config.default_config`) with overrides.
      workdir: directory of the run.
      with_evaluation: whether to evaluate every `eval.interval` steps and at the end.
      say: prints a line.
      checkpoint: what `checkpoint_files.find_checkpoint` takes; a run that has no checkpoint begins with its weights.
      wandb_project: project of Weights & Biases where the run is mirrored; None: nowhere.

    Raises:
      UserError: config, data, workdir and checkpoint do not fit, a checkpoint cannot be written, or more steps than
        `watch` allows had an infinite loss, or a loss far above those before.
      Interrupted: SIGTERM or SIGINT came; the run is saved.
    """
    runtime = build_runtime(config)
    resolved, phases = open_phases(config)
    if with_evaluation:
        for phase in phases:
            check_validation(phase.source, phase.config)
    if not runtime.is_chief:
        say = _say_nothing
    with Workdir(workdir, is_writer=runtime.is_chief) as directory, StopRequest() as stop, watching_for_notice(stop):
        for difference in check_config(workdir, resolved, fingerprint(phases), runtime.devices):
            say(f"Changed since the run began: {difference}")
        if wandb_project:
            directory.mirror_to(wandb_project, resolved, say)
        for notice in notices(resolved, with_evaluation):
            say(f"Note: {notice}")
        say(f"Devices: {runtime.description}")
        with reporting_lost_workers(runtime):
            run = Run(resolved, phases, runtime, directory, stop, with_evaluation, say)
            with run.checkpoints:
                step = run.restore(checkpoint)
                run.train(step)
            run.conclude()


def _say_nothing(_: str) -> None:
    """What workers other than the chief say."""
