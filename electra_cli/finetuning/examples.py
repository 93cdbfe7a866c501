"""What fine-tuning is made of: labelled examples, and the arrays that they become."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np


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
