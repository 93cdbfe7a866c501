"""How long a step and a run take on a number of devices, and what fits there. TensorFlow is not imported here.

A step is limited by the slower of input and computation, and then waits for the sum of all gradients:

    max(input, products / attainable rate + bytes between products / bandwidth) + all-reduce + host
"""

import dataclasses
from typing import Any

import ml_collections

from electra_cli import flops
from electra_cli.planning.devices import USABLE_MEMORY, Device
from electra_cli.planning.memory import FLOAT, ReplicaMemory, kept_of_example, replica_memory
from electra_cli.planning.parameters import count_parameters

# How often each byte that the forward pass keeps (`memory.py`) goes to or from memory in a step: as it is written, read
# forward and backward, and has a gradient that is written and read, five times at least; what is not kept comes on top.
# Compiled: with it and three quarters of an A100's peak for products, four throughputs that NVIDIA published for
# BERT-large in TensorFlow (128 and 512 tokens, FP16 and TF32) come out within 10 %: see docs/scale.md.
PASSES_COMPILED = 11.5
# On a CPU, with `devices.this_cpu`, as measured here.
PASSES_IN_PARTS = 6.0
# The update reads gradient, weight and two moments, writes the latter three, and reads the gradient for its norm.
_UPDATE_PASSES = 8.0
# A part's gradients are written, and added to those before: two reads and a write.
_PART_PASSES = 4.0
# Of 128 tokens, that one core of a host makes in a second (scripts/benchmark_prepare.py); and the calls at once of
# `data/input_pipeline.py`.
EXAMPLES_PER_CORE, INPUT_CALLS = 25_000.0, 2
# Of the host, to start a step and go on to the next, seconds.
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
        """Returns it with another time of computation, in proportion."""
        return dataclasses.replace(self, products=factor * self.products, elementwise=factor * self.elementwise)

    @property
    def total(self) -> float:
        """All of it."""
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
    """How a phase can be trained on a number of devices.

    Attributes:
      num_devices: devices.
      num_parts: `train.gradient_accumulation_steps` that it takes, the config's or more.
      remat: whether blocks must be computed again.
      memory: of a replica.
      time: of a step.
    """

    num_devices: int
    num_parts: int
    remat: bool
    memory: ReplicaMemory
    time: StepTime


def place(config: Any, device: Device, num_devices: int, *, remat: bool, correction: float = 1.0) -> Placement | str:
    """Finds how a phase fits on devices with the fewest parts, and only then with recomputation.

    Args:
      config: a resolved config; of one phase, when there are several.
      device: the kind of device.
      num_devices: how many.
      remat: whether the config asks for recomputation.
      correction: what the time of computation is multiplied by.

    Returns:
      The placement; or what stands against it and which key to change.
    """
    batch, parts = config.train.global_batch_size, config.train.gradient_accumulation_steps
    if batch % (num_devices * parts):
        return f"a batch of {batch:,} cannot be divided: make it a multiple of {num_devices * parts:,}"
    examples = batch // num_devices
    for with_remat in sorted({remat, True}):
        for num_parts in (number for number in _divisors(examples) if number >= parts):
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
    """Returns the time of a step.

    Args:
      config: a resolved config; of one phase, when there are several.
      device: the kind of device.
      num_devices: how many the batch is divided over.
      num_parts: parts of a replica's share.
      remat: whether blocks are computed again.
    """
    examples = config.train.global_batch_size / num_devices
    trained = FLOAT * count_parameters(config).trained
    passes = PASSES_COMPILED if device.is_compiled else PASSES_IN_PARTS
    again = REMAT_FACTOR if remat else 1.0
    moved = again * passes * examples * kept_of_example(config, compiled=device.is_compiled)
    moved += trained * (_UPDATE_PASSES + (_PART_PASSES * num_parts if num_parts > 1 else 0.0))
    on_host = min(num_devices, device.per_host) * examples
    input_rate = INPUT_CALLS * EXAMPLES_PER_CORE * 128 / config.data.max_seq_length
    ring = 2.0 * (num_devices - 1) / num_devices * trained
    return StepTime(
        input=on_host / input_rate,
        products=again * flops.matmul_flops(config) / num_devices / device.rate(config.runtime.precision),
        elementwise=moved / device.bandwidth,
        all_reduce=ring / device.all_reduce_bandwidth(num_devices),
    )


def _divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]
