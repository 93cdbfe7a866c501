"""`electra-import`: a checkpoint of another library, or one of ours, to a starting point for `electra-pretrain`."""

from absl import flags

from electra_cli import files
from electra_cli.cli import app
from electra_cli.config.fields import Field, Rule
from electra_cli.errors import UserError
from electra_cli.loggers.logger import Logger
from electra_cli.workdir import run_files

FORMATS = ["google_tf1", "huggingface", "tfm", "electra_pretrain"]
_AT_LEAST_1 = Rule(lambda value: value >= 1, "must be at least 1")
GROUPS: app.FlagGroups = {
    "Required": {
        "format": Field(
            None,
            "google_tf1: a checkpoint of google-research/electra. huggingface: a transformers folder (ELECTRA, or "
            "BERT as a discriminator). tfm: a checkpoint of tf-models-official. electra_pretrain: a workdir.",
            choices=FORMATS,
        ),
        "source": Field(None, "The checkpoint, folder or workdir."),
        "output_dir": Field(None, "Directory to create; local."),
    },
    "Input": {
        "vocab_file": Field(None, "The model's vocabulary, in place of the one stored with it."),
        "lower_case": Field(
            None, "Whether text is lower-cased; by default, as the model's tokenizer says, or true.", value_type=bool
        ),
        "checkpoint": Field(None, "With --format=electra_pretrain: best, or the path of a checkpoint."),
        "generator_source": Field(
            None,
            "With --format=huggingface: the generator's folder (ElectraForMaskedLM), when --source is a "
            "discriminator's.",
        ),
        "hparams": Field(
            None,
            "With --format=google_tf1: JSON file of its hyperparameters, if they are not those of its small model; "
            "by default, config.json next to the checkpoint.",
        ),
        "num_attention_heads": Field(
            None,
            "With --format=google_tf1: the discriminator's attention heads, if not one per 64 units of width.",
            _AT_LEAST_1,
            value_type=int,
        ),
        "generator_num_attention_heads": Field(
            None, "With --format=google_tf1: the generator's heads.", _AT_LEAST_1, value_type=int
        ),
    },
    "Output": {
        "generator_size": Field(
            0.25,
            "Width of a newly initialized generator, as a fraction of the discriminator's; of ModernBERT, as wide, its "
            "layers.",
            Rule(lambda value: 0 < value <= 1, "must be a fraction greater than 0, at most 1"),
        ),
        "overwrite": Field(False, "Replace an output directory that is not empty."),
    },
}
FLAGS = app.define_flags(GROUPS)

USAGE = """
Turns a checkpoint of another library into a starting point for electra-pretrain: a checkpoint and its config.

Usage: {program} --format=google_tf1|huggingface|tfm|electra_pretrain --source=PATH --output_dir=DIR [--FLAG=VALUE ...]
"""
EXAMPLES = """
Examples:
  {program} --format=google_tf1 --source=electra_small/electra_small --output_dir=start
  {program} --format=huggingface --source=discriminator/ --generator_source=generator/ --output_dir=start
"""
# Flags that belong to one format.
_ONLY_WITH = {
    "generator_source": "huggingface",
    "hparams": "google_tf1",
    "num_attention_heads": "google_tf1",
    "generator_num_attention_heads": "google_tf1",
    "checkpoint": "electra_pretrain",
}


def _main(values: flags.FlagValues) -> None:
    _check(values)
    for name in ("source", "generator_source"):
        if values[name].value is not None:
            files.check_checkpoint(f"--{name}", values[name].value, "give the model's directory, or its checkpoint")
    app.require_files(
        values,
        vocab_file=app.VOCABULARY,
        hparams="give the JSON file of google-research/electra's --hparams",
    )
    if values.checkpoint:
        run_files.named_checkpoint(values.source, values.checkpoint)
    from electra_cli.interop import delivery  # noqa: PLC0415  (--help must not wait for NumPy)
    from electra_cli.loggers import panel  # noqa: PLC0415

    delivery.check_destination(values.output_dir, overwrite=values.overwrite)
    with panel.choose_logger(f"electra-import --source={values.source}", quiet=False, log_format="text") as logger:
        _import(values, logger)


def _import(values: flags.FlagValues, logger: Logger) -> None:
    with logger.status("Starting TensorFlow"):
        from electra_cli.interop import importing, runs, starting_points  # noqa: PLC0415  (imports it: seconds)

    with logger.status(f"Importing {values.source}"):
        if values.format == "electra_pretrain":
            try:
                run = runs.load_run(
                    values.source,
                    checkpoint=values.checkpoint,
                    vocab_file=values.vocab_file,
                    lower_case=values.lower_case,
                    notice=logger.notice,
                )
            except UserError as error:
                raise error.with_options({"--workdir": "--source"}) from error
            importing.import_run(run, values.output_dir, overwrite=values.overwrite, notice=logger.notice)
            return
        external = starting_points.read_source(
            values.format,
            values.source,
            generator_source=values.generator_source,
            hparams_file=values.hparams,
            num_attention_heads=values.num_attention_heads,
            generator_num_attention_heads=values.generator_num_attention_heads,
        )
        importing.import_external(
            external,
            values.format,
            values.output_dir,
            vocab_file=values.vocab_file,
            lower_case=values.lower_case,
            generator_size=values.generator_size,
            overwrite=values.overwrite,
            notice=logger.notice,
        )


def _check(values: flags.FlagValues) -> None:
    app.require_flags(
        values,
        format=f"give one of {', '.join(FORMATS)}",
        source="give the checkpoint or folder to import",
        output_dir="give the directory to create",
    )
    for name, format_name in _ONLY_WITH.items():
        if values[name].present and values.format != format_name:
            raise UserError(f"--{name} belongs to --format={format_name}")
    app.check_flags(values, GROUPS)


def main() -> None:
    """Runs the command line."""
    app.run(_main, FLAGS, USAGE, EXAMPLES, groups=GROUPS)


if __name__ == "__main__":
    main()
