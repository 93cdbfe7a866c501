"""From a config to its plan: all that `electra-plan` reports. No TensorFlow here."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import ml_collections

from electra_cli.data.source import DataSize, Phase, read_run
from electra_cli.objectives import costs
from electra_cli.objectives.sizes import (
    CheckpointSize,
    Parameters,
    ReplicaMemory,
    checkpoint_size,
    count_parameters,
    replica_memory,
)
from electra_cli.planning.scale import ACCELERATORS, Device, Placement, place, this_cpu

NUMBERS_OF_DEVICES = (1, 8, 256)
# Precisions that memory is listed for, as `config.runtime.precision` names them.
PRECISIONS = ("float32", "mixed_bfloat16")


@dataclasses.dataclass(frozen=True)
class MemoryRow:
    """Memory of a replica that computes a complete part of the batch, compiled by XLA, on one device."""

    precision: str
    remat: bool
    num_examples: int
    memory: ReplicaMemory


@dataclasses.dataclass(frozen=True)
class PhasePlan:
    """What a phase costs."""

    number: int  # from 0
    num_steps: int
    config: ml_collections.FrozenConfigDict
    data: DataSize | None  # None without data
    paper_flops: float  # operations of the phase as the paper counts,
    parameter_flops: float  # as 6 x parameters x tokens,
    matmul_flops: float  # and in matrix products
    memory: tuple[MemoryRow, ...]  # for each precision, without recomputation and with it

    @property
    def num_examples(self) -> int:
        """Examples of all its steps."""
        return self.num_steps * self.config.train.global_batch_size

    @property
    def num_positions(self) -> int:
        """Tokens of all its examples, padding included."""
        return self.num_examples * self.config.data.max_seq_length

    @property
    def num_epochs(self) -> float | None:
        """Times that it sees its data; None when that is not known."""
        return self.num_examples / self.data.num_examples if self.data and self.data.num_examples else None

    @property
    def real_tokens(self) -> float | None:
        """Tokens without padding; None when that is not known."""
        epochs = self.num_epochs
        return None if epochs is None or self.data is None else epochs * (self.data.real_tokens or 0)


@dataclasses.dataclass(frozen=True)
class DeviceRow:
    """A run on some devices of a kind; the numbers are None where a phase does not fit."""

    device: Device
    num_devices: int
    placements: tuple[Placement | str, ...]  # of each phase; or the reason why it does not fit
    seconds: float | None = None
    positions_per_second: float | None = None  # tokens, padding included
    of_peak: float | None = None  # share of the data sheet's rate that goes into products of the model
    scaling: float | None = None  # speed-up over the first row of the kind, as a share of the possible one
    dollars: float | None = None  # at the assumed price; None without one


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a config costs; `assumes_vocab_size` when neither config nor data gave the size of the vocabulary."""

    config: ml_collections.FrozenConfigDict
    parameters: Parameters
    phases: tuple[PhasePlan, ...]
    checkpoints: CheckpointSize
    devices: tuple[DeviceRow, ...]
    assumes_vocab_size: bool


def make_plan(config: ml_collections.ConfigDict, here: Device | None = None, correction: float = 1.0) -> Plan:
    """Makes the plan of a config with overrides; raises a `UserError` as `read_run` does.

    `here`: the device of this machine, None: its CPU; `correction`: measured factor of computation on it.
    """
    run = read_run(config, needs_data=False)
    parameters = count_parameters(run.resolved)
    phases = tuple(_plan_phase(phase, parameters) for phase in run.phases)
    rows = [row for device in ACCELERATORS for row in _plan_devices(phases, device, NUMBERS_OF_DEVICES, 1.0)]
    rows += _plan_devices(phases, here or this_cpu(), (1,), correction)
    return Plan(run.resolved, parameters, phases, checkpoint_size(run.resolved), tuple(rows), run.assumes_vocab_size)


def with_precision(config: Any, precision: str) -> ml_collections.FrozenConfigDict:
    """Returns a resolved config in another precision."""
    changed = ml_collections.ConfigDict(config.to_dict())
    changed.runtime.precision = precision
    return ml_collections.FrozenConfigDict(changed)


def _plan_phase(phase: Phase, parameters: Parameters) -> PhasePlan:
    config, num_steps = phase.config, phase.end - phase.begin
    positions = num_steps * config.train.global_batch_size * config.data.max_seq_length
    num_examples = config.train.global_batch_size // config.train.gradient_accumulation_steps
    rows = tuple(
        MemoryRow(
            precision,
            remat,
            num_examples,
            replica_memory(with_precision(config, precision), num_examples, remat=remat, compiled=True, num_replicas=1),
        )
        for precision in PRECISIONS
        for remat in (False, True)
    )
    return PhasePlan(
        phase.number,
        num_steps,
        config,
        phase.data.size if phase.data else None,
        paper_flops=costs.training_flops(config) * num_steps / config.train.num_steps,
        parameter_flops=(6.0 * parameters.updated + 2.0 * parameters.frozen) * positions,
        matmul_flops=costs.matmul_flops(config) * num_steps,
        memory=rows,
    )


def _plan_devices(
    phases: Sequence[PhasePlan], device: Device, numbers: Sequence[int], correction: float
) -> list[DeviceRow]:
    rows: list[DeviceRow] = []
    for number in numbers:
        placements = tuple(
            place(phase.config, device, number, remat=phase.config.model.remat, correction=correction)
            for phase in phases
        )
        times = [placement.time.total for placement in placements if isinstance(placement, Placement)]
        if len(times) < len(phases):
            rows.append(DeviceRow(device, number, placements))
            continue
        seconds = sum(phase.num_steps * time for phase, time in zip(phases, times, strict=True))
        device_seconds = next((row.seconds * row.num_devices for row in rows if row.seconds is not None), None)
        peak = number * device.peak_rate(phases[0].config.runtime.precision)
        rows.append(
            DeviceRow(
                device,
                number,
                placements,
                seconds,
                positions_per_second=sum(phase.num_positions for phase in phases) / seconds,
                of_peak=sum(phase.matmul_flops for phase in phases) / seconds / peak,
                scaling=1.0 if device_seconds is None else device_seconds / (seconds * number),
                dollars=None if device.price is None else seconds / 3600 * number * device.price,
            )
        )
    return rows
