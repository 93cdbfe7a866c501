"""Labelled examples, and what their labels mean: the outputs of a head."""

import collections
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from electra_cli import files
from electra_cli.errors import UserError

T = TypeVar("T")
LABELS_FILE = "labels.json"
# Of question answering: the second is there when some contexts do not answer (SQuAD 2.0).
ANSWER, NO_ANSWER = "answer", "no_answer"
_FORMAT_VERSION = 2


@dataclasses.dataclass(frozen=True)
class Answer:
    """A part of a context, from the character `start` on (from 0)."""

    text: str
    start: int


@dataclasses.dataclass(frozen=True)
class Example:
    """An example of any kind of task; fields that its kind does not use are empty.

    Attributes:
      where: 'FILE:LINE', or 'FILE, question ID' of SQuAD, for messages.
      id: its id in the file, or its index there.
      text, second_text: a sentence or a pair; a question and its context; the words with spaces between them.
      label: a class, or the number of a regression.
      words, tags: of tagging, as many of each.
      answers: all that are right; training uses the first.
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
        """Whether the right prediction is known."""
        return self.label is not None or self.tags is not None or bool(self.answers) or self.is_impossible

    @property
    def classes(self) -> tuple[str, ...]:
        """The class or the tags of the example; numbers are none."""
        return self.tags or ((self.label,) if isinstance(self.label, str) else ())


Examples = Sequence[Example]


def fingerprint(examples: Examples) -> str:
    """Returns a hash of examples that does not depend on their file."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr(dataclasses.replace(example, where="")).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def are_labelled(examples: Examples) -> bool:
    """Whether there are examples, and all are labelled."""
    return bool(examples) and all(example.is_labelled for example in examples)


def convert_each(convert: Callable[[T], Example], items: Iterable[T], errors: list[UserError]) -> list[Example]:
    """Returns the examples that `convert` makes of items; the `UserError`s of the others are added to `errors`."""
    examples = []
    for item in items:
        try:
            examples.append(convert(item))
        except UserError as error:
            errors.append(error)
    return examples


def first_error(errors: Sequence[UserError], num_examples: int, flag: str) -> UserError:
    """Returns the first of errors, with the number of the others and what to do; `flag` as of `tables.Columns`."""
    if len(errors) == 1:
        return errors[0]
    more = len(errors) - 1
    text = f"{errors[0]}; {more:,} more of {num_examples:,} examples {'are' if more > 1 else 'is'} bad: fix them"
    if flag == "--config.data.":
        text += f", or skip them with {flag}skip_bad_examples=true"
    return UserError(text)


@dataclasses.dataclass(frozen=True)
class LabelMap:
    """The labels of a task, each at the index of its output.

    Attributes:
      labels: of classification the classes, of tagging the tags, sorted; of question answering 'answer' and, where a
        context may have none, 'no_answer'; of regression none.
      fallback: of tagging, the tag of words that no output is computed for: 'O', or the most frequent one.
      mean, deviation: of the labels of a regression. A head learns how many deviations a number is from the mean, since
        steps of Adam are as long for numbers in thousands as for fractions.
    """

    kind: str
    labels: tuple[str, ...]
    fallback: str | None = None
    mean: float = 0.0
    deviation: float = 1.0

    def scaled(self, numbers: np.ndarray) -> np.ndarray:
        """Returns what the head should give for numbers, float32."""
        return ((numbers - self.mean) / self.deviation).astype(np.float32)

    def numbers(self, outputs: np.ndarray) -> np.ndarray:
        """Returns the numbers that the head's outputs mean, float64."""
        return outputs.astype(np.float64) * self.deviation + self.mean

    def save(self, path: str) -> None:
        """Writes the labels as JSON, completely or not at all."""
        content = {"format_version": _FORMAT_VERSION, **dataclasses.asdict(self)}
        files.write_atomically(path, json.dumps(content, indent=2) + "\n")

    @classmethod
    def load(cls, path: str) -> "LabelMap":
        """Reads what `save` wrote; raises a `UserError` where it is missing or damaged."""
        try:
            content = files.parse_json(files.read_bytes(path))
            labels = content["labels"]
            if content["format_version"] != _FORMAT_VERSION or not all(isinstance(label, str) for label in labels):
                raise ValueError(f"format_version is {content['format_version']}, labels are {labels}")
            mean, deviation = float(content["mean"]), float(content["deviation"])
            return cls(content["kind"], tuple(labels), content["fallback"], mean, deviation)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} holds no labels of a fine-tuned model ({error!r}): put it back") from error


def sort_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Returns the different labels in order: by size if all are numbers, by their characters otherwise."""
    different = set(labels)
    numbers = {label: to_number(label) for label in different}
    if all(number is not None for number in numbers.values()):
        return tuple(sorted(different, key=lambda label: (numbers[label], label)))
    return tuple(sorted(different))


def to_number(label: str) -> float | None:
    """Returns the number that a label is; None: it is no finite number."""
    try:
        number = float(label)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in label else None


def most_frequent(labels: Iterable[str]) -> str:
    """Returns the most frequent label, of several the first in order."""
    counts = collections.Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))


def abbreviate(names: Sequence[str], limit: int = 12) -> str:
    """Returns names for a message, at most `limit` of them and none too long."""
    short = [name if len(name) <= 40 else f"{name[:37]}..." for name in names[:limit]]
    return ", ".join(short) + (f" and {len(names) - limit} more" if len(names) > limit else "")
