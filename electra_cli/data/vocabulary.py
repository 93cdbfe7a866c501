"""WordPiece vocabularies: loaded and checked, or learned from text."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from electra_cli import files
from electra_cli.errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# Bytes of text that a vocabulary is learned from at most. Counts of words change little beyond; time and memory do.
LEARNING_BYTES = 256 * 2**20


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A WordPiece vocabulary; a token's id is its place.

    Attributes:
      tokens: all tokens; pieces that continue a word begin with '##'.
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
        return np.array([token.startswith("##") for token in self.tokens])

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
            raise UserError(f"vocabulary {path} cannot be read: {error.strerror or error}") from error
        # Not splitlines(): some vocabularies hold Unicode line separators as tokens.
        lines = [line.rstrip("\r") for line in text.split("\n")]
        if lines[-1] == "":
            lines.pop()
        first_line: dict[str, int] = {}
        for number, token in enumerate(lines, 1):
            if not token:
                raise UserError(f"vocabulary {path} has no token on line {number}: remove the empty line")
            if token in first_line:
                raise UserError(
                    f"vocabulary {path} holds {token!r} twice, on lines {first_line[token]} and {number}: keep one"
                )
            first_line[token] = number
        missing = [token for token in SPECIAL_TOKENS if token not in first_line]
        if missing:
            raise UserError(f"vocabulary {path} has no {', '.join(missing)}: add a line for each token that is missing")
        return cls(tuple(lines))


def learn_vocabulary(lines: Iterable[str], size: int, *, lower_case: bool) -> Vocabulary:
    """Learns a WordPiece vocabulary with the trainer of the `tokenizers` package.

    Args:
      lines: text; read until `LEARNING_BYTES` have been seen.
      size: number of tokens, [PAD], [UNK], [CLS], [SEP], [MASK] (ids 0 to 4) included.
      lower_case: whether the tokenizer lower-cases and strips accents.

    Returns:
      The vocabulary: special tokens, then characters, then pieces in the order learned. The same lines give the same
      vocabulary.

    Raises:
      UserError: the text has not enough different words for so many tokens.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers  # noqa: PLC0415  (import time)

    normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    splitter = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    num_bytes = 0
    for line in lines:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line)))
        num_bytes += len(line)
        if num_bytes >= LEARNING_BYTES:
            break
    words, alphabet, continuing = _words_and_alphabet(counts, max_characters=max(size // 4, 100))
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # The trainer numbers characters as it meets them, in a random order, and breaks ties by these numbers. Characters
    # that are special to it are numbered first, in the order given.
    characters = alphabet + [f"##{character}" for character in continuing]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=[*SPECIAL_TOKENS, *characters], show_progress=False
    )
    tokenizer.train_from_iterator(_repeated(words), trainer)
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if len(by_id) != size:
        raise UserError(
            f"the text supports {len(by_id)} tokens, not --learn_vocab={size}: ask for {len(by_id)} or give more text"
        )
    return Vocabulary(tuple(token for token, _ in by_id))


def _words_and_alphabet(
    counts: Counter[str], max_characters: int
) -> tuple[list[tuple[str, int]], list[str], list[str]]:
    """Returns the words, most frequent first, without those of rare characters; and the characters that words have
    anywhere and after their first, each sorted."""
    frequency: Counter[str] = Counter()
    for word, count in counts.items():
        for character in word:
            frequency[character] += count
    ranked = sorted(frequency, key=lambda character: (-frequency[character], character))
    alphabet = set(ranked[:max_characters])
    words = sorted(
        ((word, count) for word, count in counts.items() if alphabet.issuperset(word)),
        key=lambda item: (-item[1], item[0]),
    )
    continuing = {character for word, _ in words for character in word[1:]}
    return words, sorted(alphabet), sorted(continuing)


def _repeated(words: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Yields text in which each word stands as often as counted, in pieces of bounded size."""
    for word, count in words:
        while count > 0:
            piece = min(count, 10_000)
            yield (word + " ") * piece
            count -= piece
