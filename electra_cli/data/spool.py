"""One shuffle of all examples with bounded memory: by key to buckets on disk, which are sorted one by one.

Every example has a key, and the order of keys is the order of examples. Workers sort what they pack into buckets, the
parent appends to files, and then each shard is made from the buckets that its part of the order lies in. So memory
holds one bucket a process, and the result depends neither on the number of workers nor of buckets.
"""

import dataclasses
import os
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

SPLITS = ("train", "validation")
# Text that a bucket is meant to hold; sorted in memory it takes some ten times as much.
_BUCKET_TEXT_BYTES = 16 * 2**20
_MIN_BUCKETS, _MAX_BUCKETS = 16, 4096
# What the parent gathers before it writes.
_BUFFER_BYTES = 64 * 2**20
_HEADER = struct.Struct("<16sII")  # key, bytes of ids, length of the first segment


class Example(NamedTuple):
    """A packed example.

    Attributes:
      key: 16 bytes that its place in the order follows from.
      ids: uint32 token ids as bytes; may carry `tokenization.CONTINUES_WORD`.
      first_segment_length: tokens up to the first [SEP].
    """

    key: bytes
    ids: bytes
    first_segment_length: int


@dataclasses.dataclass
class PackedChunk:
    """The examples of some documents, sorted into buckets, and what is known of them.

    Attributes:
      num_documents: documents seen.
      records: by (split, bucket), serialized examples one after the other.
      num_records: by (split, bucket), how many.
      num_examples, num_bytes: by split; bytes of ids.
      least_hash: the least `held_out_hash` of the documents that have examples; 2 when there is none.
      least_keys: the keys of all examples of the documents with that hash.
      least_bytes: bytes of their ids.
    """

    num_documents: int = 0
    records: dict[tuple[str, int], bytearray] = dataclasses.field(default_factory=lambda: defaultdict(bytearray))
    num_records: dict[tuple[str, int], int] = dataclasses.field(default_factory=lambda: defaultdict(int))
    num_examples: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    num_bytes: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    least_hash: float = 2.0
    least_keys: set[bytes] = dataclasses.field(default_factory=set)
    least_bytes: int = 0

    def add_document(
        self, examples: Sequence[Example], held_out_hash: float, fraction: float, num_buckets: int
    ) -> None:
        """Adds a document's examples.

        Args:
          examples: the examples.
          held_out_hash: the document's place in [0, 1).
          fraction: documents placed below it are held out.
          num_buckets: buckets of the spool.
        """
        split = "validation" if held_out_hash < fraction else "train"
        self.num_documents += 1
        num_bytes = 0
        for key, ids, first_segment_length in examples:
            bucket = (split, int.from_bytes(key[:4], "big") * num_buckets >> 32)
            self.records[bucket] += _HEADER.pack(key, len(ids), first_segment_length) + ids
            self.num_records[bucket] += 1
            num_bytes += len(ids)
        self.num_examples[split] += len(examples)
        self.num_bytes[split] += num_bytes
        if examples:
            self._note_least(held_out_hash, {example.key for example in examples}, num_bytes)

    def merge_counts(self, other: "PackedChunk") -> None:
        """Adds the counts of another chunk, whose records are somewhere else."""
        self.num_documents += other.num_documents
        for bucket, number in other.num_records.items():
            self.num_records[bucket] += number
        for split in SPLITS:
            self.num_examples[split] += other.num_examples[split]
            self.num_bytes[split] += other.num_bytes[split]
        self._note_least(other.least_hash, other.least_keys, other.least_bytes)

    def _note_least(self, held_out_hash: float, keys: set[bytes], num_bytes: int) -> None:
        if held_out_hash < self.least_hash:
            self.least_hash, self.least_keys, self.least_bytes = held_out_hash, set(), 0
        if held_out_hash == self.least_hash:
            self.least_keys |= keys
            self.least_bytes += num_bytes


@dataclasses.dataclass(frozen=True)
class Slice:
    """A part of the order of one split: what one shard holds.

    Attributes:
      files: the buckets that it lies in, in order.
      begin, end: examples of the sorted content of these files.
      moved_keys: keys that stand in the buckets of the other split and are (validation) or are not (train) wanted.
      is_moved: whether they are wanted.
    """

    files: tuple[str, ...]
    begin: int
    end: int
    moved_keys: frozenset[bytes]
    is_moved: bool

    def read(self) -> Iterator[tuple[np.ndarray, int]]:
        """Yields (ids uint32, first_segment_length) in order, with one bucket in memory."""
        place = 0
        for file in self.files:
            records = self.sorted_records(file)
            for _, ids, first_segment_length in records[max(0, self.begin - place) : max(0, self.end - place)]:
                yield np.frombuffer(ids, np.uint32), first_segment_length
            place += len(records)

    def sorted_records(self, file: str) -> list[tuple[bytes, bytes, int]]:
        """Returns the (key, ids, first_segment_length) of a bucket that belong to the split, in order."""
        return sorted(
            record
            for record in _read_bucket(file)
            if not self.moved_keys or (record[0] in self.moved_keys) == self.is_moved
        )


def _read_bucket(file: str) -> Iterator[tuple[bytes, bytes, int]]:
    with open(file, "rb") as stream:
        content = stream.read()
    place = 0
    while place < len(content):
        key, num_bytes, first_segment_length = _HEADER.unpack_from(content, place)
        place += _HEADER.size
        yield key, content[place : place + num_bytes], first_segment_length
        place += num_bytes


class Spool:
    """Examples on disk, in buckets by key, until their order is known.

    Args:
      directory: where the buckets are written.
      text_bytes: about how much text will come; decides the number of buckets.

    Attributes:
      num_buckets: how many there are.
      totals: the counts of all that was added.
    """

    def __init__(self, directory: str, text_bytes: int):
        self._directory = directory
        self.num_buckets = min(_MAX_BUCKETS, max(_MIN_BUCKETS, text_bytes // _BUCKET_TEXT_BYTES))
        self.totals = PackedChunk()
        self._buffers: dict[tuple[str, int], list[bytearray]] = defaultdict(list)
        self._buffered = 0
        self._moved: frozenset[bytes] = frozenset()

    def add(self, chunk: PackedChunk) -> None:
        """Adds a chunk that was packed for `num_buckets`."""
        self.totals.merge_counts(chunk)
        for name, record in chunk.records.items():
            self._buffers[name].append(record)
            self._buffered += len(record)
        if self._buffered > _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what is still in memory."""
        for (split, bucket), records in self._buffers.items():
            with open(self._file(split, bucket), "ab") as stream:
                stream.writelines(records)
        self._buffers.clear()
        self._buffered = 0

    def hold_out_least(self) -> None:
        """Moves the document of the least hash, and its copies, to the validation split."""
        self._moved = frozenset(self.totals.least_keys)
        for split, sign in (("validation", 1), ("train", -1)):
            self.totals.num_examples[split] += sign * len(self._moved)
            self.totals.num_bytes[split] += sign * self.totals.least_bytes

    def slices(self, split: str, num_slices: int) -> Iterable[Slice]:
        """Returns a split's order in parts of equal length (to one example)."""
        source = "train" if self._moved else split
        is_moved = split == "validation"
        buckets = [
            (source, number) for number in range(self.num_buckets) if (source, number) in self.totals.num_records
        ]
        files = [self._file(*bucket) for bucket in buckets]
        if self._moved:
            ends = np.cumsum([len(Slice((file,), 0, 0, self._moved, is_moved).sorted_records(file)) for file in files])
        else:
            ends = np.cumsum([self.totals.num_records[bucket] for bucket in buckets])
        total = self.totals.num_examples[split]
        for index in range(num_slices):
            begin, end = total * index // num_slices, total * (index + 1) // num_slices
            first = int(np.searchsorted(ends, begin, side="right"))
            last = int(np.searchsorted(ends, end, side="left"))
            offset = int(ends[first - 1]) if first else 0
            yield Slice(tuple(files[first : last + 1]), begin - offset, end - offset, self._moved, is_moved)

    def _file(self, split: str, bucket: int) -> str:
        return os.path.join(self._directory, f"{split}-{bucket:04}")
