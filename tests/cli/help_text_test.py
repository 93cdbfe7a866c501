import pytest

from electra_cli import main
from electra_cli.cli.help_text import FlagInfo, describe, help_text
from electra_cli.commands import export_checkpoint, finetune, import_checkpoint, plan, prepare, report
from electra_cli.config.fields import Field, Schema

COMMANDS = (main, prepare, plan, finetune, export_checkpoint, import_checkpoint, report)


def test_a_help(monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    flags = [
        FlagInfo("workdir", "DIR", "Directory of the run, which is made when it is not there."),
        FlagInfo("mode", "train|eval", "What to do.", "train", ("train", "eval")),
        FlagInfo("quiet", "", "Print less."),
    ]
    fields = {
        "train.num_steps": Field(1000, "Updates in the whole run, after which the rate is 0."),
        "model.width": Field(None, "Sizes.", value_type=int),
        "model.depth": Field(2, "Sizes."),
    }
    found = help_text(
        "\nDoes it.\n", flags, {"Required": ["workdir"]}, "Examples:\n  do", Schema(fields, "x.default_config")
    )
    assert (
        found
        == """\
Does it.

Required:
  --workdir=DIR               Directory of the run, which is made when
                              it is not there.

Other flags:
  --mode=train|eval           What to do. (default: train)
  --[no]quiet                 Print less.

Help:
  --help                      Print this text.
  --print_completion=bash|zsh|fish
                              Print a script for completing this command
                              in a shell.

Examples:
  do

Config keys with their defaults; override them with --config.SECTION.KEY=VALUE

config.train:
  num_steps = 1000                    Updates in the whole run, after
                                      which the rate is 0.

config.model:
  width = unset (int)
  depth = 2                           Sizes."""
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_every_flag_has_its_group_and_says_what_it_does(command):
    flags = describe(command.FLAGS)
    grouped = [name for names in command.GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(flag.name for flag in flags)
    assert all(len(flag.description) > 10 and not flag.description.startswith("<") for flag in flags)


def test_kinds_of_flags():
    flags = {flag.name: flag for flag in describe(prepare.FLAGS)}
    assert (flags["input"].value, flags["output_dir"].value, flags["vocab_file"].value) == ("PATH[,...]", "DIR", "FILE")
    assert (flags["seed"].value, flags["seed"].default) == ("N", "0")
    assert (flags["validation_fraction"].value, flags["validation_fraction"].default) == ("X", "0.01")
    assert (flags["packing"].value, flags["packing"].choices) == ("pairs|single|full", ("pairs", "single", "full"))
    assert (flags["lower_case"].value, flags["lower_case"].default, flags["overwrite"].default) == ("", "true", "")
