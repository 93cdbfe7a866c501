"""Raw text to shards: read, tokenize and pack in parallel, shuffle, write in parallel, all or nothing.

The parent reads blocks of text; workers tokenize and pack them (`packing.py`); the spool brings the examples into one
order that follows from the seed (`spool.py`); workers write a shard each. The output does not depend on the number of
workers. A stopped preparation resumes: each stage records its progress on disk.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import electra_cli
from electra_cli import files
from electra_cli.data import duplicates, python_docs, tfrecords
from electra_cli.data.corpus import Corpus
from electra_cli.data.output_directory import OutputDirectory
from electra_cli.data.packing import PrepareSettings, check_documents, check_totals, sign_documents
from electra_cli.data.spool import SPLITS, Slice, Spool, Totals
from electra_cli.data.tfrecords import Manifest, Shard
from electra_cli.data.tokenization import TokenizerSettings, is_model, read_prepared, read_tokenizer
from electra_cli.data.vocabulary import BYTE_WORD_BEGIN, Vocabulary, WordRules, guess_rules
from electra_cli.data.vocabulary_learning import (
    LearningSettings,
    WordCounts,
    WordSplitter,
    learn_byte_level,
    learn_vocabulary,
)
from electra_cli.data.workers import Chunk, Workers, count_words, make_shard, pack_chunk
from electra_cli.errors import ResumableError, UnreadableError, UserError

_SAVE_SECONDS = 10.0
# Receives now and then a stage, the fraction of it that is done, and the bytes of text read (0 by default).
Report = Callable[..., None]
# The settings a vocabulary was learned with, and statistics of its text; both empty when the vocabulary was given.
Learned = tuple[dict[str, Any], dict[str, Any]]


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
    """Prepares a corpus and returns the manifest that was written.

    Args:
      inputs: files, directories, patterns and `builtin:python-docs`.
      vocab_file: a vocabulary, a token a line, a SentencePiece model or a `tokenizer.json`; None to learn one.
      overwrite: whether to replace the content of `output_dir`, which is local, once the new data is complete.

    Raises:
      UserError: input, vocabulary or output directory is unsuitable; the content of `output_dir` is intact.
      ResumableError: no space is left, a worker was killed, or a file could no longer be read. The same call resumes.
    """
    given, settings = open_tokenizer(vocab_file, learning, settings)
    job = {
        "version": electra_cli.__version__,
        "settings": dataclasses.asdict(settings),
        "inputs": [_identify(path, settings) for path in inputs],
        "vocabulary": hashlib.sha256(files.read_bytes(vocab_file)).hexdigest() if vocab_file else None,
        "learning": dataclasses.asdict(learning) if learning else None,
    }
    directory = OutputDirectory(output_dir, overwrite=overwrite, owned=tfrecords.DATA_FILES, job=job)
    with directory as output, Workers(num_workers) as workers, _resumable_reading():
        if output.is_finished:
            output.commit()
            return tfrecords.read_manifest(output_dir)
        if output.is_resumed:
            report(f"resuming {output.path}", 1.0)
        preparation = Preparation(inputs, settings, output.path, output.scratch, workers, report)
        with contextlib.closing(preparation):
            preparation.deduplicate()
            tokenizer = preparation.provide_tokenizer(given, learning)
            spool = preparation.pack(tokenizer.vocabulary)
            splits, token_counts = preparation.write_shards(spool, tokenizer.vocabulary.size)
            statistics = {**preparation.read_note(_CORPUS_NOTE), "copies_dropped": preparation.num_copies}
            learned = preparation.read_learned()
        manifest = build_manifest(settings, inputs, tokenizer, spool.totals, splits, learned, statistics)
        counts_file = os.path.join(output.path, tfrecords.TOKEN_COUNTS_FILE)
        files.write_atomically(counts_file, tfrecords.token_counts_to_bytes(token_counts))
        files.write_atomically(os.path.join(output.path, tfrecords.MANIFEST_FILE), manifest.to_json())
        output.commit()
    return manifest


@contextlib.contextmanager
def _resumable_reading() -> Iterator[None]:
    """Turns a failure to read, which invalidates no finished work, into one that the same command resumes from."""
    try:
        yield
    except UnreadableError as error:  # it could be read before the work
        raise ResumableError(f"{error}; once it can be read, the same command resumes where it ended") from error


def open_tokenizer(
    path: str | None, learning: LearningSettings | None, settings: PrepareSettings
) -> tuple[TokenizerSettings | None, PrepareSettings]:
    """Returns the tokenizer of a vocabulary or a model, None without a path, and the settings for it: with byte-level
    BPE, records mark words, since tokens do not show that a line begins. A `UserError` when it cannot be read or does
    not fit the settings."""
    with_words = dataclasses.replace(settings, word_boundaries="whitespace")
    if path is None:
        return None, with_words if learning is not None and learning.type == "bpe" else settings
    if not is_model(path):
        tokenizer = TokenizerSettings(Vocabulary.from_file(path, is_foreign=True), settings.rules)
        tokenizer.build()  # raises where it is that of a model
        _check_rules(tokenizer.vocabulary, settings.rules, path)
        return tokenizer, settings
    tokenizer = read_tokenizer(path)
    if tokenizer.vocabulary.word_begin == BYTE_WORD_BEGIN:
        return tokenizer, with_words
    if settings.has_words:
        raise UserError(
            f"--word_boundaries=whitespace does not go with the SentencePiece model {path}, which splits text in "
            f"its own way"
        )
    return tokenizer, settings


def _check_rules(vocabulary: Vocabulary, rules: WordRules, path: str) -> None:
    """A cased vocabulary with lower-casing wastes its entries; the other way round most words become [UNK]."""
    words = vocabulary.words
    if not rules.fits(vocabulary):
        flags = guess_rules(vocabulary).flags.strip() or "--lower_case=true --strip_accents=true"
        kind, marks = ("cased", "capitals or accents") if "lower_case" in flags else ("accented", "accents")
        raise UserError(
            f"vocabulary {path} is {kind} ({rules.count_unreachable(words):,} tokens with {marks}): add {flags}"
        )
    has_capitals = WordRules().count_unreachable(words) > 0
    if not rules.lower_case and not has_capitals and len(words) > 1000 and any(word != word.upper() for word in words):
        raise UserError(f"vocabulary {path} is uncased (no capitals): leave --lower_case at true")


def _identify(path: str, settings: PrepareSettings) -> list | str:
    """Returns names, sizes and times of an input's files, which identify its content; of a built-in one its name."""
    if path == python_docs.NAME:
        return path
    names = Corpus([path], settings.text_format).files
    return [[file, files.size(file), None if files.is_remote(file) else os.stat(file).st_mtime_ns] for file in names]


_CORPUS_NOTE = "corpus.json"


@dataclasses.dataclass
class Preparation:
    """The stages of one preparation, each of which resumes from its recorded progress; `directory`, local, receives
    vocabulary and shards. `inputs` holds the built-in corpus as a file."""

    inputs: list[str]
    _settings: PrepareSettings
    _directory: str
    _scratch: str
    _workers: Workers
    _report: Report
    _copies: duplicates.CopyIndex | None = None

    def __post_init__(self) -> None:
        self.inputs = [self._extract_builtin() if path == python_docs.NAME else path for path in self.inputs]

    def close(self) -> None:
        """Closes the database of copies."""
        if self._copies is not None:
            self._copies.close()

    def _extract_builtin(self) -> str:
        path = os.path.join(self._scratch, "python-docs.txt")
        if not os.path.exists(path):
            python_docs.extract(f"{path}.new", self._workers.map, self._report)
            os.rename(f"{path}.new", path)
        return path

    def _open_corpus(self) -> Corpus:
        return self._settings.open_corpus(self.inputs)

    def _dropped(self, chunk: int) -> frozenset[int]:
        return self._copies.copies_in(chunk) if self._copies else frozenset()

    @property
    def num_copies(self) -> int:
        """Documents that are dropped as copies."""
        return self._copies.num_copies if self._copies else 0

    def deduplicate(self) -> None:
        """Finds the copies of earlier documents, when the settings ask for it."""
        if self._settings.deduplicate == "none":
            return
        path = os.path.join(self._scratch, "copies.sqlite")
        self._copies = index = duplicates.CopyIndex(path, is_near=self._settings.deduplicate == "near")
        if index.is_complete:
            return
        corpus = self._open_corpus()
        chunks = itertools.islice(corpus.chunks(), index.num_chunks, None)
        saved = time.monotonic()
        for signatures in self._workers.map(functools.partial(sign_documents, settings=self._settings), chunks):
            index.add_chunk(signatures)
            self._report("looking for copies", corpus.fraction_read, corpus.text_bytes)
            if time.monotonic() - saved > _SAVE_SECONDS:
                index.save(is_complete=False)
                saved = time.monotonic()
        index.save(is_complete=True)

    def provide_tokenizer(
        self, given: TokenizerSettings | None, learning: LearningSettings | None
    ) -> TokenizerSettings:
        """Writes and returns the tokenizer, which is learned when none is given."""
        path = os.path.join(self._directory, tfrecords.VOCAB_FILE)
        if not os.path.exists(path):
            if given is None:
                assert learning is not None
                given = self._learn_tokenizer(learning)
            for note in given.vocabulary.notes:
                self._report(note, 0.0)
            for name, content in given.model.items():
                files.write_atomically(os.path.join(self._directory, name), content)
            files.write_atomically(path, given.vocabulary.to_bytes())
        return read_prepared(self._directory, self._settings.rules)

    def _learn_tokenizer(self, learning: LearningSettings) -> TokenizerSettings:
        corpus = self._open_corpus()
        fraction = min(1.0, learning.sample_mb * 1e6 / max(1, corpus.estimate_bytes()))
        sampled_bytes = 0

        def sample() -> Iterator[Chunk]:
            nonlocal sampled_bytes
            for number, blocks in enumerate(corpus.chunks()):
                if int((number + 1) * fraction) > int(number * fraction):
                    sampled_bytes += sum(block.num_bytes for block in blocks)
                    yield blocks, self._dropped(number)
            if corpus.text_bytes and not sampled_bytes:  # fewer chunks than the fraction takes one of
                sampled_bytes += sum(block.num_bytes for block in blocks)
                yield blocks, self._dropped(number)

        self._write_note("learning.json", dataclasses.asdict(learning))
        words, totals = WordCounts(), Totals()
        for counts, chunk_totals in self._workers.map(
            functools.partial(count_words, self._settings, learning.type), sample()
        ):
            words.add(counts)
            totals.add(chunk_totals)
            self._report("counting words", corpus.fraction_read, corpus.text_bytes)
        check_documents(totals, corpus.files, self._settings)
        self._report(f"learning a vocabulary from {sampled_bytes / 1e6:,.1f} of {corpus.text_bytes / 1e6:,.1f} MB", 0.0)
        statistics = {
            "vocabulary_text_bytes": sampled_bytes,
            "different_words": len(words.counts),
            "rare_words_forgotten": words.num_forgotten,
        }
        self._write_note("learned.json", statistics)
        if learning.type == "bpe":
            path = os.path.join(self._scratch, tfrecords.TOKENIZER_FILE)
            files.write_atomically(path, learn_byte_level(words.counts, learning))
            return read_tokenizer(path)
        rules = self._settings.rules
        return TokenizerSettings(learn_vocabulary(words.counts, learning, WordSplitter(rules)), rules)

    def read_learned(self) -> Learned:
        """Returns how the vocabulary was learned, and its statistics."""
        return self.read_note("learning.json"), self.read_note("learned.json")

    def pack(self, vocabulary: Vocabulary) -> Spool:
        """Returns all packed examples; unless nothing is to be held out, both splits hold some. Raises as
        `check_totals`."""
        settings = self._settings
        spool = Spool(self._scratch, self._open_corpus().estimate_bytes())
        note = self.read_note("held_out.json")
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
        numbered = itertools.islice(enumerate(corpus.chunks()), spool.num_chunks, None)
        chunks = ((blocks, self._dropped(number)) for number, blocks in numbered)
        pack = functools.partial(
            pack_chunk, self._settings, self._directory, vocabulary.sha256, held_out_below, spool.num_buckets
        )
        for chunk in self._workers.map(pack, chunks):
            spool.add(chunk)
            self._report("tokenizing", corpus.fraction_read, corpus.text_bytes)
        self._write_note(  # before the spool is complete: then nothing is read again after a kill
            _CORPUS_NOTE,
            {"files": len(corpus.files), "text_bytes": corpus.text_bytes, "long_documents_cut": corpus.num_cut},
        )
        spool.finish()

    def write_shards(self, spool: Spool, vocab_size: int) -> tuple[dict[str, tuple[Shard, ...]], np.ndarray]:
        """Writes the shards; returns them by split, and int64 [vocab_size], the counts of tokens of training."""
        tasks: list[tuple[str, Slice]] = []
        for split in SPLITS:
            num_shards = spool.totals.num_shards(split, self._settings.shard_size_mb)
            for index, part in enumerate(spool.slices(split, num_shards)):
                tasks.append((tfrecords.shard_name(split, index, num_shards), part))
        shards: dict[str, tuple[Shard, ...]] = dict.fromkeys(SPLITS, ())
        token_counts: np.ndarray = np.zeros(vocab_size, np.int64)
        make = functools.partial(make_shard, self._settings, self._directory, self._scratch, vocab_size)
        for number, (shard, counts) in enumerate(self._workers.map(make, tasks), 1):
            split = shard.file.partition("-")[0]
            shards[split] += (shard,)
            if split == "train":
                token_counts += counts
            self._report("writing shards", number / len(tasks))
        return shards, token_counts

    def _write_note(self, name: str, content: dict[str, Any]) -> None:
        files.write_atomically(os.path.join(self._scratch, name), json.dumps(content))

    def read_note(self, name: str) -> dict[str, Any]:
        """Returns what a stage recorded in the scratch directory; empty when it recorded nothing."""
        path = os.path.join(self._scratch, name)
        return json.loads(files.read_bytes(path)) if os.path.exists(path) else {}


def build_manifest(
    settings: PrepareSettings,
    inputs: Sequence[str],
    tokenizer: TokenizerSettings,
    totals: Totals,
    splits: dict[str, tuple[Shard, ...]],
    learned: Learned,
    statistics: Mapping[str, int],
) -> Manifest:
    """Returns the manifest of shards; `inputs` are as the user gave them, and `statistics` holds `files`, `text_bytes`,
    `long_documents_cut` and `copies_dropped`."""
    vocabulary, model = tokenizer.vocabulary, tokenizer.model
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in model.items()}
    return Manifest(
        max_seq_length=settings.max_seq_length,
        vocab_size=vocabulary.size,
        lower_case=settings.lower_case and not model,
        vocab_sha256=vocabulary.sha256,
        settings={**dataclasses.asdict(settings), "learning": learned[0]},
        statistics={
            **statistics,
            **learned[1],
            "builtin": [path for path in inputs if path == python_docs.NAME],
            "documents": totals.num_documents,
            "short_documents_dropped": totals.num_short,
            "replaced_characters": dict(sorted(totals.replaced.items())),
            "coverage": dict(sorted(totals.coverage.items())),
        },
        splits=splits,
        sentencepiece_sha256=checksums.get(tfrecords.SENTENCEPIECE_FILE, ""),
        tokenizer_sha256=checksums.get(tfrecords.TOKENIZER_FILE, ""),
    )
