"""What every console command shares: flag parsing, help, and exit codes.

Each command declares its absl flags in a `FlagValues` of its own, so that `--help` lists that command's flags only and
two commands can be imported in one process. No TensorFlow here.
"""

import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import app, flags, logging

from electra_cli import files
from electra_cli.cli.completion import completion_script
from electra_cli.cli.config_flag import ConfigFlag
from electra_cli.cli.help_text import COMMON_FLAGS, describe, describe_keys, help_text
from electra_cli.config.fields import Field
from electra_cli.config.suggestions import did_you_mean
from electra_cli.errors import Interrupted, UserError
from electra_cli.loggers.logger import Logger

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again
EXIT_KEYBOARD_INTERRUPT = 130  # 128 + SIGINT, what shells give

_HELP_FLAGS = ("--help", "-help", "-h", "--helpshort", "--helpfull")
_SHELLS = ("bash", "zsh", "fish")

# The flags of a command, by the titles under which its help shows them; None: declared elsewhere, as `--config` is.
FlagGroups = Mapping[str, Mapping[str, Field | None]]
_DEFINE: dict[str, Callable[..., Any]] = {
    "NoneType": flags.DEFINE_string,
    "str": flags.DEFINE_string,
    "bool": flags.DEFINE_bool,
    "int": flags.DEFINE_integer,
    "float": flags.DEFINE_float,
    "list": flags.DEFINE_list,
}
# What `panel.choose_logger` takes.
OUTPUT_FLAGS = {
    "quiet": Field(False, "Print only warnings, errors and the final table."),
    "log_format": Field(
        "text",
        "text: a live panel on a terminal, otherwise occasional lines. json: one object per line, for programs.",
        choices=("text", "json"),
    ),
}


def run(
    main: Callable[[flags.FlagValues], None],
    flag_values: flags.FlagValues,
    usage: str,
    examples: str = "",
    parse_flags: Callable[[list[str]], list[str]] | None = None,
    *,
    groups: FlagGroups | None = None,
    config: ConfigFlag | None = None,
    takes_directories: bool = False,
) -> None:
    """Parses `sys.argv`, calls `main(flag_values)` and ends the process.

    Exit codes: 0 done; 2 a mistake of the user's, or memory or a permission that is missing, reported in one line on
    standard error; 75 stopped by a signal after saving; 130 stopped by Ctrl-C with nothing to save; 1 with a traceback
    for anything else.

    Args:
      parse_flags: parses the command line in place of `config` or `flag_values`; returns what are no flags.
      takes_directories: whether directories may be on the command line without a flag.
    """
    _require_utf8()
    program = os.path.basename(sys.argv[0])
    # TensorFlow's C++ notices at start say nothing about the run; without a GPU driver it even reports an error.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if os.path.exists("/dev/nvidiactl") else "3")

    # Google's client libraries, which tf-models-official imports, announce the end of Python versions.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"google\.")

    def parse(argv: list[str]) -> list[str]:
        _check_utf8(argv)
        schema = config.schema if config else None
        own_flags = describe(flag_values, schema)
        all_flags = [*own_flags, *COMMON_FLAGS, *(describe_keys(schema) if schema else ())]
        if any(argument in _HELP_FLAGS for argument in argv[1:]):
            text = help_text(usage, own_flags, groups or {}, examples, schema)
            print_page(text.replace("{program}", program))
            sys.exit(0)
        shell = _shell(argv)
        if shell is not None:
            print_page(completion_script(program, shell, all_flags, takes_directories=takes_directories))
            sys.exit(0)
        flags.FLAGS([argv[0]])  # absl's own flags keep their defaults
        logging.set_verbosity(logging.WARNING)  # TensorFlow logs its internals at INFO, through absl
        parse_own = parse_flags or (config.parse if config else flag_values)
        return _parse_flags(argv, program, parse_own, flag_values, [flag.name for flag in all_flags])

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
    except Exception as error:
        refusal = _describe_refusal(error)
        if refusal is None:
            raise
        print(f"{program}: error: {UserError(refusal)}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


def _describe_refusal(error: Exception) -> str | None:
    """Returns a line about memory or permission that the machine does not grant; None: the error is a defect."""
    kind, text = type(error).__name__, str(error)  # TensorFlow's kinds, which is not imported for this
    shortage = re.search(r"(OOM|[Oo]ut of memory)[^\n\[]*(\[[\d,]*\])?", text)
    if kind == "ResourceExhaustedError" and shortage is not None:
        advice = "choose smaller batches or sizes, or a device with more (electra-plan predicts what a config needs)"
        return f"a device has too little memory ({shortage[0]}): {advice}"
    if kind == "PermissionDeniedError" or (isinstance(error, PermissionError) and error.filename is not None):
        return f"{text.partition(chr(10))[0]}: ask for access to it, or choose another"
    return None


def _require_utf8() -> None:
    """Starts the program again in UTF-8 mode where the locale gives paths and texts another encoding: those of
    TensorFlow and of prepared data are UTF-8."""
    # The option -E would keep what is set here from being read, and start the program again for ever.
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.ignore_environment:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})


def _check_utf8(argv: Sequence[str]) -> None:
    for argument in argv:
        if re.search("[\ud800-\udfff]", argument):  # how Python keeps bytes that are not
            raise UserError(f"{argument!a} is not UTF-8, in which paths are read: rename the file")


def _shell(argv: Sequence[str]) -> str | None:
    """Returns the shell of `--print_completion`; None where that was not given."""
    shell = next((word.partition("=")[2] for word in argv[1:] if word.startswith("--print_completion")), None)
    if shell is not None and shell not in _SHELLS:
        raise UserError(
            f"--print_completion={shell}: must be one of {', '.join(_SHELLS)}{did_you_mean(shell, _SHELLS)}"
        )
    return shell


def _parse_flags(
    argv: list[str],
    program: str,
    parse: Callable[[list[str]], list[str]],
    flag_values: flags.FlagValues,
    known: Sequence[str],
) -> list[str]:
    """Returns what `parse` does, with its errors as those of a user; `known`: the names of all flags and keys."""
    try:
        rest = parse(argv)
    except flags.UnrecognizedFlagError as error:
        if error.flagname in known:  # a key, which is a flag once there is a config
            raise UserError(
                f"--config is missing, and --{error.flagname} needs one: give a preset or a file"
            ) from error
        meant = did_you_mean(error.flagname, known, "--")
        raise UserError(f"there is no flag --{error.flagname}{meant} (see {program} --help)") from error
    except flags.Error as error:
        mistake = _describe_bad_value(argv, flag_values) or str(error)
        raise UserError(f"{mistake} (see {program} --help)") from error
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}: flags are written --name=value (see {program} --help)")
    return rest


def _describe_bad_value(argv: Sequence[str], flag_values: flags.FlagValues) -> str | None:
    """Returns what is wrong with the first value that its flag refuses, with an example; None: all are accepted."""
    for word, following in zip(argv[1:], [*argv[2:], ""], strict=True):
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or name not in flag_values:
            continue
        flag, value = flag_values[name], value if equals else following
        if flag.boolean and not equals:
            continue
        try:
            flag.parser.parse(value)
        except (ValueError, TypeError):
            choices = getattr(flag.parser, "enum_values", ())
            if choices:
                return f"--{name}={value}: must be one of {', '.join(choices)}{did_you_mean(value, choices)}"
            if flag.boolean:
                return f"--{name}={value}: must be true or false"
            kind, example = ("a whole number", 4000) if flag.flag_type() == "int" else ("a number", 0.5)
            return f"--{name}={value}: must be {kind}, such as {example if flag.default is None else flag.default}"
    return None


def require_flags(values: flags.FlagValues, **remedies: str) -> None:
    """Raises a `UserError` for the first of some flags, by name, that has no value, with what to give."""
    for name, remedy in remedies.items():
        if not values[name].value:
            raise UserError(f"--{name} is missing: {remedy}")


VOCABULARY = "give the model's vocabulary, SentencePiece model or tokenizer.json"


def require_files(values: flags.FlagValues, **remedies: str) -> None:
    """Raises a `UserError` for the first of some flags, with its remedy, that names what is no file."""
    for name, remedy in remedies.items():
        path = values[name].value
        if path and files.size(path) is None and (os.path.isdir(path) or not os.path.exists(path)):  # or a pipe
            problem = "is a directory" if os.path.isdir(path) else files.describe_missing(path, "file")
            raise UserError(f"--{name}={path}: {problem}; {remedy}")


def refuse_flags(values: flags.FlagValues, names: Iterable[str], reason: str) -> None:
    """Raises a `UserError` for the first of some flags that was given."""
    for name in names:
        if values[name].present:
            raise UserError(f"--{name} {reason}")


def define_flags(groups: FlagGroups) -> flags.FlagValues:
    """Returns the absl flags of a command; without default and type, a flag takes text."""
    values = flags.FlagValues()
    for name, field in _fields(groups).items():
        if field.choices:
            flags.DEFINE_enum(name, field.default, field.choices, field.description, flag_values=values)
        else:
            _DEFINE[field.type_name](name, field.default, field.description, flag_values=values)
    return values


def check_flags(values: flags.FlagValues, groups: FlagGroups) -> None:
    """Raises a `UserError` for the first flag whose value does not fulfil its rule; None fulfils all."""
    for name, field in _fields(groups).items():
        value = values[name].value
        if value is not None and (mistake := field.find_mistake(value)) is not None:
            raise UserError(f"--{name}={value}: {mistake}")


def _fields(groups: FlagGroups) -> dict[str, Field]:
    return {name: field for fields in groups.values() for name, field in fields.items() if field is not None}


def end_when_stopped(logger: Logger | None = None) -> None:
    """Makes SIGTERM and Ctrl-C end the process at once, the terminal left clean; training handles them itself."""

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
