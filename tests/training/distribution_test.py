import types

import pytest
import tensorflow as tf

from electra_cli.config import default_config
from electra_cli.data.input_pipeline import WHOLE, pipeline_options
from electra_cli.errors import UserError
from electra_cli.training.cluster import Cluster
from electra_cli.training.distribution import Runtime, _check_compute_capability, _choose


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


@pytest.mark.parametrize(
    ("capability", "built", "fits"),
    [
        ((9, 0), ["sm_60", "compute_90"], True),
        ((10, 0), ["sm_60", "compute_90"], True),
        ((12, 0), ["sm_60", "compute_90"], False),
        ((12, 1), ["sm_90a", "compute_120"], True),
    ],
)
def test_a_gpu_that_tensorflow_has_no_code_for(monkeypatch, capability, built, fits):
    gpu, details = types.SimpleNamespace(name="GPU:0"), {"compute_capability": capability, "device_name": "RTX"}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: [gpu])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: details)
    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: {"cuda_compute_capabilities": built})
    if fits:
        _check_compute_capability()
        return
    with pytest.raises(UserError) as error:
        _check_compute_capability()
    assert str(error.value) == (
        f"GPU:0 (RTX) has compute capability 12.0, for which TensorFlow {tf.__version__} has no code (it has: sm_60, "
        f"compute_90): install a TensorFlow built for it, or hide it: CUDA_VISIBLE_DEVICES=-1 uses the CPU, another "
        f"number another GPU"
    )


def test_the_one_cpu_takes_datasets_as_they_are():
    """An iterator of a strategy tunes itself, and closing it may wait for that."""
    made = []

    def make(part):
        made.append((part, tf.data.Dataset.range(4).batch(part.size(2)).with_options(pipeline_options())))
        return made[-1][1]

    assert Runtime(tf.distribute.OneDeviceStrategy("CPU:0"), False, "").distribute(make) is made[0][1]
    assert made[0][0] == WHOLE
    assert not made[0][1].options().autotune.enabled
