import contextlib
import itertools
import json
import re
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import tensorflow as tf

from electra_cli.config import default_config
from electra_cli.errors import Interrupted, UserError
from electra_cli.loggers.logger import Logger
from electra_cli.training import cluster
from electra_cli.training.cluster import Cluster, check_same, find_cluster, joining


def settings(**values):
    runtime = default_config().runtime
    runtime.update(values)
    return runtime


def tf_config(cluster, kind, index):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


def test_a_process_alone_has_no_cluster():
    assert find_cluster(settings(), {}) is None
    assert find_cluster(settings(), tf_config({"worker": ["a:1"]}, "worker", 0)) is None
    assert find_cluster(settings(), {"SLURM_STEP_NUM_TASKS": "1"}) is None


def test_addresses_of_the_config_come_first():
    found = find_cluster(
        settings(worker_addresses="a:1,b:22", worker_index=1), tf_config({"worker": ["x:1", "y:1"]}, "worker", 0)
    )
    assert found == Cluster(("a:1", "b:22"), 1, "config.runtime.worker_addresses")
    assert json.loads(found.to_tf_config()) == {
        "cluster": {"worker": ["a:1", "b:22"]},
        "task": {"type": "worker", "index": 1},
    }


@pytest.mark.parametrize(("kind", "index", "place"), [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)])
def test_chief_and_workers_of_tf_config(kind, index, place):
    environment = tf_config({"chief": ["c:1"], "worker": ["w:1", "w:2"]}, kind, index)
    assert find_cluster(settings(), environment) == Cluster(("c:1", "w:1", "w:2"), place, "TF_CONFIG")


def test_slurm_numbers_tasks_in_the_order_of_its_list():
    environment = {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "n[2,10],login",
        "SLURM_STEP_TASKS_PER_NODE": "2,1(x2)",
        "SLURM_JOB_ID": "10007",
        "SLURM_PROCID": "2",
    }
    assert find_cluster(settings(), environment) == Cluster(
        ("n2:26512", "n2:26513", "n10:26512", "login:26512"), 2, "Slurm"
    )
    del environment["SLURM_JOB_ID"]
    with pytest.raises(UserError, match=r"Slurm's environment variables are not usable \(KeyError: 'SLURM_JOB_ID'\)"):
        find_cluster(settings(), environment)


@pytest.mark.parametrize(
    ("values", "environment", "message"),
    [
        ({"worker_addresses": "a,b", "worker_index": 0}, {}, "'a' is no host:port"),
        ({"worker_addresses": "a:1,b:1"}, {}, "worker_index=-1: give each of the 2 workers its number, from 0 to 1"),
        ({"worker_addresses": "a:1,b:1", "worker_index": 2}, {}, "worker_index=2"),
        ({"worker_index": 0}, {}, "worker_index is given without config.runtime.worker_addresses"),
        ({}, {"TF_CONFIG": "{"}, "TF_CONFIG is not usable"),
        ({}, {"TF_CONFIG": "[]"}, "TF_CONFIG is not usable"),
        ({}, tf_config({"worker": ["a:1", "b:1"]}, "worker", 5), "no worker 5 in the cluster"),
        ({}, tf_config({"worker": ["a:1", "b:1"]}, "ps", 0), "no ps 0 in the cluster"),
    ],
)
def test_what_cannot_be_a_cluster(values, environment, message):
    with pytest.raises(UserError, match=message):
        find_cluster(settings(**values), environment)


@contextlib.contextmanager
def listening():
    with socket.create_server(("localhost", 0)) as server:
        yield f"localhost:{server.getsockname()[1]}"


def unused_address():
    with listening() as address:
        return address


class Notices(Logger):
    def __init__(self, after=lambda: None):
        self.texts, self._after = [], after

    def notice(self, text):
        self.texts.append(text)
        self._after()


def test_a_worker_listens_and_names_those_it_waits_for_until_they_listen(monkeypatch):
    monkeypatch.setattr(cluster, "_SECONDS_BETWEEN_NOTICES", 0.0)
    own, late = unused_address(), unused_address()
    with listening() as early, contextlib.ExitStack() as stack:

        def start_the_late_one():
            socket.create_connection(("localhost", int(own.rpartition(":")[2])), timeout=5).close()
            if len(logger.texts) == 2:
                stack.enter_context(socket.create_server(("localhost", int(late.rpartition(":")[2]))))

        logger = Notices(start_the_late_one)
        with joining(Cluster((early, own, late), 1, "TF_CONFIG"), logger):
            assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == [signal.SIG_DFL] * 2
        assert signal.getsignal(signal.SIGINT) is not signal.SIG_DFL
    assert logger.texts == [f"Waiting for worker 2 ({late}: Connection refused) to start."] * 2


def test_a_notice_names_four_workers():
    addresses = {index: f"h{index}:1" for index in range(1, 7)}
    assert cluster._describe_absent(addresses, dict.fromkeys(addresses, "refused")) == (
        "worker 1 (h1:1: refused), worker 2 (h2:1: refused), worker 3 (h3:1: refused), worker 4 (h4:1: refused) "
        "and 2 more"
    )


def test_an_address_that_another_process_has():
    with (
        listening() as taken,
        pytest.raises(UserError) as error,
        joining(Cluster((taken, "b:1"), 0, "Slurm"), Logger()),
    ):
        pass
    assert str(error.value) == (
        f"worker 0 cannot listen at its address {taken} (Slurm): Address already in use; end the process that does, or "
        f"give each worker a port and a number of its own"
    )


class Service:
    """The coordination service of processes that are threads here; `lost` raises as for a worker that ended."""

    def __init__(self):
        self._values, self._changed, self.lost = {}, threading.Condition(), False

    def set_config_key_value(self, key, value):
        with self._changed:
            self._values[key] = value
            self._changed.notify_all()

    def get_config_key_value(self, key, timeout_in_ms):
        with self._changed:
            if self.lost:
                raise tf.errors.UnavailableError(None, None, "a task died")
            if not self._changed.wait_for(lambda: key in self._values, timeout_in_ms / 1000):
                raise tf.errors.DeadlineExceededError(None, None, "timed out")
            return self._values[key]


@pytest.fixture
def service(monkeypatch):
    found = Service()
    monkeypatch.setattr(cluster.context, "context", lambda: found)
    monkeypatch.setattr(cluster, "_comparisons", itertools.repeat(0))
    return found


def compare(records):
    def one(index):
        try:
            check_same(index, len(records), records[index])
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(len(records)) as threads:
        return list(threads.map(one, range(len(records))))


def test_workers_that_are_the_same_go_on(service):
    assert compare([{"config.train.seed": 1, "config.phases.end": (1, 2)}] * 3) == [None] * 3


def test_all_workers_end_with_what_differs(service):
    records = [{"config.train.seed": 1, "--mode": "train", "--checkpoint": None} for _ in range(4)]
    records[1]["config.train.seed"] = 2
    records[2] |= {"config.train.seed": 3, "--checkpoint": "c"}
    expected = (
        "the workers were started differently: config.train.seed: 1 in worker 0, 2 in worker 1; --checkpoint: null in "
        'worker 0, "c" in worker 2: start all with the same command, data and installation'
    )
    assert compare(records) == [expected] * 4


def test_a_worker_with_other_code(service, monkeypatch):
    assert re.fullmatch(r"0\.\S+ [0-9a-f]{8}, TensorFlow 2\.20\.\d", cluster._describe_code())
    codes = iter(["1.0", "1.1"])
    monkeypatch.setattr(cluster, "_describe_code", lambda: next(codes))
    first, second = compare([{}, {}])
    assert first == second and re.search(r'the code: "1\.[01]" in worker 0, "1\.[01]" in worker 1', first)


def test_a_worker_that_ends_before_the_comparison(service):
    service.lost = True
    with pytest.raises(Interrupted, match="worker 1 lost another worker before training began; start all"):
        check_same(1, 2, {})
