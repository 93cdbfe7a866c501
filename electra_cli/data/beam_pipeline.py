"""The pipeline of `beam.py`: files to chunks, copies, packed examples, and shards in ranges of keys.

A mistake of the user's that a worker finds, as a damaged file, travels through the pipeline as data: runners try again
what raises, and each tells exceptions in its own words. A worker's memory holds a chunk or a shard at a time.
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
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import grpc
from apache_beam import pvalue
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from electra_cli import files
from electra_cli.data import duplicates, tokenization
from electra_cli.data.corpus import Corpus
from electra_cli.data.output_directory import OutputDirectory, check_replaceable
from electra_cli.data.packing import Packer, PrepareSettings, sign_documents
from electra_cli.data.spool import PackedChunk, Totals, split_records
from electra_cli.data.tfrecords import DATA_FILES, Shard, write_shard
from electra_cli.data.vocabulary import Vocabulary
from electra_cli.errors import Interrupted, UserError


@dataclasses.dataclass(frozen=True)
class Output:
    """Where a pipeline writes.

    Attributes:
      path: where the files are to lie.
      scratch: a directory for temporary files.
      replaced: files that are to go when new ones come.
    """

    path: str
    scratch: str
    replaced: tuple[str, ...] = ()

    def add_scratch_file(self, local_path: str) -> str:
        """Copies a local file to where workers see it, and returns its path there."""
        path = files.join(self.scratch, local_path.rsplit("/", 1)[-1])
        copy_to(local_path, path)
        return path

    def publish(self, moves: Mapping[str, str], contents: Mapping[str, bytes]) -> None:
        """Moves files from `scratch` (path to name), then writes the contents (by name), in this order."""
        if self.replaced:
            FileSystems.delete(list(self.replaced))
        FileSystems.rename(list(moves), [files.join(self.path, name) for name in moves.values()])
        for name, content in contents.items():
            with FileSystems.create(files.join(self.path, name)) as stream:
                stream.write(content)


@contextlib.contextmanager
def open_output(output_dir: str, *, overwrite: bool) -> Iterator[Output]:
    """Yields where to write; nothing is left of it after an exception.

    Args:
      output_dir: the directory to be made.
      overwrite: whether one that is not empty may be replaced.

    Raises:
      UserError: it is not empty, cannot be written, or Beam does not know its file system.
    """
    job = uuid.uuid4().hex  # never the job that left something there
    if not files.is_remote(output_dir):
        with OutputDirectory(output_dir, overwrite=overwrite, owned=DATA_FILES, job=job) as directory:
            try:
                yield Output(directory.path, directory.scratch)
            except BaseException:
                shutil.rmtree(directory.path, ignore_errors=True)
                raise
            directory.commit()
        return
    scratch = files.join(output_dir, f"partial-{job}")
    try:
        found = _list(output_dir)
        names = (path.removeprefix(output_dir.rstrip("/") + "/") for path in found)
        check_replaceable(output_dir, names, (*DATA_FILES, "partial-*"), overwrite=overwrite)
        FileSystems.mkdirs(scratch)
        try:
            yield Output(output_dir, scratch, found)
        finally:
            if leftover := _list(scratch):
                FileSystems.delete(list(leftover))
    except BeamIOError as error:
        raise UserError(f"--output_dir={output_dir} cannot be written: {error}") from error
    except ValueError as error:
        if "filesystem" not in str(error):
            raise
        scheme = output_dir.split("://", 1)[0]
        raise UserError(
            f"--output_dir={output_dir}: Beam knows no {scheme}:// here; install what it needs, such as "
            f"pip install 'apache-beam[gcp]' for gs:// or 'apache-beam[aws]' for s3://"
        ) from error


def copy_to(local_path: str, path: str) -> None:
    """Copies a local file to a path of any file system."""
    with open(local_path, "rb") as source, FileSystems.create(path) as target:
        shutil.copyfileobj(source, target, 1 << 20)


def _list(directory: str) -> tuple[str, ...]:
    return tuple(found.path for found in FileSystems.match([files.join(directory, "**")])[0].metadata_list)


_COUNTS = "counts"
# What runners raise, beside exceptions of their own, when they fail.
_FAILURES = (RuntimeError, ValueError, OSError, grpc.RpcError, grpc.FutureTimeoutError)

ChunkId = tuple[int, int]  # group of files, and number in it; in this order chunks make up the corpus


@dataclasses.dataclass
class Counts:
    """What was read and packed.

    Attributes:
      totals: of the packed examples; their one bucket is 0.
      text_bytes: bytes of text.
      num_cut: places where a document was so long that it was cut.
      num_copies: documents left out as copies.
      error: of the first chunk with a mistake of the user's, its place and what to tell.
    """

    totals: Totals = dataclasses.field(default_factory=Totals)
    text_bytes: int = 0
    num_cut: int = 0
    num_copies: int = 0
    error: tuple[ChunkId, str] | None = None


def _add_counts(parts: Iterable[Counts]) -> Counts:
    whole = Counts()
    for part in parts:
        whole.totals.add(part.totals)
        whole.text_bytes += part.text_bytes
        whole.num_cut += part.num_cut
        whole.num_copies += part.num_copies
        whole.error = min((error for error in (whole.error, part.error) if error), default=None)
    return whole


@dataclasses.dataclass
class Written:
    """Shards by split, number and path, and int64 [vocab_size], how often each token stands in those of training."""

    shards: list[tuple[str, int, str, Shard]] = dataclasses.field(default_factory=list)
    token_counts: Any = 0


def _add_written(parts: Iterable[Written]) -> Written:
    whole = Written()
    for part in parts:
        whole.shards += part.shards
        whole.token_counts = whole.token_counts + part.token_counts
    return whole


def run_pipeline(
    options: PipelineOptions,
    corpus: Corpus,
    vocabulary: Vocabulary,
    settings: PrepareSettings,
    *,
    sentencepiece: bytes,
    held_out_below: float,
    scratch: str,
) -> tuple[Counts, Written]:
    """Runs the pipeline and waits for its end.

    Args:
      options: of Beam.
      corpus: the text; its files are read by workers.
      vocabulary: the vocabulary.
      settings: how to pack.
      sentencepiece: the SentencePiece model to tokenize with; nothing with a WordPiece vocabulary.
      held_out_below: documents whose place in [0, 1) lies below are held out.
      scratch: directory for shards and what else comes back; of any file system.

    Returns:
      What was packed, and the shards that lie in `scratch`.

    Raises:
      UserError: a file cannot be read, the runner failed, or nothing came back.
      Interrupted: a signal came.
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
        | "Pack"
        >> beam.ParDo(_Pack(vocabulary, settings, sentencepiece, held_out_below)).with_outputs(_COUNTS, main="records")
    )
    counts = pvalue.AsSingleton(
        (read_counts, pack_counts) | beam.Flatten() | "Count" >> beam.CombineGlobally(_add_counts)
    )
    written = (
        records
        | "Divide" >> beam.FlatMap(_divide, settings, counts)
        | "GatherShards" >> beam.GroupByKey()
        | "Write" >> beam.Map(_write, scratch, settings, vocabulary.size)
        | "Collect" >> beam.CombineGlobally(_add_written)
    )
    _ = written | "Tell" >> beam.Map(_tell, counts, result_file)
    state = _run(pipeline)
    if not FileSystems.exists(result_file):
        raise UserError(
            f"the pipeline ended ({state}) and left nothing in {scratch}: give an --output_dir that all its machines "
            f"write to, such as gs://BUCKET/DIR"
        )
    with FileSystems.open(result_file) as stream:
        found: tuple[Counts, Written] = pickle.loads(stream.read())
    if found[0].error:
        raise UserError(found[0].error[1])
    return found


def _run(pipeline: beam.Pipeline) -> str:
    """Runs a pipeline and returns how it ended."""
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
        told = error.details() if isinstance(error, grpc.Call) else str(error)
        lines = (told or "").strip().splitlines() or [type(error).__name__]
        raise UserError(f"{runner} failed: {lines[0]} (what it logs may say more; see --beam_options, too)") from error


class _ReadChunks(beam.DoFn):
    """Number and files of a group to (id, (blocks, places where documents were cut)) of its chunks."""

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
    with contextlib.suppress(UserError):  # told when it is packed
        signed = sign_documents(blocks, settings)
    for number, signature in signed:
        for key in duplicates.bands(signature) if settings.deduplicate == "near" else (signature,):
            yield key, (chunk, number, signature)


def _copies_among(element):
    """Yields chunk and number of the copies among documents of one key, as `duplicates.CopyIndex` finds them."""
    _, documents = element
    first = min(documents)
    for document in documents:
        if document != first and duplicates.estimate_similarity(first[2], document[2]) >= duplicates.NEAR_THRESHOLD:
            yield document[:2]


class _Pack(beam.DoFn):
    """Chunks and their copies to split and serialized examples."""

    def __init__(self, vocabulary: Vocabulary, settings: PrepareSettings, sentencepiece: bytes, held_out_below: float):
        self._arguments = vocabulary, settings
        self._sentencepiece = sentencepiece
        self._held_out_below = held_out_below

    def setup(self):
        with tempfile.NamedTemporaryFile(suffix=tokenization.SUFFIX) as file:
            file.write(self._sentencepiece)
            file.flush()
            self._packer = Packer(*self._arguments, file.name if self._sentencepiece else None)

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
    """Writes a shard."""
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


def _tell(written: Written, counts: Counts, path: str) -> None:
    """Leaves what the launching process has to know."""
    with FileSystems.create(path) as stream:
        stream.write(pickle.dumps((counts, written)))
