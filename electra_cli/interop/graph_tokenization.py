"""Tokenization in the graph of a SavedModel: strings in, ids out, by operations of TensorFlow and tensorflow-text.

WordPiece follows `tokenizers`' BertNormalizer and BertPreTokenizer, which training uses, step by step. One difference
is left: `tokenizers` knows Unicode 8 of 2015, TensorFlow a newer version, so that later marks, punctuation and control
characters are letters to the former only: 115 of the 63,487 characters of the Basic Multilingual Plane in lower case,
36 otherwise, the rarest of Arabic, Indic and medieval signs.
"""

import tensorflow as tf
import tensorflow_text as tf_text

from electra_cli.data.tokenization import TokenizerSettings

# Dropped: what Unicode calls "other", but for tab, line feed and carriage return; U+FFFD (BertNormalizer: clean_text).
_CONTROL = r"[\x{0}-\x{8}\x{B}\x{C}\x{E}-\x{1F}\x{7F}-\x{9F}\p{Cf}\p{Co}\x{FFFD}]"
_SPACE = r"[\t\n\r\p{Z}]+"
_PUNCTUATION = r"[!-/:-@\[-`{-~\p{P}]"
# BertNormalizer: handle_chinese_chars.
_CHINESE = (
    r"[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}\x{2B740}-\x{2B81F}"
    r"\x{2B920}-\x{2CEAF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}]"
)
# Cleaning drops it, so that no text has it and its only piece is [UNK].
_UNKNOWN_WORD = "\ufffd"


class GraphTokenizer(tf.Module):
    """Text to ids, as `runs.encode_texts` makes them.

    Args:
      vocab_file: becomes an asset of the SavedModel.
      max_length: tokens of a row, [CLS] and [SEP] included; longer texts are cut.
    """

    def __init__(self, settings: TokenizerSettings, vocab_file: str, max_length: int):
        super().__init__()
        vocabulary = settings.vocabulary
        self._rules, self._max_length = settings.rules, max_length
        self._cls_id, self._sep_id = vocabulary.cls_id, vocabulary.sep_id
        self._mask_id, self._pad_id = vocabulary.mask_id, vocabulary.pad_id
        whole_line, line_number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        self._ids = tf.lookup.StaticVocabularyTable(
            tf.lookup.TextFileInitializer(vocab_file, tf.string, whole_line, tf.int64, line_number), num_oov_buckets=1
        )
        self._tokens = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(vocab_file, tf.int64, line_number, tf.string, whole_line), "[UNK]"
        )
        self._sentencepiece = None
        if settings.model_file:
            with tf.io.gfile.GFile(settings.model_file, "rb") as stream:
                self._sentencepiece = tf_text.SentencepieceTokenizer(stream.read(), out_type=tf.int32)
        else:
            self._wordpiece = tf_text.WordpieceTokenizer(
                self._ids,
                max_bytes_per_word=4 * settings.rules.max_word_length,
                token_out_type=tf.int32,
                unknown_token="[UNK]",
            )

    def __call__(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns int32 [batch, longest] `input_word_ids`, `input_mask` and `input_type_ids` of strings [batch]."""
        # Text between two [MASK] is tokenized by itself, as in `encode_texts`.
        parts = tf.strings.split(texts, "[MASK]")
        ids = parts.with_values(self._encode(parts.values))
        starts = tf.gather(parts.row_splits, parts.value_rowids())
        num_masks = tf.cast(tf.range(tf.shape(parts.values, tf.int64)[0]) != starts, tf.int64)  # before each part
        masks = tf.RaggedTensor.from_row_lengths(tf.fill([tf.reduce_sum(num_masks)], self._mask_id), num_masks)
        rows = parts.with_values(tf.concat([masks, ids.values], axis=1)).merge_dims(1, 2)
        return self._assemble(rows[:, : self._max_length - 2])

    def encode_pairs(self, texts: tf.Tensor, second_texts: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Returns what `finetuning.sequences` makes of one or two strings [batch], int32 [batch, longest].

        '[MASK]' is text like any other here, and of two that are too long the longer one is cut.
        """
        first = self._encode(texts)
        if second_texts is None:
            return self._assemble(first[:, : self._max_length - 2])
        second, room = self._encode(second_texts), self._max_length - 3
        num_first, num_second = first.row_lengths(), second.row_lengths()
        kept = tf.minimum(num_first, tf.maximum(room - num_second, (room + 1) // 2))
        kept = tf.where(num_first + num_second <= room, num_first, kept)
        return self._assemble(_first_of(first, kept), _first_of(second, room - kept))

    def _assemble(self, first: tf.RaggedTensor, second: tf.RaggedTensor | None = None) -> dict[str, tf.Tensor]:
        """Returns rows of [CLS] first [SEP] second [SEP], padded."""
        ends = tf.ones([first.nrows(), 1], tf.int32)
        rows = tf.concat([ends * self._cls_id, first, ends * self._sep_id], axis=1)
        type_ids = tf.zeros_like(rows)
        if second is not None:
            behind = tf.concat([second, ends * self._sep_id], axis=1)
            rows, type_ids = tf.concat([rows, behind], axis=1), tf.concat([type_ids, tf.ones_like(behind)], axis=1)
        return {
            "input_word_ids": rows.to_tensor(self._pad_id),
            "input_mask": tf.ones_like(rows).to_tensor(0),
            "input_type_ids": type_ids.to_tensor(0),
        }

    def tokens_of(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the tokens of ids of any shape."""
        return self._tokens.lookup(tf.cast(ids, tf.int64))

    def _encode(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Returns int32 [batch, (tokens)] without special tokens."""
        if self._sentencepiece is not None:
            return self._sentencepiece.tokenize(texts)
        words = tf_text.regex_split(
            self._normalize(texts),
            delim_regex_pattern=f"{_SPACE}|{_PUNCTUATION}",
            keep_delim_regex_pattern=_PUNCTUATION,
        )
        lengths = tf.strings.length(words.values, unit="UTF8_CHAR")
        words = words.with_values(tf.where(lengths > self._rules.max_word_length, _UNKNOWN_WORD, words.values))
        return self._wordpiece.tokenize(words).merge_dims(1, 2)

    def _normalize(self, texts: tf.Tensor) -> tf.Tensor:
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")  # invalid bytes become U+FFFD
        texts = tf.strings.regex_replace(texts, _CONTROL, "")
        # Before accents are removed, which turns compatibility ideographs into others.
        if self._rules.tokenize_chinese_chars:
            texts = tf.strings.regex_replace(texts, f"({_CHINESE})", r" \1 ")
        if self._rules.strips_accents:
            texts = tf_text.normalize_utf8(texts, "NFD")
            texts = tf.strings.regex_replace(texts, r"\p{Mn}", "")
        if self._rules.lower_case:
            # `tokenizers` lower-cases each character by itself; ICU makes a sigma at the end of a word a final one.
            texts = tf.strings.regex_replace(texts, "\u03a3", "\u03c3")
            texts = tf.strings.lower(texts, encoding="utf-8")
        return texts


def _first_of(rows: tf.RaggedTensor, numbers: tf.Tensor) -> tf.RaggedTensor:
    """Returns as many of each row's first values as `numbers` [rows], or all."""
    return tf.ragged.boolean_mask(rows, tf.ragged.range(rows.row_lengths()) < numbers[:, tf.newaxis])
