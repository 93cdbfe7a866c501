"""What every console command shares: flag parsing, help, and exit codes.

Each command declares its absl flags in a `FlagValues` of its own, so that `--help` lists that command's flags only and
two commands can be imported in one process. TensorFlow is not imported here.
"""

import dataclasses
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence

from absl import app, flags, logging

from electra_cli.cli import flag_info
from electra_cli.cli.completion import completion_script
from electra_cli.cli.flag_info import FlagInfo
from electra_cli.cli.help_text import COMMON_FLAGS, help_text
from electra_cli.config.reference import Entry
from electra_cli.config.suggestions import did_you_mean
from electra_cli.errors import Interrupted, UserError
from electra_cli.loggers.logger import Logger

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again
EXIT_KEYBOARD_INTERRUPT = 130  # 128 + SIGINT, what shells give

_HELP_FLAGS = ("--help", "-help", "-h", "--helpshort", "--helpfull")
_TRUTHS = {"bool": ("true", "false")}
# How absl and Python begin to say that a value is no choice, whole number, number or truth.
_PARSERS_COMPLAINTS = (
    "value should be one of",
    r"invalid literal for int\(\)",
    "could not convert string to float",
    r"\('Non-boolean argument",
)
_SHELLS = ("bash", "zsh", "fish")


@dataclasses.dataclass(frozen=True)
class Config:
    """The config of a command, as its help and its completion show it.

    Attributes:
      entries: its keys.
      presets: what `--config` takes besides files.
      choices: the values of keys that take some only.
    """

    entries: Sequence[Entry]
    presets: Sequence[str]
    choices: Mapping[str, Sequence[str]]


def run(
    main: Callable[[flags.FlagValues], None],
    flag_values: flags.FlagValues,
    usage: str,
    examples: str = "",
    parse_flags: Callable[[list[str]], list[str]] | None = None,
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    read_config: Callable[[], Config] | None = None,
    takes_directories: bool = False,
) -> None:
    """Parses `sys.argv`, calls `main(flag_values)` and ends the process.

    Exit codes: 0 done; 2 a mistake of the user's, told in one line on standard error; 75 stopped by a signal after
    saving; 130 stopped by Ctrl-C with nothing to save; 1 with a traceback for anything else.

    Args:
      main: the command's work, called with the parsed flags.
      flag_values: the command's own flags.
      usage: what the command does and how it is called; the first paragraph of its help.
      examples: further text printed after the flags.
      parse_flags: what parses the command line in place of `flag_values`; returns what are no flags.
      groups: names of the flags that the help shows together, by a title.
      read_config: returns the config that `--config` names, of a command that has one.
      takes_directories: whether directories may stand on the command line without a flag.
    """
    program = os.path.basename(sys.argv[0])
    # TensorFlow's C++ notices at start say nothing about the run; without a GPU driver it even reports an error.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if os.path.exists("/dev/nvidiactl") else "3")

    # Google's client libraries, which tf-models-official imports, announce the end of Python versions.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"google\.")

    def parse(argv: list[str]) -> list[str]:
        if any(argument in _HELP_FLAGS for argument in argv[1:]):
            entries = read_config().entries if read_config else ()
            text = help_text(usage, flag_info.describe(flag_values), groups or {}, examples, entries)
            print_page(text.replace("{program}", program))
            sys.exit(0)
        if any(argument.startswith("--print_completion") for argument in argv[1:]):
            print_page(_completion(program, argv, _all_flags(flag_values, read_config), takes_directories))
            sys.exit(0)
        flags.FLAGS([argv[0]])  # absl's own flags keep their defaults
        logging.set_verbosity(logging.WARNING)  # TensorFlow tells its internals at INFO, through absl
        try:
            rest = (parse_flags or flag_values)(argv)
        except flags.UnrecognizedFlagError as error:
            known = [flag.name for flag in _all_flags(flag_values, read_config)]
            if error.flagname in known:  # a key, which is a flag once there is a config
                raise UserError(
                    f"--config is missing, and --{error.flagname} needs one: give a preset or a file"
                ) from error
            meant = did_you_mean(error.flagname, known, "--")
            raise UserError(f"there is no flag --{error.flagname}{meant} (see {program} --help)") from error
        except flags.Error as error:
            raise UserError(f"{_describe_mistake(error, flag_values)} (see {program} --help)") from error
        if len(rest) > 1:
            raise UserError(f"unexpected argument {rest[1]!r}: flags are written --name=value (see {program} --help)")
        return rest

    def guarded(_: list[str]) -> None:
        main(flag_values)

    try:
        app.run(guarded, flags_parser=parse)
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except Interrupted as stop:
        print(f"{program}: {stop}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        sys.exit(EXIT_KEYBOARD_INTERRUPT)


def define_output_flags(flag_values: flags.FlagValues) -> None:
    """Declares `--quiet` and `--log_format`, which `panel.choose_logger` takes, among the flags of a command."""
    flags.DEFINE_bool("quiet", False, "Print only warnings, errors and the final table.", flag_values=flag_values)
    flags.DEFINE_enum(
        "log_format",
        "text",
        ["text", "json"],
        "text: a live panel on a terminal, otherwise occasional lines. json: one object per line, for programs.",
        flag_values=flag_values,
    )


def end_when_stopped(logger: Logger | None = None) -> None:
    """Makes SIGTERM and Ctrl-C end the process at once; while it trains, training takes them over, to save first.

    Args:
      logger: what shows something on the terminal that must be left clean.
    """

    def end(number: int, _: object) -> None:
        name = signal.Signals(number).name
        text = f"stopped by {name}, and nothing more was saved; run the same command again"
        if logger is not None:
            logger.abandon(text)
        os.write(2, f"{os.path.basename(sys.argv[0])}: {text}\n".encode())
        os._exit(EXIT_INTERRUPTED)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def print_page(text: str) -> None:
    """Prints text that may be read through `head` or `less`: a pipe that is closed ends the process quietly."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    print(text.rstrip())


def _all_flags(flag_values: flags.FlagValues, read_config: Callable[[], Config] | None) -> list[FlagInfo]:
    """Returns the flags of a command with those of its config's keys."""
    found = [*flag_info.describe(flag_values), *COMMON_FLAGS]
    if read_config is None:
        return found
    config = read_config()
    keys = [
        flag_info.describe_key(entry, config.choices.get(entry.path, _TRUTHS.get(entry.type, ())))
        for entry in config.entries
    ]
    return [
        *(dataclasses.replace(flag, suggestions=config.presets) if flag.name == "config" else flag for flag in found),
        *keys,
    ]


def _completion(program: str, argv: list[str], found: list[FlagInfo], takes_directories: bool) -> str:
    argument = next(argument for argument in argv if argument.startswith("--print_completion"))
    shell = argument.partition("=")[2]
    if shell not in _SHELLS:
        raise UserError(
            f"--print_completion={shell}: must be one of {', '.join(_SHELLS)}{did_you_mean(shell, _SHELLS)}"
        )
    return completion_script(program, shell, found, takes_directories=takes_directories)


def _describe_mistake(error: flags.Error, flag_values: flags.FlagValues) -> str:
    """Returns what is wrong with a flag's value, with what may have been meant or an example of what it takes."""
    match = re.match(rf"flag --(\w+)=(.*): (?:{'|'.join(_PARSERS_COMPLAINTS)})", str(error), re.S)
    if match is None:
        return str(error)
    name, value = match.groups()
    flag = flag_values[name]
    choices = getattr(flag.parser, "enum_values", ())
    if choices:
        return f"--{name}={value}: must be one of {', '.join(choices)}{did_you_mean(value, choices)}"
    if flag.boolean:
        return f"--{name}={value}: must be true or false"
    kind, example = ("a whole number", 4000) if flag.flag_type() == "int" else ("a number", 0.5)
    return f"--{name}={value}: must be {kind}, such as {example if flag.default is None else flag.default}"
