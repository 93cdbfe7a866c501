"""A fine-tuned model of a workdir: to predict with, and to export."""

import dataclasses
from collections.abc import Callable

import ml_collections
import tensorflow as tf

from electra_cli.config.finetuning import FINETUNING
from electra_cli.data.tokenization import TokenizerSettings
from electra_cli.finetuning.base import Task
from electra_cli.finetuning.examples import LABELS_FILE, LabelMap
from electra_cli.finetuning.model import TaskModel, build_encoder, build_model
from electra_cli.finetuning.tasks import build_task
from electra_cli.finetuning.workdir import (
    Record,
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
    """A fine-tuned model with all that is known of it.

    Attributes:
      workdir: its directory.
      seed: which of the fine-tunings there it is.
      record: what it was made of.
      config: its config.
      task: its task, with the labels.
      tokenizer: how its text becomes tokens.
      model: the model, in the precision of the current policy.
      scores: what it reached.
    """

    workdir: str
    seed: int
    record: Record
    config: ml_collections.ConfigDict
    task: Task
    tokenizer: TokenizerSettings
    model: TaskModel
    scores: SeedScores

    @property
    def max_length(self) -> int:
        """Tokens that text is cut to."""
        return min(self.config.data.max_seq_length, self.record.sizes.max_position_embeddings)


def load_fine_tuned(workdir: str, seed: int | None = None, say: Callable[[str], None] = print) -> FineTunedModel:
    """Reads a fine-tuned model.

    Args:
      workdir: the workdir of electra-finetune.
      seed: which fine-tuning; None: what `choose_seed` takes.
      say: prints a line.

    Raises:
      UserError: there is none, or it is damaged.
    """
    record = read_record(workdir)
    config = FINETUNING.restore(record.config, workdir)
    task = build_task(config)
    task.labels = LabelMap.load(tf.io.gfile.join(workdir, LABELS_FILE))
    tokenizer = read_tokenizer(workdir, record)
    seed = choose_seed(workdir, say) if seed is None else seed
    scores = require_seed(workdir, seed)
    settings = config.model
    encoder = build_encoder(
        record.sizes,
        hidden_dropout=settings.hidden_dropout,
        attention_dropout=settings.attention_dropout,
        initializer_range=record.initializer_range,
    )
    model = build_model(
        encoder,
        record.kind,
        task.num_outputs,
        dropout_rate=settings.head_dropout,
        initializer_range=record.initializer_range,
        length=record.length,
    )
    restore(tf.train.Checkpoint(model=model), find_checkpoint(seed_directory(workdir, seed), say), ("model",))
    return FineTunedModel(workdir, seed, record, config, task, tokenizer, model, scores)
