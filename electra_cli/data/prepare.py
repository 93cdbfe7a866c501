"""Raw text to shards: read, tokenize and pack in parallel, shuffle over all, write in parallel, whole or not at all.

The parent reads documents; workers tokenize and pack them (`packing.py`); the spool brings the examples into one order
that follows from the seed (`spool.py`); workers write a shard each. The bytes that come out do not depend on the number
of workers.
"""

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from electra_cli.data import python_docs
from electra_cli.data.corpus import Corpus, Document
from electra_cli.data.filters import DocumentFilter
from electra_cli.data.output_directory import OutputDirectory
from electra_cli.data.packing import Packer, PrepareSettings
from electra_cli.data.spool import SPLITS, PackedChunk, Slice, Spool
from electra_cli.data.tfrecords import MANIFEST_FILE, TOKEN_COUNTS_FILE, VOCAB_FILE, Manifest, Shard, write_shard
from electra_cli.data.tokenization import CONTINUES_WORD
from electra_cli.data.vocabulary import Vocabulary, learn_vocabulary
from electra_cli.data.workers import Workers
from electra_cli.errors import UserError

Report = Callable[[str, int, int], None]

_CHUNK_CHARACTERS = 2**20
# From here on the fast tokenizer's import, some seconds a process, pays.
_FAST_TEXT_BYTES = 40 * 2**20


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
      report: called with (stage, documents, bytes of text) now and then.

    Returns:
      The manifest that was written.

    Raises:
      UserError: input, vocabulary or output directory will not do. What `output_dir` held is intact.
    """
    vocabulary = Vocabulary.from_file(vocab_file) if vocab_file else None
    if vocabulary is not None:
        _check_case(vocabulary, settings.lower_case, vocab_file or "")
    with OutputDirectory(output_dir, overwrite=overwrite) as output, Workers(num_workers) as workers:
        local_inputs = []
        for path in inputs:
            if path == python_docs.NAME:
                path = os.path.join(output.scratch, "python-docs.txt")
                python_docs.extract(path, workers.map, report)
            local_inputs.append(path)
        if vocabulary is None:
            corpus = settings.open_corpus(local_inputs)
            report("learning vocabulary", 0, 0)
            lines = (line for document in settings.new_filter()(corpus) for line in document.lines)
            vocabulary = learn_vocabulary(lines, learn_vocab or 0, lower_case=settings.lower_case)
        _write_file(os.path.join(output.path, VOCAB_FILE), vocabulary.to_bytes())
        corpus = settings.open_corpus(local_inputs)
        spool = Spool(output.scratch, corpus.estimate_bytes())
        filtered = settings.new_filter()
        _pack_all(corpus, filtered, output.path, settings, spool, workers, report)
        report("writing shards", spool.totals.num_documents, corpus.text_bytes)
        splits, token_counts = _write_all(output.path, settings, vocabulary.size, spool, workers)
        manifest = Manifest(
            max_seq_length=settings.max_seq_length,
            vocab_size=vocabulary.size,
            lower_case=settings.lower_case,
            vocab_sha256=vocabulary.sha256,
            settings=dataclasses.asdict(settings),
            statistics={
                "files": len(corpus.files),
                "builtin": [path for path in inputs if path == python_docs.NAME],
                "documents": spool.totals.num_documents,
                "short_documents_dropped": filtered.num_short,
                "copies_dropped": filtered.num_copies,
                "text_bytes": corpus.text_bytes,
                "replaced_characters": sum(corpus.replaced.values()),
            },
            splits=splits,
        )
        counts = b"".join(b"%d\n" % number for number in token_counts)
        _write_file(os.path.join(output.path, TOKEN_COUNTS_FILE), counts)
        _write_file(os.path.join(output.path, MANIFEST_FILE), manifest.to_json().encode())
        output.commit()
    return manifest


@dataclasses.dataclass(frozen=True)
class _PackTask:
    documents: list[Document]
    directory: str
    settings: PrepareSettings
    num_buckets: int
    use_fast: bool


def _pack_all(
    corpus: Corpus,
    document_filter: DocumentFilter,
    directory: str,
    settings: PrepareSettings,
    spool: Spool,
    workers: Workers,
    report: Report,
) -> None:
    """Packs the documents that are kept into the spool and makes sure that both splits hold something.

    Raises:
      UserError: there is no example, or no document can be held out.
    """
    use_fast = corpus.estimate_bytes() >= _FAST_TEXT_BYTES
    tasks = (
        _PackTask(chunk, directory, settings, spool.num_buckets, use_fast) for chunk in _chunks(document_filter(corpus))
    )
    reported = time.monotonic()
    for chunk in workers.map(_pack_task, tasks):
        spool.add(chunk)
        if time.monotonic() - reported > 1.0:
            report("tokenizing", spool.totals.num_documents, corpus.text_bytes)
            reported = time.monotonic()
    spool.flush()
    totals = spool.totals
    if not totals.least_keys:
        raise UserError("--input gives no example: its text holds no token that the vocabulary knows")
    if settings.validation_fraction > 0 and not totals.num_examples["validation"]:
        spool.hold_out_least()
    if not totals.num_examples["train"]:
        raise UserError(
            f"--input has {totals.num_documents} document(s), and all of them would be held out: separate documents "
            f"by blank lines (see --document_separator), or give --validation_fraction=0 to evaluate nothing"
        )


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += sum(map(len, document.lines))
        if size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


@functools.lru_cache(maxsize=1)
def _packer(directory: str, settings: PrepareSettings, use_fast: bool) -> Packer:
    """Returns the packer of this process; to build one takes longer than to pack a chunk."""
    return Packer(Vocabulary.from_file(os.path.join(directory, VOCAB_FILE)), settings, use_fast=use_fast)


def _pack_task(task: _PackTask) -> PackedChunk:
    packed = PackedChunk()
    packer = _packer(task.directory, task.settings, task.use_fast)
    for examples, held_out_hash in packer.pack(task.documents):
        packed.add_document(examples, held_out_hash, task.settings.validation_fraction, task.num_buckets)
    return packed


@dataclasses.dataclass(frozen=True)
class _ShardTask:
    path: str
    slice: Slice
    vocab_size: int
    has_words: bool


def _write_all(
    directory: str, settings: PrepareSettings, vocab_size: int, spool: Spool, workers: Workers
) -> tuple[dict[str, tuple[Shard, ...]], np.ndarray]:
    """Writes all shards; returns them by split, and int64 [vocab_size], the tokens of the training split."""
    splits: dict[str, tuple[Shard, ...]] = {}
    token_counts: np.ndarray = np.zeros(vocab_size, np.int64)
    for split in SPLITS:
        total = spool.totals.num_examples[split]
        # A record takes about half of what its ids take as uint32; never more shards than examples.
        size = spool.totals.num_bytes[split] / 2
        num_shards = min(total, max(1, math.ceil(size / (settings.shard_size_mb * 1e6))))
        tasks = (
            _ShardTask(
                os.path.join(directory, f"{split}-{index:05}-of-{num_shards:05}.tfrecord"),
                part,
                vocab_size,
                settings.has_words,
            )
            for index, part in enumerate(spool.slices(split, num_shards))
        )
        shards = []
        for shard, counts in workers.map(_shard_task, tasks):
            shards.append(shard)
            if split == "train":
                token_counts += counts
        splits[split] = tuple(shards)
    return splits, token_counts


def _shard_task(task: _ShardTask) -> tuple[Shard, np.ndarray]:
    counts: np.ndarray = np.zeros(task.vocab_size, np.int64)

    def counted() -> Iterator[tuple[np.ndarray, int]]:
        for ids, first_segment_length in task.slice.read():
            np.add.at(counts, ids & ~np.uint32(CONTINUES_WORD), 1)
            yield ids, first_segment_length

    return write_shard(task.path, counted(), has_words=task.has_words), counts


def _write_file(path: str, content: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(content)


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
