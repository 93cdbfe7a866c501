"""A tag for each word of a sentence."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from electra_cli.data.vocabulary import Vocabulary
from electra_cli.errors import UserError
from electra_cli.finetuning import scores
from electra_cli.finetuning.base import Encoded, Task, TextEncoder, to_features
from electra_cli.finetuning.examples import Examples, LabelMap, are_labelled, most_frequent, sort_labels

# Target of positions where no word begins.
NO_WORD = -1


class Tagging(Task):
    """A tag a word, which the word's first token carries. Predictions are tuples of tags, one for every word.

    Words behind the last position are not learned, and predicted as `LabelMap.fallback`. Scores are `f1` (of entities),
    `precision`, `recall` and `accuracy` (of words), or `accuracy` alone where tags mark no entities.
    """

    kind = "tagging"
    min_length = 3

    @property
    def score_names(self) -> tuple[str, ...]:
        """All, or `accuracy` alone once it is known that the tags mark no entities."""
        if self._labels is not None and not scores.mark_entities(self._labels.labels):
            return ("accuracy",)
        return ("f1", "precision", "recall", "accuracy")

    def find_labels(self, examples: Examples) -> LabelMap:
        """Returns the tags of the training data. Raises a `UserError` when there is one only."""
        tags = [tag for example in examples for tag in example.tags or ()]
        labels = sort_labels(tags)
        if len(labels) == 1:
            file = examples[0].where.rpartition(":")[0]
            raise UserError(f"{file}: all {len(tags):,} words have the tag {labels[0]!r}: there must be two at least")
        fallback = "O" if "O" in labels else most_frequent(tags)
        return LabelMap(self.kind, labels, fallback)

    def _encode(self, examples: Examples, encoder: TextEncoder, vocabulary: Vocabulary, length: int) -> Encoded:
        """Returns `[CLS] words [SEP]`; of a word without tokens, `[UNK]` is the token."""
        indices = {label: index for index, label in enumerate(self.labels.labels)}
        unknown = [vocabulary.unk_id]
        rows, alignments, num_invisible = [], [], 0
        targets: np.ndarray = np.full([len(examples), length], NO_WORD, np.int32)
        for row, example in enumerate(examples):
            assert example.words is not None
            ids: list[int] = []
            starts: list[int] = []
            for pieces in encoder.encode_words(example.words):
                if len(ids) >= length - 2:
                    break
                num_invisible += not pieces
                starts.append(len(ids) + 1)
                # An invisible word, of control characters or unusual spaces, needs a token that carries its tag.
                ids += pieces or unknown
            rows.append((ids[: length - 2], None))
            alignments.append(np.array(starts, np.int32))
            if example.tags is not None:
                targets[row, starts] = [indices[tag] for tag in example.tags[: len(starts)]]
        missing = [len(example.words or ()) - len(starts) for example, starts in zip(examples, alignments, strict=True)]
        notices = []
        if num_invisible:
            notices.append(f"words of invisible characters only, read as [UNK]: {num_invisible:,}")
        if any(missing):
            notices.append(
                f"words behind {length} tokens are not learned, and predicted as {self.labels.fallback!r}: "
                f"{sum(missing):,}, in {sum(map(bool, missing)):,} of {len(missing):,} examples"
            )
        return Encoded(
            features=to_features(rows, vocabulary, length),
            targets=targets if are_labelled(examples) else None,
            example_indices=np.arange(len(examples), dtype=np.int32),
            alignments=tuple(alignments),
            notices=tuple(notices),
        )

    def lengths(self, examples: Examples, encoder: TextEncoder) -> np.ndarray:
        """Returns int32 [examples]: tokens of all words, [CLS] and [SEP]."""
        return np.array(
            [sum(len(pieces) or 1 for pieces in encoder.encode_words(example.words or ())) + 2 for example in examples],
            np.int32,
        )

    def predict(self, logits: np.ndarray, encoded: Encoded, examples: Examples) -> list[Any]:
        """Returns a tuple of tags an example, one for each of its words."""
        labels, fallback = self.labels.labels, self.labels.fallback
        assert encoded.alignments is not None
        return [
            (*(labels[index] for index in best[starts]), *[fallback] * (len(example.words or ()) - len(starts)))
            for best, starts, example in zip(logits.argmax(axis=-1), encoded.alignments, examples, strict=True)
        ]

    def _score(self, predictions: Sequence[Any], examples: Examples) -> scores.Scores:
        gold = [example.tags or () for example in examples]
        return scores.score_tags(predictions, gold, self.labels.labels)
