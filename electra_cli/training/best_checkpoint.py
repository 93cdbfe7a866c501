"""The best checkpoint of a run by a held-out metric, and a record of how good it is."""

import json
import math
from collections.abc import Callable

import tensorflow as tf

from electra_cli.errors import ResumableError
from electra_cli.files import write_atomically
from electra_cli.training.checkpoint_files import CheckpointFiles, find_damage

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
