"""One shuffle of all examples with bounded memory: by key to buckets on disk, which are sorted one by one.

The order of the examples' keys is the order of examples. Workers sort what they pack into buckets, the parent appends
to one file, and each shard is made from the buckets that its part of the order covers. So memory holds one bucket a
process, and the result depends neither on the number of workers nor of buckets. A bucket consists of pieces, each with
the position of the one before it, so that only the last ones are remembered, however many there are. A second file
records these and the complete length of the first, to resume after a kill.
"""

import dataclasses
import json
import math
import os
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from electra_cli import files
from electra_cli.errors import UserError

SPLITS = ("train", "validation")
# Added to the id of a token that belongs to the word of the token before it.
CONTINUES_WORD = 1 << 30
# Text that a bucket is meant to hold; sorted in memory it takes some five times as much.
_BUCKET_TEXT_BYTES = 16 * 2**20
_MIN_BUCKETS, _MAX_BUCKETS = 16, 4096
# What the parent gathers before it writes.
_BUFFER_BYTES, _BUFFER_SECONDS = 64 * 2**20, 10.0
# Pieces are read one by one: however slowly text comes, fewer bytes a bucket are not worth a write.
_PIECE_BYTES = 2**15
_HEADER = struct.Struct("<16sII")  # key, bytes of lengths, bytes of ids
_LINK = struct.Struct("<QQ")  # offset and bytes of the bucket's piece before; 0 bytes: it is the first

Bucket = tuple[str, int]  # split and number


class PackedExample(NamedTuple):
    """A packed example."""

    key: bytes  # 16 bytes that decide its position in the order
    lengths: bytes  # uint32: of pairs, length of the first segment; else, lengths of all documents
    ids: bytes  # uint32 token ids; may carry `CONTINUES_WORD`


@dataclasses.dataclass
class Totals:
    """Counts of what was packed.

    Attributes:
      num_records: examples by bucket.
      num_bytes: bytes of ids by split.
      least_hash: the lowest hash in [0, 1) of a document that has examples; 2 when there is none.
      replaced: by file, characters that replaced bytes that are not UTF-8.
      coverage: of the text that was tokenized, what `Coverage.count` returns; progress that older versions recorded has
        none.
    """

    num_documents: int = 0
    num_short: int = 0
    num_records: Counter[Bucket] = dataclasses.field(default_factory=Counter)
    num_bytes: Counter[str] = dataclasses.field(default_factory=Counter)
    least_hash: float = 2.0
    replaced: Counter[str] = dataclasses.field(default_factory=Counter)
    coverage: Counter[str] = dataclasses.field(default_factory=Counter)

    def num_examples(self, split: str) -> int:
        """Returns the examples of a split."""
        return sum(number for (name, _), number in self.num_records.items() if name == split)

    def num_shards(self, split: str, shard_size_mb: float) -> int:
        """Returns how many shards of at most about `shard_size_mb` megabytes the examples of a split fill: 1, 2, 4 or a
        multiple of 8, whatever the number of workers, so that they share shards evenly."""
        # A record takes about half of what its ids take as uint32; never more shards than examples.
        fewest = max(1, math.ceil(self.num_bytes[split] / 2 / (shard_size_mb * 1e6)))
        even = 2 ** (fewest - 1).bit_length() if fewest <= 8 else math.ceil(fewest / 8) * 8
        return min(self.num_examples(split), even)

    def add(self, other: "Totals") -> None:
        """Adds what another holds."""
        self.num_documents += other.num_documents
        self.num_short += other.num_short
        self.num_records.update(other.num_records)
        self.num_bytes.update(other.num_bytes)
        self.least_hash = min(self.least_hash, other.least_hash)
        self.replaced.update(other.replaced)
        self.coverage.update(other.coverage)

    def to_json(self) -> dict:
        """Returns the input of `from_json`."""
        records = [[*bucket, number] for bucket, number in sorted(self.num_records.items())]
        return {**vars(self), "num_records": records}

    @classmethod
    def from_json(cls, record: dict) -> "Totals":
        """Reads what `to_json` returned."""
        records = Counter({(split, bucket): number for split, bucket, number in record["num_records"]})
        counts: dict[str, Counter[str]] = {
            name: Counter(record.get(name, {})) for name in ("num_bytes", "replaced", "coverage")
        }
        return cls(**{**record, **counts, "num_records": records})


class PackedChunk:
    """The examples of some documents, by bucket: serialized, one after the other."""

    def __init__(self, num_buckets: int):
        self._num_buckets = num_buckets
        self.records: dict[Bucket, bytearray] = defaultdict(bytearray)
        self.totals = Totals()

    def add(self, split: str, example: PackedExample) -> None:
        """Adds an example."""
        key, lengths, ids = example
        bucket = (split, int.from_bytes(key[:4], "big") * self._num_buckets >> 32)
        self.records[bucket] += _HEADER.pack(key, len(lengths), len(ids)) + lengths + ids
        self.totals.num_records[bucket] += 1
        self.totals.num_bytes[split] += len(ids)


@dataclasses.dataclass(frozen=True)
class Slice:
    """A part of the order of one split, which one shard holds: from example `begin` to `end` of the buckets, sorted."""

    file: str  # the spool's
    buckets: tuple[tuple[int, int], ...]  # (offset, length) of each bucket's last piece, in order
    begin: int
    end: int

    def read(self) -> Iterator[list[PackedExample]]:
        """Yields its examples in order, those of one bucket at a time."""
        position = 0
        with open(self.file, "rb") as stream:
            for offset, length in self.buckets:
                examples: list[PackedExample] = []
                while length:
                    stream.seek(offset)
                    piece = stream.read(length)
                    examples += split_records(piece, _LINK.size)
                    offset, length = _LINK.unpack_from(piece)
                examples.sort()
                yield examples[max(0, self.begin - position) : max(0, self.end - position)]
                position += len(examples)


def split_records(content: bytes, begin: int = 0) -> list[PackedExample]:
    """Returns the examples that a `PackedChunk` serialized, from byte `begin` on."""
    examples = []
    position = begin
    while position < len(content):
        key, num_lengths, num_ids = _HEADER.unpack_from(content, position)
        lengths = position + _HEADER.size
        ids = lengths + num_lengths
        position = ids + num_ids
        examples.append(PackedExample(key, content[lengths:ids], content[ids:position]))
    return examples


class Spool:
    """Examples on disk, in buckets by key, until their order is known; resumes from a killed process's spool in the
    directory. `text_bytes`, an estimate, decides the number of buckets. A `UserError` when the file of examples is
    shorter than recorded."""

    def __init__(self, directory: str, text_bytes: int):
        self._file = os.path.join(directory, "examples")
        self._state_file = os.path.join(directory, "examples.json")
        self.num_buckets = min(_MAX_BUCKETS, max(_MIN_BUCKETS, text_bytes // _BUCKET_TEXT_BYTES))
        self.num_chunks = 0
        self.is_complete = False
        self.totals = Totals()
        self._last_pieces: dict[Bucket, tuple[int, int]] = {}  # offset and length
        self._size = 0
        self._buffers: dict[Bucket, list[bytearray]] = defaultdict(list)
        self._buffered = 0
        self._flushed = time.monotonic()
        self._load()

    def _load(self) -> None:
        if os.path.exists(self._state_file):
            state = json.loads(files.read_bytes(self._state_file))
            self._size, self.num_chunks, self.is_complete = state["size"], state["num_chunks"], state["is_complete"]
            self._last_pieces = {
                (split, bucket): (offset, length) for split, bucket, offset, length in state["last_pieces"]
            }
            self.totals = Totals.from_json(state["totals"])
        with open(self._file, "ab") as examples:
            if examples.tell() < self._size:
                raise UserError(
                    f"{self._file} was cut off: it holds {examples.tell():,} bytes of {self._size:,}; the same "
                    f"command starts again"
                )
            examples.truncate(self._size)

    def add(self, chunk: PackedChunk) -> None:
        """Adds a chunk that was packed for `num_buckets`."""
        self.num_chunks += 1
        self.totals.add(chunk.totals)
        for bucket, record in chunk.records.items():
            self._buffers[bucket].append(record)
            self._buffered += len(record)
        is_late = time.monotonic() - self._flushed > _BUFFER_SECONDS
        if self._buffered > _BUFFER_BYTES or (is_late and self._buffered > self.num_buckets * _PIECE_BYTES):
            self._flush(is_complete=False)

    def finish(self) -> None:
        """Writes what is still in memory: no chunk will follow."""
        self._flush(is_complete=True)

    def _flush(self, *, is_complete: bool) -> None:
        with open(self._file, "ab") as stream:
            for bucket, records in sorted(self._buffers.items()):
                stream.write(_LINK.pack(*self._last_pieces.get(bucket, (0, 0))))
                stream.writelines(records)
                self._last_pieces[bucket] = self._size, _LINK.size + sum(map(len, records))
                self._size += self._last_pieces[bucket][1]
            stream.flush()
            os.fsync(stream.fileno())
        self._buffers.clear()
        self._buffered = 0
        self._flushed = time.monotonic()
        self.is_complete = is_complete
        state = {
            "size": self._size,
            "num_chunks": self.num_chunks,
            "is_complete": is_complete,
            "last_pieces": [[*bucket, *piece] for bucket, piece in self._last_pieces.items()],
            "totals": self.totals.to_json(),
        }
        files.write_atomically(self._state_file, json.dumps(state))

    def discard(self) -> None:
        """Removes everything added."""
        os.remove(self._state_file)
        self._last_pieces.clear()
        self._size = self.num_chunks = 0
        self.is_complete = False
        self.totals = Totals()
        os.truncate(self._file, 0)

    def slices(self, split: str, num_slices: int) -> Iterator[Slice]:
        """Yields a split's order in parts of equal length (to one example)."""
        buckets = sorted(bucket for bucket in self._last_pieces if bucket[0] == split)
        ends = np.cumsum([self.totals.num_records[bucket] for bucket in buckets])
        total = self.totals.num_examples(split)
        for index in range(num_slices):
            begin, end = total * index // num_slices, total * (index + 1) // num_slices
            first = int(np.searchsorted(ends, begin, side="right"))
            last = int(np.searchsorted(ends, end, side="left"))
            offset = int(ends[first - 1]) if first else 0
            last_pieces = tuple(self._last_pieces[bucket] for bucket in buckets[first : last + 1])
            yield Slice(self._file, last_pieces, begin - offset, end - offset)
