"""The sections of a fine-tuning config that say what the task and its data are, and their checks. No TensorFlow."""

import ml_collections

from electra_cli.errors import UserError
from electra_cli.finetuning.base import KINDS
from electra_cli.finetuning.glue import TASKS
from electra_cli.finetuning.labeled_files import FORMATS


def task_section() -> ml_collections.ConfigDict:
    """Returns the section `task` with its defaults."""
    task = ml_collections.ConfigDict()
    # A task of GLUE by name: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli; empty: a task of one's own. The name
    # decides about kind, columns and primary score; config.data.dir is the folder of GLUE's download.
    task.glue = ""
    # classification, regression, tagging or question_answering. Not read where task.glue is set.
    task.kind = "classification"
    # The score that tells which model is the better one, of the kinds in the order above: accuracy, f1 or mcc; spearman
    # or pearson; f1, precision, recall or accuracy; f1 or exact_match. Empty: the first one (of tags that mark no
    # entities, accuracy), or GLUE's.
    task.primary_score = ""
    # Question answering: tokens between the beginnings of two windows of a context that is longer than an example.
    task.doc_stride = 128
    # Question answering: longest answer that is predicted, in tokens.
    task.max_answer_length = 30
    # Question answering: candidates that are kept of each answer, the best one among them.
    task.num_best = 20
    return task


def data_section() -> ml_collections.ConfigDict:
    """Returns the section `data` with its defaults."""
    data = ml_collections.ConfigDict()
    # Directory that the paths below are relative to; of GLUE, its download's or the task's folder. Empty: here.
    data.dir = ""
    # Files of labelled examples. Empty: none; a fraction of the training file is held out for validation. With
    # task.glue the folder's own, and each that is given here takes the place of one.
    data.train = ""
    data.validation = ""
    data.test = ""
    # tsv (no quoting), csv, jsonl, conll or squad; empty: by the ending of each name.
    data.format = ""
    # Columns or fields: the text (first of a pair, words to tag), the second text, the label or tags. Names; or numbers
    # from 0 (-1: the last), and if all are numbers files have no header. Empty: the usual names (sentence, text,
    # sentence1 and sentence2, ...; label); of CoNLL files 0 and -1. Not read with task.glue.
    data.text = ""
    data.second_text = ""
    data.label = ""
    # Fraction of the training examples that is held out where there is no validation file; 0: none.
    data.validation_fraction = 0.1
    return data


# The scores of each kind that models can be compared by.
SCORES = {
    "classification": ("accuracy", "f1", "mcc"),
    "regression": ("spearman", "pearson"),
    "tagging": ("f1", "precision", "recall", "accuracy"),
    "question_answering": ("f1", "exact_match"),
}


def kind_of(task: ml_collections.ConfigDict) -> str:
    """Returns the kind of task: that of GLUE's where one is named."""
    return TASKS[task.glue].kind if task.glue else task.kind


def validate(task: ml_collections.ConfigDict, data: ml_collections.ConfigDict) -> None:
    """Raises a `UserError` that names key, value and remedy for the first value that cannot be meant.

    Args:
      task: the section `task`.
      data: the section `data`.
    """

    def require(key: str, is_valid: bool, remedy: str) -> None:
        if not is_valid:
            section, name = key.split(".")
            value = (task if section == "task" else data)[name]
            raise UserError(f"config.{key}={value!r}: {remedy}")

    require("task.glue", task.glue in ("", *TASKS), f"is empty or one of {', '.join(TASKS)}")
    require("task.kind", task.kind in KINDS, f"is one of {', '.join(KINDS)}")
    names = SCORES[kind_of(task)]
    require("task.primary_score", task.primary_score in ("", *names),
            f"is empty or a score of {kind_of(task)}: {', '.join(names)}")  # fmt: skip
    for key in ("doc_stride", "max_answer_length", "num_best"):
        require(f"task.{key}", task[key] > 0, "must be greater than 0")
    require("data.format", data.format in ("", *FORMATS), f"is empty or one of {', '.join(FORMATS)}")
    require("data.validation_fraction", 0 <= data.validation_fraction < 1,
            "is a fraction: at least 0, less than 1")  # fmt: skip
    require("data.second_text", not data.second_text or bool(data.text),
            "is the second of two: give the first, --config.data.text=COLUMN")  # fmt: skip
    if task.glue:
        require("data.dir", bool(data.dir), f"give the folder of GLUE's download for config.task.glue={task.glue}")
        for key in ("text", "second_text", "label", "format"):
            require(f"data.{key}", not data[key], f"config.task.glue={task.glue} knows its files: leave it empty")
        return
    require("data.train", bool(data.train), "give the file of training examples, --config.data.train=FILE")
    for key in ("validation", "test"):
        require(f"data.{key}", not data[key] or data[key] != data.train,
                "is the training file: scores there tell nothing")  # fmt: skip
    if task.kind == "question_answering":
        for key in ("text", "second_text", "label"):
            require(f"data.{key}", not data[key], "files of SQuAD have no columns: leave it empty")
    if task.kind == "tagging":
        require("data.second_text", not data.second_text, "tagging has one text only: leave it empty")
