"""`electra-pretrain`: flags in, one call of the training library."""

import os
import re
import signal
import sys

from absl import flags
from ml_collections import config_flags

from electra_cli import cli, config
from electra_cli.errors import UserError

FLAGS = flags.FlagValues()
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="Preset or config file. Any of its keys can be overridden: --config.train.num_steps=1000",
    lock_config=True,
    flag_values=FLAGS,
)
flags.DEFINE_string("workdir", None, "Directory of the run: checkpoints, metrics, config.", flag_values=FLAGS)
flags.DEFINE_enum(
    "mode",
    "train_and_eval",
    ["train", "eval", "train_and_eval", "replay"],
    "Train, evaluate the newest checkpoint, train with evaluations, or compute the last step whose loss or gradient "
    "was infinite or NaN again, to see why.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "checkpoint",
    None,
    "Checkpoint, such as run/checkpoints/ckpt-500, or a directory whose newest is taken: what --mode=eval evaluates, "
    "and whose weights a run without checkpoints of its own starts from.",
    flag_values=FLAGS,
)

USAGE = """
Pre-trains an ELECTRA text encoder on data of electra-prepare. The same command again goes on where the run stopped.

Usage: {program} --config=PRESET_OR_FILE --config.data.dir=DATA --workdir=RUN [--mode=MODE]
       [--checkpoint=PATH] [--config.KEY=VALUE ...]
"""
EXIT_CODES = (
    "Exit codes: 0 done, 2 a mistake in the command or its files, 75 stopped by a signal and saved, 1 a defect."
)


def _main(values: flags.FlagValues) -> None:
    if values["config"].value is None:
        raise UserError(f"--config is missing: give a file or a preset ({', '.join(config.preset_names())})")
    if not values.workdir:
        raise UserError("--workdir is missing: give the directory of the run")
    settings = values["config"].value
    config.check(settings)

    _end_when_stopped()
    from electra_cli.training import loop  # noqa: PLC0415  (imports TensorFlow, which takes seconds)

    def say(line: str) -> None:
        print(line, flush=True)

    if values.mode == "eval":
        loop.evaluate(settings, values.workdir, say, checkpoint=values.checkpoint)
    elif values.mode == "replay":
        if values.checkpoint:
            raise UserError("--checkpoint is not read by --mode=replay: leave it out")
        loop.replay_step(settings, values.workdir, say)
    else:
        with_evaluation = values.mode == "train_and_eval"
        loop.train(settings, values.workdir, with_evaluation=with_evaluation, say=say, checkpoint=values.checkpoint)


def _end_when_stopped() -> None:
    """Makes SIGTERM and Ctrl-C end the process at once; while it trains, training takes them over, to save first."""

    def end(number: int, _: object) -> None:
        name = signal.Signals(number).name
        os.write(2, f"electra-pretrain: stopped by {name}; the same command begins where the last save was\n".encode())
        os._exit(cli.EXIT_INTERRUPTED)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line into `FLAGS` and returns what are no flags.

    Raises:
      UserError: the config cannot be loaded, or an override names no key or has a value of another type.
    """
    argv = _expand_preset(argv)
    # Overrides apply to the config wherever they stand on the command line.
    files = [argument for argument in argv if argument.startswith("--config=")]
    argv = [argv[0], *files, *(argument for argument in argv[1:] if argument not in files)]
    sys.argv = argv  # config_flags looks there for the overrides
    if files:
        keys = _load_config(files[-1])
        for argument in argv:
            override = re.match(r"--?config\.([^=]+)", argument)
            if override and override[1] not in keys:
                raise UserError(f"--config.{override[1]}: {config.describe_keys(config.default_config(), override[1])}")
    try:
        return FLAGS(argv)
    except flags.IllegalFlagValueError as error:
        override = re.match(r"flag --config\.([^=]+)=([^:]*):", str(error))
        if override is None:
            raise
        described = config.describe_keys(config.default_config(), override[1])
        raise UserError(f"--config.{override[1]}={override[2]}: {described}") from error


def _expand_preset(argv: list[str]) -> list[str]:
    """Writes `--config=small` and `--config small` as `--config=` and a file."""
    expanded: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument in ("--config", "-config"):
            argument = f"--config={next(arguments, '')}"
        name, equals, value = argument.partition("=")
        is_config = name in ("--config", "-config") and equals
        expanded.append(f"--config={config.preset_path(value)}" if is_config else argument)
    return expanded


def _load_config(argument: str) -> set[str]:
    """Loads the config of `--config=FILE` alone, so that what is wrong with it is told as such; returns its keys."""
    scratch = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=scratch, sys_argv=[sys.argv[0], argument])
    try:
        scratch([sys.argv[0], argument])
        keys = set(config.flatten(scratch["config"].value))
    # A config file is the user's program: whatever it raises is for the user to mend.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[-1]
        raise UserError(f"{argument} cannot be loaded: {type(error).__name__}: {reason}") from error
    wrong = sorted(keys ^ set(config.flatten(config.default_config())))
    if wrong:
        raise UserError(
            f"{argument}: get_config() must return electra_cli.config.default_config() with other values, but these "
            f"keys were added or are missing: {', '.join(wrong)}"
        )
    return keys


def main() -> None:
    """Runs the command line."""
    presets = "Presets: " + ", ".join(config.preset_names())
    keys = "Keys: " + ", ".join(f"config.{key}" for key in config.flatten(config.default_config()))
    cli.run(_main, FLAGS, USAGE, "\n\n".join([presets, keys, EXIT_CODES]), parse_flags)


if __name__ == "__main__":
    main()
