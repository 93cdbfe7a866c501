"""The sections of a fine-tuning config that say what the task and its data are, and their checks. No TensorFlow."""

import ml_collections

from electra_cli.config import flatten
from electra_cli.config_checks import requirement
from electra_cli.finetuning.base import KINDS
from electra_cli.finetuning.glue import TASKS
from electra_cli.finetuning.labeled_files import FORMATS
from electra_cli.suggestions import did_you_mean


def answers_section() -> ml_collections.ConfigDict:
    """Returns the section `answers`, of question answering, with its defaults."""
    answers = ml_collections.ConfigDict()
    # Tokens between the starts of two windows of a context that is longer than an example.
    answers.doc_stride = 128
    # Longest answer that is predicted, in tokens.
    answers.max_answer_length = 30
    # Candidates that are kept for each answer, including the best one.
    answers.num_best = 20
    return answers


def data_section() -> ml_collections.ConfigDict:
    """Returns the section `data` with its defaults."""
    data = ml_collections.ConfigDict()
    # Longest example, in tokens, special ones included; longer ones are cut (for question answering: divided into
    # windows). Examples are padded to what the longest of them needs.
    data.max_seq_length = 128
    # Directory that the paths below are relative to; for GLUE, the download or the task's folder. Empty: the current
    # directory.
    data.dir = ""
    # Files of labelled examples. Empty: none; a fraction of the training file is held out for validation. For a GLUE
    # task, the folder's own files, each of which can be overridden here.
    data.train = ""
    data.validation = ""
    data.test = ""
    # tsv (no quoting), csv, jsonl, conll, conllu or squad; empty: by the extension of each file name.
    data.format = ""
    # Columns or fields: the text (first of a pair, words to tag), the second text, the label or tags. Names; or numbers
    # from 0 (-1: the last), and if all are numbers the files have no header. Empty: the usual names (sentence, text,
    # sentence1 and sentence2, ...; label); for CoNLL files 0 and -1, for CoNLL-U 1 and 3. Not read for a GLUE task.
    data.text = ""
    data.second_text = ""
    data.label = ""
    # Fraction of the training examples that is held out if there is no validation file; 0: none.
    data.validation_fraction = 0.1
    return data


# The scores of each kind that models can be compared by.
SCORES = {
    "classification": ("accuracy", "f1", "mcc"),
    "regression": ("spearman", "pearson"),
    "tagging": ("f1", "precision", "recall", "accuracy"),
    "question_answering": ("f1", "exact_match"),
}


def kind_of(task: str) -> str:
    """Returns the kind of `config.task`: that of GLUE's where it is one."""
    return TASKS[task].kind if task in TASKS else task


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises a `UserError` that names key, value and remedy for the first value that cannot be meant.

    Reads `task`, `primary_score`, `data` and `answers` of a config.
    """
    task, data, answers = config.task, config.data, config.answers
    require = requirement(flatten(config))
    known = (*KINDS, *TASKS)
    require("task", task in known,
            f"must be one of {', '.join(KINDS)}, or of GLUE {', '.join(TASKS)}{did_you_mean(task, known)}")  # fmt: skip
    names = SCORES[kind_of(task)]
    require("primary_score", config.primary_score in ("", *names),
            f"must be empty or a score of {kind_of(task)}: {', '.join(names)}")  # fmt: skip
    for key, value in answers.items():
        require(f"answers.{key}", value > 0, "must be greater than 0")
    require("data.max_seq_length", data.max_seq_length >= 8, "is too short: 8 tokens at least")
    require("data.format", data.format in ("", *FORMATS), f"must be empty or one of {', '.join(FORMATS)}")
    require("data.validation_fraction", 0 <= data.validation_fraction < 1,
            "must be a fraction, at least 0 and less than 1")  # fmt: skip
    require("data.second_text", not data.second_text or bool(data.text),
            "is the second of two: give the first, --config.data.text=COLUMN")  # fmt: skip
    if task in TASKS:
        require("data.dir", bool(data.dir), f"give the folder of GLUE's download for config.task={task}")
        for key in ("text", "second_text", "label", "format"):
            require(f"data.{key}", not data[key], f"config.task={task} knows its files: leave it empty")
        return
    require("data.train", bool(data.train), "give the file of training examples, --config.data.train=FILE")
    for key in ("validation", "test"):
        require(f"data.{key}", not data[key] or data[key] != data.train,
                "is the training file: scores there tell nothing")  # fmt: skip
    if task == "question_answering":
        for key in ("text", "second_text", "label"):
            require(f"data.{key}", not data[key], "files of SQuAD have no columns: leave it empty")
    if task == "tagging":
        require("data.second_text", not data.second_text, "tagging has one text only: leave it empty")
