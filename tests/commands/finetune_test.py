"""The command line of electra-finetune, as far as it ends before TensorFlow is imported."""

import importlib
import subprocess
import sys

import pytest

from electra_cli.commands import finetune
from electra_cli.errors import UserError
from tests.cli_test import assert_user_error, call

MODULE = "electra_cli.commands.finetune"
CONFIG = ["--config=classification", "--config.data.train=t.tsv"]


def test_help_does_not_import_tensorflow():
    shown = call(MODULE, "--help").stdout
    assert "Usage: " in shown and "Preset (classification, glue" in shown and "seeds = (0,)" in shown
    code = f"import sys, {MODULE}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_mistake_is_one_line_and_exit_code_2():
    assert_user_error(call(MODULE, *CONFIG, "--workdir=w"), "--init is missing: give a workdir of electra-pretrain")
    forgotten = "--config is missing, and --config.data.train needs one: give a preset or a file"
    assert_user_error(call(MODULE, "--config.data.train=t.tsv", "--workdir=w", "--init=r"), forgotten)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (CONFIG, "--workdir is missing"),
        (["--workdir=w", "--init=r"], "--config is missing: give a file or a preset (classification, glue"),
        ([*CONFIG, "--workdir=w", "--init=random"], "--init=random needs --like=DIR: a workdir or export"),
        ([*CONFIG, "--workdir=w", "--init=r", "--like=l"], "--like=l is read with --init=random only: leave it out"),
        ([*CONFIG, "--workdir=w", "--init=r", "--output=o"], "--output is read with --predict only"),
        ([*CONFIG, "--workdir=w", "--init=r", "--seed=1"], "--seed is read with --predict only"),
        (["--workdir=w", "--predict=f"], "--output is missing: give the file for the predictions"),
        (["--workdir=w", "--predict=f", "--output=o", "--init=r"], "--init is not read with --predict"),
        (["--workdir=w", "--predict=f", "--output=o", *CONFIG], "--config is not read with --predict"),
        (["--workdir=w", "--predict=f:txt=a", "--output=o"], "'txt=a' is none of what may follow a file, each once"),
        (
            ["--workdir=w", "--predict=f:format=xls", "--output=o"],
            "format must be one of tsv, csv, jsonl, conll, conllu, squad",
        ),
        (["--config=small", "--workdir=w"], "no such file and no preset of that name; presets: classification, glue"),
        ([*CONFIG, "--config.train.num_epoch=3"], "has no key 'num_epoch'; did you mean config.train.num_epochs?"),
        ([*CONFIG, "--config.train.num_epochs=x"], "config.train.num_epochs takes a whole number"),
        (["--config=classification", "--workdir=w", "--init=r"], "config.data.train='': give the file"),
        ([*CONFIG, "--config.train.seeds=(1,1)", "--workdir=w", "--init=r"], "a seed is there twice"),
    ],
)
def test_mistakes_in_the_command_line(arguments, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    command = importlib.reload(finetune)  # flags of a config are declared when they are given
    with pytest.raises(UserError) as error:
        command.parse_flags(["electra-finetune", *arguments])
        command._main(command.FLAGS)
    assert message in str(error.value)
