"""`electra-pretrain`: flags in, one call of the training library."""

import dataclasses
import functools
import json
import os
import sys
from typing import TYPE_CHECKING

import ml_collections
from absl import flags

from electra_cli.cli import app
from electra_cli.cli.config_flag import ConfigFlag
from electra_cli.config.checks import require_energies
from electra_cli.config.fields import Field
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.errors import UserError
from electra_cli.loggers import wandb_run
from electra_cli.loggers.logger import Logger
from electra_cli.workdir import run_files

if TYPE_CHECKING:  # --help must not wait for it
    from electra_cli.data.source import OpenedRun

GROUPS: app.FlagGroups = {
    "Required": {
        "config": None,
        "workdir": Field(None, "Directory of the run: checkpoints, metrics, config."),
    },
    "What to do": {
        "mode": Field(
            "train_and_eval",
            "Train, evaluate the newest checkpoint, train with evaluations, repeat the last step whose loss or "
            "gradient was infinite or NaN, to see why, or score the texts of --input by a run of the objective "
            "electric.",
            choices=("train", "eval", "train_and_eval", "replay", "score"),
        ),
        "input": Field(
            None,
            "With --mode=score: file of texts, one a line; - is standard input. Printed is a line for each: its "
            "pseudo-log-likelihood (nats), the number of its tokens, and whether it was cut.",
        ),
        "checkpoint": Field(
            None,
            "Checkpoint, such as run/checkpoints/ckpt-500, or a directory whose newest is used: --mode=eval evaluates "
            "it, --mode=score scores by it (best and ckpt-500 are those of the workdir), and a run without checkpoints "
            "of its own starts from its weights.",
        ),
    },
    "Before a run": {
        "print_config": Field(
            None,
            "Print the config with all overrides and derived values, and do nothing else: text (the default without "
            "a value) is a config file.",
            choices=("text", "json"),
        ),
        "dry_run": Field(
            False,
            "Build everything, run a few steps and a short evaluation, check workdir and disk, and report what the "
            "run would take; leaves nothing behind.",
        ),
        "check_devices": Field(
            False,
            "Check whether this machine's devices compute right, and measure how fast, by steps of random examples. "
            "--config (default: tiny) is what is measured; no data is needed. Exit code 1: a check failed.",
        ),
        "json": Field(False, "With --check_devices: print JSON: bytes, seconds."),
    },
    "Output": {
        **app.OUTPUT_FLAGS,
        "wandb_project": Field(
            None,
            "Weights & Biases project to which metrics and config are sent as well (pip install "
            "'electra-pretrain[wandb]').",
        ),
    },
}
FLAGS = app.define_flags(GROUPS)
CONFIG = ConfigFlag(FLAGS, PRETRAINING, is_optional=True)

_NUM_SCORED = 1024  # texts whose scores are printed together
_VERDICTS = {True: "ok", False: "FAILED", None: "-"}
USAGE = """
Pre-trains an ELECTRA text encoder on data from electra-prepare. The same command resumes a run that was stopped.

Usage: {program} --config=PRESET_OR_FILE --config.data.dir=DATA --workdir=RUN [--mode=MODE] [--config.KEY=VALUE ...]
       {program} --workdir=RUN [--mode=MODE] [--checkpoint=PATH] [--config.KEY=VALUE ...]
                                              a run that was begun, with its own config; some keys may change
       {program} --workdir=RUN --mode=score --input=FILE [--checkpoint=PATH]
       {program} --check_devices [--config=PRESET_OR_FILE] [--config.KEY=VALUE ...] [--json]
"""
EXAMPLES = """
Examples:
  {program} --config=small --config.data.dir=data --workdir=run
  {program} --workdir=run --mode=eval --checkpoint=run/checkpoints/best
  {program} --config=base --config.data.dir=data --workdir=run --config.runtime.precision=mixed_bfloat16

Exit codes: 0 done, 1 a defect or a failed check, 2 a mistake in the command or its files, 75 stopped by a signal and
saved.
"""


def _main(values: flags.FlagValues) -> None:
    if values.check_devices:
        _check_devices(values)
        return
    app.refuse_flags(values, ("json",), "goes with --check_devices: leave it out, or see --print_config=json")
    if values.mode == "score":
        _score(values)
        return
    app.refuse_flags(values, ("input",), "is read by --mode=score only: leave it out")
    settings = _settings(values)
    from electra_cli.data import source  # noqa: PLC0415  (--help must not wait for it)

    if values.print_config:
        from electra_cli.config import text  # noqa: PLC0415

        run = source.read_run(settings, needs_data=False)
        app.print_page(text.show(run, values.print_config, CONFIG.command(os.path.basename(sys.argv[0]))))
        return
    app.require_flags(values, workdir="give the directory of the run")
    if values.checkpoint and values.mode == "replay":
        raise UserError("--checkpoint is not read by --mode=replay: leave it out")
    if values.dry_run and values.mode in ("eval", "replay"):
        raise UserError(f"--dry_run tries out training: it does not go with --mode={values.mode}")
    if values.wandb_project:
        if values.mode in ("eval", "replay"):
            raise UserError(f"--wandb_project is not read by --mode={values.mode}: leave it out")
        wandb_run.import_wandb()  # before training: what is missing is reported at once
    run = source.read_run(settings)  # all this before TensorFlow's import, which takes seconds
    is_prepared = all(phase.source.manifest for phase in run.phases)  # to count other data takes long
    run_files.check_config(values.workdir, run.resolved, source.fingerprint(run.phases) if is_prepared else None)
    checkpoint = values.checkpoint and run_files.named_checkpoint(values.workdir, values.checkpoint)
    if values.mode not in ("eval", "replay") and not run_files.has_record(values.workdir):
        run_files.check_start(run.resolved, checkpoint)

    from electra_cli.loggers import panel  # noqa: PLC0415  (--help must not wait for it)

    title = f"electra-pretrain --workdir={values.workdir} --mode={values.mode}"
    with panel.choose_logger(title, quiet=values.quiet, log_format=values.log_format) as logger:
        app.end_when_stopped(logger)
        _run(run, values, checkpoint, logger)


def _check_devices(values: flags.FlagValues) -> None:
    """Prints checks as they are made, then failures on standard error; exit code 1 where there are any."""
    unread = [name for group in GROUPS.values() for name in group if name not in ("config", "check_devices", "json")]
    app.refuse_flags(values, unread, "is not read by --check_devices: leave it out")
    from electra_cli.planning.plan import make_plan  # noqa: PLC0415  (--help must not wait for it)

    plan = make_plan(CONFIG.config)  # before TensorFlow's import, which takes seconds
    from electra_cli.planning.device_check import check_devices  # noqa: PLC0415

    checks = []
    for check in check_devices(plan):
        checks.append(check)
        if not values.json:
            print(f"{check.name:<12}{_VERDICTS[check.ok]:<8}{check.text}", flush=True)
    failed = [check for check in checks if check.ok is False]
    if values.json:
        print(json.dumps({"ok": not failed, "checks": [dataclasses.asdict(check) for check in checks]}, indent=1))
    for check in failed:
        print(f"{os.path.basename(sys.argv[0])}: check failed: {check.name}: {check.text}", file=sys.stderr)
    sys.exit(bool(failed))


def _score(values: flags.FlagValues) -> None:
    """Prints the scores of a file's lines, a line each."""
    unread = "is not read by --mode=score: leave it out"
    app.refuse_flags(values, ("config", "print_config", "dry_run", "wandb_project"), unread)
    for override in CONFIG.overrides:
        raise UserError(f"{override} {unread}")
    app.require_flags(values, workdir="give the directory of the run", input="give a file of texts, one a line")
    from electra_cli.finetuning.tables import read_text  # noqa: PLC0415  (--help must not wait for it)
    from electra_cli.loggers.lines import lines_logger  # noqa: PLC0415

    settings = PRETRAINING.restore(run_files.read_record(values.workdir)["config"], values.workdir)
    require_energies(settings.objective.name, values.workdir)
    if values.checkpoint:
        run_files.named_checkpoint(values.workdir, values.checkpoint)
    path = "/dev/stdin" if values.input == "-" else values.input
    texts = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    if not texts[-1]:
        texts.pop()  # what follows the last end of a line
    with lines_logger(quiet=True, log_format=values.log_format) as logger:
        app.end_when_stopped(logger)
        from electra_cli.api import Electra  # noqa: PLC0415  (imports TensorFlow: seconds)
        from electra_cli.interop.runs import load_run  # noqa: PLC0415

        notice = functools.partial(print, file=sys.stderr)
        electra = Electra(load_run(values.workdir, checkpoint=values.checkpoint, notice=notice))
        for begin in range(0, len(texts), _NUM_SCORED):
            for number, score in enumerate(electra.score(texts[begin : begin + _NUM_SCORED]), begin + 1):
                text = f"{score.log_likelihood:.4f}\t{score.num_tokens}" + ("\tcut" if score.is_cut else "")
                logger.result("score", {"line": number, **dataclasses.asdict(score)}, text)


def _settings(values: flags.FlagValues) -> ml_collections.ConfigDict:
    """Returns the config that was given; without one, that of the run in the workdir, which one worker looks at."""
    looks_at_run = values.mode in ("eval", "replay") or (values.workdir and run_files.has_record(values.workdir))
    if values.config is not None or values.print_config or not values.workdir or not looks_at_run:
        return CONFIG.config
    settings = PRETRAINING.restore(run_files.read_record(values.workdir)["config"], values.workdir)
    CONFIG.override(settings)
    if settings.runtime.worker_addresses:
        if values.mode not in ("eval", "replay"):
            raise UserError(
                f"--config is missing: {values.workdir} is a run of several workers, each of which needs its own "
                f"--config.runtime.worker_index: repeat their commands"
            )
        settings.runtime.worker_addresses, settings.runtime.worker_index = "", 0
    return settings


def _run(run: "OpenedRun", values: flags.FlagValues, checkpoint: str | None, logger: Logger) -> None:
    with logger.status("Starting TensorFlow"):
        from electra_cli.probes.prober import probe_hooks  # noqa: PLC0415
        from electra_cli.training import loop, replay  # noqa: PLC0415

    with_evaluation = values.mode == "train_and_eval"
    if values.dry_run:
        from electra_cli.planning import dry_run  # noqa: PLC0415

        dry_run.dry_run(run, values.workdir, with_evaluation=with_evaluation, logger=logger,
                        checkpoint=checkpoint)  # fmt: skip
    elif values.mode == "eval":
        hooks = probe_hooks(run.resolved)
        loop.evaluate(run, values.workdir, logger, checkpoint=checkpoint, hooks=hooks)
    elif values.mode == "replay":
        replay.replay_step(run, values.workdir, logger)
    else:
        from electra_cli.objectives import sizes  # noqa: PLC0415

        shortage = sizes.describe_shortage(values.workdir, sizes.checkpoint_size(run.resolved))
        if shortage is not None:
            logger.warning(f"Warning: {shortage}.")
        loop.train(
            run,
            values.workdir,
            with_evaluation=with_evaluation,
            logger=logger,
            checkpoint=checkpoint,
            wandb_project=values.wandb_project,
            hooks=probe_hooks(run.resolved) if with_evaluation else [],
        )


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line into `FLAGS` and `CONFIG`, and returns what are no flags."""
    argv = ["--print_config=text" if argument == "--print_config" else argument for argument in argv]
    rest = CONFIG.parse(argv)
    if FLAGS.check_devices and FLAGS.config is None:
        rest = CONFIG.parse([argv[0], "--config=tiny", *argv[1:]])
    return rest


def main() -> None:
    """Runs the command line."""
    app.run(_main, FLAGS, USAGE, EXAMPLES, parse_flags, groups=GROUPS, config=CONFIG)


if __name__ == "__main__":
    main()
