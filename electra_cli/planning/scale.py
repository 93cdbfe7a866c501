"""How long a step and a run take on a number of devices, and what fits there. No TensorFlow here.

A step is limited by the slower of input and computation, and then waits for the sum of all gradients:

    max(input, products / attainable rate + bytes between products / bandwidth) + all-reduce + host
"""

import dataclasses
import os
from typing import Any

import ml_collections

from electra_cli.objectives import costs
from electra_cli.objectives.sizes import (
    FLOAT,
    ReplicaMemory,
    count_parameters,
    host_memory,
    kept_of_example,
    replica_memory,
)

# Prices differ by provider and fall; yours is what counts.
PRICES_OF = "January 2025"
GIB = 2**30
# Of a device's memory, what is left next to the driver, the collective library's buffers and gaps.
USABLE_MEMORY = 0.9


@dataclasses.dataclass(frozen=True)
class Device:
    """A device that holds one replica."""

    name: str
    peak: float  # operations a second of dense matrix products in bfloat16
    peak_float32: float  # the same in float32 as TensorFlow multiplies it: TF32 on GPUs, rounded to bfloat16 on TPUs
    attainable: float  # fraction of the peak that large products reach
    memory: float  # bytes
    bandwidth: float  # bytes a second of its memory
    link: float  # bytes a second and direction that it sends in an all-reduce of up to `group` devices
    group: int  # devices that are linked so: the GPUs of a machine, a slice of a TPU pod
    network: float  # as `link`, between groups: its share of the machine's network
    per_host: int  # devices whose input one process makes
    price: float | None  # US dollars an hour, on demand, rounded; None: free
    is_compiled: bool = True  # XLA compiles the complete step

    def rate(self, precision: str) -> float:
        """Returns the attainable operations a second of matrix products in a `config.runtime.precision`."""
        return self.attainable * self.peak_rate(precision)

    def peak_rate(self, precision: str) -> float:
        """Returns the operations a second of matrix products that its data sheet promises."""
        return self.peak_float32 if precision == "float32" else self.peak

    def all_reduce_bandwidth(self, number: int) -> float:
        """Returns the bytes a second and direction of a ring over `number` devices."""
        # A ring over several machines enters and leaves each once, over all its network cards together.
        return self.link if number <= self.group else min(self.link, self.network * self.group)


# Peaks, memory and its bandwidth: data sheets of NVIDIA A100 (2021), H100 SXM (2023) and L4 (2023), and Google Cloud's
# pages on TPU v4 and v5e. Attainable: see `PASSES_COMPILED` for A100; the others are taken to be alike, H100 less
# so, whose memory grew less than its rate. Links: what rings reach of NVLink's 300 and 450 GB/s a direction, L4's of
# PCIe 4, and half of a TPU's links (6 and 4 of 50 GB/s a direction). Network: 40 GB/s for the eight A100 of a machine
# are what NVIDIA's BERT run on 256 of them shows (docs/scale.md); H100's machines have cards of twice the rate; L4's
# and TPUs' are their network's rate.
ACCELERATORS = (
    Device("A100 80 GB", 312e12, 156e12, 0.75, 80 * GIB, 2.0e12, 230e9, 8, 5e9, 8, 2.0),
    Device("H100 80 GB", 989e12, 495e12, 0.6, 80 * GIB, 3.35e12, 340e9, 8, 10e9, 8, 3.0),
    Device("TPU v4", 275e12, 275e12, 0.75, 32 * GIB, 1.2e12, 150e9, 4096, 6e9, 4, 3.2),
    Device("TPU v5e", 197e12, 197e12, 0.75, 16 * GIB, 0.82e12, 100e9, 256, 6e9, 8, 1.2),
    Device("L4 24 GB", 121e12, 60e12, 0.75, 24e9, 0.3e12, 12e9, 8, 1.5e9, 8, 0.7),
)

# Of one core: operations a second in float32, in bfloat16 where the processor multiplies it and where it does not, and
# bytes a second of TensorFlow's elementwise operations; of its network, 10 Gbit/s.
_CORE_FLOAT32, _CORE_BFLOAT16, _CORE_EMULATED, _CORE_BANDWIDTH = 80e9, 200e9, 20e9, 4e9
_CPU_NETWORK = 1.25e9


def this_cpu() -> Device:
    """Returns the CPU of this machine, by its cores, memory and instructions; `--measure` knows better."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Device(
        f"CPU here, {cores} core{'s' if cores > 1 else ''}",
        peak=cores * (_CORE_BFLOAT16 if _multiplies_bfloat16() else _CORE_EMULATED),
        peak_float32=cores * _CORE_FLOAT32,
        attainable=1.0,
        memory=host_memory(),
        bandwidth=cores * _CORE_BANDWIDTH,
        link=_CPU_NETWORK,
        group=1,
        network=_CPU_NETWORK,
        per_host=1,
        price=None,
        is_compiled=False,
    )


def _multiplies_bfloat16() -> bool:
    try:
        with open("/proc/cpuinfo") as stream:
            text = stream.read()
    except OSError:  # no Linux: as if it did not
        return False
    return "avx512_bf16" in text or "amx_bf16" in text


# How often each byte that the forward pass keeps (`sizes.py`) goes to or from memory in a step: as it is written, read
# forward and backward, and has a gradient that is written and read, five times at least; what is not kept comes on top.
# Compiled: with it and three quarters of an A100's peak for products, four throughputs that NVIDIA published for
# BERT-large in TensorFlow (128 and 512 tokens, FP16 and TF32) come out within 10 %: see docs/scale.md.
PASSES_COMPILED = 11.55
# On a CPU, with `this_cpu`, as measured here.
PASSES_IN_PARTS = 6.0
# The update reads gradient, weight and two moments, writes the latter three, and reads the gradient for its norm.
_UPDATE_PASSES = 8.0
# A part's gradients are written, and added to those before: two reads and a write.
_PART_PASSES = 4.0
# Of 128 tokens, that one core of a host makes in a second (scripts/benchmark_prepare.py); and the calls at once of
# `data/input_pipeline.py`.
EXAMPLES_PER_CORE, INPUT_CALLS = 25_000.0, 2
# Of the host, to start a step after the one before, seconds.
HOST_SECONDS = 2e-3
# Computing parts of blocks again (model.remat): as measured on a CPU, base at length 512.
REMAT_FACTOR = 1.17


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of a step, by what they go to."""

    input: float
    products: float
    elementwise: float
    all_reduce: float

    def corrected(self, factor: float) -> "StepTime":
        """Returns it with the time of computation multiplied by `factor`."""
        return dataclasses.replace(self, products=factor * self.products, elementwise=factor * self.elementwise)

    @property
    def total(self) -> float:
        """The complete step."""
        return max(self.input, self.products + self.elementwise) + self.all_reduce + HOST_SECONDS

    @property
    def bound(self) -> str:
        """The name of the largest."""
        shares = {"all-reduce": self.all_reduce, "host": HOST_SECONDS}
        if self.input > self.products + self.elementwise:
            shares["input"] = self.input
        else:
            shares |= {"products": self.products, "elementwise": self.elementwise}
        return max(shares, key=lambda name: shares[name])


@dataclasses.dataclass(frozen=True)
class Placement:
    """How a phase can be trained on a number of devices."""

    num_devices: int
    num_parts: int  # `train.gradient_accumulation_steps`: the config's or more
    remat: bool  # whether blocks must be recomputed
    memory: ReplicaMemory
    time: StepTime


def place(config: Any, device: Device, num_devices: int, *, remat: bool, correction: float = 1.0) -> Placement | str:
    """Returns how a resolved phase fits on devices, with the fewest parts, then with recomputation; or why it does not.

    `remat`: whether the config asks for it; `correction`: factor of the time of computation.
    """
    batch, parts = config.train.global_batch_size, config.train.gradient_accumulation_steps
    if batch % (num_devices * parts):
        return f"a batch of {batch:,} cannot be divided: make it a multiple of {num_devices * parts:,}"
    examples = batch // num_devices
    divisors = [number for number in range(parts, examples + 1) if examples % number == 0]
    for with_remat in sorted({remat, True}):
        for num_parts in divisors:
            memory = memory_of(config, examples // num_parts, device, num_devices, num_parts, remat=with_remat)
            if memory.peak <= USABLE_MEMORY * device.memory:
                time = step_time(config, device, num_devices, num_parts, remat=with_remat).corrected(correction)
                return Placement(num_devices, num_parts, with_remat, memory, time)
    return f"one example needs {memory.peak / 2**30:.0f} GiB, even with recomputation"


def memory_of(
    config: Any, num_examples: int, device: Device, num_devices: int, num_parts: int, *, remat: bool
) -> ReplicaMemory:
    """Returns the memory of a replica on a device, when a share of the batch is made in `num_parts` parts."""
    changed = ml_collections.ConfigDict(config.to_dict())
    changed.train.gradient_accumulation_steps = num_parts
    return replica_memory(changed, num_examples, remat=remat, compiled=device.is_compiled, num_replicas=num_devices)


def largest_part(config: Any, device: Device, *, remat: bool) -> int:
    """Returns the most examples that a replica of several can compute at one time in a device's memory; 0: none."""
    fitting, too_many = 0, 1 << 20
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        peak = memory_of(config, middle, device, 2, 1, remat=remat).peak
        fitting, too_many = (middle, too_many) if peak <= USABLE_MEMORY * device.memory else (fitting, middle)
    return fitting


def step_time(config: Any, device: Device, num_devices: int, num_parts: int, *, remat: bool) -> StepTime:
    """Returns the time of a step of a resolved phase, whose batch is divided over devices, and there into parts."""
    examples = config.train.global_batch_size / num_devices
    trained = FLOAT * count_parameters(config).updated
    passes = PASSES_COMPILED if device.is_compiled else PASSES_IN_PARTS
    again = REMAT_FACTOR if remat else 1.0
    moved = again * passes * examples * kept_of_example(config, compiled=device.is_compiled)
    moved += trained * (_UPDATE_PASSES + (_PART_PASSES * num_parts if num_parts > 1 else 0.0))
    on_host = min(num_devices, device.per_host) * examples
    input_rate = INPUT_CALLS * EXAMPLES_PER_CORE * 128 / config.data.max_seq_length
    ring = 2.0 * (num_devices - 1) / num_devices * trained
    return StepTime(
        input=on_host / input_rate,
        products=again * costs.matmul_flops(config) / num_devices / device.rate(config.runtime.precision),
        elementwise=moved / device.bandwidth,
        all_reduce=ring / device.all_reduce_bandwidth(num_devices),
    )
