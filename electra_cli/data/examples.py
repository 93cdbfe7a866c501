"""Segment packing: token ids of documents in, unmasked examples out. Pure and seeded."""

import random
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# Of `pack_full`: a document is not cut for the sake of less room than this part of an example.
_LEAST_PART = 8


class Segments(NamedTuple):
    """An example before special tokens: ids, arrays of 'I' (uint32), of its first and second segment; the second may
    be empty."""

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
    begins the next example, so that every token of a document stands in exactly one. And it carries the target length
    from one document to the next; here each document draws its own, so that documents can be packed in any order.

    Args:
      sentences: token ids, arrays of 'I', of the document's lines, without special tokens.
      max_seq_length: tokens of an example, special tokens included; at least 8.
      rng: decides everything random.
      single_segment_prob: probability that an example has a first segment only.
      short_target_prob: probability that an example has a random, shorter target length.

    Yields:
      Segments that fit `max_seq_length` with [CLS] and one [SEP] a segment.
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
    """Makes one example of the sentences; returns it and what did not fit."""
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
    """Packs consecutive documents into full examples, for corpora of short documents.

    Each document of an example becomes a sequence of its own, with a [CLS] and a [SEP], so that attention can be kept
    within it. What exceeds an example begins the next; every token stands in exactly one.

    Args:
      documents: token ids, arrays of 'I', of each, without special tokens.
      max_seq_length: tokens of an example, special tokens included; at least 8.

    Yields:
      The pieces of documents, arrays of 'I', that make an example; they fit with a [CLS] and a [SEP] each.
    """
    pieces: list[array] = []
    room = max_seq_length - 2  # for tokens of one more piece
    for ids in documents:
        begin = 0
        while begin < len(ids):
            if pieces and room < min(len(ids) - begin, max_seq_length // _LEAST_PART):
                yield pieces
                pieces, room = [], max_seq_length - 2
            pieces.append(ids[begin : begin + room])
            begin += len(pieces[-1])
            room -= len(pieces[-1]) + 2
    if pieces:
        yield pieces


def add_special_tokens(segments: Segments, cls_id: int, sep_id: int) -> tuple[array, int]:
    """Returns the ids `[CLS] first [SEP] second [SEP]` (without the last two when the second segment is empty) and the
    length of the part of type 0, which the first [SEP] ends."""
    ids = array("I", [cls_id])
    ids += segments.first
    ids.append(sep_id)
    first_segment_length = len(ids)
    if segments.second:
        ids += segments.second
        ids.append(sep_id)
    return ids, first_segment_length
