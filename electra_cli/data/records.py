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
    has_documents: bool = False,
) -> dict[str, tf.Tensor]:
    """Parses serialized examples.

    Args:
      serialized: string [batch].
      record_format: who wrote them.
      max_seq_length: length to pad to.
      pad_id: id to pad with.
      has_words: whether records of electra-prepare hold `features.CONTINUES_WORD`.
      has_documents: whether they hold `features.DOCUMENT_LENGTHS`.

    Returns:
      `features.UNMASKED`; with `has_words` also `features.CONTINUES_WORD`, with `has_documents` also `features.PACKED`;
      int32 [batch, max_seq_length].
    """
    if record_format is RecordFormat.ELECTRA_PRETRAIN:
        return _parse_electra_pretrain(serialized, max_seq_length, pad_id, has_words, has_documents)
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
    serialized: tf.Tensor, max_seq_length: int, pad_id: int, has_words: bool, has_documents: bool
) -> dict[str, tf.Tensor]:
    lengths_name = features.DOCUMENT_LENGTHS if has_documents else features.FIRST_SEGMENT_LENGTH
    names = [features.INPUT_WORD_IDS, lengths_name, *([features.CONTINUES_WORD] if has_words else [])]
    parsed = tf.io.parse_example(serialized, {name: tf.io.RaggedFeature(tf.int64) for name in names})
    ids = parsed[features.INPUT_WORD_IDS]
    padded = ids.to_tensor(default_value=tf.cast(pad_id, tf.int64), shape=[None, max_seq_length])
    lengths = tf.cast(ids.row_lengths(), tf.int64)
    places = tf.range(max_seq_length, dtype=tf.int64)[tf.newaxis, :]
    is_real = places < lengths[:, tf.newaxis]
    batch = {features.INPUT_WORD_IDS: padded, features.INPUT_MASK: is_real}
    if has_documents:
        batch[features.INPUT_TYPE_IDS] = tf.zeros_like(padded)
        batch |= _locate_documents(parsed[lengths_name], is_real)
    else:
        batch[features.INPUT_TYPE_IDS] = is_real & (places >= parsed[lengths_name].to_tensor(shape=[None, 1]))
    if has_words:
        batch[features.CONTINUES_WORD] = parsed[features.CONTINUES_WORD].to_tensor(shape=[None, max_seq_length])
    return {name: tf.cast(value, tf.int32) for name, value in batch.items()}


def _locate_documents(document_lengths: tf.RaggedTensor, is_real: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns `features.PACKED`, int64 [batch, seq_length].

    Args:
      document_lengths: int64 [batch, (documents)].
      is_real: bool [batch, seq_length].
    """
    lengths = document_lengths.to_tensor()
    ends = tf.cumsum(lengths, axis=1)
    places = tf.zeros_like(is_real, tf.int64) + tf.range(is_real.shape[1], dtype=tf.int64)
    index = tf.searchsorted(ends, places, side="right", out_type=tf.int64)
    starts = tf.gather(tf.pad(ends, [[0, 0], [1, 0]]), index, batch_dims=1)
    return {
        features.DOCUMENT_IDS: tf.where(is_real, index + 1, 0),
        features.POSITION_IDS: tf.where(is_real, places - starts, 0),
    }


def _unmask(ids: tf.Tensor, parsed: dict[str, tf.RaggedTensor]) -> tf.Tensor:
    """Puts back the originals: tf-models-official masks when it writes, once and for all; here masks are drawn anew."""
    weights, positions = parsed["masked_lm_weights"], parsed["masked_lm_positions"]
    is_used = weights.flat_values > 0
    places = tf.stack([tf.cast(positions.value_rowids(), tf.int64), positions.flat_values], -1)
    originals = tf.cast(parsed["masked_lm_ids"].flat_values, tf.int32)
    return tf.tensor_scatter_nd_update(ids, tf.boolean_mask(places, is_used), tf.boolean_mask(originals, is_used))
