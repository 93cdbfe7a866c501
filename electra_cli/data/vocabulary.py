"""Vocabularies: loaded and checked."""

import dataclasses
import hashlib
from collections.abc import Iterable

import numpy as np

from electra_cli import files
from electra_cli.errors import UnreadableError, UserError

# What SentencePiece has before a piece that begins a word: U+2581, lower one eighth block.
WORD_BEGIN = "\u2581"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A vocabulary; a token's id is its place.

    Attributes:
      tokens: all tokens. Of WordPiece those that continue a word begin with '##', of SentencePiece those that begin one
        with '\u2581'.
    """

    tokens: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    @property
    def pad_id(self) -> int:
        """Id of [PAD], which fills the end of an example."""
        return self.tokens.index("[PAD]")

    @property
    def unk_id(self) -> int:
        """Id of [UNK], which stands for a word without pieces."""
        return self.tokens.index("[UNK]")

    @property
    def cls_id(self) -> int:
        """Id of [CLS], the first token of an example."""
        return self.tokens.index("[CLS]")

    @property
    def sep_id(self) -> int:
        """Id of [SEP], which ends a segment."""
        return self.tokens.index("[SEP]")

    @property
    def mask_id(self) -> int:
        """Id of [MASK]."""
        return self.tokens.index("[MASK]")

    @property
    def continues_word(self) -> np.ndarray:
        """Bool [size]: whether a token belongs to the word of the token before it."""
        if self.is_sentencepiece:
            special = {*SPECIAL_TOKENS, "<s>", "</s>"}
            return np.array([not token.startswith(WORD_BEGIN) and token not in special for token in self.tokens])
        return np.array([token.startswith("##") for token in self.tokens])

    @property
    def is_sentencepiece(self) -> bool:
        """Whether the tokens are a SentencePiece model's."""
        return any(token.startswith(WORD_BEGIN) for token in self.tokens) and not any(
            token.startswith("##") for token in self.tokens
        )

    def to_text(self, ids: Iterable[int]) -> str:
        """Returns tokens as readable text."""
        tokens = [self.tokens[index] for index in ids]
        if self.is_sentencepiece:
            return "".join(f" {token} " if token in SPECIAL_TOKENS else token for token in tokens).replace(
                WORD_BEGIN, " "
            )
        return " ".join(tokens).replace(" ##", "")

    def to_bytes(self) -> bytes:
        """Returns the content of a vocabulary file: a token a line."""
        return ("\n".join(self.tokens) + "\n").encode()

    @property
    def sha256(self) -> str:
        """Fingerprint: the checksum of `to_bytes()`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_file(cls, path: str) -> "Vocabulary":
        """Reads a file of one token a line.

        Raises:
          UserError: it is missing, not UTF-8 text, lacks a special token, or names a token twice or not at all.
        """
        try:
            text = files.read_bytes(path).decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"vocabulary {path} is not UTF-8 text (byte {error.start}): give a file of one token a line"
            ) from error
        except OSError as error:
            raise UnreadableError(f"vocabulary {path} cannot be read: {error.strerror or error}") from error
        # Not splitlines(): some vocabularies hold Unicode line separators as tokens.
        lines = [line.rstrip("\r") for line in text.split("\n")]
        if lines[-1] == "":
            lines.pop()
        return cls.from_tokens(tuple(lines), path)

    @classmethod
    def from_tokens(cls, tokens: tuple[str, ...], path: str) -> "Vocabulary":
        """Checks tokens that stand in the file `path`.

        Raises:
          UserError: they lack a special token, or name a token twice or not at all.
        """
        missing = [token for token in SPECIAL_TOKENS if token not in tokens]
        if len(missing) == len(SPECIAL_TOKENS):
            raise UserError(f"{path} is no WordPiece vocabulary: none of its lines is {', '.join(SPECIAL_TOKENS)}")
        first_line: dict[str, int] = {}
        for number, token in enumerate(tokens, 1):
            if not token:
                raise UserError(f"vocabulary {path} has no token on line {number}: remove the empty line")
            if token in first_line:
                raise UserError(
                    f"vocabulary {path} holds {token!r} twice, on lines {first_line[token]} and {number}: keep one"
                )
            first_line[token] = number
        if missing:
            raise UserError(f"vocabulary {path} has no {', '.join(missing)}: add a line for each token that is missing")
        return cls(tokens)
