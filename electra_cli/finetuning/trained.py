"""Loads a fine-tuned model from its workdir, to predict with and to export."""

import dataclasses
from collections.abc import Callable

import ml_collections
import tensorflow as tf

from electra_cli.config.finetuning import FINETUNING
from electra_cli.data.tokenization import TokenizerSettings
from electra_cli.finetuning.base import Task
from electra_cli.finetuning.examples import LABELS_FILE, LabelMap
from electra_cli.finetuning.model import TaskModel, build_model
from electra_cli.finetuning.tasks import build_task
from electra_cli.finetuning.workdir import (
    FineTuningRecord,
    SeedScores,
    choose_seed,
    read_record,
    read_tokenizer,
    require_seed,
    seed_directory,
)
from electra_cli.workdir.checkpoint_files import find_checkpoint
from electra_cli.workdir.checkpoint_matching import restore


@dataclasses.dataclass(frozen=True)
class FineTunedModel:
    """The fine-tuned model of one seed, in the precision of the current policy."""

    workdir: str
    seed: int
    record: FineTuningRecord
    config: ml_collections.ConfigDict
    task: Task
    tokenizer: TokenizerSettings
    model: TaskModel
    scores: SeedScores

    @property
    def max_length(self) -> int:
        """Tokens that text is cut to."""
        return min(self.config.data.max_seq_length, self.record.sizes.max_position_embeddings)


def load_fine_tuned(workdir: str, seed: int | None = None, notice: Callable[[str], None] = print) -> FineTunedModel:
    """Reads the model of a seed; None: of the one that `choose_seed` takes. `notice` prints a line.

    Raises a `UserError` where there is none, or it is damaged.
    """
    record = read_record(workdir)
    config = FINETUNING.restore(record.config, workdir)
    task = build_task(config)
    task.labels = LabelMap.load(tf.io.gfile.join(workdir, LABELS_FILE))
    tokenizer = read_tokenizer(workdir, record)
    seed = choose_seed(workdir, notice) if seed is None else seed
    scores = require_seed(workdir, seed)
    model = build_model(
        record.sizes, record.kind, task.num_outputs, config.model, record.initializer_range, length=record.length
    )
    restore(tf.train.Checkpoint(model=model), find_checkpoint(seed_directory(workdir, seed), notice), ("model",))
    return FineTunedModel(workdir, seed, record, config, task, tokenizer, model, scores)
