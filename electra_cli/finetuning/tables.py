"""Reads text files: lines, or the rows of TSV, CSV and JSON lines and which column is what."""

import collections
import csv
import dataclasses
import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from electra_cli import files
from electra_cli.config.suggestions import did_you_mean_file
from electra_cli.data import inputs
from electra_cli.data.inputs import without_surrogates
from electra_cli.errors import UserError
from electra_cli.finetuning.examples import abbreviate, first_error, to_number

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Above either, text and rows would take some 8 GiB of memory or more.
_MAX_BYTES, _MAX_LINES = 2**30, 10_000_000
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# Columns that are taken when none is named, the fuller match first: two texts before one, words before a text.
_USUAL_TEXTS = (
    (("sentence1", "sentence2"), ("question1", "question2"), ("premise", "hypothesis"), ("question", "sentence")),
    (("sentence",), ("text",)),
)
_USUAL_WORDS = ((("words",), ("tokens",)), (("sentence",), ("text",)))
_USUAL_LABELS = ((("label",), ("labels",), ("gold_label",), ("class",)), (("score",),))
_USUAL_TAGS = ((("tags",), ("ner_tags",)), (("labels",), ("label",)))
_LABEL_NAMES = {name for tiers in (_USUAL_LABELS, _USUAL_TAGS) for tier in tiers for (name,) in tier}
_USUAL_IDS = ("id", "idx", "index")
# Longer fields are taken for texts, not for names of columns.
_MAX_WORDS_OF_NAME = 3


def read_text(path: str) -> str:
    """Returns the text of a file, UTF-8, plain or compressed (`.gz`, `.bz2`, `.xz`, `.zst`), local or remote.

    Raises a `UserError` where it is missing, a directory, empty, damaged, or not UTF-8.
    """
    check_file(path)
    try:
        with files.open_file(path, "rb") as raw, inputs.unpack(raw, path) as stream:
            content = stream.read(_MAX_BYTES + 1)
    except inputs.reading_errors() as error:
        raise inputs.reading_error(path, error) from error
    if len(content) > _MAX_BYTES or content.count(b"\n") > _MAX_LINES:
        raise UserError(
            f"{path} holds more than {_MAX_BYTES / 2**30:g} GiB of text or {_MAX_LINES:,} lines, which is the limit as "
            f"labelled files are kept in memory: give a sample of its rows"
        )
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
    return text if "\n" in text else text.replace("\r", "\n")  # as lines ended on old Macs


def check_file(path: str) -> None:
    """Raises a `UserError` where a file is missing or a directory; it may still be unreadable."""
    if files.is_directory(path):
        raise UserError(f"{path} is a directory, not a file: name a file in it")
    # Of local ones also pipes, which have no size.
    is_there = files.size(path) is not None if files.is_remote(path) else os.path.exists(path)
    if not is_there:
        hint = "" if files.is_remote(path) else did_you_mean_file(path)
        raise UserError(f"{path}: {files.describe_missing(path, 'file')}{hint}")


def split_lines(text: str) -> list[str]:
    """Returns lines without their ends, '\\n' or '\\r\\n', and without the blank ones at the end.

    Other characters that Unicode counts as ends of lines are text.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def split_words(text: str) -> list[str]:
    """Returns what lies between spaces and tabs; other characters that Unicode counts as spaces are text."""
    return [word for word in re.split("[ \t]+", text) if word]


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns are read: by name, or by number from 0 (negative from the end). '': the usual names.

    Attributes:
      text: the text, or the first of a pair, or the words.
      second_text: the second of a pair. '': none, unless `text` is '' too and the usual names are those of a pair.
      label: the labels or tags.
      flag: the beginning of `text=COLUMN`, `label=COLUMN` or `format=FORMAT` in messages.
    """

    text: str = ""
    second_text: str = ""
    label: str = ""
    flag: str = "--config.data."

    @property
    def are_numbers(self) -> bool:
        """Whether all that are given are numbers: then files have no header."""
        given = [column for column in (self.text, self.second_text, self.label) if column]
        return bool(given) and all(_is_number(column) for column in given)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table, at `where` ('FILE:LINE'); its fields are text but in JSON lines, None where these lack one."""

    where: str
    fields: Sequence[Any]


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of a file: one at least, with as many fields each.

    `names` are None where it has no header; `errors` are of lines that were skipped; `flag` is as of `Columns`.
    """

    path: str
    names: tuple[str, ...] | None
    rows: list[Row]
    errors: tuple[UserError, ...] = ()
    flag: str = Columns.flag

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.names if self.names is not None else self.rows[0].fields)


@dataclasses.dataclass(frozen=True)
class ColumnIndices:
    """The indices of the columns that are read, as `Example` names them, and their description for users."""

    text: int
    second_text: int | None
    label: int | None
    id: int | None
    description: str

    @property
    def texts(self) -> list[int]:
        """The indices of the one or two columns of texts."""
        return [self.text] if self.second_text is None else [self.text, self.second_text]


def _is_number(column: str) -> bool:
    return column.removeprefix("-").isdecimal()


def read_table(
    path: str, file_format: str, columns: Columns, *, tagging: bool = False, skip_bad: bool = False
) -> Table:
    """Reads a table: 'tsv' (no quoting: a quote is a character, as in GLUE), 'csv' (commas, quotes) or 'jsonl'.

    There is no header if `columns` are numbers. In `tagging` a blank line may separate sentences of a CoNLL file.
    `skip_bad` skips broken lines, those with another number of columns than the header or no JSON. Raises a `UserError`
    where the file cannot be read, has no rows, or has a broken line.
    """
    text = read_text(path)
    if file_format == "jsonl":
        return _read_json_lines(path, text, columns.flag, skip_bad)
    rows: Iterator[tuple[int, list[str]]]
    if file_format == "tsv":
        rows = ((number, line.split("\t")) for number, line in enumerate(split_lines(text), 1))
    else:
        rows = _read_csv(path, text, columns.flag)
    names = None if columns.are_numbers else tuple(name.strip() for name in next(rows)[1])
    table = Table(path, names, [Row(f"{path}:{number}", fields) for number, fields in rows], flag=columns.flag)
    if not table.rows:
        header = abbreviate(table.names or ())
        raise UserError(f"{path} has a header ({header}) and nothing below it: give a file with examples")
    return _check_widths(table, skip_bad, tagging, "tabs" if file_format == "tsv" else "commas")


def _check_widths(table: Table, skip_bad: bool, tagging: bool, separators: str) -> Table:
    errors = [_width_error(table, row, tagging, separators) for row in table.rows if len(row.fields) != table.width]
    rows = [row for row in table.rows if len(row.fields) == table.width]
    if errors and not skip_bad:
        raise first_error(errors, len(table.rows), table.flag)
    if not rows:
        raise UserError(f"{table.path}: no line has as many columns as the header, {table.width}")
    return dataclasses.replace(table, rows=rows, errors=tuple(errors))


def _width_error(table: Table, row: Row, tagging: bool, separators: str) -> UserError:
    if not any(field.strip() for field in row.fields):
        hint = f": remove it{_separator_hint(table)}"
        if tagging:
            hint = f"; if a line holds one word and blank ones divide sentences: {table.flag}format=conll"
        return UserError(f"{row.where}: the line is blank{hint}")
    expected = "the header" if table.names is not None else "the first line"
    remedy = _separator_hint(table) or f": fix the line, whose columns lie between {separators}"
    return UserError(f"{row.where}: {_count(len(row.fields))}, where {expected} has {table.width}{remedy}")


def _count(num_columns: int) -> str:
    return f"{num_columns} column{'' if num_columns == 1 else 's'}"


def _read_csv(path: str, text: str, flag: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # by default 131,072 characters
    reader = csv.reader(io.StringIO(text.rstrip(), newline=""), strict=True)
    first_line = 1
    try:
        for fields in reader:
            yield first_line, fields
            first_line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}:{first_line}: {error}: is a quote not closed, or not doubled within quotes? (TSV has no quotes: "
            f"{flag}format=tsv)"
        ) from error


def _read_json_lines(path: str, text: str, flag: str, skip_bad: bool) -> Table:
    records: dict[str, dict[str, Any]] = {}
    errors = []
    for number, line in enumerate(split_lines(text), 1):
        where = f"{path}:{number}"
        try:
            records[where] = _parse_json_line(where, line)
        except UserError as error:
            errors.append(error)
    if errors and not (skip_bad and records):
        raise first_error(errors, len(records) + len(errors), flag)
    names = tuple(dict.fromkeys(name for record in records.values() for name in record))
    rows = [Row(where, [_clean(record.get(name)) for name in names]) for where, record in records.items()]
    return Table(path, names, rows, tuple(errors), flag)


def _parse_json_line(where: str, line: str) -> dict[str, Any]:
    if not line.strip():
        raise UserError(f"{where}: the line is blank: remove it")
    try:
        record = files.parse_json(line)
    except ValueError as error:
        raise UserError(f"{where}: no JSON ({error}); a file of JSON lines has one object a line") from error
    if not isinstance(record, dict):
        raise UserError(
            f"{where}: {type(record).__name__} in the place of an object; a file of JSON lines has one object a line, "
            f"not all in one list"
        )
    return record


def _clean(value: Any) -> Any:
    """Returns a value without surrogates; None for NaN, by which some libraries write missing values."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return without_surrogates(value) if isinstance(value, str) else value


def find_columns(table: Table, columns: Columns, *, tagging: bool, label_needed: bool) -> ColumnIndices:
    """Returns which column is what; the usual names are those of words and tags in `tagging`.

    Raises a `UserError` where one is missing, occurs twice, or serves as two, where usual names fit equally, or where
    numbers meet a header.
    """
    names, text, second, label = table.names or (), columns.text, columns.second_text, columns.label
    unread: set[str] = set()
    if not text:
        usual_texts = _USUAL_WORDS if tagging else _USUAL_TEXTS
        usual, unread = _find_usual(table, "text", usual_texts)
        if not usual:
            usual_names = [first for tier in reversed(usual_texts) for first, *_ in tier]
            raise _missing(table, "text", " or ".join(usual_names))
        text, second = usual[0], second or "".join(usual[1:])
    if not label:
        usual, other_labels = _find_usual(table, "label", _USUAL_TAGS if tagging else _USUAL_LABELS)
        label, unread = "".join(usual), unread | other_labels
    has_label = bool(label) and _has(table, label)
    if label_needed and not has_label:
        raise _missing(table, "label", label or "label")
    text_index = _index(table, "text", text)
    second_index = _index(table, "second_text", second) if second else None
    label_index = _index(table, "label", label) if has_label else None
    if not label_needed and label_index in (text_index, second_index):
        # The last column, in which labels would be, where there are none.
        has_label, label_index = False, None
    description = f"texts in columns {text} and {second}" if second else f"text in column {text}"
    description += f", labels in {label}" if has_label else ", no labels"
    not_read = [name for name in names if name in unread - {text, second, label}]
    description += f"; not read: {abbreviate(not_read)}" if not_read else ""
    id_index = next((names.index(name) for name in _USUAL_IDS if name in names), None)
    indices = ColumnIndices(text_index, second_index, label_index, id_index, description)
    used = indices.texts if label_index is None else [*indices.texts, label_index]
    if len(set(used)) < len(used):
        raise UserError(f"{table.path}: one column is read as two ({indices.description}): name different ones")
    _refuse_header(table, indices)
    return indices


def _find_usual(table: Table, key: str, tiers: Sequence[Sequence[tuple[str, ...]]]) -> tuple[tuple[str, ...], set[str]]:
    """Returns the usual names of the first tier of which a table has some, (): it has none; and those of later tiers.

    Raises a `UserError` where several of one tier fit, of which none is the better one.
    """
    names = set(table.names or ())
    fits = [fit for fit in ([usual for usual in tier if names.issuperset(usual)] for tier in tiers) if fit]
    if not fits:
        return (), set()
    if len(fits[0]) > 1:
        choices = ", or ".join(" and ".join(usual) for usual in fits[0])
        keys = ("text", "second_text") if len(fits[0][0]) > 1 else (key,)
        raise UserError(f"{table.path}: the {key} may be in {choices}: name it, {name_columns(table.flag, *keys)}")
    return fits[0][0], {name for fit in fits[1:] for usual in fit for name in usual}


def name_columns(flag: str, *keys: str) -> str:
    """Returns how a user names columns; `flag` as of `Columns`."""
    return flag + ("," if flag.endswith(":") else f" {flag}").join(f"{key}=COLUMN" for key in keys)


def _has(table: Table, column: str) -> bool:
    return column in (table.names or ()) or (_is_number(column) and -table.width <= int(column) < table.width)


def _index(table: Table, key: str, column: str) -> int:
    if not _has(table, column):
        raise _missing(table, key, column)
    names = table.names or ()
    if column not in names:
        return int(column) % table.width
    if names.count(column) > 1:
        raise UserError(f"{table.path}: {names.count(column)} columns are named {column!r}: give its number")
    return names.index(column)


def _missing(table: Table, key: str, column: str) -> UserError:
    if table.names is None and not _is_number(column):
        return UserError(
            f"{table.path}: columns by numbers mean that there is no header: give {table.flag}{key}=NUMBER as well "
            f"(it has {_count(table.width)}, counted from 0), or, if it has a header, all by their names"
        )
    if table.names is None:
        return UserError(f"{table.path} has {_count(table.width)}, counted from 0: no {table.flag}{key}={column}")
    return UserError(
        f"{table.path}: no column {column}; it has {abbreviate(table.names)}: name one with {table.flag}{key}=NAME"
        f"{_separator_hint(table)}, or, if the file has no header, all by numbers from 0"
    )


def _separator_hint(table: Table) -> str:
    """Returns a remedy where the first line is a single column with another separator in it."""
    names = table.names or table.rows[0].fields
    if len(names) > 1:
        return ""
    for separator, hint in (
        ("\t", f"its columns lie between tabs: {table.flag}format=tsv"),
        (";", "its columns lie between semicolons: write them with commas or tabs"),
        (",", f"its columns lie between commas: {table.flag}format=csv"),
    ):
        if names and separator in names[0]:
            return f" ({hint})"
    return ""


def _refuse_header(table: Table, indices: ColumnIndices) -> None:
    """Raises a `UserError` when the first row of a table without a header is one."""
    if table.names is not None:
        return
    fields = [field.strip() for field in table.rows[0].fields]
    is_header = indices.label is not None and fields[indices.label].lower() in _LABEL_NAMES
    if is_header or fields == [str(number) for number in range(len(fields))] or _names_no_class(table, indices.label):
        raise UserError(
            f"{table.rows[0].where}: looks like a header ({abbreviate(fields)}), and columns by numbers mean that "
            f"there is none: name them ({table.flag}text={fields[indices.text]}), or remove the line"
        )


def _names_no_class(table: Table, label_index: int | None) -> bool:
    """Whether the first row looks like names, short and without numbers, and its label is unlike all others.

    That is, it occurs there only, and the others occur more than once or are numbers.
    """
    if label_index is None:
        return False
    first, *others = (row.fields[label_index].strip() for row in table.rows)
    counts = collections.Counter(others)
    if not counts or first in counts or any(n == 1 and to_number(label) is None for label, n in counts.items()):
        return False
    return all(len(field.split()) <= _MAX_WORDS_OF_NAME and to_number(field) is None for field in table.rows[0].fields)
