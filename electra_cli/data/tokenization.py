"""BERT's WordPiece tokenization: text in, ids out, exactly those of the `tokenizers` package, several times as fast.

BERT tokenizes the text between two spaces independently of the rest. This asks `tokenizers` once for each different
piece of text and remembers the answer: some 20 requests for a thousand words of English prose.
"""

import dataclasses
import functools
import itertools
import json
import os
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from electra_cli import files
from electra_cli.data import model_tokenizers
from electra_cli.data.model_tokenizers import ByteLevelTokenizer, SentencePieceTokenizer, is_model
from electra_cli.data.spool import CONTINUES_WORD
from electra_cli.data.tfrecords import SENTENCEPIECE_FILE, TOKENIZER_FILE, VOCAB_FILE, Manifest, find_manifest
from electra_cli.data.vocabulary import (
    BYTE_WORD_BEGIN,
    TOKENIZER_CONFIG_FILE,
    Vocabulary,
    WordRules,
    guess_rules,
    read_rules,
)
from electra_cli.errors import Option, UserError

# Answers remembered before all are forgotten, some 200 bytes each, and the longest text that has one: lines of Chinese
# have no spaces.
_MAX_REMEMBERED, _LONGEST_REMEMBERED = 2**20, 32
_MANY_LINES = 1000  # of which pyarrow's import and calls are worth their time
# BERT splits ASCII text at all that is neither letter nor digit.
_ascii_parts = re.compile("[0-9A-Za-z]+|[^0-9A-Za-z]").findall
_ASCII = bytes(range(128))
_Value = TypeVar("_Value")


class _Remembered(dict[str, _Value]):
    """What a function returns for texts, most of which are words."""

    def __init__(self, function: Callable[[str], _Value]):
        super().__init__()
        self._function = function

    def __missing__(self, text: str) -> _Value:
        value = self._function(text)
        if len(text) <= _LONGEST_REMEMBERED:
            if len(self) >= _MAX_REMEMBERED:
                self.clear()
            self[text] = value
        return value


class Tokenizer:
    """Tokenizes as BERT does: clean, lower-case and strip accents when asked, split at punctuation, then into pieces.
    Text that happens to hold '[MASK]' or another special token is tokenized like any text.

    Args:
      keeps_words: whether all but the first token between two spaces carry `CONTINUES_WORD`.
    """

    def __init__(self, vocabulary: Vocabulary, rules: WordRules, *, keeps_words: bool = False):
        import tokenizers  # noqa: PLC0415  (help must not wait for it)
        from tokenizers import models, pre_tokenizers  # noqa: PLC0415

        tokenizer = tokenizers.Tokenizer(
            models.WordPiece(
                {token: index for index, token in enumerate(vocabulary.tokens)},
                unk_token="[UNK]",
                max_input_chars_per_word=rules.max_word_length,
            )
        )
        tokenizer.normalizer = rules.normalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._tokenizer = tokenizer
        self._unk_id = vocabulary.unk_id
        self.rules = rules
        self._remembered = _Remembered(self._encode_text)
        self._keeps_words = keeps_words
        self._unknown: dict[str, list[str]] | None = None  # by text without spaces, its words that are [UNK]
        self._long_unknown: list[str] = []  # those of its keys that are not remembered

    def encode(self, line: str) -> array:
        """Returns the ids of a line, array of 'I' (uint32), without special tokens."""
        encode_text = self._encode_word if self._keeps_words else self._remembered.__getitem__
        return array("I", b"".join(map(encode_text, self._split(line))))

    def _split(self, line: str) -> list[str]:
        return line.split() if self._keeps_words else line.split(" ")

    def encode_lines(self, lines: Sequence[str]) -> list[array]:
        """Returns the ids of each line."""
        if self._keeps_words or len(lines) < _MANY_LINES:
            return [self.encode(line) for line in lines]
        # Arrow splits lines and finds equal texts faster than Python looks each up.
        import pyarrow  # noqa: PLC0415  (import time)
        from pyarrow import compute  # noqa: PLC0415

        # Through buffers: Arrow's conversions of Python's and NumPy's arrays import pandas.
        def column(kind: pyarrow.DataType, values: list[bytes]) -> pyarrow.Array:
            ends = np.cumsum([0, *map(len, values)], dtype=np.int64)
            buffers = [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(values))]
            return pyarrow.Array.from_buffers(kind, len(values), buffers)

        pool = pyarrow.system_memory_pool()  # Arrow's own keeps 40 MB
        encoded = column(pyarrow.large_string(), [line.encode() for line in lines])
        texts = compute.split_pattern(encoded, " ", memory_pool=pool)
        different = compute.dictionary_encode(texts.values, memory_pool=pool)
        answers = [self._remembered[text] for text in different.dictionary.to_pylist()]
        taken = compute.take(column(pyarrow.large_binary(), answers), different.indices, memory_pool=pool)
        _, ends, content = taken.buffers()
        ids = array("I")
        ids.frombytes(content or b"")
        firsts = np.frombuffer(texts.buffers()[1], np.int32)[: len(lines) + 1]  # of each line, its first text
        bounds = np.frombuffer(ends, np.int64)[firsts] // ids.itemsize
        return [ids[begin:end] for begin, end in itertools.pairwise(bounds.tolist())]

    def encode_words(self, words: Sequence[str]) -> list[array]:
        """Returns the ids of each word of a text."""
        return self.encode_lines(words)

    def encode_with_offsets(self, text: str) -> tuple[array, np.ndarray]:
        """Returns the ids of `encode`, without `CONTINUES_WORD`, some ten times as slowly, and int32 [tokens, 2], each
        token's first character in `text` and the one after its last."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return array("I", encoding.ids), np.array(encoding.offsets, np.int32).reshape(-1, 2)

    def _encode_word(self, word: str) -> bytes:
        ids = array("I", self._remembered[word])
        return array("I", [*ids[:1], *(token_id | CONTINUES_WORD for token_id in ids[1:])]).tobytes()

    def _encode_text(self, text: str) -> bytes:
        """Returns the ids (uint32) of text without spaces."""
        prefix = text
        if len(text) > 1 and text.isascii() and text.isprintable():
            if not text.isalnum():
                parts = _ascii_parts(text)
                joined = b"".join([self._remembered[part] for part in parts])
                if self._unknown and not self._unknown.keys().isdisjoint(parts):
                    self._add_unknown(text, [word for part in parts for word in self._unknown.get(part, ())])
                return joined
            prefix = text[: self.rules.max_word_length + 1]  # as unknown as the whole
        encoding = self._tokenizer.encode(prefix, add_special_tokens=False)
        ids = encoding.ids
        if self._unknown is not None and self._unk_id in ids:
            offsets = zip(ids, encoding.offsets, strict=True)
            words = [text[begin:end] for token, (begin, end) in offsets if token == self._unk_id]
            self._add_unknown(text, words if prefix == text else [text])
        return array("I", ids).tobytes()

    def _add_unknown(self, text: str, words: list[str]) -> None:
        assert self._unknown is not None
        self._unknown[text] = words
        if len(text) > _LONGEST_REMEMBERED:
            self._long_unknown.append(text)

    def forget_unknown(self) -> None:
        """Forgets the unknown words of the lines so far, from now on to collect those of others."""
        if self._unknown is None or len(self._unknown) > _MAX_REMEMBERED:
            self._unknown = {}
            self._remembered.clear()
        for text in self._long_unknown:
            self._unknown.pop(text, None)
        self._long_unknown.clear()

    def unknown_words(self, line: str) -> list[str]:
        """Returns the words of a line, encoded since `forget_unknown`, that became [UNK], as they are in the line."""
        unknown = self._unknown or {}
        return [word for text in filter(unknown.__contains__, self._split(line)) for word in unknown[text]]

    def knows(self, word: str) -> bool:
        """Whether a word that is normalized already has pieces: its first ones, if it is too long."""
        pieces = self._tokenizer.model.tokenize(word[: self.rules.max_word_length])
        return all(piece.value != "[UNK]" for piece in pieces)


TextEncoder = Tokenizer | SentencePieceTokenizer | ByteLevelTokenizer


class Coverage:
    """Counts what a tokenizer loses of a text. A model has words of any length and removes no marks."""

    def __init__(self, tokenizer: TextEncoder, vocabulary: Vocabulary):
        self._tokenizer, self._unk_id = tokenizer, vocabulary.unk_id
        tokenizer.forget_unknown()
        self._causes = _Remembered(self._find_cause)
        self._removal = functools.lru_cache(None)(self._find_removal)
        if isinstance(tokenizer, Tokenizer):
            rules = tokenizer.rules
            choices = [(rules.lower_case, rules.strips_accents), *itertools.product((False, True), repeat=2)]
            self._normalize, *self._normalize_otherwise = (
                rules.replace(lower_case=lower, strip_accents=strip)
                .normalizer(handle_chinese_chars=False)
                .normalize_str
                for lower, strip in choices
            )

    def count(self, lines: Sequence[str], ids: Sequence[array]) -> Counter[str]:
        """Returns of lines that became `ids` (uint32, by line): 'characters' without spaces, 'tokens',
        'unknown_tokens', and by cause the characters that are lost.

        Of words that are [UNK]: 'too_long' (their first characters are known), 'other_case' (known with another choice
        of case and accents) or 'not_covered'. Removed: 'marks' (by `strip_accents`, vowel signs among them) and
        'invisible' (control characters beyond ASCII, and those of private use or that Unicode does not assign).
        """
        text = "".join(lines)
        encoded = text.encode()
        num_spaces = int(np.count_nonzero(np.frombuffer(encoded, np.uint8) == ord(" ")))
        tokens = np.frombuffer(b"".join(ids), np.uint32)
        unknown = np.flatnonzero(tokens & ~np.uint32(CONTINUES_WORD) == self._unk_id)
        counts = Counter(characters=len(text) - num_spaces, tokens=len(tokens), unknown_tokens=len(unknown))
        if len(unknown):
            ends = np.cumsum([len(line_ids) for line_ids in ids])
            for index in np.unique(np.searchsorted(ends, unknown, side="right")):
                for word in self._tokenizer.unknown_words(lines[index]):
                    counts[self._causes[word]] += len(word)
        self._tokenizer.forget_unknown()
        if isinstance(self._tokenizer, Tokenizer) and not text.isascii():
            others = encoded.translate(None, delete=_ASCII).decode()  # some bytes: UTF-8 of other characters
            occurrences = np.bincount(np.frombuffer(others.encode("utf-32-le"), np.uint32))
            for code in np.flatnonzero(occurrences):
                if removal := self._removal(chr(code)):
                    counts[removal] += int(occurrences[code])
        return counts

    def _find_cause(self, word: str) -> str:
        """Returns the cause for which a word is [UNK]."""
        if not isinstance(self._tokenizer, Tokenizer):
            return "not_covered"
        limit, knows = self._tokenizer.rules.max_word_length, self._tokenizer.knows
        normalized = self._normalize(word)
        if len(normalized) > limit and knows(normalized):
            return "too_long"
        otherwise = {normalize(word[:limit]) for normalize in self._normalize_otherwise} - {normalized}
        return "other_case" if any(map(knows, otherwise)) else "not_covered"

    def _find_removal(self, character: str) -> str | None:
        """Returns the cause why nothing is left of a character; None where something is, and for spaces."""
        if character.isspace() or self._normalize(character):
            return None
        return "marks" if unicodedata.category(character) == "Mn" else "invisible"


@dataclasses.dataclass(frozen=True)
class TokenizerSettings:
    """How text becomes tokens; `model_file`, of SentencePiece or byte-level BPE, replaces WordPiece and its rules."""

    vocabulary: Vocabulary
    rules: WordRules
    model_file: str | None = None

    def fitted(self, num_rows: int, path: str, table: str, option: str) -> "TokenizerSettings":
        """Returns the settings with `Vocabulary.fitted`."""
        return dataclasses.replace(self, vocabulary=self.vocabulary.fitted(num_rows, path, table, option))

    def build(self, *, keeps_words: bool = False) -> TextEncoder:
        """Returns the tokenizer; a `UserError` when the vocabulary is that of a model, which is missing.

        `keeps_words`: whether tokens that do not begin a word carry `CONTINUES_WORD`; not with SentencePiece.
        """
        if self.model_file:
            return model_tokenizers.open_model(self.model_file, keeps_words=keeps_words)
        if self.vocabulary.word_begin:
            is_bytes = self.vocabulary.word_begin == BYTE_WORD_BEGIN
            raise UserError(
                f"the vocabulary is that of a {'byte-level BPE' if is_bytes else 'SentencePiece'} model, without which "
                f"no text becomes tokens: give the model, ",
                Option("--vocab_file"),
                f"={TOKENIZER_FILE}" if is_bytes else f"=FILE{model_tokenizers.SUFFIX}",
            )
        return Tokenizer(self.vocabulary, self.rules, keeps_words=keeps_words)

    @functools.cached_property
    def model(self) -> dict[str, bytes]:
        """The content by name of the model as it is stored; none with WordPiece."""
        if not self.model_file:
            return {}
        opened = model_tokenizers.open_model(self.model_file)
        return {opened.file_name: opened.content}

    def save(self, directory: str) -> None:
        """Writes `vocab.txt`, and `tokenizer_config.json` or the model, unless they are there already; raises OSError
        or tf.errors.OpError when it cannot."""
        config = json.dumps(self.rules.to_config(), indent=1) + "\n"
        others = self.model or {TOKENIZER_CONFIG_FILE: config.encode()}
        # The vocabulary last: who finds it finds the rest.
        for name, content in {**others, VOCAB_FILE: self.vocabulary.to_bytes()}.items():
            file = files.join(directory, name)
            if files.size(file) is None or files.read_bytes(file) != content:
                files.write_atomically(file, content)


MODEL_RULES = WordRules(lower_case=False)  # as good as any: a model has its own


def read_tokenizer(
    vocab_file: str, lower_case: bool | None = None, rules: WordRules | None = None, *, is_foreign: bool = True
) -> TokenizerSettings:
    """Returns the tokenizer of a vocabulary, or of a model (`.model`, `tokenizer.json`), which ignores the rest.

    Args:
      lower_case: None: as the rules do.
      rules: None: those of the `tokenizer_config.json` next to the vocabulary, or else guessed.
      is_foreign: as of `Vocabulary.from_file`; False: for a file that this program wrote.

    Raises:
      UserError: the file cannot be read, or the rules next to it are not BERT's.
    """
    if is_model(vocab_file):
        return TokenizerSettings(model_tokenizers.open_model(vocab_file).vocabulary, MODEL_RULES, vocab_file)
    vocabulary = Vocabulary.from_file(vocab_file, is_foreign=is_foreign)
    rules = rules or rules_next_to(vocab_file) or guess_rules(vocabulary)
    return TokenizerSettings(vocabulary, rules.replace(lower_case=lower_case))


def rules_next_to(vocab_file: str) -> WordRules | None:
    """Returns the rules in the `tokenizer_config.json` of a vocabulary's directory; None without one and of models."""
    return None if is_model(vocab_file) else read_rules(os.path.dirname(vocab_file))


def saved_tokenizer(directory: str, lower_case: bool | None = None) -> TokenizerSettings | None:
    """Returns what `TokenizerSettings.save` wrote to a directory; None when there is nothing."""
    file = find_vocab_file(directory)
    if file is None:
        return None
    return read_tokenizer(file, lower_case, rules_next_to(file) or WordRules(), is_foreign=False)


def read_prepared(directory: str, rules: WordRules) -> TokenizerSettings:
    """Returns the tokenizer of a local directory with `vocab.txt` and, unless it is WordPiece, the model."""
    vocab_file, found = files.join(directory, VOCAB_FILE), find_vocab_file(directory)
    model_file = found if found != vocab_file else None
    return TokenizerSettings(Vocabulary.from_file(vocab_file), rules, model_file)


def find_vocab_file(directory: str) -> str | None:
    """Returns the model of a directory's tokenizer, or else its vocabulary; None when it has neither."""
    paths = (files.join(directory, name) for name in (SENTENCEPIECE_FILE, TOKENIZER_FILE, VOCAB_FILE))
    return next((file for file in paths if files.size(file) is not None), None)


def tokenizer_of_data(data_dir: str, lower_case: bool | None = None) -> TokenizerSettings:
    """Returns how the text of a directory with `vocab.txt` became tokens; a `UserError` when files are missing or
    damaged.

    `lower_case` overrides the manifest.
    """
    settings = tokenizer_of_manifest(data_dir, find_manifest(data_dir))
    return dataclasses.replace(settings, rules=settings.rules.replace(lower_case=lower_case))


def tokenizer_of_manifest(data_dir: str, manifest: Manifest | None) -> TokenizerSettings:
    """As `tokenizer_of_data`, of a directory whose manifest is known; without one, rules are those of the
    `tokenizer_config.json` there, or guessed."""
    file = files.join(data_dir, VOCAB_FILE)
    if manifest is None:
        return read_tokenizer(file, is_foreign=False)
    model_file = next((files.join(data_dir, name) for name in manifest.models), None)
    return TokenizerSettings(Vocabulary.from_file(file), manifest.rules, model_file)
