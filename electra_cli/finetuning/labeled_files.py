"""Reads labelled files of any format."""

import dataclasses
import json
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
    read_text,
    split_lines,
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
      label_names: file of the names of labels that are numbers (`read_label_names`), read if there are any; '': none.
    """

    path: str
    columns: Columns
    format: str = ""
    label_needed: bool = True
    skip_bad: bool = False
    label_names: str = ""

    def read(self, kind: str) -> Contents:
        """Returns the content of the file for a kind of task, one of `config.finetuning.KINDS`.

        Raises a `UserError` that names file and line where the file cannot be read or is broken.
        """
        check_file(self.path)  # before its name is searched for a format
        file_format = find_format(self.path, kind, self.format, self.columns.flag)
        errors: list[UserError] = []
        notices: list[str] = []
        columns, label_column = "", ""
        if file_format == "squad":
            examples = read_squad(self.path, errors)
        elif file_format in ("conll", "conllu"):
            is_conllu = file_format == "conllu"
            examples = read_conll(self.path, self.columns.text, self.columns.label, errors, is_conllu=is_conllu)
        else:
            examples, columns, label_column = self._read_table(file_format, kind, errors)
            notices += _quote_notices(self.path, kind, examples)
        examples = convert_each(_tagged_by_words, examples, errors)
        examples = self._without_labels_for_none(examples, label_column, notices)
        if self.label_names and any(example.classes for example in examples):
            names = read_label_names(self.label_names)
            examples = convert_each(lambda example: _named(example, names, self.label_names), examples, errors)
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

    def _without_labels_for_none(self, examples: list[Example], label_column: str, notices: list[str]) -> list[Example]:
        """Returns examples without those whose label means that there is none, or if all do, all as unlabelled.

        That is '-' as in SNLI's gold_label, and -1 as in Hugging Face's datasets, where other labels are numbers with
        names, or all labels of a file that needs none are -1.
        """
        none: set[str | float] = {"-"} if label_column == "gold_label" else set()
        if self.label_names or (not self.label_needed and all(example.label in ("-1", -1.0) for example in examples)):
            none |= {"-1", -1.0}
        marked = [example for example in examples if example.label in none]
        if not marked:
            return examples
        mark = "-1" if marked[0].label == -1.0 else marked[0].label
        count = f"{len(marked):,} of {len(examples):,} examples have the label {mark}, which stands for none"
        if len(marked) == len(examples):
            notices.append(f"{self.path}: {count}: they are not scored")
            return [dataclasses.replace(example, label=None) for example in examples]
        notices.append(f"{self.path}: {count}: they are skipped")
        return [example for example in examples if example.label not in none]

    def _read_table(self, file_format: str, kind: str, errors: list[UserError]) -> tuple[list[Example], str, str]:
        """Returns the examples, which columns were chosen, and the name of that of labels; '': none."""
        tagging = kind == "tagging"
        table = read_table(self.path, file_format, self.columns, tagging=tagging, skip_bad=self.skip_bad)
        indices = find_columns(table, self.columns, tagging=tagging, label_needed=self.label_needed)
        errors += table.errors
        examples = convert_each(lambda row: _from_row(row[1], row[0], kind, indices), enumerate(table.rows), errors)
        are_named = self.columns.text and (self.columns.label or indices.label is None)
        label_column = "" if indices.label is None or table.names is None else table.names[indices.label]
        return examples, "" if are_named else indices.description, label_column


def read_label_names(path: str) -> tuple[str, ...]:
    """Returns the names of the labels 0, 1, ...: a line each, or of JSON a list, or an object by number, which may be
    under 'names' or 'id2label'. Raises a `UserError` where it is neither, or a name is empty or there twice."""
    text = read_text(path)
    names: Any = [line.strip() for line in split_lines(text)]
    if uncompressed_name(path).lower().endswith(".json"):
        try:
            names = json.loads(text)
        except ValueError as error:
            raise UserError(f"{path} is no JSON ({error}): give a list of names") from error
        if isinstance(names, dict):
            names = names.get("id2label", names.get("names", names))
        if isinstance(names, dict):
            names = [names.get(str(number)) for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"{path}: give a name for each of the numbers from 0 on: one a line, or as a list in JSON")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: {twice!r} is the name of two labels: give each its own")
    return tuple(names)


def _tagged_by_words(example: Example) -> Example:
    """Returns an example; raises a `UserError` where its tags were aligned with tokens, as transformers trains on."""
    if example.tags is None or "-100" not in example.tags:
        return example
    index = example.tags.index("-100")
    raise UserError(
        f"{example.where}: the tag of {(example.words or ())[index]!r} is -100, which stands for a token that is no "
        f"word's first: give each word and its tag, as before words were divided into tokens"
    )


def _named(example: Example, names: Sequence[str], file: str) -> Example:
    def name(label: str) -> str:
        if label.isdecimal() and int(label) < len(names):
            return names[int(label)]
        if label in names:
            return label
        raise UserError(
            f"{example.where}: label {label!r} is neither a number from 0 to {len(names) - 1} nor a name in {file}"
        )

    if example.tags is not None:
        return dataclasses.replace(example, tags=tuple(map(name, example.tags)))
    return dataclasses.replace(example, label=name(example.label)) if isinstance(example.label, str) else example


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
