"""Seeds of everything random in a run: functions of (train.seed, stream, step), never of what ran before.

The generator is always Philox, so that the same seed gives the same masks on every kind of device.
"""

import enum

import tensorflow as tf

ALGORITHM = "philox"
# Between the hashed numbers of neighbours: 2^32 over the golden ratio, which puts them far apart.
_STRIDE = 0x9E3779B9
# Of the way in which the masks of dropout follow from a seed; a run that is resumed across versions reports it.
DROPOUT_VERSION = 2


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


def stream_seed(run_seed: tf.Tensor | int, stream: Stream, step: tf.Tensor | int) -> tf.Tensor:
    """Returns the seed int64 [2] of `stream` at `step` (int64, scalar) of the run with `train.seed == run_seed`."""
    return fold_in(tf.stack([tf.cast(run_seed, tf.int32), int(stream)]), tf.cast(step, tf.int64))


def uniform(shape: tf.Tensor | list[int] | tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 numbers of the given shape, uniform in [0, 1), that follow from `seed`, int32 or int64 [2]."""
    return tf.random.stateless_uniform(shape, seed, alg=ALGORITHM)


def draw_keys(seed: tf.Tensor, count: int) -> tf.Tensor:
    """Returns keys for `hash_bits`, uint32 [count, 2], that follow from `seed`, int32 or int64 [2], by one Philox."""
    return tf.random.stateless_uniform([count, 2], seed, minval=None, maxval=None, dtype=tf.uint32, alg=ALGORITHM)


def hash_bits(shape: tf.Tensor | list[int], key: tf.Tensor) -> tf.Tensor:
    """Returns uint32 numbers of the given shape (fewer than 2**32), each a hash of its index and of `key`, uint32 [2].

    Good enough for dropout, where most of a step's numbers go, and some ten integer operations that fuse with what uses
    them; Philox takes six times as long. Keys must be random (`draw_keys`), since those of similar bits give similar
    sequences. The mixer is the best of two rounds by hash-prospector (https://github.com/skeeto/hash-prospector), with
    the second number of the key added between the rounds, so that no two keys give shifted sequences.
    """
    # The index times a constant, axis by axis: TensorFlow would compute a range of all when it traces, and keep it.
    x, stride = key[0], tf.constant(_STRIDE, tf.uint32)
    for axis, size in enumerate(reversed(tf.unstack(shape))):
        indices = tf.cast(tf.range(size), tf.uint32) * stride
        x += tf.reshape(indices, [-1] + [1] * axis)
        stride *= tf.cast(size, tf.uint32)
    return _mix(x, key[1])


def hash_at(indices: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Returns the numbers that `hash_bits` has at flat indices, uint32 of any shape."""
    return _mix(key[0] + indices * tf.constant(_STRIDE, tf.uint32), key[1])


def _mix(x: tf.Tensor, second_key: tf.Tensor) -> tf.Tensor:
    def shifted(x: tf.Tensor, shift: int) -> tf.Tensor:
        return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32)))

    x = shifted(x, 16) * tf.constant(0x21F0AAAD, tf.uint32) + second_key
    x = shifted(x, 15) * tf.constant(0xD35A2D97, tf.uint32)
    return shifted(x, 15)
