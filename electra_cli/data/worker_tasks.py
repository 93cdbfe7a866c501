"""What worker processes do for a preparation: a task in, its result out."""

import dataclasses
import functools
import json
import os
from collections import Counter

import numpy as np

from electra_cli.data import packing
from electra_cli.data.corpus import Block
from electra_cli.data.output_directory import write_whole
from electra_cli.data.packing import ChunkReader, Packer, PrepareSettings
from electra_cli.data.spool import PackedChunk, Slice
from electra_cli.data.tfrecords import SENTENCEPIECE_FILE, VOCAB_FILE, Shard, write_shard
from electra_cli.data.vocabulary import Vocabulary
from electra_cli.data.vocabulary_learning import WordSplitter


@dataclasses.dataclass(frozen=True)
class ChunkTask:
    """A chunk of text, less the documents whose numbers are dropped."""

    blocks: list[Block]
    settings: PrepareSettings
    dropped: frozenset[int] = frozenset()


def sign_documents(task: ChunkTask) -> list[tuple[int, bytes]]:
    """Returns number and signature of each document that is long enough."""
    return packing.sign_documents(task.blocks, task.settings)


@functools.lru_cache(maxsize=1)
def _splitter(lower_case: bool) -> WordSplitter:
    return WordSplitter(lower_case=lower_case)


def count_words(task: ChunkTask) -> tuple[Counter[str], int, int]:
    """Returns how often each word stands in the chunk, its documents, and those of them that are too short."""
    reader = ChunkReader(task.settings)
    lines = (line for _, document in reader.read(task.blocks, task.dropped) for line in document.lines)
    counts = _splitter(task.settings.lower_case).count(lines)
    return counts, reader.num_documents, reader.num_short


@dataclasses.dataclass(frozen=True)
class PackTask:
    """A chunk to pack with the vocabulary that lies in `directory`; see `Packer.pack`."""

    chunk: ChunkTask
    directory: str
    vocab_sha256: str
    held_out_below: float
    num_buckets: int


def pack_chunk(task: PackTask) -> PackedChunk:
    """Returns the examples of a chunk."""
    packer = _packer(task.directory, task.vocab_sha256, task.chunk.settings)
    return packer.pack(task.chunk.blocks, task.chunk.dropped, task.held_out_below, task.num_buckets)


@functools.lru_cache(maxsize=1)
def _packer(directory: str, vocab_sha256: str, settings: PrepareSettings) -> Packer:
    """Returns the packer of this process, which remembers the tokens of words."""
    vocabulary = Vocabulary.from_file(os.path.join(directory, VOCAB_FILE))
    assert vocabulary.sha256 == vocab_sha256
    model_file = os.path.join(directory, SENTENCEPIECE_FILE)
    return Packer(vocabulary, settings, model_file if os.path.exists(model_file) else None)


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """A shard to write to `path`; what it holds is noted in `note` once it is whole."""

    path: str
    note: str
    slice: Slice
    lengths_name: str
    has_words: bool
    vocab_size: int


def make_shard(task: ShardTask) -> tuple[Shard, np.ndarray]:
    """Writes a shard, unless it is whole already; returns its description and int64 [vocab_size], its tokens."""
    if os.path.exists(task.note):
        with open(task.note, encoding="utf-8") as stream:
            record = json.load(stream)
        return Shard(**record["shard"]), np.array(record["token_counts"], np.int64)
    shard, counts = write_shard(
        task.path,
        task.slice.read(),
        lengths_name=task.lengths_name,
        has_words=task.has_words,
        vocab_size=task.vocab_size,
    )
    record = {"shard": dataclasses.asdict(shard), "token_counts": counts.tolist()}
    write_whole(task.note, json.dumps(record).encode())
    return shard, counts
