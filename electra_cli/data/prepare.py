"""Raw text to shards: read, tokenize and pack in parallel, shuffle over all, write in parallel, whole or not at all.

The parent reads blocks of text; workers tokenize and pack them (`packing.py`); the spool brings the examples into one
order that follows from the seed (`spool.py`); workers write a shard each. The bytes that come out do not depend on the
number of workers. A preparation that was stopped goes on: each stage notes on disk what of it is done.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

import electra_cli
from electra_cli import files
from electra_cli.data import duplicates, python_docs, tokenization
from electra_cli.data.corpus import Corpus
from electra_cli.data.output_directory import OutputDirectory, write_whole
from electra_cli.data.packing import PrepareSettings, check_documents, check_totals
from electra_cli.data.spool import SPLITS, Spool, Totals
from electra_cli.data.tfrecords import (
    DATA_FILES,
    MANIFEST_FILE,
    SENTENCEPIECE_FILE,
    TOKEN_COUNTS_FILE,
    VOCAB_FILE,
    Manifest,
    Shard,
    file_checksum,
    read_manifest,
    shard_name,
    token_counts_to_bytes,
)
from electra_cli.data.vocabulary import LearningSettings, Vocabulary, WordCounts, WordSplitter, learn_vocabulary
from electra_cli.data.workers import (
    ChunkTask,
    PackTask,
    ShardTask,
    Workers,
    count_words,
    make_shard,
    pack_chunk,
    sign_documents,
)
from electra_cli.errors import ResumableError, UnreadableError, UserError

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
      ResumableError: no space is left, a worker was killed, or a file could not be read any more. The same call goes
        on.
    """
    given = load_vocabulary(vocab_file, settings) if vocab_file else None
    job = {
        "version": electra_cli.__version__,
        "settings": dataclasses.asdict(settings),
        "inputs": [python_docs.NAME if path == python_docs.NAME else _identify(path, settings) for path in inputs],
        "vocabulary": hashlib.sha256(files.read_bytes(vocab_file)).hexdigest() if vocab_file else None,
        "learning": dataclasses.asdict(learning) if learning else None,
    }
    directory = OutputDirectory(output_dir, overwrite=overwrite, owned=DATA_FILES, job=job)
    with directory as output, Workers(num_workers) as workers, _reading():
        if output.is_finished:
            output.commit()
            return read_manifest(output_dir)
        if output.is_resumed:
            report(f"going on with {output.path}", 1.0)
        if vocab_file and given and vocab_file.endswith(tokenization.SUFFIX):
            write_whole(os.path.join(output.path, SENTENCEPIECE_FILE), files.read_bytes(vocab_file))
        with contextlib.closing(Preparation(inputs, settings, output, workers, report)) as preparation:
            preparation.find_copies()
            vocabulary = preparation.provide_vocabulary(given, learning)
            spool = preparation.pack(vocabulary)
            manifest = preparation.write(spool, vocabulary)
        output.commit()
    return manifest


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Makes a failure to read, after which all that was done is still good, one that the same command goes on from."""
    try:
        yield
    except UnreadableError as error:  # it could be read before the work
        raise ResumableError(f"{error}; once it can be read, the same command goes on where it ended") from error


def load_vocabulary(path: str, settings: PrepareSettings) -> Vocabulary:
    """Returns the vocabulary of a file of tokens or a SentencePiece model.

    Raises:
      UserError: it cannot be read, or does not fit the settings.
    """
    if path.endswith(tokenization.SUFFIX):
        if settings.has_words:
            raise UserError(
                f"--word_boundaries=whitespace does not go with the SentencePiece model {path}, which splits text in "
                f"its own way"
            )
        return tokenization.SentencePieceTokenizer(path).vocabulary
    vocabulary = Vocabulary.from_file(path)
    _check_case(vocabulary, settings.lower_case, path)
    return vocabulary


def _identify(path: str, settings: PrepareSettings) -> list:
    """Returns what tells the content of an input from another: names, sizes and times of its files."""
    found = Corpus([path], settings.text_format).files
    return [[file, files.size(file), None if files.is_remote(file) else os.stat(file).st_mtime_ns] for file in found]


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
        tasks = (ChunkTask(blocks, self._settings) for number, blocks in enumerate(corpus.chunks()) if number >= first)
        saved = time.monotonic()
        for signatures in self._workers.map(sign_documents, tasks):
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
        for counts, *numbers in self._workers.map(count_words, tasks()):
            words.add(counts)
            num_documents, num_short = num_documents + numbers[0], num_short + numbers[1]
            self._report("counting words", corpus.fraction_read, corpus.text_bytes)
        check_documents(num_documents, num_short, corpus.files, self._settings)
        self._report(f"learning a vocabulary from {sampled_bytes / 1e6:,.1f} of {corpus.text_bytes / 1e6:,.1f} MB", 0.0)
        learned = {
            "vocabulary_text_bytes": sampled_bytes,
            "different_words": len(words.counts),
            "rare_words_forgotten": words.num_forgotten,
        }
        self._write_note("learned.json", learned)
        return learn_vocabulary(words.counts, learning, WordSplitter(lower_case=self._settings.lower_case))

    def read_learned(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns how the vocabulary was learned, and statistics of it; nothing when it was given."""
        return self._read_note("learning.json"), self._read_note("learned.json")

    def pack(self, vocabulary: Vocabulary) -> Spool:
        """Returns all packed examples; both splits hold some, unless none are to be held out.

        Raises:
          UserError: there is no text, no example, or no document can be held out.
        """
        settings = self._settings
        spool = Spool(self._output.scratch, self._open_corpus().estimate_bytes())
        note = self._read_note("held_out.json")
        self._pack_below(spool, vocabulary, note.get("held_out_below", settings.validation_fraction))
        held_out_below = check_totals(spool.totals, self._open_corpus().files, settings)
        if held_out_below is not None:
            self._write_note("held_out.json", {"held_out_below": held_out_below})
            spool.discard()
            self._pack_below(spool, vocabulary, held_out_below)
            check_totals(spool.totals, self._open_corpus().files, settings)
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
        for chunk in self._workers.map(pack_chunk, tasks):
            spool.add(chunk)
            self._report("tokenizing", corpus.fraction_read, corpus.text_bytes)
        self._write_note(  # before the spool is complete: then nothing is read again after a kill
            "corpus.json",
            {"files": len(corpus.files), "text_bytes": corpus.text_bytes, "long_documents_cut": corpus.num_cut},
        )
        spool.finish()

    def write(self, spool: Spool, vocabulary: Vocabulary) -> Manifest:
        """Writes shards, counts and manifest; returns the manifest."""
        shards: dict[str, list[Shard]] = {split: [] for split in SPLITS}
        token_counts: np.ndarray = np.zeros(vocabulary.size, np.int64)
        tasks = [(split, task) for split in SPLITS for task in self._shard_tasks(split, spool, vocabulary.size)]
        made = self._workers.map(make_shard, (task for _, task in tasks))
        for number, ((split, _), (shard, counts)) in enumerate(zip(tasks, made, strict=True), 1):
            shards[split].append(shard)
            if split == "train":
                token_counts += counts
            self._report("writing shards", number / len(tasks))
        splits = {split: tuple(found) for split, found in shards.items()}
        learning, learned = self.read_learned()
        statistics = {
            **self._read_note("corpus.json"),
            **learned,
            "builtin": self._builtin,
            "copies_dropped": self._copies.num_copies if self._copies else 0,
        }
        model_file = os.path.join(self._output.path, SENTENCEPIECE_FILE)
        manifest = build_manifest(
            self._settings,
            vocabulary,
            spool.totals,
            splits,
            learning=learning,
            statistics=statistics,
            sentencepiece_sha256=file_checksum(model_file) if os.path.exists(model_file) else "",
        )
        write_whole(os.path.join(self._output.path, TOKEN_COUNTS_FILE), token_counts_to_bytes(token_counts))
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
        num_shards = spool.totals.num_shards(split, self._settings.shard_size_mb)
        for index, part in enumerate(spool.slices(split, num_shards)):
            name = shard_name(split, index, num_shards)
            yield ShardTask(
                os.path.join(self._output.path, name),
                self._scratch_file(f"{name}.json"),
                part,
                self._settings.lengths_name,
                self._settings.has_words,
                vocab_size,
            )


def build_manifest(
    settings: PrepareSettings,
    vocabulary: Vocabulary,
    totals: Totals,
    splits: dict[str, tuple[Shard, ...]],
    *,
    learning: dict[str, Any],
    statistics: dict[str, Any],
    sentencepiece_sha256: str,
) -> Manifest:
    """Returns the manifest of shards.

    Args:
      settings: how they were made.
      vocabulary: of which tokens.
      totals: what was packed.
      splits: the shards.
      learning: how the vocabulary was learned; nothing when it was given.
      statistics: what else was seen: `files`, `text_bytes`, `long_documents_cut`, `builtin`, `copies_dropped`, and what
        was seen while the vocabulary was learned.
      sentencepiece_sha256: the checksum of the SentencePiece model; '' with a WordPiece vocabulary.
    """
    return Manifest(
        max_seq_length=settings.max_seq_length,
        vocab_size=vocabulary.size,
        lower_case=settings.lower_case and not sentencepiece_sha256,
        vocab_sha256=vocabulary.sha256,
        settings={**dataclasses.asdict(settings), "learning": learning},
        statistics={
            **statistics,
            "documents": totals.num_documents,
            "short_documents_dropped": totals.num_short,
            "replaced_characters": dict(sorted(totals.replaced.items())),
        },
        splits=splits,
        sentencepiece_sha256=sentencepiece_sha256,
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
