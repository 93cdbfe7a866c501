"""A process that computes on several hosts, each with a TensorFlow server, as for a TPU slice: CPUs stand in."""

import json
import socket
import subprocess
import sys

import pytest

from tests import forking

pytestmark = pytest.mark.slow

SERVER = """
import sys
import tensorflow as tf
server = tf.train.ServerDef(protocol="grpc", job_name="tpu_worker", task_index=0)
job = server.cluster.job.add()
job.name, job.tasks[0] = "tpu_worker", f"localhost:{sys.argv[1]}"
server = tf.distribute.Server(server)
print("listening", flush=True)
server.join()
"""
COORDINATOR = """
import json, pathlib, sys
import tensorflow as tf
from tensorflow.python.distribute import mirrored_strategy
from electra_cli.errors import UserError
from electra_cli.loggers.logger import Logger
from electra_cli.training import distribution, loop, run
from tests import forking
from tests.conftest import small_config

data_dir, directory, *addresses = sys.argv[1:]


def config(data_dir=data_dir):
    config = small_config(data_dir)
    config.runtime.jit_compile = "false"
    config.runtime.logical_cpus = 0 if addresses else 2
    config.model.num_layers, config.eval.num_samples = 1, 2
    config.train.num_steps, config.train.checkpoint_interval = 4, 2
    return config


def connect():
    tf.config.experimental_connect_to_cluster(tf.train.ClusterSpec({"worker": addresses}))
    devices = [cpu.name for cpu in tf.config.list_logical_devices("CPU") if "/job:worker" in cpu.name]
    # As `TPUStrategy` does it: what `MirroredStrategy` refuses is only not supported on GPUs of several hosts.
    mirrored_strategy._is_device_list_single_worker = lambda _: True
    strategy = tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())
    strategy.extended._input_workers_devices = [(device, [device]) for device in devices]
    return distribution.Runtime(strategy, jit_compile=False, description="two hosts")


def refused(function):
    try:
        function()
    except UserError as error:
        return str(error)


result = {}
if addresses:
    runtime = connect()
    run.build_runtime = lambda *_, **__: runtime
    result["hosts"] = runtime.hosts
    pathlib.Path("own").symlink_to(data_dir)  # a path that this process alone has
    result["data"] = refused(lambda: loop.train(config("own"), f"{directory}/run", with_evaluation=False))
    result["workdir"] = refused(lambda: loop.train(config(), "run", with_evaluation=False))
loop.train(config(), f"{directory}/run", with_evaluation=False, logger=Logger())
if addresses:
    for file in pathlib.Path(directory, "run", "checkpoints").glob("ckpt-4*"):
        file.unlink()  # the next resumes from step 2
    loop.train(config(), f"{directory}/run", with_evaluation=False, logger=Logger())
result["evaluation"] = loop.evaluate(config(), f"{directory}/run", Logger())
print(json.dumps(result))
"""


def coordinate(data_dir, directory, *addresses):
    """Trains and evaluates; returns what the process prints, and the lines of metrics without times."""
    directory.mkdir()
    arguments = [sys.executable, "-c", COORDINATOR, str(data_dir), str(directory), *addresses]
    process = forking.run(arguments, cwd=directory, capture_output=True, text=True, timeout=500)
    assert process.returncode == 0, process.stderr[-3000:]
    lines = [json.loads(line) for line in (directory / "run" / "metrics.jsonl").read_text().splitlines()]
    times = ("tokens_per_second", "model_flops_utilization", "input_wait_fraction")
    metrics = [{name: value for name, value in line.items() if name not in times} for line in lines]
    return json.loads(process.stdout.splitlines()[-1]), metrics


def test_hosts_read_train_save_and_resume_as_one_machine_trains(data_dir, tmp_path):
    addresses, servers = [], []
    for index in range(2):
        with socket.create_server(("localhost", 0)) as free:
            addresses.append(f"localhost:{free.getsockname()[1]}")
        home = tmp_path / f"home-{index}"
        home.mkdir()
        command = [sys.executable, "-c", SERVER, addresses[-1].rpartition(":")[2]]
        servers.append(forking.Popen(command, cwd=home, stdout=subprocess.PIPE, text=True))
    try:
        assert [server.stdout.readline() for server in servers] == ["listening\n"] * 2
        result, metrics = coordinate(data_dir, tmp_path / "several", *addresses)
    finally:
        for server in servers:
            server.kill()
            server.wait()
    expected, expected_metrics = coordinate(data_dir, tmp_path / "one")
    assert result["hosts"] == [f"/job:worker/replica:0/task:{index}/device:CPU:0" for index in range(2)]
    for name, option, path in (("data", "config.data.dir", "own"), ("workdir", "--workdir", "run")):
        assert result[name] == (
            f"{option}={path} is not on host 0 of 2, which all read and write there: give a gs:// path, or an absolute "
            f"one on a disk that they share"
        )
    assert metrics == expected_metrics
    assert [line["step"] for line in metrics] == [2, 4]
    assert result["evaluation"] == expected["evaluation"]
