"""What every kind of task can do, whatever it is."""

import abc
from array import array
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from electra_cli.data.vocabulary import Vocabulary
from electra_cli.finetuning.examples import Encoded, Example
from electra_cli.finetuning.labels import LabelMap
from electra_cli.finetuning.scores import Scores

KINDS = ("classification", "regression", "tagging", "question_answering")


class TextEncoder(Protocol):
    """`data.tokenization.Tokenizer` or `data.sentencepiece_model.SentencePieceTokenizer`."""

    def encode_lines(self, lines: Sequence[str]) -> list[array]:
        """Returns the ids of each line, arrays of 'I' (uint32), without special tokens."""

    def encode_with_offsets(self, text: str) -> tuple[array, np.ndarray]:
        """Returns the ids of a line, and int32 [tokens, 2], where each token begins and ends in it (characters)."""


class Task(abc.ABC):
    """A kind of task: examples in, arrays out; logits in, predictions and scores out.

    Args:
      primary_score: one of `score_names`, in place of the kind's own; '': the kind's own.

    Attributes:
      kind: one of `KINDS`.
      least_length: tokens that an example must have room for, so that some are text.
      labels: what the outputs of the head mean. None until `tasks.load_splits` found it, or it was read
        (`LabelMap.load`) and set.
    """

    kind: str
    least_length: int

    def __init__(self, primary_score: str = ""):
        self.labels: LabelMap | None = None
        self._primary_score = primary_score

    @property
    def known_labels(self) -> LabelMap:
        """What the outputs of the head mean.

        Raises:
          ValueError: `labels` is not set yet.
        """
        if self.labels is None:
            raise ValueError("the labels of the task are not known yet: load its data, or set what LabelMap.load reads")
        return self.labels

    @property
    @abc.abstractmethod
    def num_outputs(self) -> int:
        """Outputs of the head, for each example (classification, regression) or for each token."""

    @property
    @abc.abstractmethod
    def score_names(self) -> tuple[str, ...]:
        """The scores that models are compared by; the kind's own primary one first. `score` may return more."""

    @property
    def primary_score(self) -> str:
        """The score that tells which model is the better one; higher is better."""
        return self._primary_score or self.score_names[0]

    @abc.abstractmethod
    def find_labels(self, examples: Sequence[Example]) -> LabelMap:
        """Returns what the outputs of the head mean, from the training data, all labelled.

        Raises:
          UserError: the labels are not of this kind of task, or there is nothing to tell apart.
        """

    @abc.abstractmethod
    def check(self, examples: Sequence[Example]) -> None:
        """Checks labels against those of the training data; unlabelled examples pass.

        Raises:
          UserError: one has a label that the training data did not have.
        """

    @abc.abstractmethod
    def encode(self, examples: Sequence[Example], encoder: TextEncoder, vocabulary: Vocabulary, length: int) -> Encoded:
        """Returns examples as arrays of `length` positions; what is longer is cut.

        Raises:
          UserError: as `check`.
          ValueError: `length` leaves no room for text.
        """

    @abc.abstractmethod
    def lengths(self, examples: Sequence[Example], encoder: TextEncoder) -> np.ndarray:
        """Returns int32 [examples]: tokens that each would take uncut, special ones included."""

    @abc.abstractmethod
    def predict(self, logits: np.ndarray, encoded: Encoded, examples: Sequence[Example]) -> list[Any]:
        """Returns a prediction an example: a label, a number, a tag a word, or the text of an answer ('': none).

        Args:
          logits: float32 [rows, num_outputs]; of tagging and question answering [rows, length, num_outputs].
          encoded: what `encode` returned, with the same rows.
          examples: those that were encoded.
        """

    @abc.abstractmethod
    def score(self, predictions: Sequence[Any], examples: Sequence[Example]) -> Scores:
        """Returns the scores of predictions for labelled examples, fractions from 0 to 1 (correlations from -1).

        Raises:
          ValueError: there are no examples, or not as many predictions, or an example is unlabelled.
        """


def require_scorable(predictions: Sequence[Any], examples: Sequence[Example]) -> None:
    """Raises ValueError where predictions cannot be compared with examples."""
    if not examples or len(predictions) != len(examples):
        raise ValueError(f"{len(predictions)} predictions for {len(examples)} examples")
    for example in examples:
        if not example.is_labelled:
            raise ValueError(f"{example.where} is unlabelled")
