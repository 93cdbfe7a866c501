"""Tokenizers with a model of their own: a SentencePiece model, or byte-level BPE in a `tokenizer.json`.

Each has its `vocabulary`, under BERT's names of special tokens, and `content`, which is stored as `file_name`.
"""

import json
from array import array
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from electra_cli import files
from electra_cli.data.spool import CONTINUES_WORD
from electra_cli.data.tfrecords import SENTENCEPIECE_FILE, TOKENIZER_FILE
from electra_cli.data.vocabulary import BYTE_LETTERS, SPECIAL_TOKENS, Vocabulary
from electra_cli.errors import UnreadableError, UserError

SUFFIX, _JSON_SUFFIX = ".model", ".json"
# BERT's names of special tokens, and RoBERTa's.
_ROBERTA_NAMES = dict(zip(SPECIAL_TOKENS, ("<pad>", "<unk>", "<s>", "</s>", "<mask>"), strict=True))
_MAX_UNNAMED = 2**20  # ids without a token


def is_model(path: str) -> bool:
    """Whether a path is that of a model, by its name, and not of a vocabulary."""
    return path.endswith((SUFFIX, _JSON_SUFFIX))


def open_model(path: str, *, keeps_words: bool = False) -> "SentencePieceTokenizer | ByteLevelTokenizer":
    """Returns the tokenizer of a model; a `UserError` for a bad file. `keeps_words` is that of `ByteLevelTokenizer`."""
    if path.endswith(_JSON_SUFFIX):
        return ByteLevelTokenizer(path, keeps_words=keeps_words)
    return SentencePieceTokenizer(path)


def _read(path: str) -> bytes:
    try:
        return files.read_bytes(path)
    except OSError as error:
        raise UnreadableError(f"vocabulary {path} cannot be read: {error.strerror or error}") from error


def _without_spaces(text: str, offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    """Returns int32 [tokens, 2]: the space before a word is no part of its token."""
    trimmed = [(end - len(text[begin:end].lstrip()), end) for begin, end in offsets]
    return np.array(trimmed, np.int32).reshape(-1, 2)


class SentencePieceTokenizer:
    """Tokenizes with a SentencePiece model, which cleans and splits text in its own way; a `UserError` for a bad file.

    `vocabulary` holds its pieces by id, '<unk>' and '<pad>' under BERT's names; BERT's special tokens that it lacks
    follow its last piece.
    """

    file_name = SENTENCEPIECE_FILE

    def __init__(self, path: str):
        import sentencepiece  # noqa: PLC0415  (import time)

        self._processor = sentencepiece.SentencePieceProcessor()
        self.content = _read(path)
        try:
            self._processor.LoadFromSerializedProto(self.content)
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

    def encode_words(self, words: Sequence[str]) -> list[array]:
        """Returns the ids of each word of a text."""
        return self.encode_lines(words)

    def encode_with_offsets(self, text: str) -> tuple[array, np.ndarray]:
        """As `Tokenizer.encode_with_offsets`; the space before a word is no part of its token."""
        encoding = self._processor.encode(text, return_type="offset_mapping")
        return array("I", encoding["ids"]), _without_spaces(text, encoding["offsets"])

    def forget_unknown(self) -> None:
        """Does nothing: none are remembered."""

    def unknown_words(self, line: str) -> list[str]:
        """As `Tokenizer.unknown_words`."""
        ids, offsets = self.encode_with_offsets(line)
        return [line[begin:end] for begin, end in offsets[np.array(ids) == self._processor.unk_id()]]


class ByteLevelTokenizer:
    """Tokenizes with byte-level BPE, exactly as the `tokenizers` package does; a `UserError` for a bad file.

    Special tokens are found under BERT's names or RoBERTa's; an [UNK] that is missing follows the last id. Text that
    happens to hold one is tokenized like any text. Added tokens that are not special are found in text as they are.

    Args:
      keeps_words: whether tokens that do not begin a word carry `CONTINUES_WORD`; the first of a line begins one.
    """

    file_name = TOKENIZER_FILE

    def __init__(self, path: str, *, keeps_words: bool = False):
        import tokenizers  # noqa: PLC0415  (import time)

        try:
            record = files.parse_json(_read(path))
            model, pre_tokenizer = record["model"], record["pre_tokenizer"] or {}
            steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer] if pre_tokenizer else [])
            _check_kind(path, model, [step["type"] for step in steps])
            # Before the first word of a text.
            self.adds_space: bool = any(step.get("add_prefix_space") for step in steps)
            added = record.get("added_tokens") or []
            self.special_tokens = _special_tokens(path, {*model["vocab"], *(item["content"] for item in added)})
            for item in added:
                item["special"] = item["special"] or item["content"] in self.special_tokens.values()
                # A word has the space before it: what masks it has, too (`runs.encode_texts`).
                item["lstrip"] = item["lstrip"] or item["content"] == self.special_tokens["[MASK]"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is no tokenizer.json of the package tokenizers ({error!r}): copy it again"
            ) from error
        record |= {"truncation": None, "padding": None, "post_processor": None}
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(record))
        except Exception as error:  # it has no class of errors
            raise UserError(f"{path} cannot be read by the package tokenizers: {error}") from error
        mask = self.special_tokens["[MASK]"]
        self._tokenizer.add_special_tokens(
            [tokenizers.AddedToken(name, special=True, lstrip=name == mask) for name in self.special_tokens.values()]
        )
        self.content = self._tokenizer.to_str().encode()
        self._tokenizer.encode_special_tokens = True  # those in text are text
        self._keeps_words = False
        self.vocabulary = self._read_vocabulary(path)
        self._keeps_words = keeps_words
        self._continues = self.vocabulary.continues_word
        self._is_space = np.array([token.endswith(" ") for token in self.vocabulary.tokens])  # added ones

    def _read_vocabulary(self, path: str) -> Vocabulary:
        from tokenizers import pre_tokenizers  # noqa: PLC0415  (import time)

        ids = self._tokenizer.get_vocab()
        unnamed = max(ids.values()) + 1 - len(ids)
        if unnamed > _MAX_UNNAMED:
            raise UserError(
                f"{path}: {unnamed:,} ids up to {max(ids.values()):,} have no token: number them without gaps"
            )
        if missing := sorted(BYTE_LETTERS - ids.keys()):
            raise UserError(
                f"{path} lacks tokens of {len(missing)} bytes, such as {missing[0]!r}, so that text with them would be "
                f"lost: train it with initial_alphabet=pre_tokenizers.ByteLevel.alphabet()"
            )
        for name, token in self.special_tokens.items():
            if ids[token] in self.encode_lines([token])[0]:
                raise UserError(f"{path}: text {token!r} becomes {name}, which no text may: divide text at punctuation")
            ids[name] = ids.pop(token)
        spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str
        for token in [token for token in ids if "\n" in token or "\r" in token]:  # a line of vocab.txt holds none
            index, ((letters, _),) = ids.pop(token), spell(token)
            if letters not in ids:
                ids[letters] = index
        return Vocabulary.from_ids(ids, path)

    def encode_lines(self, lines: Sequence[str]) -> list[array]:
        """Returns the ids of each line, arrays of 'I' (uint32), without special tokens."""
        encodings = self._tokenizer.encode_batch_fast(list(lines), add_special_tokens=False)
        return [self._marked(encoding.ids) if self._keeps_words else array("I", encoding.ids) for encoding in encodings]

    def _marked(self, ids: list[int]) -> array:
        continues = self._continues[ids]
        continues[:1] = False
        continues[1:] &= ~self._is_space[ids[:-1]]
        return array("I", (np.array(ids, np.uint32) | continues * np.uint32(CONTINUES_WORD)).tobytes())

    def encode_words(self, words: Sequence[str]) -> list[array]:
        """Returns the ids of each word of a text, with the space that is before it there."""
        return self.encode_lines([f" {word}" for word in words])

    def encode_with_offsets(self, text: str) -> tuple[array, np.ndarray]:
        """As `Tokenizer.encode_with_offsets`; the space before a word is no part of its token."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return array("I", encoding.ids), _without_spaces(text, encoding.offsets)

    def forget_unknown(self) -> None:
        """Does nothing: no word is unknown."""

    def unknown_words(self, line: str) -> list[str]:
        """Returns none: all bytes have a token."""
        del line
        return []


def _check_kind(path: str, model: Mapping[str, Any], steps: Sequence[str]) -> None:
    kind = model.get("type", "BPE")  # old files have none
    if kind != "BPE" or "ByteLevel" not in steps:
        wanted = (
            "its vocabulary, --vocab_file=vocab.txt" if kind == "WordPiece" else "a SentencePiece model, FILE.model"
        )
        described = kind if kind != "BPE" else f"BPE of {' and '.join(steps) or 'unsplit text'}"
        raise UserError(f"{path} is a tokenizer of type {described}, not of byte-level BPE: give {wanted}")
    if model.get("dropout"):
        raise UserError(f"{path}: dropout is {model['dropout']}, which draws tokens at random: set it to null")


def _special_tokens(path: str, tokens: Collection[str]) -> dict[str, str]:
    """Returns a tokenizer's own names of special tokens by BERT's."""
    names = {name: own if own in tokens and name not in tokens else name for name, own in _ROBERTA_NAMES.items()}
    missing = [name for name, own in names.items() if own not in tokens and name != "[UNK]"]
    if missing:
        raise UserError(
            f"{path} has no {', '.join(missing)}: add them, Tokenizer.add_special_tokens({missing}) of the package "
            f"tokenizers, and give the file that it saves"
        )
    return names
