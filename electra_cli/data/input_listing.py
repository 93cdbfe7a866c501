"""What a preparation reads, told before it does: names of files, and which of them may not be meant."""

import os
from collections.abc import Sequence

from electra_cli.data import python_docs
from electra_cli.data.text_files import list_files, uncompressed_name

_NUM_NAMES_SHOWN = 8
_TABLE_SUFFIXES = (".tsv", ".csv")


def describe_inputs(inputs: Sequence[str]) -> tuple[str, list[str]]:
    """Returns what is read, in a line, and warnings of tables, which are read as text too.

    Args:
      inputs: files, directories and patterns, and `builtin:python-docs`, which is no file.

    Returns:
      'reading 2 files: a.txt, b.txt', empty without files; and a warning for each directory or pattern that gave
      tables. A table that was named itself is meant.

    Raises:
      UserError: an input is missing or holds no file.
    """
    shown: list[str] = []
    warnings: list[str] = []
    for path in inputs:
        if path == python_docs.NAME:
            continue
        found = list_files(path)
        names = [_name_within(path, file) for file in found]
        shown += names
        tables = [name for name in names if uncompressed_name(name).lower().endswith(_TABLE_SUFFIXES)]
        if tables and found != [path]:
            verb, them = ("is", "it") if len(tables) == 1 else ("are", "them")
            warnings.append(
                f"--input={path}: {_enumerate(tables)} {verb} read as plain text, labels and all; to leave {them} "
                f"out, name the files to read or give a pattern, such as DIR/*.txt"
            )
    number = f"{len(shown):,} file{'' if len(shown) == 1 else 's'}"
    return (f"reading {number}: {_enumerate(shown)}" if shown else ""), warnings


def _name_within(path: str, file: str) -> str:
    """Returns the name of a file as it lies in the directory that was given, or its last part."""
    folder = path.rstrip("/") + "/"
    return file.removeprefix(folder) if file.startswith(folder) else os.path.basename(file)


def _enumerate(names: Sequence[str]) -> str:
    rest = len(names) - _NUM_NAMES_SHOWN
    return ", ".join(names[:_NUM_NAMES_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")
