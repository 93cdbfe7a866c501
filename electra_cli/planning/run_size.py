"""What a run reads and writes: tokens, epochs, checkpoints. TensorFlow is not imported here, but for remote paths."""

import dataclasses
import os
import shutil
from typing import Any

from electra_cli import files
from electra_cli.planning.memory import FLOAT, num_copies
from electra_cli.planning.parameters import count_parameters
from electra_cli.workdir.run_files import CHECKPOINT_DIRECTORY

# Sums of an unfinished interval of metrics, float64 (`training/metrics.py`): two histograms of logits and some numbers.
_ELECTRA_SUMS = 8 * (2 * 16_384 + 13)
_MASKED_LM_SUMS = 8 * 7


@dataclasses.dataclass(frozen=True)
class CheckpointSize:
    """What checkpoints take of the disk.

    Attributes:
      one: bytes of one.
      num_kept: those that lie in the workdir at the end.
      num_for_good: of them, those that are never deleted.
      kept: bytes of them together, and of one more while it is written.
    """

    one: int
    num_kept: int
    num_for_good: int
    kept: int


def describe_shortage(workdir: str, size: CheckpointSize) -> str | None:
    """Returns what to do where checkpoints do not fit on the disk of a workdir; None where they do, or it is remote."""
    if files.is_remote(workdir):
        return None
    directory = os.path.join(workdir, CHECKPOINT_DIRECTORY)
    place = os.path.abspath(workdir)
    while not os.path.exists(place):
        place = os.path.dirname(place)
    free = shutil.disk_usage(place).free
    if os.path.isdir(directory):  # those that are there will be replaced
        free += sum(files.size(os.path.join(directory, name)) or 0 for name in os.listdir(directory))
    if free >= size.kept:
        return None
    fewer = " or raise config.train.keep_every_steps" if size.num_for_good else ""
    return (
        f"--workdir={workdir}: checkpoints will take {describe_bytes(size.kept)} ({size.num_kept} that are kept, and "
        f"one being written) but {describe_bytes(free)} are free there: make room, lower "
        f"config.train.keep_checkpoints{fewer}"
    )


def describe_bytes(number: float) -> str:
    """Returns a size in GiB, or in MiB where it is less than one."""
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"


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
    return CheckpointSize(one, num_kept, for_good, one * (num_kept + 1))
