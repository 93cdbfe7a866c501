"""Ids of texts in, `[CLS] a [SEP] b [SEP]` as padded arrays out."""

from collections.abc import Sequence

import numpy as np

from electra_cli import features
from electra_cli.data.vocabulary import Vocabulary


def shares(num_first: int, num_second: int, room: int) -> tuple[int, int]:
    """Returns how many tokens of two texts are kept so that `room` holds both: the longer one is cut, as BERT does.

    BERT removes one token after another from the end of the longer text, of the second if both are equal.
    """
    if num_first + num_second <= room:
        return num_first, num_second
    first = min(num_first, max(room - num_second, (room + 1) // 2))
    return first, room - first


def cut_pair(first: Sequence[int], second: Sequence[int] | None, length: int) -> tuple[list[int], list[int] | None]:
    """Returns the ids of one or two texts, cut so that they take `length` positions with special tokens."""
    if second is None:
        return list(first[: length - 2]), None
    num_first, num_second = shares(len(first), len(second), length - 3)
    return list(first[:num_first]), list(second[:num_second])


def to_features(
    pairs: Sequence[tuple[Sequence[int], Sequence[int] | None]], vocabulary: Vocabulary, length: int
) -> dict[str, np.ndarray]:
    """Returns int32 [pairs, length] `input_word_ids`, `input_mask` and `input_type_ids`.

    Args:
      pairs: ids of the first and of the second text, None where there is none, that fit.
      vocabulary: for the ids of [CLS], [SEP] and [PAD].
      length: positions of a row.
    """
    cls, sep = vocabulary.cls_id, vocabulary.sep_id
    word_ids: np.ndarray = np.full([len(pairs), length], vocabulary.pad_id, np.int32)
    mask, type_ids = np.zeros_like(word_ids), np.zeros_like(word_ids)
    for row, (first, second) in enumerate(pairs):
        ids = [cls, *first, sep]
        begin = len(ids)
        if second is not None:
            ids += [*second, sep]
        word_ids[row, : len(ids)] = ids
        mask[row, : len(ids)] = 1
        type_ids[row, begin : len(ids)] = 1
    return {features.INPUT_WORD_IDS: word_ids, features.INPUT_MASK: mask, features.INPUT_TYPE_IDS: type_ids}


def require_room(length: int, least: int) -> None:
    """Raises ValueError when `length` positions are fewer than `least`."""
    if length < least:
        raise ValueError(f"length {length} leaves no room for text: at least {least} tokens are needed")
