"""Writes the tables of docs/scale.md anew: what stands between `<!-- begin NAME -->` and `<!-- end NAME -->`.

usage: python scripts/write_scale_page.py

Predictions come from electra_cli/planning; measurements from docs/measured_memory.json (scripts/benchmark_memory.py),
docs/measured_compiled.json (scripts/compile_for.py) and docs/measured_scale.json (scripts/benchmark_scale.py).
"""

import json
import pathlib
import re
import runpy
from collections.abc import Callable, Iterable

import benchmark_memory
import compile_for
import ml_collections

from electra_cli.config.pretraining import PRETRAINING
from electra_cli.config.resolution import resolve
from electra_cli.objectives.sizes import replica_memory
from electra_cli.planning import scale
from electra_cli.planning.plan import DeviceRow, make_plan
from electra_cli.planning.scale import ACCELERATORS, GIB, Placement, largest_part, step_time

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "scale.md"
A100, TPU_V4 = ACCELERATORS[0], ACCELERATORS[2]
# What NVIDIA published for pre-training BERT-large in TensorFlow 2 with XLA on A100 80 GB (DeepLearningExamples,
# TensorFlow2/LanguageModeling/BERT, "Training performance results"): GPUs, length, examples at one time and parts,
# precision, sequences a second.
PUBLISHED = (
    (1, 128, 312, 256, "mixed_float16", 485.59),
    (1, 512, 40, 768, "mixed_float16", 96.52),
    (1, 128, 176, 512, "float32", 282.98),
    (1, 512, 22, 1536, "float32", 54.92),
    (8, 128, 312, 32, "mixed_float16", 3_799.24),
    (256, 128, 312, 1, "mixed_float16", 110_280.73),
    (256, 512, 40, 3, "mixed_float16", 22_506.23),
)


def main() -> None:
    """Writes the page."""
    PAGE.write_text(render(PAGE.read_text()))


def render(page: str) -> str:
    """Returns the page with its tables made anew."""
    for name, make in TABLES.items():
        parts = re.split(rf"(?<=<!-- begin {name} -->\n).*?(?=<!-- end {name} -->)", page, flags=re.S)
        if len(parts) != 2:
            raise SystemExit(f"write_scale_page.py: {PAGE} has {len(parts) - 1} places for the table {name}")
        page = f"{make()}\n".join(parts)
    return page


def published_config(length: int, batch: int, parts: int, precision: str) -> ml_collections.FrozenConfigDict:
    """Returns BERT-large as this program would train it."""
    config = load_preset("large")
    config.update_from_flattened_dict(
        {
            "objective.name": "mlm",
            "data.dir": "none",
            "data.max_seq_length": length,
            "data.mask_prob": 0.15,
            "runtime.precision": precision,
            "train.global_batch_size": batch,
            "train.gradient_accumulation_steps": parts,
        }
    )
    return resolve(config, 30_522)


def load_preset(name: str) -> ml_collections.ConfigDict:
    """Returns the config of a preset."""
    return runpy.run_path(PRETRAINING.path(name))["get_config"]()


def _presets() -> str:
    rows = []
    for name in PRETRAINING.names():
        config = load_preset(name)
        config.runtime.precision = "mixed_bfloat16"
        found = [row for row in make_plan(config).devices if row.device in ACCELERATORS]
        for device in ACCELERATORS:
            cells = [_preset_cell(row) for row in found if row.device is device]
            rows.append([f"`{name}`" if device is A100 else "", device.name, *cells])
    return _table(["preset", "device", "1", "8", "256"], rows, numbers=())


def _preset_cell(row: DeviceRow) -> str:
    if row.seconds is None or row.positions_per_second is None:
        return next(placement for placement in row.placements if isinstance(placement, str)).split(":")[0]
    of_phases = [placement.num_parts for placement in row.placements if isinstance(placement, Placement)]
    parts = f", {' and '.join(map(str, of_phases))} parts" if max(of_phases) > 1 else ""
    return (
        f"{row.positions_per_second / 1000:,.0f}k tokens/s, {row.of_peak:.0%} of peak, {row.scaling:.0%}, "
        f"{row.seconds / 3600:,.1f} h{parts}"
    )


def _devices() -> str:
    rows = [
        [
            device.name,
            f"{device.peak / 1e12:.0f}",
            f"{device.peak_float32 / 1e12:.0f}",
            f"{device.attainable:.0%}",
            f"{device.memory / GIB:.0f}",
            f"{device.bandwidth / 1e9:,.0f}",
            f"{device.link / 1e9:.0f}",
            f"{device.all_reduce_bandwidth(1 << 20) / 1e9:.0f}",
            str(device.per_host),
            f"{device.price:.2f}",
        ]
        for device in ACCELERATORS
    ]
    titles = ["device", "TFLOP/s bfloat16", "float32", "attainable", "GiB", "GB/s memory", "GB/s ring",
              "beyond a group", "a host", "US$ an hour"]  # fmt: skip
    return _table(titles, rows)


def _large() -> str:
    rows = []
    for precision in ("float32", "mixed_bfloat16"):
        config = load_preset("large")
        config.data.dir, config.runtime.precision = "none", precision
        found = resolve(config, 30_522)
        for remat in (False, True):
            # Of two replicas: each keeps its gradients beside their sum.
            one = replica_memory(found, 1, remat=remat, compiled=True, num_replicas=2)
            rows.append(
                [
                    precision.removeprefix("mixed_") + (", recomputed" if remat else ""),
                    f"{one.weights / GIB:.2f}",
                    f"{one.optimizer / GIB:.2f}",
                    f"{one.gradients / GIB:.2f}",
                    f"{one.activations / GIB:.3f}",
                    f"{one.working / GIB:.3f}",
                    f"{one.logits / GIB:.3f}",
                    *(f"{largest_part(found, device, remat=remat):,}" for device in (A100, TPU_V4)),
                ]
            )
    titles = ["`large`, 512 tokens", "weights", "optimizer", "gradients", "activations an example", "block at work",
              "logits an example", "most examples in 80 GiB", "in 32 GiB"]  # fmt: skip
    return _table(titles, rows)


def _memory() -> str:
    rows = []
    for record in json.loads(benchmark_memory.RECORD.read_text()):
        overrides = record["overrides"]
        predicted, measured = benchmark_memory.predict(overrides), record["measured_bytes"]
        shown = {key.split(".")[-1]: value for key, value in overrides.items() if key.split(".")[-1] not in _SIZES}
        rows.append(
            [
                *(f"{overrides[key]:,}" for key in _SIZE_KEYS),
                ", ".join(f"{key}={value}" for key, value in shown.items()),
                f"{measured / GIB:.3f}",
                f"{predicted / GIB:.3f}",
                f"{predicted / measured - 1:+.0%}",
            ]
        )
    return _table(["width", "layers", "length", "batch", "vocabulary", "", "measured", "predicted", "off by"], rows)


_SIZE_KEYS = ("model.hidden_size", "model.num_layers", "data.max_seq_length", "train.global_batch_size", "vocab_size")
_SIZES = {key.split(".")[-1] for key in _SIZE_KEYS} | {"num_attention_heads", "intermediate_size"}


def _compiled() -> str:
    rows = []
    for record in json.loads((DOCS / "measured_compiled.json").read_text()):
        plan = compile_for.plan_again(record)
        name = record["config"][0].removeprefix("--config=")
        rows.append(
            [
                f"`{name}`, {record['batch']}, {record['precision'].removeprefix('mixed_')}",
                record["device"],
                f"{record['peak_bytes'] / GIB:.2f}",
                f"{record['code_bytes'] / GIB:.2f}",
                f"{plan['peak_bytes'] / GIB:.2f}",
                f"{plan['peak_bytes'] / record['peak_bytes'] - 1:+.0%}",
                f"{record['flops'] / 1e12:.2f}",
                f"{record['bytes_accessed'] / 1e9:.1f}",
                f"{sum(record['instructions'].values()):,}",
                f"{record['bound_ms']:.1f}",
                f"{plan['step_ms']:.1f}",
            ]
        )
    titles = ["config, batch, precision", "device", "GiB", "code", "predicted", "off by", "TFLOP", "GB accessed",
              "instructions", "ms at least", "predicted"]  # fmt: skip
    return _table(titles, rows)


def _published() -> str:
    rows = []
    for number, length, examples, parts, precision, published in PUBLISHED:
        config = published_config(length, number * examples * parts, parts, precision)
        predicted = config.train.global_batch_size / step_time(config, A100, number, parts, remat=False).total
        rows.append(
            [
                f"{number}",
                f"{length}",
                precision.removeprefix("mixed_"),
                f"{examples} x {parts}",
                f"{published:,.0f}",
                f"{predicted:,.0f}",
                f"{predicted / published - 1:+.0%}",
                f"{largest_part(config, A100, remat=False):,}",
            ]
        )
    return _table(["GPUs", "length", "precision", "examples x parts", "published, sequences/s", "predicted", "off by",
                   "most examples, predicted"], rows)  # fmt: skip


def _loopback() -> str:
    found = json.loads((DOCS / "measured_scale.json").read_text())
    alone = found["one process"]["step_seconds"]
    ring = found["gradient_bytes"] / found["loopback_bytes_per_second"]  # 2 (n - 1) / n is 1 for two
    rows = [["one process", f"{alone:.3f}", "", "", ""]]
    for way, extra in (("two logical CPUs", 0.0), ("two workers", ring)):
        step, reduce = found[way]["step_seconds"], found[way]["all_reduce_seconds"]
        rows.append([way, f"{step:.3f}", f"{alone + extra:.3f}", f"{reduce:.3f}", f"{extra:.3f}"])
    return _table(["", "step s, measured", "predicted", "all-reduce s alone, measured", "predicted"], rows)


def _constants() -> str:
    return (
        f"Passes over what is kept: {scale.PASSES_COMPILED:g} compiled, {scale.PASSES_IN_PARTS:g} on CPUs. "
        f"Input: {scale.EXAMPLES_PER_CORE:,.0f} examples of 128 tokens a second and core, {scale.INPUT_CALLS} calls at "
        f"once in a host's process. The host: {1000 * scale.HOST_SECONDS:.0f} ms a step."
    )


def _table(titles: list[str], rows: Iterable[list[str]], numbers: tuple[str, ...] | None = None) -> str:
    aligned = ["---" if index == 0 or numbers == () else "--:" for index in range(len(titles))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, aligned, *rows))


TABLES: dict[str, Callable[[], str]] = {
    "presets": _presets,
    "devices": _devices,
    "constants": _constants,
    "large": _large,
    "memory": _memory,
    "compiled": _compiled,
    "published": _published,
    "loopback": _loopback,
}

if __name__ == "__main__":
    main()
