"""Text files in, documents out: one process cuts files into blocks of documents, and many processes read these."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Sequence

from electra_cli import files
from electra_cli.data import inputs as text_inputs
from electra_cli.errors import UserError

# Both decide where blocks end and so, through `Document.position`, what is random about a document.
_READ_BYTES = 2**20
_LONGEST_DOCUMENT_BYTES = 2**24  # what a process holds of one takes some thirty times as much
# Of a Parquet or Arrow file: a block holds as many rows, or fewer if these hold so many characters.
_BLOCK_ROWS, _BLOCK_CHARACTERS = 1000, 2**23
# Files of a group lie one after another in one process; several groups can be read side by side.
_GROUP_BYTES = 2**26


@dataclasses.dataclass(frozen=True)
class TextFormat:
    """How files are read; in JSON lines, Parquet and Arrow each record is a document."""

    separator: str = "blank_line"  # what ends a document of plain text: 'blank_line', 'file' or 'line'
    encoding_errors: str = "strict"  # or 'replace', to read what is not UTF-8 as U+FFFD and count it
    text_field: str = "text"  # the JSON field or the column of the text
    input_format: str = "auto"  # of all files: 'text', 'jsonl', 'parquet', 'arrow'; 'auto': by their names


@dataclasses.dataclass(frozen=True)
class Document:
    """A document."""

    position: str  # 'file/block/number'; everything random about the document follows from it
    lines: tuple[str, ...]  # stripped, none empty
    weight: float = 1.0  # how often to use it


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of a file that ends where a document ends."""

    path: str
    file_index: int  # among the input files
    number: int  # in the file
    first_line: int  # lines of the file before it
    offset: int  # bytes of text (of Parquet and Arrow: rows) of the file before it
    content: bytes | tuple[str, ...]  # encoded text; of Parquet and Arrow the texts of its rows
    weight: float = 1.0  # of its documents

    @functools.cached_property
    def num_bytes(self) -> int:
        """Bytes of text; of Parquet and Arrow, characters."""
        return len(self.content) if isinstance(self.content, bytes) else sum(map(len, self.content))


class Corpus:
    """The text of files, in a fixed order; an `UnreadableError` when an input is missing or holds no file.

    Documents of an input are used as often as its weight says; without `weights`, once.

    Attributes:
      sizes: bytes of the input files on disk.
      text_bytes: uncompressed bytes read so far.
      num_cut: cuts so far in documents that were too long.
    """

    def __init__(self, inputs: Sequence[str], text_format: TextFormat, weights: Sequence[float] = ()):
        self.files: list[str] = []
        self._weights: list[float] = []
        for path, weight in zip(inputs, weights or [1.0] * len(inputs), strict=True):
            paths = text_inputs.list_files(path)
            self.files += paths
            self._weights += [weight] * len(paths)
        self._format = text_format
        self.sizes = [files.size(path) or 0 for path in self.files]
        self._bytes_read = 0  # of files on disk
        self.text_bytes = 0
        self.num_cut = 0

    @property
    def fraction_read(self) -> float:
        """Fraction of the bytes of all files read so far."""
        return min(1.0, self._bytes_read / max(1, sum(self.sizes)))

    def estimate_bytes(self) -> int:
        """Estimates the bytes of text: the sizes of files, four times as much for compressed ones."""
        return sum(size * _unpacking(path) for path, size in zip(self.files, self.sizes, strict=True))

    def groups(self) -> list[range]:
        """Returns the numbers of all files, in groups of consecutive ones; no chunk spans two groups."""
        groups, begin, total = [], 0, 0
        for index, (path, size) in enumerate(zip(self.files, self.sizes, strict=True)):
            total += size * _unpacking(path)
            if total >= _GROUP_BYTES or index + 1 == len(self.files):
                groups.append(range(begin, index + 1))
                begin, total = index + 1, 0
        return groups

    def chunks(self) -> Iterator[list[Block]]:
        """Yields the chunks of all groups."""
        for group in self.groups():
            yield from self.chunks_of(group)

    def chunks_of(self, group: range) -> Iterator[list[Block]]:
        """Yields a group's text in chunks: consecutive blocks, together a megabyte or more.

        Raises a `UserError` when a file is damaged; an `UnreadableError` when it cannot be read now.
        """
        chunk: list[Block] = []
        for file_index in group:
            for block in self._blocks(file_index):
                chunk.append(block)
                self.text_bytes += block.num_bytes
                if sum(part.num_bytes for part in chunk) >= _READ_BYTES:
                    yield chunk
                    chunk = []
        if chunk:
            yield chunk

    def _blocks(self, file_index: int) -> Iterator[Block]:
        path, weight = self.files[file_index], self._weights[file_index]
        before = self._bytes_read
        file_format = text_inputs.find_format(path, self._format.input_format)
        if file_format in ("parquet", "arrow"):
            first_row = 0
            for number, texts in enumerate(self._read_rows(path, file_format)):
                yield Block(path, file_index, number, first_row, first_row, texts, weight)
                first_row += len(texts)
        else:
            separator = "line" if file_format == "jsonl" else self._format.separator
            first_line = offset = 0
            for number, (content, is_cut) in enumerate(cut_into_blocks(self._read(path), separator)):
                if is_cut and file_format == "jsonl":
                    raise _too_long(f"{path}, line {first_line + 1:,}", "a file of JSON lines has one object a line")
                self.num_cut += is_cut
                yield Block(path, file_index, number, first_line, offset, content, weight)
                first_line += content.count(b"\n")
                offset += len(content)
        self._bytes_read = before + self.sizes[file_index]

    def _read(self, path: str) -> Iterator[bytes]:
        before, offset = self._bytes_read, 0
        try:
            with files.open_file(path, "rb") as raw, text_inputs.unpack(raw, path) as stream:
                has_cr_ends = False
                while piece := stream.read(_READ_BYTES):
                    if not offset:  # "\r" may end this piece with its "\n" in the next
                        has_cr_ends = b"\n" not in piece and b"\r" in piece[:-1]
                    offset += len(piece)
                    self._bytes_read = before + raw.tell()
                    yield piece.replace(b"\r", b"\n") if has_cr_ends else piece
        except text_inputs.reading_errors() as error:
            raise text_inputs.reading_error(path, error, f" after {offset:,} bytes of text") from error

    def _read_rows(self, path: str, file_format: str) -> Iterator[tuple[str, ...]]:
        rows: list[str] = []
        num_rows = num_characters = 0
        try:
            for text in text_inputs.read_column(path, file_format, self._format.text_field):
                num_rows += 1
                # Encoding takes time: a character has up to four bytes.
                if len(text) > _LONGEST_DOCUMENT_BYTES // 4 and len(text.encode()) > _LONGEST_DOCUMENT_BYTES:
                    raise _too_long(f"{path}, row {num_rows:,}", "split the text into several rows")
                if rows and (len(rows) == _BLOCK_ROWS or num_characters + len(text) > _BLOCK_CHARACTERS):
                    yield tuple(rows)
                    rows, num_characters = [], 0
                rows.append(text)
                num_characters += len(text)
        except text_inputs.reading_errors() as error:
            raise text_inputs.reading_error(path, error, f" after {num_rows:,} rows") from error
        if rows:
            yield tuple(rows)


def _too_long(where: str, remedy: str) -> UserError:
    limit = _LONGEST_DOCUMENT_BYTES // 2**20
    return UserError(f"{where}: too long: a document may have up to {limit} MiB; {remedy}")


def _unpacking(path: str) -> int:
    """Returns about how many bytes of text a byte of the file holds."""
    return 1 if path == text_inputs.uncompressed_name(path) else 4


def cut_into_blocks(pieces: Iterator[bytes], separator: str) -> Iterator[tuple[bytes, bool]]:
    """Yields (content, is_cut): blocks of complete documents. `is_cut`: the last one continues in the next block,
    because 16 MiB hold no end of a document; it is cut at the end of a line or word."""
    buffer = bytearray()
    searched = 0  # where an end of a document may still begin
    for piece in pieces:
        if buffer:  # and more follows
            end, is_cut = _last_end(buffer, searched, separator), False
            if not end and len(buffer) >= _LONGEST_DOCUMENT_BYTES:
                end, is_cut = _last_line_or_word(buffer), True
            if end:
                yield bytes(buffer[:end]), is_cut
                del buffer[:end]
            searched = max(0, len(buffer) - 2)
        buffer += piece
    if buffer:
        yield bytes(buffer), False


def _last_end(buffer: bytearray, begin: int, separator: str) -> int:
    """Returns where the last document that ends within the buffer ends; 0 when none does."""
    if separator == "file":
        return 0
    ends = (b"\n",) if separator == "line" else (b"\n\n", b"\n\r\n")
    return max(index + len(end) if (index := buffer.rfind(end, begin)) >= 0 else 0 for end in ends)


def _last_line_or_word(buffer: bytearray) -> int:
    index = max(buffer.rfind(b"\n"), buffer.rfind(b" "))
    if index >= 0:
        return index + 1
    end = len(buffer) - 1
    while end > 1 and buffer[end] & 0xC0 == 0x80:  # within a character
        end -= 1
    return end


def read_documents(block: Block, text_format: TextFormat, replaced: Counter[str]) -> Iterator[Document]:
    """Yields a block's documents; counts in `replaced`, by file, characters that replaced bytes that are not UTF-8. A
    `UserError` when the block is binary, not UTF-8, or no JSON with such a field."""
    for index, lines in enumerate(_lines_of_documents(block, text_format, replaced)):
        yield Document(f"{block.file_index}/{block.number}/{index}", lines, block.weight)


def _lines_of_documents(block: Block, text_format: TextFormat, replaced: Counter[str]) -> Iterator[tuple[str, ...]]:
    if isinstance(block.content, bytes):
        text = _decode(block, block.content, text_format.encoding_errors == "strict", replaced)
        if text_inputs.find_format(block.path, text_format.input_format) == "text":
            yield from _split_documents(text, text_format.separator)
            return
        texts: Iterator[str] = (
            text_inputs.read_json_text(line, text_format.text_field, block.path, number)
            for number, line in enumerate(text.split("\n"), block.first_line + 1)
            if line and not line.isspace()
        )
    else:
        texts = iter(block.content)
    for text in texts:
        lines = tuple(line for line in map(str.strip, text.splitlines()) if line)
        if lines:
            yield lines


def _split_documents(text: str, separator: str) -> Iterator[tuple[str, ...]]:
    lines = map(str.strip, text.split("\n"))
    if separator == "line":
        yield from ((line,) for line in lines if line)
        return
    gathered: list[str] = []
    for line in lines:
        if line:
            gathered.append(line)
        elif gathered and separator == "blank_line":
            yield tuple(gathered)
            gathered = []
    if gathered:
        yield tuple(gathered)


def _decode(block: Block, content: bytes, is_strict: bool, replaced: Counter[str]) -> str:
    if block.offset == 0:
        content = content.removeprefix(b"\xef\xbb\xbf")  # byte order mark
    if is_strict and block.offset == 0 and content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{block.path} is UTF-16: make UTF-8 of it first, iconv -f UTF-16 -t UTF-8 {block.path} > FILE")
    suffix = text_inputs.suffix_by_content(content) if block.offset == 0 else ""
    hint = f"it begins like a {suffix} file: name it NAME{suffix}" if suffix else ""
    if is_strict and b"\0" in content:
        raise UserError(
            f"{block.path} is no text file: it holds a zero byte ({_locate(block, content, content.index(0))}); "
            f"{hint or 'leave it out, or continue with --encoding_errors=replace'}"
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        if is_strict:
            raise UserError(
                f"{block.path}, {_locate(block, content, error.start)}: 0x{content[error.start]:02x} is not UTF-8; "
                f"{hint or 'convert the file, or continue with --encoding_errors=replace'}"
            ) from error
    text = content.decode(errors="replace")
    replaced[block.path] += text.count("\ufffd") - content.count("\ufffd".encode())
    return text


def _locate(block: Block, content: bytes, offset: int) -> str:
    line = block.first_line + content.count(b"\n", 0, offset) + 1
    return f"line {line:,}, byte {block.offset + offset:,}"
