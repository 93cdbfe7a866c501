"""The pure step of preparation: documents in, packed examples with their keys out. The same in every process."""

import dataclasses
import hashlib
import random
from collections.abc import Iterator, Sequence

import numpy as np

from electra_cli.data.corpus import Corpus, Document
from electra_cli.data.examples import add_special_tokens, pack_document
from electra_cli.data.filters import DocumentFilter
from electra_cli.data.spool import Example
from electra_cli.data.tokenization import Tokenizer
from electra_cli.data.vocabulary import Vocabulary

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

    def open_corpus(self, inputs: Sequence[str]) -> Corpus:
        """Returns the documents of the inputs."""
        return Corpus(inputs, self.document_separator, self.encoding_errors, self.text_field, self.input_weights)

    def new_filter(self) -> DocumentFilter:
        """Returns a filter for one pass over the documents."""
        return DocumentFilter(min_words=self.min_words, drops_copies=self.deduplicate == "exact")


class Packer:
    """Tokenizes documents and packs them.

    Args:
      vocabulary: the vocabulary.
      settings: how.
      use_fast: see `Tokenizer`.
    """

    def __init__(self, vocabulary: Vocabulary, settings: PrepareSettings, *, use_fast: bool):
        self._settings = settings
        tokenizer = Tokenizer(vocabulary, lower_case=settings.lower_case, use_fast=use_fast and not settings.has_words)
        self._encode = tokenizer.encode_segmented_lines if settings.has_words else tokenizer.encode_lines
        self._cls_id, self._sep_id = vocabulary.cls_id, vocabulary.sep_id

    def pack(self, documents: Sequence[Document]) -> Iterator[tuple[list[Example], float]]:
        """Yields, for each document, its examples and its place in [0, 1) for the choice of held-out documents."""
        # One call for all of them: the tokenizer works on lines in bulk.
        sentences = iter(self._encode([line for document in documents for line in document.lines]))
        for document in documents:
            own_sentences = [next(sentences) for _ in document.lines]
            # By its text: copies of a document land on the same side.
            held_out_hash = _hash(f"{self._settings.seed}/" + "\n".join(document.lines)) / 2**128
            yield list(self._pack_copies(document, own_sentences, held_out_hash)), held_out_hash

    def _pack_copies(self, document: Document, sentences: list[list[int]], held_out_hash: float) -> Iterator[Example]:
        settings = self._settings
        place = f"{settings.seed}/{document.file_index}/{document.index}"
        is_held_out = held_out_hash < settings.validation_fraction
        for copy in range(_num_copies(document.weight, place, is_held_out=is_held_out)):
            copy_place = f"{place}/copy {copy}" if copy else place
            rng = random.Random(_hash(copy_place))
            segments_of_document = pack_document(
                sentences, settings.max_seq_length, rng, single_segment_prob=_SINGLE_SEGMENT_PROB[settings.packing]
            )
            for number, segments in enumerate(segments_of_document):
                ids, first_segment_length = add_special_tokens(segments, self._cls_id, self._sep_id)
                key = _digest(f"{copy_place}/{number}")
                yield Example(key, np.array(ids, np.uint32).tobytes(), first_segment_length)


def _num_copies(weight: float, place: str, *, is_held_out: bool) -> int:
    """Returns how often a document is taken: its weight, rounded up or down by chance; a held-out one at most once."""
    whole = int(weight)
    copies = whole + (_hash(f"{place}/weight") / 2**128 < weight - whole)
    return min(copies, 1) if is_held_out else copies


def _hash(text: str) -> int:
    return int.from_bytes(_digest(text), "big")


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
