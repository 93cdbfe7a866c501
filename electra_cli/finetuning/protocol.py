"""What every kind of task can do, whatever it is."""

from array import array
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from electra_cli.data.vocabulary import Vocabulary
from electra_cli.finetuning.examples import Encoded, Example
from electra_cli.finetuning.labels import LabelMap
from electra_cli.finetuning.scores import Scores


class TextEncoder(Protocol):
    """`data.tokenization.Tokenizer` or `data.sentencepiece_model.SentencePieceTokenizer`."""

    def encode_lines(self, lines: Sequence[str]) -> list[array]:
        """Returns the ids of each line, arrays of 'I' (uint32), without special tokens."""

    def encode_with_offsets(self, text: str) -> tuple[array, np.ndarray]:
        """Returns the ids of a line, and int32 [tokens, 2], where each token begins and ends in it (characters)."""


class Task(Protocol):
    """A kind of task: examples in, arrays out; logits in, predictions and scores out.

    Attributes:
      kind: 'classification', 'regression', 'tagging' or 'question_answering'.
      labels: what the outputs of the head mean. None until `tasks.load_splits` found it or it was read
        (`LabelMap.load`) and set.
      num_outputs: outputs of the head, for each example (classification, regression) or each token. Read it once
        `labels` is set.
      primary_score: the score that tells which model is the better one; higher is better.
      score_names: all scores, the primary one among them.
    """

    kind: str
    labels: LabelMap | None

    @property
    def num_outputs(self) -> int:
        """Outputs of the head."""

    @property
    def primary_score(self) -> str:
        """The score that counts."""

    @property
    def score_names(self) -> tuple[str, ...]:
        """All scores that `score` returns."""

    def find_labels(self, examples: Sequence[Example]) -> LabelMap:
        """Returns what the outputs of the head mean, from the training data.

        Raises:
          UserError: the labels are not of this kind of task, or there is nothing to tell apart.
        """

    def check(self, examples: Sequence[Example]) -> None:
        """Checks the labels of examples against `labels`; unlabelled ones pass.

        Raises:
          UserError: one has a label that the training data did not have, or that is not of this kind.
        """

    def encode(
        self, examples: Sequence[Example], encoder: TextEncoder, vocabulary: Vocabulary, length: int
    ) -> Encoded:
        """Returns the examples as arrays of `length` positions; what is longer is cut."""

    def lengths(self, examples: Sequence[Example], encoder: TextEncoder) -> np.ndarray:
        """Returns int32 [examples]: tokens that each would take uncut, special ones included."""

    def predict(self, logits: np.ndarray, encoded: Encoded, examples: Sequence[Example]) -> list[Any]:
        """Returns a prediction an example: a label, a number, a tag a word, or the text of an answer ('': none).

        Args:
          logits: float32 [rows, num_outputs]; tagging and question answering: [rows, length, num_outputs].
          encoded: what `encode` returned, with the same rows.
          examples: those that were encoded.
        """

    def score(self, predictions: Sequence[Any], examples: Sequence[Example]) -> Scores:
        """Returns the scores of predictions for labelled examples, fractions from 0 to 1 (correlations from -1)."""
