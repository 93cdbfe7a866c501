"""Raw text to shards: read, tokenize and pack in parallel, shuffle over all, write whole or not at all.

Every example has a sort key that follows from the seed and its place in the corpus. Workers tokenize documents and
pack them; the parent drops the examples into buckets by key, on disk; then the buckets are read in order, sorted and
written. So the order is one shuffle of all examples, no more than one bucket is in memory, and the bytes that come out
do not depend on the number of workers.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import math
import multiprocessing
import os
import random
import signal
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from electra_cli.data import python_docs
from electra_cli.data.corpus import Corpus, Document
from electra_cli.data.examples import add_special_tokens, pack_document
from electra_cli.data.output_directory import OutputDirectory
from electra_cli.data.tfrecords import MANIFEST_FILE, TOKEN_COUNTS_FILE, VOCAB_FILE, Manifest, Shard, write_shard
from electra_cli.data.tokenization import CONTINUES_WORD, Tokenizer
from electra_cli.data.vocabulary import Vocabulary, learn_vocabulary
from electra_cli.errors import UserError

_CHUNK_BYTES = 256 * 1024
_NUM_BUCKETS = 128
_RECORD_HEADER = struct.Struct("<16sII")  # key, number of ids, length of the first segment


@dataclasses.dataclass(frozen=True)
class PrepareSettings:
    """How data is prepared; the flags of `electra-prepare` of the same names."""

    max_seq_length: int = 128
    validation_fraction: float = 0.01
    seed: int = 0
    document_separator: str = "blank_line"
    encoding_errors: str = "strict"
    lower_case: bool = True
    shard_size_mb: float = 64.0
    word_boundaries: str = "wordpiece"
    text_field: str = "text"
    input_weights: tuple[float, ...] = ()

    def open_corpus(self, inputs: Sequence[str]) -> Corpus:
        """Returns the documents of the inputs."""
        return Corpus(inputs, self.document_separator, self.encoding_errors, self.text_field, self.input_weights)


class PackedDocument(collections.namedtuple("PackedDocument", ["held_out_hash", "examples"])):
    """What a worker makes of a document: its place in [0, 1) for the choice of held-out documents, and its examples as
    (key bytes, ids bytes (uint32), length of the first segment)."""


def prepare(
    inputs: list[str],
    output_dir: str,
    settings: PrepareSettings,
    *,
    vocab_file: str | None,
    learn_vocab: int | None,
    num_workers: int,
    overwrite: bool,
    report: Callable[[str, int, int], None],
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
    with OutputDirectory(output_dir, overwrite=overwrite) as output, _Workers(num_workers) as workers:
        local_inputs = []
        for path in inputs:
            if path == python_docs.NAME:
                path = os.path.join(output.scratch, "python-docs.txt")
                python_docs.extract(path, workers.map, report)
            local_inputs.append(path)
        if vocabulary is None:
            corpus = settings.open_corpus(local_inputs)
            report("learning vocabulary", 0, 0)
            lines = (line for document in corpus for line in document.lines)
            vocabulary = learn_vocabulary(lines, learn_vocab or 0, lower_case=settings.lower_case)
        corpus = settings.open_corpus(local_inputs)
        spool = _Spool(output.scratch)
        for document in _pack_all(corpus, vocabulary, settings, workers, report):
            spool.add(document, settings.validation_fraction)
        report("writing shards", spool.num_documents, corpus.text_bytes)
        spool.finish(settings.validation_fraction)
        manifest = _write(output.path, spool, vocabulary, corpus, settings, inputs)
        output.commit()
    return manifest


class _Workers:
    """A pool of processes, or this process where one is enough; results come in the order of the tasks."""

    def __init__(self, num_workers: int):
        self._num_workers = num_workers
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> "_Workers":
        if self._num_workers > 1:
            # Spawned, not forked: the parent may have threads.
            context = multiprocessing.get_context("spawn")
            self._pool = concurrent.futures.ProcessPoolExecutor(self._num_workers, context, _start_worker)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable, tasks: Iterable) -> Iterator:
        """Yields `function(task)` in order; few tasks are read ahead of what is consumed."""
        if self._pool is None:
            yield from map(function, tasks)
            return
        pending: collections.deque[concurrent.futures.Future] = collections.deque()
        for task in tasks:
            pending.append(self._pool.submit(function, task))
            if len(pending) > 4 * self._num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the workers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


@dataclasses.dataclass(frozen=True)
class _Task:
    documents: list[Document]
    vocabulary: Vocabulary
    settings: PrepareSettings


def _pack_all(
    corpus: Corpus,
    vocabulary: Vocabulary,
    settings: PrepareSettings,
    workers: _Workers,
    report: Callable[[str, int, int], None],
) -> Iterator[PackedDocument]:
    num_documents, reported = 0, time.monotonic()
    tasks = (_Task(chunk, vocabulary, settings) for chunk in _chunks(corpus))
    for packed in workers.map(_pack_task, tasks):
        num_documents += len(packed)
        if time.monotonic() - reported > 1.0:
            report("tokenizing", num_documents, corpus.text_bytes)
            reported = time.monotonic()
        yield from packed


def _chunks(corpus: Corpus) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    chunk_bytes = 0
    for document in corpus:
        chunk.append(document)
        chunk_bytes += sum(map(len, document.lines))
        if chunk_bytes >= _CHUNK_BYTES:
            yield chunk
            chunk, chunk_bytes = [], 0
    if chunk:
        yield chunk


_tokenizers: dict[tuple[str, bool], Tokenizer] = {}  # of this process; to build one takes longer than a chunk


def _pack_task(task: _Task) -> list[PackedDocument]:
    settings, vocabulary = task.settings, task.vocabulary
    tokenizer_key = (vocabulary.sha256, settings.lower_case)
    if tokenizer_key not in _tokenizers:
        _tokenizers[tokenizer_key] = Tokenizer(vocabulary, lower_case=settings.lower_case)
    cls_id, sep_id = vocabulary.cls_id, vocabulary.sep_id
    # One call for the whole chunk: the tokenizer works on its lines in bulk.
    tokenizer = _tokenizers[tokenizer_key]
    encode = tokenizer.encode_segmented_lines if settings.word_boundaries == "whitespace" else tokenizer.encode_lines
    sentences = iter(encode([line for doc in task.documents for line in doc.lines]))
    packed = []
    for document in task.documents:
        own_sentences = [next(sentences) for _ in document.lines]
        # By its text: copies of a document land on the same side.
        held_out_hash = _hash(f"{settings.seed}/" + "\n".join(document.lines)) / 2**128
        examples = []
        place = f"{settings.seed}/{document.file_index}/{document.index}"
        for copy in range(
            _num_copies(document.weight, place, is_held_out=held_out_hash < settings.validation_fraction)
        ):
            copy_place = f"{place}/copy {copy}" if copy else place
            rng = random.Random(_hash(copy_place))
            for number, segments in enumerate(pack_document(own_sentences, settings.max_seq_length, rng)):
                ids, first_segment_length = add_special_tokens(segments, cls_id, sep_id)
                key = _hash(f"{copy_place}/{number}").to_bytes(16, "big")
                examples.append((key, np.array(ids, np.uint32).tobytes(), first_segment_length))
        packed.append(PackedDocument(held_out_hash, examples))
    return packed


def _num_copies(weight: float, place: str, *, is_held_out: bool) -> int:
    """Returns how often a document is taken: its weight, rounded up or down by chance; a held-out one at most once."""
    whole = int(weight)
    copies = whole + (_hash(f"{place}/weight") / 2**128 < weight - whole)
    return min(copies, 1) if is_held_out else copies


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest(), "big")


class _Spool:
    """Examples on disk, in buckets by key, until their order is known."""

    def __init__(self, directory: str):
        self._files = {
            (split, bucket): os.path.join(directory, f"{split}-{bucket:03}")
            for split in ("train", "validation")
            for bucket in range(_NUM_BUCKETS)
        }
        self._stack = contextlib.ExitStack()
        self._streams = {
            name: self._stack.enter_context(open(file, "wb"))  # noqa: SIM115  (the stack closes it)
            for name, file in self._files.items()
        }
        self.num_documents = 0
        self.num_examples = {"train": 0, "validation": 0}
        self.num_bytes = {"train": 0, "validation": 0}
        self._least: list[PackedDocument] = []  # what is held out when chance holds out nothing: one text, all copies
        self._moved: frozenset[bytes] = frozenset()

    def add(self, document: PackedDocument, validation_fraction: float) -> None:
        """Adds a document's examples to its split."""
        split = "validation" if document.held_out_hash < validation_fraction else "train"
        self.num_documents += 1
        for key, ids, first_segment_length in document.examples:
            stream = self._streams[split, key[0] * _NUM_BUCKETS // 256]
            stream.write(_RECORD_HEADER.pack(key, len(ids) // 4, first_segment_length))
            stream.write(ids)
            self.num_examples[split] += 1
            self.num_bytes[split] += len(ids)
        if document.examples:
            least = self._least[0].held_out_hash if self._least else 1.0
            if document.held_out_hash < least:
                self._least = [document]
            elif document.held_out_hash == least:
                self._least.append(document)

    def finish(self, validation_fraction: float) -> None:
        """Closes the buckets and makes sure that both splits hold something.

        Raises:
          UserError: there is no example, or no document can be held out.
        """
        self._stack.close()
        if not self._least:
            raise UserError("--input gives no example: its text holds no token that the vocabulary knows")
        if validation_fraction > 0 and not self.num_examples["validation"]:
            moved = [example for document in self._least for example in document.examples]
            self._moved = frozenset(key for key, _, _ in moved)
            for split, sign in (("validation", 1), ("train", -1)):
                self.num_examples[split] += sign * len(moved)
                self.num_bytes[split] += sign * sum(len(ids) for _, ids, _ in moved)
        if not self.num_examples["train"]:
            raise UserError(
                f"--input has {self.num_documents} document(s), and all of them would be held out: separate documents "
                f"by blank lines (see --document_separator), or give --validation_fraction=0 to evaluate nothing"
            )

    def read(self, split: str) -> Iterator[tuple[np.ndarray, int]]:
        """Yields the (ids, first_segment_length) of a split in the order of their keys."""
        for bucket in range(_NUM_BUCKETS):
            records = list(self._read_bucket("train", bucket))
            if self._moved:
                records = [record for record in records if (record[0] in self._moved) == (split == "validation")]
            elif split == "validation":
                records = list(self._read_bucket("validation", bucket))
            records.sort(key=lambda record: record[0])
            for _, ids, first_segment_length in records:
                yield np.frombuffer(ids, np.uint32), first_segment_length

    def _read_bucket(self, split: str, bucket: int) -> Iterator[tuple[bytes, bytes, int]]:
        with open(self._files[split, bucket], "rb") as stream:
            while header := stream.read(_RECORD_HEADER.size):
                key, num_ids, first_segment_length = _RECORD_HEADER.unpack(header)
                yield key, stream.read(4 * num_ids), first_segment_length


def _write(
    directory: str,
    spool: _Spool,
    vocabulary: Vocabulary,
    corpus: Corpus,
    settings: PrepareSettings,
    inputs: list[str],
) -> Manifest:
    counts: np.ndarray = np.zeros(vocabulary.size, np.int64)

    def count(records: Iterable[tuple[np.ndarray, int]]) -> Iterator[tuple[np.ndarray, int]]:
        for ids, first_segment_length in records:
            counts[:] += np.bincount(ids & ~np.uint32(CONTINUES_WORD), minlength=vocabulary.size)
            yield ids, first_segment_length

    splits = {}
    for split in ("train", "validation"):
        records = spool.read(split)
        splits[split] = _write_shards(
            directory, split, spool, count(records) if split == "train" else records, settings
        )
    _write_text(os.path.join(directory, VOCAB_FILE), vocabulary.to_bytes())
    _write_text(os.path.join(directory, TOKEN_COUNTS_FILE), b"".join(b"%d\n" % number for number in counts))
    manifest = Manifest(
        max_seq_length=settings.max_seq_length,
        vocab_size=vocabulary.size,
        lower_case=settings.lower_case,
        vocab_sha256=vocabulary.sha256,
        settings=dataclasses.asdict(settings),
        statistics={
            "files": len(corpus.files),
            "builtin": [path for path in inputs if path == python_docs.NAME],
            "documents": spool.num_documents,
            "text_bytes": corpus.text_bytes,
            "replaced_characters": sum(corpus.replaced.values()),
        },
        splits=splits,
    )
    _write_text(os.path.join(directory, MANIFEST_FILE), manifest.to_json().encode())
    return manifest


def _write_shards(
    directory: str, split: str, spool: _Spool, records: Iterator[tuple[np.ndarray, int]], settings: PrepareSettings
) -> tuple[Shard, ...]:
    total = spool.num_examples[split]
    # A record takes about half of what its ids take as uint32; never more shards than examples.
    num_shards = min(total, max(1, math.ceil(spool.num_bytes[split] / 2 / (settings.shard_size_mb * 1e6))))
    shards = []
    for index in range(num_shards):
        size = total * (index + 1) // num_shards - total * index // num_shards
        path = os.path.join(directory, f"{split}-{index:05}-of-{num_shards:05}.tfrecord")
        has_words = settings.word_boundaries == "whitespace"
        shards.append(write_shard(path, (next(records) for _ in range(size)), has_words=has_words))
    return tuple(shards)


def _write_text(path: str, content: bytes) -> None:
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
