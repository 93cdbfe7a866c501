"""What is asked of a fine-tuned model: a workdir and a file in; its examples, checked, out. No TensorFlow here."""

import dataclasses
import os
from collections.abc import Sequence

import ml_collections

from electra_cli import files
from electra_cli.config.finetuning import FINETUNING
from electra_cli.errors import UserError
from electra_cli.finetuning.examples import LABELS_FILE, Example, LabelMap
from electra_cli.finetuning.tables import Columns
from electra_cli.finetuning.tasks import build_task, load_file
from electra_cli.finetuning.workdir import Record, choose_seed, read_record, require_seed
from electra_cli.loggers.logger import Logger


@dataclasses.dataclass(frozen=True)
class AskedPrediction:
    """A prediction that is asked for.

    Attributes:
      workdir: of electra-finetune.
      seed: of the fine-tuning whose model predicts.
      config: its config.
      examples: of the file, one at least; of texts and labels that the model knows.
      output: file for the predictions.
    """

    workdir: str
    seed: int
    config: ml_collections.ConfigDict
    examples: tuple[Example, ...]
    output: str


def open_prediction(
    workdir: str,
    path: str,
    output: str,
    seed: int | None,
    logger: Logger,
    *,
    columns: Columns | None = None,
    file_format: str = "",
) -> AskedPrediction:
    """Reads and checks a file to predict for, and that there is a model and a place for its predictions.

    Args:
      workdir, path, output, seed, columns, file_format: as of `predicting.predict`.
      logger: receives progress reports.

    Raises:
      UserError: there is no such fine-tuning, the file is broken, or the output cannot be written.
    """
    _check_output(output, path)
    record = read_record(workdir)
    config = FINETUNING.restore(record.config, workdir)
    seed = choose_seed(workdir, logger.notice) if seed is None else seed
    require_seed(workdir, seed)
    task = build_task(config)
    task.labels = LabelMap.load(files.join(workdir, LABELS_FILE))
    with logger.status(f"Reading {path}"):
        contents = load_file(path, config, task, columns, file_format)
    _check_texts(contents.examples, record, workdir, path)
    if contents.columns:
        logger.notice(f"{path}: {contents.columns}")
    for notice in contents.notices:
        logger.notice(notice)
    return AskedPrediction(workdir, seed, config, contents.examples, output)


def _check_output(output: str, path: str) -> None:
    """Raises a `UserError` where predictions cannot be written to `output`, or would take the place of the examples."""
    files.check_output("--output", output)
    if os.path.exists(output) and os.path.exists(path) and os.path.samefile(output, path):
        raise UserError(f"--output={output} is the file to predict for: give another")


def _check_texts(examples: Sequence[Example], record: Record, workdir: str, path: str) -> None:
    """Raises a `UserError` where the file has pairs and the model was made for one text, or the reverse."""
    has_pairs = examples[0].second_text is not None
    if has_pairs == record.has_pairs:
        return
    here, there = ("pairs", "one text an example") if has_pairs else ("one text an example", "pairs")
    names = "text=COLUMN" if has_pairs else "text=COLUMN,second_text=COLUMN"
    raise UserError(
        f"{path} was read as {here}, and {workdir} was trained on {there}: name what to read, --predict={path}:{names}"
    )
