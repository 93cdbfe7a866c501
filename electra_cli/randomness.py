"""Seeds of everything random in a run: functions of (train.seed, stream, step), never of what ran before.

The generator is always Philox, so that the same seed gives the same masks on every kind of device.
"""

import enum

import tensorflow as tf

ALGORITHM = "philox"


class Stream(enum.IntEnum):
    """What a seed is for; no two uses share one."""

    SHARD_ORDER = 1
    EXAMPLE_ORDER = 2
    MASKING = 3
    SAMPLING = 4
    DROPOUT = 5
    EVAL_MASKING = 6
    EVAL_SAMPLING = 7


def fold_in(seed: tf.Tensor, data: tf.Tensor | int) -> tf.Tensor:
    """Returns a new seed, int32 or int64 [2], that follows from `seed` and the integer `data` (a scalar)."""
    return tf.random.experimental.stateless_fold_in(seed, data, alg=ALGORITHM)


def stream_seed(run_seed: int, stream: Stream, step: tf.Tensor | int) -> tf.Tensor:
    """Returns the seed int64 [2] of `stream` at `step` (int64, scalar) of the run with `train.seed == run_seed`."""
    return fold_in(tf.constant([run_seed, int(stream)], tf.int32), tf.cast(step, tf.int64))


def uniform(shape: tf.Tensor | list[int] | tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 numbers of the given shape, uniform in [0, 1), that follow from `seed`, int32 or int64 [2]."""
    return tf.random.stateless_uniform(shape, seed, alg=ALGORITHM)
