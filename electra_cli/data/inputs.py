"""Files of text in any of the usual forms: plain, compressed, JSON lines, Parquet, Arrow; local or remote."""

import bz2
import glob
import gzip
import io
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from electra_cli import files
from electra_cli.data import python_docs
from electra_cli.errors import Option, UnreadableError, UserError

_FORMAT_SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".arrow": "arrow",
}  # fmt: skip
# How files of other formats than text begin, by the ending that such a file should have.
_FIRST_BYTES = {
    ".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ", ".zst": b"\x28\xb5\x2f\xfd",
    ".parquet": b"PAR1", ".arrow": b"ARROW1",
}  # fmt: skip
_COMPRESSION_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
# What the readers raise at a file that is damaged or cut off; pyarrow's own errors are of these types too.
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, ValueError)
# Rows that are decoded at a time, fewer where they are long on average; one value may stand for many rows on disk.
_BATCH_ROWS, _BATCH_BYTES = 64, 2**24


def reading_errors() -> tuple[type[Exception], ...]:
    """Returns the exceptions of a file that cannot be read, or is damaged."""
    return (*_DAMAGE, NotImplementedError, *files.errors())


def reading_error(path: str, error: Exception, after: str = "") -> UserError:
    """Returns what to raise for one of `reading_errors`: a damaged file is distinguished from one that cannot be read
    now, and from one that a decoder cannot read; `after` as in ' after 5 rows'."""
    if "Frame requires too much memory" in str(error):  # the limit of pyarrow's decoder
        return UserError(
            f"{path} needs a window of more than 128 MiB to be decompressed, which is the limit: compress it again, "
            f"zstd -d --long=31 < {path} | zstd --long=27 > NEW.zst"
        )
    if isinstance(error, NotImplementedError):
        return UserError(f"{path} is in a form that pyarrow cannot read ({error}): write it again, with zstd or snappy")
    # bz2, zstd and Parquet report damage by an OSError without a number; those of file systems have one.
    if isinstance(error, _DAMAGE) or (type(error) is OSError and error.errno is None):
        return UserError(f"{path} is damaged or cut off{after} ({error}): get the file again")
    reason = error.strerror if isinstance(error, OSError) else getattr(error, "message", None)  # of TensorFlow
    return UnreadableError(f"{path} cannot be read{after}: {reason or error}")


def list_files(path: str) -> list[str]:
    """Returns the files that an `--input` names: a file, a directory (all files below it that are not hidden, sorted),
    or a pattern with *, ? or [...]; local or remote (`gs://`). An `UnreadableError` when there is none, a `UserError`
    for a pipe."""
    if files.is_remote(path):
        return _list_remote(path)
    if os.path.isfile(path):
        return [path]
    _refuse_pipe(path, path)
    if not os.path.isdir(path):
        # As far as there is such a directory, its name is meant as it is.
        directory = path
        while directory and not os.path.isdir(directory):
            directory = os.path.dirname(directory)
        pattern = glob.escape(directory) + path[len(directory) :]
        paths = sorted(match for match in glob.glob(pattern, recursive=True) if not os.path.isdir(match))
        problem = "the pattern matches no file" if glob.has_magic(path) else "no such file or directory"
    else:
        paths, problem = [], "the directory holds no files"
        for directory, subdirectories, names in os.walk(path):
            subdirectories[:] = sorted(name for name in subdirectories if not name.startswith("."))
            paths += [os.path.join(directory, name) for name in _data_files(names)]
    if not paths:
        raise UnreadableError(f"--input={path}: {problem}")
    for file in paths:
        _refuse_pipe(path, file)
        if not os.path.exists(file):
            raise UnreadableError(f"--input={path}: {file} is a broken link: remove it, or put back what belongs there")
    return paths


def _refuse_pipe(path: str, file: str) -> None:
    if os.path.exists(file) and not os.path.isfile(file) and not os.path.isdir(file):
        where = "" if file == path else f": {file}"
        raise UserError(
            Option("--input"),
            f"={path}{where} is a pipe or device, and text is read more than once: write it to a file first",
        )


def _data_files(names: Sequence[str]) -> list[str]:
    """Returns the names of a directory's files of text, sorted: none that is hidden, and none that
    `datasets.save_to_disk` writes next to its Arrow files."""
    shown = sorted(name for name in names if not name.startswith(".") and name != "dataset_dict.json")
    if {"state.json", "dataset_info.json"} <= set(shown):
        return [name for name in shown if find_format(name) == "arrow" and not name.startswith("cache-")]
    return shown


def _list_remote(path: str) -> list[str]:
    import tensorflow as tf  # noqa: PLC0415  (takes seconds; local paths can do without)

    try:
        if tf.io.gfile.isdir(path):
            paths = [
                files.join(directory, name)
                for directory, _, names in tf.io.gfile.walk(path)
                for name in _data_files(names)
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
    return stem if suffix.lower() in _COMPRESSION_SUFFIXES else path


def find_format(path: str, input_format: str = "auto") -> str:
    """Returns a file's format, 'text', 'jsonl', 'parquet' or 'arrow': by its name if `input_format` is 'auto'."""
    if input_format != "auto":
        return input_format
    return _FORMAT_SUFFIXES.get(os.path.splitext(uncompressed_name(path))[1].lower(), "text")


def suffix_by_content(content: bytes) -> str:
    """Returns the ending of the files that begin like `content`; '' for text."""
    return next((suffix for suffix, begin in _FIRST_BYTES.items() if content.startswith(begin)), "")


def unpack(raw: IO[bytes], path: str) -> IO[bytes]:
    """Returns a stream that unpacks an open file as its name says: `.gz`, `.bz2`, `.xz` or `.zst`. Reading it raises
    one of `reading_errors` when the file cannot be read or is damaged."""
    openers: dict[str, Callable] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    suffix = os.path.splitext(path)[1].lower()
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
        record = files.parse_json(line)
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


def read_column(path: str, file_format: str, field: str) -> Iterator[str]:
    """Yields the texts of a column of a Parquet or Arrow file, empty for null; a `UserError` when there is no such
    column of text, one of `reading_errors` when the file cannot be read."""
    with files.open_file(path, "rb") as raw:
        columns = _parquet_columns if file_format == "parquet" else _arrow_columns
        for column in columns(raw, path, field):
            for begin in range(0, len(column), _BATCH_ROWS):
                part = column.slice(begin, _BATCH_ROWS)
                if hasattr(part, "dictionary_decode"):
                    part = part.dictionary_decode()
                yield from (text or "" for text in part.to_pylist())


def _parquet_columns(raw: IO[bytes], path: str, field: str) -> Iterator[Any]:
    from pyarrow import parquet  # noqa: PLC0415  (import time)

    if path != uncompressed_name(path):
        raise UserError(f"{path} is Parquet in a compressed file, which cannot be read in pieces: decompress it first")
    table = parquet.ParquetFile(raw, buffer_size=2**20)  # or a column of a row group is read at once
    _check_column(path, field, table.schema_arrow)
    index = [table.schema.column(number).path for number in range(len(table.schema))].index(field)
    groups = (table.metadata.row_group(number) for number in range(table.metadata.num_row_groups))
    row_bytes = max(
        (group.column(index).total_uncompressed_size // max(1, group.num_rows) for group in groups), default=0
    )
    num_rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, row_bytes)))
    yield from (batch.column(0) for batch in table.iter_batches(num_rows, columns=[field]))


def _arrow_columns(raw: IO[bytes], path: str, field: str) -> Iterator[Any]:
    """Yields the record batches' columns of a file in Arrow's form of streams, as `datasets` writes it, or of files."""
    from pyarrow import ipc  # noqa: PLC0415  (import time)

    is_file = raw.read(6) == _FIRST_BYTES[".arrow"]
    raw.seek(0)
    with unpack(raw, path) as stream:
        reader = ipc.open_file(stream) if is_file else ipc.open_stream(stream)
        _check_column(path, field, reader.schema)
        batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
        yield from (batch.column(field) for batch in batches)


def _check_column(path: str, field: str, schema: Any) -> None:
    from pyarrow import types  # noqa: PLC0415  (import time)

    if field not in schema.names:
        names = ", ".join(schema.names[:10])
        raise UserError(f"{path} has no column {field!r}; it has {names}: name one with --text_field")
    kind = schema.field(field).type
    value_kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(value_kind) or types.is_large_string(value_kind) or types.is_string_view(value_kind)):
        raise UserError(f"{path}: column {field!r} is no text but {kind}; name another with --text_field")


_NUM_NAMES_SHOWN = 8
_TABLE_SUFFIXES = (".tsv", ".csv")
# What files that are read as plain text look like, and what to do about it.
_LOOKS = {
    "JSON lines": "--input_format=jsonl reads JSON lines, and --input_format=text shows that this is meant",
    "XML or HTML": "extract the text first, or show with --input_format=text that this is meant",
    "a table": "to leave it out, name the files to read or give a pattern, such as DIR/*.txt; or show with "
    "--input_format=text that this is meant",
}
_NUM_PEEKED, _PEEKED_BYTES, _PEEKED_LINES = 100, 2**14, 5


def describe_inputs(inputs: Sequence[str], input_format: str = "auto") -> tuple[str, list[str]]:
    """Returns a line on what is read (empty without files), and warnings of files that are read as plain text and do
    not look like it, of which up to a hundred an input are opened; a `UserError` where one of these is damaged.

    With an `input_format` they are meant, and so is a table that was named itself.
    """
    all_names: list[str] = []
    warnings: list[str] = []
    for path in inputs:
        if path == python_docs.NAME:
            continue
        paths = list_files(path)
        all_names += [_name_within(path, file) for file in paths]
        texts = [file for file in paths if find_format(file, input_format) == "text" and input_format == "auto"]
        tables = [file for file in texts if uncompressed_name(file).lower().endswith(_TABLE_SUFFIXES)]
        if tables and paths != [path]:
            verb, them = ("is", "it") if len(tables) == 1 else ("are", "them")
            warnings.append(
                f"--input={path}: {_enumerate(path, tables)} {verb} read as plain text, labels and all; to leave "
                f"{them} out, name the files to read or give a pattern, such as DIR/*.txt"
            )
        others = sorted(set(texts) - set(tables))
        peeked = others[:: max(1, len(others) // _NUM_PEEKED)]
        looks = {file: _look(file) for file in peeked}
        for look, remedy in _LOOKS.items():
            if alike := [file for file in peeked if looks[file] == look]:
                verb = "looks" if len(alike) == 1 else "look"
                warnings.append(
                    f"--input={path}: {_enumerate(path, alike)} {verb} like {look}, read as plain text: {remedy}"
                )
    number = f"{len(all_names):,} file{'' if len(all_names) == 1 else 's'}"
    return (f"reading {number}: {_shorten(all_names)}" if all_names else ""), warnings


def _look(path: str) -> str:
    """Returns one of `_LOOKS`, or '' for text."""
    try:
        with files.open_file(path, "rb") as raw, unpack(raw, path) as stream:
            content = stream.read(_PEEKED_BYTES)
    except reading_errors() as error:
        raise reading_error(path, error) from error
    text = content.decode("utf-8-sig", "replace").strip()
    if re.match(r'\[?\s*\{\s*"', text):
        return "JSON lines"
    if re.match(r"<([?!]|[A-Za-z][\w:.-]*(\s[^<>]*)?>)", text):
        return "XML or HTML"
    numbers = [line.count("\t") for line in text.split("\n")[:_PEEKED_LINES]]
    return "a table" if len(numbers) == _PEEKED_LINES and numbers[0] and len(set(numbers)) == 1 else ""


def _name_within(path: str, file: str) -> str:
    folder = path.rstrip("/") + "/"
    return file.removeprefix(folder) if file.startswith(folder) else os.path.basename(file)


def _enumerate(path: str, paths: Sequence[str]) -> str:
    return _shorten([_name_within(path, file) for file in paths])


def _shorten(names: Sequence[str]) -> str:
    rest = len(names) - _NUM_NAMES_SHOWN
    return ", ".join(names[:_NUM_NAMES_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")
