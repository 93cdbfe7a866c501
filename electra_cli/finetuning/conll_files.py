"""Files of CoNLL's columns in: a word a line with its tag, a blank line between sentences; examples out."""

from electra_cli.errors import UserError
from electra_cli.finetuning.examples import Example
from electra_cli.finetuning.text_lines import read_text, split_lines

DOCUMENT_START = "-DOCSTART-"


def read_conll(path: str, word_column: str, tag_column: str) -> list[Example]:
    """Returns the sentences of a file, with `where` the line of their first word.

    Columns lie between tabs if the first word's line has one, else between spaces. A file of one column is unlabelled.
    Left out are `-DOCSTART-` lines, and before the first word of a sentence comments: lines that begin with '#' and
    have another number of columns.

    Args:
      path: the file.
      word_column: number of the column of words, from 0; negative from the end. '': 0.
      tag_column: that of tags. '': -1.

    Raises:
      UserError: the file cannot be read, a column is missing, or a line has another number of columns than the first.
    """
    lines = split_lines(read_text(path))
    separator, num_columns = _columns_of(path, lines)
    word_place = _place(path, "text", word_column or "0", num_columns)
    tag_place = None if num_columns == 1 else _place(path, "label", tag_column or "-1", num_columns)
    if tag_place == word_place:
        raise UserError(
            f"{path}: column {word_place} is that of words (--config.data.text) and of tags (--config.data.label)"
        )
    examples: list[Example] = []
    words: list[str] = []
    tags: list[str] = []
    first_line = 0

    def finish() -> None:
        if words:
            examples.append(
                Example(
                    where=f"{path}:{first_line}",
                    id=str(len(examples)),
                    text=" ".join(words),
                    words=tuple(words),
                    tags=None if tag_place is None else tuple(tags),
                )
            )
        words.clear()
        tags.clear()

    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(DOCUMENT_START):
            finish()
            continue
        fields = _split(line, separator)
        if len(fields) != num_columns:
            if line.startswith("#") and not words:
                continue
            raise UserError(
                f"{path}:{number}: number of columns {len(fields)}, where the first word's line has {num_columns}"
            )
        if not fields[word_place]:
            raise UserError(f"{path}:{number}: the word (column {word_place}) is empty")
        if tag_place is not None and not fields[tag_place]:
            raise UserError(f"{path}:{number}: the tag (column {tag_place}) is empty")
        first_line = first_line if words else number
        words.append(fields[word_place])
        if tag_place is not None:
            tags.append(fields[tag_place])
    finish()
    return examples


def _split(line: str, separator: str | None) -> list[str]:
    return [field.strip() for field in line.split(separator)]


def _columns_of(path: str, lines: list[str]) -> tuple[str | None, int]:
    """Returns what separates columns, None for spaces, and how many there are."""
    words = (line for line in lines if line.strip() and not line.startswith(DOCUMENT_START))
    first = next((line for line in words if not line.startswith("# ")), None)
    if first is None:
        raise UserError(f"{path} holds no word")
    separator = "\t" if "\t" in first else None
    return separator, len(_split(first, separator))


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
