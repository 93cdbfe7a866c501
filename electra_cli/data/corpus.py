"""Text files in, documents out, one after the other and never more than one in memory."""

import dataclasses
import gzip
import os
import zlib
from collections.abc import Iterator
from typing import IO, cast

from electra_cli.errors import UserError

SEPARATORS = ("blank_line", "file", "line")
ENCODING_ERRORS = ("strict", "replace")


@dataclasses.dataclass(frozen=True)
class Document:
    """A document and its place, which everything random about it follows from.

    Attributes:
      file_index: number of its file among the input files.
      index: number of the document in the file.
      lines: its lines, stripped, none empty.
    """

    file_index: int
    index: int
    lines: tuple[str, ...]


class Corpus:
    """Documents of text files, in a fixed order.

    Args:
      inputs: files and directories; of a directory all files below it that are not hidden, sorted. Files whose name
        ends in `.gz` are unpacked while being read.
      separator: what ends a document: 'blank_line', the 'file', or the 'line'.
      encoding_errors: 'strict', or 'replace' to read what is not UTF-8 as U+FFFD and count it.

    Attributes:
      files: the input files.
      text_bytes: UTF-8 bytes read so far.
      replaced: by file, the characters that were replaced so far.

    Raises:
      UserError: an input is missing or holds no file.
    """

    def __init__(self, inputs: list[str], separator: str = "blank_line", encoding_errors: str = "strict"):
        self.files = [file for path in inputs for file in _list_files(path)]
        self._separator = separator
        self._encoding_errors = encoding_errors
        self.text_bytes = 0
        self.replaced: dict[str, int] = {}

    def __iter__(self) -> Iterator[Document]:
        """Reads all files.

        Raises:
          UserError: a file cannot be read, is damaged, binary, or not UTF-8; or there is no text at all.
        """
        is_empty = True
        for file_index, path in enumerate(self.files):
            for index, lines in enumerate(self._documents(path)):
                is_empty = False
                yield Document(file_index, index, lines)
        if is_empty:
            names = ", ".join(self.files[:3]) + (" ..." if len(self.files) > 3 else "")
            raise UserError(f"--input holds no text: {names}")

    def _documents(self, path: str) -> Iterator[tuple[str, ...]]:
        gathered: list[str] = []
        for line in self._lines(path):
            stripped = line.strip()
            if stripped:
                gathered.append(stripped)
            is_end = self._separator == "line" or (self._separator == "blank_line" and not stripped)
            if is_end and gathered:
                yield tuple(gathered)
                gathered = []
        if gathered:
            yield tuple(gathered)

    def _lines(self, path: str) -> Iterator[str]:
        offset = 0
        try:
            with _open(path) as stream:
                for number, raw in enumerate(stream, 1):
                    yield self._decode(raw, path, number, offset)
                    offset += len(raw)
                    self.text_bytes += len(raw)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(
                f"{path} is damaged or cut off after {offset:,} bytes of text ({error}): get the file anew"
            ) from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error

    def _decode(self, raw: bytes, path: str, number: int, offset: int) -> str:
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")  # byte order mark
        is_strict = self._encoding_errors == "strict"
        if is_strict and b"\0" in raw:
            place = f"line {number}, byte {offset + raw.index(0):,}"
            raise UserError(
                f"{path} is no text file: it holds a zero byte ({place}); leave it out, or go on with "
                f"--encoding_errors=replace"
            )
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            if is_strict:
                raise UserError(
                    f"{path}, line {number}, byte {offset + error.start:,}: 0x{raw[error.start]:02x} is not UTF-8; "
                    f"convert the file, or go on with --encoding_errors=replace"
                ) from error
            text = raw.decode(errors="replace")
            self.replaced[path] = self.replaced.get(path, 0) + text.count("\ufffd")
            return text


def _list_files(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise UserError(f"--input={path}: no such file or directory")
    found = []
    for directory, subdirectories, names in os.walk(path):
        subdirectories[:] = sorted(name for name in subdirectories if not name.startswith("."))
        found += [os.path.join(directory, name) for name in sorted(names) if not name.startswith(".")]
    if not found:
        raise UserError(f"--input={path}: the directory holds no files")
    return found


def _open(path: str) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.endswith(".gz") else open(path, "rb")
