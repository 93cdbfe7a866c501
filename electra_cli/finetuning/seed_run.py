"""The fine-tuning of one seed, from its newest checkpoint to its scores."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from electra_cli.errors import Interrupted, UserError
from electra_cli.finetuning.base import Encoded, Task, prediction_lines
from electra_cli.finetuning.examples import Examples, are_labelled, fingerprint
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
class EncodedSplit:
    """A split ('train', 'validation', 'test' or a further one of GLUE's), and the same as arrays."""

    name: str
    examples: Examples
    encoded: Encoded

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the examples."""
        return fingerprint(self.examples)

    @functools.cached_property
    def is_labelled(self) -> bool:
        """Whether it can be scored."""
        return are_labelled(self.examples)


class SeedRun:
    """The fine-tuning of `seeds[index]`, in its directory of a locked workdir.

    All `splits` are predicted; the labelled ones are scored, 'validation' after every epoch too.
    """

    def __init__(
        self,
        trainer: Trainer,
        task: Task,
        splits: Sequence[EncodedSplit],
        workdir: str,
        seeds: Sequence[int],
        index: int,
        stop: StopRequest,
        logger: Logger,
    ):
        self._trainer, self._task, self._splits = trainer, task, splits
        self._seed, self._index, self._num_seeds = seeds[index], index, len(seeds)
        self._directory = seed_directory(workdir, self._seed)
        self._workdir, self._records = Workdir(self._directory), Logger()
        self._stop, self._logger = stop, logger
        self._files = CheckpointFiles(tf.io.gfile.join(self._directory, "checkpoints"))
        items = zip(_ITEMS, (trainer.model, trainer.optimizer, trainer.sums), strict=True)
        self._checkpoint = tf.train.Checkpoint(**dict(items))
        _ = self._checkpoint.save_counter
        # Whether the newest checkpoint is the trained model, which nothing may change any more.
        self._is_trained = False

    def run(self) -> dict[str, dict[str, float]]:
        """Trains to the end and returns the scores of each labelled split.

        What was done before is not repeated; a split that is new, or holds other examples now, is predicted. Raises a
        `UserError` where a loss is not finite or no checkpoint can be read, `Interrupted` when a stop was requested.
        """
        scores = read_seed_scores(self._directory)
        done = scores or {}
        missing = [split for split in self._splits if not self._is_done(split, done.get(split.name))]
        if scores is None or missing:
            with self._workdir, self._workdir.recording() as self._records:
                with self._logger.status(f"Opening seed {self._seed}"):
                    step = self._restore(is_trained=scores is not None)
                if not self._is_trained:
                    self._train(step)
                done = self._finish(missing, done)
        else:
            self._logger.notice(f"seed {self._seed}: done before")
        return {split.name: dict(done[split.name]["scores"]) for split in self._splits if split.is_labelled}

    def _is_done(self, split: EncodedSplit, entry: dict[str, Any] | None) -> bool:
        if entry is None or entry["examples"] != split.fingerprint:
            return False
        # Earlier versions knew fewer scores of tags.
        return not split.is_labelled or self._task.primary_score in (entry["scores"] or {})

    def _restore(self, is_trained: bool) -> int:
        """Starts, or resumes from the newest checkpoint; returns its step."""
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
        self._logger.notice(f"seed {self._seed}: resuming from step {step:,}")
        return step

    def _train(self, step: int) -> None:
        self._resume_metrics(step)
        batches, pace = self._trainer.batches(self._seed, step), StepsPerCall()
        text = f"Building step {step + 1:,}; the first takes longer than the others"
        build: contextlib.AbstractContextManager[None] = self._logger.status(text)
        self._report_progress(step, pace)
        while step < self._trainer.num_steps:
            target = min(next(end for end in self._trainer.epoch_ends if end > step), step + pace.steps)
            start, num_steps = time.monotonic(), tf.constant(target - step, tf.int64)
            with build:
                sums = self._trainer.train_steps(batches, tf.constant(step, tf.int64), num_steps)
                num_done = round(float(sums["num_steps"]))  # waits for the result
            build = contextlib.nullcontext()
            pace.measure(num_done, time.monotonic() - start)
            step += num_done
            if sums["nonfinite_replicas"].numpy().any():
                raise UserError(
                    f"seed {self._seed}, step {step:,}: the loss or gradient is infinite or NaN; give a lower "
                    f"config.optimizer.learning_rate, and another --workdir"
                )
            self._report_progress(step, pace)
            if step in self._trainer.epoch_ends:
                self._end_epoch(step)
                self._save(step)
            self._end_if_asked(step)

    def _report_progress(self, step: int, pace: StepsPerCall) -> None:
        """Reports the progress of all seeds, of which those before are done."""
        num_steps, which = self._trainer.num_steps, f"seed {self._seed}"
        done, total = self._index * num_steps + step, self._num_seeds * num_steps
        if self._num_seeds > 1:
            which += f", {self._index + 1} of {self._num_seeds}"
        self._logger.progress(done, total, pace.seconds_per_step * (total - done), which)

    def _resume_metrics(self, step: int) -> None:
        """Drops metrics that will be written again; ends an epoch that was stopped within its evaluation."""
        lines = self._workdir.drop_metrics_after(step)
        if step not in self._trainer.epoch_ends:
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
        where = f"step {step:,} of seed {self._seed}"
        raise Interrupted(f"stopped by {self._stop.name} at {where}; saved: the same command resumes from there")

    def _end_epoch(self, step: int) -> None:
        epoch, num_epochs = self._trainer.epoch_ends.index(step) + 1, len(self._trainer.epoch_ends)
        scored, columns = {}, []
        for split in self._splits:
            if split.name == "validation" and split.is_labelled:
                scores = self._task.score(self._predict(split, step), split.examples)
                self._records.metrics("validation", step, scores, "")
                scored = {f"validation_{name}": value for name, value in scores.items()}
                columns = [f"{name} {scores[name]:.4f}" for name in self._task.score_names[:3]]
        sums = self._trainer.sums.take()
        loss = float(sums["loss"] / max(1.0, sums["weight"]))
        norm = float(sums["gradient_norm"] / max(1.0, sums["num_updates"]))
        rate = float(self._trainer.optimizer.learning_rate.numpy())
        values = {"loss": loss, "gradient_norm": norm, "learning_rate": rate}
        self._records.metrics("train", step, values, "")
        line = "  ".join([f"seed {self._seed}  epoch {epoch}/{num_epochs}  loss {loss:.4f}", *columns])
        self._logger.metrics("epoch", step, {"seed": self._seed, "epoch": epoch, **values, **scored}, line)

    def _predict(self, split: EncodedSplit, step: int) -> list[Any]:
        with self._logger.status(f"Predicting {len(split.examples):,} {split.name} examples"):
            logits = self._trainer.logits(split.encoded, before_batch=lambda: self._end_if_asked(step))
        return self._task.predict(logits, split.encoded, split.examples)

    def _finish(self, splits: Sequence[EncodedSplit], done: SeedScores) -> SeedScores:
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
                    where = f"seed {self._seed}: {split.name} {name}"
                    self._logger.warning(f"{where} has no meaning here and counts as 0: {reason}")
            entry = {"examples": split.fingerprint, "num_examples": len(split.examples), "scores": scores}
            done = {**done, split.name: entry}
        write_json(tf.io.gfile.join(self._directory, SCORES_FILE), done)
        if not self._is_trained:
            self._files.write(step, tf.train.Checkpoint(model=self._trainer.model).write)
            self._files.keep_only([step])
        return done
