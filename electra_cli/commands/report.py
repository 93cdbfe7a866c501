"""`electra-report`: workdirs in, a page of curves, history, config and samples out."""

import signal

from absl import flags

from electra_cli.cli import app
from electra_cli.config.fields import NOT_NEGATIVE, Field
from electra_cli.errors import UserError
from electra_cli.report import report

GROUPS: app.FlagGroups = {
    "Output": {
        "format": Field("html", "A page for browsers, or text for the terminal.", choices=report.FORMATS),
        "output": Field(None, "File to write (default: report.html in the first workdir; text goes to the terminal)."),
        "samples": Field(
            3,
            "Number of held-out examples per run, corrupted and judged by its newest checkpoint; 0: none, which "
            "takes a second instead of half a minute.",
            NOT_NEGATIVE,
        ),
    },
}
FLAGS = app.define_flags(GROUPS)
FLAGS.set_gnu_getopt(True)  # workdirs may stand before flags

USAGE = """
Shows what runs of electra-pretrain did: curves, evaluations, probes, stops, config, and examples as the generator
corrupted them and the discriminator judged them. Writes one file that needs no network; several runs are compared.

Usage: {program} WORKDIR [WORKDIR ...] [--output=FILE] [--format=html|text] [--samples=N]
"""
EXAMPLES = """
Examples:
  {program} run
  {program} run --format=text --samples=0
  {program} small small_mlm --output=comparison.html
"""

_workdirs: list[str] = []


def _main(values: flags.FlagValues) -> None:
    if not _workdirs:
        raise UserError("no workdir is given: electra-report WORKDIR [WORKDIR ...]")
    app.check_flags(values, GROUPS)
    from electra_cli.loggers import panel  # noqa: PLC0415  (--help must not wait for it)

    with panel.choose_logger(f"electra-report {' '.join(_workdirs)}", quiet=False, log_format="text") as logger:
        message = report.write_report(
            _workdirs,
            values.output,
            output_format=values.format,
            num_samples=values.samples,
            logger=logger,
        )
    print(message, flush=True)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line into `FLAGS`; what are no flags are workdirs, and none is left over."""
    program, *_workdirs[:] = FLAGS(argv)
    return [program]


def main() -> None:
    """Runs the command line."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `electra-report ... | head` ends quietly
    app.run(_main, FLAGS, USAGE, EXAMPLES, parse_flags, groups=GROUPS, takes_directories=True)


if __name__ == "__main__":
    main()
