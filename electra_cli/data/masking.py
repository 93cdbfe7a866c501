"""Dynamic masking: which tokens of a batch the generator has to predict, drawn anew each time an example is seen."""

import dataclasses

import tensorflow as tf

from electra_cli import features, randomness


@dataclasses.dataclass(frozen=True)
class MaskingSettings:
    """How examples are masked.

    Attributes:
      mask_prob: fraction of an example's real tokens that is masked (paper, section 3.1: 0.15; 0.25 for Large).
      max_predictions_per_seq: slots of an example, the most tokens that are masked.
      mask_token_prob: fraction of the masked tokens that is shown as [MASK]; the others keep their token
        (0.85 in google-research/electra, `pretrain_helpers.mask`).
      mask_token_id: id of [MASK].
      special_token_ids: ids that are never masked: [CLS], [SEP], [PAD], [MASK].
    """

    mask_prob: float
    max_predictions_per_seq: int
    mask_token_prob: float
    mask_token_id: int
    special_token_ids: tuple[int, ...]


def mask_batch(
    batch: dict[str, tf.Tensor], settings: MaskingSettings, masking_seed: tf.Tensor, sampling_seed: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Masks a batch.

    Positions are drawn without replacement and uniformly over the tokens that may be masked. google-research/electra
    draws with replacement: of its 19 draws at length 128 only about 17.7 are distinct.

    Args:
      batch: `features.UNMASKED`, int32 [batch, seq_length].
      settings: how to mask.
      masking_seed: int32 [2], decides positions and which of them show [MASK].
      sampling_seed: int32 [2], decides `features.SAMPLING_UNIFORM`.

    Returns:
      `features.MASKED`. An example of n real tokens gets round(n x mask_prob) masked slots, at least 1 and at most
      `max_predictions_per_seq`, but never more than it has tokens that may be masked.
    """
    ids, mask = batch[features.INPUT_WORD_IDS], batch[features.INPUT_MASK]
    batch_size, length = tf.shape(ids)[0], ids.shape[1]
    slots = settings.max_predictions_per_seq

    is_candidate = tf.equal(mask, 1)
    for token_id in settings.special_token_ids:
        is_candidate &= tf.not_equal(ids, token_id)
    num_tokens = tf.cast(tf.reduce_sum(mask, axis=1), tf.float32)
    num_masked = tf.clip_by_value(tf.cast(tf.round(num_tokens * settings.mask_prob), tf.int32), 1, slots)
    num_masked = tf.minimum(num_masked, tf.reduce_sum(tf.cast(is_candidate, tf.int32), axis=1))

    position_seed, token_seed = randomness.fold_in(masking_seed, 0), randomness.fold_in(masking_seed, 1)
    scores = randomness.uniform((batch_size, length), position_seed)
    _, drawn = tf.math.top_k(tf.where(is_candidate, scores, -1.0), slots, sorted=True)
    is_used = tf.range(slots)[tf.newaxis, :] < num_masked[:, tf.newaxis]
    positions = tf.sort(tf.where(is_used, drawn, length), axis=1)  # unused slots go last
    positions = tf.where(is_used, positions, 0)
    masked_lm_ids = tf.where(is_used, tf.gather(ids, positions, batch_dims=1), 0)

    shows_mask = is_used & (randomness.uniform((batch_size, slots), token_seed) < settings.mask_token_prob)
    rows = tf.broadcast_to(tf.range(batch_size)[:, tf.newaxis], (batch_size, slots))
    hits = tf.scatter_nd(tf.stack([rows, positions], -1), tf.cast(shows_mask, tf.int32), (batch_size, length))
    return {
        **batch,
        features.INPUT_WORD_IDS: tf.where(hits > 0, settings.mask_token_id, ids),
        features.MASKED_LM_POSITIONS: positions,
        features.MASKED_LM_IDS: masked_lm_ids,
        features.MASKED_LM_WEIGHTS: tf.cast(is_used, tf.float32),
        features.SAMPLING_UNIFORM: randomness.uniform((batch_size, slots), sampling_seed),
    }
