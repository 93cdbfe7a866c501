"""A pool of processes that gives results in the order of the tasks."""

import collections
import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from electra_cli.data import packing
from electra_cli.data.corpus import Block
from electra_cli.data.output_directory import write_whole
from electra_cli.data.packing import ChunkReader, Packer, PrepareSettings
from electra_cli.data.spool import PackedChunk, Slice
from electra_cli.data.tfrecords import SENTENCEPIECE_FILE, VOCAB_FILE, Shard, write_shard
from electra_cli.data.vocabulary import Vocabulary, WordSplitter
from electra_cli.errors import ResumableError


class Workers:
    """A pool of processes, or this process where one is enough; results come in the order of the tasks.

    Args:
      num_workers: processes; 1 starts none.
    """

    def __init__(self, num_workers: int):
        self._num_workers = num_workers
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        if self._num_workers > 1:
            # Spawned, not forked: the parent may have threads.
            context = multiprocessing.get_context("spawn")
            self._pool = concurrent.futures.ProcessPoolExecutor(self._num_workers, context, _start_worker)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable, tasks: Iterable) -> Iterator:
        """Yields `function(task)` in order; few tasks are read ahead of what is consumed.

        Raises:
          ResumableError: a process was killed.
        """
        if self._pool is None:
            yield from map(function, tasks)
            return
        pending: collections.deque[concurrent.futures.Future] = collections.deque()
        try:
            for task in tasks:
                with _without_ctrl_c():  # a task may start a process
                    pending.append(self._pool.submit(function, task))
                if len(pending) > 2 * self._num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise ResumableError(
                "a worker process was killed, most likely because the memory ran out: the same command goes on where "
                "it ended, with fewer --num_workers if need be"
            ) from error


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Blocks SIGINT in processes that are started within, from their first moment on, and holds it back in this one.

    Ctrl-C reaches the whole group of processes; the parent ends the workers. What is within must not be cut short: a
    worker would find but half of what it is sent.
    """
    if threading.current_thread() is not threading.main_thread():  # no other may set handlers, nor is one cut short
        yield
        return
    held: list[int] = []
    # Another thread of this process, such as one of OpenBLAS, takes the signal where this one blocks it.
    handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # which processes inherit, as they do no handler
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for what a worker may start with the signal unblocked
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the parent is killed; otherwise it would wait for tasks forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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
