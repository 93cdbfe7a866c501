"""Real steps of a config on the devices that are here, on a batch of random tokens: their time and memory."""

import dataclasses
import pathlib
import re
import resource
import statistics
import time

import ml_collections
import numpy as np
import tensorflow as tf

from electra_cli import features
from electra_cli.training.device_rate import measure_flops_per_second
from electra_cli.training.distribution import Runtime, build_runtime
from electra_cli.training.run import build_model
from electra_cli.training.step import build_train_steps


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What steps took.

    Attributes:
      devices: what was computed on, as '4 GPUs'.
      num_replicas: replicas that the batch was divided over.
      num_steps: steps behind the first.
      first_step_seconds: of the first step, which builds.
      step_seconds: median of the others.
      flops_per_second: operations a second of large matrix products in the config's precision, of all devices together.
      peak_bytes: peak of a device's memory; on a CPU, of the process, libraries included.
    """

    devices: str
    num_replicas: int
    num_steps: int
    first_step_seconds: float
    step_seconds: float
    flops_per_second: float
    peak_bytes: int


def measure_steps(config: ml_collections.FrozenConfigDict, num_steps: int) -> Measurement:
    """Makes steps of one resolved phase, and times them.

    Must run before TensorFlow computes anything.

    Args:
      config: the resolved config of a phase; its global batch is made.
      num_steps: steps to time, behind one that builds.

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
    """Makes steps as `measure_steps` does; returns the seconds of each, of the one that builds first, and devices."""
    runtime = build_runtime(config)
    model, optimizer = build_model(config, runtime)
    train_steps = build_train_steps(model, optimizer, runtime, config)
    batch = random_batch(config, config.train.global_batch_size // runtime.num_replicas)
    batches = iter(runtime.distribute(lambda part: tf.data.Dataset.from_tensors(batch).cache().repeat()))
    seconds = []
    for step in range(num_steps + 1):
        begin = time.perf_counter()
        sums = train_steps(batches, tf.constant(step, tf.int64), tf.constant(1, tf.int64))
        float(sums["num_steps"])  # waits for the result
        seconds.append(time.perf_counter() - begin)
    return seconds, runtime


def random_batch(config: ml_collections.FrozenConfigDict, size: int) -> dict[str, np.ndarray]:
    """Returns `features.MASKED` of full examples of random tokens, all slots in use.

    Args:
      config: a resolved config.
      size: examples.
    """
    length, slots = config.data.max_seq_length, config.derived.max_predictions_per_seq
    rng = np.random.default_rng(0)
    ids = rng.integers(0, config.derived.vocab_size, [size, length], np.int32)
    positions = np.sort(rng.permuted(np.tile(np.arange(length), [size, 1]), axis=1)[:, :slots], axis=1)
    return {
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
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.M)
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
