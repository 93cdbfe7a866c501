import importlib.util
import json
import os
import subprocess
import sys
import types

import pytest

from electra_cli.config import default_config
from electra_cli.config.resolution import resolve
from electra_cli.errors import UserError
from electra_cli.loggers import wandb_run
from electra_cli.loggers.lines import Lines
from electra_cli.workdir.workdir import Workdir
from tests.cli.app_test import PRETRAIN, assert_user_error


class FakeRun:
    """Takes steps in ascending order only, as the real one."""

    def __init__(self, run_id, step):
        self.id, self.url, self.step, self.rows, self.exit_code = run_id, None, step, {}, None

    def log(self, values, step):
        assert step >= self.step
        self.step = step
        self.rows.setdefault(step, {}).update(values)

    def finish(self, exit_code):
        self.exit_code = exit_code


class FakeError(Exception):
    pass


@pytest.fixture
def fake(monkeypatch):
    module = types.SimpleNamespace(runs=[], arguments=[], errors=types.SimpleNamespace(Error=FakeError), refuse=None)
    module.Settings = lambda **settings: settings

    def init(**arguments):
        if module.refuse:
            raise FakeError(module.refuse)
        module.arguments.append(arguments)
        last = max((run.step for run in module.runs if run.id == arguments["id"]), default=0)
        module.runs.append(FakeRun(arguments["id"] or f"id-{len(module.runs)}", last))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.fixture
def config():
    config = default_config()
    config.data.dir = "data"
    return resolve(config, 100)


def test_lines_are_mirrored_and_a_run_goes_on_under_its_id(fake, config, tmp_path):
    path, lines = str(tmp_path / "run"), []
    settings = {"wandb_project": "project", "config": config}
    with (
        pytest.raises(RuntimeError),
        Workdir(path) as workdir,
        workdir.recording(Lines(lines.append), **settings) as logger,
    ):
        logger.metrics("train", 10, {"rtd_auc": 0.5}, "train 10")
        logger.metrics("validation", 10, {"rtd_auc": 0.6}, "validation 10")
        logger.metrics("train", 20, {"rtd_auc": 0.7}, "train 20")
        raise RuntimeError
    assert fake.runs[0].rows == {10: {"train/rtd_auc": 0.5, "validation/rtd_auc": 0.6}, 20: {"train/rtd_auc": 0.7}}
    assert fake.runs[0].exit_code == 1
    first = "Weights & Biases: project project, run id-0, offline"
    assert lines == [first, "train 10", "validation 10", "train 20"]
    with Workdir(path) as workdir, workdir.recording(**settings) as logger:
        logger.metrics("train", 20, {"rtd_auc": 0.7}, "")
        logger.metrics("train", 10, {"rtd_auc": 0.5}, "")  # computed again: it is there already
        logger.metrics("train", 30, {"rtd_auc": 0.8}, "")
    assert fake.runs[1].id == "id-0" and fake.runs[1].exit_code == 0
    assert fake.runs[1].rows == {20: {"train/rtd_auc": 0.7}, 30: {"train/rtd_auc": 0.8}}
    assert [arguments["id"] for arguments in fake.arguments] == [None, "id-0"]
    assert fake.arguments[0]["name"] == "run" and fake.arguments[0]["dir"] == path
    assert fake.arguments[0]["config"]["train.num_steps"] == 1_000_000
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6


def test_another_project_is_another_run(fake, config, tmp_path):
    for project in ("a", "b"):
        wandb_run.WandbRun(project, str(tmp_path), config, lambda _: None)
    assert [arguments["id"] for arguments in fake.arguments] == [None, None]
    assert json.loads((tmp_path / "wandb.json").read_text()) == {"project": "b", "id": "id-1"}


def test_workers_that_only_read_mirror_nothing(fake, config, tmp_path):
    workdir = Workdir(str(tmp_path), is_writer=False)
    with workdir, workdir.recording(wandb_project="project", config=config) as logger:
        logger.metrics("train", 10, {"rtd_auc": 0.5}, "")
    assert fake.runs == [] and list(tmp_path.iterdir()) == []


def test_what_weights_and_biases_refuses_is_told_in_a_line(fake, config, tmp_path):
    fake.refuse = "No API key configured.\nUse wandb login"
    with pytest.raises(UserError, match=r"--wandb_project=p: .*\(No API key configured\.\): run wandb login, or"):
        wandb_run.WandbRun("p", str(tmp_path), config)
    (tmp_path / "wandb.json").write_text("{")
    with pytest.raises(UserError, match=r"wandb\.json is damaged: remove it to begin a new run"):
        wandb_run.WandbRun("p", str(tmp_path), config)


def test_mistakes_on_the_command_line(tmp_path):
    flags = ["--config=tiny", "--config.data.dir=data", f"--workdir={tmp_path}", "--wandb_project=p"]
    code = f"import sys, runpy; sys.modules['wandb'] = None; runpy.run_module({PRETRAIN!r}, run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, timeout=300)
    assert_user_error(result, "--wandb_project needs Weights & Biases: pip install 'electra-pretrain[wandb]'")
    result = subprocess.run(
        [sys.executable, "-m", PRETRAIN, *flags, "--mode=eval"], capture_output=True, text=True, timeout=300
    )
    assert_user_error(result, "--wandb_project is not read by --mode=eval: leave it out")


def test_a_directory_of_that_name_is_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    with pytest.raises(UserError, match="only a directory 'wandb' is found here: pip install"):
        wandb_run.import_wandb()


RECORD_TWICE = """
import sys, time
import wandb  # beside TensorFlow's thousands of modules this takes half a minute
from electra_cli.config import default_config
from electra_cli.config.resolution import resolve
from electra_cli.workdir.workdir import Workdir

config = default_config()
config.data.dir = "data"
for step in (10, 20):
    with Workdir(sys.argv[1]) as workdir:
        with workdir.recording(wandb_project="project", config=resolve(config, 100)) as logger:
            logger.metrics("train", step, {"rtd_auc": 0.5}, "")
    print(open(f"{sys.argv[1]}/wandb.json").read())
    time.sleep(1)  # it names a directory by the second in which it begins
"""


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("wandb"), reason="wandb is not installed")
def test_the_real_package_offline(tmp_path):
    command = [sys.executable, "-c", RECORD_TWICE, str(tmp_path)]
    environment = {**os.environ, "WANDB_MODE": "offline"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    first, second = (json.loads(line)["id"] for line in result.stdout.splitlines() if line.startswith("{"))
    assert first == second
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{first}/run-{first}.wandb"))) == 2
