"""Self-attention that keeps no [length, length] tensor, forward or backward: blocks of queries, computed again.

Only query, key and value are kept; the gradient computes the probabilities of a block again (FlashAttention, arXiv
2205.14135, section 3.1). A block of queries sees all of its keys at once, so that its softmax needs no running maximum,
and memory still grows in proportion to the length. With a window all blocks are computed together, each against the
keys about it; without one they follow each other in a loop.

The decisions of dropout follow from positions, and so are those of `fused.attention_probabilities`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from electra_cli.config.pretraining import BLOCK, MIN_HALF_WINDOW
from electra_cli.modeling import fused, randomness


class Segments(NamedTuple):
    """Which keys a query sees: those of its own segment, as far as `window` tokens away; None: at any distance.

    Segments are int32 [batch, length]. 0 is padding: what its queries see is not defined. `direction` is as of
    `layers.visible`.
    """

    queries: tf.Tensor
    keys: tf.Tensor
    window: int | None = None
    direction: int = 0


def attention(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    segments: Segments,
    scale: float,
    rate: float = 0.0,
    dropout_key: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns dropout(softmax(query x key x scale)) x value, of the dtype and shape of `query`.

    Args:
      query, key, value: [batch, heads, length, head_size]; all but the batch of known size.
      rate: of the probabilities that are dropped out.
      dropout_key: uint32 [2]; None: no dropout.
    """
    *locations, window, direction = segments
    keys = [] if dropout_key is None or rate == 0.0 else [dropout_key]

    @tf.custom_gradient
    def apply(query, key, value, query_segments, key_segments, *keys):
        length, segments = query.shape[2], (query_segments, key_segments)
        block = _Block(keys, scale, rate, length, length if window is None else window, direction)
        blocks = _InTurn(block, length) if window is None else _AtOnce(block, length, max(window, MIN_HALF_WINDOW))

        def backward(gradient):
            again = (_after(gradient, query), _after(gradient, key), _after(gradient, value))
            gradients = blocks.backward(*again, segments, gradient)
            return *(tf.cast(each, query.dtype) for each in gradients), *(None for _ in (*segments, *keys))

        return blocks.forward(query, key, value, segments), backward

    return apply(query, key, value, *locations, *keys)


def _after(gradient: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Returns `x`, as something that depends on `gradient`, [batch, heads, length, head_size].

    What is computed of it again is then not the same to a compiler as in the forward pass, of which it would keep it.
    """
    # The minimum is 0, which compilers cannot know.
    return x + tf.minimum(tf.abs(gradient[:1, :1, :1, :1]), 0)


class _Locations(NamedTuple):
    """Where queries and keys are: segments, int32 [batch, ..., n], and positions, int32 [n], from `begins` on.

    Of blocks `begins` is int32 [blocks]. Positions in the example would make a tensor of all queries and their keys,
    which TensorFlow would write as a literal.
    """

    query_segments: tf.Tensor
    key_segments: tf.Tensor
    query_positions: tf.Tensor
    key_positions: tf.Tensor
    begins: tf.Tensor


class _Block:
    """Attention of queries to the keys that they may see, both of [batch, heads, ..., n, head_size]."""

    def __init__(
        self, dropout_keys: Sequence[tf.Tensor], scale: float, rate: float, length: int, window: int, direction: int
    ):
        self._dropout_keys, self._scale, self._rate = dropout_keys, scale, rate if dropout_keys else 0.0
        self._constants = {"length": length, "window": window, "direction": direction}

    def forward(self, query, key, value, locations: _Locations):
        """Returns what the queries see."""
        return tf.matmul(self._attend(query, key, locations)[1], value)

    def backward(self, query, key, value, locations: _Locations, gradient):
        """Returns the gradients of query, key and value."""
        probabilities, dropped = self._attend(query, key, locations)
        inner = tf.matmul(gradient, value, transpose_b=True)
        inner = fused.scores_gradient(probabilities, dropped, inner, self._scale, self._rate)
        of_key = tf.matmul(inner, query, transpose_a=True)
        return tf.matmul(inner, key), of_key, tf.matmul(dropped, gradient, transpose_a=True)

    def _attend(self, query, key, locations):
        scores = tf.matmul(query, key, transpose_b=True)
        constants = {"scale": self._scale, "rate": self._rate, **self._constants}
        return _probabilities(scores, *locations, *self._dropout_keys, **constants)


@fused.jit_region
def _probabilities(scores, query_segments, key_segments, query_positions, key_positions, begins, *keys,
                   scale, rate, length, window, direction):  # fmt: skip
    """Returns probabilities before and after dropout, of the dtype of `scores` [batch, heads, ..., queries, keys]."""
    query_positions, begins = query_positions[:, tf.newaxis], begins[..., tf.newaxis, tf.newaxis]
    is_seen = tf.equal(query_segments[..., tf.newaxis], key_segments[..., tf.newaxis, :])
    distances = query_positions - key_positions
    is_seen &= (tf.abs(distances) <= window) & (direction * distances >= 0)
    probabilities = dropped = tf.nn.softmax(
        fused.widen(scores) * scale + tf.where(is_seen, 0.0, fused.PADDING_SCORE)[:, tf.newaxis]
    )
    if keys:
        batch, heads = tf.shape(scores)[0], scores.shape[1]
        examples = tf.reshape(tf.range(batch * heads) * length, [batch, heads] + [1] * (len(scores.shape) - 2))
        indices = tf.cast((examples + begins + query_positions) * length + begins + key_positions, tf.uint32)
        dropped = fused.drop(probabilities, randomness.hash_at(indices, keys[0]), rate)
    return tf.cast(probabilities, scores.dtype), tf.cast(dropped, scores.dtype)


class _AtOnce:
    """All blocks of queries together, each with the keys in it and in half a block on both sides."""

    def __init__(self, block: _Block, length: int, half: int):
        self._block, self._length, self._half, self._size = block, length, half, 2 * half
        self._number = -(-length // self._size)

    def forward(self, query, key, value, segments):
        """Returns what the queries see."""
        locations = self._locations(*segments)
        return self._join(self._block.forward(self._divide(query), self._around(key), self._around(value), locations))

    def backward(self, query, key, value, segments, gradient):
        """Returns the gradients of query, key and value."""
        own, *around = self._block.backward(
            self._divide(query),
            self._around(key),
            self._around(value),
            self._locations(*segments),
            self._divide(gradient),
        )
        return self._join(own), *(self._join_around(each) for each in around)

    def _locations(self, query_segments, key_segments):
        def apply(divide, tokens):  # [batch, length], as if of one head and one number each
            return divide(tokens[:, tf.newaxis, :, tf.newaxis])[:, 0, ..., 0]

        return _Locations(
            apply(self._divide, query_segments),
            apply(self._around, key_segments),
            tf.range(self._size),
            tf.range(2 * self._size) - self._half,
            tf.range(self._number) * self._size,
        )

    def _divide(self, x, before=0):
        """Returns blocks [batch, heads, blocks, size, n] of [batch, heads, length, n]; one more if padded before."""
        number = self._number + (before > 0)
        after = number * self._size - before - self._length
        padded = tf.pad(x, [[0, 0], [0, 0], [before, after], [0, 0]])
        return tf.reshape(padded, [-1, x.shape[1], number, self._size, x.shape[3]])

    def _join(self, x, before=0):
        """Undoes `_divide`."""
        joined = tf.reshape(x, [-1, x.shape[1], x.shape[2] * self._size, x.shape[4]])
        return joined[:, :, before : before + self._length]

    def _around(self, x):
        """Returns the tokens in and about each block, [batch, heads, blocks, 2 x size, n]."""
        parts = self._divide(x, self._half)
        return tf.concat([parts[:, :, :-1], parts[:, :, 1:]], axis=3)

    def _join_around(self, x):
        """Adds up what `_around` repeats."""
        first, second = tf.split(x, 2, axis=3)
        none = tf.zeros_like(first[:, :, :1])
        return self._join(tf.concat([first, none], axis=2) + tf.concat([none, second], axis=2), self._half)


class _InTurn:
    """One block of queries after the other, each with all keys."""

    def __init__(self, block: _Block, length: int):
        self._block, self._length, self._size = block, length, min(BLOCK, length)
        self._number = -(-length // self._size)

    def forward(self, query, key, value, segments):
        """Returns what the queries see."""

        def compute(inputs):
            own, own_segments, positions = inputs
            return self._block.forward(own, key, value, self._locations(own_segments, positions, segments[1]))

        inputs = self._divide(query), *self._query_locations(segments[0])
        return self._join(tf.map_fn(compute, inputs, fn_output_signature=self._signature(query), parallel_iterations=1))

    def backward(self, query, key, value, segments, gradient):
        """Returns the gradients of query, key and value."""
        inputs = self._divide(query), self._divide(gradient), *self._query_locations(segments[0])

        def compute(index, outputs, *totals):
            own, of_output, own_segments, positions = (each[index] for each in inputs)
            locations = self._locations(own_segments, positions, segments[1])
            result, *others = self._block.backward(own, key, value, locations, of_output)
            added = (total + tf.cast(other, tf.float32) for total, other in zip(totals, others, strict=True))
            return index + 1, outputs.write(index, result), *added

        outputs = tf.TensorArray(query.dtype, self._number, element_shape=self._signature(query).shape)
        zeros = tf.zeros_like(key, tf.float32)
        state = (tf.constant(0), outputs, zeros, zeros)
        _, outputs, *totals = tf.while_loop(
            lambda index, *_: index < self._number, compute, state, parallel_iterations=1
        )
        return self._join(outputs.stack()), *totals

    def _signature(self, query):
        return tf.TensorSpec([query.shape[0], query.shape[1], self._size, query.shape[3]], query.dtype)

    def _query_locations(self, query_segments):
        segments = self._divide(query_segments[:, tf.newaxis, :, tf.newaxis])[:, :, 0, :, 0]
        return segments, tf.reshape(tf.range(self._number * self._size), [self._number, self._size])

    def _locations(self, query_segments, query_positions, key_segments):
        return _Locations(query_segments, key_segments, query_positions, tf.range(self._length), tf.constant(0))

    def _divide(self, x):
        """Returns blocks [blocks, batch, heads, size, n] of [batch, heads, length, n]."""
        padded = tf.pad(x, [[0, 0], [0, 0], [0, self._number * self._size - self._length], [0, 0]])
        blocks = tf.reshape(padded, [-1, x.shape[1], self._number, self._size, x.shape[3]])
        return tf.transpose(blocks, [2, 0, 1, 3, 4])

    def _join(self, x):
        """Undoes `_divide`."""
        joined = tf.transpose(x, [1, 2, 0, 3, 4])
        return tf.reshape(joined, [-1, x.shape[2], self._number * self._size, x.shape[4]])[:, :, : self._length]
