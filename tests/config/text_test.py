import json
import subprocess
import sys

from electra_cli.config import default_config
from electra_cli.config.fields import flatten
from electra_cli.config.text import show, to_json
from electra_cli.data.source import read_run
from tests.cli.app_test import PRETRAIN, assert_user_error, call, call_and_time
from tests.conftest import small_config


def shown(config, form="text", title="title"):
    return show(read_run(config, needs_data=False), form, title)


def load(path):
    scope = {}
    exec(path.read_text(), scope)
    return scope["get_config"]()


def test_a_config_file_comes_back_as_it_was(data_dir, tmp_path):
    config = small_config(data_dir)
    config.phases.num_steps, config.phases.learning_rate = (4, 8), (1e-3, 5e-4)
    config.runtime.tpu, config.model.generator_num_layers = 'a "name"', 3
    (tmp_path / "saved.py").write_text(shown(config, "text", 'of """anything"""\\'))
    assert flatten(load(tmp_path / "saved.py")) == flatten(config)
    text = (tmp_path / "saved.py").read_text()
    assert "\n    config.train.num_steps = 12  # default: 1000000\n" in text
    assert "\n    config.data.mask_prob = 0.15\n" in text
    # Of 32 tokens 15 % are masked, rounded as the original does; the vocabulary is the data's.
    assert "\n    # derived.max_predictions_per_seq = 4\n" in text and "\n    # derived.vocab_size = 160\n" in text
    assert "\n    # derived.generator_hidden_size = 8\n" in text


def test_without_data():
    config = default_config()
    text = shown(config)
    assert '    config.data.dir = ""\n' in text and "derived.vocab_size" not in text and "default:" not in text
    config.train.num_steps = 10
    assert "\n# Note: config.optimizer.warmup_steps=10,000 is longer than the run of 10 steps" in shown(config)


def test_json():
    config = default_config()
    config.train.num_steps = 20_000
    found = json.loads(shown(config, "json"))
    assert found["changed"] == {"train.num_steps": {"default": 1_000_000, "value": 20_000}}
    assert found["config"]["train"]["num_steps"] == 20_000
    assert found["config"]["derived"]["max_predictions_per_seq"] == 19
    assert json.loads(to_json(config))["config"].keys() == set(config.keys())


def test_the_command(tmp_path):
    result, seconds = call_and_time(PRETRAIN, "--config=tiny", "--print_config", "--config.train.num_steps=400")
    assert seconds < 5  # 0.3 on an idle machine
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith('"""main.py --config=tiny --config.train.num_steps=400"""\n')
    (tmp_path / "saved.py").write_text(result.stdout)
    again = call(PRETRAIN, f"--config={tmp_path / 'saved.py'}", "--print_config=json")
    assert json.loads(again.stdout)["config"]["train"]["num_steps"] == 400
    code = f"""import sys, atexit, os
sys.argv = ["x", "--config=tiny", "--print_config"]
atexit.register(lambda: os._exit(7 if "tensorflow" in sys.modules else 0))
import {PRETRAIN} as main
main.main()"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    assert_user_error(call(PRETRAIN, "--config=tiny", "--print_config=yaml"), "must be one of text, json")


def test_a_pipe_that_is_closed_ends_it_quietly():
    command = f"{sys.executable} -m {PRETRAIN} --config=tiny --print_config | head -1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert result.stdout.splitlines()[0] == '"""main.py --config=tiny"""' and result.stderr == ""
