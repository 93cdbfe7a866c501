import shlex

import pytest
from absl import flags

from electra_cli.cli.config_flag import ConfigFlag
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.errors import UserError


@pytest.mark.parametrize(
    ("argument", "key", "expected"),
    [
        ("--config.phases.data_dir=/data/128,/data/512", "phases.data_dir", ("/data/128", "/data/512")),
        ("--config.phases.data_dir=('a', 'b')", "phases.data_dir", ("a", "b")),
        ("--config.phases.num_steps=90,10", "phases.num_steps", (90, 10)),
        ("--config.eval.probes=/x/a b.tsv:text=0,label=1", "eval.probes", ("/x/a b.tsv:text=0", "label=1")),
        ("--config.eval.probes=", "eval.probes", ()),
        ("--config.data.dir=a,b", "data.dir", "a,b"),
    ],
)
def test_values_of_several_parts_need_no_quotes(argument, key, expected):
    assert parsed("--config=tiny", argument).config[key.split(".")[0]][key.split(".")[1]] == expected


@pytest.mark.parametrize("word", ["unset", "None"])
def test_a_preset_s_value_is_taken_away(word):
    key = "generator_num_layers"
    assert parsed("--config=modern_small").config.model[key] == 4
    assert parsed("--config=modern_small", f"--config.model.{key}={word}").config.model[key] is None
    assert (
        parsed("--config=modern_small", f"--config.model.{key}={word}", f"--config.model.{key}=2").config.model[key]
        == 2
    )
    with pytest.raises(UserError, match="generator_num_layers takes a whole number, such as 1000, or unset"):
        parsed("--config=modern_small", f"--config.model.{key}=none")
    with pytest.raises(UserError, match=r"num_layers takes a whole number, such as 1000$"):
        parsed("--config=modern_small", f"--config.model.num_layers={word}")


def test_keys_without_a_config_change_a_recorded_one():
    flag = ConfigFlag(flags.FlagValues(), PRETRAINING, is_optional=True)
    assert flag.parse(["program", "--config.data.dir=new", "--config.train.keep_checkpoints=7"]) == ["program"]
    with pytest.raises(UserError, match=r"--config is missing, and --config\.data\.dir needs one: give a preset"):
        flag.config  # noqa: B018
    recorded = PRETRAINING.default_config()
    recorded.train.num_steps = 77
    flag.override(recorded)
    assert (recorded.data.dir, recorded.train.keep_checkpoints, recorded.train.num_steps) == ("new", 7, 77)
    flag.parse(["program", "--config.train.zzz=1"])
    with pytest.raises(UserError, match=r"config\.train has no key 'zzz'"):
        flag.override(recorded)


def parsed(*arguments):
    """The config of a command line that holds nothing else."""
    flag = ConfigFlag(flags.FlagValues(), PRETRAINING)
    assert flag.parse(["program", *arguments]) == ["program"]
    return flag


def test_overrides_in_every_form(tmp_path):
    flag = parsed(
        "-config.train.num_steps", "7", "--config.model.remat", "--noconfig.train.histograms", "--config", "tiny",
        "--config.train.seed=1", "--config.train.seed=2", "--config.phases.data_dir=a,b",
    )  # fmt: skip
    config = flag.config
    assert (config.train.num_steps, config.model.remat, config.train.histograms, config.train.seed) == (
        7,
        True,
        False,
        2,
    )
    assert flag.file == PRETRAINING.path("tiny")
    command = flag.command("electra-pretrain")
    assert command.startswith("electra-pretrain --config=tiny --config.train.num_steps=7 --config.model.remat=true")
    assert parsed(*shlex.split(command)[1:]).config == config


def test_a_config_file_is_executed_once(tmp_path):
    file = tmp_path / "counted.py"
    file.write_text(
        "import pathlib\nfrom electra_cli.config import default_config\n\n"
        f"def get_config():\n    with open({str(tmp_path / 'runs')!r}, 'a') as stream:\n        stream.write('x')\n"
        "    return default_config()\n"
    )
    flag = parsed(f"--config={file}", "--config.train.num_steps=5")
    assert (tmp_path / "runs").read_text() == "x" and flag.config.train.num_steps == 5


def test_a_config_file_knows_where_it_is_and_may_define_dataclasses(tmp_path):
    file = tmp_path / "my config"
    file.write_text(
        "from __future__ import annotations\n"
        "import dataclasses, pathlib\n"
        "from electra_cli.config import default_config\n"
        "@dataclasses.dataclass\nclass Sizes:\n    layers: int = 3\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.model.num_layers = Sizes().layers\n"
        "    config.init.checkpoint = str(pathlib.Path(__file__).parent)\n"
        "    return config\n"
    )
    config = parsed(f"--config={file}").config
    assert (config.model.num_layers, config.init.checkpoint) == (3, str(tmp_path))
