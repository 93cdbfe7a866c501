"""Keeps steps whose loss or gradient was not finite, with the weights before them, and computes them again."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator

import ml_collections
import numpy as np
import tensorflow as tf

from electra_cli import files
from electra_cli.data.input_pipeline import WHOLE, find_examples, training_batches
from electra_cli.data.source import OpenedRun, fingerprint
from electra_cli.errors import UserError
from electra_cli.loggers.lines import Lines
from electra_cli.loggers.logger import Logger
from electra_cli.modeling import features, randomness
from electra_cli.modeling.schedules import scheduled_values
from electra_cli.objectives.base import Objective, Pretrainer, objective_of
from electra_cli.training.optimization import uses_loss_scaling
from electra_cli.training.run import Run, open_run
from electra_cli.training.steps import build_gradients, replica_dropout_seed
from electra_cli.workdir.checkpoint_files import CheckpointFiles
from electra_cli.workdir.checkpoints import Checkpoints
from electra_cli.workdir.run_files import check_config

DIRECTORY = "nonfinite"
_NUM_LISTED = 5
_TEXT_WIDTH = 80

Report = Callable[[str], None]
Inputs = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Record:
    """The record of a step; steps and phases are from 1, replicas from 0.

    Attributes:
      data_step: the steps before it, plus the steps of examples that were skipped.
    """

    step: int
    data_step: int
    phase: int
    num_replicas: int
    nonfinite_replicas: list[int]


def save_record(workdir: str, record: Record, model: Pretrainer) -> str:
    """Keeps a step with the present weights; returns the path without file endings. May raise a `ResumableError`."""
    checkpoints = CheckpointFiles(tf.io.gfile.join(workdir, DIRECTORY))
    path = checkpoints.path(record.step)
    with files.writing(f"{path}.json"):
        files.make_directories(checkpoints.directory)
        files.write_atomically(f"{path}.json", json.dumps(dataclasses.asdict(record), indent=1) + "\n")
    checkpoints.write(record.step, tf.train.Checkpoint(model=model).write)
    return path


def find_record(workdir: str) -> tuple[str, Record]:
    """Returns the path and the record of the last step that was kept; a `UserError` if there is none, or damaged."""
    directory = tf.io.gfile.join(workdir, DIRECTORY)
    steps = CheckpointFiles(directory).steps()
    if not steps:
        raise UserError(
            f"--mode=replay: {directory} holds no step; one is kept when its loss or gradient is not finite"
        )
    path = CheckpointFiles(directory).path(steps[-1])
    try:
        with tf.io.gfile.GFile(f"{path}.json") as stream:
            return path, Record(**json.load(stream))
    except (tf.errors.OpError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}.json cannot be read ({str(error).splitlines()[0]}): remove it to replay another"
        ) from error


def replay_step(config: ml_collections.ConfigDict | OpenedRun, workdir: str, logger: Logger | None = None) -> bool:
    """Computes the last step that was not finite again, one replica after the other on one device.

    Reports what in it is not finite, and returns whether something is. Changes nothing in the workdir. Raises a
    `UserError` if no such step was kept, or config, data and workdir do not fit.
    """
    logger = logger or Lines()
    path, record = find_record(workdir)
    runtime, resolved, phases = open_run(config, logger, alone=True)
    check_config(workdir, resolved, fingerprint(phases))
    logger.notice(f"Devices: {runtime.description}")
    run = Run(runtime, resolved, phases, logger)
    directory = tf.io.gfile.join(workdir, DIRECTORY)
    Checkpoints(directory, run.model, run.optimizer, logger=logger).restore_weights(path)
    with logger.status(f"Computing step {record.step:,} again"):
        return _replay(record, run)


def _replay(record: Record, run: Run) -> bool:

    def report(line: str) -> None:
        run.logger.result("replay", {"text": line}, line)

    phase = run.phases[record.phase - 1]
    num_skipped = record.data_step - (record.step - 1)
    batch = next(training_batches(phase, lambda make: make(WHOLE), record.data_step, num_skipped))
    size = phase.config.train.global_batch_size
    first = (record.data_step - phase.begin) * size
    report(
        f"Replaying step {record.step:,}: examples {first:,} to {first + size - 1:,} of the training stream, on "
        f"{record.num_replicas} replica(s); not finite: replica {', '.join(map(str, record.nonfinite_replicas))}."
    )
    is_bad = _look_at_weights(run.model, report)
    is_bad |= _look_at_examples(record, phase, run, batch, report)
    if not uses_loss_scaling(run.optimizer):
        is_bad |= _look_at_gradients(record, phase.config, run, batch, report)
    if is_bad:
        report(
            "Not finite again. Weights that are not finite, or very large, point to too large updates before: lower "
            "config.optimizer.learning_rate or warm up longer. Single examples point to the data."
        )
    else:
        report(
            "Finite when computed again: neither these weights nor these examples are the cause. Look for a faulty "
            "device or its memory (electra-pretrain --check_devices), or for settings that changed (precision, "
            "jit_compile); the same command resumes."
        )
    return is_bad


def _look_at_weights(model: Pretrainer, report: Report) -> bool:
    weights = {variable.name: variable.numpy() for variable in model.variables}
    bad = {name: int((~np.isfinite(value)).sum()) for name, value in weights.items() if not np.isfinite(value).all()}
    if bad:
        shown = ", ".join(f"{name} ({count:,})" for name, count in list(bad.items())[:_NUM_LISTED])
        report(f"Weights before the step: not finite in {len(bad)} of {len(weights)}: {shown}")
    else:
        name, value = max(weights.items(), key=lambda item: float(np.abs(item[1]).max()))
        report(f"Weights before the step: all finite; the largest is {float(np.abs(value).max()):.3g}, in {name}")
    return bool(bad)


def _look_at_examples(record, phase, run, batch, report) -> bool:
    """Reports the examples whose losses are not finite, else those with the largest."""
    config, objective = phase.config, objective_of(phase.config)
    values = scheduled_values(config, objective.scheduled_keys, record.step - 1)

    def compute_losses(part, seed):
        return _example_losses(objective, run.model({**part, **values}, training=True, seed=seed), part)

    compute = tf.function(run.runtime.with_jit_regions(compute_losses), autograph=False)
    losses = [
        {name: value.numpy() for name, value in compute(part, seed).items()}
        for part, seed in _parts(record, config, batch)
    ]
    values = {name: np.concatenate([part[name] for part in losses]) for name in losses[0]}
    total = sum(values.values())
    order = np.argsort(-np.where(np.isfinite(total), total, np.inf), kind="stable")
    num_bad = int((~np.isfinite(total)).sum())
    first = (record.data_step - phase.begin) * len(total)
    records = find_examples(phase.source.train, config.train.seed, first, len(total))
    report(f"Losses: {num_bad:,} of {len(total):,} examples are not finite; the {'first' if num_bad else 'largest'}:")
    for row in order[:_NUM_LISTED]:
        file, number = records[row]
        ids = batch[features.INPUT_WORD_IDS][row].numpy()[batch[features.INPUT_MASK][row].numpy() > 0]
        shown = "  ".join(f"{name} {value[row]:.4g}" for name, value in values.items())
        text = phase.source.vocabulary.to_text(ids)
        report(f"  example {first + row:,} ({file}, record {number:,}): {shown}  {text[:_TEXT_WIDTH]}")
    return num_bad > 0


def _example_losses(objective: Objective, outputs: Inputs, inputs: Inputs) -> Inputs:
    """Returns the losses of each example, float32 [batch], summed over its slots and tokens."""

    def of_row(row):
        row_inputs, row_outputs = tf.nest.map_structure(lambda x: x[tf.newaxis], row)
        _, sums = objective.loss_and_sums(row_inputs, row_outputs, objective.batch_weights(row_inputs))
        return {name: sums[name] for name in objective.loss_names}

    signature = dict.fromkeys(objective.loss_names, tf.TensorSpec([], tf.float32))
    return tf.map_fn(of_row, (inputs, outputs), fn_output_signature=signature)


def _look_at_gradients(record, config, run, batch, report) -> bool:
    compute_gradients = build_gradients(run.model, run.optimizer, config)
    compute = tf.function(run.runtime.with_jit_regions(compute_gradients), autograph=False)
    global_weights = objective_of(config).batch_weights(batch)
    is_bad = False
    for replica, share in enumerate(_shares(batch, record.num_replicas)):
        gradients, _ = compute(share, global_weights, tf.constant(record.step - 1, tf.int64), replica)
        pairs = zip(run.model.trainable_variables, gradients, strict=True)
        bad = [variable.name for variable, gradient in pairs if not np.isfinite(gradient.numpy()).all()]
        if bad:
            names = ", ".join(bad[:_NUM_LISTED])
            report(f"Gradients of replica {replica}: not finite for {len(bad)} of {len(gradients)} weights: {names}")
        else:
            norm = float(tf.linalg.global_norm(gradients))
            report(f"Gradients of replica {replica}: all finite; their norm is {norm:.3g}")
            is_bad |= not math.isfinite(norm)  # of entries beyond 1e19
        is_bad |= bool(bad)
    return is_bad


def _shares(batch: dict[str, tf.Tensor], number: int) -> Iterator[dict[str, tf.Tensor]]:
    """Yields equal, consecutive shares of a batch."""
    divided = {name: tf.split(value, number) for name, value in batch.items()}
    for index in range(number):
        yield {name: values[index] for name, values in divided.items()}


def _parts(record: Record, config, batch) -> Iterator[tuple[dict[str, tf.Tensor], tf.Tensor]]:
    """Yields the parts that were computed at once, with the seeds of their dropout."""
    num_parts = config.train.gradient_accumulation_steps
    for replica, share in enumerate(_shares(batch, record.num_replicas)):
        seed = replica_dropout_seed(config.train.seed, record.step - 1, replica)
        for index, part in enumerate(_shares(share, num_parts)):
            yield part, seed if num_parts == 1 else randomness.fold_in(seed, index)
