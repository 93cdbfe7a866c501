import json

import pytest

from electra_cli.config import default_config
from electra_cli.errors import UserError
from electra_cli.training.distribution import Cluster, _choose, find_cluster


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


CLUSTER = Cluster(("a:1", "b:1"), 0, "TF_CONFIG")


@pytest.mark.parametrize(
    ("values", "cluster", "num_gpus", "environment", "expected"),
    [
        ({}, None, 0, {}, ("one_device", "there is one")),
        ({}, None, 1, {}, ("one_device", "there is one")),
        ({}, None, 2, {}, ("mirrored", "several GPUs are there")),
        ({"logical_cpus": 2}, None, 0, {}, ("mirrored", "config.runtime.logical_cpus asks for several")),
        ({}, CLUSTER, 4, {}, ("multi_worker_mirrored", "TF_CONFIG names 2 workers")),
        ({}, None, 0, {"TPU_NAME": "t"}, ("tpu", "TPU_NAME names one")),
        ({"tpu": "t"}, None, 0, {}, ("tpu", "config.runtime.tpu names one")),
        ({"strategy": "mirrored"}, None, 0, {}, ("mirrored", "as asked")),
        ({"strategy": "multi_worker_mirrored"}, CLUSTER, 0, {}, ("multi_worker_mirrored", "as asked")),
    ],
)
def test_what_auto_picks_and_why(monkeypatch, values, cluster, num_gpus, environment, expected):
    monkeypatch.setattr("os.environ", environment)
    assert _choose(settings(**values), cluster, num_gpus) == expected


def test_strategies_that_do_not_fit_the_cluster():
    with pytest.raises(UserError, match="strategy=multi_worker_mirrored, but nothing names several workers"):
        _choose(settings(strategy="multi_worker_mirrored"), None, 0)
    with pytest.raises(
        UserError, match=r"strategy=mirrored uses one process, but TF_CONFIG names 2: set the key to auto"
    ):
        _choose(settings(strategy="mirrored"), CLUSTER, 0)
