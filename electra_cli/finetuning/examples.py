"""What fine-tuning is made of: labelled examples, and the arrays that they become."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from electra_cli.data.vocabulary import Vocabulary
from electra_cli.modeling import features


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer that stands in a context.

    Attributes:
      text: its text, as it stands there.
      start: the character of the context that it begins with, from 0.
    """

    text: str
    start: int


@dataclasses.dataclass(frozen=True)
class Example:
    """An example of any kind of task; what its kind has no use for is empty.

    Attributes:
      where: 'FILE:LINE', or 'FILE, question ID' of SQuAD, for messages.
      id: its id in the file, or its number there, from 0.
      text: a sentence, or the first of a pair; the question; the words with spaces between them.
      second_text: the second of a pair; the context that answers the question.
      label: a class; the number of a regression; None: unlabelled.
      words: what is to be tagged.
      tags: a tag a word; None: unlabelled.
      answers: all that are right, the first is learned.
      is_impossible: whether the context does not answer the question (SQuAD 2.0).
    """

    where: str
    id: str
    text: str
    second_text: str | None = None
    label: str | float | None = None
    words: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    answers: tuple[Answer, ...] = ()
    is_impossible: bool = False

    @property
    def is_labelled(self) -> bool:
        """Whether it says what is right."""
        return self.label is not None or self.tags is not None or bool(self.answers) or self.is_impossible


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Examples as arrays: a row is an example, or one of the windows of its context in question answering.

    Attributes:
      features: int32 [rows, length] `input_word_ids`, `input_mask`, `input_type_ids`, as an encoder takes them.
      targets: classification int32 [rows], regression float32 [rows], tagging int32 [rows, length] with -1 where no
        word begins, question answering int32 [rows, 2], first and last position of the answer in the row, both 0
        ([CLS]) where the window does not hold it. None: an example is unlabelled.
      example_indices: int32 [rows], the example that a row belongs to, ascending.
      places: an array a row, which `Task.predict` reads. Tagging: int32 [words], the position that each word begins at;
        words that were cut are missing. Question answering: int32 [tokens, 2], the first character of each token of the
        context in the window, and the one behind its last. None: the kind needs none.
      notices: what a user should know, a line each; for example how many examples were cut.
    """

    features: dict[str, np.ndarray]
    targets: np.ndarray | None
    example_indices: np.ndarray
    places: tuple[np.ndarray, ...] | None = None
    notices: tuple[str, ...] = ()


def fingerprint(examples: Sequence[Example]) -> str:
    """Returns a hash of examples, wherever they stand."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr(dataclasses.replace(example, where="")).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def are_labelled(examples: Sequence[Example]) -> bool:
    """Whether there are examples, and all are labelled."""
    return bool(examples) and all(example.is_labelled for example in examples)


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
