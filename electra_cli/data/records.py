"""Parsing of TFRecords: those of electra-prepare, of google-research/electra, and of tf-models-official."""

import enum

import tensorflow as tf

from electra_cli import features

# The features of a batch that are filled with the id of [PAD]; all others are filled with 0.
PAD_FOR = (features.INPUT_WORD_IDS,)


class RecordFormat(enum.Enum):
    """Who wrote a TFRecord; the values are the features that tell."""

    ELECTRA_PRETRAIN = ("input_word_ids", "first_segment_length")
    # tf-models-official writes the old names of BERT unless told otherwise; masks tell it from google-research/electra.
    TF_MODELS_V1 = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions")
    TF_MODELS_V2 = ("input_word_ids", "input_mask", "input_type_ids", "masked_lm_positions")
    GOOGLE_ELECTRA = ("input_ids", "input_mask", "segment_ids")


def detect_format(serialized: bytes) -> tuple[RecordFormat | None, int]:
    """Returns the format of a serialized `tf.train.Example`, None when it is none of ours, and its number of ids."""
    example = tf.train.Example.FromString(serialized)
    names = example.features.feature
    for record_format in RecordFormat:
        if all(name in names for name in record_format.value):
            return record_format, len(names[record_format.value[0]].int64_list.value)
    return None, 0


def parse_records(
    serialized: tf.Tensor,
    record_format: RecordFormat,
    max_seq_length: int,
    pad_id: int,
    *,
    has_words: bool = False,
) -> dict[str, tf.Tensor]:
    """Parses serialized examples.

    Args:
      serialized: string [batch].
      record_format: who wrote them.
      max_seq_length: length to pad to.
      pad_id: id to pad with.
      has_words: whether records of electra-prepare hold `features.CONTINUES_WORD`.

    Returns:
      `features.UNMASKED` and, with `has_words`, `features.CONTINUES_WORD`; int32 [batch, max_seq_length].
    """
    if record_format is RecordFormat.ELECTRA_PRETRAIN:
        return _parse_electra_pretrain(serialized, max_seq_length, pad_id, has_words)
    names = record_format.value[:3]
    is_masked = record_format is not RecordFormat.GOOGLE_ELECTRA
    spec: dict[str, object] = {name: tf.io.FixedLenFeature([max_seq_length], tf.int64) for name in names}
    if is_masked:
        spec |= {name: tf.io.RaggedFeature(tf.int64) for name in ("masked_lm_positions", "masked_lm_ids")}
        spec["masked_lm_weights"] = tf.io.RaggedFeature(tf.float32)
    parsed = tf.io.parse_example(serialized, spec)
    batch = {ours: tf.cast(parsed[theirs], tf.int32) for ours, theirs in zip(features.UNMASKED, names, strict=True)}
    if is_masked:
        batch[features.INPUT_WORD_IDS] = _unmask(batch[features.INPUT_WORD_IDS], parsed)
    return batch


def _parse_electra_pretrain(
    serialized: tf.Tensor, max_seq_length: int, pad_id: int, has_words: bool
) -> dict[str, tf.Tensor]:
    ids_name, first_name = RecordFormat.ELECTRA_PRETRAIN.value
    spec = {ids_name: tf.io.RaggedFeature(tf.int64), first_name: tf.io.FixedLenFeature([], tf.int64)}
    if has_words:
        spec[features.CONTINUES_WORD] = tf.io.RaggedFeature(tf.int64)
    parsed = tf.io.parse_example(serialized, spec)
    ids = parsed[ids_name]
    padded = ids.to_tensor(default_value=tf.cast(pad_id, tf.int64), shape=[None, max_seq_length])
    lengths, first = tf.cast(ids.row_lengths(), tf.int64), parsed[first_name]
    places = tf.range(max_seq_length, dtype=tf.int64)[tf.newaxis, :]
    is_real = places < lengths[:, tf.newaxis]
    words = {}
    if has_words:
        flags = parsed[features.CONTINUES_WORD].to_tensor(shape=[None, max_seq_length])
        words[features.CONTINUES_WORD] = tf.cast(flags, tf.int32)
    return {
        **words,
        features.INPUT_WORD_IDS: tf.cast(padded, tf.int32),
        features.INPUT_MASK: tf.cast(is_real, tf.int32),
        features.INPUT_TYPE_IDS: tf.cast(is_real & (places >= first[:, tf.newaxis]), tf.int32),
    }


def _unmask(ids: tf.Tensor, parsed: dict[str, tf.RaggedTensor]) -> tf.Tensor:
    """Puts back the originals: tf-models-official masks when it writes, once and for all; here masks are drawn anew."""
    weights, positions = parsed["masked_lm_weights"], parsed["masked_lm_positions"]
    is_used = weights.flat_values > 0
    places = tf.stack([tf.cast(positions.value_rowids(), tf.int64), positions.flat_values], -1)
    originals = tf.cast(parsed["masked_lm_ids"].flat_values, tf.int32)
    return tf.tensor_scatter_nd_update(ids, tf.boolean_mask(places, is_used), tf.boolean_mask(originals, is_used))
