"""A run's directory: lock, resolved config, events, and metrics as JSON lines and for TensorBoard."""

import contextlib
import datetime
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, NoReturn

import ml_collections
import tensorflow as tf

from electra_cli.config.resolution import differing_keys
from electra_cli.data.tokenization import TokenizerSettings
from electra_cli.errors import ResumableError, UserError
from electra_cli.files import write_atomically
from electra_cli.loggers.sample_texts import Sample
from electra_cli.loggers.tensorboard import TensorBoard
from electra_cli.loggers.wandb_run import WandbRun
from electra_cli.workdir import run_files
from electra_cli.workdir.run_files import CONFIG_FILE, EVENTS_FILE, METRICS_FILE


class Workdir:
    """A workdir that this process writes to; a context manager that holds its lock.

    Args:
      path: the directory; made when missing. May be remote (`gs://`), where there is no lock.
      is_writer: False for one of several workers that only reads there.
    """

    def __init__(self, path: str, *, is_writer: bool = True):
        self.path = path
        self._is_writer = is_writer
        self.checkpoint_dir = tf.io.gfile.join(path, "checkpoints")
        self._lock: IO[str] | None = None
        self._board = TensorBoard(path)
        self._mirror: WandbRun | None = None
        self._has_events = False  # whether events.jsonl was opened

    def __enter__(self) -> "Workdir":
        """Makes and locks the directory.

        Raises:
          UserError: it cannot be written, or another process trains in it.
        """
        if not self._is_writer:
            return self
        try:
            tf.io.gfile.makedirs(self.path)
            if "://" not in self.path:
                self._lock = open(os.path.join(self.path, ".lock"), "w")
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"--workdir={self.path}: another process trains here; wait for it or choose another directory"
            ) from error
        except (OSError, tf.errors.OpError) as error:
            reason = getattr(error, "strerror", None) or str(error).rpartition("; ")[2]
            raise UserError(f"--workdir={self.path} cannot be written ({reason}): choose another") from error
        return self

    def __exit__(self, error: type | None, *_: object) -> None:
        self._board.close()
        if self._mirror is not None:
            self._mirror.close(is_whole=error is None)
        if self._lock is not None:
            self._lock.close()

    def adopt_config(
        self,
        config: ml_collections.FrozenConfigDict,
        data_fingerprint: str,
        devices: str,
        tokenizer: TokenizerSettings,
    ) -> None:
        """Records the config of a run, after `check_config`, with its tokenizer, and tells TensorBoard.

        Args:
          config: the resolved config.
          data_fingerprint: of the data that is trained on.
          devices: what it is computed on.
          tokenizer: of the data, kept here so that the model can be used without it.

        Raises:
          ResumableError: it cannot be written.
        """
        if self._is_writer:
            with self._writing("the vocabulary"):
                tokenizer.save(self.path)
            record = {
                "config": config.to_dict(),
                "data_fingerprint": data_fingerprint,
                "devices": devices,
                "tokenizer": {"lower_case": tokenizer.lower_case},
            }
            text = json.dumps(record, indent=1, sort_keys=True) + "\n"
            self._write_whole(CONFIG_FILE, text)
            with self._writing("hparams"):
                self._board.write_hparams(config)

    def open_metrics(self, step: int) -> list[dict[str, Any]]:
        """Drops lines of steps after `step` (they are computed again) and returns the others.

        Raises:
          UserError: a line is damaged.
          ResumableError: the others cannot be written.
        """
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        if self._is_writer:
            self._write_whole(METRICS_FILE, "".join(json.dumps(line) + "\n" for line in kept))
        return kept

    def _write_whole(self, name: str, text: str) -> None:
        file = tf.io.gfile.join(self.path, name)
        try:
            write_atomically(file, text)
        except (tf.errors.OpError, OSError) as error:
            raise ResumableError(
                f"{file} could not be written ({str(error).splitlines()[0]}): make room or mend the directory, then "
                f"the same command goes on"
            ) from error

    def mirror_to(
        self, wandb_project: str, config: ml_collections.FrozenConfigDict, say: Callable[[str], None]
    ) -> None:
        """Sends what is recorded from now on to Weights & Biases as well; raises as `WandbRun`."""
        if self._is_writer:
            self._mirror = WandbRun(wandb_project, self.path, config, say)

    def write_event(self, event: str, step: int, **details: Any) -> None:
        """Appends a line to events.jsonl (`run_files`).

        Raises:
          ResumableError: it cannot be written.
        """
        if not self._is_writer:
            return
        file = tf.io.gfile.join(self.path, EVENTS_FILE)
        time = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        with self._writing(f"{EVENTS_FILE} of step {step:,}"):
            if not self._has_events:
                _end_last_line(file)
                self._has_events = True
            with tf.io.gfile.GFile(file, "a") as stream:
                stream.write(json.dumps({"time": time, "event": event, "step": step, **details}) + "\n")

    def write_metrics(self, split: str, step: int, values: dict[str, float]) -> None:
        """Appends a line to metrics.jsonl and the same values to TensorBoard's run `split`.

        Raises:
          ResumableError: they cannot be written.
        """
        if not self._is_writer:
            return
        with self._writing(f"metrics of step {step:,}"):
            with tf.io.gfile.GFile(tf.io.gfile.join(self.path, METRICS_FILE), "a") as stream:
                stream.write(json.dumps({"step": step, "split": split, **values}) + "\n")
            self._board.write_metrics(split, step, values)
        if self._mirror is not None:
            self._mirror.write_metrics(split, step, values)

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Writes held-out examples for TensorBoard; raises as `write_metrics`."""
        if self._is_writer:
            with self._writing(f"samples of step {step:,}"):
                self._board.write_samples(step, samples)

    def write_histograms(self, step: int, variables: Iterable[tf.Variable]) -> None:
        """Writes histograms of variables for TensorBoard; raises as `write_metrics`."""
        if self._is_writer:
            with self._writing(f"histograms of step {step:,}"):
                self._board.write_histograms(step, variables)

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except (tf.errors.OpError, OSError) as error:
            raise ResumableError(
                f"{what} could not be written to {self.path} ({str(error).splitlines()[0]}): make room or mend the "
                f"directory, then the same command goes on from the newest checkpoint"
            ) from error


def _end_last_line(file: str) -> None:
    """Removes what a kill left of a last line."""
    if not tf.io.gfile.exists(file):
        return
    with tf.io.gfile.GFile(file, "rb") as stream:
        whole, end, cut = stream.read().rpartition(b"\n")
    if cut:
        write_atomically(file, (whole + end).decode())


def check_config(
    path: str, config: ml_collections.FrozenConfigDict, data_fingerprint: str, devices: str | None = None
) -> list[str]:
    """Compares a config with that of the run in a workdir.

    Args:
      path: the workdir.
      config: the resolved config.
      data_fingerprint: of the data that is trained on.
      devices: what is computed on; None where that makes no difference.

    Returns:
      The harmless differences, 'key: old -> new'.

    Raises:
      UserError: a difference that makes it another run.
    """
    file = tf.io.gfile.join(path, CONFIG_FILE)
    if not tf.io.gfile.exists(file):
        return []
    try:
        with tf.io.gfile.GFile(file) as stream:
            record = json.load(stream)
        old_config, old_fingerprint, old_devices = (record[name] for name in ("config", "data_fingerprint", "devices"))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); choose another --workdir") from error
    forbidden, allowed = differing_keys(old_config, config.to_dict())
    if forbidden:
        raise UserError(
            f"--workdir={path} holds a run of another config: {'; '.join(forbidden)}; give the old values, or another "
            f"--workdir"
        )
    if old_fingerprint != data_fingerprint:
        raise UserError(
            f"--workdir={path} holds a run on other data than config.data.dir={config.data.dir}; give that data, "
            f"or another --workdir"
        )
    if devices is not None and devices != old_devices:
        allowed.append(
            f"devices: {old_devices} -> {devices}: each step keeps its examples, masks and samples; dropout is drawn "
            f"for each replica, and other devices add up in another order"
        )
    return allowed


def read_metrics(path: str) -> list[dict[str, Any]]:
    """Returns the whole lines of a workdir's metrics.jsonl; one cut short by a kill is left out.

    Raises:
      UserError: a whole line is none of ours.
    """
    file = tf.io.gfile.join(path, METRICS_FILE)
    if not tf.io.gfile.exists(file):
        return []

    def refuse(number: int, error: Exception) -> NoReturn:
        raise UserError(
            f"{file}, line {number:,} is damaged: remove that line, or put the file back that was there"
        ) from error

    with tf.io.gfile.GFile(file, "rb") as stream:
        return run_files.parse_lines(stream.read(), ("step", "split"), refuse)
