"""`electra-export`: a run to a directory in the format of another library."""

from absl import flags

from electra_cli import cli
from electra_cli.errors import UserError

FORMATS = ["huggingface", "saved_model", "tfm", "google_tf1"]
FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "Workdir of electra-pretrain, or what electra-import wrote.", flag_values=FLAGS)
flags.DEFINE_enum(
    "format", None, FORMATS, "huggingface: a folder of transformers. saved_model: text in, for TensorFlow Serving and "
    "Hub. tfm: an init_checkpoint for tf-models-official. google_tf1: a checkpoint of google-research/electra.",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_enum(
    "network", "discriminator", ["discriminator", "generator", "both"], "Which network; of both, huggingface and tfm "
    "make a directory each.", flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_string("output_dir", None, "Directory to be made; local.", flag_values=FLAGS)
flags.DEFINE_string(
    "checkpoint", None, "best, or the path of a checkpoint, such as run/checkpoints/ckpt-500; without it, the newest.",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_bool(
    "averaged", True, "Take the moving averages for the weights, where the run keeps some "
    "(config.optimizer.ema_decay).", flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_string(
    "vocab_file", None, "Vocabulary, where the data that the run was trained on is not there any more.",
    flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_bool("lower_case", None, "Whether text is lower-cased; without it, as the data was.", flag_values=FLAGS)
flags.DEFINE_bool("overwrite", False, "Replace an output directory that is not empty.", flag_values=FLAGS)

USAGE = """
Writes a trained network for another library, and compares it with the checkpoint before it is delivered.

Usage: {program} --workdir=RUN --format=huggingface|saved_model|tfm|google_tf1 --output_dir=DIR
       [--network=discriminator|generator|both] [--FLAG=VALUE ...]
"""
EXAMPLES = """
Examples:
  {program} --workdir=run --format=huggingface --output_dir=electra-hf
  {program} --workdir=run --format=saved_model --network=both --checkpoint=best --output_dir=electra-serving
"""
GROUPS = {
    "Required": ("workdir", "format", "output_dir"),
    "What is read": ("network", "checkpoint", "averaged", "vocab_file", "lower_case"),
    "What is written": ("overwrite",),
}


def _main(values: flags.FlagValues) -> None:
    for name, what in (
        ("workdir", "give the directory of a run"),
        ("format", f"give one of {', '.join(FORMATS)}"),
        ("output_dir", "give the directory to be made"),
    ):
        if not values[name].value:
            raise UserError(f"--{name} is missing: {what}")

    from electra_cli.interop import delivery, exporting, runs  # noqa: PLC0415  (imports TensorFlow: seconds)

    def say(line: str) -> None:
        print(line, flush=True)

    exporting.check_installed(values.format)
    delivery.check_destination(values.output_dir, overwrite=values.overwrite)
    run = runs.load_run(
        values.workdir,
        checkpoint=values.checkpoint,
        averaged=values.averaged,
        vocab_file=values.vocab_file,
        lower_case=values.lower_case,
        say=say,
    )
    averages = ", averaged" if run.is_averaged else ""
    say(f"Checkpoint {run.checkpoint}: step {run.step:,}{averages}.")
    difference = exporting.export(
        run, values.format, values.network, values.output_dir, overwrite=values.overwrite, say=say
    )
    say(f"Compared with the checkpoint on sample text: largest difference {difference:.1e}.")
    say(f"Exported as {values.format}: {values.output_dir}")


def main() -> None:
    """Runs the command line."""
    cli.run(_main, FLAGS, USAGE, EXAMPLES, groups=GROUPS)


if __name__ == "__main__":
    main()
