"""A plan as text and as JSON. No TensorFlow here."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from electra_cli.data.source import describe_epochs, describe_repetition
from electra_cli.objectives.sizes import describe_bytes
from electra_cli.planning import scale
from electra_cli.planning.plan import DeviceRow, PhasePlan, Plan, with_precision
from electra_cli.planning.scale import (
    ACCELERATORS,
    GIB,
    PRICES_OF,
    USABLE_MEMORY,
    Device,
    Placement,
    largest_part,
    place,
)
from electra_cli.report.content import describe_model

# One device of each size of memory.
_MEMORIES = (ACCELERATORS[3], ACCELERATORS[4], ACCELERATORS[2], ACCELERATORS[0])


def to_text(plan: Plan, name: str, notes: Sequence[str] = ()) -> str:
    """Returns a plan of a config called `name` as a page of text, with notes below its heading."""
    lines = [_heading(plan, name), *notes, "", _row("parameters", _parameters_text(plan))]
    several = len(plan.phases) > 1
    for phase in plan.phases:
        title = f"phase {phase.number + 1}" if several else "run"
        repetition = describe_repetition(phase.num_epochs or 0.0)
        texts = (_run_text(phase), repetition, _flops_text(phase))
        lines += [_row("" if number else title, text) for number, text in enumerate(texts) if text]
    one, kept = describe_bytes(plan.checkpoints.one), describe_bytes(plan.checkpoints.kept)
    lines.append(_row("checkpoints", f"{one} each; {plan.checkpoints.num_kept} kept, and one being written: {kept}"))
    lines += ["", *_memory_lines(plan), "", *_device_lines(plan), "", *_assumptions(plan)]
    return "\n".join(line.rstrip() for line in lines)


def to_json(plan: Plan, name: str) -> dict[str, Any]:
    """Returns a plan for JSON: bytes, seconds, US dollars and shares from 0 to 1."""
    parameters = plan.parameters
    return {
        "config": name,
        "vocab_size": plan.config.derived.vocab_size,
        "vocab_size_is_assumed": plan.assumes_vocab_size,
        "parameters": {
            **parameters.groups,
            "generator": parameters.generator,
            "discriminator": parameters.discriminator,
            "networks": parameters.networks,
            "trained": parameters.trained,
        },
        "phases": [_phase_json(phase) for phase in plan.phases],
        "checkpoints": dataclasses.asdict(plan.checkpoints),
        "devices": [_device_json(row) for row in plan.devices],
        "assumptions": {
            "prices_of": PRICES_OF,
            "usable_memory": USABLE_MEMORY,
            "passes_compiled": scale.PASSES_COMPILED,
            "passes_in_parts": scale.PASSES_IN_PARTS,
            "input_examples_per_second_of_a_host": scale.INPUT_CALLS * scale.EXAMPLES_PER_CORE,
            "host_seconds": scale.HOST_SECONDS,
            "devices": [dataclasses.asdict(device) for device in dict.fromkeys(row.device for row in plan.devices)],
        },
    }


def _phase_json(phase: PhasePlan) -> dict[str, Any]:
    return {
        "num_steps": phase.num_steps,
        "global_batch_size": phase.config.train.global_batch_size,
        "max_seq_length": phase.config.data.max_seq_length,
        **{name: getattr(phase, name) for name in ("num_examples", "num_positions", "real_tokens", "num_epochs")},
        "data": dataclasses.asdict(phase.data) if phase.data else None,
        "flops": {"paper": phase.paper_flops, "six_n": phase.parameter_flops, "matmul": phase.matmul_flops},
        "memory": [dataclasses.asdict(row) for row in phase.memory],
    }


def _device_json(row: DeviceRow) -> dict[str, Any]:
    placements = [
        {"does_not_fit": placement}
        if isinstance(placement, str)
        else {
            "num_parts": placement.num_parts,
            "remat": placement.remat,
            "peak_bytes": placement.memory.peak,
            "step_seconds": {**dataclasses.asdict(placement.time), "total": placement.time.total},
            "bound": placement.time.bound,
        }
        for placement in row.placements
    ]
    names = ("num_devices", "seconds", "positions_per_second", "of_peak", "scaling", "dollars")
    return {"device": row.device.name, **{name: getattr(row, name) for name in names}, "phases": placements}


def _row(title: str, text: str) -> str:
    return f"{title:<14}{text}"


def _heading(plan: Plan, name: str) -> str:
    config = plan.config
    model = describe_model(config.to_dict())
    assumed = " (assumed)" if plan.assumes_vocab_size else ""
    return f"{name}: {model}, vocabulary {config.derived.vocab_size:,}{assumed}, {config.runtime.precision}"


def _parameters_text(plan: Plan) -> str:
    parameters = plan.parameters
    if not parameters.generator:
        return f"{parameters.discriminator:,}; training builds {parameters.trained:,}, with the head"
    return (
        f"discriminator {parameters.discriminator:,}, generator {parameters.generator:,}, both "
        f"{parameters.networks:,}; training builds {parameters.trained:,}"
    )


def _run_text(phase: PhasePlan) -> str:
    batch, length = phase.config.train.global_batch_size, phase.config.data.max_seq_length
    text = f"{phase.num_steps:,} steps x {batch:,} examples x {length} tokens = {_count(phase.num_positions)}"
    if phase.data is None:
        return f"{text}; epochs: give config.data.dir"
    shards = f"{phase.data.num_shards:,} shard{'s' if phase.data.num_shards > 1 else ''}"
    if phase.num_epochs is None or phase.real_tokens is None:
        return f"{text}; {shards} without manifest, whose examples are not counted"
    return (
        f"{text}, {_count(phase.real_tokens)} without padding: {describe_epochs(phase.num_epochs)} of "
        f"{phase.data.num_examples:,} examples in {shards}"
    )


def _count(number: float) -> str:
    """Returns a large number in words, with three digits."""
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:,.0f}"


def _flops_text(phase: PhasePlan) -> str:
    return (
        f"{phase.paper_flops:.3g} FLOPs as the paper counts, {phase.parameter_flops:.3g} as 6 x parameters x tokens, "
        f"{phase.matmul_flops:.3g} in matrix products"
    )


def _memory_lines(plan: Plan) -> list[str]:
    rows = [(phase, row) for phase in plan.phases for row in phase.memory]
    unit, size, digits = _unit(max(row.memory.peak for _, row in rows))
    limits = []
    for phase, row in rows:
        config = with_precision(phase.config, row.precision)
        limits.append([f"{largest_part(config, device, remat=row.remat):,}" for device in _MEMORIES])
    width = max(5, *(len(number) for numbers in limits for number in numbers))
    sizes = " ".join(f"{device.memory / GIB:>{width}.0f}" for device in _MEMORIES)
    lines = [
        f"{f'{unit} of one accelerator that makes the whole step':<71}most examples at once in GiB of",
        f"{'':<22}{'examples':>8}{'weights':>8}{'optim.':>7}{'grads':>6}{'activ.':>8}{'logits':>7}{'peak':>8}"
        f"   {sizes}",
    ]
    for (phase, row), numbers in zip(rows, limits, strict=True):
        title = f"{phase.number + 1}: " if len(plan.phases) > 1 else ""
        title += row.precision.removeprefix("mixed_") + (" and remat" if row.remat else "")
        memory = row.memory
        parts = (
            (memory.weights, 8), (memory.optimizer, 7), (memory.gradients, 6), (memory.activations, 8),
            (memory.logits, 7), (memory.peak, 8),
        )  # fmt: skip
        bytes_text = "".join(f"{part / size:>{room}.{digits}f}" for part, room in parts)
        fitting = " ".join(f"{number:>{width}}" for number in numbers)
        lines.append(f"{title:<22}{row.num_examples:>8,}{bytes_text}   {fitting}")
    return lines


def _unit(largest: float) -> tuple[str, int, int]:
    """Returns name, bytes and decimals of the unit for sizes up to `largest` bytes."""
    return ("GiB", GIB, 2) if largest >= GIB else ("MiB", 1 << 20, 1)


def _device_lines(plan: Plan) -> list[str]:
    lines = [
        f"{'device':<19}{'number':>6}{'step s':>9}{'tokens/s':>11}{'of peak':>8}{'scaling':>8}{'time':>9}{'US$':>10}"
        f"  most of a step; keys to change",
    ]
    impossible = _impossible_numbers(plan)
    for row in plan.devices:
        start = f"{row.device.name:<19}{row.num_devices:>6}"
        if row.num_devices in impossible:
            continue
        if row.seconds is None or row.positions_per_second is None:
            lines.append(f"{start}  {'; '.join(_reasons(row))}")
            continue
        seconds = row.seconds / sum(phase.num_steps for phase in plan.phases)
        lines.append(
            f"{start}{seconds:>9.{1 if seconds >= 10 else 4}f}{row.positions_per_second:>11,.0f}{row.of_peak:>8.0%}"
            f"{row.scaling:>8.0%}{_duration(row.seconds):>9}{_price(row.dollars):>10}  {_advice(plan, row)}"
        )
    return lines + [f"{'any of them':<19}{number:>6}  {reason}" for number, reason in impossible.items()]


def _impossible_numbers(plan: Plan) -> dict[int, str]:
    """Returns the numbers of devices that fit no kind of device, with the one reason."""
    reasons: dict[int, set[str]] = {}
    for row in plan.devices:
        reasons.setdefault(row.num_devices, set()).add("; ".join(_reasons(row)))
    return {number: "".join(texts) for number, texts in reasons.items() if len(texts) == 1 and texts != {""}}


def _reasons(row: DeviceRow) -> list[str]:
    """Returns why a row does not fit, each reason once; none when it fits."""
    return list(dict.fromkeys(placement for placement in row.placements if isinstance(placement, str)))


def _price(dollars: float | None) -> str:
    if dollars is None:
        return "-"
    return f"{dollars:,.0f}" if dollars >= 1 else f"{dollars:.2f}"


def _advice(plan: Plan, row: DeviceRow) -> str:
    placements = [placement for placement in row.placements if isinstance(placement, Placement)]
    bounds = dict.fromkeys(placement.time.bound for placement in placements)
    parts = [placement.num_parts for placement in placements]
    changes = []
    if parts != [phase.config.train.gradient_accumulation_steps for phase in plan.phases]:
        key = "phases" if len(parts) > 1 else "train"
        changes.append(f"{key}.gradient_accumulation_steps={','.join(map(str, parts))}")
    if any(placement.remat for placement in placements) and not plan.config.model.remat:
        changes.append("model.remat=true")
    return "; ".join([", ".join(bounds), *(changes and [" ".join(changes)])])


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.1f} min"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d" if seconds < 1000 * 86400 else f"{seconds / 86400 / 365.25:.0f} years"


def _assumptions(plan: Plan) -> list[str]:
    lines = [
        f"Predicted from data sheets (docs/scale.md), not measured; --measure makes steps here. Prices are assumed, of "
        f"{PRICES_OF}."
    ]
    device = ACCELERATORS[0]
    gain = _gain_of_bfloat16(plan, device)
    if gain is not None and gain > 1.05:  # of a tiny network the host's part is all
        lines.append(f"config.runtime.precision=mixed_bfloat16 would be {gain:.1f} times as fast on one {device.name}.")
    return lines


def _gain_of_bfloat16(plan: Plan, device: Device) -> float | None:
    """Returns how much faster a float32 config is in bfloat16 on one device; None when it is not float32."""
    phase = plan.phases[-1]
    if phase.config.runtime.precision != "float32":
        return None
    slow, fast = (
        place(with_precision(phase.config, precision), device, 1, remat=plan.config.model.remat)
        for precision in ("float32", "mixed_bfloat16")
    )
    if isinstance(slow, str) or isinstance(fast, str):
        return None
    return slow.time.total / fast.time.total
