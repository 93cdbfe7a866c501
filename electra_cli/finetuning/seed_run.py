"""One seed's fine-tuning, from its newest checkpoint to its scores."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from electra_cli.errors import Interrupted, UserError
from electra_cli.finetuning.base import Task
from electra_cli.finetuning.examples import Encoded, Example, are_labelled
from electra_cli.finetuning.scores import Scores
from electra_cli.finetuning.trainer import Trainer
from electra_cli.finetuning.workdir import SCORES_FILE, seed_directory, write_json, write_json_lines
from electra_cli.training.checkpoint_files import CheckpointFiles, none_can_be_read, tell_damages
from electra_cli.training.checkpoint_matching import restore
from electra_cli.training.progress import Pace
from electra_cli.training.signals import StopRequest
from electra_cli.training.workdir import Workdir

_ITEMS = ("model", "optimizer", "interval_sums")


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples that are predicted.

    Attributes:
      name: 'validation' or 'test'.
      examples: the examples.
      encoded: the same as arrays.
    """

    name: str
    examples: Sequence[Example]
    encoded: Encoded


class SeedRun:
    """One seed's fine-tuning.

    Args:
      trainer: model and steps.
      task: the task.
      splits: what is predicted; the labelled ones are scored, and 'validation' is after every epoch.
      num_epochs: epochs of it.
      workdir: the directory of all seeds, locked.
      seed: the seed.
      stop: asks for a stop.
      say: prints a line.
    """

    def __init__(
        self,
        trainer: Trainer,
        task: Task,
        splits: Sequence[Split],
        num_epochs: int,
        workdir: str,
        seed: int,
        stop: StopRequest,
        say: Callable[[str], None],
    ):
        self._trainer, self._task, self._splits = trainer, task, splits
        self._directory, self._seed = seed_directory(workdir, seed), seed
        self._stop, self._say = stop, say
        # The step that each epoch ends with.
        self._ends = [math.ceil(trainer.num_steps * epoch / num_epochs) for epoch in range(1, num_epochs + 1)]
        self._files = CheckpointFiles(tf.io.gfile.join(self._directory, "checkpoints"))
        self._checkpoint = tf.train.Checkpoint(
            model=trainer.model, optimizer=trainer.optimizer, interval_sums=trainer.sums
        )
        _ = self._checkpoint.save_counter

    def run(self) -> dict[str, dict[str, float]]:
        """Trains to the end and returns the scores of each labelled split.

        What was done before is not done again.

        Raises:
          UserError: a loss is not finite, or no checkpoint can be read.
          ResumableError: something cannot be written.
          Interrupted: a stop was asked for; all is saved.
        """
        done = self._read_scores()
        if done is not None and all(split.name in done for split in self._splits if are_labelled(split.examples)):
            self._say(f"seed {self._seed}: done before")
            return done
        if done is not None:  # but a test file was added
            self._restore(("model",))
            return self._finish()
        with Workdir(self._directory) as directory:
            step = self._restore()
            lines = directory.open_metrics(step)
            batches, pace = self._trainer.batches(self._seed, step), Pace()
            evaluated = {line["step"] for line in lines if line["split"] == "validation"}
            if step in self._ends and step not in evaluated:
                self._end_epoch(directory, step)  # the stop came within its evaluation
            while step < self._trainer.num_steps:
                target = min(next(end for end in self._ends if end > step), step + pace.steps)
                start = time.monotonic()
                sums = self._trainer.train_steps(
                    batches, tf.constant(step, tf.int64), tf.constant(target - step, tf.int64)
                )
                pace.measure(target - step, time.monotonic() - start)
                self._check_finite(step + round(float(sums["num_steps"])), float(sums["nonfinite_replicas"][0]))
                step = target
                if step in self._ends:
                    self._end_epoch(directory, step)
                    self._save(step)
                self._end_if_asked(step)
            return self._finish()

    def _read_scores(self) -> dict[str, dict[str, float]] | None:
        file = tf.io.gfile.join(self._directory, SCORES_FILE)
        if not tf.io.gfile.exists(file):
            return None
        try:
            with tf.io.gfile.GFile(file) as stream:
                return json.load(stream)
        except ValueError as error:
            raise UserError(f"{file} is damaged ({error}): remove it, then the same command makes it again") from error

    def _restore(self, items: tuple[str, ...] = _ITEMS) -> int:
        """Begins, or goes on from the newest checkpoint; returns its step."""
        self._files.recover()
        self._trainer.restart(self._seed)
        path, damages = self._files.newest_whole()
        if path is None:
            if damages:
                raise UserError(f"{none_can_be_read(damages)}: remove {self._directory} to begin this seed anew")
            return 0
        tell_damages(damages, path, self._say)
        restore(self._checkpoint, path, items)
        step = int(self._trainer.optimizer.iterations.numpy())
        self._say(f"seed {self._seed}: going on from step {step:,}")
        return step

    def _save(self, step: int) -> None:
        self._files.write(step, self._checkpoint.write)
        self._files.keep_only([step])

    def _end_if_asked(self, step: int) -> None:
        if self._stop.requested:
            self._save(step)
            raise Interrupted(
                f"stopped by {self._stop.name} at step {step:,} of seed {self._seed}; saved: the same command goes on "
                f"from there"
            )

    def _check_finite(self, step: int, nonfinite: float) -> None:
        if nonfinite:
            raise UserError(
                f"seed {self._seed}, step {step:,}: the loss or gradient is infinite or NaN; give a lower "
                f"config.optimizer.learning_rate, and another --workdir"
            )

    def _end_epoch(self, directory: Workdir, step: int) -> None:
        """Evaluates and logs an epoch."""
        epoch, epochs = self._ends.index(step) + 1, len(self._ends)
        scores = {
            split.name: self._score(split, step)
            for split in self._splits
            if split.name == "validation" and are_labelled(split.examples)
        }
        sums = self._trainer.sums.take()
        loss = float(sums["loss"] / max(1.0, sums["weight"]))
        norm = float(sums["gradient_norm"] / max(1.0, sums["num_updates"]))
        rate = float(self._trainer.optimizer.learning_rate.numpy())
        directory.write_metrics("train", step, {"loss": loss, "gradient_norm": norm, "learning_rate": rate})
        shown = []
        for name, values in scores.items():
            directory.write_metrics(name, step, dict(values))
            shown = [f"{score} {values[score]:.4f}" for score in self._task.score_names[:3]]
        self._say("  ".join([f"seed {self._seed}  epoch {epoch}/{epochs}  loss {loss:.4f}", *shown]))

    def _score(self, split: Split, step: int) -> Scores:
        return self._task.score(self._predict(split, step), split.examples)

    def _predict(self, split: Split, step: int) -> list[Any]:
        logits = self._trainer.logits(split.encoded, before_batch=lambda: self._end_if_asked(step))
        return self._task.predict(logits, split.encoded, split.examples)

    def _finish(self) -> dict[str, dict[str, float]]:
        """Writes predictions, scores and the model alone in place of the checkpoint."""
        step = self._trainer.num_steps
        found: dict[str, dict[str, float]] = {}
        for split in self._splits:
            predictions = self._predict(split, step)
            file = tf.io.gfile.join(self._directory, f"predictions-{split.name}.jsonl")
            write_json_lines(file, prediction_lines(split.examples, predictions))
            if are_labelled(split.examples):
                scores = self._task.score(predictions, split.examples)
                found[split.name] = dict(scores)
                for name, reason in scores.reasons.items():
                    self._say(f"seed {self._seed}: {split.name} {name} has no meaning here and counts as 0: {reason}")
        self._files.write(step, tf.train.Checkpoint(model=self._trainer.model).write)
        write_json(tf.io.gfile.join(self._directory, SCORES_FILE), found)
        return found


def prediction_lines(examples: Sequence[Example], predictions: Sequence[Any]) -> list[dict[str, Any]]:
    """Returns what is written of predictions: `id`, `prediction`, and the label where there is one."""
    lines = []
    for example, prediction in zip(examples, predictions, strict=True):
        line = {"id": example.id, "prediction": list(prediction) if isinstance(prediction, tuple) else prediction}
        if example.label is not None:
            line["label"] = example.label
        elif example.tags is not None:
            line["label"] = list(example.tags)
        elif example.answers or example.is_impossible:
            line["label"] = [answer.text for answer in example.answers]
        lines.append(line)
    return lines
