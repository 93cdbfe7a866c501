"""The pure step: blocks of text in, packed examples with their keys out. The same in every process and runner."""

import dataclasses
import hashlib
import math
import random
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from electra_cli.data import duplicates
from electra_cli.data.corpus import Block, Corpus, Document, TextFormat, read_documents
from electra_cli.data.examples import add_special_tokens, pack_document, pack_full
from electra_cli.data.spool import Example, PackedChunk, Totals
from electra_cli.data.tokenization import SentencePieceTokenizer, Tokenizer
from electra_cli.data.vocabulary import Vocabulary
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
    shard_size_mb: float = 64.0
    word_boundaries: str = "wordpiece"
    packing: str = "pairs"
    min_words: int = 0
    deduplicate: str = "none"
    text_field: str = "text"
    input_weights: tuple[float, ...] = ()

    @property
    def has_words(self) -> bool:
        """Whether records say where words are continued."""
        return self.word_boundaries == "whitespace"

    @property
    def lengths_name(self) -> str:
        """The feature of records that `Example.lengths` becomes."""
        return features.DOCUMENT_LENGTHS if self.packing == "full" else features.FIRST_SEGMENT_LENGTH

    @property
    def text_format(self) -> TextFormat:
        """How files are read."""
        return TextFormat(self.document_separator, self.encoding_errors, self.text_field)

    def open_corpus(self, inputs: Sequence[str]) -> Corpus:
        """Returns the text of the inputs."""
        return Corpus(inputs, self.text_format, self.input_weights)


@dataclasses.dataclass
class ChunkReader:
    """Reads the documents of a chunk.

    Attributes:
      settings: how.
      num_documents: documents read so far.
      num_short: those left out because they have fewer words than `min_words`.
      replaced: by file, characters that were put in place of bytes that are not UTF-8.
    """

    settings: PrepareSettings
    num_documents: int = 0
    num_short: int = 0
    replaced: Counter[str] = dataclasses.field(default_factory=Counter)

    def read(self, blocks: Iterable[Block], dropped: Collection[int] = ()) -> Iterator[tuple[int, Document]]:
        """Yields number (in the chunk) and document, those left out that are short or whose number is dropped."""
        number = 0
        min_words = self.settings.min_words
        for block in blocks:
            for document in read_documents(block, self.settings.text_format, self.replaced):
                self.num_documents += 1
                if min_words and sum(len(line.split()) for line in document.lines) < min_words:
                    self.num_short += 1
                elif number not in dropped:
                    yield number, document
                number += 1


def sign_documents(blocks: Iterable[Block], settings: PrepareSettings) -> list[tuple[int, bytes]]:
    """Returns number (in the chunk) and signature, by which `settings.deduplicate` finds copies, of each document.

    Raises:
      UserError: the text cannot be read.
    """
    sign = duplicates.near_signature if settings.deduplicate == "near" else duplicates.exact_signature
    return [(number, sign(document)) for number, document in ChunkReader(settings).read(blocks)]


class Packer:
    """Tokenizes documents and packs them.

    Args:
      vocabulary: the vocabulary.
      settings: how.
      sentencepiece_file: a SentencePiece model to tokenize with, or None.
    """

    def __init__(self, vocabulary: Vocabulary, settings: PrepareSettings, sentencepiece_file: str | None = None):
        self._settings = settings
        self._tokenizer: Tokenizer | SentencePieceTokenizer
        if sentencepiece_file:
            self._tokenizer = SentencePieceTokenizer(sentencepiece_file)
        else:
            self._tokenizer = Tokenizer(vocabulary, lower_case=settings.lower_case, keeps_words=settings.has_words)
        self._cls_id, self._sep_id = vocabulary.cls_id, vocabulary.sep_id

    def pack(
        self, blocks: Sequence[Block], dropped: Collection[int], held_out_below: float, num_buckets: int
    ) -> PackedChunk:
        """Packs a chunk.

        Args:
          blocks: its text.
          dropped: numbers of documents that are copies.
          held_out_below: documents whose place in [0, 1) lies below are held out.
          num_buckets: buckets of the spool.

        Raises:
          UserError: the text cannot be read.
        """
        packed = PackedChunk(num_buckets)
        reader = ChunkReader(self._settings)
        gathered: dict[tuple[str, int], list[tuple[str, array]]] = {}
        for _, document in reader.read(blocks, dropped):
            sentences = self._tokenizer.encode_lines(document.lines)
            if not any(sentences):
                continue
            place = f"{self._settings.seed}/{document.place}"
            num_copies = _num_copies(document.weight, place)
            if not num_copies:
                continue
            # By its text: copies of a document land on the same side.
            held_out_hash = _hash(f"{self._settings.seed}/" + "\n".join(document.lines)) / 2**128
            packed.totals.least_hash = min(packed.totals.least_hash, held_out_hash)
            split = "validation" if held_out_hash < held_out_below else "train"
            for copy in range(1 if split == "validation" else num_copies):
                copy_place = f"{place}/copy {copy}" if copy else place
                if self._settings.packing == "full":
                    ids = array("I", b"".join(sentence.tobytes() for sentence in sentences))
                    gathered.setdefault((split, copy), []).append((copy_place, ids))
                else:
                    for example in self._pack_document(sentences, copy_place):
                        packed.add(split, example)
        for (split, _), documents in gathered.items():
            for example in self._pack_full(documents):
                packed.add(split, example)
        totals = packed.totals
        totals.num_documents, totals.num_short, totals.replaced = (
            reader.num_documents,
            reader.num_short,
            reader.replaced,
        )
        return packed

    def _pack_document(self, sentences: list[array], place: str) -> Iterator[Example]:
        settings = self._settings
        segments_of_document = pack_document(
            sentences,
            settings.max_seq_length,
            random.Random(_hash(place)),
            single_segment_prob=_SINGLE_SEGMENT_PROB[settings.packing],
        )
        for number, segments in enumerate(segments_of_document):
            ids, first_segment_length = add_special_tokens(segments, self._cls_id, self._sep_id)
            yield Example(_digest(f"{place}/{number}"), array("I", [first_segment_length]).tobytes(), ids.tobytes())

    def _pack_full(self, documents: list[tuple[str, array]]) -> Iterator[Example]:
        first_place = documents[0][0]
        examples = pack_full((ids for _, ids in documents), self._settings.max_seq_length)
        for number, pieces in enumerate(examples):
            ids = array("I")
            for piece in pieces:
                ids.append(self._cls_id)
                ids += piece
                ids.append(self._sep_id)
            lengths = array("I", [len(piece) + 2 for piece in pieces])
            yield Example(_digest(f"{first_place}/full {number}"), lengths.tobytes(), ids.tobytes())


def check_documents(num_documents: int, num_short: int, names: Sequence[str], settings: PrepareSettings) -> None:
    """Checks that documents were read from the files of these names and that not all of them were short.

    Raises:
      UserError: there are none.
    """
    if not num_documents:
        raise UserError(f"--input holds no text: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}")
    if num_short == num_documents:
        raise UserError(
            f"no document of --input is left: all {num_documents:,} have fewer words than "
            f"--min_words={settings.min_words}"
        )


def check_totals(totals: Totals, names: Sequence[str], settings: PrepareSettings) -> float | None:
    """Checks what was packed of the files of these names.

    Returns:
      None; or, where chance held out no document but some are to be, the place in [0, 1) below which to hold out
      instead.

    Raises:
      UserError: there is no text, no example, or nothing is left to train on.
    """
    check_documents(totals.num_documents, totals.num_short, names, settings)
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


def _num_copies(weight: float, place: str) -> int:
    """Returns how often a document is taken for training: its weight, rounded up or down by chance."""
    if weight == 1.0:
        return 1
    whole = int(weight)
    return whole + (_hash(f"{place}/weight") / 2**128 < weight - whole)


def _hash(text: str) -> int:
    return int.from_bytes(_digest(text), "big")


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
