"""Measures the peak memory of training steps of small models, a process each, next to what electra-plan predicts.

usage: python scripts/benchmark_memory.py [--write]

The peak is that of the tensors, as TensorFlow's allocator counts them; of steps that XLA compiles, what XLA assigned to
the step's variables and buffers. --write replaces docs/measured_memory.json, which docs/scale.md is made from.
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
from electra_cli.objectives.sizes import replica_memory
from electra_cli.planning.scale import GIB

RECORD = pathlib.Path(__file__).resolve().parent.parent / "docs" / "measured_memory.json"
MODERN = {
    "model.architecture": "modern",
    "model.embedding_size": 256,
    "model.generator_size": 1.0,
    "model.generator_num_layers": 1,
    "model.hidden_dropout": 0.0,
    "model.attention_dropout": 0.0,
}
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
    # As many tokens in longer examples.
    (256, 3, 512, 16, 8_000, {**MODERN, "runtime.jit_compile": "true"}),
    (256, 3, 8_192, 1, 8_000, {**MODERN, "runtime.jit_compile": "true"}),
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
    """Returns the record of a case: its overrides and the bytes of its steps."""
    process = subprocess.run(
        [sys.executable, __file__, f"--one={json.dumps(overrides)}"], capture_output=True, text=True
    )
    if process.returncode:
        raise SystemExit(f"{process.stderr[-2000:]}\nbenchmark_memory.py: a measurement failed")
    return {"overrides": overrides, "measured_bytes": json.loads(process.stdout.splitlines()[-1])["peak_bytes"]}


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


def _measure_here(overrides: dict) -> int:
    with tempfile.TemporaryDirectory() as directory:
        is_compiled = overrides.get("runtime.jit_compile") == "true"
        if is_compiled:
            os.environ["XLA_FLAGS"] = f"--xla_dump_to={directory} --xla_dump_hlo_as_text"
        else:
            os.environ["TF_CPU_ALLOCATOR_USE_BFC"] = "true"  # the allocator of GPUs, which counts
        # Imported here: TensorFlow takes seconds, and reads what is set above.
        import tensorflow as tf  # noqa: PLC0415

        from electra_cli.planning.measuring import make_steps  # noqa: PLC0415

        make_steps(resolved(overrides), 2)
        if not is_compiled:
            return tf.config.experimental.get_memory_info("CPU:0")["peak"]
        assignments = [path.read_text() for path in pathlib.Path(directory).glob("*buffer-assignment*")]
        return max(int(found) for text in assignments for found in re.findall(r"Total bytes used: (\d+)", text))


if __name__ == "__main__":
    main()
