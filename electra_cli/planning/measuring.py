"""Real steps here next to those that a plan predicts, and by how much to correct it."""

import dataclasses
import pathlib
import re
import resource
import statistics
import time
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from electra_cli.data.input_pipeline import Part
from electra_cli.modeling import features
from electra_cli.objectives.base import objective_of
from electra_cli.planning.plan import Plan
from electra_cli.planning.scale import (
    ACCELERATORS,
    GIB,
    HOST_SECONDS,
    Device,
    largest_part,
    memory_of,
    step_time,
    this_cpu,
)
from electra_cli.training.distribution import Runtime, build_runtime
from electra_cli.training.run import build_model
from electra_cli.training.steps import build_train_steps
from electra_cli.training.throughput import measure_flops_per_second


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What steps took."""

    devices: str  # as '4 GPUs'
    num_replicas: int
    num_steps: int  # after the first
    first_step_seconds: float  # with building it
    step_seconds: float  # median of the others
    flops_per_second: float  # of large matrix products in the config's precision, on all devices together
    peak_bytes: int  # of a device's memory; on a CPU, of the process, libraries included


def measure_steps(config: ml_collections.FrozenConfigDict, num_steps: int) -> Measurement:
    """Times `num_steps` steps of a resolved phase after one that builds; must run before TensorFlow computes anything.

    Raises:
      UserError: the devices are missing or do not divide the batch.
    """
    seconds, runtime = make_steps(config, num_steps)
    return Measurement(
        runtime.devices,
        runtime.num_replicas,
        num_steps,
        seconds[0],
        statistics.median(seconds[1:]),
        peak_bytes=peak_memory(),
        flops_per_second=measure_flops_per_second(runtime),
    )


def make_steps(config: ml_collections.FrozenConfigDict, num_steps: int) -> tuple[list[float], Runtime]:
    """Makes steps as `measure_steps` does; returns the seconds of each, the one that builds included."""
    train = config.train
    runtime = build_runtime(config.runtime, [(train.global_batch_size, train.gradient_accumulation_steps)])
    steps = Steps(config, runtime, random_batch(config, train.global_batch_size))
    for _ in range(num_steps + 1):
        steps.make()
    return steps.seconds, runtime


class Steps:
    """Training steps of a resolved phase, all on the same batch, `features.MASKED` of all replicas.

    Attributes:
      seconds: of each step that was made; those of the first include building it.
    """

    def __init__(self, config: ml_collections.FrozenConfigDict, runtime: Runtime, batch: dict[str, np.ndarray]):
        self.model, optimizer = build_model(config, runtime)
        self._objective, self._runtime = objective_of(config), runtime
        self._update = build_train_steps(self.model, optimizer, runtime, config)

        def make_dataset(part: Part) -> tf.data.Dataset:
            size = part.size(len(batch[features.INPUT_WORD_IDS]))
            share = {name: value[part.index * size : (part.index + 1) * size] for name, value in batch.items()}
            return part.divide(tf.data.Dataset.from_tensors(share)).cache().repeat()

        self._batches = iter(runtime.distribute(make_dataset))
        self.seconds: list[float] = []

    def make(self) -> dict[str, np.ndarray]:
        """Makes a step, and returns its sums (`updates.Updates`)."""
        begin = time.perf_counter()
        sums = self._update(self._batches, tf.constant(len(self.seconds), tf.int64), tf.constant(1, tf.int64))
        values = {name: value.numpy() for name, value in sums.items()}  # waits for the result
        self.seconds.append(time.perf_counter() - begin)
        return values

    def samples(self) -> np.ndarray:
        """Returns the token that the present model puts at each slot, int32 [batch, slots] (`Objective.choices`)."""

        @self._runtime.function
        def choose(inputs):
            return self._objective.choices(inputs, self.model(inputs, training=False))["choices"]

        # A compiled function itself would be called once, across replicas.
        choose_on_all = tf.function(lambda batch: self._runtime.strategy.run(lambda own: choose(own), args=(batch,)))
        chosen = choose_on_all(next(self._batches))
        return np.concatenate([own.numpy() for own in self._runtime.strategy.experimental_local_results(chosen)])


def random_batch(config: ml_collections.FrozenConfigDict, size: int) -> dict[str, np.ndarray]:
    """Returns `features.MASKED` of `size` full examples of random tokens, all slots in use, for a resolved config."""
    length, slots = config.data.max_seq_length, config.derived.max_predictions_per_seq
    rng = np.random.default_rng(0)
    ids = rng.integers(0, config.derived.vocab_size, [size, length], np.int32)
    positions = np.sort(rng.permuted(np.tile(np.arange(length), [size, 1]), axis=1)[:, :slots], axis=1)
    kept = {features.MASKABLE: np.ones_like(ids)} if config.objective.name == "electric" else {}
    return {
        **kept,
        features.INPUT_WORD_IDS: ids,
        features.INPUT_MASK: np.ones_like(ids),
        features.INPUT_TYPE_IDS: np.zeros_like(ids),
        features.MASKED_LM_POSITIONS: positions.astype(np.int32),
        features.MASKED_LM_IDS: np.take_along_axis(ids, positions, axis=1),
        features.MASKED_LM_WEIGHTS: np.ones([size, slots], np.float32),
        features.SAMPLING_UNIFORM: rng.random([size, slots], np.float32),
    }


def peak_memory() -> int:
    """Returns the peak so far, in bytes, of the first GPU's memory; without GPUs, of the process."""
    if tf.config.list_physical_devices("GPU"):
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # Linux, whose getrusage begins with the memory of the process that started this one
        peak = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.M)
        if peak:
            return int(peak[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


_NUM_STEPS = 20
# Longest step that is measured, seconds as predicted: 20 of them and the one that builds take some minutes at most.
_LONGEST_STEP = 4.0
# Of the memory that a step may take here, where other programs run too.
_MEMORY_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Steps that were made here."""

    device: Device
    num_devices: int  # a replica each
    phase: int  # number of the phase that was measured, the one of the most operations
    batch: int  # examples of a step
    measured: Measurement
    predicted_seconds: float  # of a step
    predicted_bytes: float  # peak of a replica, without libraries
    library_bytes: int  # what the process took before
    correction: float  # factor of the predicted time of computation

    def describe(self) -> list[str]:
        """Returns lines for people."""
        measured = self.measured
        return [
            f"measured      {measured.num_steps} steps of {self.batch:,} examples on {measured.devices}: "
            f"{measured.step_seconds:.3g} s each, {self.predicted_seconds:.3g} s predicted; "
            f"{measured.flops_per_second / 1e9:,.0f} GFLOP/s in large products",
            f"              peak of memory {measured.peak_bytes / GIB:.2f} GiB: {self.library_bytes / GIB:.2f} before, "
            f"a step, for which {self.predicted_bytes / GIB:.2f} are predicted, its graph and its compilation",
        ]

    def to_json(self) -> dict[str, Any]:
        """Returns bytes and seconds for JSON."""
        return dataclasses.asdict(self)


def calibrate(plan: Plan) -> Calibration:
    """Makes steps of a plan's costliest phase on the devices here.

    The batch is the config's or as much of it as takes some seconds a step and half of the memory. Must run before
    TensorFlow computes anything.

    Raises:
      UserError: devices are missing or do not divide the batch.
    """
    phase = max(plan.phases, key=lambda candidate: candidate.matmul_flops)
    device, num_devices = device_here()
    config = measurable(phase.config, device, num_devices)
    batch = config.train.global_batch_size
    remat = plan.config.model.remat
    predicted = step_time(config, device, num_devices, 1, remat=remat)
    memory = memory_of(config, batch // num_devices, device, num_devices, 1, remat=remat)
    library_bytes = peak_memory()
    measured = measure_steps(config, _NUM_STEPS)
    computed = measured.step_seconds - predicted.all_reduce - HOST_SECONDS
    return Calibration(
        device,
        num_devices,
        phase.number,
        batch,
        measured,
        predicted.products + predicted.elementwise + predicted.all_reduce + HOST_SECONDS,
        memory.peak,
        library_bytes,
        correction=max(computed, 0.0) / (predicted.products + predicted.elementwise),
    )


def device_here() -> tuple[Device, int]:
    """Returns the kind of device of this machine and how many there are; a CPU is one, whatever its cores."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return this_cpu(), 1
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    known = [device for device in ACCELERATORS if device.name.split()[0] in name.replace("-", " ").split()]
    # One that is not in the table: as the smallest in it, until the measured time corrects that.
    return dataclasses.replace((known or ACCELERATORS[-1:])[0], name=f"{name[:13]} here"), len(gpus)


def measurable(
    resolved: ml_collections.FrozenConfigDict, device: Device, num_replicas: int
) -> ml_collections.FrozenConfigDict:
    """Returns a resolved config with as many examples a step, in one part, as can be measured."""
    config, remat = ml_collections.ConfigDict(resolved.to_dict()), resolved.model.remat
    limit = largest_part(resolved, dataclasses.replace(device, memory=_MEMORY_SHARE * device.memory), remat=remat)
    parts = num_replicas * config.train.gradient_accumulation_steps
    examples = max(1, min(config.train.global_batch_size // parts, limit))
    config.train.gradient_accumulation_steps = 1
    while True:
        config.train.global_batch_size = examples * num_replicas
        seconds = step_time(config, device, num_replicas, 1, remat=remat).total
        if seconds <= _LONGEST_STEP or examples == 1:
            return ml_collections.FrozenConfigDict(config)
        examples = max(1, examples // 2)
