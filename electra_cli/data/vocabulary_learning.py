"""Learns a vocabulary from the words of a corpus and how often they occur."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from electra_cli.data.vocabulary import SPECIAL_TOKENS, Vocabulary, WordRules
from electra_cli.errors import UserError

# Different words that are counted at most; beyond, the rarest are forgotten. Some 150 bytes each.
_MAX_WORDS = 2_000_000
_MAX_REMEMBERED = 2**20
_MIN_SIZE = 100  # tokens, that --learn_vocab takes


@dataclasses.dataclass(frozen=True)
class LearningSettings:
    """How a vocabulary is learned; the flags of `electra-prepare` of the same names, with `vocab_` before them.

    Attributes:
      size: tokens, special ones included.
      type: 'wordpiece'; 'character', for vocabularies of single characters, as for Chinese; or 'bpe', byte-level BPE.
      min_frequency: how often a character, or a pair of pieces that is joined, must occur in the text.
      character_coverage: fraction of the text's characters that the vocabulary must cover; words with others are left
        out.
      num_reserved: tokens [unused0], [unused1], ... for later use.
      sample_mb: megabytes of text to learn from at most, spread evenly over the corpus.
    """

    size: int
    type: str = "wordpiece"
    min_frequency: int = 2
    character_coverage: float = 0.9999
    num_reserved: int = 0
    user_tokens: tuple[str, ...] = ()
    sample_mb: float = 1024.0


class WordSplitter:
    """Splits text into words as BERT does: cleaned, lower-cased without accents if asked, split at punctuation."""

    def __init__(self, rules: WordRules):
        from tokenizers import pre_tokenizers  # noqa: PLC0415  (import time)

        self._normalizer = rules.normalizer()
        self._pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._split = functools.lru_cache(_MAX_REMEMBERED)(self.split)

    def split(self, text: str) -> tuple[str, ...]:
        """Returns the words of a text."""
        normalized = self._normalizer.normalize_str(text)
        return tuple(word for word, _ in self._pre_tokenizer.pre_tokenize_str(normalized))

    def count(self, lines: Iterable[str]) -> Counter[str]:
        """Returns how often each word occurs in the lines."""
        # What is between spaces is split by itself, and most of it has been seen before.
        texts: Counter[str] = Counter()
        for line in lines:
            texts.update(line.split(" "))
        counts: Counter[str] = Counter()
        for text, number in texts.items():
            for word in self._split(text):
                counts[word] += number
        return counts


class ByteWordSplitter:
    """Splits text, composed (NFC), into words with the space before them, as byte-level BPE of GPT-2 and others does; a
    word is written in letters of bytes."""

    def __init__(self) -> None:
        from tokenizers import normalizers, pre_tokenizers  # noqa: PLC0415  (import time)

        self.normalizer = normalizers.NFC()
        self.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)

    def count(self, lines: Iterable[str]) -> Counter[str]:
        """Returns how often each word occurs in the lines."""
        normalize, split = self.normalizer.normalize_str, self.pre_tokenizer.pre_tokenize_str
        return Counter(word for line in lines for word, _ in split(normalize(line)))


class WordCounts:
    """Counts of words with bounded memory: of too many, the rarest are only counted in sum."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.num_forgotten = 0
        self._least = 1

    def add(self, counts: Counter[str]) -> None:
        """Adds the counts of some text."""
        self.counts.update(counts)
        while len(self.counts) > _MAX_WORDS:
            self._least += 1
            before = self.counts.total()
            self.counts = Counter({word: number for word, number in self.counts.items() if number >= self._least})
            self.num_forgotten += before - self.counts.total()


def learn_vocabulary(counts: Counter[str], settings: LearningSettings, splitter: WordSplitter) -> Vocabulary:
    """Learns a vocabulary from how often each word occurs in text that `splitter` split.

    Special tokens (ids 0 to 4) come first, then reserved ones, the user's, characters, and WordPieces in the order
    learned by the trainer of the `tokenizers` package. Equal counts give an equal vocabulary. A `UserError` when the
    text supports no vocabulary of that size, or a token of the user's cannot be one.
    """
    _check_user_tokens(settings.user_tokens, splitter)
    first = [*SPECIAL_TOKENS, *(f"[unused{number}]" for number in range(settings.num_reserved)), *settings.user_tokens]
    alphabet = _choose_alphabet(counts, settings)
    words = sorted(
        ((word, count) for word, count in counts.items() if alphabet.issuperset(word)),
        key=lambda item: (-item[1], item[0]),
    )
    continuing = {character for word, _ in words for character in word[1:]}
    characters = sorted(alphabet) + [f"##{character}" for character in sorted(continuing)]
    first += [character for character in characters if character not in set(settings.user_tokens)]
    if len(first) > settings.size:
        raise UserError(
            f"--learn_vocab={settings.size} is too small: special tokens and characters alone are {len(first):,}; ask "
            f"for more tokens, or leave out rare characters with --vocab_character_coverage"
        )
    if settings.type == "character":
        return Vocabulary(tuple(first))
    return Vocabulary(tuple(_train(words, first, settings)))


def learn_byte_level(counts: Counter[str], settings: LearningSettings) -> str:
    """Returns the `tokenizer.json` of byte-level BPE, learned from how often each word of `ByteWordSplitter` occurs.

    Special tokens (ids 0 to 4) come first, then reserved ones, bytes, and tokens in the order learned. Equal counts
    give equal content. A `UserError` when the text supports no vocabulary of that size.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415  (import time)

    first = [*SPECIAL_TOKENS, *(f"[unused{number}]" for number in range(settings.num_reserved))]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if len(first) + len(alphabet) > settings.size:
        raise UserError(
            f"--learn_bpe={settings.size} is too small: special tokens and bytes alone are {len(first) + len(alphabet)}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.size,
        min_frequency=settings.min_frequency,
        special_tokens=first,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_repeated(sorted(counts.items(), key=lambda item: (-item[1], item[0]))), trainer)
    _check_size(tokenizer.get_vocab_size(), settings, "learn_bpe")
    splitter = ByteWordSplitter()
    tokenizer.normalizer, tokenizer.pre_tokenizer = splitter.normalizer, splitter.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str()


def _check_size(size: int, settings: LearningSettings, flag: str) -> None:
    if size != settings.size:
        smaller = f"ask for {size}, " if size >= _MIN_SIZE else ""
        raise UserError(
            f"the text supports {size} tokens, not --{flag}={settings.size}: {smaller}give more text, or lower "
            f"--vocab_min_frequency={settings.min_frequency}"
        )


def _train(words: list[tuple[str, int]], first: list[str], settings: LearningSettings) -> Iterator[str]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers  # noqa: PLC0415  (import time)

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # The trainer numbers characters as it meets them, in a random order, and breaks ties by these numbers. Tokens that
    # are special to it are numbered first, in the order given.
    trainer = trainers.WordPieceTrainer(
        vocab_size=settings.size, min_frequency=settings.min_frequency, special_tokens=first, show_progress=False
    )
    tokenizer.train_from_iterator(_repeated(words), trainer)
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    _check_size(len(by_id), settings, "learn_vocab")
    return (token for token, _ in by_id)


def _check_user_tokens(tokens: Sequence[str], splitter: WordSplitter) -> None:
    for token in tokens:
        words = splitter.split(token)
        if words != (token,):
            raise UserError(
                f"--vocab_user_tokens: {token!r} never occurs in tokenized text, where it is "
                f"{' '.join(words) or 'nothing'!r}; leave it out, or write it so"
            )
    if len(set(tokens)) != len(tokens):
        raise UserError("--vocab_user_tokens names a token twice")


def _choose_alphabet(counts: Counter[str], settings: LearningSettings) -> set[str]:
    """Returns the most frequent characters of the words, as many as cover the configured fraction."""
    frequency: Counter[str] = Counter()
    for word, count in counts.items():
        for character in word:
            frequency[character] += count
    needed = settings.character_coverage * frequency.total()
    alphabet: set[str] = set()
    covered = 0
    for character, count in sorted(frequency.items(), key=lambda item: (-item[1], item[0])):
        if covered >= needed or count < settings.min_frequency:
            break
        alphabet.add(character)
        covered += count
    return alphabet


def _repeated(words: Iterable[tuple[str, int]]) -> Iterator[str]:
    """Yields text in which each word occurs as often as counted, in pieces of bounded size."""
    for word, count in words:
        while count > 0:
            piece = min(count, 10_000)
            yield (word + " ") * piece
            count -= piece
