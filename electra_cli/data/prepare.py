"""Raw text to shards: read, tokenize and pack in parallel, shuffle over all, write in parallel, whole or not at all.

The parent reads blocks of text; workers tokenize and pack them (`packing.py`); the spool brings the examples into one
order that follows from the seed (`spool.py`); workers write a shard each. The bytes that come out do not depend on the
number of workers. A preparation that was stopped goes on: each stage notes on disk what of it is done.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

import electra_cli
from electra_cli import files
from electra_cli.data import duplicates, python_docs, sentencepiece_model, worker_tasks
from electra_cli.data.corpus import Corpus
from electra_cli.data.output_directory import OutputDirectory, write_whole
from electra_cli.data.packing import PrepareSettings
from electra_cli.data.spool import SPLITS, Spool
from electra_cli.data.tfrecords import (
    MANIFEST_FILE,
    SENTENCEPIECE_FILE,
    TOKEN_COUNTS_FILE,
    VOCAB_FILE,
    Manifest,
    Shard,
    file_checksum,
)
from electra_cli.data.vocabulary import Vocabulary
from electra_cli.data.vocabulary_learning import LearningSettings, WordCounts, WordSplitter, learn_vocabulary
from electra_cli.data.worker_tasks import ChunkTask, PackTask, ShardTask
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
    vocab_file: str | None = None,
    learning: LearningSettings | None = None,
    num_workers: int,
    overwrite: bool,
    report: Report,
) -> Manifest:
    """Prepares a corpus.

    Args:
      inputs: files, directories and `builtin:python-docs`.
      output_dir: local directory to be made.
      settings: how.
      vocab_file: a vocabulary, a token a line, or a SentencePiece model; None to learn one.
      learning: how to learn it.
      num_workers: processes.
      overwrite: whether to replace what `output_dir` holds, once the new data is whole.
      report: see there.

    Returns:
      The manifest that was written.

    Raises:
      UserError: input, vocabulary or output directory will not do. What `output_dir` held is intact.
      ResumableError: no space is left, or a worker was killed. The same call goes on.
    """
    given = load_vocabulary(vocab_file, settings) if vocab_file else None
    job = {
        "version": electra_cli.__version__,
        "settings": dataclasses.asdict(settings),
        "inputs": [python_docs.NAME if path == python_docs.NAME else _identify(path, settings) for path in inputs],
        "vocabulary": hashlib.sha256(files.read_bytes(vocab_file)).hexdigest() if vocab_file else None,
        "learning": dataclasses.asdict(learning) if learning else None,
    }
    with OutputDirectory(output_dir, overwrite=overwrite, job=job) as output, Workers(num_workers) as workers:
        if output.is_resumed:
            report(f"going on with {output.path}", 1.0)
        if vocab_file and given and vocab_file.endswith(sentencepiece_model.SUFFIX):
            write_whole(os.path.join(output.path, SENTENCEPIECE_FILE), files.read_bytes(vocab_file))
        with contextlib.closing(_Preparation(inputs, settings, output, workers, report)) as preparation:
            preparation.find_copies()
            vocabulary = preparation.provide_vocabulary(given, learning)
            spool = preparation.pack(vocabulary)
            manifest = preparation.write(spool, vocabulary)
        output.commit()
    return manifest


def load_vocabulary(path: str, settings: PrepareSettings) -> Vocabulary:
    """Returns the vocabulary of a file of tokens or a SentencePiece model.

    Raises:
      UserError: it cannot be read, or does not fit the settings.
    """
    if path.endswith(sentencepiece_model.SUFFIX):
        if settings.has_words:
            raise UserError(
                f"--word_boundaries=whitespace does not go with the SentencePiece model {path}, which splits text in "
                f"its own way"
            )
        return sentencepiece_model.SentencePieceTokenizer(path).vocabulary
    vocabulary = Vocabulary.from_file(path)
    _check_case(vocabulary, settings.lower_case, path)
    return vocabulary


def _identify(path: str, settings: PrepareSettings) -> list:
    """Returns what tells the content of an input from another: names, sizes and times of its files."""
    found = Corpus([path], settings.text_format).files
    return [[file, files.size(file), None if files.is_remote(file) else os.stat(file).st_mtime_ns] for file in found]


class _Preparation:
    """The stages of one preparation, each of which goes on with what it finds done."""

    def __init__(
        self, inputs: list[str], settings: PrepareSettings, output: OutputDirectory, workers: Workers, report: Report
    ):
        self._settings = settings
        self._output = output
        self._workers = workers
        self._report = report
        self._builtin = [path for path in inputs if path == python_docs.NAME]
        self._inputs = [self._extract_builtin() if path == python_docs.NAME else path for path in inputs]
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
        return self._settings.open_corpus(self._inputs)

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
        tasks = (ChunkTask(blocks, self._settings) for number, blocks in enumerate(corpus.chunks()) if number >= first)
        saved = time.monotonic()
        for signatures in self._workers.map(worker_tasks.sign_documents, tasks):
            index.add_chunk(signatures)
            self._report("looking for copies", corpus.fraction_read, corpus.text_bytes)
            if time.monotonic() - saved > _SAVE_SECONDS:
                index.save(is_complete=False)
                saved = time.monotonic()
        index.save(is_complete=True)

    def provide_vocabulary(self, given: Vocabulary | None, learning: LearningSettings | None) -> Vocabulary:
        """Writes the vocabulary, which is learned when none is given, and returns it."""
        path = os.path.join(self._output.path, VOCAB_FILE)
        if os.path.exists(path):
            return Vocabulary.from_file(path)
        if given is None:
            assert learning is not None
            given = self._learn_vocabulary(learning)
        write_whole(path, given.to_bytes())
        return given

    def _learn_vocabulary(self, learning: LearningSettings) -> Vocabulary:
        corpus = self._open_corpus()
        fraction = min(1.0, learning.sample_mb * 1e6 / max(1, corpus.estimate_bytes()))
        sampled_bytes = 0

        def tasks() -> Iterator[ChunkTask]:
            nonlocal sampled_bytes
            for number, blocks in enumerate(corpus.chunks()):
                if int((number + 1) * fraction) > int(number * fraction):
                    sampled_bytes += sum(block.num_bytes for block in blocks)
                    yield ChunkTask(blocks, self._settings, self._dropped(number))

        self._write_note("learning.json", dataclasses.asdict(learning))
        words = WordCounts()
        num_documents = num_short = 0
        for counts, *numbers in self._workers.map(worker_tasks.count_words, tasks()):
            words.add(counts)
            num_documents, num_short = num_documents + numbers[0], num_short + numbers[1]
            self._report("counting words", corpus.fraction_read, corpus.text_bytes)
        self._check_documents(num_documents, num_short)
        self._report(f"learning a vocabulary from {sampled_bytes / 1e6:,.1f} of {corpus.text_bytes / 1e6:,.1f} MB", 0.0)
        learned = {
            "vocabulary_text_bytes": sampled_bytes,
            "different_words": len(words.counts),
            "rare_words_forgotten": words.num_forgotten,
        }
        self._write_note("learned.json", learned)
        return learn_vocabulary(words.counts, learning, WordSplitter(lower_case=self._settings.lower_case))

    def pack(self, vocabulary: Vocabulary) -> Spool:
        """Returns all packed examples; both splits hold some, unless none are to be held out.

        Raises:
          UserError: there is no text, no example, or no document can be held out.
        """
        settings = self._settings
        spool = Spool(self._output.scratch, self._open_corpus().estimate_bytes())
        note = self._read_note("held_out.json")
        held_out_below = note.get("held_out_below", settings.validation_fraction)
        self._pack_below(spool, vocabulary, held_out_below)
        self._check_documents(spool.totals.num_documents, spool.totals.num_short)
        if not spool.totals.num_records:
            raise UserError("--input gives no example: its text holds no token that the vocabulary knows")
        if settings.validation_fraction > 0 and not spool.totals.num_examples("validation"):
            # Too few documents for the fraction: hold out the one that comes first, and its copies.
            held_out_below = math.nextafter(spool.totals.least_hash, 1.0)
            self._write_note("held_out.json", {"held_out_below": held_out_below})
            spool.discard()
            self._pack_below(spool, vocabulary, held_out_below)
        if not spool.totals.num_examples("train"):
            raise UserError(
                f"--input has {spool.totals.num_documents} document(s), and all of them would be held out: separate "
                f"documents by blank lines (see --document_separator), or give --validation_fraction=0 to evaluate "
                f"nothing"
            )
        return spool

    def _pack_below(self, spool: Spool, vocabulary: Vocabulary, held_out_below: float) -> None:
        if spool.is_complete:
            return
        corpus = self._open_corpus()
        first = spool.num_chunks
        tasks = (
            PackTask(
                ChunkTask(blocks, self._settings, self._dropped(number)),
                self._output.path,
                vocabulary.sha256,
                held_out_below,
                spool.num_buckets,
            )
            for number, blocks in enumerate(corpus.chunks())
            if number >= first
        )
        for chunk in self._workers.map(worker_tasks.pack_chunk, tasks):
            spool.add(chunk)
            self._report("tokenizing", corpus.fraction_read, corpus.text_bytes)
        spool.finish()
        self._write_note(
            "corpus.json",
            {"files": len(corpus.files), "text_bytes": corpus.text_bytes, "long_documents_cut": corpus.num_cut},
        )

    def _check_documents(self, num_documents: int, num_short: int) -> None:
        if not num_documents:
            names = self._open_corpus().files
            raise UserError(f"--input holds no text: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}")
        if num_short == num_documents:
            raise UserError(
                f"no document of --input is left: all {num_documents:,} have fewer words than "
                f"--min_words={self._settings.min_words}"
            )

    def write(self, spool: Spool, vocabulary: Vocabulary) -> Manifest:
        """Writes shards, counts and manifest; returns the manifest."""
        splits: dict[str, tuple[Shard, ...]] = {}
        token_counts: np.ndarray = np.zeros(vocabulary.size, np.int64)
        for split in SPLITS:
            tasks = list(self._shard_tasks(split, spool, vocabulary.size))
            shards = []
            for shard, counts in self._workers.map(worker_tasks.make_shard, tasks):
                shards.append(shard)
                if split == "train":
                    token_counts += counts
                self._report(f"writing {split} shards", len(shards) / len(tasks))
            splits[split] = tuple(shards)
        statistics = self._read_note("corpus.json") | self._read_note("learned.json")
        totals = spool.totals
        model_file = os.path.join(self._output.path, SENTENCEPIECE_FILE)
        manifest = Manifest(
            max_seq_length=self._settings.max_seq_length,
            vocab_size=vocabulary.size,
            lower_case=self._settings.lower_case and not os.path.exists(model_file),
            vocab_sha256=vocabulary.sha256,
            settings={**dataclasses.asdict(self._settings), "learning": self._read_note("learning.json")},
            statistics={
                **statistics,
                "builtin": self._builtin,
                "documents": totals.num_documents,
                "short_documents_dropped": totals.num_short,
                "copies_dropped": self._copies.num_copies if self._copies else 0,
                "replaced_characters": dict(sorted(totals.replaced.items())),
            },
            splits=splits,
            sentencepiece_sha256=file_checksum(model_file) if os.path.exists(model_file) else "",
        )
        counts = b"".join(b"%d\n" % number for number in token_counts)
        write_whole(os.path.join(self._output.path, TOKEN_COUNTS_FILE), counts)
        write_whole(os.path.join(self._output.path, MANIFEST_FILE), manifest.to_json().encode())
        return manifest

    def _write_note(self, name: str, content: dict[str, Any]) -> None:
        write_whole(self._scratch_file(name), json.dumps(content).encode())

    def _read_note(self, name: str) -> dict[str, Any]:
        path = self._scratch_file(name)
        if not os.path.exists(path):
            return {}
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)

    def _shard_tasks(self, split: str, spool: Spool, vocab_size: int) -> Iterator[ShardTask]:
        total = spool.totals.num_examples(split)
        # A record takes about half of what its ids take as uint32; never more shards than examples.
        size = spool.totals.num_bytes[split] / 2
        num_shards = min(total, max(1, math.ceil(size / (self._settings.shard_size_mb * 1e6))))
        for index, part in enumerate(spool.slices(split, num_shards)):
            name = f"{split}-{index:05}-of-{num_shards:05}.tfrecord"
            yield ShardTask(
                os.path.join(self._output.path, name),
                self._scratch_file(f"{name}.json"),
                part,
                self._settings.lengths_name,
                self._settings.has_words,
                vocab_size,
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
