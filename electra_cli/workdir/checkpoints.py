"""Saves all that a run needs to resume in its workdir, and restores it."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from types import TracebackType

import ml_collections
import numpy as np
import tensorflow as tf

from electra_cli import files
from electra_cli.errors import UserError
from electra_cli.loggers.lines import Lines
from electra_cli.loggers.logger import Logger
from electra_cli.workdir.checkpoint_files import (
    CheckpointFiles,
    find_checkpoint,
    find_damage,
    step_of,
    use_checkpoint,
)
from electra_cli.workdir.checkpoint_matching import GRAPH_KEY, Match, match, restore
from electra_cli.workdir.run_files import BEST


@dataclasses.dataclass(frozen=True)
class BestRecord:
    """What `best.json` holds: the best step, and the held-out metric that it was chosen by; `phase` is from 1."""

    step: int
    metric: str
    value: float
    num_examples: int
    phase: int = 1

    def is_beaten_by(self, other: "BestRecord") -> bool:
        """Returns whether another is better (lower, of losses), or cannot be compared with this."""
        if (self.metric, self.num_examples, self.phase) != (other.metric, other.num_examples, other.phase):
            return True
        return other.value < self.value if self.metric.endswith("_loss") else other.value > self.value


class BestCheckpoint:
    """A directory of its own with the checkpoint that is best by a metric, and `best.json`."""

    def __init__(self, directory: str, metric: str, warn: Callable[[str], None]):
        self._files = CheckpointFiles(directory)
        self._file = files.join(directory, "best.json")
        self._metric, self._warn = metric, warn
        self._record: BestRecord | None = None

    def recover(self) -> None:
        """Finishes what a killed process began, and reads the record."""
        self._files.recover()
        self._record, problem = self._read()
        if problem is not None:
            self._warn(f"{problem}; the best checkpoint is chosen again from here on.")
        elif self._record is not None:
            self._files.keep_only({self._record.step})

    def find_better(self, step: int, result: Mapping[str, float]) -> BestRecord | None:
        """Returns the record of held-out metrics if they are better than those of the best; else None."""
        num_examples, phase = int(result["num_examples"]), int(result.get("phase", 1))
        record = BestRecord(step, self._metric, result[self._metric], num_examples, phase)
        if math.isnan(record.value) or (self._record is not None and not self._record.is_beaten_by(record)):
            return None
        return record

    def write(self, record: BestRecord, write: Callable[[str], object]) -> None:
        """Writes the checkpoint as `CheckpointFiles.write`, then the record; only then removes the one before."""
        self._files.write(record.step, write)
        files.write_resumable(self._file, json.dumps(dataclasses.asdict(record)) + "\n")
        self._record = record
        self._files.keep_only({record.step})

    def _read(self) -> tuple[BestRecord | None, str | None]:
        """Returns the record if its checkpoint is complete, and what is damaged."""
        if files.size(self._file) is None:
            return None, None
        try:
            record = BestRecord(**files.parse_json(files.read_bytes(self._file)))
            path = self._files.path(int(record.step))
        except (ValueError, TypeError) as error:
            return None, f"{self._file} is damaged ({error})"
        damage = find_damage(path)
        return (record, None) if damage is None else (None, f"Checkpoint {path} is damaged ({damage})")


class Checkpoints:
    """The checkpoints of a run; a context manager that waits until what is being written is on the disk.

    Args:
      model: with its weights created; its `checkpoint_items` are saved under their names too.
      optimizer: built; its `iterations` are the step.
      state: by name, what else a run remembers; None where that is not read.
      settings: the section `train` of a resolved config; None where nothing is saved.
      is_writer: False for one of several workers that only reads there.
    """

    def __init__(
        self,
        directory: str,
        model: tf.Module,
        optimizer: tf.Module,
        state: Mapping[str, tf.Module] | None = None,
        settings: ml_collections.FrozenConfigDict | None = None,
        logger: Logger | None = None,
        *,
        is_writer: bool = True,
    ):
        items = {"model": model, "optimizer": optimizer, **model.checkpoint_items, **(state or {})}
        self._items = tuple(items)
        self._checkpoint = tf.train.Checkpoint(**items)
        # Stays 0: files are named by the step. It is saved because TensorFlow's `restore` asks for it.
        _ = self._checkpoint.save_counter
        self._files = CheckpointFiles(directory)
        self._is_writer = is_writer
        self._optimizer, self._settings = optimizer, settings
        self._logger = logger or Lines()
        self._best: BestCheckpoint | None = None
        if settings is not None and settings.best_metric:
            self._best = BestCheckpoint(files.join(directory, BEST), settings.best_metric, self._logger.warning)
        # One worker, for which the end of the process waits.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._layout: Match | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, _: type | None, error: BaseException | None, __: TracebackType | None) -> None:
        in_background = self._settings is not None and self._settings.async_checkpoints
        waiting = self._logger.status("Waiting for the last checkpoint") if in_background else nullcontext()
        try:
            with waiting:
                self.wait()
        except UserError as failure:
            if isinstance(error, UserError):
                raise UserError(f"{error}; besides, {failure}") from error
            raise

    @property
    def _step(self) -> int:
        return int(self._optimizer.iterations.numpy())

    def recover(self) -> None:
        """Finishes what a killed process began to save."""
        if not self._is_writer:
            return
        self._files.recover()
        if self._best is not None:
            self._best.recover()

    def restore_newest(self) -> int | None:
        """Restores the newest complete checkpoint and returns its step; None when there never was one.

        Raises a `UserError` if none can be read, or it is of another model.
        """
        remedy = "put a complete one back, or choose another --workdir to start again"

        def restore_from(path: str | None) -> int | None:
            if path is None:
                return None
            restore(self._checkpoint, path, self._items)
            return self._step

        step = use_checkpoint(lambda: self._files.newest(self._logger.warning, remedy), restore_from)
        if step is None and self._files.ever_saved():
            raise UserError(
                f"{self._files.directory} held checkpoints, and none is left: put one back, or choose another "
                f"--workdir to start again"
            )
        return step

    def restore_before(self, step: int) -> int | None:
        """Restores the newest complete checkpoint before `step`, removes later ones and returns its step, or None.

        Only checkpoints of `train.checkpoint_interval` count: without a stop, the one that it left would not exist.
        All workers must call it at once; none may be writing.
        """
        assert self._settings is not None
        interval = self._settings.checkpoint_interval
        regular = [other for other in self._files.steps() if other < step and other % interval == 0]
        newest = next((other for other in reversed(regular) if find_damage(self._files.path(other)) is None), None)
        if newest is None:
            return None
        restore(self._checkpoint, self._files.path(newest), self._items)
        if self._is_writer:
            self._files.keep_only({other for other in self._files.steps() if other <= newest})
        return self._step

    def restore_for_evaluation(self, path: str, *, with_optimizer: bool) -> int:
        """Restores the model from any checkpoint (`find_checkpoint`) and returns its step, 0 when it holds none.

        The optimizer is needed where its averages of the weights are evaluated.
        """
        sections = ("model", "optimizer") if with_optimizer else ("model",)

        def restore_from(path: str) -> tuple[str, int]:
            restore(self._checkpoint, path, sections)
            return path, step_of(path)

        used, step = use_checkpoint(lambda: find_checkpoint(path, self._logger.warning), restore_from)
        self._logger.notice(f"Evaluating checkpoint {used}.")
        return step

    def restore_weights(self, path: str) -> None:
        """Restores the model's weights alone from a checkpoint (`find_checkpoint`) of any run."""
        find = functools.partial(find_checkpoint, path, self._logger.warning)
        use_checkpoint(find, lambda path: restore(self._checkpoint, path, ("model",)))

    def save(self) -> None:
        """Writes a checkpoint of the current step, and removes those that are not to be kept.

        With `async_checkpoints` it returns as soon as the values are copied. Raises a `ResumableError` if it, or the
        one before in the background, cannot be written; earlier ones are intact.
        """
        if self._is_writer:
            self._write(functools.partial(self._write_and_prune, self._step))

    def save_if_best(self, step: int, result: Mapping[str, float]) -> None:
        """Replaces the best checkpoint if the held-out metrics of the current step are better; raises as `save`."""
        if self._best is None or not self._is_writer:
            return
        self.wait()  # so that the record is the newest
        record = self._best.find_better(step, result)
        if record is not None:
            self._write(functools.partial(self._best.write, record))

    def check(self) -> None:
        """Raises, once, the error that ended a save in the background."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Waits until nothing is being written; raises as `check` does."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, write_with: Callable[[Callable[[str], object]], None]) -> None:
        """Calls `write_with`, perhaps in the background, with a function that writes the present values to a path."""
        self.wait()
        if self._settings is None or not self._settings.async_checkpoints:
            write_with(self._checkpoint.write)
            return
        if self._layout is None:
            # The first of a process is not written in the background: it shows under which keys TensorFlow saves what.
            write_with(self._write_and_learn_layout)
            return
        # Copied, since a step may write to a variable's memory.
        values = {key: np.array(variable.numpy()) for key, variable in self._layout.variables.items()}
        write = functools.partial(_write_bundle, values, self._layout.graph)
        self._pending = self._executor.submit(write_with, write)

    def _write_and_learn_layout(self, path: str) -> None:
        self._checkpoint.write(path)
        self._layout = match(self._checkpoint, path, (*self._items, "save_counter"))

    def _write_and_prune(self, step: int, write: Callable[[str], object]) -> None:
        assert self._settings is not None
        self._files.write(step, write)
        self._logger.checkpoint(step, self._files.path(step))
        # Later ones were too damaged to resume from: their steps are computed again.
        steps = [other for other in self._files.steps() if other <= step]
        every = self._settings.keep_every_steps
        for_good = [other for other in steps if every and other % every == 0]
        # Those that stops left must not push out the ones that a run would be rolled back to.
        regular = [other for other in steps if other % self._settings.checkpoint_interval == 0]
        self._files.keep_only({*regular[-self._settings.keep_checkpoints :], *steps[-1:], *for_good})


def _write_bundle(values: Mapping[str, np.ndarray], graph: bytes, path: str) -> None:
    """Writes values to a path as `tf.train.Checkpoint.write` does.

    TensorFlow's `experimental_enable_async_checkpoint` reports errors only at the next write, or as a last traceback.
    """
    names = sorted(values)
    with tf.device("CPU:0"):
        tf.raw_ops.SaveV2(
            prefix=path,
            tensor_names=[*names, GRAPH_KEY],
            shape_and_slices=[""] * (len(names) + 1),
            tensors=[*(tf.convert_to_tensor(values[name]) for name in names), tf.constant(graph)],
        )
