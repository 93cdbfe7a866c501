"""Reads labelled files of any format."""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

from electra_cli.config.finetuning import FORMATS
from electra_cli.data.inputs import uncompressed_name, without_surrogates
from electra_cli.errors import UserError
from electra_cli.finetuning.conll import read_conll
from electra_cli.finetuning.examples import Answer, Example, abbreviate, to_number
from electra_cli.finetuning.tables import (
    ColumnIndices,
    Columns,
    Row,
    Table,
    check_file,
    find_columns,
    read_table,
    read_text,
    split_words,
    without_empty_texts,
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
      skip_broken: whether to skip lines of tables with too few or too many columns or an empty text, with a notice.
    """

    path: str
    columns: Columns
    format: str = ""
    label_needed: bool = True
    skip_broken: bool = False

    def read(self, kind: str) -> Contents:
        """Returns the content of the file for a kind of task, one of `config.finetuning.KINDS`.

        Raises a `UserError` that names file and line where the file cannot be read or is broken.
        """
        check_file(self.path)  # before its name is searched for a format
        file_format = find_format(self.path, kind, self.format, self.columns.flag)
        if file_format == "squad":
            contents = Contents(tuple(read_squad(self.path)))
        elif file_format in ("conll", "conllu"):
            columns, is_conllu = self.columns, file_format == "conllu"
            contents = Contents(tuple(read_conll(self.path, columns.text, columns.label, is_conllu=is_conllu)))
        else:
            contents = self._read_table(file_format, kind)
        unlabelled = [example for example in contents.examples if not example.is_labelled]
        if unlabelled and len(unlabelled) < len(contents.examples):
            raise UserError(f"{unlabelled[0].where}: has no label, and others of the file do")
        if unlabelled and self.label_needed:
            raise UserError(f"{self.path}: no example is labelled, and labels are needed")
        return contents

    def _read_table(self, file_format: str, kind: str) -> Contents:
        tagging = kind == "tagging"
        table = read_table(self.path, file_format, self.columns, tagging=tagging, skip_broken=self.skip_broken)
        indices = find_columns(table, self.columns, tagging=tagging, label_needed=self.label_needed)
        if self.skip_broken:
            table = without_empty_texts(table, indices)
        examples = _from_table(table, kind, indices)
        are_named = self.columns.text and (self.columns.label or indices.label is None)
        columns = "" if are_named else indices.description
        return Contents(tuple(examples), _table_notices(table, kind, examples), columns)


def find_format(path: str, kind: str, file_format: str, flag: str = Columns.flag) -> str:
    """Returns the format of a file, by its name if `file_format` is ''; `flag` as of `Columns`.

    Raises a `UserError` where the name does not show it, or the format is not one of that kind of task.
    """
    if not file_format:
        file_format = format_by_name(path)
        if kind == "question_answering" and os.path.splitext(uncompressed_name(path))[1].lower() in ("", ".json"):
            file_format = "squad"
        elif not file_format and kind == "tagging":
            file_format = "conll"
        elif not file_format:
            raise UserError(
                f"{path}: the name does not show the format: give {flag}format=FORMAT, one of {', '.join(FORMATS)}"
            )
    if (file_format == "squad") != (kind == "question_answering"):
        remedy = "needs SQuAD's JSON" if kind == "question_answering" else "cannot read SQuAD's JSON"
        raise UserError(f"{path} (format {file_format}): --config.task={kind} {remedy}")
    if file_format in ("conll", "conllu") and kind != "tagging":
        raise UserError(f"{path}: columns of CoNLL are read with --config.task=tagging, not {kind}")
    return file_format


def format_by_name(path: str) -> str:
    """Returns the format, one of `FORMATS`, of a file name's ending; '': none."""
    return _BY_ENDING.get(os.path.splitext(uncompressed_name(path))[1].lower(), "")


def _from_table(table: Table, kind: str, indices: ColumnIndices) -> list[Example]:
    examples = []
    for number, row in enumerate(table.rows):
        label = None if indices.label is None else row.fields[indices.label]
        label = None if isinstance(label, str) and not label.strip() else label
        example_id = str(number if indices.id is None else row.fields[indices.id])
        text = row.fields[indices.text]
        if kind == "tagging":
            examples.append(_tagged(row, example_id, text, label))
            continue
        second = None if indices.second_text is None else _text(row, row.fields[indices.second_text], "the second text")
        examples.append(Example(row.where, example_id, _text(row, text, "the text"), second, _label(row, kind, label)))
    return examples


def _table_notices(table: Table, kind: str, examples: list[Example]) -> list[str]:
    notices = []
    if table.num_skipped:
        notices.append(f"{table.path}: broken lines skipped: {table.num_skipped:,}")
    is_quoted = all(len(text) > 1 and text[0] == text[-1] == '"' for text in (example.text for example in examples))
    if kind != "tagging" and len(examples) > 1 and is_quoted:
        notices.append(
            f"{table.path}: every text begins and ends with a quote, which is taken for text: if the file has quotes "
            f"as CSV has, write it without"
        )
    return notices


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


_SQUAD_FORM = (
    '{"data": [{"paragraphs": [{"context": "...", "qas": [{"id": "...", "question": "...", "answers": [...]}]}]}]}'
)


def read_squad(path: str) -> list[Example]:
    """Returns the questions of a file, in its order.

    A question without `answers` is unlabelled. One with none in the list has none (`is_impossible`), as the official
    script counts. Raises a `UserError` where the file cannot be read or is not of that form, two questions have one id,
    or an answer is not in its context at `answer_start`.
    """
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): give a file of SQuAD, {_SQUAD_FORM}") from error
    examples: list[Example] = []
    seen: dict[str, int] = {}
    try:
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                context = without_surrogates(paragraph["context"])
                for question in paragraph["qas"]:
                    example = _read_question(path, context, question)
                    if example.id in seen:
                        raise UserError(
                            f"{example.where}: questions {seen[example.id] + 1:,} and {len(examples) + 1:,} of the "
                            f"file have this id: give each its own"
                        )
                    seen[example.id] = len(examples)
                    examples.append(example)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        position = f" behind question {examples[-1].id}" if examples else ""
        raise UserError(f"{path}{position} is not of SQuAD's form ({error!r}): {_SQUAD_FORM} is needed") from error
    if not examples:
        raise UserError(f"{path} holds no question")
    return examples


def _read_question(path: str, context: str, record: dict[str, Any]) -> Example:
    where = f"{path}, question {record['id']}"
    question = without_surrogates(record["question"])
    if not question.strip():
        raise UserError(f"{where}: the question is empty")
    if not context.strip():
        raise UserError(f"{where}: the context is empty")
    answers = tuple(
        Answer(without_surrogates(answer["text"]), answer["answer_start"]) for answer in record.get("answers") or ()
    )
    for answer in answers:
        _check_answer(answer, context, where)
    marked_impossible = record.get("is_impossible")
    if marked_impossible and answers:
        raise UserError(f"{where}: is_impossible, but has an answer ({answers[0].text!r})")
    if marked_impossible is False and record.get("answers") == []:
        raise UserError(f"{where}: has no answer, but is_impossible is false")
    is_impossible = bool(marked_impossible) or record.get("answers") == []
    return Example(where, str(record["id"]), question, context, answers=answers, is_impossible=is_impossible)


def _check_answer(answer: Answer, context: str, where: str) -> None:
    if isinstance(answer.start, bool) or not isinstance(answer.start, int):
        raise UserError(f"{where}: answer_start is {answer.start!r}: it is a character of the context, counted from 0")
    if not answer.text.strip():
        raise UserError(f"{where}: an answer is empty")
    if answer.start >= 0 and context.startswith(answer.text, answer.start):
        return
    start = context.find(answer.text)
    if start < 0:
        raise UserError(f"{where}: the answer {_short(answer.text)!r} does not occur in its context")
    other = context[max(answer.start, 0) : max(answer.start, 0) + len(answer.text)]
    raise UserError(
        f"{where}: the answer {_short(answer.text)!r} is not at character {answer.start} of its context, where "
        f"{_short(other)!r} is, but at {start}"
    )


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
