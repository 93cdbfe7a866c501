"""What every console command shares: flag parsing, help, and exit codes.

Each command declares its absl flags in a `FlagValues` of its own, so that `--help` lists that command's flags only and
two commands can be imported in one process. TensorFlow is not imported here.
"""

import os
import signal
import sys
import warnings
from collections.abc import Callable

from absl import app, flags, logging

from electra_cli.errors import Interrupted, UserError
from electra_cli.reporter import Reporter

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again
EXIT_KEYBOARD_INTERRUPT = 130  # 128 + SIGINT, what shells give

_HELP_FLAGS = ("--help", "-help", "-h", "--helpshort", "--helpfull")


def run(
    main: Callable[[flags.FlagValues], None],
    flag_values: flags.FlagValues,
    usage: str,
    examples: str = "",
    parse_flags: Callable[[list[str]], list[str]] | None = None,
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
    """
    program = os.path.basename(sys.argv[0])
    # TensorFlow's C++ notices at start say nothing about the run; without a GPU driver it even reports an error.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if os.path.exists("/dev/nvidiactl") else "3")

    # Google's client libraries, which tf-models-official imports, announce the end of Python versions.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"google\.")

    def parse(argv: list[str]) -> list[str]:
        if any(argument in _HELP_FLAGS for argument in argv[1:]):
            print(_help_text(program, usage, flag_values, examples))
            sys.exit(0)
        flags.FLAGS([argv[0]])  # absl's own flags keep their defaults
        logging.set_verbosity(logging.WARNING)  # TensorFlow tells its internals at INFO, through absl
        try:
            rest = (parse_flags or flag_values)(argv)
        except flags.Error as error:
            raise UserError(f"{error} (see {program} --help)") from error
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


def end_when_stopped(reporter: Reporter | None = None) -> None:
    """Makes SIGTERM and Ctrl-C end the process at once; while it trains, training takes them over, to save first.

    Args:
      reporter: what shows something on the terminal that must be left clean.
    """

    def end(number: int, _: object) -> None:
        if reporter is not None:
            reporter.abandon()
        program, name = os.path.basename(sys.argv[0]), signal.Signals(number).name
        os.write(2, f"{program}: stopped by {name}; the same command begins where the last save was\n".encode())
        os._exit(EXIT_INTERRUPTED)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def _help_text(program: str, usage: str, flag_values: flags.FlagValues, examples: str) -> str:
    lines = [usage.strip().replace("{program}", program), "", "Flags:"]
    for name in sorted(dict(flag_values.flag_values_dict())):
        flag = flag_values[name]
        default = "" if flag.default in (None, "", []) else f" (default: {flag.default_as_str.strip(chr(39))})"
        lines += [f"  --{name}", f"      {' '.join((flag.help or '').split())}{default}"]
    if examples:
        lines += ["", examples.strip().replace("{program}", program)]
    return "\n".join(lines)
