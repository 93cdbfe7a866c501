"""Values that change over a run, from that of a key at its first step to that of the key `..._end` at its last."""

import dataclasses
import math
from collections.abc import Iterable

import ml_collections
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A straight line (shape 'linear') or half a cosine ('cosine') over the steps of a whole run."""

    begin: float
    end: float
    num_steps: int
    shape: str

    def at(self, step: tf.Tensor | int) -> tf.Tensor:
        """Returns the value, float32, of the step that follows `step` others: the ends are exact."""
        share = tf.minimum(tf.cast(step, tf.float32) / max(1, self.num_steps - 1), 1.0)
        if self.shape == "cosine":
            share = 0.5 * (1.0 - tf.cos(math.pi * share))
        return self.begin * (1.0 - share) + self.end * share


def schedule_of(config: ml_collections.FrozenConfigDict, key: str) -> Schedule | None:
    """Returns the schedule of a key such as 'data.mask_prob'; None where its value does not change."""
    section, name = key.split(".")
    end = config[section][f"{name}_end"]
    if end is None:
        return None
    return Schedule(config[section][name], end, config.train.num_steps, config.train.value_schedule)


def scheduled_values(
    config: ml_collections.FrozenConfigDict, keys: Iterable[str], step: tf.Tensor | int
) -> dict[str, tf.Tensor]:
    """Returns the values, float32 scalars, of those keys that change, by their names without section; see `at`."""
    schedules = {key.split(".")[1]: schedule_of(config, key) for key in keys}
    return {name: schedule.at(step) for name, schedule in schedules.items() if schedule is not None}
