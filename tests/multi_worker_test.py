"""Two processes on this machine stand for two hosts."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from electra_cli.workdir.run_files import read_metrics
from tests import forking
from tests.conftest import prepare_small
from tests.training.loop_test import assert_same_run

pytestmark = pytest.mark.slow

NUM_STEPS = 50
FLAGS = [
    "--config=tiny",
    "--config.data.max_seq_length=32",
    "--config.model.num_layers=1",
    "--config.model.embedding_size=8",
    "--config.model.hidden_size=16",
    "--config.model.num_attention_heads=2",
    "--config.model.intermediate_size=32",
    "--config.model.generator_size=0.5",
    f"--config.train.num_steps={NUM_STEPS}",
    "--config.train.global_batch_size=8",
    "--config.train.steps_per_loop=2",
    "--config.train.log_interval=2",
    "--config.train.checkpoint_interval=10",
    "--config.eval.interval=20",
    "--config.eval.num_examples=20",
    "--config.optimizer.warmup_steps=5",
]
MLM = "--config.objective.name=mlm"  # what is quickest to build
NO_DROPOUT = ["--config.model.hidden_dropout=0.0", "--config.model.attention_dropout=0.0"]


def free_ports(number):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Workers:
    """Processes that train together in a workdir; the last has flags of its own, or some are not started."""

    def __init__(self, data_dir, workdir, *flags, number=2, of_last=(), num_started=None):
        addresses = [f"localhost:{port}" for port in free_ports(number)]
        self.logs = [workdir.parent / f"{workdir.name}-{time.time_ns()}-{index}.log" for index in range(number)]
        self.processes = []
        for index, log in enumerate(self.logs[:num_started]):
            cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            self.processes.append(
                forking.Popen(
                    [
                        *(sys.executable, "-m", "electra_cli.main", *FLAGS, *flags),
                        *(f"--config.data.dir={data_dir}", f"--workdir={workdir}"),
                        *(of_last if index == number - 1 else ()),
                    ],
                    stdout=log.open("w"),
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "TF_CONFIG": json.dumps(cluster)} if number > 1 else None,
                )
            )

    def wait(self, timeout=400):
        try:
            return [process.wait(timeout) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def wait_for_step(self, step):
        """Waits until the chief has logged a step or a later one."""
        end = time.monotonic() + 400
        while time.monotonic() < end:
            steps = [int(found) for found in re.findall(r"^step (\d+)/", self.output(0), re.M)]
            if steps and steps[-1] >= step:
                return
            assert self.processes[0].poll() is None, self.output(0)
            time.sleep(0.05)
        raise AssertionError(self.output(0))

    def output(self, index):
        return self.logs[index].read_text()


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory):
    """The workdir of two workers that were not disturbed."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    workers = Workers(data_dir, workdir, MLM)
    assert workers.wait() == [0, 0], workers.output(0) + workers.output(1)
    assert "2 CPUs, strategy multi_worker_mirrored (TF_CONFIG names 2 workers)" in workers.output(0)
    assert "step" not in workers.output(1)  # the chief alone tells
    return workdir


def read_losses(workdir):
    lines = [line for line in read_metrics(str(workdir)) if line["split"] != "probe"]
    return [(line["step"], line["split"], line["masked_lm_loss"], line["rtd_loss"]) for line in lines]


def test_two_workers_make_the_steps_of_one(data_dir, tmp_path):
    one = Workers(data_dir, tmp_path / "one", *NO_DROPOUT, number=1)
    assert one.wait() == [0], one.output(0)
    words = [f"the {noun} {verb}.\t{verb}" for noun in ("cat", "dog", "farmer") for verb in ("sees", "likes")]
    (tmp_path / "words.tsv").write_text("\n".join(["sentence\tlabel", *words * 3]) + "\n")
    (tmp_path / "link").symlink_to(data_dir)  # the same data at another path
    of_last = [f"--config.data.dir={tmp_path / 'link'}"]
    probes = f"--config.eval.probes={tmp_path / 'words.tsv'}"
    two = Workers(data_dir, tmp_path / "two", *NO_DROPOUT, probes, of_last=of_last)
    assert two.wait() == [0, 0], two.output(0) + two.output(1)
    assert "step 50 probes  words accuracy" in two.output(0)
    assert [line["step"] for line in read_metrics(str(tmp_path / "two")) if line["split"] == "probe"] == [20, 40, 50]
    expected, found = read_losses(tmp_path / "one"), read_losses(tmp_path / "two")
    assert len(expected) == NUM_STEPS // 2 + 3
    for first, second in zip(expected, found, strict=True):
        assert first[:2] == second[:2]
        assert second[2:] == pytest.approx(first[2:], rel=1e-5)


def test_whatever_ends_one_worker_ends_all_and_they_go_on(data_dir, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    signalled = Workers(data_dir, workdir, MLM)
    signalled.wait_for_step(6)
    signalled.processes[1].send_signal(signal.SIGTERM)
    assert signalled.wait() == [75, 75], signalled.output(0) + signalled.output(1)
    assert "stopped by another worker's signal at step" in signalled.output(0)
    assert "stopped by SIGTERM at step" in signalled.output(1)
    for killed, step in ((1, 14), (0, 26)):
        workers = Workers(data_dir, workdir, MLM)
        workers.wait_for_step(step)
        workers.processes[killed].kill()
        start = time.monotonic()
        codes = workers.wait()
        other = 1 - killed
        assert time.monotonic() - start < 300  # seconds on an idle machine, for ever where nothing notices
        assert codes[other] == 75, workers.output(other)
        assert f"worker {other} lost worker {killed}, which was killed or cannot be reached; start all 2 again" in (
            workers.output(other)
        )
        assert "Traceback" not in workers.output(other)
    again = Workers(data_dir, workdir, MLM)
    assert again.wait() == [0, 0], again.output(0) + again.output(1)
    assert "Resuming from step 2" in again.output(0)
    assert_same_run(undisturbed, workdir)


def test_workers_that_were_started_differently_end(data_dir, corpus_file, tmp_path):
    prepare_small(corpus_file, tmp_path / "other", vocab_file=data_dir / "vocab.txt", validation_fraction=0.1)
    of_last = [f"--config.data.dir={tmp_path / 'other'}", "--config.optimizer.learning_rate=0.25", "--mode=train"]
    workers = Workers(data_dir, tmp_path / "run", of_last=of_last)
    assert workers.wait() == [2, 2], workers.output(0) + workers.output(1)
    for index in (0, 1):
        (error,) = (line for line in workers.output(index).splitlines() if "error: " in line)
        *differences, remedy = re.split("; |: start ", error.partition("the workers were started differently: ")[2])
        assert [difference.partition(": ")[0] for difference in differences] == [
            "--mode", "config.optimizer.learning_rate", "the data of config.data.dir",
        ]  # fmt: skip
        assert differences[:2] == [
            '--mode: "train_and_eval" in worker 0, "train" in worker 1',
            "config.optimizer.learning_rate: 0.002 in worker 0, 0.25 in worker 1",
        ]
        assert remedy == "all with the same command, data and installation"
    assert not (tmp_path / "run").exists()


def test_a_worker_that_waits_names_the_others_and_ends_on_a_signal(data_dir, tmp_path):
    workers = Workers(data_dir, tmp_path / "run", num_started=1)
    end = time.monotonic() + 400
    while "Waiting for worker 1" not in workers.output(0):
        assert workers.processes[0].poll() is None and time.monotonic() < end, workers.output(0)
        time.sleep(0.05)
    assert re.search(
        r"^Waiting for worker 1 \(localhost:\d+: Connection refused\) to start\.$", workers.output(0), re.M
    )
    workers.processes[0].send_signal(signal.SIGTERM)
    assert workers.wait(timeout=30) == [75]
    assert "stopped by SIGTERM, and nothing more was saved" in workers.output(0)


def test_a_dry_run_of_two_workers_ends(data_dir, tmp_path):
    workers = Workers(data_dir, tmp_path / "run", "--dry_run", MLM)
    assert workers.wait() == [0, 0], workers.output(0) + workers.output(1)
    assert "Dry run of a new run" in workers.output(0) and "Dry run" not in workers.output(1)
    assert not (tmp_path / "run").exists()
