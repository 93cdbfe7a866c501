"""A run's directory: lock, resolved config, metrics as JSON lines and for TensorBoard."""

import contextlib
import fcntl
import json
import os
from typing import IO, Any

import ml_collections
import tensorflow as tf

from electra_cli.config import differing_keys
from electra_cli.errors import ResumableError, UserError

CONFIG_FILE = "config.json"
_METRICS_FILE = "metrics.jsonl"


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
        self._writers: dict[str, tf.summary.SummaryWriter] = {}

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
            raise UserError(f"--workdir={self.path} cannot be written: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()
        if self._lock is not None:
            self._lock.close()

    def adopt_config(self, config: ml_collections.FrozenConfigDict, data_fingerprint: str, devices: str) -> None:
        """Records the config of a run, after `check_config`.

        Args:
          config: the resolved config.
          data_fingerprint: of the data that is trained on.
          devices: what it is computed on.

        Raises:
          ResumableError: it cannot be written.
        """
        if self._is_writer:
            record = {"config": config.to_dict(), "data_fingerprint": data_fingerprint, "devices": devices}
            text = json.dumps(record, indent=1, sort_keys=True) + "\n"
            self._write_whole(CONFIG_FILE, text)

    def open_metrics(self, step: int) -> list[dict[str, Any]]:
        """Drops lines of steps after `step` (they are computed again) and returns the others.

        Raises:
          UserError: a line is damaged.
          ResumableError: the others cannot be written.
        """
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        if self._is_writer:
            self._write_whole(_METRICS_FILE, "".join(json.dumps(line) + "\n" for line in kept))
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

    def write_metrics(self, split: str, step: int, values: dict[str, float]) -> None:
        """Appends a line to metrics.jsonl and the same values to TensorBoard's run `split`.

        Raises:
          ResumableError: they cannot be written.
        """
        if not self._is_writer:
            return
        try:
            self._write_metrics(split, step, values)
        except (tf.errors.OpError, OSError) as error:
            raise ResumableError(
                f"metrics of step {step:,} could not be written to {self.path} ({str(error).splitlines()[0]}): make "
                f"room or mend the directory, then the same command goes on from the newest checkpoint"
            ) from error

    def _write_metrics(self, split: str, step: int, values: dict[str, float]) -> None:
        with tf.io.gfile.GFile(tf.io.gfile.join(self.path, _METRICS_FILE), "a") as stream:
            stream.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        if split not in self._writers:
            self._writers[split] = tf.summary.create_file_writer(tf.io.gfile.join(self.path, "tensorboard", split))
        with self._writers[split].as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._writers[split].flush()


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
    file = tf.io.gfile.join(path, _METRICS_FILE)
    if not tf.io.gfile.exists(file):
        return []
    with tf.io.gfile.GFile(file, "rb") as stream:
        lines = stream.read().split(b"\n")[:-1]
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
            found[-1]["step"], found[-1]["split"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{file}, line {number:,} is damaged: remove that line, or put the file back that was there"
            ) from error
    return found


def write_atomically(file: str, text: str) -> None:
    """Writes a text file under a temporary name, forces it to the disk and renames it.

    Raises:
      OSError, tf.errors.OpError: it cannot be written; the file is as it was.
    """
    temporary = f"{file}.tmp"
    if "://" in file:
        with tf.io.gfile.GFile(temporary, "w") as stream:
            stream.write(text)
        tf.io.gfile.rename(temporary, file, overwrite=True)
        return
    try:
        with open(temporary, "w", encoding="utf-8") as local:
            local.write(text)
            local.flush()
            os.fsync(local.fileno())  # or a power cut may leave an empty file under the new name
        os.replace(temporary, file)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise
