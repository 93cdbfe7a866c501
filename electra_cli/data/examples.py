"""Segment packing: the token ids of one document in, unmasked examples out. Pure and seeded."""

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class Segments(NamedTuple):
    """An example before special tokens: ids of its first and second segment; the second may be empty."""

    first: list[int]
    second: list[int]


def pack_document(
    sentences: Iterable[Sequence[int]],
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
      sentences: token ids of the document's lines, without special tokens.
      max_seq_length: tokens of an example, special tokens included; at least 8.
      rng: decides everything random.
      single_segment_prob: probability that an example has a first segment only.
      short_target_prob: probability that an example has a random, shorter target length.

    Yields:
      Segments that fit `max_seq_length` with [CLS] and one [SEP] a segment.
    """

    def draw_target() -> int:
        return rng.randint(5, max_seq_length) if rng.random() < short_target_prob else max_seq_length

    gathered: list[list[int]] = []
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


def _without_giants(sentences: Iterable[Sequence[int]], longest: int) -> Iterator[list[int]]:
    """Cuts sentences longer than `longest`: each example copies what is left of its last sentence."""
    for sentence in sentences:
        for begin in range(0, len(sentence), longest):
            yield list(sentence[begin : begin + longest])


def _divide(
    sentences: list[list[int]], max_seq_length: int, target: int, rng: random.Random, single_segment_prob: float
) -> tuple[Segments, list[list[int]]]:
    """Makes one example of the sentences; returns it and what did not fit."""
    is_single = rng.random() < single_segment_prob
    first_target = sum(map(len, sentences)) + 1 if is_single else (target - 3) // 2
    first: list[int] = []
    second: list[int] = []
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


def add_special_tokens(segments: Segments, cls_id: int, sep_id: int) -> tuple[list[int], int]:
    """Returns the ids `[CLS] first [SEP] second [SEP]` (without the last two when the second segment is empty) and the
    length of the part of type 0, which the first [SEP] ends."""
    ids = [cls_id, *segments.first, sep_id]
    first_segment_length = len(ids)
    if segments.second:
        ids += [*segments.second, sep_id]
    return ids, first_segment_length
