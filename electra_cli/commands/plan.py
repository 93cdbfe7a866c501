"""`electra-plan`: a config in, what it costs out, without training."""

import json
import os
import signal

from absl import flags

from electra_cli.cli import app
from electra_cli.cli.config_flag import ConfigFlag
from electra_cli.config.checks import notices
from electra_cli.config.fields import Field
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.planning import plan as planning
from electra_cli.planning import report

GROUPS: app.FlagGroups = {
    "Required": {"config": None},
    "Output": {
        "measure": Field(False, "Run 20 steps on this machine's devices, and correct the times predicted."),
        "json": Field(False, "Print JSON: bytes, seconds, US dollars."),
    },
}
FLAGS = app.define_flags(GROUPS)
CONFIG = ConfigFlag(FLAGS, PRETRAINING)

USAGE = """
Estimates what a config costs before it runs: parameters, operations, memory, tokens, disk, and time and price on
several devices. config.data.dir is optional.

Usage: {program} --config=PRESET_OR_FILE [--config.KEY=VALUE ...] [--measure] [--json]
"""
EXAMPLES = """
Examples:
  {program} --config=small --config.data.dir=data
  {program} --config=large --config.runtime.precision=mixed_bfloat16
  {program} --config=small --measure
"""


def _main(values: flags.FlagValues) -> None:
    config = CONFIG.config
    name = os.path.basename(values.config).removesuffix(".py")
    measured, notes = None, [f"note: {line}" for line in notices(config)]
    plan = planning.make_plan(config)  # before anything slow: what is wrong with the config is reported at once
    if values.measure:
        from electra_cli.planning import measuring  # noqa: PLC0415  (imports TensorFlow, which takes seconds)

        measured = measuring.calibrate(plan)
        plan = planning.make_plan(config, measured.device, measured.correction)
        notes += measured.describe()
    if values.json:
        content = report.to_json(plan, name)
        print(json.dumps({**content, "measured": measured.to_json() if measured else None}, indent=1))
    else:
        print(report.to_text(plan, name, notes))


def main() -> None:
    """Runs the command line."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `electra-plan ... | head` ends quietly
    app.run(_main, FLAGS, USAGE, EXAMPLES, groups=GROUPS, config=CONFIG)


if __name__ == "__main__":
    main()
