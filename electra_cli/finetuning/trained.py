"""A fine-tuned model of a workdir: to predict with, and to export."""

import dataclasses
import json
from collections.abc import Callable

import ml_collections
import tensorflow as tf

from electra_cli.config import flatten
from electra_cli.data.tokenizer_settings import TokenizerSettings
from electra_cli.errors import UserError
from electra_cli.finetuning.base import Task
from electra_cli.finetuning.config_defaults import default_config
from electra_cli.finetuning.labels import LABELS_FILE, LabelMap
from electra_cli.finetuning.model import FineTunedModel, build_encoder, build_model
from electra_cli.finetuning.tasks import build_task
from electra_cli.finetuning.workdir import (
    SCORES_FILE,
    Record,
    SeedScores,
    read_record,
    read_seed_scores,
    read_tokenizer,
    seed_directory,
)
from electra_cli.training.checkpoint_files import find_checkpoint
from electra_cli.training.checkpoint_matching import restore


@dataclasses.dataclass(frozen=True)
class Trained:
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
    model: FineTunedModel
    scores: SeedScores

    @property
    def max_length(self) -> int:
        """Tokens that text is cut to."""
        return min(self.config.data.max_seq_length, self.record.sizes.max_position_embeddings)


def read_config(record: Record, workdir: str) -> ml_collections.ConfigDict:
    """Returns the config of a fine-tuning.

    Raises:
      UserError: it has keys or types that this version does not know.
    """
    config = default_config()
    known = flatten(config)
    try:
        config.update_from_flattened_dict(
            {
                key: tuple(value) if isinstance(known[key], tuple) else value
                for key, value in flatten(record.config).items()
            }
        )
        return config
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{workdir} was written by another version of this program: {error}") from error


def choose_seed(workdir: str, say: Callable[[str], None]) -> int:
    """Returns the seed with the best validation score, or test score where there is no validation; else the first.

    Raises:
      UserError: the fine-tuning is not done.
    """
    file = tf.io.gfile.join(workdir, SCORES_FILE)
    if not tf.io.gfile.exists(file):
        raise UserError(f"--workdir={workdir} holds no {SCORES_FILE}: its fine-tuning is not done")
    try:
        with tf.io.gfile.GFile(file) as stream:
            summary = json.load(stream)
        splits, primary = summary["splits"], summary["primary_score"]
        of_seed = splits.get("validation", splits.get("test", {})).get("seeds", {})
        best = max(of_seed, key=lambda seed: of_seed[seed][primary]) if of_seed else summary["seeds"][0]
        if len(of_seed) > 1:
            name = "validation" if "validation" in splits else "test"
            say(f"Seed {best}, the best of {len(of_seed)} by {name} {primary}.")
        return int(best)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{file} is damaged ({error}): remove it and run the fine-tuning's command again") from error


def load_trained(workdir: str, seed: int | None = None, say: Callable[[str], None] = print) -> Trained:
    """Reads a fine-tuned model.

    Args:
      workdir: the workdir of electra-finetune.
      seed: which fine-tuning; None: what `choose_seed` takes.
      say: prints a line.

    Raises:
      UserError: there is none, or it is damaged.
    """
    record = read_record(workdir)
    config = read_config(record, workdir)
    task = build_task(config)
    task.labels = LabelMap.load(tf.io.gfile.join(workdir, LABELS_FILE))
    tokenizer = read_tokenizer(workdir, record)
    seed = choose_seed(workdir, say) if seed is None else seed
    directory = seed_directory(workdir, seed)
    scores = read_seed_scores(directory)
    if scores is None:
        raise UserError(f"--workdir={workdir} holds no fine-tuning with seed {seed} that is done")
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
    restore(tf.train.Checkpoint(model=model), find_checkpoint(directory, say), ("model",))
    return Trained(workdir, seed, record, config, task, tokenizer, model, scores)
