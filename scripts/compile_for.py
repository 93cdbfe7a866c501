"""Compiles the complete training step of a config for accelerators that are not here, next to electra-plan's numbers.

One replica's step (forward, backward, clipping, optimizer) is exported as HLO here, and compiled by libtpu or by XLA
for GPUs, neither of which needs a device, in environments of their own with JAX: scripts/compile_for/in_jax.py. A
GPU's products are Triton's, because choosing among kernels needs the device.
"""

import dataclasses
import fcntl
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags

from electra_cli import files
from electra_cli.cli import app
from electra_cli.cli.config_flag import ConfigFlag
from electra_cli.config.fields import Field
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.config.suggestions import did_you_mean
from electra_cli.data import source
from electra_cli.errors import Option, UserError
from electra_cli.objectives import costs
from electra_cli.objectives.sizes import describe_bytes
from electra_cli.planning.scale import ACCELERATORS, GIB, Device, memory_of, step_time

HERE = pathlib.Path(__file__).resolve().parent / "compile_for"
# What pip installs for a compiler, and the GB that it takes. in_jax.py reaches the compilers through internals of JAX,
# so that other versions may not do.
ENVIRONMENTS: dict[str, tuple[tuple[str, ...], float]] = {
    "tpu": (("jax[tpu]==0.10.2", "jaxlib==0.10.2", "libtpu==0.0.42.1"), 1.3),
    "gpu": (("jax[cuda12]==0.10.2", "jaxlib==0.10.2"), 5.5),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """What a name of `--devices` stands for."""

    device: Device  # of the plan
    environment: str
    arguments: tuple[str, ...]  # of in_jax.py
    clock: float | None = None  # Hz, of the cycles that libtpu estimates


_DEVICES = {device.name: device for device in ACCELERATORS}
TARGETS = {
    "a100": Target(_DEVICES["A100 80 GB"], "gpu", (str(HERE / "a100.txtpb"),)),
    "h100": Target(_DEVICES["H100 80 GB"], "gpu", (str(HERE / "h100.txtpb"),)),
    "v4": Target(_DEVICES["TPU v4"], "tpu", ("v4:2x2x1", "megacore"), 1.05e9),
    "v5e": Target(_DEVICES["TPU v5e"], "tpu", ("v5e:2x2",), 1.5e9),
}

GROUPS: app.FlagGroups = {
    "Required": {"config": None},
    "What to compile": {
        "devices": Field(["v5e"], f"With commas between them, of {', '.join(TARGETS)}."),
        "batch": Field(None, "Examples of a step, in place of config.train.global_batch_size.", value_type=int),
        "precision": Field(
            None,
            "In place of config.runtime.precision.",
            choices=PRETRAINING.fields["runtime.precision"].choices,
        ),
    },
    "Output": {
        "json": Field(None, "File for the numbers as JSON: a list with an object for each device."),
        "environments": Field(
            os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "electra-pretrain"),
            "Directory of the compilers' virtual environments, tpu and gpu, which are installed when first needed.",
        ),
    },
}
FLAGS = app.define_flags(GROUPS)
CONFIG = ConfigFlag(FLAGS, PRETRAINING)

USAGE = """
Compiles the complete training step of one replica for accelerators that are not here, and reports its memory,
instructions, operations and the time that they take at least, next to what electra-plan predicts.

Usage: python scripts/compile_for.py --config=PRESET_OR_FILE [--devices=v5e,h100,a100] [--batch=EXAMPLES]
       [--precision=PRECISION] [--config.KEY=VALUE ...] [--json=FILE]
"""


def one_replica(
    config: ml_collections.ConfigDict, batch: int | None, precision: str | None
) -> ml_collections.FrozenConfigDict:
    """Returns the resolved config of the costliest phase, changed, for one replica whose complete step XLA compiles."""
    phase = max(source.read_run(config, needs_data=False).phases, key=lambda one: costs.matmul_flops(one.config))
    changed = ml_collections.ConfigDict(phase.config.to_dict())
    changed.runtime.strategy, changed.runtime.jit_compile, changed.runtime.logical_cpus = "one_device", "true", 0
    changed.runtime.precision = precision or changed.runtime.precision
    parts = changed.train.gradient_accumulation_steps
    if batch is not None and (batch < 1 or batch % parts):
        raise UserError(
            Option("--batch"),
            f"={batch}: must be a positive multiple of {parts} (config.train.gradient_accumulation_steps)",
        )
    changed.train.global_batch_size = batch or changed.train.global_batch_size
    return ml_collections.FrozenConfigDict(changed)


def export(config: ml_collections.FrozenConfigDict) -> bytes:
    """Returns the step as a serialized HloModuleProto; raises a `UserError` as `build_runtime`."""
    # TensorFlow's import takes seconds.
    import tensorflow as tf  # noqa: PLC0415
    from tensorflow.compiler.xla.service import hlo_pb2  # noqa: PLC0415

    from electra_cli.planning.measuring import random_batch  # noqa: PLC0415
    from electra_cli.training.distribution import build_runtime  # noqa: PLC0415
    from electra_cli.training.run import build_model  # noqa: PLC0415
    from electra_cli.training.steps import build_train_steps  # noqa: PLC0415

    tf.config.set_visible_devices([], "GPU")  # on one the export would be for it
    batch = config.train.global_batch_size
    runtime = build_runtime(config.runtime, [(batch, config.train.gradient_accumulation_steps)])
    model, optimizer = build_model(config, runtime)
    inputs = {name: tf.constant(value) for name, value in random_batch(config, batch).items()}
    hlo = build_train_steps(model, optimizer, runtime, config).to_hlo(inputs, tf.constant(0, tf.int64))
    module = hlo_pb2.HloModuleProto.FromString(hlo)
    for computation in module.computations:
        for instruction in computation.instructions:
            if instruction.opcode == "copy":  # has no StableHLO, through which JAX reads HLO
                instruction.opcode = "reshape"
    return module.SerializeToString()


def environment_python(directory: str, name: str) -> str:
    """Returns the Python of a compiler's environment, which is installed first where it is missing or another version.

    Raises:
      UserError: it cannot be installed.
    """
    requirements, gigabytes = ENVIRONMENTS[name]
    place = pathlib.Path(directory, name)
    record, python = place / "requirements.txt", str(place / "bin" / "python")
    wanted = "\n".join(requirements) + "\n"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with open(f"{place}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be installing it
            if record.exists() and record.read_text() == wanted:
                return python
            print(f"installing {', '.join(requirements)} in {place}: about {gigabytes} GB", file=sys.stderr)
            for command in (
                [sys.executable, "-m", "venv", "--clear", str(place)],
                [python, "-m", "pip", "--quiet", "install", "--no-cache-dir", *requirements],
            ):
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            record.write_text(wanted)
    except OSError as error:
        raise UserError(
            Option("--environments"), f"={directory} cannot be written ({error.strerror}): give another directory"
        ) from error
    except subprocess.CalledProcessError as error:
        reasons = [line for line in error.stderr.splitlines() if line.startswith("ERROR")] or [error.stderr[-300:]]
        raise UserError(
            Option("--environments"),
            f"={directory}: {', '.join(requirements)} could not be installed ({reasons[-1]}): look at the network and "
            f"the disk, or leave out --devices that need it",
        ) from error
    return python


def compile_hlo(hlo_file: str, target: Target, python: str) -> dict[str, Any]:
    """Returns the result of in_jax.py."""
    process = subprocess.run(
        [python, str(HERE / "in_jax.py"), hlo_file, *target.arguments], capture_output=True, text=True
    )
    if process.returncode:
        raise RuntimeError(f"the compiler for {target.device.name} failed:\n{process.stderr[-4000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def with_bound(result: Mapping[str, Any], target: Target, precision: str) -> dict[str, Any]:
    """Adds the peak in bytes and the least milliseconds: libtpu's cycles; of GPUs, bytes and operations by their rates.

    Instructions whose cycles libtpu does not estimate count as none, so that it is a bound.
    """
    if target.clock:
        seconds = result["estimated_cycles"] / target.clock
    else:
        device = target.device
        seconds = result["bytes_accessed"] / device.bandwidth + result["flops"] / device.rate(precision)
    peak = sum(result[f"{part}_bytes"] for part in ("arguments", "results", "temporaries"))
    return {**result, "peak_bytes": peak, "bound_ms": 1000 * seconds}


def plan_of(config: ml_collections.FrozenConfigDict, device: Device) -> dict[str, float]:
    """Returns what electra-plan predicts of the same step."""
    parts, remat = config.train.gradient_accumulation_steps, config.model.remat
    memory = memory_of(config, config.train.global_batch_size // parts, device, 1, parts, remat=remat)
    time = step_time(config, device, 1, parts, remat=remat)
    return {"peak_bytes": memory.peak, "flops": costs.matmul_flops(config), "step_ms": 1000 * time.total}


def plan_again(record: Mapping[str, Any]) -> dict[str, float]:
    """Returns what electra-plan predicts now of a recorded step."""
    CONFIG.parse(["", *record["config"]])
    config = one_replica(CONFIG.config, record["batch"], record["precision"])
    return plan_of(config, TARGETS[record["device"]].device)


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the records as a table with a column for each device."""

    def row(title: str, cell) -> list[str]:
        return [title, *("" if "too_large" in record else cell(record) for record in records)]

    def gib(key: str):
        return lambda record: f"{record[key] / GIB:.2f}"

    rows = [
        ["", *(record["device"] for record in records)],
        row("memory, GiB", gib("peak_bytes")),
        row("  arguments", gib("arguments_bytes")),
        row("  results beside them", gib("results_bytes")),
        row("  temporaries", gib("temporaries_bytes")),
        row("memory planned, GiB", lambda record: f"{record['plan']['peak_bytes'] / GIB:.2f}"),
        row("compiled / planned", lambda record: f"{record['peak_bytes'] / record['plan']['peak_bytes']:.2f}"),
        row("code, GiB", gib("code_bytes")),
        row("TFLOP", lambda record: f"{record['flops'] / 1e12:.3g}"),
        row("TFLOP of products, planned", lambda record: f"{record['plan']['flops'] / 1e12:.3g}"),
        row("GB accessed", lambda record: f"{record['bytes_accessed'] / 1e9:.1f}"),
        row("ms at least", lambda record: f"{record['bound_ms']:.1f}"),
        row("ms planned", lambda record: f"{record['plan']['step_ms']:.1f}"),
        row("instructions or kernels", lambda record: f"{sum(record['instructions'].values()):,}"),
        row("seconds of compiling", lambda record: f"{record['compile_seconds']:.0f}"),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for title, *cells in rows:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([title.ljust(widths[0]), *aligned]))
    for record in records:
        if "too_large" in record:
            lines.append(f"{record['device']}: does not fit: {record['too_large']}")
        else:
            kinds = [f"{number:,} {kind}" for kind, number in list(record["instructions"].items())[:8]]
            lines.append(f"{record['device']}: {', '.join(kinds)}")
    return "\n".join(lines)


def _main(values: flags.FlagValues) -> None:
    names = [*dict.fromkeys(name.strip() for name in values.devices)]
    wrong = [name for name in names or [""] if name not in TARGETS]
    if wrong:
        raise UserError(
            Option("--devices"),
            f"={','.join(names)}: each must be one of {', '.join(TARGETS)}{did_you_mean(wrong[0], TARGETS)}",
        )
    config = one_replica(CONFIG.config, values.batch, values.precision)
    if values.json:
        files.check_output("--json", values.json)
    pythons = {kind: environment_python(values.environments, kind) for kind in {TARGETS[n].environment for n in names}}
    hlo = export(config)
    batch, precision = config.train.global_batch_size, config.runtime.precision
    records = []
    with tempfile.TemporaryDirectory() as directory:
        hlo_file = os.path.join(directory, "step.hlo.pb")
        pathlib.Path(hlo_file).write_bytes(hlo)
        for name in names:
            target = TARGETS[name]
            result = compile_hlo(hlo_file, target, pythons[target.environment])
            if "too_large" not in result:
                result = with_bound(result, target, precision)
            records.append(
                {
                    "config": shlex.split(CONFIG.command(""))[1:],
                    "batch": batch,
                    "precision": precision,
                    "device": name,
                    "hlo_bytes": len(hlo),
                    "plan": plan_of(config, target.device),
                    **result,
                }
            )
            if values.json:
                files.write_resumable(values.json, json.dumps(records, indent=1) + "\n")
    print(f"one replica, {batch:,} examples, {precision}: {describe_bytes(len(hlo))} of HLO")
    print(table(records))


if __name__ == "__main__":
    app.run(_main, FLAGS, USAGE, groups=GROUPS, config=CONFIG)
