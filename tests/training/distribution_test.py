import pytest

from electra_cli.config import default_config
from electra_cli.errors import UserError
from electra_cli.training.cluster import Cluster
from electra_cli.training.distribution import _choose


def settings(**values):
    runtime = default_config().runtime
    runtime.update(values)
    return runtime


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
