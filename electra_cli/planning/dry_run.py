"""A trial of a run: checks all it needs, makes a few steps of each phase, and reports what the rest would take."""

import dataclasses
import math
import os
import shutil
import statistics
import tempfile
import time

import ml_collections
import numpy as np
import tensorflow as tf

from electra_cli import files
from electra_cli.config.checks import notices
from electra_cli.data.input_pipeline import training_batches
from electra_cli.data.source import OpenedRun, Phase, fingerprint
from electra_cli.errors import UserError
from electra_cli.loggers.lines import Lines
from electra_cli.loggers.logger import Logger, format_duration
from electra_cli.objectives.base import objective_of
from electra_cli.objectives.costs import matmul_flops
from electra_cli.objectives.sizes import (
    CheckpointSize,
    checkpoint_size,
    describe_shortage,
    existing_directory,
    host_memory,
)
from electra_cli.planning.measuring import peak_memory
from electra_cli.planning.scale import GIB
from electra_cli.probes.prober import read_probes
from electra_cli.training.distribution import reporting_lost_workers
from electra_cli.training.evaluation import Evaluator, check_validation
from electra_cli.training.initialization import begin
from electra_cli.training.run import Run, check_memory, open_run
from electra_cli.training.steps import build_train_steps
from electra_cli.training.throughput import measure_flops_per_second
from electra_cli.workdir.checkpoints import Checkpoints
from electra_cli.workdir.run_files import check_config
from electra_cli.workdir.workdir import Workdir

# Steps after the first: at least one, at most so many, and no more after so many seconds.
_MAX_STEPS, _SECONDS_OF_STEPS = 20, 2.0
_NUM_EVALUATED_BATCHES = 4


@dataclasses.dataclass(frozen=True)
class PhaseTrial:
    """What steps of a phase took."""

    number: int  # from 1
    num_steps: int  # those that are left
    first_step_seconds: float  # with building it
    num_timed: int  # steps after the first
    step_seconds: float  # median of these
    tokens_per_second: float  # real tokens, by the median, as `model_flops_utilization`
    model_flops_utilization: float
    total_loss: float  # mean of all steps
    num_evaluations: int  # those that are left
    build_seconds: float  # how much longer the first evaluation takes than others
    evaluation_seconds: float  # of one; 0 without evaluations

    @property
    def seconds(self) -> float:
        """What the rest of the phase will take."""
        building = self.first_step_seconds + self.build_seconds
        return building + self.num_steps * self.step_seconds + self.num_evaluations * self.evaluation_seconds


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a run would take."""

    step: int  # that it resumes from
    num_steps: int
    num_parameters: int
    phases: tuple[PhaseTrial, ...]  # those that are left
    checkpoints: CheckpointSize
    free_bytes: int | None  # of the disk; None: not known, as of remote directories
    peak_bytes: int  # of memory so far: of the first GPU, or of the process

    @property
    def seconds(self) -> float:
        """What the rest of the run will take."""
        return sum(phase.seconds for phase in self.phases)


def dry_run(
    config: ml_collections.ConfigDict | OpenedRun,
    workdir: str,
    *,
    with_evaluation: bool,
    logger: Logger | None = None,
    checkpoint: str | None = None,
) -> Trial:
    """Tries `loop.train` with the same arguments from where it would resume, and changes nothing in the workdir.

    Raises:
      UserError: config, data, workdir and checkpoint do not fit, the workdir cannot be written, or its disk is too
        small for the checkpoints that will be kept.
    """
    logger = logger or Lines()
    mode = "train_and_eval" if with_evaluation else "train"
    flags = {"--dry_run": True, "--mode": mode, "--checkpoint": checkpoint}
    runtime, resolved, phases = open_run(config, logger, flags=flags)
    check_memory(runtime, phases)
    if with_evaluation:
        for phase in phases:
            check_validation(phase.source)
        read_probes(resolved)
    if not runtime.is_chief:
        logger = Logger()
    check_config(workdir, resolved, fingerprint(phases))
    size = checkpoint_size(resolved)
    free_bytes = check_room(workdir, size) if runtime.is_chief else None
    for notice in notices(resolved, with_evaluation):
        logger.warning(f"Note: {notice}")
    logger.notice(f"Devices: {runtime.description}")
    with reporting_lost_workers(runtime):
        run = Run(runtime, resolved, phases, logger)
        with logger.status("Restoring the checkpoint"):
            run.step = _restore(run, workdir, checkpoint)
        with logger.status("Measuring how fast the devices are"):
            flops_per_second = measure_flops_per_second(runtime)
        trials = [_try_phase(run, phase, flops_per_second, with_evaluation) for phase in phases if phase.end > run.step]
    num_parameters = sum(math.prod(variable.shape) for variable in run.model.variables)
    trial = Trial(run.step, resolved.train.num_steps, num_parameters, tuple(trials), size, free_bytes, peak_memory())
    logger.result("dry_run", {**dataclasses.asdict(trial), "seconds": trial.seconds}, describe(trial, workdir))
    return trial


def _restore(run: Run, workdir: str, checkpoint: str | None) -> int:
    """Restores what the run would begin with, and returns its step."""
    checkpoints = Checkpoints(tf.io.gfile.join(workdir, "checkpoints"), run.model, run.optimizer, logger=run.logger)
    step = checkpoints.restore_newest()
    if step is None:
        begin(run.model, run.optimizer, run.config, run.phases[0].source.tokenizer, checkpoint, run.logger)
    return step or 0


def _try_phase(run: Run, phase: Phase, flops_per_second: float, with_evaluation: bool) -> PhaseTrial:
    begin = max(run.step, phase.begin)
    train_steps = build_train_steps(run.model, run.optimizer, run.runtime, phase.config)
    batches = training_batches(phase, run.runtime.distribute, begin)
    seconds: list[float] = []
    totals: list[dict[str, np.ndarray]] = []
    with run.logger.status(f"Building and making steps of phase {phase.number + 1}"):
        while len(seconds) < 2 or (len(seconds) <= _MAX_STEPS and sum(seconds[1:]) < _SECONDS_OF_STEPS):
            start = time.perf_counter()
            sums = train_steps(batches, tf.constant(begin + len(seconds), tf.int64), tf.constant(1, tf.int64))
            totals.append({name: np.asarray(value, np.float64) for name, value in sums.items()})
            # The mean over workers, which decides how many steps all make: one more than others would wait for them.
            seconds.append(run.runtime.total(time.perf_counter() - start) / run.runtime.num_workers)
    if any(total["nonfinite_replicas"].any() for total in totals):
        run.logger.warning(f"Warning, phase {phase.number + 1}: the loss or gradient of a step is infinite or NaN.")
    step_seconds = statistics.median(seconds[1:])
    build, evaluation = _time_evaluation(run, phase) if with_evaluation else (0.0, 0.0)
    added = {name: np.sum([total[name] for total in totals], axis=0) for name in totals[0]}
    return PhaseTrial(
        phase.number + 1,
        phase.end - begin,
        seconds[0],
        len(seconds) - 1,
        step_seconds,
        float(added["real_tokens"]) / len(totals) / step_seconds,
        matmul_flops(phase.config) / flops_per_second / step_seconds,
        objective_of(phase.config).summarize(added)["total_loss"] if added["real_tokens"] else math.nan,
        _num_evaluations(phase, begin) if with_evaluation else 0,
        build,
        evaluation,
    )


def _num_evaluations(phase: Phase, begin: int) -> int:
    """Returns how many evaluations a phase will have from a step on: every `eval.interval` steps, and at its end."""
    interval = phase.config.eval.interval
    scheduled = phase.end // interval - begin // interval if interval else 0
    return scheduled + bool(not interval or phase.end % interval)


def _time_evaluation(run: Run, phase: Phase) -> tuple[float, float]:
    """Evaluates some batches twice: returns the seconds that building took, and those that all batches will take."""
    config = ml_collections.ConfigDict(phase.config.to_dict())
    batch_size = config.train.global_batch_size
    config.eval.num_examples = _NUM_EVALUATED_BATCHES * batch_size
    short = dataclasses.replace(phase, config=ml_collections.FrozenConfigDict(config))
    evaluator = Evaluator(run.model, run.optimizer, run.runtime, short)
    moments: list[float] = []

    def evaluate() -> float:
        moments.clear()
        start = time.perf_counter()
        evaluator.run(before_batch=lambda: moments.append(time.perf_counter()))
        return time.perf_counter() - start

    with run.logger.status("Evaluating some batches"):
        first = evaluate()
        start = time.perf_counter()
        again = evaluate()
    per_batch = (start + again - moments[0]) / len(moments)
    assert phase.source.validation is not None
    num_there = phase.source.validation.num_examples
    num_batches = math.ceil(min(num_there, phase.config.eval.num_examples or num_there) / batch_size)
    return first - again, again + (num_batches - len(moments)) * per_batch


def describe(trial: Trial, workdir: str) -> str:
    """Returns the result of a trial, for people."""
    run = f"the run in {workdir}, from step {trial.step:,} on" if trial.step else f"a new run in {workdir}"
    lines = [f"Dry run of {run}; nothing was written there."]
    several = len(trial.phases) > 1 or any(phase.number > 1 for phase in trial.phases)
    if not trial.phases:
        return f"{lines[0]} The run is complete: all {trial.step:,} steps are done."
    for phase in trial.phases:
        lines += [f"  phase {phase.number}"] if several else []
        lines += [
            _row("first step", f"{phase.first_step_seconds:.1f} s, with building it"),
            _row(
                "others",
                f"{phase.step_seconds:.3g} s, median of {phase.num_timed}: "
                f"{phase.tokens_per_second:,.0f} real tokens/s, utilization "
                f"{phase.model_flops_utilization:.0%}; total_loss {phase.total_loss:.3f}",
            ),
        ]
        if phase.num_evaluations:
            lines.append(_row("evaluation", f"{phase.evaluation_seconds:.3g} s, by some batches of it"))
    train = sum(phase.num_steps * phase.step_seconds for phase in trial.phases)
    evaluations = sum(phase.num_evaluations for phase in trial.phases)
    kept = trial.checkpoints
    free = "" if trial.free_bytes is None else f"; {_gib(trial.free_bytes)} are free"
    lines += [
        "The run would take:",
        _row(
            "time",
            f"{format_duration(trial.seconds)} at this speed: {format_duration(train)} for "
            f"{trial.num_steps - trial.step:,} steps, {format_duration(trial.seconds - train)} for {evaluations:,} "
            f"evaluation{'' if evaluations == 1 else 's'} and for building; more for checkpoints",
        ),
        _row(
            "disk", f"{_gib(kept.kept)}: {kept.num_kept} checkpoints of {_gib(kept.one)}, and one being written{free}"
        ),
        _row("memory", f"{_gib(trial.peak_bytes)} at the peak so far{_memory_here()}"),
    ]
    return "\n".join(lines)


def _memory_here() -> str:
    if tf.config.list_physical_devices("GPU"):
        return " of a GPU's"
    return f" of this process; {_gib(host_memory())} are here"


def _row(name: str, text: str) -> str:
    return f"  {name:<13}{text}"


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.2f} GiB"


def check_room(workdir: str, size: CheckpointSize) -> int | None:
    """Returns the free bytes of a workdir's disk, None for remote ones; the workdir need not exist.

    Raises:
      UserError: it cannot be written, is in use, or has too little room.
    """
    if files.is_remote(workdir):
        _check_remote(workdir)
        return None
    if os.path.isdir(workdir):
        lock = os.path.join(workdir, files.LOCK_FILE)  # that a `Workdir` makes
        had_lock = os.path.exists(lock)
        with Workdir(workdir):  # which reports whether another process trains there
            pass
        if not had_lock:
            os.remove(lock)
    directory = existing_directory(workdir)
    try:
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written ({error.strerror or error}): choose another") from error
    shortage = describe_shortage(workdir, size)
    if shortage is not None:
        raise UserError(shortage)
    return shutil.disk_usage(directory).free


def _check_remote(workdir: str) -> None:
    existed = tf.io.gfile.isdir(workdir)
    file = tf.io.gfile.join(workdir, f".dry_run-{os.getpid()}")
    try:
        tf.io.gfile.makedirs(workdir)
        with tf.io.gfile.GFile(file, "w") as stream:
            stream.write("")
        tf.io.gfile.remove(file)
        if not existed and tf.io.gfile.isdir(workdir):
            tf.io.gfile.rmtree(workdir)
    except tf.errors.OpError as error:
        raise UserError(f"--workdir={workdir} cannot be written ({error.message}): choose another") from error
