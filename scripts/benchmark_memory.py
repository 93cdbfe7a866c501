"""Measures the peak memory of training steps of small models, a process each, next to what electra-plan predicts.

usage: python scripts/benchmark_memory.py [--write]

The peak is that of the process less that of another one that makes steps of a model of as many layers but of width 8,
so that libraries and the graph do not count. Of steps that XLA compiles it is what XLA assigned to the step's variables
and buffers: a process hides them in the memory that the compiler left. --write replaces docs/measured_memory.json,
which docs/scale.md is made from.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import ml_collections

from electra_cli.config import default_config
from electra_cli.config.resolution import resolve
from electra_cli.planning.scale import GIB
from electra_cli.planning.sizes import replica_memory

RECORD = pathlib.Path(__file__).resolve().parent.parent / "docs" / "measured_memory.json"
# Width, layers, length, batch, entries of the vocabulary, and overrides.
CASES: tuple[tuple[int, int, int, int, int, dict], ...] = (
    (256, 4, 128, 32, 8_000, {}),
    (256, 4, 512, 8, 8_000, {}),
    (256, 2, 128, 32, 30_522, {}),
    (512, 4, 128, 4, 30_522, {}),
    (256, 4, 128, 32, 8_000, {"model.hidden_dropout": 0.0, "model.attention_dropout": 0.0}),
    (256, 4, 128, 32, 8_000, {"runtime.precision": "mixed_bfloat16"}),
    (256, 4, 512, 8, 8_000, {"runtime.precision": "mixed_bfloat16"}),
    (256, 8, 128, 32, 8_000, {"model.remat": True}),
    # Not in bfloat16, which XLA computes in float32 on CPUs.
    (256, 4, 128, 32, 8_000, {"runtime.jit_compile": "true"}),
    (256, 4, 512, 8, 8_000, {"runtime.jit_compile": "true"}),
    (256, 8, 128, 32, 8_000, {"runtime.jit_compile": "true", "model.remat": True}),
)


def main() -> None:
    """Measures all cases, or one in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--cases", default="", help="numbers from 0, comma-separated; all")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps({"peak_bytes": _measure_here(json.loads(arguments.one))}))
        return
    chosen = [int(number) for number in arguments.cases.split(",") if number] or range(len(CASES))
    records = []
    for number in chosen:
        record = measure(case_overrides(number))
        records.append(record)
        print(f"{record['measured_bytes'] / GIB:7.3f} {predict(record['overrides']) / GIB:7.3f}  {record['overrides']}")
        if arguments.write:
            RECORD.write_text(json.dumps(records, indent=1) + "\n")


def case_overrides(number: int) -> dict:
    """Returns the keys of a case, with `vocab_size`."""
    width, layers, length, batch, vocab_size, overrides = CASES[number]
    return {
        "vocab_size": vocab_size,
        "model.hidden_size": width,
        "model.num_attention_heads": width // 64,
        "model.intermediate_size": 4 * width,
        "model.num_layers": layers,
        "data.max_seq_length": length,
        "train.global_batch_size": batch,
        **overrides,
    }


def measure(overrides: dict) -> dict:
    """Returns the record of a case: its overrides and the bytes of a step beyond those of a narrow model."""
    narrow = {
        "vocab_size": 50,
        "model.hidden_size": 8 * overrides["model.num_attention_heads"],
        "model.intermediate_size": 8,
        "model.embedding_size": 8,
        "model.generator_hidden_size": 8,
        "data.max_seq_length": 8,
        "train.global_batch_size": overrides.get("train.gradient_accumulation_steps", 1),
    }
    is_compiled = overrides.get("runtime.jit_compile") == "true"
    base = 0 if is_compiled else _measure_apart({**overrides, **narrow})
    return {"overrides": overrides, "measured_bytes": _measure_apart(overrides) - base}


def predict(overrides: dict) -> float:
    """Returns the bytes of a step that the model of memory predicts."""
    config = resolved(overrides)
    num_examples = config.train.global_batch_size // config.train.gradient_accumulation_steps
    is_compiled = config.runtime.jit_compile == "true"
    return replica_memory(config, num_examples, remat=config.model.remat, compiled=is_compiled, num_replicas=1).peak


def resolved(overrides: dict) -> ml_collections.FrozenConfigDict:
    """Returns the resolved config of a case."""
    config = default_config()
    config.data.dir = "none"
    config.update_from_flattened_dict({key: value for key, value in overrides.items() if key != "vocab_size"})
    return resolve(config, overrides["vocab_size"])


def _measure_apart(overrides: dict) -> int:
    """Returns the peak of a process that makes two steps."""
    process = subprocess.run(
        [sys.executable, __file__, f"--one={json.dumps(overrides)}"], capture_output=True, text=True
    )
    if process.returncode:
        raise SystemExit(f"{process.stderr[-2000:]}\nbenchmark_memory.py: a measurement failed")
    return json.loads(process.stdout.splitlines()[-1])["peak_bytes"]


def _measure_here(overrides: dict) -> int:
    with tempfile.TemporaryDirectory() as directory:
        if overrides.get("runtime.jit_compile") == "true":
            os.environ["XLA_FLAGS"] = f"--xla_dump_to={directory} --xla_dump_hlo_as_text"
        # Imported here: TensorFlow takes seconds, and reads the flags.
        from electra_cli.planning.measuring import make_steps, peak_memory  # noqa: PLC0415

        make_steps(resolved(overrides), 2)
        assignments = [path.read_text() for path in pathlib.Path(directory).glob("*buffer-assignment*")]
        totals = [int(found) for text in assignments for found in re.findall(r"Total bytes used: (\d+)", text)]
        return max(totals) if totals else peak_memory()


if __name__ == "__main__":
    main()
