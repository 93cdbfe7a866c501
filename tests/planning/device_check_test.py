"""Checks of devices: on one CPU, on two logical ones with faults, and on devices that are not here."""

import json
import math
import sys
import types

import pytest
import tensorflow as tf

from electra_cli.config.pretraining import default_config
from electra_cli.errors import UserError
from electra_cli.planning import device_check
from electra_cli.planning.device_check import _compare, _find_devices, _Result, check_devices
from electra_cli.planning.plan import make_plan
from tests import forking

NAMES = ["devices", "float32", "bfloat16", "float16", "repetition", "all-reduce", "memory", "speed"]
SMALL = [
    f"--config.{key}"
    for key in (
        "objective.name=mlm", "model.vocab_size=300", "model.num_layers=1", "model.hidden_size=32",
        "model.embedding_size=16", "model.intermediate_size=64", "data.max_seq_length=16", "train.global_batch_size=8",
        "optimizer.warmup_steps=0", "model.hidden_dropout=0.1",
    )
]  # fmt: skip
# Another loss among the stored values of bfloat16; and a weight that changes within the second run that is measured,
# whose steps are the fifth that are built.
FAULTS = """
import json, pathlib, sys
from electra_cli.main import main
from electra_cli.planning import device_check, measuring
stored = json.loads(device_check.STORED_FILE.read_text())
stored["mixed_bfloat16"]["values"]["rtd_loss"][1] *= 1.05
device_check.STORED_FILE = pathlib.Path(sys.argv.pop(1))
device_check.STORED_FILE.write_text(json.dumps(stored))
build, make, built = measuring.Steps.__init__, measuring.Steps.make, []
def build_and_count(steps, *arguments):
    built.append(steps)
    build(steps, *arguments)
def make_with_fault(steps):
    if len(built) == 5 and len(steps.seconds) == 3:
        weight = steps.model.trainable_variables[0]
        weight.assign(1.01 * weight)
    return make(steps)
measuring.Steps.__init__, measuring.Steps.make = build_and_count, make_with_fault
main()
"""


@pytest.mark.slow
def test_a_cpu_computes_what_is_stored_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "electra_cli.main", "--check_devices", "--json", *SMALL]
    result = forking.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    content = json.loads(result.stdout)
    checks = {check["name"]: check for check in content["checks"]}
    assert content["ok"] and list(checks) == NAMES
    assert [check["ok"] for check in checks.values()] == [True] * 5 + [None] * 3
    assert checks["devices"]["values"]["tensorflow"] == tf.__version__
    assert checks["float32"]["values"]["difference"] <= checks["float32"]["values"]["tolerance"] == 1e-3
    assert checks["float32"]["values"]["sample_distance"] == 0
    assert checks["bfloat16"]["values"]["tolerance"] == 0.02 and checks["float16"]["values"]["difference"] < 1e-2
    assert checks["repetition"]["text"] == "two runs of 10 steps are equal to the bit"
    assert checks["repetition"]["values"] == {"difference": 0.0, "tolerance": 0.0, "equal_weights": True}
    assert checks["memory"]["values"]["peak_bytes"] is None and checks["memory"]["values"]["planned_bytes"] > 1e5
    assert checks["speed"]["values"]["batch"] == 8 and checks["speed"]["values"]["step_seconds"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_devices_compute_as_one_and_faults_are_reported(tmp_path):
    command = [sys.executable, "-c", FAULTS, tmp_path / "stored.json", "--check_devices", *SMALL]
    result = forking.run(
        [*command, "--config.runtime.logical_cpus=2", "--config.runtime.jit_compile=false"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1, result.stderr
    rows = [line.split(maxsplit=2) for line in result.stdout.splitlines()]
    verdicts = ["ok", "ok", "FAILED", "ok", "FAILED", "ok", "-", "-"]
    assert [row[:2] for row in rows] == [list(pair) for pair in zip(NAMES, verdicts, strict=True)]
    assert rows[5][2].startswith("2 logical CPUs compute as one: ")
    first, second = result.stderr.splitlines()
    assert "check failed: bfloat16: not as on a CPU: rtd_loss of step 2 is 0." in first
    assert "(by 0.05; 0.02 is allowed)" in first and "try another driver" in first
    assert "check failed: repetition: two runs of 10 steps differ: " in second and "of step " in second
    assert "other weights: the memory or a processor may be faulty" in second


def result_of(loss, weights=("a",)):
    return _Result({"masked_lm_loss": [2.0, loss]}, [], list(weights), [1.0, 1.0])


def test_the_largest_difference_is_that_of_a_value_to_itself():
    expected = {"masked_lm_loss": [7.0, 6.0], "gradient_norm": [2.0, 0.0]}
    ok, text, values = _compare({"masked_lm_loss": [7.0, 6.006], "gradient_norm": [2.001, 0.0]}, expected, 1e-2)
    assert ok and values == {"difference": pytest.approx(1e-3), "tolerance": 1e-2}
    assert text == "masked_lm_loss of step 2 is 6.006, not 6 (by 0.001; 0.01 is allowed)"
    assert _compare(expected, expected, 0.0)[:2] == (True, "equal losses and gradients")
    ok, text, values = _compare({**expected, "gradient_norm": [2.0, math.nan]}, expected, 1e-2)
    assert not ok and values["difference"] is None and text.startswith("gradient_norm of step 2 is nan, not 0")


@pytest.mark.parametrize(
    ("devices", "again", "ok"),
    [
        ("CPU", result_of(1.0), True),
        ("CPU", result_of(1.0, "b"), False),
        ("CPU", result_of(1.0 + 1e-6), False),
        ("1 GPU", result_of(1.0, "b"), True),
        ("1 GPU", result_of(1.0 + 1e-6, "b"), True),
        ("1 GPU", result_of(1.02, "b"), False),
    ],
)
def test_only_cpus_must_repeat_steps_to_the_bit(monkeypatch, devices, again, ok):
    monkeypatch.setattr(device_check, "_make_steps", lambda *_: again)
    check = device_check._check_repetition(default_config(), types.SimpleNamespace(devices=devices), result_of(1.0))
    assert check.ok is ok and ("may be faulty" in check.text) is not ok


def test_what_is_stored_for_one_device_is_not_compared_where_it_cannot_be_divided():
    check = device_check._check_values(
        "float32", types.SimpleNamespace(strategy=None, devices="64 TPU cores", num_replicas=64)
    )
    assert (check.name, check.ok, check.text) == ("float32", None, "32 examples cannot be divided over 64 TPU cores")


def test_replicas_that_differ_from_one_another_or_from_one_device(monkeypatch):
    runtime = types.SimpleNamespace(devices="2 GPUs", num_replicas=2)

    def check(weights, alone, other=1.0):
        monkeypatch.setattr(device_check, "_make_steps", lambda *_: result_of(other))
        return device_check._check_replicas(default_config(), runtime, alone, result_of(1.0, weights))

    assert check("aa", None).ok and check("aa", runtime).ok
    assert "replicas have different weights after 10 steps" in check("ab", runtime).text
    failed = check("aa", None, other=0.5)
    assert failed.ok is False and "NCCL_P2P_DISABLE=1" in failed.text and failed.values["difference"] == 1.0


def test_devices_that_tensorflow_does_not_see(monkeypatch):
    def find(paths, programs=(), visible="0", libtpu=None, loadable=()):
        monkeypatch.setattr(device_check.glob, "glob", lambda pattern: [p for p in paths if p[:9] == pattern[:9]])
        monkeypatch.setattr(device_check.shutil, "which", lambda name: name if name in programs else None)
        monkeypatch.setattr(device_check, "_version", lambda name: libtpu)
        monkeypatch.setattr(device_check, "_is_loadable", lambda name: name.split(".")[0] in loadable)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return _find_devices()

    assert find([]).ok
    none = find(["/dev/nvidia0"])
    assert none.ok is False and "/dev/nvidia0 is here, but TensorFlow sees no GPU: libcudart.so.12, " in none.text
    assert "pip install 'electra-pretrain[gpu]'" in none.text and none.values["nvidia"] == ["/dev/nvidia0"]
    all_of_them = [f"lib{name.split('.')[0]}" for name in device_check._CUDA_LIBRARIES]
    assert "the driver cannot be used" in find([], programs=["nvidia-smi"], loadable=all_of_them).text
    assert find(["/dev/nvidia0"], visible="-1").ok
    tpu = find(["/dev/accel0"])
    assert tpu.ok is False and "libtpu is not: install the extra 'tpu' (docs/several_machines.md)" in tpu.text
    assert "TPU (/dev/accel0), libtpu 0.0.31" in find(["/dev/accel0"], libtpu="0.0.31").text


def test_libraries_of_the_extra_are_found_next_to_tensorflow(monkeypatch, tmp_path):
    monkeypatch.setattr(tf, "__file__", str(tmp_path / "tensorflow" / "__init__.py"))
    assert device_check._is_loadable("libc.so.6") and not device_check._is_loadable("libcudnn.so.9")
    (tmp_path / "nvidia/cudnn/lib").mkdir(parents=True)
    (tmp_path / "nvidia/cudnn/lib/libcudnn.so.9").touch()
    assert device_check._is_loadable("libcudnn.so.9") and not device_check._is_loadable("libcudart.so.12")


def test_nothing_more_is_checked_without_the_devices(monkeypatch):
    config = default_config()
    monkeypatch.setattr(device_check, "_find_devices", lambda: device_check.Check("devices", False, "no GPU"))
    assert [check.text for check in check_devices(make_plan(config))] == ["no GPU"]
    config.runtime.worker_addresses, config.runtime.worker_index = "a:1,b:1", 0
    with pytest.raises(UserError, match=r"^--check_devices checks one machine: run it on each, without config\.runt"):
        list(check_devices(make_plan(config)))
