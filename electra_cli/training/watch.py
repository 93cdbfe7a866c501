"""What goes wrong in a run and can be told by its numbers: not finite, a spike of the loss, a collapsed network."""

import numpy as np
import tensorflow as tf

from electra_cli.objectives.base import Objective

# Means of the loss, one a line of metrics, whose median a spike is measured against.
_NUM_RECENT = 10
# "Long after warm-up": so many times its steps, so many steps after it, and this fraction of the run.
_WARMUPS, _STEPS_AFTER_WARMUP, _FRACTION_OF_RUN = 3, 500, 0.25


class Watch(tf.Module):
    """What a run remembers of its mishaps; in the checkpoint, so that a stop changes nothing of it.

    Attributes:
      num_nonfinite: int64, steps that were left out because loss or gradient were not finite.
      num_rollbacks: int64, times that the run was rolled back.
      num_skipped: int64, steps of examples that were passed over by that: step s takes those of step s + num_skipped.
    """

    def __init__(self) -> None:
        super().__init__()

        def count() -> tf.Variable:
            return tf.Variable(0, dtype=tf.int64, trainable=False)

        self.num_nonfinite, self.num_rollbacks, self.num_skipped = count(), count(), count()
        self._num_recent = count()
        self._recent = tf.Variable(tf.zeros([_NUM_RECENT], tf.float64), trainable=False)

    def median(self) -> float | None:
        """Returns the median of the last losses; None until there are enough of them."""
        full = int(self._num_recent.numpy()) >= _NUM_RECENT
        return float(np.median(self._recent.numpy())) if full else None

    def add_loss(self, loss: float) -> None:
        """Takes note of a mean loss."""
        place = int(self._num_recent.numpy()) % _NUM_RECENT
        self._recent.scatter_nd_update([[place]], [loss])
        self._num_recent.assign_add(1)

    def forget_losses(self) -> None:
        """Begins the median anew, for losses that cannot be compared with those before."""
        self._num_recent.assign(0)

    def roll_back(self, num_rollbacks: int, num_skipped: int) -> None:
        """Takes note of a roll-back, after the state of the checkpoint was restored.

        Args:
          num_rollbacks: roll-backs, this one too.
          num_skipped: steps of examples passed over, those of this one too.
        """
        self.num_rollbacks.assign(num_rollbacks)
        self.num_skipped.assign(num_skipped)


class CollapseNotices:
    """Names networks that have learned nothing long after warm-up, once each until they recover.

    Args:
      objective: what is learned.
      warmup_steps: steps of warm-up.
      num_steps: steps of the run.
    """

    def __init__(self, objective: Objective, warmup_steps: int, num_steps: int):
        self._objective = objective
        self._begin = max(_WARMUPS * warmup_steps, warmup_steps + _STEPS_AFTER_WARMUP, _FRACTION_OF_RUN * num_steps)
        self._told: set[str] = set()

    def look(self, step: int, values: dict[str, float], unigram_loss: float | None) -> list[str]:
        """Returns what is to be told.

        Args:
          step: steps made.
          values: the metrics of an interval.
          unigram_loss: what `unigram_entropy` returns.
        """
        if step < self._begin:
            return []
        messages = self._objective.find_collapse(values, unigram_loss)
        new = [text for name, text in messages.items() if name not in self._told]
        self._told = set(messages)
        return [f"Warning, step {step:,}: {text}." for text in new]
