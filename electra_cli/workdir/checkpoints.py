"""Everything a run needs to go on, to and from the workdir."""

import functools
import json
import math
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import TracebackType

import ml_collections
import numpy as np
import tensorflow as tf

from electra_cli.errors import ResumableError, UserError
from electra_cli.files import write_atomically
from electra_cli.loggers.lines import Lines
from electra_cli.loggers.logger import Logger
from electra_cli.objectives.base import Pretrainer
from electra_cli.training.initialization import Changes, initialize
from electra_cli.training.optimization import Optimizer, start_averages
from electra_cli.workdir.checkpoint_files import (
    CheckpointFiles,
    find_checkpoint,
    find_damage,
    none_can_be_read,
    step_of,
    tell_damages,
)
from electra_cli.workdir.checkpoint_matching import GRAPH_KEY, Match, match, restore


class Background:
    """Does one piece of work at a time in a thread; errors come out in `start`, `check` or `wait`, once."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], object]) -> None:
        """Begins a piece of work, after the end of the one before."""
        self.wait()

        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                self._error = error

        # No daemon: the process ends after the work.
        self._thread = threading.Thread(target=guarded, name="checkpoint")
        self._thread.start()

    def check(self) -> None:
        """Raises the error that the work ended with, if it did."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Returns at the end of the work; raises as `check`."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()


_RECORD = "best.json"


class BestCheckpoint:
    """A directory with one checkpoint and `best.json`: its `step`, `metric`, `value`, `num_examples` and `phase`.

    Args:
      directory: of its own; made when the first is written.
      metric: a name of `config_checks.BEST_METRICS`.
      warn: is told of a record or checkpoint that is damaged.
    """

    def __init__(self, directory: str, metric: str, warn: Callable[[str], None]):
        self._files = CheckpointFiles(directory)
        self._file = tf.io.gfile.join(directory, _RECORD)
        self._metric, self._warn = metric, warn
        self._record: dict | None = None

    def recover(self) -> None:
        """Ends what a killed process began, and reads the record.

        Raises:
          UserError: the directory cannot be written.
        """
        self._files.recover()
        self._record, problem = self._read()
        if problem is not None:
            self._warn(f"{problem}; the best checkpoint is chosen anew from here on.")
        elif self._record is not None:
            self._files.keep_only({self._record["step"]})

    def is_beaten_by(self, result: dict[str, float]) -> bool:
        """Returns whether held-out metrics are better than the record, or none compares with them."""
        value, record = result[self._metric], self._record
        if math.isnan(value):
            return False
        if record is None or record["metric"] != self._metric:
            return True
        if (record["num_examples"], record["phase"]) != (result["num_examples"], result.get("phase", 1)):
            return True
        is_loss = self._metric.endswith("_loss")
        return value < record["value"] if is_loss else value > record["value"]

    def write(self, step: int, result: dict[str, float], write: Callable[[str], object]) -> None:
        """Writes the checkpoint of a step, then the record, then removes the checkpoint that was the best.

        Args:
          step: its step.
          result: its held-out metrics.
          write: as `CheckpointFiles.write` takes it.

        Raises:
          ResumableError: it cannot be written; the best one before is intact.
        """
        self._files.write(step, write)
        record = {
            "step": step,
            "metric": self._metric,
            "value": result[self._metric],
            "num_examples": result["num_examples"],
            "phase": result.get("phase", 1),
        }
        try:
            write_atomically(self._file, json.dumps(record) + "\n")
        except (tf.errors.OpError, OSError) as error:
            raise ResumableError(
                f"{self._file} cannot be written ({error}): make room or mend the directory, then the same command "
                f"goes on"
            ) from error
        self._record = record
        self._files.keep_only({step})

    def _read(self) -> tuple[dict | None, str | None]:
        """Returns the record of a checkpoint that is there and whole, and what is wrong otherwise."""
        if not tf.io.gfile.exists(self._file):
            return None, None
        try:
            with tf.io.gfile.GFile(self._file) as stream:
                record = json.load(stream)
            step = int(record["step"])
            record = {"step": step, "metric": str(record["metric"]), "value": float(record["value"]),
                      "num_examples": int(record["num_examples"]), "phase": int(record.get("phase", 1))}  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            return None, f"{self._file} is damaged ({error})"
        damage = find_damage(self._files.path(step))
        if damage is not None:
            return None, f"Checkpoint {self._files.path(step)} is damaged ({damage})"
        return record, None


class Checkpoints:
    """The checkpoints of a run; a context manager that waits until what is being written is on the disk.

    Args:
      directory: where they lie.
      model: the pretrainer, with its weights created.
      optimizer: the optimizer, built; its `iterations` are the step.
      state: by name, what else a run remembers; None where that is not read.
      settings: the section `train` of a resolved config; None where nothing is saved.
      logger: is told of damaged checkpoints, and of what is written.
      is_writer: False for one of several workers that only reads there.
    """

    def __init__(
        self,
        directory: str,
        model: Pretrainer,
        optimizer: Optimizer,
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
        self._model, self._optimizer, self._settings = model, optimizer, settings
        self._logger = logger or Lines()
        self._best: BestCheckpoint | None = None
        if settings is not None and settings.best_metric:
            self._best = BestCheckpoint(tf.io.gfile.join(directory, "best"), settings.best_metric, self._logger.warning)
        self._background = Background()
        self._layout: Match | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, _: type | None, error: BaseException | None, __: TracebackType | None) -> None:
        in_background = self._settings is not None and self._settings.async_checkpoints
        waiting = self._logger.status("Waiting for the last checkpoint") if in_background else nullcontext()
        try:
            with waiting:
                self._background.wait()
        except UserError as failure:
            if isinstance(error, UserError):
                raise UserError(f"{error}; besides, {failure}") from error
            raise

    @property
    def _step(self) -> int:
        return int(self._optimizer.iterations.numpy())

    def recover(self) -> None:
        """Ends what a killed process began to save; for the process that trains in the workdir.

        Raises:
          UserError: the directory cannot be written.
        """
        if not self._is_writer:
            return
        self._files.recover()
        if self._best is not None:
            self._best.recover()

    def restore_newest(self) -> int | None:
        """Restores the newest checkpoint that is whole and returns its step; None when there never was one.

        Raises:
          UserError: none can be read, or it is of another model.
        """
        path, damages = self._files.newest_whole()
        if path is None:
            if damages:
                raise UserError(
                    f"{none_can_be_read(damages)}: put a whole one back, or choose another --workdir to begin anew"
                )
            if self._files.had_any():
                raise UserError(
                    f"{self._files.directory} held checkpoints of which none is there any more: put one back, or "
                    f"choose another --workdir to begin anew"
                )
            return None
        tell_damages(damages, path, self._logger.warning)
        self._restore(path, self._items)
        return self._step

    def restore_before(self, step: int) -> int | None:
        """Restores the newest whole checkpoint of a step before `step` and removes later ones; returns its step.

        Only checkpoints of `train.checkpoint_interval` count: those that a stop left would not be there without it.
        All workers must call it at once; none may be writing. None, and nothing is changed, when there is no such one.
        """
        assert self._settings is not None
        interval = self._settings.checkpoint_interval
        regular = [other for other in self._files.steps() if other < step and other % interval == 0]
        whole = next((other for other in reversed(regular) if find_damage(self._files.path(other)) is None), None)
        if whole is None:
            return None
        self._restore(self._files.path(whole), self._items)
        if self._is_writer:
            self._files.keep_only({other for other in self._files.steps() if other <= whole})
        return self._step

    def restore_for_evaluation(self, path: str, *, with_optimizer: bool) -> int:
        """Restores the model from any checkpoint and returns its step, 0 when it holds none.

        Args:
          path: what `find_checkpoint` takes.
          with_optimizer: whether the optimizer's averages are evaluated.

        Raises:
          UserError: there is none, it is damaged, or of another model.
        """
        path = find_checkpoint(path, self._logger.warning)
        self._restore(path, ("model", "optimizer") if with_optimizer else ("model",))
        self._logger.notice(f"Evaluating checkpoint {path}.")
        return step_of(path)

    def restore_weights(self, path: str) -> str:
        """Restores the model's weights alone from a checkpoint of any run and returns its path.

        Args:
          path: what `find_checkpoint` takes.

        Raises:
          UserError: there is none, it is damaged, or of another model.
        """
        path = find_checkpoint(path, self._logger.warning)
        self._restore(path, ("model",))
        return path

    def start_from(self, path: str, changes: Changes | None = None) -> None:
        """Takes the weights of a checkpoint of any run, to begin a run with.

        Args:
          path: what `find_checkpoint` takes.
          changes: what this run has otherwise, and whether it takes the optimizer's moments too; None: nothing.

        Raises:
          UserError: there is none, it is damaged, or of another model.
        """
        if changes is None:
            path = self.restore_weights(path)
        else:
            path = find_checkpoint(path, self._logger.warning)
            initialize(self._checkpoint, self._model, self._optimizer, path, changes, self._logger.notice)
        start_averages(self._optimizer, self._model.trainable_variables)
        how = "goes on with its moments" if changes and changes.restore_optimizer else "begins anew"
        self._logger.notice(f"Starting at step 0 from the weights of {path}; the optimizer {how}.")

    def save(self) -> None:
        """Writes a checkpoint of the current step, and removes those that are not to be kept.

        With `async_checkpoints` it returns as soon as the values are copied; see `check` and `wait`.

        Raises:
          ResumableError: it, or the one before in the background, cannot be written; earlier ones are intact.
        """
        if self._is_writer:
            self._write(functools.partial(self._write_and_prune, self._step))

    def save_if_best(self, step: int, result: dict[str, float]) -> None:
        """Writes the best checkpoint anew if the model as just evaluated is better than it.

        Args:
          step: the current step.
          result: held-out metrics of the model as it is now.

        Raises:
          ResumableError: as `save`.
        """
        if self._best is None or not self._is_writer:
            return
        self._background.wait()  # so that the record is the newest
        if self._best.is_beaten_by(result):
            self._write(functools.partial(self._best.write, step, result))

    def check(self) -> None:
        """Raises the error that ended a save in the background, if one did."""
        self._background.check()

    def wait(self) -> None:
        """Returns when nothing is being written any more; raises as `check` does."""
        self._background.wait()

    def _restore(self, path: str, sections: tuple[str, ...]) -> None:
        restore(self._checkpoint, path, sections)

    def _write(self, write_with: Callable[[Callable[[str], object]], None]) -> None:
        """Calls `write_with` with what writes the values of this moment to a path; perhaps in the background."""
        self._background.wait()
        if self._settings is None or not self._settings.async_checkpoints:
            write_with(self._checkpoint.write)
            return
        if self._layout is None:
            # The first of a process is not written in the background: it shows under which keys TensorFlow saves what.
            write_with(self._write_and_learn_layout)
            return
        # Copied, since a step may write to a variable's memory.
        values = {key: np.array(variable.numpy()) for key, variable in self._layout.variables.items()}
        self._background.start(functools.partial(write_with, _bundle_writer(values, self._layout.graph)))

    def _write_and_learn_layout(self, path: str) -> None:
        self._checkpoint.write(path)
        self._layout = match(self._checkpoint, path, (*self._items, "save_counter"))

    def _write_and_prune(self, step: int, write: Callable[[str], object]) -> None:
        assert self._settings is not None
        self._files.write(step, write)
        self._logger.checkpoint(step, self._files.path(step))
        # Later ones were too damaged to go on from: their steps are computed again.
        steps = [other for other in self._files.steps() if other <= step]
        every = self._settings.keep_every_steps
        for_good = [other for other in steps if every and other % every == 0]
        # Those that stops left must not push out the ones that a run would be rolled back to.
        regular = [other for other in steps if other % self._settings.checkpoint_interval == 0]
        self._files.keep_only({*regular[-self._settings.keep_checkpoints :], *steps[-1:], *for_good})


def _bundle_writer(values: dict[str, np.ndarray], graph: bytes) -> Callable[[str], None]:
    """Returns a function that writes values to a path as `tf.train.Checkpoint.write` does.

    TensorFlow's own writing in the background (`experimental_enable_async_checkpoint`) tells no error before the next
    write, and after the last one as a traceback at the end of the process.
    """

    def write(path: str) -> None:
        names = sorted(values)
        with tf.device("CPU:0"):
            tf.raw_ops.SaveV2(
                prefix=path,
                tensor_names=[*names, GRAPH_KEY],
                shape_and_slices=[""] * (len(names) + 1),
                tensors=[*(tf.convert_to_tensor(values[name]) for name in names), tf.constant(graph)],
            )

    return write
