"""Which devices a run computes on: from settings to a `tf.distribute` strategy."""

import dataclasses

import ml_collections
import tensorflow as tf
import tf_keras
from official.common import distribute_utils

from electra_cli.errors import UserError


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Devices and numbers of a run.

    Attributes:
      strategy: the strategy; model and optimizer are made in its scope.
      jit_compile: whether steps are compiled with XLA.
      description: what was picked and why, in one line.
    """

    strategy: tf.distribute.Strategy
    jit_compile: bool
    description: str

    @property
    def num_replicas(self) -> int:
        """Replicas that a batch is divided over."""
        return self.strategy.num_replicas_in_sync


def build_runtime(config: ml_collections.FrozenConfigDict) -> Runtime:
    """Picks devices and sets the global precision policy. Must run before TensorFlow makes its first tensor.

    Args:
      config: a resolved config; reads `runtime` and `train.global_batch_size`.

    Raises:
      UserError: logical CPUs come too late, or the replicas do not divide the global batch.
    """
    settings = config.runtime
    if settings.logical_cpus:
        _split_cpu(settings.logical_cpus)
    tf_keras.mixed_precision.set_global_policy(settings.precision)

    num_gpus = len(tf.config.list_physical_devices("GPU"))
    name = settings.strategy
    if settings.logical_cpus > 1 and (num_gpus or name == "one_device"):
        reason = f"there are {num_gpus} GPUs" if num_gpus else "config.runtime.strategy=one_device uses one device"
        raise UserError(
            f"config.runtime.logical_cpus={settings.logical_cpus} would not be used, for {reason}: set it to 0"
        )
    if name == "auto":
        name = "mirrored" if num_gpus > 1 or settings.logical_cpus > 1 else "one_device"
    if name == "mirrored" and not num_gpus and settings.logical_cpus:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(settings.logical_cpus)])
    else:
        strategy = distribute_utils.get_distribution_strategy(
            name, num_gpus=min(num_gpus, 1) if name == "one_device" else num_gpus
        )

    # On a CPU, oneDNN's matrix products outrun those of XLA: see ARCHITECTURE.md for the ratio.
    jit_compile = num_gpus > 0 if settings.jit_compile == "auto" else settings.jit_compile == "true"
    runtime = Runtime(strategy, jit_compile, _describe(name, num_gpus, settings, jit_compile))
    num_parts = config.train.gradient_accumulation_steps
    divisor = runtime.num_replicas * num_parts
    if config.train.global_batch_size % divisor:
        accumulation = (
            f", each in {num_parts} parts (config.train.gradient_accumulation_steps)" if num_parts > 1 else ""
        )
        raise UserError(
            f"config.train.global_batch_size={config.train.global_batch_size} cannot be divided over "
            f"{runtime.num_replicas} replicas{accumulation}: choose a multiple of {divisor}"
        )
    return runtime


def _split_cpu(number: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * number)
    except RuntimeError as error:
        if len(tf.config.list_logical_devices("CPU")) != number:
            raise UserError(
                f"config.runtime.logical_cpus={number}: this process already computed on another number of CPUs"
            ) from error


def _describe(name: str, num_gpus: int, settings: ml_collections.FrozenConfigDict, jit_compile: bool) -> str:
    if name == "mirrored":
        devices = f"{num_gpus} GPUs" if num_gpus else f"{max(settings.logical_cpus, 1)} logical CPUs"
    else:
        devices = "1 GPU" if num_gpus else "CPU"
    how = f"{name}{' (auto)' if settings.strategy == 'auto' else ''}"
    return f"{devices}, strategy {how}, {settings.precision}, XLA {'on' if jit_compile else 'off'}"
