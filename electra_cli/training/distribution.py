"""Chooses the devices of a run: from its config and its cluster to a `tf.distribute` strategy."""

import contextlib
import dataclasses
import functools
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ml_collections
import tensorflow as tf
import tf_keras

from electra_cli import files
from electra_cli.data.input_pipeline import WHOLE, Part
from electra_cli.errors import Interrupted, Option, UserError
from electra_cli.loggers.logger import Logger
from electra_cli.modeling import tf_models
from electra_cli.modeling.fused import with_jit_regions
from electra_cli.training.cluster import Cluster, find_cluster, joining

# The first major compute capability where the driver does not compile the PTX that TensorFlow 2.20's wheels have, of
# 9.0: https://github.com/tensorflow/tensorflow/issues/101746.
_FIRST_WITHOUT_CODE = 12
# Device files of the chips of a TPU machine.
TPU_DEVICES = ("/dev/accel*", "/dev/vfio/[0-9]*")


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Devices and processes of a run.

    Attributes:
      jit_compile: whether we compile steps with XLA (a TPU's always are).
      description: the choice and its reason, in one line.
      devices: as '4 GPUs'.
      worker_index: 0, the chief, alone writes to the workdir.
      jit_regions: whether XLA compiles only what lies between matrix products; see `modeling/fused.py`.
    """

    strategy: tf.distribute.Strategy
    jit_compile: bool
    description: str
    devices: str = "CPU"
    num_workers: int = 1
    worker_index: int = 0
    jit_regions: bool = False

    @property
    def num_replicas(self) -> int:
        """Replicas that a batch is divided over."""
        return self.strategy.num_replicas_in_sync

    @property
    def is_chief(self) -> bool:
        """Whether this process writes to the workdir."""
        return self.worker_index == 0

    @property
    def hosts(self) -> tuple[str, ...]:
        """The CPUs of the machines that this process computes on: several for a TPU slice of several hosts."""
        devices = [tf.DeviceSpec.from_string(name) for name in self.strategy.extended.worker_devices]
        cpus = [device.replace(device_type="CPU", device_index=0).to_string() for device in devices]
        return tuple(dict.fromkeys(cpus))

    def check_shared(self, name: str, directory: str, file: str) -> None:
        """Raises a `UserError` where not all hosts see a file in the value `directory` of an option: they read and
        write there themselves, and a host's own disk goes with it."""
        if len(self.hosts) == 1 or files.is_remote(directory):
            return
        # Without an error where there is none: after one, a host fails what is asked of it next, sooner or later.
        pattern = glob.escape(files.join(directory, file))
        for index, host in enumerate(self.hosts):
            with tf.device(host):
                matches = tf.io.matching_files(pattern)
            if not len(matches.numpy()):
                message = (
                    f"={directory} is not on host {index} of {len(self.hosts)}, which all read and write there: give a "
                    f"gs:// path, or an absolute one on a disk that they share"
                )
                raise UserError(Option(name), message)

    def with_jit_regions(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function whose regions are compiled if `jit_regions`; it must be traced in one thread."""
        return with_jit_regions(function, self.jit_regions)

    def function(self, function: Callable[..., Any]) -> tf.types.experimental.PolymorphicFunction:
        """Returns the `tf.function` of one replica's computation; XLA compiles all of it, regions, or nothing.

        AutoGraph does not convert it, which takes a second of every start: its loops are TensorFlow's own.
        """
        return tf.function(self.with_jit_regions(function), jit_compile=self.jit_compile, autograph=False)

    def distribute(
        self, make_dataset: Callable[[Part], tf.data.Dataset]
    ) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        """Distributes datasets of parts, whose batches are for one replica each, one after the other.

        The one CPU that computes takes them as they are: an iterator of a strategy tunes itself, and closing it may
        wait seconds for that (`pipeline_options`).
        """
        if self.num_replicas == 1 and self.devices == "CPU":
            return make_dataset(WHOLE)

        def make(context: tf.distribute.InputContext) -> tf.data.Dataset:
            num_parts = context.num_input_pipelines
            return make_dataset(Part(context.input_pipeline_id, num_parts, self.num_replicas // num_parts))

        return self.strategy.distribute_datasets_from_function(make)

    def total(self, value: float) -> float:
        """Returns the sum of the workers' values; all must call it."""
        if self.num_workers == 1:
            return value
        share = tf.constant(value * self.num_workers / self.num_replicas, tf.float32)
        return float(_sum_over_replicas(self.strategy, share))

    def wait_for_all(self) -> None:
        """Waits until all workers have called it."""
        self.total(0.0)


@contextlib.contextmanager
def reporting_lost_workers(runtime: Runtime) -> Iterator[None]:
    """Turns errors that the end of another worker causes into an `Interrupted` that names it."""
    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.InternalError,
        tf.errors.DeadlineExceededError,
        tf.errors.FailedPreconditionError,
    ) as error:
        named = {int(task) for task in re.findall(r"/job:worker/(?:replica:0/)?task:(\d+)", str(error))}
        lost = sorted(named - {runtime.worker_index})
        if runtime.num_workers == 1 or not lost:
            raise
        raise Interrupted(
            f"worker {runtime.worker_index} lost worker {', '.join(map(str, lost))}, which was killed or cannot be "
            f"reached; start all {runtime.num_workers} again: they resume from the newest checkpoint"
        ) from error


@functools.partial(tf.function, reduce_retracing=True, autograph=False)
def _sum_over_replicas(strategy: tf.distribute.Strategy, value: tf.Tensor) -> tf.Tensor:
    per_replica = strategy.run(lambda share: tf.identity(share), args=(value,))
    return strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)


def build_runtime(
    settings: ml_collections.FrozenConfigDict,
    batches: Iterable[tuple[int, int]],
    *,
    alone: bool = False,
    logger: Logger | None = None,
) -> Runtime:
    """Chooses devices, and sets the global precision policy, before TensorFlow computes anything.

    Args:
      settings: the section `runtime` of a checked config.
      batches: of each phase `train.global_batch_size` and `train.gradient_accumulation_steps`.
      alone: whether this process uses one device alone, whatever config and environment name.
      logger: is notified which other workers have not started, while this one waits for them.

    Raises a `UserError` if devices are missing or come too late, or the replicas do not divide a global batch.
    """
    if alone:
        settings = ml_collections.ConfigDict(settings.to_dict())
        settings.strategy, settings.logical_cpus = "one_device", 0
    tf_keras.mixed_precision.set_global_policy(settings.precision)
    cluster = None if alone else find_cluster(settings, os.environ)
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    _check_compute_capability()
    name, reason = ("one_device", "as asked") if alone else _choose(settings, cluster, num_gpus)
    _check_logical_cpus(settings, name, num_gpus)
    strategy = _build_strategy(name, settings, cluster, num_gpus, logger or Logger())

    # On a CPU, oneDNN's matrix products outrun those of XLA: see ARCHITECTURE.md for the ratio.
    jit_compile = num_gpus > 0 if settings.jit_compile == "auto" else settings.jit_compile == "true"
    jit_compile = jit_compile and name != "tpu"
    jit_regions = settings.jit_compile == "auto" and not num_gpus and name != "tpu"
    if jit_regions or jit_compile:
        silence_first_notice()
    xla = "on" if jit_compile else "between matrix products" if jit_regions else "off"
    devices = _describe_devices(name, settings, num_gpus, strategy)
    how = f"{devices}, strategy {name} ({reason}), {settings.precision}"
    runtime = Runtime(
        strategy,
        jit_compile,
        how if name == "tpu" else f"{how}, XLA {xla}",
        devices,
        num_workers=len(cluster.addresses) if name == "multi_worker_mirrored" and cluster else 1,
        worker_index=cluster.index if name == "multi_worker_mirrored" and cluster else 0,
        jit_regions=jit_regions,
    )
    for global_batch_size, num_parts in batches:
        _check_batch(global_batch_size, num_parts, runtime.num_replicas)
    return runtime


def silence_first_notice() -> None:
    """Compiles a trifle while standard error is closed: XLA logs its first compilation at any TF_CPP_MIN_LOG_LEVEL."""
    stderr = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        tf.function(lambda x: x + 1.0, jit_compile=True, autograph=False)(tf.constant(0.0))
    finally:
        os.dup2(stderr, 2)
        os.close(null)
        os.close(stderr)


def _choose(settings: ml_collections.FrozenConfigDict, cluster: Cluster | None, num_gpus: int) -> tuple[str, str]:
    """Returns the name of the strategy, and why it was chosen."""
    name = settings.strategy
    if name == "multi_worker_mirrored" and cluster is None:
        raise UserError(
            "config.runtime.strategy=multi_worker_mirrored, but nothing names several workers: start with srun under "
            "Slurm, set TF_CONFIG, or give config.runtime.worker_addresses and config.runtime.worker_index"
        )
    if name not in ("auto", "multi_worker_mirrored") and cluster is not None:
        raise UserError(
            f"config.runtime.strategy={name} uses one process, but {cluster.source} names {len(cluster.addresses)}: "
            f"set the key to auto"
        )
    if name != "auto":
        return name, "as asked"
    if cluster is not None:
        return "multi_worker_mirrored", f"{cluster.source} names {len(cluster.addresses)} workers"
    if settings.tpu:
        return "tpu", "config.runtime.tpu names one"
    if os.environ.get("TPU_NAME"):
        return "tpu", "TPU_NAME names one"
    if any(glob.glob(pattern) for pattern in TPU_DEVICES) and not num_gpus:
        return "tpu", "one is attached"
    if num_gpus > 1:
        return "mirrored", "several GPUs are there"
    if settings.logical_cpus > 1:
        return "mirrored", "config.runtime.logical_cpus asks for several"
    return "one_device", "there is one"


def _check_compute_capability() -> None:
    """Raises a `UserError` for a Blackwell GPU that TensorFlow has no code for: kernels and XLA's code fail there."""
    built = tf.sysconfig.get_build_info().get("cuda_compute_capabilities", [])
    majors = {int(name.rpartition("_")[2].rstrip("af")) // 10 for name in built}  # of names as 'sm_60', 'compute_90'
    for gpu in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpu)
        major, minor = details.get("compute_capability", (0, 0))
        if major >= _FIRST_WITHOUT_CODE and major not in majors:
            raise UserError(
                f"{gpu.name} ({details.get('device_name', 'a GPU')}) has compute capability {major}.{minor}, for which "
                f"TensorFlow {tf.__version__} has no code (it has: {', '.join(built)}): install a TensorFlow built "
                f"for it, or hide it: CUDA_VISIBLE_DEVICES=-1 uses the CPU, another number another GPU"
            )


def _check_logical_cpus(settings: ml_collections.FrozenConfigDict, name: str, num_gpus: int) -> None:
    if settings.logical_cpus < 2 or (name == "mirrored" and not num_gpus):
        return
    reason = f"there are {num_gpus} GPUs" if num_gpus else f"strategy {name} does not use them"
    raise UserError(f"config.runtime.logical_cpus={settings.logical_cpus} would not be used, for {reason}: set it to 0")


def _build_strategy(
    name: str, settings: ml_collections.FrozenConfigDict, cluster: Cluster | None, num_gpus: int, logger: Logger
) -> tf.distribute.Strategy:
    if settings.logical_cpus:
        _split_cpu(settings.logical_cpus)
    if name == "multi_worker_mirrored":
        assert cluster is not None
        os.environ["TF_CONFIG"] = cluster.to_tf_config()
        try:
            with joining(cluster, logger):
                return tf.distribute.MultiWorkerMirroredStrategy()
        except (tf.errors.OpError, RuntimeError) as error:
            raise UserError(
                f"worker {cluster.index} of {', '.join(cluster.addresses)} ({cluster.source}) could not join the "
                f"others: {str(error).splitlines()[0]}"
            ) from error
    if name == "tpu":
        try:
            return tf_models.get_distribution_strategy(
                name, tpu_address=settings.tpu or os.environ.get("TPU_NAME", "local")
            )
        except (ValueError, tf.errors.OpError, RuntimeError) as error:
            reason = "TensorFlow sees none here" if "OpKernel" in str(error) else str(error).splitlines()[0]
            raise UserError(
                f"no TPU could be used ({reason}); on a TPU VM install the extra 'tpu', elsewhere give its name as "
                f"config.runtime.tpu, or set config.runtime.strategy to another"
            ) from error
    if name == "mirrored" and not num_gpus and settings.logical_cpus:
        return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(settings.logical_cpus)])
    if name == "mirrored":
        return tf.distribute.MirroredStrategy([f"GPU:{index}" for index in range(num_gpus)] or ["CPU:0"])
    return tf.distribute.OneDeviceStrategy("GPU:0" if num_gpus else "CPU:0")


def _check_batch(global_batch_size: int, num_parts: int, num_replicas: int) -> None:
    """Global batch = examples a replica and part x replicas x parts."""
    divisor = num_replicas * num_parts
    if global_batch_size % divisor:
        accumulation = (
            f", each in {num_parts} parts (config.train.gradient_accumulation_steps)" if num_parts > 1 else ""
        )
        raise UserError(
            f"config.train.global_batch_size={global_batch_size} cannot be divided over "
            f"{num_replicas} replicas{accumulation}: choose a multiple of {divisor}"
        )


def _split_cpu(number: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * number)
    except RuntimeError as error:
        if len(tf.config.list_logical_devices("CPU")) != number:
            raise UserError(
                f"config.runtime.logical_cpus={number}: this process already computed on another number of CPUs"
            ) from error


def _describe_devices(
    name: str, settings: ml_collections.FrozenConfigDict, num_gpus: int, strategy: tf.distribute.Strategy
) -> str:
    if name == "tpu":
        return f"{strategy.num_replicas_in_sync} TPU cores"
    if name == "mirrored":
        return f"{num_gpus} GPUs" if num_gpus else f"{max(settings.logical_cpus, 1)} logical CPUs"
    if name == "multi_worker_mirrored":
        return f"{strategy.num_replicas_in_sync} {'GPUs' if num_gpus else 'CPUs'}"
    return "1 GPU" if num_gpus else "CPU"
