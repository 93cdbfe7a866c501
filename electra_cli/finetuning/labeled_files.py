"""Reads labelled files of any format."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from electra_cli.config.finetuning import FORMATS
from electra_cli.data.inputs import uncompressed_name
from electra_cli.errors import UserError
from electra_cli.finetuning.conll import read_conll
from electra_cli.finetuning.examples import Example, abbreviate, convert_each, first_error, to_number
from electra_cli.finetuning.squad import read_squad
from electra_cli.finetuning.tables import (
    ColumnIndices,
    Columns,
    Row,
    check_file,
    find_columns,
    read_table,
    split_words,
)

_BY_ENDING = {
    ".tsv": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".conll": "conll", ".conllu": "conllu", ".bio": "conll", ".iob": "conll", ".iob2": "conll",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Contents:
    """The examples of a file, one at least, all labelled or none, and lines for the user.

    `columns` are those that were taken, some because they have the usual names; '': the user named all, or there are
    none.
    """

    examples: tuple[Example, ...]
    notices: Sequence[str] = ()
    columns: str = ""


@dataclasses.dataclass(frozen=True)
class LabeledFile:
    """A file, local or remote, plain or compressed, and how it is read.

    Attributes:
      columns: of CoNLL files numbers; SQuAD has none.
      format: one of `FORMATS`; '': by the file's name.
      label_needed: whether it is an error that the file has no labels.
      skip_bad: whether to skip what cannot be an example, with a notice, where there is one that can.
    """

    path: str
    columns: Columns
    format: str = ""
    label_needed: bool = True
    skip_bad: bool = False

    def read(self, kind: str) -> Contents:
        """Returns the content of the file for a kind of task, one of `config.finetuning.KINDS`.

        Raises a `UserError` that names file and line where the file cannot be read or is broken.
        """
        check_file(self.path)  # before its name is searched for a format
        file_format = find_format(self.path, kind, self.format, self.columns.flag)
        errors: list[UserError] = []
        notices: list[str] = []
        columns = ""
        if file_format == "squad":
            examples = read_squad(self.path, errors)
        elif file_format in ("conll", "conllu"):
            is_conllu = file_format == "conllu"
            examples = read_conll(self.path, self.columns.text, self.columns.label, errors, is_conllu=is_conllu)
        else:
            examples, columns = self._read_table(file_format, kind, errors)
            notices += _quote_notices(self.path, kind, examples)
        labelled = [example for example in examples if example.is_labelled]
        if labelled:
            errors += [
                UserError(f"{example.where}: has no label, and others of the file do")
                for example in examples
                if not example.is_labelled
            ]
            examples = labelled
        num_examples = len(examples) + len(errors)
        if errors and not (self.skip_bad and examples):
            raise first_error(errors, num_examples, self.columns.flag)
        if errors:
            text = f"bad examples skipped: {len(errors):,} of {num_examples:,}; the first: {errors[0]}"
            notices.insert(0, f"{self.path}: {text}")
        if not labelled and self.label_needed:
            raise UserError(f"{self.path}: no example is labelled, and labels are needed")
        return Contents(tuple(examples), notices, columns)

    def _read_table(self, file_format: str, kind: str, errors: list[UserError]) -> tuple[list[Example], str]:
        tagging = kind == "tagging"
        table = read_table(self.path, file_format, self.columns, tagging=tagging, skip_bad=self.skip_bad)
        indices = find_columns(table, self.columns, tagging=tagging, label_needed=self.label_needed)
        errors += table.errors
        examples = convert_each(lambda row: _from_row(row[1], row[0], kind, indices), enumerate(table.rows), errors)
        are_named = self.columns.text and (self.columns.label or indices.label is None)
        return examples, "" if are_named else indices.description


def find_format(path: str, kind: str, file_format: str, flag: str = Columns.flag) -> str:
    """Returns the format of a file, by its name if `file_format` is ''; `flag` as of `Columns`.

    Raises a `UserError` where the name does not show it, or the format is not one of that kind of task.
    """
    if not file_format:
        file_format = format_by_name(path)
        if kind == "question_answering" and not os.path.splitext(uncompressed_name(path))[1]:
            file_format = "squad"
        elif not file_format and kind == "tagging":
            file_format = "conll"
        elif not file_format:
            raise UserError(
                f"{path}: the name does not show the format: give {flag}format=FORMAT, one of {', '.join(FORMATS)}"
            )
    if kind == "question_answering" and file_format == "jsonl":
        file_format = "squad"  # in the flat form
    if (file_format == "squad") != (kind == "question_answering"):
        remedy = "needs SQuAD's JSON" if kind == "question_answering" else "cannot read SQuAD's JSON"
        raise UserError(f"{path} (format {file_format}): --config.task={kind} {remedy}")
    if file_format in ("conll", "conllu") and kind != "tagging":
        raise UserError(f"{path}: columns of CoNLL are read with --config.task=tagging, not {kind}")
    return file_format


def format_by_name(path: str) -> str:
    """Returns the format, one of `FORMATS`, of a file name's ending; '': none."""
    return _BY_ENDING.get(os.path.splitext(uncompressed_name(path))[1].lower(), "")


def _from_row(row: Row, number: int, kind: str, indices: ColumnIndices) -> Example:
    label = None if indices.label is None else row.fields[indices.label]
    label = None if isinstance(label, str) and not label.strip() else label
    example_id = str(number if indices.id is None else row.fields[indices.id])
    text = row.fields[indices.text]
    if kind == "tagging":
        return _tagged(row, example_id, text, label)
    second = None if indices.second_text is None else _text(row, row.fields[indices.second_text], "the second text")
    return Example(row.where, example_id, _text(row, text, "the text"), second, _label(row, kind, label))


def _quote_notices(path: str, kind: str, examples: Sequence[Example]) -> list[str]:
    if kind == "tagging" or len(examples) < 2:
        return []
    if not all(len(example.text) > 1 and example.text[0] == example.text[-1] == '"' for example in examples):
        return []
    return [
        f"{path}: every text begins and ends with a quote, which is taken for text: if the file has quotes as CSV has, "
        f"write it without"
    ]


def _text(row: Row, value: Any, name: str) -> str:
    if value is None:
        raise UserError(f"{row.where}: {name} is missing")
    if not isinstance(value, str):
        raise UserError(f"{row.where}: {name} is no text but {type(value).__name__}")
    if not value.strip():
        raise UserError(f"{row.where}: {name} is empty")
    return value.strip()


def _label(row: Row, kind: str, value: Any) -> str | float | None:
    if value is None:
        return None
    if isinstance(value, (list, dict)):
        raise UserError(f"{row.where}: the label is {type(value).__name__}, not one value: {value!r:.60}")
    # As JSON writes them: true, 1, 0.5.
    text = str(value).lower() if isinstance(value, bool) else str(value).strip()
    if kind != "regression":
        return text
    number = None if isinstance(value, bool) else to_number(text)
    if number is None:
        decimal, remedy = text.replace(",", ".", 1), "classes are learned with --config.task=classification"
        if "," in text and to_number(decimal) is not None:
            remedy = f"write {decimal}"
        raise UserError(f"{row.where}: the label {abbreviate([text])!r} is no number: {remedy}")
    return number


def _tagged(row: Row, example_id: str, text: Any, label: Any) -> Example:
    words = _words(row, text, "words")
    tags = None if label is None else _words(row, label, "tags")
    if tags is not None and len(tags) != len(words):
        raise UserError(f"{row.where}: {len(words)} words, but {len(tags)} tags")
    return Example(row.where, example_id, " ".join(words), words=words, tags=tags)


def _words(row: Row, value: Any, name: str) -> tuple[str, ...]:
    words = split_words(value) if isinstance(value, str) else value
    if not isinstance(words, list) or not words:
        raise UserError(f"{row.where}: there are no {name}: a list, or text with spaces between them, is needed")
    for word in words:
        if isinstance(word, bool) or not isinstance(word, (str, int)) or not str(word).strip(" \t"):
            raise UserError(f"{row.where}: {word!r} is none of the {name}: it is empty, or no text")
    return tuple(str(word) for word in words)
