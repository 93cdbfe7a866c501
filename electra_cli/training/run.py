"""The state of a run in one process: config, data, devices, model, optimizer, and its checkpoints."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf
import tf_keras

from electra_cli.config.fields import flatten
from electra_cli.data.source import OpenedRun, Phase, fingerprint, phase_at, read_run
from electra_cli.data.tfrecords import VOCAB_FILE
from electra_cli.errors import Interrupted, ResumableError, UserError
from electra_cli.loggers.logger import Logger
from electra_cli.modeling.schedules import scheduled_values
from electra_cli.objectives.base import Pretrainer, build_pretrainer, objective_of
from electra_cli.objectives.sizes import describe_bytes, host_memory, replica_memory
from electra_cli.training.cluster import check_same
from electra_cli.training.distribution import Runtime, build_runtime
from electra_cli.training.initialization import begin
from electra_cli.training.optimization import Optimizer, build_optimizer, uses_loss_scaling
from electra_cli.training.stopping import StopRequest
from electra_cli.training.throughput import Throughput, measure_flops_per_second
from electra_cli.training.updates import IntervalSums, with_counts
from electra_cli.workdir.checkpoints import Checkpoints
from electra_cli.workdir.run_files import read_metrics
from electra_cli.workdir.workdir import Workdir

# Mean losses, one for each line of metrics, whose median a spike is measured against.
_NUM_RECENT = 10
# Factor that plans of memory may be wrong by.
_MEMORY_MARGIN = 1.5
# Keys that workers may have values of their own for: data of one fingerprint may lie elsewhere on each machine.
_OWN_KEYS = ("data.dir", "phases.data_dir", "runtime.worker_index")


def open_run(
    config: ml_collections.ConfigDict | OpenedRun,
    logger: Logger,
    *,
    alone: bool = False,
    flags: Mapping[str, Any] | None = None,
) -> tuple[Runtime, ml_collections.FrozenConfigDict, list[Phase]]:
    """Loads the data and finds the devices; returns them with the resolved config.

    `alone`: see `build_runtime`. `flags`: values by name that several workers must share, besides config, data and
    code.
    """
    with logger.status("Opening the data"):  # before workers wait for each other: one whose data is bad never joins
        run = config if isinstance(config, OpenedRun) else read_run(config)
        for phase in run.phases:
            phase.source.load()
    with logger.status("Looking for devices"):
        trains = [phase.config.train for phase in run.phases]
        batches = [(train.global_batch_size, train.gradient_accumulation_steps) for train in trains]
        runtime = build_runtime(run.resolved.runtime, batches, alone=alone, logger=logger)
        for phase in run.phases:
            runtime.check_shared("config.data.dir", phase.source.data_dir, VOCAB_FILE)
        if runtime.num_workers > 1:
            record = {f"config.{key}": value for key, value in flatten(run.resolved).items() if key not in _OWN_KEYS}
            record |= {"the data of config.data.dir": fingerprint(run.phases)[:12], "devices": runtime.devices}
            record |= flags or {}
            check_same(runtime.worker_index, runtime.num_workers, record)
    return runtime, run.resolved, list(run.phases)


def check_memory(runtime: Runtime, phases: Sequence[Phase]) -> None:
    """Raises a `UserError` where steps on CPUs need far more memory than the machine has: the system would end them."""
    if not runtime.devices.endswith(("CPU", "CPUs")):
        return
    for phase in phases:
        config, train = phase.config, phase.config.train
        num_examples = train.global_batch_size // train.gradient_accumulation_steps // runtime.num_replicas
        memory = replica_memory(config, num_examples, remat=config.model.remat, compiled=runtime.jit_compile,
                                num_replicas=runtime.num_replicas)  # fmt: skip
        needed = memory.peak * runtime.num_replicas / runtime.num_workers
        if needed > _MEMORY_MARGIN * host_memory():
            raise UserError(
                f"config.train.global_batch_size={train.global_batch_size}: steps in "
                f"config.train.gradient_accumulation_steps={train.gradient_accumulation_steps} parts need about "
                f"{describe_bytes(needed)} with config.model.hidden_size={config.model.hidden_size} and "
                f"config.data.max_seq_length={config.data.max_seq_length}, and this machine has "
                f"{describe_bytes(host_memory())} of memory: choose smaller ones, or more parts"
            )


def build_model(config: ml_collections.FrozenConfigDict, runtime: Runtime) -> tuple[Pretrainer, Optimizer]:
    """Builds model and optimizer of a resolved config, with all their variables."""
    with runtime.strategy.scope():
        # The one use of the global generator: initial weights, which follow from the seed too.
        tf_keras.utils.set_random_seed(config.train.seed)
        model = build_pretrainer(config)
        optimizer = build_optimizer(config)
        optimizer.build(model.trainable_variables)
    return model, optimizer


class LossMonitor(tf.Module):
    """Recent losses, and counts (int64) of mishaps; in the checkpoint, so that a stop does not change them.

    Attributes:
      num_nonfinite: steps that were skipped because loss or gradient were not finite.
      num_skipped: steps of examples that roll-backs skipped: step s takes those of step s + num_skipped.
    """

    def __init__(self) -> None:
        super().__init__()

        def count() -> tf.Variable:
            return tf.Variable(0, dtype=tf.int64, trainable=False)

        self.num_nonfinite, self.num_rollbacks, self.num_skipped = count(), count(), count()
        self._num_recent = count()
        self._recent = tf.Variable(tf.zeros([_NUM_RECENT], tf.float64), trainable=False)

    def median(self) -> float | None:
        """Returns the median of the last losses; None until there are enough of them."""
        full = int(self._num_recent.numpy()) >= _NUM_RECENT
        return float(np.median(self._recent.numpy())) if full else None

    def add_loss(self, loss: float) -> None:
        """Remembers a mean loss."""
        index = int(self._num_recent.numpy()) % _NUM_RECENT
        self._recent.scatter_nd_update([[index]], [loss])
        self._num_recent.assign_add(1)

    def forget_losses(self) -> None:
        """Restarts the median, where later losses cannot be compared with earlier ones."""
        self._num_recent.assign(0)


class Run:
    """What `open_run` returns, with model and optimizer; `step` counts updates."""

    def __init__(self, runtime: Runtime, config: ml_collections.FrozenConfigDict, phases: list[Phase], logger: Logger):
        self.runtime, self.config, self.phases, self.logger = runtime, config, phases, logger
        with logger.status("Building the model"):
            self.model, self.optimizer = build_model(config, runtime)
        self.objective = objective_of(config)
        self.step = 0

    @property
    def phase(self) -> Phase:
        """The phase that the last update belongs to."""
        return phase_at(self.phases, self.step)


class TrainingRun(Run):
    """A run in training, between two updates; shared by the loop and its hooks.

    Attributes:
      workdir: entered.
      interval_sums: those of all updates since the last line of metrics.
      checkpoints: set by `open_checkpoints`.
      saved_step: that of the last checkpoint; -1: none was saved.
      flops_per_second: of all devices together; set by `measure_devices`.
      throughput: of the current phase.
    """

    checkpoints: Checkpoints
    flops_per_second: float
    throughput: Throughput

    def __init__(
        self,
        runtime: Runtime,
        config: ml_collections.FrozenConfigDict,
        phases: list[Phase],
        logger: Logger,
        workdir: Workdir,
        stop: StopRequest,
    ):
        super().__init__(runtime, config, phases, logger)
        self.workdir, self.stop = workdir, stop
        self.interval_sums = IntervalSums(with_counts(self.objective.sum_shapes()))
        self.monitor = LossMonitor()
        self.saved_step = -1

    def open_checkpoints(self, modules: Mapping[str, tf.Module]) -> Checkpoints:
        """Returns the checkpoints of model, optimizer and modules by name."""
        self.checkpoints = Checkpoints(
            self.workdir.checkpoint_dir,
            self.model,
            self.optimizer,
            modules,
            self.config.train,
            self.logger,
            is_writer=self.runtime.is_chief,
        )
        return self.checkpoints

    def restore(self, checkpoint: str | None) -> tuple[list[dict[str, Any]], int]:
        """Restores the newest checkpoint, or begins with the weights of `checkpoint`, and writes the config.

        Returns the lines of metrics up to the step, and the last step that was computed but not saved; 0: none.
        """
        with self.logger.status("Looking for a checkpoint, and restoring it"):
            self.checkpoints.recover()
            self.runtime.wait_for_all()
            step = self.checkpoints.restore_newest()
        self._check_agreement(step)
        tokenizer = self.phases[0].source.tokenizer
        if step is None:
            begin(self.model, self.optimizer, self.config, tokenizer, checkpoint, self.logger)
        elif checkpoint:
            self.logger.notice(f"--checkpoint={checkpoint} is not read: the run resumes from its own checkpoints.")
        computed = [line["step"] for line in read_metrics(self.workdir.path)]
        # Not before, so that a checkpoint of another model does not bind the workdir to the config.
        data, devices = fingerprint(self.phases), self.runtime.devices
        self.workdir.write_config(self.config, data, devices, tokenizer, resumes=step is not None)
        self.logger.hparams(self.config)
        self.step = step or 0
        lines = self.workdir.drop_metrics_after(self.step)
        if step is not None:
            self.saved_step = step
        elif computed:
            self.logger.notice(f"No checkpoint is in {self.workdir.checkpoint_dir}: the run begins again at step 0.")
        return lines, max((other for other in computed if other > self.step), default=0)

    def restore_before(self, step: int) -> bool:
        """Restores the newest regular checkpoint before a step; returns whether there is one."""
        self.checkpoints.wait()
        self.runtime.wait_for_all()
        restored = self.checkpoints.restore_before(step)
        self._check_agreement(restored)
        if restored is None:
            return False
        self.step = self.saved_step = restored
        self.workdir.drop_metrics_after(restored)
        return True

    def _check_agreement(self, step: int | None) -> None:
        """Raises a `ResumableError` where workers restored different steps, as where a shared directory lags."""
        number = 0 if step is None else step + 1
        for digit in divmod(number, 4096):  # of sizes that float32 sums up exactly
            if abs(self.runtime.total(digit) / self.runtime.num_workers - digit) > 1e-2:
                restored = "nothing" if step is None else f"step {step:,}"
                raise ResumableError(
                    f"worker {self.runtime.worker_index} restored {restored} and others another step: "
                    f"{self.workdir.path} does not look the same to all of them; start all again"
                )

    def save(self) -> None:
        """Saves a checkpoint of this step, unless there is one; raises a `UserError` if weights are not finite."""
        if self.step == self.saved_step:
            return
        if not all(np.isfinite(variable.numpy()).all() for variable in self.model.trainable_variables):
            raise UserError(
                f"step {self.step:,} made weights infinite or NaN; they are not saved. {self.advise_restart()}"
            )
        with self.logger.status(f"Saving step {self.step:,}"):
            self.checkpoints.save()
        self.runtime.wait_for_all()
        self.saved_step = self.step

    def measure_devices(self) -> None:
        """Measures the devices' rate of matrix products, which utilization is relative to."""
        count = sum(math.prod(variable.shape) for variable in self.model.variables)
        with self.logger.status("Measuring how fast the devices are"):
            self.flops_per_second = measure_flops_per_second(self.runtime)
        self.logger.notice(
            f"Model: {count / 1e6:.1f} million parameters. Measured peak in matrix products: "
            f"{self.flops_per_second / 1e12:.2f} TFLOP/s, which utilization is relative to."
        )

    def advise_restart(self) -> str:
        """Returns advice for messages about a failed run."""
        last = (
            f"the last checkpoint here is of step {self.saved_step:,}" if self.saved_step > 0 else "none is saved here"
        )
        return (
            f"Begin a run with a lower config.optimizer.learning_rate or more config.optimizer.warmup_steps in another "
            f"--workdir ({last})"
        )

    def end_if_asked(self, where: str) -> None:
        """Raises an `Interrupted` when any worker was asked to stop: all of them stop after the same step."""
        if self.runtime.total(self.stop.requested) > 0:
            name = self.stop.name or "another worker's signal"
            raise Interrupted(f"stopped by {name} {where}; saved: the same command resumes from there")

    def is_evaluation_due(self) -> bool:
        """Whether this step is one of every `eval.interval` steps, or the last of a phase."""
        interval = self.config.eval.interval
        is_last = any(self.step == phase.end for phase in self.phases)
        return is_last or (interval > 0 and self.step > 0 and self.step % interval == 0)

    def phase_number(self) -> dict[str, float]:
        """Returns the metric `phase`, from 1, where there are several."""
        return {"phase": self.phase.number + 1} if len(self.phases) > 1 else {}

    def summarize(self) -> dict[str, float]:
        """Returns the metrics of all updates since the last call, by the names of metrics.jsonl."""
        sums = self.interval_sums.take()
        # Where all steps were skipped there are no losses.
        values = self.objective.summarize(sums) if sums["real_tokens"] else {}
        values["real_tokens"] = float(sums["real_tokens"])
        values["gradient_norm"] = float(sums["gradient_norm"] / max(1.0, sums["num_updates"]))
        if uses_loss_scaling(self.optimizer):
            values["loss_scale"] = float(self.optimizer.loss_scale.numpy())
        if uses_loss_scaling(self.optimizer) or sums["num_steps"] > sums["num_updates"]:
            values["skipped_updates"] = float(sums["num_steps"] - sums["num_updates"])
        # Those that the last update was made with.
        values["learning_rate"] = float(self.optimizer.learning_rate.numpy())
        keys = ("data.mask_prob", *self.objective.scheduled_keys)
        values |= {name: float(value) for name, value in scheduled_values(self.config, keys, self.step - 1).items()}
        return values | self.throughput.rates(self.step) | self.phase_number()
