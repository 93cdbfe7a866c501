"""`electra-pretrain`: flags in, one call of the training library."""

from absl import flags

from electra_cli import cli, command_config, config
from electra_cli.errors import UserError
from electra_cli.training import wandb_run

FLAGS = flags.FlagValues()
command_config.define(FLAGS)
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
flags.DEFINE_string(
    "wandb_project",
    None,
    "Project of Weights & Biases where metrics and config are shown as well (pip install 'electra-pretrain[wandb]').",
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
    settings = command_config.given(values)
    if not values.workdir:
        raise UserError("--workdir is missing: give the directory of the run")
    config.check(settings)
    if values.wandb_project:
        if values.mode in ("eval", "replay"):
            raise UserError(f"--wandb_project is not read by --mode={values.mode}: leave it out")
        wandb_run.import_wandb()  # before training: what is missing is told at once

    cli.end_when_stopped()
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
        loop.train(
            settings,
            values.workdir,
            with_evaluation=with_evaluation,
            say=say,
            checkpoint=values.checkpoint,
            wandb_project=values.wandb_project,
        )


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line into `FLAGS` and returns what are no flags (`command_config.parse`)."""
    return command_config.parse(argv, FLAGS)


def main() -> None:
    """Runs the command line."""
    cli.run(_main, FLAGS, USAGE, f"{command_config.describe()}\n\n{EXIT_CODES}", parse_flags)


if __name__ == "__main__":
    main()
