"""The nine tasks of GLUE (Wang et al., ICLR 2019), as their official download lays them out."""

import dataclasses
import os

from electra_cli import files
from electra_cli.errors import UserError
from electra_cli.finetuning.tables import Columns, read_text, split_lines


@dataclasses.dataclass(frozen=True)
class GlueTask:
    """A task of GLUE.

    Attributes:
      folder: its name in the download.
      primary_score: the score that the paper reports (Clark et al., ICLR 2020, section 3.1).
      columns, test_columns: numbers where files have no header; tests have no labels.
      validation, test: file names without '.tsv'.
      more: further splits: file by name.
      has_broken_lines: whether some lines have too few columns or no text (two in QQP), and are skipped.
    """

    folder: str
    primary_score: str
    columns: Columns
    test_columns: Columns
    validation: str = "dev"
    test: str = "test"
    more: tuple[tuple[str, str], ...] = ()
    has_broken_lines: bool = False


def _task(folder: str, primary_score: str, text: str, second_text: str, label: str, **changes) -> GlueTask:
    columns = {"columns": Columns(text, second_text, label), "test_columns": Columns(text, second_text)}
    return GlueTask(folder, primary_score, **{**columns, **changes})


TASKS = {
    "cola": _task("CoLA", "mcc", "3", "", "1", test_columns=Columns("sentence")),
    "sst2": _task("SST-2", "accuracy", "sentence", "", "label"),
    "mrpc": _task("MRPC", "accuracy", "#1 String", "#2 String", "Quality"),
    "stsb": _task("STS-B", "spearman", "sentence1", "sentence2", "score"),
    "qqp": _task("QQP", "accuracy", "question1", "question2", "is_duplicate", has_broken_lines=True),
    "mnli": _task(
        "MNLI", "accuracy", "sentence1", "sentence2", "gold_label", validation="dev_matched", test="test_matched",
        more=(("validation_mismatched", "dev_mismatched"), ("test_mismatched", "test_mismatched")),
    ),
    "qnli": _task("QNLI", "accuracy", "question", "sentence", "label"),
    "rte": _task("RTE", "accuracy", "sentence1", "sentence2", "label"),
    "wnli": _task("WNLI", "accuracy", "sentence1", "sentence2", "label"),
}  # fmt: skip


def columns_of_file(path: str, name: str, flag: str) -> Columns:
    """Returns the columns of a file of a task: with labels where it has those of training. Raises as `read_text`."""
    task = TASKS[name]
    header = {field.strip() for field in split_lines(read_text(path))[0].split("\t")}

    def are_named(columns: Columns) -> bool:
        return {column for column in (columns.text, columns.second_text, columns.label) if column} <= header

    is_test = are_named(task.test_columns) and not are_named(task.columns)
    return dataclasses.replace(task.test_columns if is_test else task.columns, flag=flag)


def find_folder(directory: str, name: str) -> str:
    """Returns the folder of a task, which is `directory` or in it; raises a `UserError` where neither has train.tsv."""
    task = TASKS[name]
    for folder in (files.join(directory, task.folder), directory):
        file = files.join(folder, "train.tsv")
        if files.size(file) is not None or os.path.lexists(file):  # a broken link is reported when it is read
            return folder
    is_there = files.is_remote(directory) or os.path.isdir(directory)
    there = "" if is_there else f" ({files.describe_missing(directory, 'directory')})"
    raise UserError(
        f"--config.data.dir={directory}{there}: no {task.folder}/train.tsv for --config.task={name}: give the "
        f"folder of GLUE's download, or the task's folder in it"
    )
