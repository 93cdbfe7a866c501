"""Dynamic masking: the tokens of a batch that the generator has to predict, drawn for each use of an example."""

import dataclasses

import ml_collections
import numpy as np
import tensorflow as tf

from electra_cli.data.source import DataSource
from electra_cli.modeling import features, randomness
from electra_cli.modeling.schedules import Schedule, schedule_of


@dataclasses.dataclass(frozen=True)
class MaskingSettings:
    """How examples are masked.

    Attributes:
      mask_prob: fraction of an example's real tokens that is masked (paper, section 3.1: 0.15; 0.25 for Large).
      max_predictions_per_seq: slots of an example, the most tokens that are masked.
      mask_token_prob: fraction of masked tokens shown as [MASK] (0.85 in google-research/electra,
        `pretrain_helpers.mask`; 0.8 in BERT, section 3.1).
      random_token_prob: fraction shown as a random token (0; 0.1 in BERT); the others keep their token.
      special_token_ids: never masked and never drawn: [CLS], [SEP], [PAD], [MASK].
      max_ngram: longest span that is masked as one, in units.
      continues_word: bool [vocab_size], tokens that belong to the unit of the token before; None: each token is a unit.
      uses_segmentation: whether `features.CONTINUES_WORD` decides the units instead.
      keeps_maskable: whether a batch gets `features.MASKABLE`.
      schedule: of `mask_prob` in training, where it changes.
    """

    mask_prob: float | tf.Tensor
    max_predictions_per_seq: int
    mask_token_prob: float
    mask_token_id: int
    special_token_ids: tuple[int, ...]
    vocab_size: int
    random_token_prob: float = 0.0
    max_ngram: int = 1
    continues_word: np.ndarray | None = None
    uses_segmentation: bool = False
    keeps_maskable: bool = False
    schedule: Schedule | None = None

    def at(self, step: tf.Tensor) -> "MaskingSettings":
        """Returns the settings of the step of training that follows `step` others (int64, scalar)."""
        return self if self.schedule is None else dataclasses.replace(self, mask_prob=self.schedule.at(step))


def masking_settings(config: ml_collections.FrozenConfigDict, source: DataSource) -> MaskingSettings:
    """Returns how a resolved config masks examples of this data."""
    vocabulary = source.vocabulary
    masks_words = config.data.mask_unit == "word"
    return MaskingSettings(
        mask_prob=config.data.mask_prob,
        schedule=schedule_of(config, "data.mask_prob"),
        max_predictions_per_seq=config.derived.max_predictions_per_seq,
        mask_token_prob=config.data.mask_token_prob,
        random_token_prob=config.data.random_token_prob,
        vocab_size=vocabulary.size,
        max_ngram=config.data.max_ngram,
        continues_word=vocabulary.continues_word if masks_words else None,
        uses_segmentation=masks_words and source.train.has_words,
        keeps_maskable=config.objective.name == "electric",
        mask_token_id=vocabulary.mask_id,
        special_token_ids=(vocabulary.pad_id, vocabulary.cls_id, vocabulary.sep_id, vocabulary.mask_id),
    )


def mask_batch(
    batch: dict[str, tf.Tensor],
    settings: MaskingSettings,
    masking_seed: tf.Tensor,
    sampling_seed: tf.Tensor,
    rows: tuple[int, int] | None = None,
) -> dict[str, tf.Tensor]:
    """Masks a batch.

    An example of n real tokens gets round(n x mask_prob) masked slots, at least 1, at most `max_predictions_per_seq`,
    and never more than it has tokens that may be masked. A unit of several tokens that does not fit into the rest is
    not masked, which may leave slots empty. Positions are drawn without replacement; google-research/electra draws with
    replacement: of its 19 draws at length 128 only about 17.7 are distinct.

    Args:
      batch: `features.UNMASKED`, int32 [batch, seq_length], and with `uses_segmentation` `features.CONTINUES_WORD`.
      masking_seed: int32 [2], decides positions and the tokens shown there.
      sampling_seed: int32 [2], decides `features.SAMPLING_UNIFORM`.
      rows: (first, total): mask as the rows from `first` on of a batch of `total` rows. None: the batch is complete.

    Returns:
      `features.MASKED`, `features.PACKED` if they are in the batch, and with `keeps_maskable` `features.MASKABLE`.
    """
    ids, mask = batch[features.INPUT_WORD_IDS], batch[features.INPUT_MASK]
    num_rows = tf.shape(ids)[0] if ids.shape[0] is None else ids.shape[0]
    length = ids.shape[1]
    slots = settings.max_predictions_per_seq
    first, total = rows or (0, num_rows)

    def draw(width: int, seed: tf.Tensor) -> tf.Tensor:
        return randomness.uniform((total, width), seed)[first : first + num_rows]

    is_candidate = tf.equal(mask, 1)
    for token_id in settings.special_token_ids:
        is_candidate &= tf.not_equal(ids, token_id)
    num_tokens = tf.cast(tf.reduce_sum(mask, axis=1), tf.float32)
    budget = tf.clip_by_value(tf.cast(tf.round(num_tokens * settings.mask_prob), tf.int32), 1, slots)

    unit_seed, span_seed, token_seed, random_seed = (randomness.fold_in(masking_seed, part) for part in range(4))
    starts = _unit_starts(batch, settings, is_candidate)
    if settings.max_ngram > 1:
        starts = _span_starts(starts, is_candidate, settings.max_ngram, draw(length, span_seed))
    is_chosen = _choose_units(starts, is_candidate, budget, draw(length, unit_seed))

    positions = tf.where(is_chosen, tf.range(length)[tf.newaxis, :], length)
    positions = tf.sort(positions, axis=1)[:, :slots]  # unused slots go last
    is_used = positions < length
    positions = tf.where(is_used, positions, 0)
    masked_lm_ids = tf.where(is_used, tf.gather(ids, positions, batch_dims=1), 0)

    draws = draw(length, token_seed)
    shows_random = is_chosen & (draws >= settings.mask_token_prob)
    shows_random &= draws < settings.mask_token_prob + settings.random_token_prob
    masked = tf.where(is_chosen & (draws < settings.mask_token_prob), settings.mask_token_id, ids)
    if settings.random_token_prob:
        masked = tf.where(shows_random, _random_tokens(settings, draw(length, random_seed)), masked)
    kept = {features.MASKABLE: tf.cast(is_candidate, tf.int32)} if settings.keeps_maskable else {}
    return {
        **{name: batch[name] for name in features.encoder_inputs(batch)},
        **kept,
        features.INPUT_WORD_IDS: masked,
        features.MASKED_LM_POSITIONS: positions,
        features.MASKED_LM_IDS: masked_lm_ids,
        features.MASKED_LM_WEIGHTS: tf.cast(is_used, tf.float32),
        features.SAMPLING_UNIFORM: draw(slots, sampling_seed),
    }


def _unit_starts(batch: dict[str, tf.Tensor], settings: MaskingSettings, is_candidate: tf.Tensor) -> tf.Tensor:
    """Returns bool [batch, seq_length], the first tokens of units that may be masked."""
    if settings.uses_segmentation:
        continues = tf.cast(batch[features.CONTINUES_WORD], tf.bool)
    elif settings.continues_word is not None:
        continues = tf.gather(tf.constant(settings.continues_word), batch[features.INPUT_WORD_IDS])
    else:
        return is_candidate
    # No unit reaches over a special token.
    follows_candidate = tf.pad(is_candidate[:, :-1], [[0, 0], [1, 0]])
    return is_candidate & ~(continues & follows_candidate)


def _span_starts(starts: tf.Tensor, is_candidate: tf.Tensor, max_ngram: int, draws: tf.Tensor) -> tf.Tensor:
    """Joins units, in order, to spans of 1 to `max_ngram`, a length n with a probability proportional to 1/n (ALBERT,
    arXiv 1909.11942, section 4.1). Spans end before special tokens."""
    shape = tf.shape(starts)
    weights = 1.0 / np.arange(1, max_ngram + 1)
    ends = tf.constant(np.cumsum(weights / weights.sum())[:-1], tf.float32)
    lengths = 1 + tf.searchsorted(ends, tf.reshape(draws, [-1]), side="right")
    span_begins = tf.cumsum(tf.reshape(lengths, shape), axis=1, exclusive=True)
    unit = tf.cumsum(tf.cast(starts, tf.int32), axis=1) - 1  # of each token, counted from 0
    # A unit begins a span when it is the first of one, or when a special token stands before it.
    span = tf.searchsorted(span_begins, unit, side="right")
    begins_span = tf.equal(tf.gather(span_begins, tf.maximum(span - 1, 0), batch_dims=1), unit)
    follows_candidate = tf.pad(is_candidate[:, :-1], [[0, 0], [1, 0]])
    return starts & (begins_span | ~follows_candidate)


def _choose_units(starts: tf.Tensor, is_candidate: tf.Tensor, budget: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Takes complete units in a random order, each that still fits into the budget, int32 [batch], of tokens.

    `starts`, first tokens, and `is_candidate`, all tokens, of units, draws in [0, 1), and result: [batch, seq_length].
    """
    length = starts.shape[1]
    unit = tf.cumsum(tf.cast(starts, tf.int32), axis=1) - 1
    unit = tf.where(is_candidate, unit, length)  # a bin of its own for all that belongs to no unit
    sizes = tf.math.bincount(unit, minlength=length + 1, maxlength=length + 1, axis=-1)[:, :length]
    sizes = tf.ensure_shape(sizes, starts.shape)  # which that operation forgets
    order = tf.argsort(tf.where(sizes > 0, draws, 2.0), axis=1)
    ordered_sizes = tf.gather(sizes, order, batch_dims=1)

    # The units up to the first that does not fit are taken at once; a pass for each such obstacle.
    def take_more(is_taken, left, _):
        fits = ~is_taken & (ordered_sizes > 0) & (ordered_sizes <= left[:, tf.newaxis])
        total = tf.cumsum(tf.where(fits, ordered_sizes, 0), axis=1)
        is_new = fits & (total <= left[:, tf.newaxis])
        left -= tf.reduce_sum(tf.where(is_new, ordered_sizes, 0), axis=1)
        return is_taken | is_new, left, tf.reduce_any(is_new)

    nothing = tf.zeros_like(starts)
    is_taken, _, _ = tf.while_loop(lambda *state: state[2], take_more, (nothing, budget, tf.constant(True)))
    rank = tf.argsort(order, axis=1)  # of each unit in the order
    is_taken = tf.gather(is_taken, rank, batch_dims=1)
    return is_candidate & tf.gather(is_taken, tf.minimum(unit, length - 1), batch_dims=1)


def _random_tokens(settings: MaskingSettings, draws: tf.Tensor) -> tf.Tensor:
    """Turns draws in [0, 1) into ids, int32, uniformly from the vocabulary without the special tokens."""
    allowed = np.setdiff1d(np.arange(settings.vocab_size, dtype=np.int32), settings.special_token_ids)
    index = tf.cast(draws * len(allowed), tf.int32)
    return tf.gather(tf.constant(allowed), tf.minimum(index, len(allowed) - 1))
