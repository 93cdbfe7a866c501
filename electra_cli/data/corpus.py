"""Text files in, documents out, one after the other and never more than one in memory."""

import dataclasses
from collections.abc import Iterator, Sequence

from electra_cli import files
from electra_cli.data import text_files
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
      weight: how often it is to be taken.
    """

    file_index: int
    index: int
    lines: tuple[str, ...]
    weight: float = 1.0


class Corpus:
    """Documents of files, in a fixed order.

    Args:
      inputs: files, directories and patterns (`text_files.list_files`). Compressed files are unpacked while being read
        (`text_files.open_binary`). In JSON lines and Parquet each record is a document.
      separator: what ends a document of plain text: 'blank_line', the 'file', or the 'line'.
      encoding_errors: 'strict', or 'replace' to read what is not UTF-8 as U+FFFD and count it.
      text_field: the field of JSON lines and the column of Parquet that hold the text.
      weights: how often documents of each input are to be taken; none: once.

    Attributes:
      files: the input files.
      text_bytes: UTF-8 bytes read so far.
      replaced: by file, the characters that were replaced so far.

    Raises:
      UserError: an input is missing or holds no file.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        separator: str = "blank_line",
        encoding_errors: str = "strict",
        text_field: str = "text",
        weights: Sequence[float] = (),
    ):
        self.files: list[str] = []
        self._weights: list[float] = []
        for path, weight in zip(inputs, weights or [1.0] * len(inputs), strict=True):
            found = text_files.list_files(path)
            self.files += found
            self._weights += [weight] * len(found)
        self._text_field = text_field
        self._separator = separator
        self._encoding_errors = encoding_errors
        self.text_bytes = 0
        self.replaced: dict[str, int] = {}

    def estimate_bytes(self) -> int:
        """Returns about how many bytes of text there are: sizes of files, of packed ones four times as much."""
        return sum(
            (files.size(path) or 0) * (1 if path == text_files.uncompressed_name(path) else 4) for path in self.files
        )

    def __iter__(self) -> Iterator[Document]:
        """Reads all files.

        Raises:
          UserError: a file cannot be read, is damaged, binary, or not UTF-8; or there is no text at all.
        """
        is_empty = True
        for file_index, path in enumerate(self.files):
            for index, lines in enumerate(self._documents(path)):
                is_empty = False
                yield Document(file_index, index, lines, self._weights[file_index])
        if is_empty:
            names = ", ".join(self.files[:3]) + (" ..." if len(self.files) > 3 else "")
            raise UserError(f"--input holds no text: {names}")

    def _documents(self, path: str) -> Iterator[tuple[str, ...]]:
        name = text_files.uncompressed_name(path)
        if name.endswith(text_files.PARQUET_SUFFIX):
            texts = self._parquet_texts(path)
        elif name.endswith(text_files.JSON_SUFFIXES):
            texts = self._json_texts(path)
        else:
            yield from self._plain_documents(path)
            return
        for text in texts:
            lines = tuple(line for line in map(str.strip, text.splitlines()) if line)
            if lines:
                yield lines

    def _json_texts(self, path: str) -> Iterator[str]:
        for number, line in enumerate(self._lines(path), 1):
            if line.strip():
                yield text_files.read_json_text(line, self._text_field, path, number)

    def _parquet_texts(self, path: str) -> Iterator[str]:
        num_rows = 0
        try:
            for text in text_files.read_parquet_texts(path, self._text_field):
                yield text
                num_rows += 1
                self.text_bytes += len(text)
        except text_files.DAMAGE as error:
            raise UserError(
                f"{path} is damaged or cut off after {num_rows:,} rows ({error}): get the file anew"
            ) from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error

    def _plain_documents(self, path: str) -> Iterator[tuple[str, ...]]:
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
            with text_files.open_binary(path) as stream:
                for number, raw in enumerate(stream, 1):
                    yield self._decode(raw, path, number, offset)
                    offset += len(raw)
                    self.text_bytes += len(raw)
        except text_files.DAMAGE as error:
            raise UserError(
                f"{path} is damaged or cut off after {offset:,} bytes of text ({error}): get the file anew"
            ) from error
        except OSError as error:
            if error.strerror is None:  # of bz2 and zstd
                raise UserError(
                    f"{path} is damaged or cut off after {offset:,} bytes of text ({error}): get the file anew"
                ) from error
            raise UserError(f"{path} cannot be read: {error.strerror}") from error

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
