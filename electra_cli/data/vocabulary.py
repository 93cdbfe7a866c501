"""Vocabularies, and the rules by which text becomes their words."""

import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from electra_cli import files
from electra_cli.errors import Option, UnreadableError, UserError

# What SentencePiece has before a piece that begins a word: U+2581, lower one eighth block.
WORD_BEGIN = "\u2581"
# A space in byte-level tokens, which write each byte as a letter: printable ones of Latin-1 as themselves, the other
# 68, in order, as those from U+0100 on (`bytes_to_unicode` of GPT-2).
BYTE_WORD_BEGIN = "\u0120"
_NOT_UTF8 = (0xC0, 0xC1, *range(0xF5, 0x100))
# Letters of all bytes that UTF-8 has.
BYTE_LETTERS = frozenset(
    chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 324)) if code not in _NOT_UTF8
)
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTROL_TOKENS = (*SPECIAL_TOKENS, "<s>", "</s>")  # with those of SentencePiece: no word, and in no text
# How transformers stores how text becomes words: the file next to the vocabulary, its keys, and their types here.
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
_CONFIG_KEYS = {
    "lower_case": ("do_lower_case", bool),
    "strip_accents": ("strip_accents", bool | None),
    "tokenize_chinese_chars": ("tokenize_chinese_chars", bool),
    "max_word_length": ("max_input_chars_per_word", int),
}
# Other keys there that change tokens, and the values with which they are those of `WordRules`.
_REQUIRED: dict[str, tuple] = {
    "do_basic_tokenize": (True,),
    "do_word_tokenize": (True,),
    "do_subword_tokenize": (True,),
    "clean_text": (True,),
    "never_split": (None, []),
    "word_tokenizer_type": (None, "basic"),
    "subword_tokenizer_type": (None, "wordpiece"),
    "wordpieces_prefix": (None, "##"),
    "unk_token": (None, "[UNK]"),
}
_CLASSES = ("Bert", "BertJapanese", "ConvBert", "DistilBert", "Electra", "MobileBert", "PreTrained")
# Fraction of a vocabulary's tokens that may be written as text is not; they are never used.
_MAX_UNREACHABLE = 0.02
# Names of ids without a token of their own.
_UNUSED = re.compile(r"\[+unused_row\d+\]+")


@dataclasses.dataclass(frozen=True)
class WordRules:
    """How text becomes words, and which are unknown: BERT's rules, with the options of its tokenizer.

    Attributes:
      strip_accents: None: as `lower_case`.
      tokenize_chinese_chars: whether each Chinese character is a word.
      max_word_length: characters; longer words are [UNK].
    """

    lower_case: bool = True
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool = True
    max_word_length: int = 100

    @property
    def strips_accents(self) -> bool:
        """Whether accents are stripped."""
        return self.lower_case if self.strip_accents is None else self.strip_accents

    def normalizer(self, **settings: bool) -> Any:
        """Returns the normalizer of `tokenizers`; `settings` are arguments of it."""
        from tokenizers import normalizers  # noqa: PLC0415  (import time)

        chinese = {"handle_chinese_chars": self.tokenize_chinese_chars, **settings}
        return normalizers.BertNormalizer(lowercase=self.lower_case, strip_accents=self.strip_accents, **chinese)

    def replace(self, **values: Any) -> "WordRules":
        """Returns the rules with those of the values that are not None in place of theirs."""
        return dataclasses.replace(self, **{name: value for name, value in values.items() if value is not None})

    @property
    def flags(self) -> str:
        """The flags of `electra-prepare` for these rules, each after a space; those with default values are absent."""
        flags = {
            "lower_case": (self.lower_case, True),
            "strip_accents": (self.strips_accents, self.lower_case),
            "tokenize_chinese_chars": (self.tokenize_chinese_chars, True),
            "max_word_length": (self.max_word_length, 100),
        }
        return "".join(
            f" --{name}={str(value).lower()}" for name, (value, default) in flags.items() if value != default
        )

    def to_config(self) -> dict[str, Any]:
        """Returns the rules under the names of transformers' `tokenizer_config.json`."""
        return {key: getattr(self, name) for name, (key, _) in _CONFIG_KEYS.items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], file: str) -> "WordRules":
        """Reads the content of a `tokenizer_config.json`; a `UserError` names a setting that is not BERT's."""
        name = str(config.get("tokenizer_class") or "BertTokenizer")
        if name.removesuffix("Fast").removesuffix("Tokenizer") not in _CLASSES and name != "TokenizersBackend":
            raise _unsupported(file, "tokenizer_class", name)
        for key, values in _REQUIRED.items():
            value = config.get(key, values[0])
            if (value.get("content") if isinstance(value, dict) else value) not in values:
                raise _unsupported(file, key, value)
        given = {}
        for field, (key, kind) in _CONFIG_KEYS.items():
            if key in config:
                given[field] = config[key]
                if not isinstance(config[key], kind) or (kind is int and config[key] < 1):
                    raise _unsupported(file, key, config[key])
        return cls(**given)

    def count_unreachable(self, tokens: Iterable[str]) -> int:
        """Returns how many tokens no text becomes, since it is lower-cased or loses accents before."""
        normalize = self.normalizer(clean_text=False, handle_chinese_chars=False).normalize_str
        return sum(normalize(token) != token for token in tokens)

    def fits(self, vocabulary: "Vocabulary") -> bool:
        """Whether text becomes almost all tokens of a vocabulary."""
        words = vocabulary.words
        return self.count_unreachable(words) <= _MAX_UNREACHABLE * len(words) + 1


def _unsupported(file: str, key: str, value: Any) -> UserError:
    return UserError(
        f"{file}: {key} is {value!r}, which makes other tokens of text than BERT's WordPiece tokenizer, "
        f"the only one that is supported"
    )


def read_rules(directory: str) -> WordRules | None:
    """Returns the rules in the `tokenizer_config.json` of a directory; None without one, a `UserError` for others'."""
    file = files.join(directory, TOKENIZER_CONFIG_FILE)
    return None if files.size(file) is None else WordRules.from_config(files.read_json(file), file)


def guess_rules(vocabulary: "Vocabulary") -> WordRules:
    """Returns the rules that a vocabulary was made with, by how its tokens are written."""
    candidates = (WordRules(), WordRules(strip_accents=False))
    return next((rules for rules in candidates if rules.fits(vocabulary)), WordRules(lower_case=False))


def is_unused(token: str) -> bool:
    """Whether a token is the name of an id without one, which no text becomes."""
    return _UNUSED.fullmatch(token) is not None


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A token's id is its index. WordPieces that continue a word begin with '##'; tokens that begin one, with '\u2581'
    (SentencePiece) or '\u0120' (byte-level BPE). `notes` say, a line each, how it differs from its file."""

    tokens: tuple[str, ...]
    notes: tuple[str, ...] = dataclasses.field(default=(), compare=False)

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
        if self.word_begin:
            begins = (self.word_begin, " ")  # tokens that were added to a byte-level tokenizer are written as text is
            return np.array([not token.startswith(begins) and token not in CONTROL_TOKENS for token in self.tokens])
        return np.array([token.startswith("##") for token in self.tokens])

    @property
    def words(self) -> list[str]:
        """The texts of the tokens that are written as text is: without '##', and without '[unused0]' and its like."""
        return [token.removeprefix("##") for token in self.tokens if not token.startswith("[")]

    @functools.cached_property
    def word_begin(self) -> str:
        """What tokens that begin a word begin with: `WORD_BEGIN` of SentencePiece, `BYTE_WORD_BEGIN` of byte-level BPE;
        '' of WordPiece."""
        # A WordPiece vocabulary with all these letters has them within words, too.
        if BYTE_LETTERS.issubset(self.tokens) and f"##{BYTE_WORD_BEGIN}" not in self.tokens:
            return BYTE_WORD_BEGIN
        is_wordpiece = any(token.startswith("##") for token in self.tokens)
        return WORD_BEGIN if not is_wordpiece and any(token.startswith(WORD_BEGIN) for token in self.tokens) else ""

    @property
    def texts(self) -> list[str]:
        """The text of each token, without marks of words; bytes that are no complete character are as in the token."""
        if self.word_begin == BYTE_WORD_BEGIN:
            texts = (_decode_bytes([token]).strip() for token in self.tokens)
            return [
                token if "\ufffd" in text else text or token for token, text in zip(self.tokens, texts, strict=True)
            ]
        return [token.removeprefix(self.word_begin or "##") or token for token in self.tokens]

    def to_text(self, ids: Iterable[int]) -> str:
        """Returns tokens as readable text."""
        tokens = [self.tokens[index] for index in ids]
        if self.word_begin == BYTE_WORD_BEGIN:
            groups = itertools.groupby(tokens, SPECIAL_TOKENS.__contains__)
            return " ".join(" ".join(group) if special else _decode_bytes(list(group)) for special, group in groups)
        if self.word_begin:
            spaced = (f" {token} " if token in SPECIAL_TOKENS else token for token in tokens)
            return "".join(spaced).replace(WORD_BEGIN, " ")
        return " ".join(tokens).replace(" ##", "")

    def to_bytes(self) -> bytes:
        """Returns the content of a vocabulary file: a token a line."""
        return ("\n".join(self.tokens) + "\n").encode()

    @property
    def sha256(self) -> str:
        """Fingerprint: the checksum of `to_bytes()`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_file(cls, path: str, *, is_foreign: bool = False) -> "Vocabulary":
        """Reads a file of one token a line; a `UserError` when it cannot be read, or as `from_ids`.

        `is_foreign`: white space at the end of a line is no part of a token, as in transformers.
        """
        ids, notes = read_vocabulary(path, is_foreign=is_foreign)
        return cls.from_ids(ids, path, notes)

    @classmethod
    def from_ids(cls, ids: Mapping[str, int], path: str, notes: tuple[str, ...] = ()) -> "Vocabulary":
        """Returns the vocabulary of the tokens of `path`; ids without one, or with an empty one, get a name.

        Raises:
          UserError: a special token is missing, or two tokens have one id.
        """
        token_of: dict[int, str] = {}
        for token, index in ids.items():
            if index in token_of:
                raise UserError(f"vocabulary {path}: {token_of[index]!r} and {token!r} have the id {index}: remove one")
            token_of[index] = token
        for special in [token for token in SPECIAL_TOKENS if token not in ids]:
            for index, token in token_of.items():
                if token.strip("\ufeff \t") == special:
                    token_of[index] = special
                    notes += (f"Vocabulary {path}: id {index} is {special}, without what surrounds it there.",)
        tokens = tuple(token_of.get(index, "") for index in range(max(token_of, default=-1) + 1))
        missing = [token for token in SPECIAL_TOKENS if token not in tokens]
        if len(missing) == len(SPECIAL_TOKENS):
            raise UserError(
                f"{path} is no WordPiece vocabulary: none of its lines is {', '.join(SPECIAL_TOKENS)}; give a file of "
                f"one token a line"
            )
        if missing:
            unused = next((f", such as {token!r}" for token in tokens if token.startswith("[unused")), "")
            raise UserError(
                f"vocabulary {path} has no {', '.join(missing)}: write each in place of a token that is not "
                f"needed{unused}; or, where no model was trained with it yet, append a line for each"
            )
        named = _name_unused(tokens)
        if "" in tokens:
            notes += (
                f"Vocabulary {path}: ids without a token (gaps, empty lines, tokens that come again later): "
                f"{tokens.count(''):,}; they stay, named as {named[tokens.index('')]}, so that all others keep theirs.",
            )
        return cls(named, notes)

    def fitted(self, num_rows: int, path: str, table: str, option: str) -> "Vocabulary":
        """Returns the vocabulary with a name for each further row of a word table; a `UserError` for a shorter table.

        Args:
          path: where the vocabulary was read from.
          table: what the table is called.
          option: the flag or key that names another vocabulary.
        """
        if self.size > num_rows:
            raise UserError(
                f"the vocabulary {path} has {self.size:,} tokens, {table} {num_rows:,}: give the one that it was "
                f"trained with, of at most {num_rows:,} tokens, ",
                Option(option),
                "=FILE",
            )
        if self.size == num_rows:
            return self
        tokens = _name_unused((*self.tokens, *[""] * (num_rows - self.size)))
        note = (
            f"Vocabulary {path}: {self.size:,} tokens, {table} {num_rows:,}; the rows beyond stay, named from "
            f"{tokens[self.size]} to {tokens[-1]}, and no text becomes them."
        )
        return Vocabulary(tokens, (*self.notes, note))


def read_vocabulary(path: str, *, is_foreign: bool) -> tuple[dict[str, int], tuple[str, ...]]:
    """Returns the ids by token of a file of one token a line, of equal ones the last, as in transformers; and notes."""
    try:
        content = files.read_bytes(path)
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"vocabulary {path} is not UTF-8 text on line {line}: save it as UTF-8") from error
    except OSError as error:
        raise UnreadableError(f"vocabulary {path} cannot be read: {error.strerror or error}") from error
    # Not splitlines(): some vocabularies hold Unicode line separators as tokens.
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if lines[-1] == "":
        lines.pop()
    trimmed = [line.rstrip() or line for line in lines] if is_foreign else lines
    num_changed = sum(line != before for line, before in zip(trimmed, lines, strict=True))
    note = f"Vocabulary {path}: white space at the end of lines is no part of tokens (lines: {num_changed:,})."
    return {line: index for index, line in enumerate(trimmed)}, (note,) if num_changed else ()


def _decode_bytes(tokens: list[str]) -> str:
    """Returns the text of byte-level tokens; those with letters of no byte are text themselves."""
    from tokenizers import decoders  # noqa: PLC0415  (import time)

    return decoders.ByteLevel().decode(tokens)


def _name_unused(tokens: Sequence[str]) -> tuple[str, ...]:
    """Returns tokens, those that are empty with a name that no other has."""
    known = set(tokens)

    def name(index: int) -> str:
        token = f"[unused_row{index}]"
        while token in known:
            token = f"[{token}]"
        return token

    return tuple(token or name(index) for index, token in enumerate(tokens))
