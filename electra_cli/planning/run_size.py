"""What a run reads and writes: tokens, epochs, checkpoints. TensorFlow is not imported here, but for remote paths."""

import dataclasses
from typing import Any

from electra_cli.planning.memory import FLOAT, num_copies
from electra_cli.planning.parameters import count_parameters

# Sums of an unfinished interval of metrics, float64 (`training/metrics.py`): two histograms of logits and some numbers.
_ELECTRA_SUMS = 8 * (2 * 16_384 + 13)
_MASKED_LM_SUMS = 8 * 7


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


def checkpoint_size(config: Any) -> CheckpointSize:
    """Returns what the checkpoints of a run with a resolved config take."""
    sums = _MASKED_LM_SUMS if config.objective.name == "mlm" else _ELECTRA_SUMS
    one = FLOAT * count_parameters(config).trained * (1 + num_copies(config)) + sums
    train = config.train
    last = train.num_steps // train.checkpoint_interval
    first = max(1, last - train.keep_checkpoints + 1)
    newest = {*(train.checkpoint_interval * number for number in range(first, last + 1)), train.num_steps}
    every = train.keep_every_steps
    for_good = train.num_steps // every if every else 0
    num_kept = for_good + sum(not every or step % every != 0 for step in newest) + bool(train.best_metric)
    return CheckpointSize(one, num_kept, one * (num_kept + 1))
