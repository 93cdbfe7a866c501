"""BERT's WordPiece tokenization: text in, ids out, exactly those of the `tokenizers` package, several times as fast.

BERT tokenizes the text between two spaces independently of the rest. This asks `tokenizers` once for each different
piece of text and remembers the answer: some 20 requests for a thousand words of English prose.
"""

import dataclasses
import json
import os
import re
from array import array
from collections.abc import Sequence

import numpy as np

from electra_cli import files
from electra_cli.data.spool import CONTINUES_WORD
from electra_cli.data.tfrecords import SENTENCEPIECE_FILE, VOCAB_FILE, Manifest, find_manifest
from electra_cli.data.vocabulary import (
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG_FILE,
    Vocabulary,
    WordRules,
    guess_rules,
    read_rules,
)
from electra_cli.errors import Option, UnreadableError, UserError

# Answers remembered before all are forgotten, some 200 bytes each, and the longest text that has one: lines of Chinese
# have no spaces.
_MAX_REMEMBERED, _LONGEST_REMEMBERED = 2**20, 32


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
        self._remembered = _Remembered(tokenizer, rules.max_word_length)
        self._keeps_words = keeps_words

    def encode(self, line: str) -> array:
        """Returns the ids of a line, array of 'I' (uint32), without special tokens."""
        if self._keeps_words:
            return array("I", b"".join(map(self._encode_word, line.split())))
        return array("I", b"".join(map(self._remembered.__getitem__, line.split(" "))))

    def encode_lines(self, lines: Sequence[str]) -> list[array]:
        """Returns the ids of each line."""
        return [self.encode(line) for line in lines]

    def encode_with_offsets(self, text: str) -> tuple[array, np.ndarray]:
        """Returns the ids of `encode`, without `CONTINUES_WORD`, some ten times as slowly, and int32 [tokens, 2], each
        token's first character in `text` and the one after its last."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return array("I", encoding.ids), np.array(encoding.offsets, np.int32).reshape(-1, 2)

    def _encode_word(self, word: str) -> bytes:
        ids = array("I", self._remembered[word])
        return array("I", [*ids[:1], *(token_id | CONTINUES_WORD for token_id in ids[1:])]).tobytes()


class _Remembered(dict[str, bytes]):
    """Ids (uint32, as bytes) by text without spaces."""

    # BERT splits ASCII text at all that is neither letter nor digit.
    _parts = staticmethod(re.compile("[0-9A-Za-z]+|[^0-9A-Za-z]").findall)

    def __init__(self, tokenizer, max_word_length: int):
        super().__init__()
        self._tokenizer = tokenizer
        self._max_word_length = max_word_length

    def __missing__(self, text: str) -> bytes:
        ids = self._encode(text)
        if len(text) <= _LONGEST_REMEMBERED:
            if len(self) >= _MAX_REMEMBERED:
                self.clear()
            self[text] = ids
        return ids

    def _encode(self, text: str) -> bytes:
        if len(text) > 1 and text.isascii() and text.isprintable():
            if not text.isalnum():
                return b"".join([self[part] for part in self._parts(text)])
            text = text[: self._max_word_length + 1]  # as unknown as the whole
        return array("I", self._tokenizer.encode(text, add_special_tokens=False).ids).tobytes()


SUFFIX = ".model"


class SentencePieceTokenizer:
    """Tokenizes with a SentencePiece model, which cleans and splits text in its own way; a `UserError` for a bad file.

    `vocabulary` holds its pieces by id, '<unk>' and '<pad>' under BERT's names; BERT's special tokens that it lacks
    follow its last piece.
    """

    def __init__(self, path: str):
        import sentencepiece  # noqa: PLC0415  (import time)

        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(files.read_bytes(path))
        except OSError as error:
            raise UnreadableError(f"vocabulary {path} cannot be read: {error.strerror or error}") from error
        except RuntimeError as error:
            raise UserError(
                f"vocabulary {path} is no SentencePiece model: give one, or a vocabulary as text"
            ) from error
        pieces = [self._processor.id_to_piece(index) for index in range(self._processor.get_piece_size())]
        pieces[self._processor.unk_id()] = "[UNK]"
        if self._processor.pad_id() >= 0:
            pieces[self._processor.pad_id()] = "[PAD]"
        self.vocabulary = Vocabulary((*pieces, *(token for token in SPECIAL_TOKENS if token not in pieces)))

    def encode_lines(self, lines: Sequence[str]) -> list[array]:
        """Returns the ids of each line, arrays of 'I' (uint32), without special tokens."""
        return [array("I", ids) for ids in self._processor.encode(list(lines), out_type=int)]

    def encode_with_offsets(self, text: str) -> tuple[array, np.ndarray]:
        """As `Tokenizer.encode_with_offsets`; the space before a word is no part of its token."""
        encoding = self._processor.encode(text, return_type="offset_mapping")
        offsets: np.ndarray = np.array(encoding["offsets"], np.int32).reshape(-1, 2)
        for index, (begin, end) in enumerate(encoding["offsets"]):
            offsets[index, 0] = end - len(text[begin:end].lstrip())
        return array("I", encoding["ids"]), offsets


@dataclasses.dataclass(frozen=True)
class TokenizerSettings:
    """How text becomes tokens; a SentencePiece model replaces WordPiece and its rules."""

    vocabulary: Vocabulary
    rules: WordRules
    sentencepiece_file: str | None = None

    def build(self) -> Tokenizer | SentencePieceTokenizer:
        """Returns the tokenizer; a `UserError` when the vocabulary is SentencePiece's and the model is missing."""
        if self.sentencepiece_file:
            return SentencePieceTokenizer(self.sentencepiece_file)
        if self.vocabulary.is_sentencepiece:
            raise UserError(
                "the vocabulary is that of a SentencePiece model, without which no text becomes tokens: give the "
                "model, ",
                Option("--vocab_file"),
                f"=FILE{SUFFIX}",
            )
        return Tokenizer(self.vocabulary, self.rules)

    def save(self, directory: str) -> None:
        """Writes `vocab.txt`, and `tokenizer_config.json` or `sentencepiece.model`, unless they are there already;
        raises OSError or tf.errors.OpError when it cannot."""
        contents = {VOCAB_FILE: self.vocabulary.to_bytes()}
        if self.sentencepiece_file:
            contents[SENTENCEPIECE_FILE] = files.read_bytes(self.sentencepiece_file)
        else:
            config = json.dumps(self.rules.to_config(), indent=1) + "\n"
            contents[TOKENIZER_CONFIG_FILE] = config.encode()
        for name, content in contents.items():
            file = files.join(directory, name)
            if files.size(file) is None or files.read_bytes(file) != content:
                files.write_atomically(file, content)


SENTENCEPIECE_RULES = WordRules(lower_case=False)  # as good as any: a model has its own


def read_tokenizer(
    vocab_file: str, lower_case: bool | None = None, rules: WordRules | None = None
) -> TokenizerSettings:
    """Returns the tokenizer of a vocabulary, or of a SentencePiece model (`.model`), which ignores the rest.

    Args:
      lower_case: None: as the rules do.
      rules: None: those of the `tokenizer_config.json` next to the vocabulary, or else guessed.

    Raises:
      UserError: the file cannot be read, or the rules next to it are not BERT's.
    """
    if vocab_file.endswith(SUFFIX):
        return TokenizerSettings(SentencePieceTokenizer(vocab_file).vocabulary, SENTENCEPIECE_RULES, vocab_file)
    vocabulary = Vocabulary.from_file(vocab_file)
    rules = rules or rules_next_to(vocab_file) or guess_rules(vocabulary)
    return TokenizerSettings(vocabulary, rules.replace(lower_case=lower_case))


def rules_next_to(vocab_file: str) -> WordRules | None:
    """Returns the rules in the `tokenizer_config.json` of a vocabulary's directory; None without one, or for a
    SentencePiece model."""
    return None if vocab_file.endswith(SUFFIX) else read_rules(os.path.dirname(vocab_file))


def saved_tokenizer(directory: str, lower_case: bool | None = None) -> TokenizerSettings | None:
    """Returns what `TokenizerSettings.save` wrote to a directory; None when there is nothing."""
    file = find_vocab_file(directory)
    return None if file is None else read_tokenizer(file, lower_case, rules_next_to(file) or WordRules())


def find_vocab_file(directory: str) -> str | None:
    """Returns the SentencePiece model of a directory, or else its vocabulary; None when it has neither."""
    paths = (files.join(directory, name) for name in (SENTENCEPIECE_FILE, VOCAB_FILE))
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
        return read_tokenizer(file)
    has_model = bool(manifest.sentencepiece_sha256)
    model_file = files.join(data_dir, SENTENCEPIECE_FILE) if has_model else None
    return TokenizerSettings(Vocabulary.from_file(file), manifest.rules, model_file)
