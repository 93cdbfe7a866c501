"""The pure step: blocks of text in, packed examples with their keys out; the same in every process and runner."""

import dataclasses
import hashlib
import itertools
import math
import random
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from electra_cli.data import duplicates
from electra_cli.data.corpus import Block, Corpus, Document, TextFormat, read_documents
from electra_cli.data.spool import PackedChunk, PackedExample, Totals
from electra_cli.data.tokenization import Coverage, TokenizerSettings
from electra_cli.data.vocabulary import WordRules
from electra_cli.errors import UserError
from electra_cli.modeling import features

_SINGLE_SEGMENT_PROB = {"pairs": 0.1, "single": 1.0}


@dataclasses.dataclass(frozen=True)
class PrepareSettings:
    """How data is prepared; the flags of `electra-prepare` of the same names."""

    max_seq_length: int = 128
    validation_fraction: float = 0.01
    seed: int = 0
    document_separator: str = "blank_line"
    encoding_errors: str = "strict"
    lower_case: bool = True
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool = True
    max_word_length: int = 100
    shard_size_mb: float = 64.0
    word_boundaries: str = "wordpiece"
    packing: str = "pairs"
    min_words: int = 0
    deduplicate: str = "none"
    text_field: str = "text"
    input_weights: tuple[float, ...] = ()
    input_format: str = "auto"

    @property
    def rules(self) -> WordRules:
        """How text becomes words."""
        return WordRules(self.lower_case, self.strip_accents, self.tokenize_chinese_chars, self.max_word_length)

    @property
    def has_words(self) -> bool:
        """Whether records mark tokens that continue a word."""
        return self.word_boundaries == "whitespace"

    @property
    def lengths_name(self) -> str:
        """The feature of records that `PackedExample.lengths` becomes."""
        return features.DOCUMENT_LENGTHS if self.packing == "full" else features.FIRST_SEGMENT_LENGTH

    @property
    def text_format(self) -> TextFormat:
        """How files are read."""
        return TextFormat(self.document_separator, self.encoding_errors, self.text_field, self.input_format)

    def open_corpus(self, inputs: Sequence[str]) -> Corpus:
        """Returns the text of the inputs."""
        return Corpus(inputs, self.text_format, self.input_weights)


def read_chunk(
    blocks: Iterable[Block], settings: PrepareSettings, totals: Totals, dropped: Collection[int] = ()
) -> Iterator[tuple[int, Document]]:
    """Yields number (in the chunk) and document, without those that are short or whose number is dropped; counts in
    `totals` all documents, short ones, and the characters that replaced bad bytes."""
    min_words = settings.min_words
    documents = (read_documents(block, settings.text_format, totals.replaced) for block in blocks)
    for number, document in enumerate(itertools.chain.from_iterable(documents)):
        totals.num_documents += 1
        if min_words and sum(len(line.split()) for line in document.lines) < min_words:
            totals.num_short += 1
        elif number not in dropped:
            yield number, document


def sign_documents(blocks: Iterable[Block], settings: PrepareSettings) -> list[tuple[int, bytes]]:
    """Returns number (in the chunk) and signature, by which `settings.deduplicate` finds copies, of each document."""
    sign = duplicates.near_signature if settings.deduplicate == "near" else duplicates.exact_signature
    return [(number, sign(document)) for number, document in read_chunk(blocks, settings, Totals())]


class Packer:
    """Tokenizes documents and packs them."""

    def __init__(self, tokenizer: TokenizerSettings, settings: PrepareSettings):
        self._settings = settings
        self._tokenizer = tokenizer.build(keeps_words=settings.has_words)
        vocabulary = tokenizer.vocabulary
        self._coverage = Coverage(self._tokenizer, vocabulary)
        self._cls_id, self._sep_id = vocabulary.cls_id, vocabulary.sep_id

    def pack(
        self, blocks: Sequence[Block], dropped: Collection[int], held_out_below: float, num_buckets: int
    ) -> PackedChunk:
        """Packs a chunk of text for a spool of `num_buckets`; a `UserError` when the text cannot be read.

        `dropped` are numbers of documents to skip; documents whose hash in [0, 1) is lower than `held_out_below` are
        held out.
        """
        packed = PackedChunk(num_buckets)
        gathered: dict[tuple[str, int], list[tuple[str, array]]] = {}
        documents = [document for _, document in read_chunk(blocks, self._settings, packed.totals, dropped)]
        lines = [line for document in documents for line in document.lines]
        encoded = self._tokenizer.encode_lines(lines)
        rest = iter(encoded)
        for document in documents:
            sentences = list(itertools.islice(rest, len(document.lines)))
            if not any(sentences):
                continue
            position = f"{self._settings.seed}/{document.position}"
            num_copies = _num_copies(document.weight, position)
            if not num_copies:
                continue
            # By its text: copies of a document land on the same side.
            held_out_hash = _hash(f"{self._settings.seed}/" + "\n".join(document.lines)) / 2**128
            packed.totals.least_hash = min(packed.totals.least_hash, held_out_hash)
            split = "validation" if held_out_hash < held_out_below else "train"
            for copy in range(1 if split == "validation" else num_copies):
                copy_position = f"{position}/copy {copy}" if copy else position
                if self._settings.packing == "full":
                    ids = array("I", b"".join(sentence.tobytes() for sentence in sentences))
                    gathered.setdefault((split, copy), []).append((copy_position, ids))
                else:
                    for example in self._pack_document(sentences, copy_position):
                        packed.add(split, example)
        for (split, _), together in gathered.items():
            for example in self._pack_full(together):
                packed.add(split, example)
        packed.totals.coverage = self._coverage.count(lines, encoded)
        return packed

    def _pack_document(self, sentences: list[array], position: str) -> Iterator[PackedExample]:
        rng = random.Random(_hash(position))
        single_segment_prob = _SINGLE_SEGMENT_PROB[self._settings.packing]
        examples = pack_document(sentences, self._settings.max_seq_length, rng, single_segment_prob=single_segment_prob)
        for number, segments in enumerate(examples):
            ids, first_segment_length = add_special_tokens(segments, self._cls_id, self._sep_id)
            lengths = array("I", [first_segment_length])
            yield PackedExample(_digest(f"{position}/{number}"), lengths.tobytes(), ids.tobytes())

    def _pack_full(self, documents: list[tuple[str, array]]) -> Iterator[PackedExample]:
        first_position = documents[0][0]
        examples = pack_full((ids for _, ids in documents), self._settings.max_seq_length)
        for number, pieces in enumerate(examples):
            ids = array("I")
            for piece in pieces:
                ids.append(self._cls_id)
                ids += piece
                ids.append(self._sep_id)
            lengths = array("I", [len(piece) + 2 for piece in pieces])
            yield PackedExample(_digest(f"{first_position}/full {number}"), lengths.tobytes(), ids.tobytes())


def check_documents(totals: Totals, names: Sequence[str], settings: PrepareSettings) -> None:
    """Raises a `UserError` unless documents were read from the files of these names and not all of them were short."""
    if not totals.num_documents:
        raise UserError(f"--input holds no text: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}")
    if totals.num_short == totals.num_documents:
        raise UserError(
            f"no document of --input is left: all {totals.num_documents:,} have fewer words than "
            f"--min_words={settings.min_words}"
        )


def check_totals(totals: Totals, names: Sequence[str], settings: PrepareSettings) -> float | None:
    """Raises a `UserError` when there is no text, no example, or nothing to train on. Returns the hash in [0, 1) below
    which to hold out documents instead when chance held out none; else None."""
    check_documents(totals, names, settings)
    if not totals.num_records:
        raise UserError("--input gives no example: its text holds no token that the vocabulary knows")
    if settings.validation_fraction > 0 and not totals.num_examples("validation"):
        # Too few documents for the fraction: hold out the one that comes first, and its copies.
        return math.nextafter(totals.least_hash, 1.0)
    if not totals.num_examples("train"):
        raise UserError(
            f"--input has {totals.num_documents} document(s), and all of them would be held out: separate documents "
            f"by blank lines (see --document_separator), or give --validation_fraction=0 to evaluate nothing"
        )
    return None


def _num_copies(weight: float, position: str) -> int:
    """Returns how often training uses a document: its weight, rounded up or down by chance."""
    if weight == 1.0:
        return 1
    whole = int(weight)
    return whole + (_hash(f"{position}/weight") / 2**128 < weight - whole)


def _hash(text: str) -> int:
    return int.from_bytes(_digest(text), "big")


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


# Of `pack_full`: a document is not cut for the sake of less room than this part of an example.
_MIN_FRACTION = 8


class Segments(NamedTuple):
    """An example's segments without special tokens: ids, arrays of 'I' (uint32); the second may be empty."""

    first: array
    second: array


def pack_document(
    sentences: Iterable[array],
    max_seq_length: int,
    rng: random.Random,
    *,
    single_segment_prob: float = 0.1,
    short_target_prob: float = 0.05,
) -> Iterator[Segments]:
    """Packs a document as google-research/electra does (`build_pretraining_dataset.ExampleBuilder`).

    Sentences are gathered until they fill the target length, then divided into two segments: a sentence goes to the
    first segment while it fits into half of the target, and one that does not fit goes there too half of the time.

    Two departures. The original throws away what exceeds an example, of a long line all but its beginning; here it
    begins the next example, so that every token is in exactly one. And it carries the target length from one document
    to the next; here each document draws its own, so that documents can be packed in any order.

    Args:
      sentences: token ids, arrays of 'I', of the document's lines, without special tokens.
      max_seq_length: special tokens ([CLS] and one [SEP] a segment) included; at least 8.
      single_segment_prob: probability that an example has a first segment only.
      short_target_prob: probability that an example has a random, shorter target length.
    """

    def draw_target() -> int:
        return rng.randint(5, max_seq_length) if rng.random() < short_target_prob else max_seq_length

    gathered: list[array] = []
    length, target = 0, draw_target()
    for sentence in _without_giants(sentences, 64 * max_seq_length):
        gathered.append(sentence)
        length += len(sentence)
        while length >= target:
            segments, gathered = _divide(gathered, max_seq_length, target, rng, single_segment_prob)
            yield segments
            length, target = sum(map(len, gathered)), draw_target()
    while gathered:
        segments, gathered = _divide(gathered, max_seq_length, target, rng, single_segment_prob)
        yield segments
        target = draw_target()


def _without_giants(sentences: Iterable[array], longest: int) -> Iterator[array]:
    """Cuts sentences longer than `longest`: each example copies what is left of its last sentence."""
    for sentence in sentences:
        if len(sentence) <= longest:
            if sentence:
                yield sentence
            continue
        for begin in range(0, len(sentence), longest):
            yield sentence[begin : begin + longest]


def _divide(
    sentences: list[array], max_seq_length: int, target: int, rng: random.Random, single_segment_prob: float
) -> tuple[Segments, list[array]]:
    """Makes one example of the sentences; returns it and the rest."""
    is_single = rng.random() < single_segment_prob
    first_target = sum(map(len, sentences)) + 1 if is_single else (target - 3) // 2
    first, second = array("I"), array("I")
    for sentence in sentences:
        fits = len(first) + len(sentence) < first_target
        if not first or fits or (not second and len(first) < first_target and rng.random() < 0.5):
            first += sentence
        else:
            second += sentence
    room_first = max_seq_length - 2
    room_second = max(0, max_seq_length - 3 - len(first))
    rest = first[room_first:] + second[room_second:]
    return Segments(first[:room_first], second[:room_second]), [rest] if rest else []


def pack_full(documents: Iterable[array], max_seq_length: int) -> Iterator[list[array]]:
    """Packs consecutive documents, token ids as arrays of 'I' without special tokens, into full examples.

    For corpora of short documents. Each document of an example becomes a sequence with its own [CLS] and [SEP], so that
    attention can be kept within it. What exceeds an example begins the next; every token is in exactly one. Yields the
    pieces of an example, which with these special tokens fit into `max_seq_length` (8 or more).
    """
    pieces: list[array] = []
    room = max_seq_length - 2  # for tokens of one more piece
    for ids in documents:
        begin = 0
        while begin < len(ids):
            if pieces and room < min(len(ids) - begin, max_seq_length // _MIN_FRACTION):
                yield pieces
                pieces, room = [], max_seq_length - 2
            pieces.append(ids[begin : begin + room])
            begin += len(pieces[-1])
            room -= len(pieces[-1]) + 2
    if pieces:
        yield pieces


def add_special_tokens(segments: Segments, cls_id: int, sep_id: int) -> tuple[array, int]:
    """Returns ids `[CLS] first [SEP] second [SEP]`, the last two unless `second` is empty, and the length to the first
    [SEP]."""
    ids = array("I", [cls_id])
    ids += segments.first
    ids.append(sep_id)
    first_segment_length = len(ids)
    if segments.second:
        ids += segments.second
        ids.append(sep_id)
    return ids, first_segment_length
