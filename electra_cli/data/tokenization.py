"""BERT's WordPiece tokenization: text in, ids out."""

from collections.abc import Sequence

from electra_cli.data.vocabulary import Vocabulary

# Added to an id, while data is prepared, of a token that belongs to the word of the token before it.
CONTINUES_WORD = 1 << 30


class Tokenizer:
    """Tokenizes as BERT does: clean, lower-case and strip accents when asked, split at punctuation, then into pieces.

    Text that happens to hold '[MASK]' or another special token is tokenized like any text.

    Args:
      vocabulary: the pieces.
      lower_case: whether to lower-case and strip accents (an 'uncased' vocabulary).
    """

    def __init__(self, vocabulary: Vocabulary, *, lower_case: bool):
        import tokenizers  # noqa: PLC0415  (help must not wait for it)
        from tokenizers import models, normalizers, pre_tokenizers  # noqa: PLC0415

        pieces = {token: index for index, token in enumerate(vocabulary.tokens)}
        self._tokenizer = tokenizers.Tokenizer(
            # Longer words are unknown: the limit of Hugging Face's tokenizers, which exported models meet.
            models.WordPiece(pieces, unk_token="[UNK]", max_input_chars_per_word=100)
        )
        self._tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    def encode_segmented_lines(self, lines: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each line; all but the first of what stands between two spaces carry `CONTINUES_WORD`."""
        words = [line.split() for line in lines]
        encodings = self._tokenizer.encode_batch(words, is_pretokenized=True, add_special_tokens=False)
        return [
            [
                token_id if word != before else token_id | CONTINUES_WORD
                for token_id, word, before in zip(
                    encoding.ids, encoding.word_ids, [None, *encoding.word_ids], strict=False
                )
            ]
            for encoding in encodings
        ]

    def encode_lines(self, lines: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each line, without special tokens."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(lines), add_special_tokens=False)]
