"""What a run reads and writes: tokens, epochs, checkpoints. TensorFlow is not imported here, but for remote paths."""

import dataclasses
import glob
import os
from collections.abc import Sequence
from typing import Any

from electra_cli import files
from electra_cli.config import PhaseConfig
from electra_cli.data import tfrecords
from electra_cli.data.vocabulary import Vocabulary
from electra_cli.errors import UserError
from electra_cli.planning.memory import FLOAT, num_copies
from electra_cli.planning.parameters import count_parameters

# BERT's vocabulary of English, uncased, which the paper's models have.
DEFAULT_VOCAB_SIZE = 30_522
# Sums of an unfinished interval of metrics, float64 (`training/metrics.py`): two histograms of logits and some numbers.
_ELECTRA_SUMS = 8 * (2 * 16_384 + 13)
_MASKED_LM_SUMS = 8 * 7


@dataclasses.dataclass(frozen=True)
class DataSize:
    """What prepared data holds.

    Attributes:
      vocab_size: entries of the vocabulary.
      num_shards: files of the training split.
      num_examples: its examples; None where only reading all of it would tell.
      real_tokens: its tokens without padding; None likewise.
    """

    vocab_size: int
    num_shards: int
    num_examples: int | None = None
    real_tokens: int | None = None


def read_data_size(data_dir: str, max_seq_length: int) -> DataSize:
    """Reads how much a data directory holds.

    Args:
      data_dir: of electra-prepare, or of foreign TFRecords with a `vocab.txt`.
      max_seq_length: the length that the run is configured for.

    Raises:
      UserError: the directory is missing, damaged, or of another length.
    """
    if not files.is_remote(data_dir):
        if not os.path.isdir(data_dir):
            raise UserError(f"config.data.dir={data_dir}: no such directory; leave the key out to plan without data")
        shards = [
            path
            for path in glob.glob(f"{glob.escape(data_dir)}/*.tfrecord*")
            if not os.path.basename(path).startswith("validation")
        ]
        if not os.path.exists(files.join(data_dir, tfrecords.MANIFEST_FILE)) and shards:
            return DataSize(Vocabulary.from_file(files.join(data_dir, tfrecords.VOCAB_FILE)).size, len(shards))
    manifest = tfrecords.read_manifest(data_dir)
    tfrecords.check_length(data_dir, manifest.max_seq_length, max_seq_length)
    num_shards = len(manifest.splits.get("train", ()))
    if not num_shards:
        raise UserError(f"{data_dir} has no training examples; prepare the data anew")
    return DataSize(manifest.vocab_size, num_shards, manifest.num_examples("train"), manifest.real_tokens("train"))


@dataclasses.dataclass(frozen=True)
class CheckpointSize:
    """What checkpoints take of the disk.

    Attributes:
      one: bytes of one.
      num_kept: those that lie in the workdir at the end.
      kept: bytes of them together, and of one more while it is written.
    """

    one: int
    num_kept: int
    kept: int


def checkpoint_size(config: Any, phases: Sequence[PhaseConfig]) -> CheckpointSize:
    """Returns what the checkpoints of a run take.

    Args:
      config: the resolved config of the run.
      phases: its phases.
    """
    sums = _MASKED_LM_SUMS if config.objective.name == "mlm" else _ELECTRA_SUMS
    one = FLOAT * count_parameters(config).trained * (1 + num_copies(config)) + sums
    train = config.train
    last = train.num_steps // train.checkpoint_interval
    newest = {train.checkpoint_interval * number for number in range(max(1, last - train.keep_checkpoints), last + 1)}
    newest = set(sorted(newest | {phase.end for phase in phases})[-train.keep_checkpoints :])
    every = train.keep_every_steps
    for_good = train.num_steps // every if every else 0
    num_kept = for_good + sum(not every or step % every != 0 for step in newest) + bool(train.best_metric)
    return CheckpointSize(one, num_kept, one * (num_kept + 1))
