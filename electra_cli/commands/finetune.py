"""`electra-finetune`: flags in, one call of the fine-tuning library."""

import functools
from collections.abc import Callable

from absl import flags

from electra_cli.cli import app
from electra_cli.cli.config_flag import ConfigFlag
from electra_cli.config.fields import Field
from electra_cli.config.finetuning import FINETUNING, FORMATS, check, check_start
from electra_cli.config.labeled_files import parse_file
from electra_cli.finetuning.predicting import open_prediction, run_prediction
from electra_cli.finetuning.tables import Columns
from electra_cli.finetuning.tasks import PREDICT_FLAG, read_task
from electra_cli.finetuning.workdir import read_record
from electra_cli.loggers.logger import Logger
from electra_cli.workdir import run_files

GROUPS: app.FlagGroups = {
    "Required, except with --predict": {
        "config": None,
        "init": Field(
            None,
            "Encoder to start from: a workdir of electra-pretrain or one of its checkpoints, the output of "
            "electra-import or electra-export, or random, the baseline.",
        ),
        "workdir": Field(None, "Directory of the fine-tuning: models, predictions, scores."),
    },
    "Input": {
        "like": Field(None, "With --init=random: source of sizes and vocabulary, as --init."),
        "vocab_file": Field(None, "Vocabulary, SentencePiece model or tokenizer.json, in place of the encoder's."),
        "lower_case": Field(
            None, "Whether text is lower-cased; by default, as the encoder's tokenizer does.", value_type=bool
        ),
    },
    "Predictions": {
        "predict": Field(
            None,
            "File to predict with the model in --workdir, instead of fine-tuning; "
            "FILE:text=COLUMN,second_text=COLUMN,label=COLUMN,format=FORMAT if it differs from the training file.",
        ),
        "output": Field(None, "With --predict: file for the predictions, as JSON lines."),
        "seed": Field(None, "With --predict: seed of the model to use; default: the best.", value_type=int),
    },
    "Output": app.OUTPUT_FLAGS,
}
FLAGS = app.define_flags(GROUPS)
CONFIG = ConfigFlag(FLAGS, FINETUNING)

USAGE = """
Fine-tunes a pre-trained encoder on labelled files and scores it, or predicts with it. The same command resumes what
was stopped.

Usage: {program} --config=PRESET_OR_FILE --init=WORKDIR_OR_EXPORT --workdir=DIR [--config.KEY=VALUE ...]
       {program} --workdir=DIR --predict=FILE[:text=COLUMN,...] --output=FILE [--seed=N]
"""
EXAMPLES = """
Examples:
  {program} --config=classification --config.data.train=train.tsv --config.data.validation=dev.tsv \\
      --config.data.text=sentence --config.data.label=label --init=run --workdir=sentiment
  {program} --config=glue --config.task=rte --config.data.dir=GLUE/RTE --init=run --workdir=rte \\
      --config.train.seeds='(0,1,2,3,4)'
  {program} --config=glue --config.task=rte --config.data.dir=GLUE/RTE --init=random --like=run --workdir=baseline
  {program} --workdir=sentiment --predict=reviews.tsv --output=predicted.jsonl

Exit codes: 0 done, 1 a defect, 2 a mistake in the command or its files, 75 stopped by a signal and saved.
"""
# Settings that may follow the name of a file to predict for.
_PREDICTED = {"text": (), "second_text": (), "label": (), "format": FORMATS}


def _main(values: flags.FlagValues) -> None:
    app.require_flags(values, workdir="give the directory of the fine-tuning")
    work = _prepare_to_predict(values) if values.predict else _prepare_to_finetune(values)
    from electra_cli.loggers import panel  # noqa: PLC0415  (--help must not wait for it)

    title = f"electra-finetune --workdir={values.workdir}"
    with panel.choose_logger(title, quiet=values.quiet, log_format=values.log_format) as logger:
        app.end_when_stopped(logger)
        work(logger)


def _prepare_to_finetune(values: flags.FlagValues) -> Callable[[Logger], None]:
    app.refuse_flags(
        values, ("output", "seed"), "is read with --predict only: leave it out, or give the file to predict"
    )
    settings = CONFIG.config
    check(settings)
    check_start(values.init, values.like)
    app.require_files(values, vocab_file=app.VOCABULARY)
    if run_files.has_record(values.workdir):
        read_record(values.workdir)  # of a fine-tuning, which may be resumed

    def work(logger: Logger) -> None:
        with logger.status("Reading the labelled files"):
            data = read_task(settings)
        with logger.status("Starting TensorFlow"):
            from electra_cli.finetuning.finetune import finetune  # noqa: PLC0415  (takes seconds)
            from electra_cli.interop.starting_points import open_starting_point  # noqa: PLC0415

        open_encoder = functools.partial(
            open_starting_point,
            values.init,
            like=values.like,
            vocab_file=values.vocab_file,
            lower_case=values.lower_case,
        )
        finetune(settings, values.workdir, open_encoder, logger, data=data)

    return work


def _prepare_to_predict(values: flags.FlagValues) -> Callable[[Logger], None]:
    app.require_flags(values, output="give the file for the predictions")
    unread = ("init", "like", "vocab_file", "lower_case")
    app.refuse_flags(values, unread, "is not read with --predict: leave it out")
    app.refuse_flags(values, ("config",), "is not read with --predict, which takes that of the workdir: leave it out")
    named = parse_file(values.predict, _PREDICTED, "--predict")
    path, file_format = named.pop("path"), named.pop("format", "")
    columns = Columns(**named, flag=PREDICT_FLAG) if named else None

    def work(logger: Logger) -> None:
        request = open_prediction(
            values.workdir, path, values.output, values.seed, logger, columns=columns, file_format=file_format
        )
        with logger.status("Starting TensorFlow"):
            import tensorflow  # noqa: F401, PLC0415  (takes seconds)

        run_prediction(request, logger)

    return work


def main() -> None:
    """Runs the command line."""
    app.run(_main, FLAGS, USAGE, EXAMPLES, groups=GROUPS, config=CONFIG)


if __name__ == "__main__":
    main()
