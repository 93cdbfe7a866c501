"""A run's directory while the run writes to it: its lock, its resolved config, its metrics and events."""

import contextlib
import datetime
import json
import os
from collections.abc import Iterator, Mapping
from typing import IO, Any

import ml_collections
import tensorflow as tf

from electra_cli import files
from electra_cli.data.tokenization import TokenizerSettings
from electra_cli.errors import UserError
from electra_cli.loggers.logger import Logger, Loggers
from electra_cli.loggers.tensorboard import TensorBoard
from electra_cli.loggers.wandb_run import WandbRun
from electra_cli.modeling.randomness import DROPOUT_VERSION
from electra_cli.workdir.run_files import (
    CHECKPOINT_DIRECTORY,
    CONFIG_FILE,
    EVENTS_FILE,
    METRICS_FILE,
    absolute_paths,
    has_record,
    read_metrics,
    read_record,
    write_json,
    write_json_lines,
)


class Workdir:
    """A workdir that this process writes to; a context manager that makes it and holds its lock (none where remote).

    `is_writer` is False for one of several workers that only reads there.
    """

    def __init__(self, path: str, *, is_writer: bool = True):
        self.path = path
        self._is_writer = is_writer
        self.checkpoint_dir = files.join(path, CHECKPOINT_DIRECTORY)
        self._lock: IO[str] | None = None

    def __enter__(self) -> "Workdir":
        """Makes and locks the directory; a `UserError` where another process trains in it, or it cannot be written."""
        if not self._is_writer:
            return self
        files.check_literal("--workdir", self.path)
        try:
            files.make_directories(self.path)
            if not files.is_remote(self.path):
                self._lock = files.lock(self.path)
        except BlockingIOError as error:
            raise UserError(
                f"--workdir={self.path}: another process trains here; wait for it or choose another directory"
            ) from error
        except (OSError, tf.errors.OpError) as error:
            reason = getattr(error, "strerror", None) or str(error).rpartition("; ")[2]
            raise UserError(f"--workdir={self.path} cannot be written ({reason}): choose another") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def write_config(
        self,
        config: ml_collections.FrozenConfigDict,
        data_fingerprint: str,
        devices: str,
        tokenizer: TokenizerSettings,
        *,
        resumes: bool = False,
    ) -> None:
        """Records the resolved config of a run, its data and devices, and the tokenizer, so that no data is needed.

        Of a run that resumes, section `init` stays: what it began with.
        """
        if not self._is_writer:
            return
        with files.writing("the vocabulary", to=self.path):
            tokenizer.save(self.path)
        began = {}
        if resumes and has_record(self.path):
            old = read_record(self.path)
            began = absolute_paths(old["config"], old.get("directory", ""))
        record = {
            "config": {**config.to_dict(), "init": began.get("init") or config.init.to_dict()},
            "data_fingerprint": data_fingerprint,
            "directory": os.getcwd(),  # which relative paths begin at
            "devices": devices,
            "dropout_version": DROPOUT_VERSION,
            "tokenizer": {"lower_case": tokenizer.rules.lower_case},
        }
        write_json(files.join(self.path, CONFIG_FILE), record, sort_keys=True)

    def drop_metrics_after(self, step: int) -> list[dict[str, Any]]:
        """Drops the metrics of later steps, which are computed again, and returns the others, a dict a line."""
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        if self._is_writer:
            write_json_lines(files.join(self.path, METRICS_FILE), kept)
        return kept

    @contextlib.contextmanager
    def recording(self, *loggers: Logger, wandb_project: str | None = None, config: Any = None) -> Iterator[Logger]:
        """Yields a logger that writes metrics and events here, also for TensorBoard, and passes all on to others.

        With `wandb_project` the run is mirrored there with its resolved config; raises as `WandbRun`.
        """
        with contextlib.ExitStack() as stack:
            writers: list[Logger] = []
            if self._is_writer:
                writers = [RunRecords(self.path), stack.enter_context(TensorBoard(self.path))]
            if self._is_writer and wandb_project:
                notice = Loggers(*loggers).notice
                writers.append(stack.enter_context(WandbRun(wandb_project, self.path, config, notice)))
            yield Loggers(*writers, *loggers)


class RunRecords(Logger):
    """Appends to `metrics.jsonl` and `events.jsonl` of a workdir; raises a `ResumableError` where it cannot."""

    def __init__(self, workdir: str):
        self._workdir = workdir
        self._has_events = False  # whether events.jsonl was written to

    def metrics(self, split: str, step: int, values: Mapping[str, float], line: str) -> None:
        """Appends a line."""
        with files.writing(f"metrics of step {step:,}", to=self._workdir):
            self._append(METRICS_FILE, {"step": step, "split": split, **values})

    def event(self, event: str, step: int, **details: Any) -> None:
        """Appends a line with the time; before the first, removes a last line that a kill cut."""
        time = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        with files.writing(f"{EVENTS_FILE} of step {step:,}", to=self._workdir):
            if not self._has_events:
                _end_last_line(files.join(self._workdir, EVENTS_FILE))
                self._has_events = True
            self._append(EVENTS_FILE, {"time": time, "event": event, "step": step, **details})

    def _append(self, name: str, values: Mapping[str, Any]) -> None:
        with files.open_file(files.join(self._workdir, name), "a") as stream:
            stream.write(json.dumps(values) + "\n")


def _end_last_line(file: str) -> None:
    """Removes a last line that a kill cut."""
    if files.size(file) is None:
        return
    lines, end, cut = files.read_bytes(file).rpartition(b"\n")
    if cut:
        files.write_atomically(file, lines + end)


def changed_devices(path: str, config: ml_collections.FrozenConfigDict, devices: str) -> list[str]:
    """Returns how the devices, and this version, change the numbers of a run that was begun; none for a new one."""
    if not has_record(path):
        return []
    record, changes = read_record(path), []
    if devices != record["devices"]:
        changes.append(
            f"devices: {record['devices']} -> {devices}: each step keeps its examples, masks and samples; dropout is "
            f"drawn for each replica, and other devices add up in another order"
        )
    has_dropout = config.model.hidden_dropout > 0 or config.model.attention_dropout > 0
    if has_dropout and record.get("dropout_version", 1) != DROPOUT_VERSION:
        changes.append(
            "dropout: its masks follow from the seed in another way than in the version that wrote this workdir"
        )
    return changes
