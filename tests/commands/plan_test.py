"""`electra-plan` as a user calls it."""

import json
import subprocess
import sys

import pytest

from tests import forking
from tests.cli.app_test import PLAN, assert_user_error, call, call_and_time


def test_a_plan_is_fast_and_does_not_import_tensorflow():
    result, seconds = call_and_time(PLAN, "--config=large", "--config.runtime.precision=mixed_bfloat16")
    assert result.returncode == 0 and result.stderr == ""
    assert "training builds 354,655,291" in result.stdout
    assert seconds < 3.0
    code = f"""import sys, atexit, os
sys.argv = ["x", "--config=tiny"]
atexit.register(lambda: os._exit(7 if "tensorflow" in sys.modules else 0))
import {PLAN} as plan
plan.main()"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_json_with_data(data_dir):
    flags = [f"--config.data.dir={data_dir}", "--config.data.max_seq_length=32", "--json"]
    result = call(PLAN, "--config=tiny", *flags)
    found = json.loads(result.stdout)
    assert found["config"] == "tiny" and found["measured"] is None
    assert found["phases"][0]["num_epochs"] > 1 and not found["vocab_size_is_assumed"]


def test_help_has_an_example():
    result = call(PLAN, "--help")
    assert result.returncode == 0
    assert "--config=small --measure" in result.stdout and "  num_steps = 1000000  " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "--config is missing: give a file or a preset (base, large"),
        (["--config=smal"], "did you mean small?"),
        (["--config=small", "--config.train.num_stepz=3"], "did you mean config.train.num_steps?"),
        (["--config=small", "--config.data.dir=/nowhere"], "config.data.dir=/nowhere: no such directory"),
        (
            ["--config=small", "--config.model.hidden_size=255"],
            "must be a multiple of config.model.num_attention_heads=4",
        ),
        (["--config=small", "--mesure"], "there is no flag --mesure; did you mean --measure?"),
        (["--config=small", "--config.phases.num_steps=(5,6)"], "are 11 steps together but config.train.num_steps"),
    ],
)
def test_mistakes(arguments, part):
    assert_user_error(call(PLAN, *arguments), part)


def test_a_directory_without_data(tmp_path):
    assert_user_error(call(PLAN, "--config=small", f"--config.data.dir={tmp_path}"), "run electra-prepare first")


@pytest.mark.slow
def test_measure(tmp_path):
    (tmp_path / "narrow.py").write_text(
        "from electra_cli.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.model.hidden_size, config.model.num_layers, config.data.max_seq_length = 64, 1, 16\n"
        "    config.model.vocab_size, config.train.num_steps, config.train.global_batch_size = 500, 1000, 8\n"
        "    return config\n"
    )
    command = [sys.executable, "-m", PLAN, f"--config={tmp_path}/narrow.py", "--measure", "--json"]
    result = forking.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    measured = found["measured"]["measured"]
    assert measured["num_steps"] == 20 and found["measured"]["batch"] == 8
    assert 0 < measured["step_seconds"] < measured["first_step_seconds"]
    # The time here is what was measured.
    here = next(row for row in found["devices"] if row["device"].startswith("CPU here") and row["num_devices"] == 1)
    assert here["seconds"] == pytest.approx(1000 * measured["step_seconds"], rel=0.01)
