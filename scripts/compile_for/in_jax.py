"""Compiles an exported HLO for a device that is not here; scripts/compile_for.py runs it in an environment with JAX.

usage: in_jax.py HLO_FILE TOPOLOGY [TPU_CHIP_CONFIG]      of a TPU, as v5e:2x2
       in_jax.py HLO_FILE DESCRIPTION.txtpb               of a GPU: a GpuTargetConfigProto in text

The last line of standard output is JSON: bytes, floating-point operations, instructions by kind, and, from libtpu,
the cycles it estimates. The step's HLO comes from tf2xla, which lowers it for a CPU: TensorFlow refuses other platforms
without their devices.
"""

import collections
import json
import os
import pathlib
import re
import sys
import time

# JAX itself looks for no device, libtpu for no server that describes its machine; autotuning needs a device.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "XLA_FLAGS": "--xla_gpu_autotune_level=0",
}

import jax
import numpy as np
from jax._src.interpreters import mlir as jax_mlir
from jax._src.lib.mlir import ir
from jax.experimental import topologies
from jaxlib import _hlo, _jax, xla_client

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?\S+ = .*? ([a-z][a-z0-9\-]*)\(")
_NOT_EXECUTED = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast")


def main() -> None:
    """Compiles the HLO of the command line."""
    hlo_file, target, *chip_config = sys.argv[1:]
    device = _gpu(target) if target.endswith(".txtpb") else _tpu(target, *chip_config)
    options = xla_client.CompileOptions()
    options.num_replicas = options.num_partitions = 1
    options.device_assignment = xla_client.DeviceAssignment.create(np.array([[device.id]]))
    text = _jax.mlir.hlo_to_stablehlo(pathlib.Path(hlo_file).read_bytes())
    begin = time.perf_counter()
    try:
        with jax_mlir.make_ir_context():
            executable = device.client.compile(
                ir.Module.parse(text), executable_devices=_jax.DeviceList((device,)), compile_options=options
            )
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(json.dumps({"too_large": str(error).splitlines()[0]}))
        return
    seconds = time.perf_counter() - begin
    memory = executable.get_compiled_memory_stats()
    optimized = "\n".join(module.to_string() for module in executable.hlo_modules())
    cost = _jax.hlo_module_cost_analysis(jax.devices("cpu")[0].client, _hlo.hlo_module_from_text(optimized))
    steps = _steps(optimized)
    result = {
        "compile_seconds": seconds,
        "arguments_bytes": memory.argument_size_in_bytes,
        # Results beside the arguments that they replace in place.
        "results_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "estimated_cycles": sum(cycles for _, cycles in steps),
        "instructions": dict(collections.Counter(kind for kind, _ in steps).most_common()),
    }
    print(json.dumps(result))


def _tpu(topology: str, chip_config: str = "default"):
    return topologies.get_topology_desc(platform="tpu", topology_name=topology, chip_config_name=chip_config).devices[0]


def _gpu(description: str):
    return topologies.get_topology_desc(
        platform="cuda", topology_name="", target_config=pathlib.Path(description).read_text(), topology="1x1x1"
    ).devices[0]


def _steps(optimized: str) -> list[tuple[str, int]]:
    """Returns kind and estimated cycles of the instructions of a step that are started one by one.

    These are those of the entry computation and of the branches and loops it calls, not those within a fusion.
    """
    texts = {}
    for text in re.split(r"\n(?=(?:ENTRY )?%\S+ \()", optimized):
        if header := re.match(r"(ENTRY )?%(\S+) \(", text):
            texts["ENTRY" if header[1] else header[2]] = text
    steps, waiting, seen = [], ["ENTRY"], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in texts[name].splitlines():
            match = _INSTRUCTION.match(line)
            if match is None or match[1] in _NOT_EXECUTED:
                continue
            cycles = re.search(r'"estimated_cycles":"(\d+)"', line)
            steps.append((match[1], int(cycles[1]) if cycles else 0))
            if match[1] in ("conditional", "while", "call"):
                waiting += re.findall(r"[={ ]%([\w.\-]+)", line[line.index("), ") :])
    return steps


if __name__ == "__main__":
    main()
