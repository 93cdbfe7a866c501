"""The pipeline of `beam.py`: files to chunks, copies, packed examples, and shards in ranges of keys.

A user's mistake that a worker detects, such as a damaged file, travels through the pipeline as data: runners retry
exceptions, and each rewords them. A worker's memory holds one chunk or shard at a time.
"""

import contextlib
import copy
import dataclasses
import itertools
import os
import pickle
import shutil
import tempfile
import uuid
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import grpc
from apache_beam import pvalue
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from electra_cli import files
from electra_cli.data import duplicates
from electra_cli.data.corpus import Corpus
from electra_cli.data.packing import Packer, PrepareSettings, sign_documents
from electra_cli.data.spool import PackedChunk, Totals, split_records
from electra_cli.data.tfrecords import VOCAB_FILE, Shard, write_shard
from electra_cli.data.tokenization import TokenizerSettings, read_prepared
from electra_cli.errors import Interrupted, UserError

_COUNTS = "counts"
# What runners raise, apart from exceptions of their own, when they fail.
_FAILURES = (RuntimeError, ValueError, OSError, grpc.RpcError, grpc.FutureTimeoutError)

ChunkId = tuple[int, int]  # group of files, and number in it; in this order chunks make up the corpus


@dataclasses.dataclass
class Counts:
    """What one bucket's workers read and packed; `error` is the first chunk with a user's mistake, and the message."""

    totals: Totals = dataclasses.field(default_factory=Totals)
    text_bytes: int = 0
    num_cut: int = 0
    num_copies: int = 0
    error: tuple[ChunkId, str] | None = None


def _add_counts(parts: Iterable[Counts]) -> Counts:
    total = Counts()
    for part in parts:
        total.totals.add(part.totals)
        total.text_bytes += part.text_bytes
        total.num_cut += part.num_cut
        total.num_copies += part.num_copies
        total.error = min((error for error in (total.error, part.error) if error), default=None)
    return total


@dataclasses.dataclass
class Written:
    """Shards by split, number and path, and int64 [vocab_size], how often each token occurs in the training shards."""

    shards: list[tuple[str, int, str, Shard]] = dataclasses.field(default_factory=list)
    token_counts: Any = 0


def _add_written(parts: Iterable[Written]) -> Written:
    total = Written()
    for part in parts:
        total.shards += part.shards
        total.token_counts = total.token_counts + part.token_counts
    return total


def run_pipeline(
    options: PipelineOptions,
    corpus: Corpus,
    tokenizer: TokenizerSettings,
    settings: PrepareSettings,
    scratch: str,
    held_out_below: float,
) -> tuple[Counts, Written]:
    """Runs the pipeline to its end; a `UserError` when a file cannot be read, the runner failed, or no result exists.

    Documents whose hash in [0, 1) is lower than `held_out_below` are held out; `scratch` receives shards and the
    result.
    """
    result_file = files.join(scratch, f"{uuid.uuid4().hex}.pickle")
    pipeline = beam.Pipeline(options=options)
    chunks, read_counts = (
        pipeline
        | "List" >> beam.Create(list(enumerate(corpus.groups())))
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(_ReadChunks(corpus)).with_outputs(_COUNTS, main="chunks")
    )
    if settings.deduplicate == "none":
        copies = pipeline | "NoCopies" >> beam.Create([])
    else:
        copies = (
            chunks
            | "Sign" >> beam.FlatMap(_sign, settings)
            | "Gather" >> beam.GroupByKey()
            | "FindCopies" >> beam.FlatMap(_copies_among)
        )
    records, pack_counts = (
        {"chunk": chunks, "copies": copies}
        | "Join" >> beam.CoGroupByKey()
        | "Pack" >> beam.ParDo(_Pack(tokenizer, settings, held_out_below)).with_outputs(_COUNTS, main="records")
    )
    counts = pvalue.AsSingleton(
        (read_counts, pack_counts) | beam.Flatten() | "Count" >> beam.CombineGlobally(_add_counts)
    )
    written = (
        records
        | "Divide" >> beam.FlatMap(_divide, settings, counts)
        | "GatherShards" >> beam.GroupByKey()
        | "Write" >> beam.Map(_write, scratch, settings, tokenizer.vocabulary.size)
        | "Collect" >> beam.CombineGlobally(_add_written)
    )
    _ = written | "LeaveResult" >> beam.Map(_leave_result, counts, result_file)
    state = _run(pipeline)
    if not FileSystems.exists(result_file):
        raise UserError(
            f"the pipeline ended ({state}) and left nothing in {scratch}: give an --output_dir that all its machines "
            f"write to, such as gs://BUCKET/DIR"
        )
    with FileSystems.open(result_file) as stream:
        result: tuple[Counts, Written] = pickle.loads(stream.read())
    if result[0].error:
        raise UserError(result[0].error[1])
    return result


def _run(pipeline: beam.Pipeline) -> str:
    runner = pipeline.options.view_as(StandardOptions).runner
    try:
        result = pipeline.run()
        try:
            return result.wait_until_finish()
        except (Interrupted, KeyboardInterrupt):
            result.cancel()  # it runs elsewhere
            raise
    except Interrupted as stop:
        # DirectRunner adds to the message of what is raised in its steps.
        raise Interrupted(str(stop).split(" [while running", 1)[0]) from None
    except Exception as error:
        is_known = isinstance(error, _FAILURES) or type(error).__module__.startswith("apache_beam.")
        if runner == "DirectRunner" or not is_known:  # DirectRunner lets through what our steps raise
            raise
        message = error.details() if isinstance(error, grpc.Call) else str(error)
        lines = (message or "").strip().splitlines() or [type(error).__name__]
        raise UserError(f"{runner} failed: {lines[0]} (what it logs may say more; see --beam_options, too)") from error


def copy_to(local_path: str, path: str) -> None:
    """Copies a local file to a path of any file system."""
    with open(local_path, "rb") as source, FileSystems.create(path) as target:
        shutil.copyfileobj(source, target, 1 << 20)


class _ReadChunks(beam.DoFn):
    def __init__(self, corpus: Corpus):
        self._corpus = corpus

    def process(self, element):
        group, group_files = element
        corpus, number = copy.copy(self._corpus), 0
        try:
            for blocks in corpus.chunks_of(group_files):
                yield (group, number), (blocks, corpus.num_cut)
                corpus.num_cut = 0
                number += 1
        except UserError as error:
            yield pvalue.TaggedOutput(_COUNTS, Counts(error=((group, number), str(error))))


def _sign(element, settings: PrepareSettings):
    """Yields, by signature or band of it, chunk, number and signature of each document."""
    chunk, (blocks, _) = element
    signed: list[tuple[int, bytes]] = []
    with contextlib.suppress(UserError):  # packing reports it
        signed = sign_documents(blocks, settings)
    for number, signature in signed:
        for key in duplicates.bands(signature) if settings.deduplicate == "near" else (signature,):
            yield key, (chunk, number, signature)


def _copies_among(element):
    """Yields chunk and number of the copies among documents of one key."""
    _, documents = element
    first = min(documents)
    for document in documents:
        if document != first and duplicates.estimate_similarity(first[2], document[2]) >= duplicates.NEAR_THRESHOLD:
            yield document[:2]


class _Pack(beam.DoFn):
    def __init__(self, tokenizer: TokenizerSettings, settings: PrepareSettings, held_out_below: float):
        self._contents = {**tokenizer.model, VOCAB_FILE: tokenizer.vocabulary.to_bytes()}
        self._settings = settings
        self._held_out_below = held_out_below

    def setup(self):
        with tempfile.TemporaryDirectory() as directory:
            for name, content in self._contents.items():
                files.write_atomically(os.path.join(directory, name), content)
            self._packer = Packer(read_prepared(directory, self._settings.rules), self._settings)

    def process(self, element):
        chunk, joined = element
        ((blocks, num_cut),) = joined["chunk"]
        copies = frozenset(joined["copies"])
        try:
            packed = self._packer.pack(blocks, copies, self._held_out_below, 1)
        except UserError as error:
            yield pvalue.TaggedOutput(_COUNTS, Counts(error=(chunk, str(error))))
        else:
            for (split, _), records in packed.records.items():
                yield split, bytes(records)
            text_bytes = sum(block.num_bytes for block in blocks)
            yield pvalue.TaggedOutput(_COUNTS, Counts(packed.totals, text_bytes, num_cut, len(copies)))


def _divide(element, settings: PrepareSettings, counts: Counts):
    """Yields split and shard, and serialized examples: a shard is a range of keys."""
    split, records = element
    shards = PackedChunk(counts.totals.num_shards(split, settings.shard_size_mb))
    for example in split_records(records) if not counts.error else ():
        shards.add(split, example)
    for shard, part in shards.records.items():
        yield shard, bytes(part)


def _write(element, scratch: str, settings: PrepareSettings, vocab_size: int) -> Written:
    (split, index), parts = element
    examples = sorted(itertools.chain.from_iterable(map(split_records, parts)))
    # Each attempt has a name of its own.
    path = files.join(scratch, f"{split}-{index:05}-{uuid.uuid4().hex}.tfrecord")
    with tempfile.TemporaryDirectory() as local:
        local_path = os.path.join(local, "shard")
        shard, token_counts = write_shard(
            local_path,
            [examples],
            lengths_name=settings.lengths_name,
            has_words=settings.has_words,
            vocab_size=vocab_size,
        )
        copy_to(local_path, path)
    return Written([(split, index, path, shard)], token_counts if split == "train" else 0)


def _leave_result(written: Written, counts: Counts, path: str) -> None:
    with FileSystems.create(path) as stream:
        stream.write(pickle.dumps((counts, written)))
