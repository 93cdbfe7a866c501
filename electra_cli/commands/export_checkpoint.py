"""`electra-export`: a run or a fine-tuned model to a directory in the format of another library."""

from absl import flags

from electra_cli import files
from electra_cli.cli import app
from electra_cli.config.fields import Field
from electra_cli.errors import UserError
from electra_cli.loggers.logger import Logger
from electra_cli.workdir import run_files

FORMATS = ["huggingface", "saved_model", "tfm", "google_tf1"]
GROUPS: app.FlagGroups = {
    "Required": {
        "workdir": Field(None, "Workdir of electra-pretrain or electra-finetune, or output of electra-import."),
        "format": Field(
            None,
            "huggingface: a transformers folder. saved_model: takes text, for TensorFlow Serving and Hub. tfm: an "
            "init_checkpoint for tf-models-official. google_tf1: a checkpoint of google-research/electra. For a "
            "fine-tuned model, huggingface; for classification and regression, also saved_model.",
            choices=FORMATS,
        ),
        "output_dir": Field(None, "Directory to create; local."),
    },
    "Input": {
        "network": Field(
            None,
            "Which network; by default the discriminator, or the only one. For both, huggingface and tfm create one "
            "directory each.",
            choices=("discriminator", "generator", "both"),
        ),
        "checkpoint": Field(None, "best, ckpt-500, or the path of a checkpoint; by default, the newest."),
        "averaged": Field(
            True, "Export the moving averages of the weights, if the run keeps them (config.optimizer.ema_decay)."
        ),
        "vocab_file": Field(None, "Vocabulary, if the data that the run was trained on is no longer available."),
        "lower_case": Field(None, "Whether text is lower-cased; by default, as the data was.", value_type=bool),
        "seed": Field(None, "For a fine-tuned model: the seed to export; default: the best.", value_type=int),
    },
    "Output": {"overwrite": Field(False, "Replace an output directory that is not empty.")},
}
FLAGS = app.define_flags(GROUPS)

USAGE = """
Exports a trained network or a fine-tuned model for another library, and compares it with the checkpoint before
delivering it.

Usage: {program} --workdir=RUN --format=huggingface|saved_model|tfm|google_tf1 --output_dir=DIR
       [--network=discriminator|generator|both] [--FLAG=VALUE ...]
       {program} --workdir=FINE_TUNED --format=huggingface|saved_model --output_dir=DIR [--seed=N]
"""
EXAMPLES = """
Examples:
  {program} --workdir=run --format=huggingface --output_dir=electra-hf
  {program} --workdir=run --format=saved_model --network=both --checkpoint=best --output_dir=electra-serving
  {program} --workdir=sentiment --format=huggingface --output_dir=sentiment-hf
"""
# Flags that do not apply to a fine-tuned model.
_PRETRAINED_ONLY = ("network", "checkpoint", "averaged", "vocab_file", "lower_case")


def _main(values: flags.FlagValues) -> None:
    app.require_flags(
        values,
        workdir="give the directory of a run",
        format=f"give one of {', '.join(FORMATS)}",
        output_dir="give the directory to create",
    )
    files.check_directory("--workdir", values.workdir, "give the directory of a run or of a fine-tuning")
    from electra_cli.finetuning.workdir import holds_finetuning  # noqa: PLC0415  (--help must not wait for NumPy)
    from electra_cli.interop import delivery  # noqa: PLC0415
    from electra_cli.loggers import panel  # noqa: PLC0415

    is_fine_tuned = holds_finetuning(values.workdir)
    _check(values, is_fine_tuned)
    delivery.check_destination(values.output_dir, overwrite=values.overwrite)
    title = f"electra-export --workdir={values.workdir} --format={values.format}"
    with panel.choose_logger(title, quiet=False, log_format="text") as logger:
        difference = (_export_fine_tuned if is_fine_tuned else _export_pretrained)(values, logger)
        logger.notice(f"Compared with the checkpoint on sample text: largest difference {difference:.1e}.")
        logger.notice(f"Exported as {values.format}: {values.output_dir}")


def _check(values: flags.FlagValues, is_fine_tuned: bool) -> None:
    if is_fine_tuned:
        app.refuse_flags(values, _PRETRAINED_ONLY, "does not apply to a fine-tuned model: leave it out")
        return
    if values.seed is not None:
        raise UserError(f"--seed={values.seed} applies only to a fine-tuned model, and {values.workdir} is not one")
    run_files.read_record(values.workdir)
    if values.checkpoint:
        run_files.named_checkpoint(values.workdir, values.checkpoint)
    app.require_files(values, vocab_file=app.VOCABULARY)


def _export_fine_tuned(values: flags.FlagValues, logger: Logger) -> float:
    with logger.status("Starting TensorFlow"):
        from electra_cli.finetuning.model import load_fine_tuned  # noqa: PLC0415  (imports it: seconds)
        from electra_cli.finetuning.workdir import read_record  # noqa: PLC0415
        from electra_cli.interop import exporting  # noqa: PLC0415

    exporting.check_format(values.format, read_record(values.workdir).kind)
    with logger.status("Reading the model"):
        model = load_fine_tuned(values.workdir, values.seed, logger.notice)
    logger.notice(f"Fine-tuned with seed {model.seed} from {model.record.source}.")
    with logger.status("Exporting, and comparing"):
        return exporting.export_fine_tuned(model, values.format, values.output_dir, overwrite=values.overwrite)


def _export_pretrained(values: flags.FlagValues, logger: Logger) -> float:
    with logger.status("Starting TensorFlow"):
        from electra_cli.interop import exporting, runs  # noqa: PLC0415  (imports it: seconds)

    exporting.check_format(values.format)
    with logger.status("Reading the checkpoint"):
        run = runs.load_run(
            values.workdir,
            checkpoint=values.checkpoint,
            averaged=values.averaged,
            vocab_file=values.vocab_file,
            lower_case=values.lower_case,
            notice=logger.notice,
        )
    averages = ", averaged" if run.is_averaged else ""
    logger.notice(f"Checkpoint {run.checkpoint}: step {run.step:,}{averages}.")
    with logger.status("Exporting, and comparing"):
        network = values.network or run.roles[0]
        return exporting.export_run(
            run, values.format, network, values.output_dir, overwrite=values.overwrite, notice=logger.notice
        )


def main() -> None:
    """Runs the command line."""
    app.run(_main, FLAGS, USAGE, EXAMPLES, groups=GROUPS)


if __name__ == "__main__":
    main()
