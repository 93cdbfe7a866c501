"""`--config` on a command line: a preset or file with overrides, parsed, and its mistakes told in a line each.

TensorFlow is not imported here.
"""

import ast
import os
import pathlib
import re
import shlex
import sys

import ml_collections
from absl import flags
from ml_collections import config_flags

from electra_cli.cli import app
from electra_cli.config import reference, resolution
from electra_cli.config.presets import PRETRAINING, Presets
from electra_cli.errors import UserError


def define(flag_values: flags.FlagValues, presets: Presets = PRETRAINING) -> None:
    """Declares `--config` and `--config.KEY` among the flags of a command."""
    config_flags.DEFINE_config_file(
        "config",
        help_string=f"Preset ({', '.join(presets.names())}) or config file. Any of its keys can be overridden: "
        "--config.SECTION.KEY=VALUE",
        lock_config=True,
        flag_values=flag_values,
    )


def given(values: flags.FlagValues, presets: Presets = PRETRAINING) -> ml_collections.ConfigDict:
    """Returns the config of parsed flags.

    Raises:
      UserError: none was given.
    """
    if values["config"].value is None:
        raise UserError(f"--config is missing: give a file or a preset ({', '.join(presets.names())})")
    return values["config"].value


def command(values: flags.FlagValues, presets: Presets = PRETRAINING) -> str:
    """Returns a command line with the config of parsed flags."""
    file = values["config"].config_filename
    name = pathlib.Path(file).stem
    shown = name if name in presets.names() and file == presets.path(name) else file
    overrides = [argument for argument in sys.argv[1:] if re.match(r"--?config\.", argument)]
    return shlex.join([os.path.basename(sys.argv[0]), f"--config={shown}", *overrides])


def read(presets: Presets = PRETRAINING) -> app.Config:
    """Returns what help and completion tell of presets and keys."""
    return app.Config(reference.entries(presets.module), presets.names(), presets.choices)


def parse(argv: list[str], flag_values: flags.FlagValues, presets: Presets = PRETRAINING) -> list[str]:
    """Parses the command line into `flag_values` and returns what are no flags.

    Raises:
      UserError: the config cannot be loaded, or an override names no key or has a value of another type.
    """
    argv = [_quote_tuple(argument, presets) for argument in _expand_preset(argv, presets)]
    # Overrides apply to the config wherever they stand on the command line.
    files = [argument for argument in argv if argument.startswith("--config=")]
    argv = [argv[0], *files, *(argument for argument in argv[1:] if argument not in files)]
    sys.argv = argv  # config_flags looks there for the overrides
    if files:
        keys = _load_config(files[-1], presets)
        for argument in argv:
            override = re.match(r"--?config\.([^=]+)", argument)
            if override and override[1] not in keys:
                raise UserError(
                    f"--config.{override[1]}: {resolution.describe_keys(presets.default_config(), override[1])}"
                )
    try:
        return flag_values(argv)
    except flags.IllegalFlagValueError as error:
        override = re.match(r"flag --config\.([^=]+)=([^:]*):", str(error))
        if override is None:
            raise
        described = resolution.describe_keys(presets.default_config(), override[1])
        raise UserError(f"--config.{override[1]}={override[2]}: {described}") from error


def _expand_preset(argv: list[str], presets: Presets) -> list[str]:
    """Writes `--config=small` and `--config small` as `--config=` and a file."""
    expanded: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument in ("--config", "-config"):
            argument = f"--config={next(arguments, '')}"
        name, equals, value = argument.partition("=")
        is_config = name in ("--config", "-config") and equals
        expanded.append(f"--config={presets.path(value)}" if is_config else argument)
    return expanded


def _quote_tuple(argument: str, presets: Presets) -> str:
    """Writes `--config.KEY=a,b` with quotes, `('a', 'b')`, where the key holds several values and they are text."""
    name, equals, value = argument.partition("=")
    key = re.fullmatch(r"--?config\.(.+)", name)
    if not equals or key is None or not isinstance(resolution.flatten(presets.default_config()).get(key[1]), tuple):
        return argument
    try:
        ast.literal_eval(value)
        return argument
    except (ValueError, SyntaxError):
        return f"{name}={tuple(part.strip() for part in value.split(',') if part.strip())!r}"


def _load_config(argument: str, presets: Presets) -> set[str]:
    """Loads the config of `--config=FILE` alone, so that what is wrong with it is told as such; returns its keys."""
    scratch = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=scratch, sys_argv=[sys.argv[0], argument])
    try:
        scratch([sys.argv[0], argument])
        keys = set(resolution.flatten(scratch["config"].value))
    # A config file is the user's program: whatever it raises is for the user to mend.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[-1]
        raise UserError(
            f"{argument} cannot be loaded ({type(error).__name__}: {reason}): give a Python file with get_config(), as "
            f"--print_config prints it, or a preset ({', '.join(presets.names())})"
        ) from error
    wrong = sorted(keys ^ set(resolution.flatten(presets.default_config())))
    if wrong:
        raise UserError(
            f"{argument}: get_config() must return {presets.origin}() with other values, but these "
            f"keys were added or are missing: {', '.join(wrong)}"
        )
    return keys
