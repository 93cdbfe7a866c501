"""Times a step on one CPU, on two logical CPUs, and in two worker processes over loopback, next to the plan's model.

usage: python scripts/benchmark_scale.py [--rounds=3] [--write]

All of it runs on one machine: replicas share its cores, so that the model predicts the computation of one replica over
the whole batch, and a ring all-reduce of all gradients over loopback, whose bandwidth is measured apart. The four take
turns; quote ratios. --write replaces docs/measured_scale.json, which docs/scale.md is made from.
"""

import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from electra_cli.config import default_config
from electra_cli.config.resolution import resolve
from electra_cli.objectives.sizes import FLOAT, count_parameters

RECORD = pathlib.Path(__file__).resolve().parent.parent / "docs" / "measured_scale.json"
# ELECTRA-Small of four layers: gradients of 29 MB, most of them the word table's.
OVERRIDES = {"model.num_layers": 4, "train.global_batch_size": 16}
VOCAB_SIZE = 30_522
_NUM_STEPS = 4
WAYS: dict[str, dict] = {
    "one process": {"runtime.strategy": "one_device"},
    "two logical CPUs": {"runtime.strategy": "mirrored", "runtime.logical_cpus": 2},
    "two workers": {"runtime.strategy": "multi_worker_mirrored"},
}


def main() -> None:
    """Measures all ways in turns, or makes the steps of one in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--way", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(_measure_here(arguments.way)))
        return
    rounds: dict[str, list[dict]] = {way: [] for way in WAYS}
    bandwidths = []
    for _ in range(arguments.rounds):
        bandwidths.append(loopback_bandwidth())
        for way, found in rounds.items():
            found.append(_measure_apart(way))
    record = {
        "gradient_bytes": FLOAT * count_parameters(resolved({})).trained,
        "loopback_bytes_per_second": statistics.median(bandwidths),
        **{
            way: {name: statistics.median(one[name] for one in found) for name in found[0]}
            for way, found in rounds.items()
        },
    }
    print(json.dumps(record, indent=1))
    if arguments.write:
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


def resolved(overrides: dict):
    """Returns the resolved config that is measured, with overrides."""
    config = default_config()
    config.data.dir = "none"
    config.update_from_flattened_dict({**OVERRIDES, **overrides})
    return resolve(config, VOCAB_SIZE)


def loopback_bandwidth() -> float:
    """Returns the bytes a second of one TCP stream over loopback, which both ends copy."""
    size, total = 1 << 20, 1 << 30
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send() -> None:
            with socket.create_connection(server.getsockname()) as stream:
                for _ in range(total // size):
                    stream.sendall(bytes(size))

        thread = threading.Thread(target=send)
        thread.start()
        stream, _ = server.accept()
        begin, received = time.perf_counter(), 0
        with stream:
            while received < total:
                received += len(stream.recv(size))
        thread.join()
        return total / (time.perf_counter() - begin)


def _measure_apart(way: str) -> dict:
    """Returns what a way's first process says; starts as many as it takes."""
    environments = [dict(os.environ)]
    if way == "two workers":
        ports = []
        for _ in range(2):
            with socket.create_server(("127.0.0.1", 0)) as server:
                ports.append(server.getsockname()[1])
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        environments = [
            {**os.environ, "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})}
            for index in range(2)
        ]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, f"--way={way}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for environment in environments
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"benchmark_scale.py: {way} failed")
    return json.loads(outputs[0].splitlines()[-1])


def _measure_here(way: str) -> dict:
    # Imported here: TensorFlow takes seconds.
    import tensorflow as tf  # noqa: PLC0415

    from electra_cli.planning.measuring import make_steps  # noqa: PLC0415

    config = resolved(WAYS[way])
    seconds, runtime = make_steps(config, _NUM_STEPS)
    gradient = tf.zeros([count_parameters(config).trained])

    @tf.function
    def all_reduce():
        def reduce_replica():
            context = tf.distribute.get_replica_context()
            return tf.reduce_sum(context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(gradient))[:1])

        return runtime.strategy.reduce(tf.distribute.ReduceOp.SUM, runtime.strategy.run(reduce_replica), axis=None)

    times = []
    for _ in range(_NUM_STEPS + 1):
        begin = time.perf_counter()
        float(all_reduce())
        times.append(time.perf_counter() - begin)
    return {
        "step_seconds": statistics.median(seconds[1:]),
        "all_reduce_seconds": statistics.median(times[1:]) if runtime.num_replicas > 1 else 0.0,
    }


if __name__ == "__main__":
    main()
