"""Files of CoNLL's columns in: a word a line with its tag, a blank line between sentences; examples out."""

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from electra_cli import files
from electra_cli.config.suggestions import did_you_mean_file
from electra_cli.data import inputs
from electra_cli.data.inputs import without_surrogates
from electra_cli.errors import UserError
from electra_cli.finetuning.examples import Answer, Example

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: str) -> str:
    """Returns the text of a file, UTF-8, plain or compressed (`.gz`, `.bz2`, `.xz`, `.zst`), local or remote.

    Raises:
      UserError: there is no such file, it is a directory, empty, damaged, or not UTF-8.
    """
    check_file(path)
    try:
        with files.open_file(path, "rb") as raw, inputs.unpack(raw, path) as stream:
            content = stream.read()
    except (*inputs.DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        raise UserError(f"{path} is damaged or cut off ({error}): get the file anew") from error
    if content.startswith(_UTF16_MARKS):
        raise UserError(f"{path} is UTF-16: convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)")
    content = content.removeprefix(_BYTE_ORDER_MARK)
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(0)) + 1
        raise UserError(f"{path}:{line}: a zero byte: this is no text file")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8: convert the file (if it is Latin-1: "
            f"iconv -f LATIN1 -t UTF-8)"
        ) from error
    if not text.strip():
        raise UserError(f"{path} is empty: give a file that holds examples")
    return text


def check_file(path: str) -> None:
    """Raises a `UserError` where there is no such file, or a directory of that name; it may still be unreadable."""
    if files.is_directory(path):
        raise UserError(f"{path} is a directory, not a file: name a file in it")
    # Of local ones also pipes, which have no size.
    is_there = files.size(path) is not None if files.is_remote(path) else os.path.exists(path)
    if not is_there:
        raise UserError(f"{path}: no such file{'' if files.is_remote(path) else did_you_mean_file(path)}")


def split_lines(text: str) -> list[str]:
    """Returns lines without their ends, '\\n' or '\\r\\n', and without blank ones behind the last that is none.

    Other characters that Unicode counts as ends of lines are text.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


_SQUAD_FORM = (
    '{"data": [{"paragraphs": [{"context": "...", "qas": [{"id": "...", "question": "...", "answers": [...]}]}]}]}'
)


def read_squad(path: str) -> list[Example]:
    """Returns the questions of a file, in its order.

    A question without `answers` is unlabelled. One with none in the list has none (`is_impossible`), as the official
    script counts.

    Raises:
      UserError: the file cannot be read or is not of that form; two questions have one id; an answer does not stand in
        its context where it says.
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
        place = f" behind question {examples[-1].id}" if examples else ""
        raise UserError(f"{path}{place} is not of SQuAD's form ({error!r}): {_SQUAD_FORM} is needed") from error
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
    says_impossible = record.get("is_impossible")
    if says_impossible and answers:
        raise UserError(f"{where}: is_impossible, but has an answer ({answers[0].text!r})")
    if says_impossible is False and record.get("answers") == []:
        raise UserError(f"{where}: has no answer, but is_impossible is false")
    return Example(
        where=where,
        id=str(record["id"]),
        text=question,
        second_text=context,
        answers=answers,
        is_impossible=bool(says_impossible) or record.get("answers") == [],
    )


def _check_answer(answer: Answer, context: str, where: str) -> None:
    if isinstance(answer.start, bool) or not isinstance(answer.start, int):
        raise UserError(f"{where}: answer_start is {answer.start!r}: it is a character of the context, counted from 0")
    if not answer.text.strip():
        raise UserError(f"{where}: an answer is empty")
    if answer.start >= 0 and context.startswith(answer.text, answer.start):
        return
    place = context.find(answer.text)
    if place < 0:
        raise UserError(f"{where}: the answer {_short(answer.text)!r} does not occur in its context")
    found = context[max(answer.start, 0) : max(answer.start, 0) + len(answer.text)]
    raise UserError(
        f"{where}: the answer {_short(answer.text)!r} does not stand at character {answer.start} of its context, where "
        f"{_short(found)!r} is, but at {place}"
    )


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


DOCUMENT_START = "-DOCSTART-"
# Of CoNLL-U (https://universaldependencies.org/format.html): ID, FORM, LEMMA, UPOS and six more.
_CONLLU_COLUMNS, _FORM, _UPOS = 10, 1, 3
# The ID of a line that is no word: a range of words that are written as one, or a word that is not written.
_NO_WORD = re.compile(r"\d+[-.]\d+\t")
# A comment in the form of Universal Dependencies: '# sent_id = 3'.
_KEY_AND_VALUE = re.compile(r"# \S+ = ")


@dataclasses.dataclass(frozen=True)
class _Columns:
    """The columns of a file: what separates them (None: spaces), how many there are, and the numbers of two."""

    separator: str | None
    number: int
    word: int
    tag: int | None

    def split(self, line: str) -> list[str]:
        """Returns the fields of a line."""
        return _split(line, self.separator)


def read_conll(path: str, word_column: str, tag_column: str, *, is_conllu: bool = False) -> list[Example]:
    """Returns the sentences of a file, with `where` the line of their first word.

    Columns lie between tabs if the first word's line has one, else between spaces. A file of one column is unlabelled,
    and one of CoNLL-U whose tags are all '_'. Left out are `-DOCSTART-` lines, comments before the first word of a
    sentence, and of CoNLL-U lines whose ID is a range (1-2) or has a point (1.1).

    Args:
      path: the file.
      word_column: number of the column of words, from 0; negative from the end. '': 0, or of CoNLL-U FORM.
      tag_column: that of tags. '': -1, or of CoNLL-U UPOS.
      is_conllu: whether the file is CoNLL-U.

    Raises:
      UserError: the file cannot be read, a column is missing, or a line has another number of columns than the first.
    """
    lines = split_lines(read_text(path))
    usual_word, usual_tag = (str(_FORM), str(_UPOS)) if is_conllu else ("0", "-1")
    columns = _find_columns(path, lines, word_column or usual_word, tag_column or usual_tag, is_conllu)
    known = _known_values(lines, columns)
    is_labelled = columns.tag is not None and not (is_conllu and known[columns.tag] == {"_"})
    examples: list[Example] = []
    for sentence in _sentences(lines):
        rows = list(itertools.dropwhile(lambda row: _is_comment(row[1], columns, known), sentence))
        if is_conllu:
            rows = [(number, line) for number, line in rows if not _NO_WORD.match(line)]
        if rows:
            first_line, words = rows[0][0], [_word_and_tag(f"{path}:{number}", line, columns) for number, line in rows]
            examples.append(
                Example(
                    where=f"{path}:{first_line}",
                    id=str(len(examples)),
                    text=" ".join(word for word, _ in words),
                    words=tuple(word for word, _ in words),
                    tags=tuple(tag for _, tag in words) if is_labelled else None,
                )
            )
    return examples


def _sentences(lines: Sequence[str]) -> Iterator[list[tuple[int, str]]]:
    """Yields the lines of each sentence with their numbers, from 1."""
    for is_between, group in itertools.groupby(enumerate(lines, 1), key=lambda row: _is_between(row[1])):
        if not is_between:
            yield list(group)


def _is_between(line: str) -> bool:
    return not line.strip() or line.startswith(DOCUMENT_START)


def _known_values(lines: Sequence[str], columns: _Columns) -> list[set[str]]:
    """Returns what stands in each column of the lines that are surely words."""
    rows = (columns.split(line) for line in lines if not line.startswith("#") and not _is_between(line))
    known: list[set[str]] = [set() for _ in range(columns.number)]
    for row in rows:
        for values, field in zip(known, row, strict=False):
            values.add(field)
    return known


def _is_comment(line: str, columns: _Columns, known: Sequence[set[str]]) -> bool:
    """Whether a line before the first word of a sentence is a comment.

    One that begins with '# ' and has as many fields as a word's line is the word '#' if one of its other columns holds
    what stands there beside other words, or '#', the Penn Treebank's tag of that word.
    """
    if not line.startswith("#"):
        return False
    fields = columns.split(line)
    if len(fields) != columns.number:
        return True
    if not line.startswith("# ") or columns.number == 1:
        return False
    return bool(_KEY_AND_VALUE.match(line)) or not any(
        field == "#" or field in known[place] for place, field in enumerate(fields) if place != columns.word
    )


def _word_and_tag(where: str, line: str, columns: _Columns) -> tuple[str, str]:
    """Returns the word of a line and its tag, '' in a file without tags."""
    fields = columns.split(line)
    if len(fields) != columns.number:
        raise UserError(f"{where}: number of columns {len(fields)}, where the first word's line has {columns.number}")
    word, tag = fields[columns.word], "" if columns.tag is None else fields[columns.tag]
    if not word:
        raise UserError(f"{where}: the word (column {columns.word}) is empty")
    if not tag and columns.tag is not None:
        raise UserError(f"{where}: the tag (column {columns.tag}) is empty")
    return word, tag


def _find_columns(path: str, lines: Sequence[str], word_column: str, tag_column: str, is_conllu: bool) -> _Columns:
    rows = [line for line in lines if not _is_between(line)]
    # A line that begins with '#' may be a comment: the first word's is one without, if there is any.
    first = next((line for mark in ("#", "# ") for line in rows if not line.startswith(mark)), None)
    if first is None:
        raise UserError(f"{path} holds no word")
    separator = "\t" if "\t" in first else None
    number = len(_split(first, separator))
    if is_conllu and (separator is None or number != _CONLLU_COLUMNS):
        raise UserError(
            f"{path}: columns {number}, and CoNLL-U has {_CONLLU_COLUMNS} between tabs: if it is another format of "
            f"columns, --config.data.format=conll"
        )
    word = _place(path, "text", word_column, number)
    tag = None if number == 1 else _place(path, "label", tag_column, number)
    if word == tag:
        raise UserError(
            f"{path}: column {word} is that of words (--config.data.text) and of tags (--config.data.label)"
        )
    return _Columns(separator, number, word, tag)


def _split(line: str, separator: str | None) -> list[str]:
    return [field.strip() for field in line.split(separator)]


def _place(path: str, key: str, column: str, num_columns: int) -> int:
    try:
        place = int(column)
    except ValueError as error:
        raise UserError(
            f"--config.data.{key}={column}: columns of CoNLL files have no names; give a number, 0 for the first, -1 "
            f"for the last"
        ) from error
    if not -num_columns <= place < num_columns:
        raise UserError(f"{path} has {num_columns} columns, 0 to {num_columns - 1}: no --config.data.{key}={column}")
    return place % num_columns
