"""Files of text in any of the usual forms: plain, compressed, JSON lines, Parquet; local or remote."""

import bz2
import glob
import gzip
import io
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from electra_cli import files
from electra_cli.data import python_docs
from electra_cli.errors import UnreadableError, UserError

COMPRESSION_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
PARQUET_SUFFIX = ".parquet"
# What the readers raise at a file that is damaged or cut off; pyarrow's own errors are of these types too.
DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, ValueError)
_PARQUET_BATCH_ROWS = 1000


def reading_errors() -> tuple[type[Exception], ...]:
    """Returns the exceptions of a file that cannot be read, or is damaged."""
    return (*DAMAGE, *files.errors())


def list_files(path: str) -> list[str]:
    """Returns the files that an `--input` names: a file, a directory (all files below it that are not hidden, sorted),
    or a pattern with *, ? or [...]; local or remote (`gs://`). An `UnreadableError` when there is none."""
    if files.is_remote(path):
        return _list_remote(path)
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        # As far as there is such a directory, its name is meant as it is.
        directory = path
        while directory and not os.path.isdir(directory):
            directory = os.path.dirname(directory)
        pattern = glob.escape(directory) + path[len(directory) :]
        matches = sorted(match for match in glob.glob(pattern, recursive=True) if os.path.isfile(match))
        if not matches:
            problem = "the pattern matches no file" if glob.has_magic(path) else "no such file or directory"
            raise UnreadableError(f"--input={path}: {problem}")
        return matches
    paths = []
    for directory, subdirectories, names in os.walk(path):
        subdirectories[:] = sorted(name for name in subdirectories if not name.startswith("."))
        paths += [os.path.join(directory, name) for name in sorted(names) if not name.startswith(".")]
    if not paths:
        raise UnreadableError(f"--input={path}: the directory holds no files")
    return paths


def _list_remote(path: str) -> list[str]:
    import tensorflow as tf  # noqa: PLC0415  (takes seconds; local paths can do without)

    try:
        if tf.io.gfile.isdir(path):
            paths = [
                files.join(directory, name)
                for directory, _, names in tf.io.gfile.walk(path)
                for name in names
                if not name.startswith(".")
            ]
        else:
            paths = [path] if tf.io.gfile.exists(path) else tf.io.gfile.glob(path)
    except tf.errors.OpError as error:
        raise UnreadableError(f"--input={path} cannot be listed: {error.message}") from error
    if not paths:
        raise UnreadableError(f"--input={path}: no such file or directory")
    return sorted(paths)


def uncompressed_name(path: str) -> str:
    """Returns the name without the suffix of a compression."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix in COMPRESSION_SUFFIXES else path


def is_json(path: str) -> bool:
    """Whether a file holds JSON lines, by its name."""
    return uncompressed_name(path).endswith(JSON_SUFFIXES)


def is_parquet(path: str) -> bool:
    """Whether a file is Parquet, by its name."""
    return uncompressed_name(path).endswith(PARQUET_SUFFIX)


def unpack(raw: IO[bytes], path: str) -> IO[bytes]:
    """Returns a stream that unpacks an open file as its name says: `.gz`, `.bz2`, `.xz` or `.zst`. Reading it raises
    OSError or one of `DAMAGE` when the file cannot be read or is damaged."""
    openers: dict[str, Callable] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    suffix = os.path.splitext(path)[1]
    if suffix in openers:
        return openers[suffix](raw)
    if suffix == ".zst":
        import pyarrow  # noqa: PLC0415  (import time)

        return io.BufferedReader(pyarrow.input_stream(raw, compression="zstd"))
    return raw


def read_json_text(line: str, field: str, path: str, number: int) -> str:
    """Returns the text of a line '{"text": "...", ...}'; a `UserError` with path and line (from 1) when it has none."""
    where = f"{path}, line {number}"
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(
            f"{where}: no JSON ({error}); a file of JSON lines has one object a line, "
            f'{{"{field}": "..."}}; rename it to .txt if it is plain text'
        ) from error
    if not isinstance(record, dict) or field not in record:
        names = f"it has {', '.join(sorted(record)[:10])}" if isinstance(record, dict) else "it is no object"
        raise UserError(f"{where}: no field {field!r} ({names}); name the text's field with --text_field")
    text = record[field]
    if not isinstance(text, str | None):
        raise UserError(
            f"{where}: field {field!r} is no text but {type(text).__name__}; name another with --text_field"
        )
    return without_surrogates(text or "")


def without_surrogates(text: str) -> str:
    """Replaces halves of UTF-16 pairs, which JSON can name and no text can hold, by U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_parquet_texts(path: str, field: str) -> Iterator[list[str]]:
    """Yields a Parquet column, some rows at a time, empty for null; a `UserError` when there is no such column of text,
    OSError or one of `DAMAGE` when the file cannot be read."""
    import pyarrow  # noqa: PLC0415  (import time)
    from pyarrow import parquet  # noqa: PLC0415

    with files.open_file(path, "rb") as raw:
        table = parquet.ParquetFile(raw)
        names = table.schema_arrow.names
        if field not in names:
            raise UserError(
                f"{path} has no column {field!r}; it has {', '.join(names[:10])}: name one with --text_field"
            )
        kind = table.schema_arrow.field(field).type
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            raise UserError(f"{path}: column {field!r} is no text but {kind}; name another with --text_field")
        for batch in table.iter_batches(_PARQUET_BATCH_ROWS, columns=[field]):
            yield [text or "" for text in batch.column(0).to_pylist()]


_NUM_NAMES_SHOWN = 8
_TABLE_SUFFIXES = (".tsv", ".csv")


def describe_inputs(inputs: Sequence[str]) -> tuple[str, list[str]]:
    """Returns a line on what is read (empty without files), and warnings of tables, which are read as text too.

    A table that was named itself is meant; one that a directory or pattern gave is warned of.
    """
    all_names: list[str] = []
    warnings: list[str] = []
    for path in inputs:
        if path == python_docs.NAME:
            continue
        paths = list_files(path)
        names = [_name_within(path, file) for file in paths]
        all_names += names
        tables = [name for name in names if uncompressed_name(name).lower().endswith(_TABLE_SUFFIXES)]
        if tables and paths != [path]:
            verb, them = ("is", "it") if len(tables) == 1 else ("are", "them")
            warnings.append(
                f"--input={path}: {_enumerate(tables)} {verb} read as plain text, labels and all; to leave {them} "
                f"out, name the files to read or give a pattern, such as DIR/*.txt"
            )
    number = f"{len(all_names):,} file{'' if len(all_names) == 1 else 's'}"
    return (f"reading {number}: {_enumerate(all_names)}" if all_names else ""), warnings


def _name_within(path: str, file: str) -> str:
    folder = path.rstrip("/") + "/"
    return file.removeprefix(folder) if file.startswith(folder) else os.path.basename(file)


def _enumerate(names: Sequence[str]) -> str:
    rest = len(names) - _NUM_NAMES_SHOWN
    return ", ".join(names[:_NUM_NAMES_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")
