"""From the generator's logits to the corrupted batch that the discriminator sees, and its labels."""

import math

import tensorflow as tf

from electra_cli.modeling import features


def sample_tokens(
    logits: tf.Tensor, uniform: tf.Tensor, disallowed_ids: tf.Tensor | None = None, temperature: float = 1.0
) -> tf.Tensor:
    """Samples one token a slot from softmax(logits / temperature), by inverting the cumulative distribution.

    One uniform number decides a slot, so that the sample belongs to the example and not to the replica that draws it.
    The cumulative sum runs over blocks of about sqrt(vocab_size) entries and then within one block, so that float32
    sums stay short and nothing but the weights has the logits' size.

    Args:
      logits: float [batch, num_token_predictions, vocab_size].
      uniform: float32 [batch, num_token_predictions], in [0, 1).
      disallowed_ids: int [batch, num_token_predictions], an id at each slot that must not be drawn; None: all may.
      temperature: greater than 0; 1 samples from the generator's distribution, more from a flatter one.

    Returns:
      int32 [batch, num_token_predictions]. No gradient flows through it.
    """
    vocab_size = logits.shape[-1]
    block_size = math.ceil(math.sqrt(vocab_size))
    num_blocks = math.ceil(vocab_size / block_size)
    # Padded first: what follows can work in place then, in this one copy of the logits.
    padding = [[0, 0]] * (len(logits.shape) - 1) + [[0, num_blocks * block_size - vocab_size]]
    logits = tf.stop_gradient(tf.cast(logits, tf.float32))
    logits = tf.pad(logits, padding, constant_values=-math.inf)
    if temperature != 1.0:
        logits /= temperature
    if disallowed_ids is not None:
        places = tf.range(num_blocks * block_size)
        is_disallowed = tf.equal(places, tf.cast(disallowed_ids, tf.int32)[..., tf.newaxis])
        logits = tf.where(is_disallowed, -math.inf, logits)
    weights = tf.exp(logits - tf.reduce_max(logits, axis=-1, keepdims=True))
    blocks = tf.reshape(weights, [*tf.unstack(tf.shape(logits)[:-1]), num_blocks, block_size])
    block_ends = tf.cumsum(tf.reduce_sum(blocks, axis=-1), axis=-1)
    threshold = tf.cast(uniform, tf.float32) * block_ends[..., -1]
    block = _first_above(block_ends, threshold)
    before = tf.reduce_sum(
        tf.where(tf.equal(tf.range(num_blocks), block[..., tf.newaxis] - 1), block_ends, 0.0), axis=-1
    )
    ends = tf.cumsum(tf.gather(blocks, block, batch_dims=2), axis=-1)
    return block * block_size + _first_above(ends, tf.maximum(threshold - before, 0.0))


def _first_above(ends: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Returns int32 [...], the first place in ascending `ends` [..., n] that is greater than `threshold` [...].

    Where rounding puts the threshold at or above the last end, the place where that end is first reached.
    """
    below = tf.minimum(threshold, tf.math.nextafter(ends[..., -1], -1.0))[..., tf.newaxis]
    return tf.reduce_sum(tf.cast(ends <= below, tf.int32), axis=-1)


def put_at_positions(sequence: tf.Tensor, positions: tf.Tensor, values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Writes `values` into `sequence` at `positions`.

    Args:
      sequence: int32 [batch, seq_length].
      positions: int [batch, n]; any position may be written, 0 too. Of values for one position the greatest is taken.
      values: int [batch, n], none negative.
      weights: float [batch, n]; slots of weight 0 write nothing.

    Returns:
      int32 [batch, seq_length].
    """
    places = tf.range(sequence.shape[1])[tf.newaxis, tf.newaxis, :]
    hits = tf.equal(tf.cast(positions, tf.int32)[..., tf.newaxis], places) & (weights > 0)[..., tf.newaxis]
    # A comparison and a maximum instead of a scatter: exact and reproducible on every device, and static for XLA.
    written = tf.reduce_max(tf.where(hits, tf.cast(values, tf.int32)[..., tf.newaxis], -1), axis=1)
    return tf.where(written >= 0, written, sequence)


def corrupt(inputs: dict[str, tf.Tensor], sampled_ids: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Replaces the masked tokens of a batch by sampled ones.

    Args:
      inputs: dict with `features.UNMASKED`, `features.PACKED` or not, and `masked_lm_{positions,ids,weights}`.
      sampled_ids: int32 [batch, num_token_predictions].

    Returns:
      (what an encoder needs of the corrupted batch, labels int32 [batch, seq_length]: 1 where a token differs from the
      original).
    """
    positions, weights = inputs[features.MASKED_LM_POSITIONS], inputs[features.MASKED_LM_WEIGHTS]
    masked_ids = tf.cast(inputs[features.INPUT_WORD_IDS], tf.int32)
    original_ids = put_at_positions(masked_ids, positions, inputs[features.MASKED_LM_IDS], weights)
    corrupted_ids = put_at_positions(original_ids, positions, sampled_ids, weights)
    corrupted = {name: inputs[name] for name in features.encoder_inputs(inputs)}
    corrupted[features.INPUT_WORD_IDS] = corrupted_ids
    return corrupted, tf.cast(tf.not_equal(corrupted_ids, original_ids), tf.int32)
