"""A pool of processes that gives results in the order of the tasks."""

import collections
import concurrent.futures
import concurrent.futures.process
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator

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
