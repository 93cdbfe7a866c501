"""Everything a run needs to go on, to and from the workdir."""

import numpy as np
import tensorflow as tf

from electra_cli.errors import UserError
from electra_cli.modeling.pretrainers import Pretrainer
from electra_cli.training.optimization import Optimizer


class IntervalSums(tf.Module):
    """Sums since the last line of metrics; in the checkpoint, so a stop in an interval does not change its line."""

    def __init__(self, shapes: dict[str, list[int]]):
        super().__init__()
        # Float64: an interval may hold more tokens than the 16 million that float32 counts to.
        self.sums = {name: tf.Variable(tf.zeros(shape, tf.float64), trainable=False) for name, shape in shapes.items()}

    def add(self, sums: dict[str, tf.Tensor]) -> None:
        """Adds float32 sums of the same names and shapes."""
        for name, variable in self.sums.items():
            variable.assign_add(tf.cast(sums[name], tf.float64))

    def take(self) -> dict[str, np.ndarray]:
        """Returns the sums and starts anew."""
        taken = {name: variable.numpy() for name, variable in self.sums.items()}
        for variable in self.sums.values():
            variable.assign(tf.zeros_like(variable))
        return taken


class Checkpoints:
    """The checkpoints of a run.

    Args:
      directory: where they lie.
      model: the pretrainer, with its weights created.
      optimizer: the optimizer, built; its `iterations` are the step.
      interval_sums: sums since the last line of metrics.
      num_kept: newest checkpoints that are kept.
    """

    def __init__(
        self,
        directory: str,
        model: Pretrainer,
        optimizer: Optimizer,
        interval_sums: IntervalSums | None = None,
        num_kept: int = 1,
    ):
        items = {"model": model, "optimizer": optimizer, **model.checkpoint_items}
        if interval_sums is not None:
            items["interval_sums"] = interval_sums
        self._checkpoint = tf.train.Checkpoint(**items)
        self._manager = tf.train.CheckpointManager(self._checkpoint, directory, max_to_keep=num_kept)
        self._optimizer = optimizer

    def restore_newest(self) -> int | None:
        """Restores the newest checkpoint and returns its step; None when there is none.

        Raises:
          UserError: the checkpoint cannot be read or is of another model.
        """
        recorded = self._manager.checkpoints
        present = [path for path in recorded if tf.io.gfile.exists(f"{path}.index")]
        if not recorded:
            return None
        if not present:
            raise UserError(
                f"{self._manager.directory} names checkpoints of which none is there any more ({recorded[-1]}): "
                f"put one back, or choose another --workdir"
            )
        path = present[-1]
        try:
            self._checkpoint.restore(path).assert_existing_objects_matched().expect_partial()
        except (tf.errors.OpError, AssertionError, IndexError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"checkpoint {path} cannot be restored ({reason}); move its files away to go on from the one before"
            ) from error
        return int(self._optimizer.iterations.numpy())

    def save(self) -> str:
        """Writes a checkpoint of the current step and returns its path.

        Raises:
          UserError: the workdir cannot be written; earlier checkpoints are intact.
        """
        try:
            return self._manager.save(checkpoint_number=int(self._optimizer.iterations.numpy()))
        except tf.errors.OpError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"no checkpoint could be written to {self._manager.directory}: {reason}") from error
