"""A pool of processes, and the tasks of a preparation."""

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
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from electra_cli import files
from electra_cli.data.corpus import Block
from electra_cli.data.packing import Packer, PrepareSettings, read_chunk
from electra_cli.data.spool import PackedChunk, Slice, Totals
from electra_cli.data.tfrecords import Shard, write_shard
from electra_cli.data.tokenization import read_prepared
from electra_cli.data.vocabulary_learning import ByteWordSplitter, WordSplitter
from electra_cli.errors import ResumableError

# Of a task: blocks of text, and the numbers of the documents in them to drop.
Chunk = tuple[Sequence[Block], frozenset[int]]


class Workers:
    """A pool of processes, or this process if `num_workers` is 1; results come in the order of the tasks."""

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
        """Yields `function(task)` in order, reading few tasks ahead; a `ResumableError` when a process was killed."""
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
                "a worker process was killed, most likely because the memory ran out: the same command resumes where "
                "it ended, with fewer --num_workers if need be"
            ) from error


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Blocks SIGINT in processes started within, from their first moment on, and defers it in this one. Ctrl-C reaches
    all processes of the group, and the parent ends the workers; cut short, a worker would receive half of its data."""
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
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes share the processors
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for what a worker may start with the signal unblocked
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the parent is killed; otherwise it would wait for tasks forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


_splitter = functools.lru_cache(maxsize=1)(WordSplitter)  # of this process, which remembers words


def count_words(settings: PrepareSettings, learned_type: str, chunk: Chunk) -> tuple[Counter[str], Totals]:
    """Returns how often each word of `LearningSettings.type` occurs in the chunk, and the counts of its documents."""
    (blocks, dropped), totals = chunk, Totals()
    lines = (line for _, document in read_chunk(blocks, settings, totals, dropped) for line in document.lines)
    splitter = ByteWordSplitter() if learned_type == "bpe" else _splitter(settings.rules)
    return splitter.count(lines), totals


def pack_chunk(
    settings: PrepareSettings, directory: str, vocab_sha256: str, held_out_below: float, num_buckets: int, chunk: Chunk
) -> PackedChunk:
    """Packs a chunk with the vocabulary in `directory`; see `Packer.pack`."""
    return _packer(directory, vocab_sha256, settings).pack(*chunk, held_out_below, num_buckets)


@functools.lru_cache(maxsize=1)
def _packer(directory: str, vocab_sha256: str, settings: PrepareSettings) -> Packer:
    """Returns the packer of this process, which remembers the tokens of words."""
    tokenizer = read_prepared(directory, settings.rules)
    assert tokenizer.vocabulary.sha256 == vocab_sha256
    return Packer(tokenizer, settings)


def make_shard(
    settings: PrepareSettings, directory: str, scratch: str, vocab_size: int, task: tuple[str, Slice]
) -> tuple[Shard, np.ndarray]:
    """Writes the shard of a name and a slice, unless a note records it as complete; returns what `write_shard` does."""
    name, part = task
    note = os.path.join(scratch, f"{name}.json")
    if os.path.exists(note):
        record = json.loads(files.read_bytes(note))
        return Shard(**record["shard"]), np.array(record["token_counts"], np.int64)
    shard, counts = write_shard(
        os.path.join(directory, name),
        part.read(),
        lengths_name=settings.lengths_name,
        has_words=settings.has_words,
        vocab_size=vocab_size,
    )
    record = {"shard": dataclasses.asdict(shard), "token_counts": counts.tolist()}
    files.write_atomically(note, json.dumps(record))
    return shard, counts
