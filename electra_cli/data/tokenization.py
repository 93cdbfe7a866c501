"""BERT's WordPiece tokenization: text in, ids out.

Two libraries work together. `tokenizers` computes what BERT's own tokenizer does, on any text. FastBertTokenizer of
tensorflow-text is several times as fast, but folds some characters otherwise (NFKC and full case folding); it takes the
lines that hold none of these.
"""

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from electra_cli.data import bert_characters
from electra_cli.data.vocabulary import Vocabulary

# Added to an id, while data is prepared, of a token that belongs to the word of the token before it.
CONTINUES_WORD = 1 << 30
# Longer words are unknown: the limit of Hugging Face's tokenizers, which exported models meet.
_MAX_WORD_LENGTH = 100


class Tokenizer:
    """Tokenizes as BERT does: clean, lower-case and strip accents when asked, split at punctuation, then into pieces.

    Text that happens to hold '[MASK]' or another special token is tokenized like any text.

    Args:
      vocabulary: the pieces.
      lower_case: whether to lower-case ('uncased').
      strip_accents: whether to strip accents; None: as `lower_case` says, which is BERT's choice.
      use_fast: whether to take tensorflow-text where it gives the same. Its import takes seconds, so it pays from some
        tens of megabytes on.
    """

    def __init__(
        self, vocabulary: Vocabulary, *, lower_case: bool, strip_accents: bool | None = None, use_fast: bool = False
    ):
        import tokenizers  # noqa: PLC0415  (help must not wait for it)
        from tokenizers import models, normalizers, pre_tokenizers  # noqa: PLC0415

        pieces = {token: index for index, token in enumerate(vocabulary.tokens)}
        self._tokenizer = tokenizers.Tokenizer(
            models.WordPiece(pieces, unk_token="[UNK]", max_input_chars_per_word=_MAX_WORD_LENGTH)
        )
        self._tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower_case, strip_accents=strip_accents)
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._fast: Any = None
        if use_fast and _LINE_END not in pieces:
            self._fast = _build_fast((*vocabulary.tokens, _LINE_END), lower_case)
            self._line_end_id = vocabulary.size
            # tensorflow-text lower-cases and strips accents, or neither; in ASCII there are no accents.
            is_ascii_only = strip_accents not in (None, lower_case)
            self._is_alike = re.compile(_ASCII if is_ascii_only else _character_class(lower_case)).fullmatch

    def encode_lines(self, lines: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each line, without special tokens."""
        if self._fast is None:
            return self._encode_exactly(lines)
        is_fast = [self.is_alike(line) for line in lines]
        ids: list[list[int]] = [[]] * len(lines)
        for choice, encode in ((True, self._encode_fast), (False, self._encode_exactly)):
            chosen = [index for index, fast in enumerate(is_fast) if fast == choice]
            if chosen:
                for index, line_ids in zip(chosen, encode([lines[index] for index in chosen]), strict=True):
                    ids[index] = line_ids
        return ids

    def is_alike(self, line: str) -> bool:
        """Whether both libraries give the same ids for a line: it has only such characters and no word that is long.

        Words are bounded before they are normalized, and accents that become characters of their own (Hangul: three)
        lengthen them.
        """
        if line.isascii() and line.isprintable():
            return len(line) <= _MAX_WORD_LENGTH or _has_space_everywhere(line)
        if _LINE_END in line or self._is_alike(line) is None:
            return False
        return _LONG_WORD.search(line) is None

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

    def _encode_exactly(self, lines: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(lines), add_special_tokens=False)]

    def _encode_fast(self, lines: Sequence[str]) -> list[list[int]]:
        # One text, with a word between the lines that stands nowhere else: a call for each line takes twice the time.
        ids = self._fast.tokenize([f" {_LINE_END} ".join((*lines, ""))]).flat_values.numpy()
        ends = np.flatnonzero(ids == self._line_end_id)
        ids = ids.tolist()
        return [ids[begin + 1 : end] for begin, end in itertools.pairwise((-1, *ends.tolist()))]


# A word that no vocabulary has, of letters that both cases leave alone.
_LINE_END = "\u1401\u1402\u1403\u1404\u1405\u1406\u1407"
_ASCII = r"[\t -~]*"
# Ideographs are words of their own, however many stand together.
_LONG_WORD = re.compile(rf"[^\s!-/:-@\[-`{{-~\u3000-\u303f\u3400-\u9fff\uff00-\uffef]{{{_MAX_WORD_LENGTH // 3 + 1}}}")


def _has_space_everywhere(line: str) -> bool:
    """Whether no word of `line` is longer than `_MAX_WORD_LENGTH`."""
    begin = 0  # of the first word that was not looked at
    while begin + _MAX_WORD_LENGTH < len(line):
        space = line.rfind(" ", begin, begin + _MAX_WORD_LENGTH + 1)
        if space < 0:
            return False
        begin = space + 1
    return True


def _character_class(lower_case: bool) -> str:
    """Returns a regular expression of text that both tokenizers treat alike."""
    words = (bert_characters.UNCASED if lower_case else bert_characters.CASED).split()
    ranges = [[chr(int(point, 16)) for point in word.split("-")] for word in words]
    return rf"[\t{''.join('-'.join(map(re.escape, ends)) for ends in ranges)}]*"


def _build_fast(tokens: Sequence[str], lower_case: bool) -> Any:
    import tensorflow as tf  # noqa: PLC0415  (takes seconds)
    import tensorflow_text  # noqa: PLC0415

    return tensorflow_text.FastBertTokenizer(
        list(tokens),
        lower_case_nfd_strip_accents=lower_case,
        max_bytes_per_word=4 * 3 * _MAX_WORD_LENGTH,  # `is_alike` keeps longer words away
        support_detokenization=False,
        token_out_type=tf.int32,
    )
