"""One seed's fine-tuning, from its newest checkpoint to its scores."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from electra_cli.errors import Interrupted, UserError
from electra_cli.finetuning.base import Encoded, Task
from electra_cli.finetuning.examples import Example, are_labelled, fingerprint
from electra_cli.finetuning.scores import Scores
from electra_cli.finetuning.trainer import Trainer
from electra_cli.finetuning.workdir import SCORES_FILE, SeedScores, read_seed_scores, seed_directory
from electra_cli.loggers.logger import Logger
from electra_cli.training.stopping import StopRequest
from electra_cli.training.throughput import StepsPerCall
from electra_cli.workdir.checkpoint_files import CheckpointFiles, has_optimizer
from electra_cli.workdir.checkpoint_matching import restore
from electra_cli.workdir.run_files import write_json, write_json_lines
from electra_cli.workdir.workdir import Workdir

_ITEMS = ("model", "optimizer", "interval_sums")


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples that are predicted.

    Attributes:
      name: 'validation' or 'test', or a further one of GLUE's.
      examples: the examples.
      encoded: the same as arrays.
      fingerprint: a hash of the examples.
    """

    name: str
    examples: Sequence[Example]
    encoded: Encoded
    fingerprint: str

    @classmethod
    def of(cls, name: str, examples: Sequence[Example], encoded: Encoded) -> "Split":
        """Returns the split of these examples."""
        return cls(name, examples, encoded, fingerprint(examples))

    @property
    def is_labelled(self) -> bool:
        """Whether it can be scored."""
        return are_labelled(self.examples)


class SeedRun:
    """One seed's fine-tuning.

    Args:
      trainer: model and steps.
      task: the task.
      splits: what is predicted; the labelled ones are scored, and 'validation' is after every epoch.
      num_epochs: epochs of it.
      workdir: the directory of all seeds, locked.
      seed: the seed.
      place: which of the seeds it is, from 0, and how many there are.
      stop: asks for a stop.
      logger: receives progress reports.
    """

    def __init__(
        self,
        trainer: Trainer,
        task: Task,
        splits: Sequence[Split],
        num_epochs: int,
        workdir: str,
        seed: int,
        place: tuple[int, int],
        stop: StopRequest,
        logger: Logger,
    ):
        self._trainer, self._task, self._splits = trainer, task, splits
        self._directory, self._seed = seed_directory(workdir, seed), seed
        self._workdir, self._records = Workdir(self._directory), Logger()
        self._place = place
        self._stop, self._logger = stop, logger
        # The step that each epoch ends with.
        self._ends = [math.ceil(trainer.num_steps * epoch / num_epochs) for epoch in range(1, num_epochs + 1)]
        self._files = CheckpointFiles(tf.io.gfile.join(self._directory, "checkpoints"))
        self._checkpoint = tf.train.Checkpoint(
            model=trainer.model, optimizer=trainer.optimizer, interval_sums=trainer.sums
        )
        _ = self._checkpoint.save_counter
        # Whether the newest checkpoint is the trained model, which nothing may change any more.
        self._is_trained = False

    def run(self) -> dict[str, dict[str, float]]:
        """Trains to the end and returns the scores of each labelled split.

        What was done before is not done again; a file that came later, or holds other examples now, is predicted.

        Raises:
          UserError: a loss is not finite, or no checkpoint can be read.
          ResumableError: something cannot be written.
          Interrupted: a stop was asked for; all is saved.
        """
        found = read_seed_scores(self._directory)
        missing = [split for split in self._splits if found is None or not found.has(split.name, split.fingerprint)]
        if found is None or missing:
            with self._workdir, self._workdir.recording() as self._records:
                with self._logger.status(f"Opening seed {self._seed}"):
                    step = self._restore(is_trained=found is not None)
                if not self._is_trained:
                    self._train(step)
                found = self._finish(missing, found or SeedScores({}))
        else:
            self._logger.notice(f"seed {self._seed}: done before")
        return {split.name: found.scores(split.name) for split in self._splits if split.is_labelled}

    def _restore(self, is_trained: bool) -> int:
        """Begins, or goes on from the newest checkpoint; returns its step."""
        self._files.recover()
        self._trainer.restart(self._seed)
        path = self._files.newest(self._logger.warning, f"remove {self._directory} to start this seed again")
        if path is None:
            if is_trained:
                raise UserError(f"{self._files.directory} holds no model: remove {self._directory} to start it again")
            return 0
        self._is_trained = is_trained or not has_optimizer(path)
        restore(self._checkpoint, path, ("model",) if self._is_trained else _ITEMS)
        if self._is_trained:
            self._logger.notice(f"seed {self._seed}: trained before")
            return self._trainer.num_steps
        step = int(self._trainer.optimizer.iterations.numpy())
        self._logger.notice(f"seed {self._seed}: going on from step {step:,}")
        return step

    def _train(self, step: int) -> None:
        self._go_on_with_metrics(step)
        batches, pace = self._trainer.batches(self._seed, step), StepsPerCall()
        build: contextlib.AbstractContextManager[None] = self._logger.status(
            f"Building step {step + 1:,}; the first takes longer than the others"
        )
        self._tell_progress(step, pace)
        while step < self._trainer.num_steps:
            target = min(next(end for end in self._ends if end > step), step + pace.steps)
            start, num_steps = time.monotonic(), tf.constant(target - step, tf.int64)
            with build:
                sums = self._trainer.train_steps(batches, tf.constant(step, tf.int64), num_steps)
                num_made = round(float(sums["num_steps"]))  # waits for the result
            build = contextlib.nullcontext()
            pace.measure(num_made, time.monotonic() - start)
            step += num_made
            self._check_finite(step, sums["nonfinite_replicas"].numpy())
            self._tell_progress(step, pace)
            if step in self._ends:
                self._end_epoch(step)
                self._save(step)
            self._end_if_asked(step)

    def _tell_progress(self, step: int, pace: StepsPerCall) -> None:
        """Tells how far all seeds are, of which those before are done."""
        index, num_seeds = self._place
        made, in_all = index * self._trainer.num_steps + step, num_seeds * self._trainer.num_steps
        which = f"seed {self._seed}, {index + 1} of {num_seeds}" if num_seeds > 1 else f"seed {self._seed}"
        self._logger.progress(made, in_all, pace.seconds_per_step * (in_all - made), which)

    def _go_on_with_metrics(self, step: int) -> None:
        """Drops metrics that will be written again; ends an epoch that was stopped within its evaluation."""
        lines = self._workdir.drop_metrics_after(step)
        if step not in self._ends:
            return
        # The line of training is the last of an epoch.
        if any(line["split"] == "train" and line["step"] == step for line in lines):
            self._trainer.sums.take()  # a kill after it may have left a checkpoint from before
        else:
            self._workdir.drop_metrics_after(step - 1)
            self._end_epoch(step)

    def _save(self, step: int) -> None:
        # Its own step; that of the progress counts all seeds.
        with self._logger.status(f"Saving step {step:,} of seed {self._seed}"):
            self._files.write(step, self._checkpoint.write)
            self._files.keep_only([step])
        self._logger.checkpoint(step, self._files.path(step))

    def _end_if_asked(self, step: int) -> None:
        if not self._stop.requested:
            return
        if not self._is_trained:
            self._save(step)
        raise Interrupted(
            f"stopped by {self._stop.name} at step {step:,} of seed {self._seed}; saved: the same command goes on from "
            f"there"
        )

    def _check_finite(self, step: int, nonfinite_replicas: np.ndarray) -> None:
        if nonfinite_replicas.any():
            raise UserError(
                f"seed {self._seed}, step {step:,}: the loss or gradient is infinite or NaN; give a lower "
                f"config.optimizer.learning_rate, and another --workdir"
            )

    def _end_epoch(self, step: int) -> None:
        """Evaluates and logs an epoch."""
        epoch, epochs = self._ends.index(step) + 1, len(self._ends)
        scores = {
            split.name: self._score(split, step)
            for split in self._splits
            if split.name == "validation" and split.is_labelled
        }
        sums = self._trainer.sums.take()
        loss = float(sums["loss"] / max(1.0, sums["weight"]))
        norm = float(sums["gradient_norm"] / max(1.0, sums["num_updates"]))
        rate = float(self._trainer.optimizer.learning_rate.numpy())
        shown = []
        for name, found in scores.items():
            self._records.metrics(name, step, found, line="")
            shown = [f"{score} {found[score]:.4f}" for score in self._task.score_names[:3]]
        values = {"loss": loss, "gradient_norm": norm, "learning_rate": rate}
        self._records.metrics("train", step, values, line="")
        line = "  ".join([f"seed {self._seed}  epoch {epoch}/{epochs}  loss {loss:.4f}", *shown])
        scored = {f"{name}_{score}": value for name, found in scores.items() for score, value in found.items()}
        self._logger.metrics("epoch", step, {"seed": self._seed, "epoch": epoch, **values, **scored}, line)

    def _score(self, split: Split, step: int) -> Scores:
        return self._task.score(self._predict(split, step), split.examples)

    def _predict(self, split: Split, step: int) -> list[Any]:
        with self._logger.status(f"Predicting {len(split.examples):,} {split.name} examples"):
            logits = self._trainer.logits(split.encoded, before_batch=lambda: self._end_if_asked(step))
        return self._task.predict(logits, split.encoded, split.examples)

    def _finish(self, splits: Sequence[Split], found: SeedScores) -> SeedScores:
        """Writes predictions and scores of splits, and then the model alone in place of the checkpoint."""
        step = self._trainer.num_steps
        for split in splits:
            predictions = self._predict(split, step)
            file = tf.io.gfile.join(self._directory, f"predictions-{split.name}.jsonl")
            write_json_lines(file, prediction_lines(split.examples, predictions))
            scores = None
            if split.is_labelled:
                scores = self._task.score(predictions, split.examples)
                for name, reason in scores.reasons.items():
                    self._logger.warning(
                        f"seed {self._seed}: {split.name} {name} has no meaning here and counts as 0: {reason}"
                    )
            found = found.with_split(split.name, split.fingerprint, len(split.examples), scores)
        write_json(tf.io.gfile.join(self._directory, SCORES_FILE), found.splits)
        if not self._is_trained:
            self._files.write(step, tf.train.Checkpoint(model=self._trainer.model).write)
            self._files.keep_only([step])
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
