"""Classification and regression of sentences and of pairs of sentences."""

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np

from electra_cli.data.vocabulary import Vocabulary
from electra_cli.errors import UserError
from electra_cli.finetuning import scores
from electra_cli.finetuning.base import Encoded, Task, TextEncoder, counted, cut_pair, to_features
from electra_cli.finetuning.examples import Examples, LabelMap, abbreviate, are_labelled, sort_labels, to_number

# Labels that are numbers, some of them no integers, are no classes if there are more different ones than that.
MAX_NUMERIC_CLASSES = 10
# From so many examples on, labels that do not look like those of the kind are an error.
_ENOUGH_EXAMPLES = 20


class _SentenceTask(Task):
    """How text becomes arrays, in both kinds."""

    min_length = 5

    def _encode(self, examples: Examples, encoder: TextEncoder, vocabulary: Vocabulary, length: int) -> Encoded:
        """Returns `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`; the longer text is cut first."""
        texts = _encode_texts(examples, encoder)
        pairs = [cut_pair(first, second, length) for first, second in texts]
        num_cut = int((_lengths(texts) > length).sum())
        num_invisible = sum(not first or (second is not None and not second) for first, second in texts)
        return Encoded(
            features=to_features(pairs, vocabulary, length),
            targets=self._targets(examples) if are_labelled(examples) else None,
            example_indices=np.arange(len(examples), dtype=np.int32),
            notices=counted(
                {
                    f"examples cut to {length} tokens": num_cut,
                    "examples with a text of invisible characters only, which has no token": num_invisible,
                },
                suffix=f" of {len(examples):,}",
            ),
        )

    def lengths(self, examples: Examples, encoder: TextEncoder) -> np.ndarray:
        """Returns int32 [examples]: tokens of both texts and the special ones."""
        return _lengths(_encode_texts(examples, encoder))

    @abc.abstractmethod
    def _targets(self, examples: Examples) -> np.ndarray: ...


def _encode_texts(examples: Examples, encoder: TextEncoder) -> list[tuple[Sequence[int], Sequence[int] | None]]:
    firsts = encoder.encode_lines([example.text for example in examples])
    seconds = [example.second_text for example in examples if example.second_text is not None]
    encoded_seconds = iter(encoder.encode_lines(seconds))
    return [
        (first, None if example.second_text is None else next(encoded_seconds))
        for example, first in zip(examples, firsts, strict=True)
    ]


def _lengths(texts: Sequence[tuple[Sequence[int], Sequence[int] | None]]) -> np.ndarray:
    return np.array([len(a) + 2 if b is None else len(a) + len(b) + 3 for a, b in texts], np.int32)


class Classification(_SentenceTask):
    """One class of several. Predictions are labels; scores are those of `scores.score_classes`."""

    kind = "classification"
    score_names = ("accuracy", "f1", "mcc")

    def find_labels(self, examples: Examples) -> LabelMap:
        """Returns the classes. Raises a `UserError` when there is one only, or when they look like numbers or ids."""
        labels = sort_labels(str(example.label) for example in examples)
        first, file = examples[0], _file_of(examples)
        if len(labels) == 1:
            raise UserError(
                f"{file}: {_all_have(examples)} the label {labels[0]!r}: there must be two classes at least"
            )
        numbers = [to_number(label) for label in labels]
        fraction = next((label for label, number in zip(labels, numbers, strict=True) if number and number % 1), None)
        if fraction is not None and None not in numbers and len(labels) > MAX_NUMERIC_CLASSES:
            where = next(example.where for example in examples if example.label == fraction)
            raise UserError(
                f"{where}: the label {fraction!r} and {len(labels) - 1:,} other numbers look like regression: give "
                f"--config.task=regression"
            )
        if len(examples) >= _ENOUGH_EXAMPLES and len(labels) > len(examples) / 2:
            raise UserError(
                f"{file}: {len(labels):,} different labels in {len(examples):,} examples ({first.where} has "
                f"{abbreviate([str(first.label)])!r}): is --config.data.label the right column?"
            )
        return LabelMap(self.kind, labels)

    def _targets(self, examples: Examples) -> np.ndarray:
        indices = {label: index for index, label in enumerate(self.labels.labels)}
        return np.array([indices[str(example.label)] for example in examples], np.int32)

    def predict(self, logits: np.ndarray, encoded: Encoded, examples: Examples) -> list[Any]:
        """Returns the label of the largest logit of each example."""
        return [self.labels.labels[index] for index in logits.argmax(axis=-1)]

    def _score(self, predictions: Sequence[Any], examples: Examples) -> scores.Scores:
        return scores.score_classes(predictions, [str(example.label) for example in examples], self.labels.labels)


class Regression(_SentenceTask):
    """A number. Predictions are numbers; scores are those of `scores.score_numbers`."""

    kind = "regression"
    score_names = ("spearman", "pearson")
    num_outputs = 1

    def find_labels(self, examples: Examples) -> LabelMap:
        """Returns mean and deviation. Raises a `UserError` when the numbers are all the same, or are two classes."""
        every = _numbers(examples)
        numbers, file = sorted(set(every.tolist())), _file_of(examples)
        if len(numbers) == 1:
            raise UserError(f"{file}: {_all_have(examples)} the number {numbers[0]:g}: there is nothing to learn")
        if len(examples) >= _ENOUGH_EXAMPLES and len(numbers) == 2:
            raise UserError(
                f"{file}: the labels {numbers[0]:g} and {numbers[1]:g}, and no other in "
                f"{len(examples):,} examples, look like classes: give --config.task=classification"
            )
        return LabelMap(self.kind, (), mean=float(every.mean()), deviation=float(every.std()))

    def _targets(self, examples: Examples) -> np.ndarray:
        return self.labels.scaled(_numbers(examples))

    def predict(self, logits: np.ndarray, encoded: Encoded, examples: Examples) -> list[Any]:
        """Returns a number an example."""
        return self.labels.numbers(logits[:, 0]).tolist()

    def _score(self, predictions: Sequence[Any], examples: Examples) -> scores.Scores:
        return scores.score_numbers(predictions, _numbers(examples).tolist())


def _numbers(examples: Examples) -> np.ndarray:
    return np.array([example.label for example in examples], np.float64)


def _file_of(examples: Examples) -> str:
    return examples[0].where.rpartition(":")[0] or examples[0].where


def _all_have(examples: Examples) -> str:
    number = len(examples)
    return f"all {number:,} training examples have" if number > 1 else "the only training example has"
