"""What every kind of task can do, and the arrays that its examples become."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from electra_cli.data.tokenization import TextEncoder
from electra_cli.data.vocabulary import Vocabulary
from electra_cli.errors import UserError
from electra_cli.finetuning.examples import Examples, LabelMap, abbreviate
from electra_cli.finetuning.scores import Scores
from electra_cli.modeling import features

# Lengths that examples are padded to are multiples of it, so that hardware divides them well.
_LENGTH_STEP = 8
# Share of [UNK] among the tokens, from which it is reported.
_MIN_SHARE_UNKNOWN = 0.05


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Examples as arrays: a row is an example, or one of the windows of its context in question answering.

    Attributes:
      features: int32 [rows, length] `input_word_ids`, `input_mask`, `input_type_ids`.
      targets: classification int32 [rows], regression float32 [rows], tagging int32 [rows, length] with -1 where no
        word begins, question answering int32 [rows, 2], first and last position of the answer in the row, both 0
        ([CLS]) where the window does not hold it. None: an example is unlabelled.
      example_indices: int32 [rows], the example that a row belongs to, ascending.
      alignments: an array a row. Tagging: int32 [words], the first position of each word that was not cut. Question
        answering: int32 [tokens, 2], first character and end of each token of the context in the window.
      notices: lines for the user, for example how many examples were cut.
    """

    features: dict[str, np.ndarray]
    targets: np.ndarray | None
    example_indices: np.ndarray
    alignments: tuple[np.ndarray, ...] | None = None
    notices: tuple[str, ...] = ()


class Task(abc.ABC):
    """A kind of task: examples in, arrays out; logits in, predictions and scores out.

    `primary_score` is one of `score_names`; '': the first. Examples need room for `min_length` tokens.
    """

    kind: str
    min_length: int

    def __init__(self, primary_score: str = ""):
        self._labels: LabelMap | None = None
        self._primary_score = primary_score

    @property
    def labels(self) -> LabelMap:
        """What the outputs of the head mean; set by `tasks.load_splits`, or to what `LabelMap.load` reads."""
        if self._labels is None:
            raise ValueError("the labels of the task are not known yet: load its data, or set what LabelMap.load reads")
        return self._labels

    @labels.setter
    def labels(self, labels: LabelMap) -> None:
        self._labels = labels

    @property
    def num_outputs(self) -> int:
        """Outputs of the head, for each example (classification, regression) or for each token."""
        return len(self.labels.labels)

    @property
    @abc.abstractmethod
    def score_names(self) -> tuple[str, ...]:
        """The scores that models are compared by, the default primary one first. `score` may return more."""

    @property
    def primary_score(self) -> str:
        """The score that models are compared by; higher is better."""
        return self._primary_score or self.score_names[0]

    @abc.abstractmethod
    def find_labels(self, examples: Examples) -> LabelMap:
        """Returns what the outputs of the head mean, from labelled training data.

        Raises a `UserError` where the labels are not of this kind of task, or all the same.
        """

    def check(self, examples: Examples) -> None:
        """Raises a `UserError` for the first class or tag that the training data did not have."""
        classes = [(label, example.where) for example in examples for label in example.classes]
        known = set(self.labels.labels) if classes else set()
        for label, where in classes:
            if label not in known:
                names = abbreviate(self.labels.labels)
                raise UserError(f"{where}: label {label!r} does not occur in the training data, which has {names}")

    def encode(self, examples: Examples, encoder: TextEncoder, vocabulary: Vocabulary, length: int) -> Encoded:
        """Returns examples as arrays of `length` positions; what is longer is cut. Raises as `check`."""
        self.check(examples)
        if length < self.min_length:
            raise ValueError(f"length {length} leaves no room for text: at least {self.min_length} tokens are needed")
        encoded = self._encode(examples, encoder, vocabulary, length)
        is_unknown = encoded.features[features.INPUT_WORD_IDS] == vocabulary.unk_id
        share = is_unknown.sum() / max(1, encoded.features[features.INPUT_MASK].sum())
        if share < _MIN_SHARE_UNKNOWN:
            return encoded
        notice = (
            f"{share:.1%} of the tokens are [UNK], of which the encoder knows nothing: its vocabulary lacks words of "
            f"this text, which is of another language, case or alphabet, or has no spaces"
        )
        return dataclasses.replace(encoded, notices=(*encoded.notices, notice))

    @abc.abstractmethod
    def _encode(self, examples: Examples, encoder: TextEncoder, vocabulary: Vocabulary, length: int) -> Encoded: ...

    @abc.abstractmethod
    def lengths(self, examples: Examples, encoder: TextEncoder) -> np.ndarray:
        """Returns int32 [examples]: tokens that each would take uncut, special ones included."""

    def padded_length(self, lengths: np.ndarray, limit: int) -> int:
        """Returns the tokens, at most `limit`, that examples of `lengths` tokens are padded to."""
        longest = max(self.min_length, int(lengths.max()))
        return min(limit, -(-longest // _LENGTH_STEP) * _LENGTH_STEP)

    @abc.abstractmethod
    def predict(self, logits: np.ndarray, encoded: Encoded, examples: Examples) -> list[Any]:
        """Returns a prediction an example: a label, a number, a tag a word, or the text of an answer ('': none).

        `logits` are float32 [rows, num_outputs], of tagging and question answering [rows, length, num_outputs].
        """

    def score(self, predictions: Sequence[Any], examples: Examples) -> Scores:
        """Returns the scores of predictions for labelled examples, fractions from 0 to 1 (correlations from -1)."""
        if not examples or len(predictions) != len(examples):
            raise ValueError(f"{len(predictions)} predictions for {len(examples)} examples")
        for example in examples:
            if not example.is_labelled:
                raise ValueError(f"{example.where} is unlabelled")
        return self._score(predictions, examples)

    @abc.abstractmethod
    def _score(self, predictions: Sequence[Any], examples: Examples) -> Scores: ...


def prediction_lines(examples: Examples, predictions: Sequence[Any]) -> list[dict[str, Any]]:
    """Returns a JSON line an example: `id`, `prediction`, and the label where there is one."""
    lines = []
    for example, prediction in zip(examples, predictions, strict=True):
        line = {"id": example.id, "prediction": list(prediction) if isinstance(prediction, tuple) else prediction}
        if example.label is not None:
            line["label"] = example.label
        elif example.tags is not None:
            line["label"] = list(example.tags)
        elif example.answers or example.is_impossible:
            line["label"] = [answer.text for answer in example.answers]
        lines.append(line)
    return lines


def counted(counts: Mapping[str, int], suffix: str = "") -> tuple[str, ...]:
    """Returns a notice, as 'examples cut to 128 tokens: 5', of each count that is not 0; `suffix` follows each."""
    return tuple(f"{what}: {number:,}{suffix}" for what, number in counts.items() if number)


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
    """Returns int32 [pairs, length] `input_word_ids`, `input_mask`, `input_type_ids` of ids of one or two texts."""
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
