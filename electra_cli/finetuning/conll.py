"""Reads columns as of CoNLL: a word a line with its tag, a blank line between sentences."""

import dataclasses
import itertools
import re
from collections.abc import Sequence

from electra_cli.errors import UserError
from electra_cli.finetuning.examples import Example, convert_each
from electra_cli.finetuning.tables import read_text, split_lines, split_words

_DOCUMENT_START = "-DOCSTART-"
# Of CoNLL-U (https://universaldependencies.org/format.html): ID, FORM, LEMMA, UPOS and six more.
_CONLLU_COLUMNS, _FORM, _UPOS = 10, 1, 3
# The ID of a line that is no word: a range of words that are written as one, or a word that is not written.
_NO_WORD = re.compile(r"\d+[-.]\d+\t")
# A comment in the form of Universal Dependencies: '# sent_id = 3'.
_KEY_AND_VALUE = re.compile(r"# \S+ = ")


@dataclasses.dataclass(frozen=True)
class _Columns:
    """The separator (None: spaces and tabs), the number of columns, and the indices of words and tags."""

    separator: str | None
    number: int
    word: int
    tag: int | None


def read_conll(
    path: str, word_column: str, tag_column: str, errors: list[UserError], *, is_conllu: bool = False
) -> list[Example]:
    """Returns the sentences of a file, with `where` the line of their first word; what is wrong with others is added to
    `errors`.

    Columns are separated by tabs if the first word's line has one, else by spaces, and are named by index, negative
    from the end; '': 0 and -1, or of CoNLL-U (10 columns) FORM and UPOS. A file of one column is unlabelled, and one of
    CoNLL-U whose tags are all '_'. Skipped are `-DOCSTART-` lines, comments before the first word of a sentence, and of
    CoNLL-U lines whose ID is a range (1-2) or has a point (1.1).

    Raises a `UserError` where the file cannot be read or a column is missing.
    """
    lines = split_lines(read_text(path))
    usual_word, usual_tag = (str(_FORM), str(_UPOS)) if is_conllu else ("0", "-1")
    columns = _find_columns(path, lines, word_column or usual_word, tag_column or usual_tag, is_conllu)
    known = _known_values(lines, columns)
    is_labelled = columns.tag is not None and not (is_conllu and known[columns.tag] == {"_"})
    sentences: list[list[tuple[int, str]]] = []
    for is_between, sentence in itertools.groupby(enumerate(lines, 1), key=lambda row: _is_between(row[1])):
        if is_between:
            continue
        rows = list(itertools.dropwhile(lambda row: _is_comment(row[1], columns, known), sentence))
        if is_conllu:
            rows = [(number, line) for number, line in rows if not _NO_WORD.match(line)]
        if rows:
            sentences.append(rows)

    def convert(numbered: tuple[int, list[tuple[int, str]]]) -> Example:
        index, rows = numbered
        words, tags = zip(*(_word_and_tag(f"{path}:{number}", line, columns) for number, line in rows), strict=True)
        where = f"{path}:{rows[0][0]}"
        return Example(where, str(index), " ".join(words), words=words, tags=tags if is_labelled else None)

    return convert_each(convert, enumerate(sentences), errors)


def _is_between(line: str) -> bool:
    return not line.strip(" \t\r") or line.startswith(_DOCUMENT_START)


def _known_values(lines: Sequence[str], columns: _Columns) -> list[set[str]]:
    """Returns the values of each column in lines that are surely words."""
    known: list[set[str]] = [set() for _ in range(columns.number)]
    for line in lines:
        if not line.startswith("#") and not _is_between(line):
            for values, field in zip(known, _split(line, columns.separator), strict=False):
                values.add(field)
    return known


def _is_comment(line: str, columns: _Columns, known: Sequence[set[str]]) -> bool:
    """Whether a line before the first word of a sentence is a comment.

    One that begins with '# ' and has as many fields as a word's line is the word '#' if one of its other columns has a
    value that other words have there, or '#', the Penn Treebank's tag of that word.
    """
    if not line.startswith("#"):
        return False
    fields = _split(line, columns.separator)
    if len(fields) != columns.number:
        return True
    if not line.startswith("# ") or columns.number == 1:
        return False
    return bool(_KEY_AND_VALUE.match(line)) or not any(
        field == "#" or field in known[index] for index, field in enumerate(fields) if index != columns.word
    )


def _word_and_tag(where: str, line: str, columns: _Columns) -> tuple[str, str]:
    fields = _split(line, columns.separator)
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
    word = _column_index(path, "text", word_column, number)
    tag = None if number == 1 else _column_index(path, "label", tag_column, number)
    if word == tag:
        raise UserError(
            f"{path}: column {word} is that of words (--config.data.text) and of tags (--config.data.label)"
        )
    return _Columns(separator, number, word, tag)


def _split(line: str, separator: str | None) -> list[str]:
    return split_words(line) if separator is None else [field.strip(" ") for field in line.split(separator)]


def _column_index(path: str, key: str, column: str, num_columns: int) -> int:
    try:
        index = int(column)
    except ValueError as error:
        raise UserError(
            f"--config.data.{key}={column}: columns of CoNLL files have no names; give a number, 0 for the first, -1 "
            f"for the last"
        ) from error
    if not -num_columns <= index < num_columns:
        raise UserError(f"{path} has {num_columns} columns, 0 to {num_columns - 1}: no --config.data.{key}={column}")
    return index % num_columns
