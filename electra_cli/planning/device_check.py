"""Checks whether the devices of this machine compute right, and how fast: `electra-pretrain --check_devices`.

All steps are real ones, on random examples, from weights that do not depend on the device, and without dropout, whose
bits depend on the number of replicas. No data is read unless the config names some, and nothing is written.
"""

import ctypes
import dataclasses
import glob
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf
import tf_keras
from tensorflow.python.client import device_lib

from electra_cli.config.pretraining import PRECISIONS, default_config
from electra_cli.data.source import read_run
from electra_cli.errors import Option, UserError
from electra_cli.objectives.base import objective_of
from electra_cli.objectives.sizes import describe_bytes
from electra_cli.planning.measuring import Steps, device_here, measurable, random_batch
from electra_cli.planning.plan import Plan
from electra_cli.planning.scale import memory_of, step_time, this_cpu
from electra_cli.training.cluster import find_cluster
from electra_cli.training.distribution import TPU_DEVICES, Runtime, build_runtime

# What one CPU computes, by precision; scripts/write_device_check.py writes it.
STORED_FILE = pathlib.Path(__file__).with_suffix(".json")
_NUM_STORED_EXAMPLES, _NUM_STORED_STEPS, _NUM_STEPS = 32, 2, 10
# By how much values may differ, relative to themselves. On CPUs float32 differs by 1e-6 for sums in another order, and
# after Adam's first update, which has the size of the signs of gradients, by 1e-4. Accelerators round the factors of
# products too: GPUs to 11 binary digits (TF32) and TPUs to 8, as float16 and bfloat16 have. Steps in bfloat16 differ by
# 5e-3 from those in float32, sampled tokens that differ included.
_TOLERANCES = {"float32": 1e-2, "mixed_bfloat16": 2e-2, "mixed_float16": 1e-2}
_CPU_TOLERANCES = {**_TOLERANCES, "float32": 1e-3}
# Ids by which a sampled token may differ: a random number next to the border between two falls on either side.
_MAX_DISTANCE = 3
_NVIDIA_DEVICES = ("/dev/nvidia[0-9]*",)
# What TensorFlow 2.20 loads before it uses a GPU.
_CUDA_LIBRARIES = ("cudart.so.12", "cublas.so.12", "cufft.so.11", "cusolver.so.11", "cusparse.so.12", "cudnn.so.9")


@dataclasses.dataclass(frozen=True)
class Check:
    """A check and its result."""

    name: str
    ok: bool | None  # None: it could not fail
    text: str  # the result; of a failure also what to do
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the same for programs; bytes and seconds


@dataclasses.dataclass(frozen=True)
class _Result:
    """What some steps computed."""

    values: dict[str, list[float]]  # of each step: the mean losses, and the gradient's norm; NaN: not finite
    samples: list[int]  # where asked for, the token put at each slot before the first step
    weights: list[str]  # digest of each replica's weights after the last step
    seconds: list[float]  # of each step; the first builds


def check_devices(plan: Plan) -> Iterator[Check]:
    """Yields checks of the devices that a plan's config uses; must run before TensorFlow computes anything.

    The costliest phase of the config is measured; what is compared with a CPU is a model of its own.

    Raises:
      UserError: the devices that the config asks for are missing, or those of several machines.
    """
    settings = plan.config.runtime
    if find_cluster(settings, os.environ) is not None:
        raise UserError(
            Option("--check_devices"),
            " checks one machine: run it on each, without config.runtime.worker_addresses, TF_CONFIG and several tasks "
            "of Slurm",
        )
    devices = _find_devices()
    yield devices
    if not devices.ok:
        return
    runtime = build_runtime(settings, [])
    is_tpu = isinstance(runtime.strategy, tf.distribute.TPUStrategy)  # which has all cores
    alone = runtime if is_tpu or runtime.num_replicas == 1 else build_runtime(settings, [], alone=True)
    yield from (_check_values(precision, alone) for precision in PRECISIONS)
    phase = max(plan.phases, key=lambda candidate: candidate.matmul_flops)
    config = _without_dropout(measurable(phase.config, device_here()[0], runtime.num_replicas))
    accelerator = None if "CPU" in runtime.devices else "TPU:0" if is_tpu else "GPU:0"
    if accelerator:
        tf.config.experimental.reset_memory_stats(accelerator)
    result = _make_steps(config, runtime, _NUM_STEPS)
    peak_bytes = int(tf.config.experimental.get_memory_info(accelerator)["peak"]) if accelerator else None
    yield _check_repetition(config, runtime, result)
    yield _check_replicas(config, runtime, alone, result)
    yield from _compare_with_plan(config, runtime, result, peak_bytes)


def _find_devices() -> Check:
    """Finds devices and libraries; fails where this machine has devices that TensorFlow does not see."""
    build = tf.sysconfig.get_build_info()
    # For their memory. Not without them: it would start a TPU.
    local = device_lib.list_local_devices() if tf.config.list_physical_devices("GPU") else []
    gpus = [device for device in local if device.device_type == "GPU"]
    cpu, tpus, libtpu = this_cpu(), _existing(TPU_DEVICES), _version("libtpu")
    nvidia = _existing(_NVIDIA_DEVICES) or ["nvidia-smi"][: shutil.which("nvidia-smi") is not None]
    values = {
        "tensorflow": tf.__version__,
        "cpu": {"name": cpu.name, "memory_bytes": cpu.memory},
        "gpus": [{"name": gpu.physical_device_desc, "memory_bytes": gpu.memory_limit} for gpu in gpus],
        "nvidia": nvidia,
        "cuda": build.get("cuda_version"),
        "cudnn": build.get("cudnn_version"),
        "tpus": tpus,
        "libtpu": libtpu,
    }
    if tpus and not gpus and libtpu is None:
        text = f"{tpus[0]} is here, but libtpu is not: install the extra 'tpu' (docs/several_machines.md)"
        return Check("devices", False, text, values)
    if nvidia and not gpus and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        missing = ", ".join(f"lib{name}" for name in _CUDA_LIBRARIES if not _is_loadable(f"lib{name}"))
        reason = f"{missing} cannot be loaded" if missing else "the driver cannot be used, which nvidia-smi explains"
        remedy = "pip install 'electra-pretrain[gpu]', or CUDA_VISIBLE_DEVICES=-1 to use the CPU"
        return Check("devices", False, f"{nvidia[0]} is here, but TensorFlow sees no GPU: {reason}: {remedy}", values)
    texts = [f"{cpu.name}, {describe_bytes(cpu.memory)}"]
    texts += [f"GPU of {describe_bytes(gpu.memory_limit)} ({gpu.physical_device_desc})" for gpu in gpus]
    texts += [f"TPU ({', '.join(tpus)}), libtpu {libtpu}"] if tpus else []
    texts += [f"TensorFlow {tf.__version__}"]
    texts += [f"CUDA {values['cuda']} and cuDNN {values['cudnn']}, which are loaded"] if gpus else []
    return Check("devices", True, "; ".join(texts), values)


def _existing(patterns: Sequence[str]) -> list[str]:
    return sorted(path for pattern in patterns for path in glob.glob(pattern))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_loadable(library: str) -> bool:
    if any(pathlib.Path(tf.__file__).parents[1].glob(f"nvidia/*/lib/{library}")):  # the extra's, next to TensorFlow
        return True
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _check_values(precision: str, runtime: Runtime) -> Check:
    """Compares steps with those of `STORED_FILE`."""
    name = precision.removeprefix("mixed_")
    if precision == "mixed_float16" and isinstance(runtime.strategy, tf.distribute.TPUStrategy):
        return Check(name, None, "not on TPUs, for which Keras scales no losses")
    if _NUM_STORED_EXAMPLES % runtime.num_replicas:
        return Check(name, None, f"{_NUM_STORED_EXAMPLES} examples cannot be divided over {runtime.devices}")
    stored = json.loads(STORED_FILE.read_text())[precision]
    result = stored_steps(precision, runtime)
    tolerance = (_CPU_TOLERANCES if "CPU" in runtime.devices else _TOLERANCES)[precision]
    ok, text, values = _compare(result.values, stored["values"], tolerance)
    distance = max(abs(one - other) for one, other in zip(result.samples, stored["samples"], strict=True))
    text += f"; sampled tokens {f'up to {distance} ids apart' if distance else 'equal'}"
    values["sample_distance"] = distance
    if ok and distance <= _MAX_DISTANCE:
        return Check(name, True, f"as on a CPU: {text}", values)
    remedy = "try another driver or device, and --config.runtime.jit_compile=false, without XLA"
    return Check(
        name, False, f"not as on a CPU: {text}: the devices or their libraries compute wrong: {remedy}", values
    )


def stored_steps(precision: str, runtime: Runtime) -> _Result:
    """Makes the steps that `STORED_FILE` holds."""
    config = default_config()
    config.runtime.precision = precision
    config.data.max_seq_length = config.model.max_position_embeddings = 32
    config.model.vocab_size = 1000
    config.model.embedding_size, config.model.hidden_size, config.model.intermediate_size = 32, 64, 128
    config.model.num_layers, config.model.num_attention_heads, config.model.generator_size = 1, 2, 0.5
    config.model.initializer_range = 0.06
    # Not 50, for which the loss scale of float16 is too large at first: updates would be skipped.
    config.objective.discriminator_loss_weight = 1.0
    config.optimizer.warmup_steps = 0
    config.train.global_batch_size = _NUM_STORED_EXAMPLES
    resolved = _without_dropout(read_run(config, needs_data=False).resolved)
    return _make_steps(resolved, runtime, _NUM_STORED_STEPS, with_samples=True)


def _without_dropout(resolved: ml_collections.FrozenConfigDict) -> ml_collections.FrozenConfigDict:
    config = ml_collections.ConfigDict(resolved.to_dict())
    config.model.hidden_dropout = config.model.attention_dropout = 0.0
    return ml_collections.FrozenConfigDict(config)


def _make_steps(
    config: ml_collections.FrozenConfigDict, runtime: Runtime, num_steps: int, *, with_samples: bool = False
) -> _Result:
    tf_keras.mixed_precision.set_global_policy(config.runtime.precision)
    steps = Steps(config, runtime, random_batch(config, config.train.global_batch_size))
    rng, limit = np.random.default_rng(0), math.sqrt(3.0) * config.model.initializer_range
    for variable in steps.model.trainable_variables:
        if variable.shape.rank > 1:  # the same on all devices, where TensorFlow's random numbers may differ
            variable.assign(limit * (2.0 * rng.random(variable.shape) - 1.0))
    samples = steps.samples().ravel().tolist() if with_samples else []
    sums = [steps.make() for _ in range(num_steps)]
    objective = objective_of(config)
    values: dict[str, list[float]] = {name: [] for name in (*objective.loss_names, "gradient_norm")}
    for each in sums:
        summary = {**objective.summarize(each), "gradient_norm": float(each["gradient_norm"])}
        for name, series in values.items():
            series.append(math.nan if each["nonfinite_replicas"].any() else summary[name])
    digests = [hashlib.sha256() for _ in range(runtime.num_replicas)]
    for variable in steps.model.trainable_variables:
        for digest, own in zip(digests, runtime.strategy.experimental_local_results(variable), strict=True):
            digest.update(own.numpy().tobytes())
    return _Result(values, samples, [digest.hexdigest() for digest in digests], steps.seconds)


def _compare(
    values: Mapping[str, Sequence[float]], expected: Mapping[str, Sequence[float]], tolerance: float
) -> tuple[bool, str, dict[str, Any]]:
    """Compares the values of the first steps; returns whether they agree, and the largest difference, relative."""
    difference, name, step, one, other = max(
        (abs(one - other) / max(abs(other), 1e-9) if math.isfinite(one) else math.inf, name, step, one, other)
        for name in expected
        for step, (one, other) in enumerate(zip(values[name], expected[name], strict=False), 1)
    )
    is_finite = math.isfinite(difference)
    text = f"{name} of step {step} is {one:.7g}, not {other:.7g} (by {difference:.1g}; {tolerance:.1g} is allowed)"
    details = {"difference": difference if is_finite else None, "tolerance": tolerance}
    return difference <= tolerance, text if difference else "equal losses and gradients", details


def _check_repetition(config: ml_collections.FrozenConfigDict, runtime: Runtime, result: _Result) -> Check:
    """Compares steps with the same again, built again: equal on CPUs; accelerators may sum in another order."""
    again = _make_steps(config, runtime, _NUM_STEPS)
    is_cpu, has_equal_weights = "CPU" in runtime.devices, again.weights == result.weights
    ok, text, values = _compare(again.values, result.values, 0.0 if is_cpu else _TOLERANCES[config.runtime.precision])
    values["equal_weights"] = has_equal_weights
    if has_equal_weights and not values["difference"]:
        return Check("repetition", ok, f"two runs of {_NUM_STEPS} steps are equal to the bit", values)
    text = f"two runs of {_NUM_STEPS} steps differ: {text}; {'equal' if has_equal_weights else 'other'} weights"
    if is_cpu or not ok:
        remedy = "the memory or a processor may be faulty: test them, or use another machine"
        return Check("repetition", False, f"{text}: {remedy}", values)
    return Check("repetition", True, f"{text}; as much do resumed runs differ from uninterrupted ones", values)


def _check_replicas(
    config: ml_collections.FrozenConfigDict, runtime: Runtime, alone: Runtime, result: _Result
) -> Check:
    """Compares steps over several replicas with those of one device, and the replicas' weights with each other."""
    if runtime.num_replicas == 1:
        return Check("all-reduce", None, f"one replica ({runtime.devices})")
    remedy = (
        "sums over devices are wrong: try NCCL_P2P_DISABLE=1, another driver, or config.runtime.strategy=one_device"
    )
    if len(set(result.weights)) > 1:
        return Check("all-reduce", False, f"replicas have different weights after {_NUM_STEPS} steps: {remedy}")
    if alone is runtime:  # the values above are those of a single device
        return Check("all-reduce", True, f"{runtime.devices} have equal weights after {_NUM_STEPS} steps")
    in_parts = ml_collections.ConfigDict(config.to_dict())
    in_parts.train.gradient_accumulation_steps = runtime.num_replicas  # of which one device has the memory
    other = _make_steps(ml_collections.FrozenConfigDict(in_parts), alone, _NUM_STORED_STEPS)
    ok, text, values = _compare(result.values, other.values, _TOLERANCES[config.runtime.precision])
    if not ok:
        return Check("all-reduce", False, f"{runtime.devices} compute not as one: {text}: {remedy}", values)
    return Check("all-reduce", True, f"{runtime.devices} compute as one: {text}", values)


def _compare_with_plan(
    config: ml_collections.FrozenConfigDict, runtime: Runtime, result: _Result, peak_bytes: int | None
) -> Iterator[Check]:
    """Yields the peak of memory and the time of a step, next to those of `electra-plan`."""
    batch, device = config.train.global_batch_size, device_here()[0]
    seconds = statistics.median(result.seconds[1:])
    peak = "not measured on CPUs" if peak_bytes is None else f"{describe_bytes(peak_bytes)} at the peak"
    speed = f"{seconds:.3g} s a step of {batch} examples"
    memory_values: dict[str, Any] = {"peak_bytes": peak_bytes}
    speed_values: dict[str, Any] = {"step_seconds": seconds, "batch": batch, "description": runtime.description}
    if "TPU" not in runtime.devices:  # of which it is not known which one it is
        number = runtime.num_replicas if "GPU" in runtime.devices else 1
        time = step_time(config, device, number, 1, remat=config.model.remat)
        planned_bytes = memory_of(config, batch // number, device, number, 1, remat=config.model.remat).peak
        peak += f"; planned: {describe_bytes(planned_bytes)} for {batch // number} examples"
        speed += f"; planned: {time.total:.3g} s, most of it {time.bound}"
        memory_values |= {"planned_bytes": planned_bytes}
        speed_values |= {"planned_seconds": time.total, "bound": time.bound}
    yield Check("memory", None, peak, memory_values)
    yield Check("speed", None, f"{speed} ({runtime.description})", speed_values)
