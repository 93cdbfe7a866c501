"""Raw text to shards: read, tokenize and pack in parallel, shuffle over all, write in parallel, whole or not at all.

The parent reads blocks of text; workers tokenize and pack them (`packing.py`); the spool brings the examples into one
order that follows from the seed (`spool.py`); workers write a shard each. The bytes that come out do not depend on the
number of workers. A preparation that was stopped goes on: each stage notes on disk what of it is done.
"""

import contextlib
import dataclasses
import functools
import json
import os
import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

import electra_cli
from electra_cli import files
from electra_cli.data import duplicates, python_docs
from electra_cli.data.corpus import Block, Corpus
from electra_cli.data.output_directory import OutputDirectory, write_whole
from electra_cli.data.packing import ChunkReader, Packer, PrepareSettings, check_documents, check_totals, sign_documents
from electra_cli.data.spool import SPLITS, PackedChunk, Slice, Spool, Totals
from electra_cli.data.tfrecords import (
    MANIFEST_FILE,
    TOKEN_COUNTS_FILE,
    VOCAB_FILE,
    Manifest,
    Shard,
    shard_name,
    token_counts_to_bytes,
    write_shard,
)
from electra_cli.data.vocabulary import Vocabulary, learn_vocabulary
from electra_cli.data.workers import Workers
from electra_cli.errors import UserError

_SAVE_SECONDS = 10.0


class Report(Protocol):
    """Is told now and then how far a stage is."""

    def __call__(self, stage: str, fraction: float, num_bytes: int = 0) -> None:
        """Tells the fraction of the stage that is done, and the bytes of text read by this process."""


def prepare(
    inputs: list[str],
    output_dir: str,
    settings: PrepareSettings,
    *,
    vocab_file: str | None,
    learn_vocab: int | None,
    num_workers: int,
    overwrite: bool,
    report: Report,
) -> Manifest:
    """Prepares a corpus.

    Args:
      inputs: files, directories and `builtin:python-docs`.
      output_dir: local directory to be made.
      settings: how.
      vocab_file: the vocabulary, or None to learn one.
      learn_vocab: number of tokens to learn, or None.
      num_workers: processes.
      overwrite: whether to replace what `output_dir` holds, once the new data is whole.
      report: see there.

    Returns:
      The manifest that was written.

    Raises:
      UserError: input, vocabulary or output directory will not do. What `output_dir` held is intact.
      ResumableError: no space is left, or a worker was killed. The same call goes on.
    """
    vocabulary = given_vocabulary(vocab_file, settings)
    job = {
        "version": electra_cli.__version__,
        "settings": dataclasses.asdict(settings),
        "inputs": [python_docs.NAME if path == python_docs.NAME else _identify(path, settings) for path in inputs],
        "vocabulary": vocabulary.sha256 if vocabulary else learn_vocab,
    }
    with OutputDirectory(output_dir, overwrite=overwrite, job=job) as output, Workers(num_workers) as workers:
        if output.is_resumed:
            report(f"going on with {output.path}", 1.0)
        with contextlib.closing(Preparation(inputs, settings, output, workers, report)) as preparation:
            preparation.find_copies()
            vocabulary = preparation.provide_vocabulary(vocabulary, learn_vocab or 0)
            spool = preparation.pack(vocabulary)
            manifest = preparation.write(spool, vocabulary)
        output.commit()
    return manifest


def _identify(path: str, settings: PrepareSettings) -> list:
    """Returns what tells the content of an input from another: names, sizes and times of its files."""
    found = Corpus([path], settings.text_format).files
    return [[file, files.size(file), None if files.is_remote(file) else os.stat(file).st_mtime_ns] for file in found]


@dataclasses.dataclass(frozen=True)
class _ChunkTask:
    """A chunk for a worker."""

    blocks: list[Block]
    settings: PrepareSettings
    dropped: frozenset[int] = frozenset()
    vocab_file: str = ""
    vocab_sha256: str = ""
    held_out_below: float = 0.0
    num_buckets: int = 0


class Preparation:
    """The stages of one preparation, each of which goes on with what it finds done.

    Attributes:
      inputs: files, directories and patterns; what is built in is a file by now.
    """

    def __init__(
        self, inputs: list[str], settings: PrepareSettings, output: OutputDirectory, workers: Workers, report: Report
    ):
        self._settings = settings
        self._output = output
        self._workers = workers
        self._report = report
        self._builtin = [path for path in inputs if path == python_docs.NAME]
        self.inputs = [self._extract_builtin() if path == python_docs.NAME else path for path in inputs]
        self._copies: duplicates.CopyIndex | None = None

    def close(self) -> None:
        """Closes what is open."""
        if self._copies is not None:
            self._copies.close()

    def _scratch_file(self, name: str) -> str:
        return os.path.join(self._output.scratch, name)

    def _extract_builtin(self) -> str:
        path = self._scratch_file("python-docs.txt")
        if not os.path.exists(path):
            python_docs.extract(f"{path}.new", self._workers.map, self._report)
            os.rename(f"{path}.new", path)
        return path

    def _open_corpus(self) -> Corpus:
        return self._settings.open_corpus(self.inputs)

    def _dropped(self, chunk: int) -> frozenset[int]:
        return self._copies.copies_in(chunk) if self._copies else frozenset()

    def find_copies(self) -> None:
        """Finds the documents that are copies, when they are to be left out."""
        if self._settings.deduplicate == "none":
            return
        is_near = self._settings.deduplicate == "near"
        self._copies = index = duplicates.CopyIndex(self._scratch_file("copies.sqlite"), is_near=is_near)
        if index.is_complete:
            return
        corpus = self._open_corpus()
        first = index.num_chunks
        tasks = (_ChunkTask(blocks, self._settings) for number, blocks in enumerate(corpus.chunks()) if number >= first)
        saved = time.monotonic()
        for signatures in self._workers.map(_sign_task, tasks):
            index.add_chunk(signatures)
            self._report("looking for copies", corpus.fraction_read, corpus.text_bytes)
            if time.monotonic() - saved > _SAVE_SECONDS:
                index.save(is_complete=False)
                saved = time.monotonic()
        index.save(is_complete=True)

    def provide_vocabulary(self, vocabulary: Vocabulary | None, learn_vocab: int) -> Vocabulary:
        """Writes the vocabulary, which is learned when none is given, and returns it."""
        path = os.path.join(self._output.path, VOCAB_FILE)
        if os.path.exists(path):
            return Vocabulary.from_file(path)
        if vocabulary is None:
            corpus = self._open_corpus()
            reader = ChunkReader(self._settings)
            lines = [
                line
                for number, blocks in enumerate(corpus.chunks())
                for _, document in reader.read(blocks, self._dropped(number))
                for line in document.lines
            ]
            check_documents(reader.num_documents, reader.num_short, corpus.files, self._settings)
            vocabulary = learn_vocabulary(lines, learn_vocab, lower_case=self._settings.lower_case)
        write_whole(path, vocabulary.to_bytes())
        return vocabulary

    def pack(self, vocabulary: Vocabulary) -> Spool:
        """Returns all packed examples; both splits hold some, unless none are to be held out.

        Raises:
          UserError: there is no text, no example, or no document can be held out.
        """
        settings = self._settings
        spool = Spool(self._output.scratch, self._open_corpus().estimate_bytes())
        held_out_file = self._scratch_file("held_out_below.json")
        held_out_below = settings.validation_fraction
        if os.path.exists(held_out_file):
            with open(held_out_file, encoding="utf-8") as stream:
                held_out_below = json.load(stream)
        self._pack_below(spool, vocabulary, held_out_below)
        other_place = check_totals(spool.totals, self._open_corpus().files, settings)
        if other_place is not None:
            write_whole(held_out_file, json.dumps(other_place).encode())
            spool.discard()
            self._pack_below(spool, vocabulary, other_place)
            check_totals(spool.totals, self._open_corpus().files, settings)
        return spool

    def _pack_below(self, spool: Spool, vocabulary: Vocabulary, held_out_below: float) -> None:
        if spool.is_complete:
            return
        corpus = self._open_corpus()
        first = spool.num_chunks
        tasks = (
            _ChunkTask(
                blocks,
                self._settings,
                self._dropped(number),
                os.path.join(self._output.path, VOCAB_FILE),
                vocabulary.sha256,
                held_out_below,
                spool.num_buckets,
            )
            for number, blocks in enumerate(corpus.chunks())
            if number >= first
        )
        for chunk in self._workers.map(_pack_task, tasks):
            spool.add(chunk)
            self._report("tokenizing", corpus.fraction_read, corpus.text_bytes)
        spool.finish()
        write_whole(
            self._scratch_file("corpus.json"),
            json.dumps(
                {
                    "files": len(corpus.files),
                    "text_bytes": corpus.text_bytes,
                    "long_documents_cut": corpus.num_cut,
                }
            ).encode(),
        )

    def write(self, spool: Spool, vocabulary: Vocabulary) -> Manifest:
        """Writes shards, counts and manifest; returns the manifest."""
        splits: dict[str, tuple[Shard, ...]] = {}
        token_counts: np.ndarray = np.zeros(vocabulary.size, np.int64)
        for split in SPLITS:
            tasks = list(self._shard_tasks(split, spool, vocabulary.size))
            shards = []
            for shard, counts in self._workers.map(_shard_task, tasks):
                shards.append(shard)
                if split == "train":
                    token_counts += counts
                self._report(f"writing {split} shards", len(shards) / len(tasks))
            splits[split] = tuple(shards)
        with open(self._scratch_file("corpus.json"), encoding="utf-8") as stream:
            statistics: dict[str, Any] = json.load(stream)
        statistics["builtin"] = self._builtin
        statistics["copies_dropped"] = self._copies.num_copies if self._copies else 0
        manifest = build_manifest(self._settings, vocabulary, spool.totals, statistics, splits)
        write_whole(os.path.join(self._output.path, TOKEN_COUNTS_FILE), token_counts_to_bytes(token_counts))
        write_whole(os.path.join(self._output.path, MANIFEST_FILE), manifest.to_json().encode())
        return manifest

    def _shard_tasks(self, split: str, spool: Spool, vocab_size: int) -> Iterator["_ShardTask"]:
        num_shards = spool.totals.num_shards(split, self._settings.shard_size_mb)
        for index, part in enumerate(spool.slices(split, num_shards)):
            name = shard_name(split, index, num_shards)
            yield _ShardTask(
                os.path.join(self._output.path, name),
                self._scratch_file(f"{name}.json"),
                part,
                self._settings.lengths_name,
                self._settings.has_words,
                vocab_size,
            )


def _sign_task(task: _ChunkTask) -> list[tuple[int, bytes]]:
    return sign_documents(task.blocks, task.settings)


@functools.lru_cache(maxsize=1)
def _packer(vocab_file: str, vocab_sha256: str, settings: PrepareSettings) -> Packer:
    """Returns the packer of this process, which remembers the tokens of words."""
    vocabulary = Vocabulary.from_file(vocab_file)
    assert vocabulary.sha256 == vocab_sha256
    return Packer(vocabulary, settings)


def _pack_task(task: _ChunkTask) -> PackedChunk:
    packer = _packer(task.vocab_file, task.vocab_sha256, task.settings)
    return packer.pack(task.blocks, task.dropped, task.held_out_below, task.num_buckets)


@dataclasses.dataclass(frozen=True)
class _ShardTask:
    """A shard to write to `path`; what it holds is noted in `note` once it is whole."""

    path: str
    note: str
    slice: Slice
    lengths_name: str
    has_words: bool
    vocab_size: int


def _shard_task(task: _ShardTask) -> tuple[Shard, np.ndarray]:
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


def given_vocabulary(vocab_file: str | None, settings: PrepareSettings) -> Vocabulary | None:
    """Returns the vocabulary of the file; None without one.

    Raises:
      UserError: it cannot be read, or its case is not that of the settings.
    """
    if not vocab_file:
        return None
    vocabulary = Vocabulary.from_file(vocab_file)
    _check_case(vocabulary, settings.lower_case, vocab_file)
    return vocabulary


def build_manifest(
    settings: PrepareSettings,
    vocabulary: Vocabulary,
    totals: Totals,
    statistics: dict[str, Any],
    splits: dict[str, tuple[Shard, ...]],
) -> Manifest:
    """Returns the manifest of shards.

    Args:
      settings: how they were made.
      vocabulary: of which tokens.
      totals: what was packed.
      statistics: what else was seen: `files`, `text_bytes`, `long_documents_cut`, `builtin`, `copies_dropped`.
      splits: the shards.
    """
    return Manifest(
        max_seq_length=settings.max_seq_length,
        vocab_size=vocabulary.size,
        lower_case=settings.lower_case,
        vocab_sha256=vocabulary.sha256,
        settings=dataclasses.asdict(settings),
        statistics={
            **statistics,
            "documents": totals.num_documents,
            "short_documents_dropped": totals.num_short,
            "replaced_characters": dict(sorted(totals.replaced.items())),
        },
        splits=splits,
    )


def _check_case(vocabulary: Vocabulary, lower_case: bool, path: str) -> None:
    """A cased vocabulary with lower-casing wastes its entries; the other way round most words become [UNK]."""
    words = [
        token
        for token in vocabulary.tokens
        if token not in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") and token[0] != "["
    ]
    num_upper = sum(token != token.lower() for token in words)
    if lower_case and num_upper > 0.02 * len(words) + 1:
        raise UserError(f"vocabulary {path} is cased ({num_upper:,} tokens with capitals): add --lower_case=false")
    if not lower_case and num_upper == 0 and len(words) > 1000:
        raise UserError(f"vocabulary {path} is uncased (no capitals): leave --lower_case at true")
