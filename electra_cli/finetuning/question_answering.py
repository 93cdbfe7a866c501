"""Answers to questions, as spans of a context."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from electra_cli.data.vocabulary import Vocabulary
from electra_cli.finetuning import scores
from electra_cli.finetuning.base import Encoded, Task, TextEncoder, counted, to_features
from electra_cli.finetuning.examples import ANSWER, NO_ANSWER, Example, Examples, LabelMap, are_labelled
from electra_cli.modeling import features

# Tokens of a question that are read, those of BERT and of the original (`max_query_length`).
MAX_QUESTION_LENGTH = 64
# Stands for the margin of a question with a context of no tokens: that of no answer, whatever the threshold.
_NO_CANDIDATE_MARGIN = 1e9


class PredictedAnswer(str):
    """The text of an answer, '' for none, with the candidates that it was chosen from.

    Attributes:
      candidates: (text, score) of the best answers, the best one first; scores are sums of two logits.
      null_margin: the score of giving no answer less that of the best one (logits). No answer is given where it is
        above 0, by a task that knows contexts without one.
    """

    candidates: tuple[tuple[str, float], ...]
    null_margin: float

    def __new__(
        cls, text: str, candidates: tuple[tuple[str, float], ...] = (), null_margin: float = _NO_CANDIDATE_MARGIN
    ) -> "PredictedAnswer":
        """Returns the text with its attributes."""
        answer = super().__new__(cls, text)
        answer.candidates = candidates
        answer.null_margin = null_margin
        return answer


class QuestionAnswering(Task):
    """SQuAD 1.1, or 2.0 where the training data has questions that their context does not answer.

    Contexts that are longer than a row are read in windows; an answer is taken from the window that shows the most
    context of its first token. Predictions are `PredictedAnswer`s, parts of the context as it is in the file; scores
    are `f1` and `exact_match`, and of 2.0 more (`scores.score_answers_or_none`).

    `doc_stride` are tokens between the beginnings of two windows, at most those that fit after the question;
    `max_answer_length` tokens of a predicted answer; `num_best` candidates that a prediction keeps at most.
    """

    kind = "question_answering"
    min_length = 16
    score_names = ("f1", "exact_match")
    num_outputs = 2

    def __init__(self, primary_score: str = "", *, doc_stride: int, max_answer_length: int, num_best: int):
        super().__init__(primary_score)
        self._doc_stride = doc_stride
        self._max_answer_length = max_answer_length
        self._num_best = num_best

    def find_labels(self, examples: Examples) -> LabelMap:
        """Returns 'answer', and 'no_answer' if an example has none."""
        has_none = any(example.is_impossible for example in examples)
        return LabelMap(self.kind, (ANSWER, NO_ANSWER) if has_none else (ANSWER,))

    def _encode(self, examples: Examples, encoder: TextEncoder, vocabulary: Vocabulary, length: int) -> Encoded:
        """Returns `[CLS] question [SEP] window [SEP]`, for each window of each context."""
        questions = encoder.encode_lines([example.text for example in examples])
        contexts: dict[str, tuple[Sequence[int], np.ndarray]] = {}  # several questions share one
        rows, alignments, targets, example_indices = [], [], [], []
        num_cut = num_invisible = 0
        for index, (example, question) in enumerate(zip(examples, questions, strict=True)):
            assert example.second_text is not None
            if example.second_text not in contexts:
                contexts[example.second_text] = encoder.encode_with_offsets(example.second_text)
            ids, offsets = contexts[example.second_text]
            kept = question[: self._question_length(length)]
            num_cut += len(kept) < len(question)
            num_invisible += not len(question) or not len(ids)
            answer = _answer_tokens(example, offsets)
            for begin, end in self._windows(len(ids), length - len(kept) - 3):
                rows.append((kept, ids[begin:end]))
                alignments.append(offsets[begin:end])
                is_here = answer is not None and begin <= answer[0] and answer[1] < end
                shift = len(kept) + 2 - begin
                targets.append((answer[0] + shift, answer[1] + shift) if answer and is_here else (0, 0))
                example_indices.append(index)
        return Encoded(
            features=to_features(rows, vocabulary, length),
            targets=np.array(targets, np.int32) if are_labelled(examples) else None,
            example_indices=np.array(example_indices, np.int32),
            alignments=tuple(alignments),
            notices=counted(
                {
                    f"questions cut to {self._question_length(length)} tokens": num_cut,
                    "questions or contexts of invisible characters only, which have no token": num_invisible,
                }
            ),
        )

    @staticmethod
    def _question_length(length: int) -> int:
        return min(MAX_QUESTION_LENGTH, (length - 3) // 2)

    def _windows(self, num_tokens: int, room: int) -> list[tuple[int, int]]:
        stride, last = min(self._doc_stride, room), max(num_tokens - room, 0)
        return [(begin, min(begin + room, num_tokens)) for begin in range(0, last + stride, stride)]

    def lengths(self, examples: Examples, encoder: TextEncoder) -> np.ndarray:
        """Returns int32 [examples]: tokens of the question, 64 at most, of the whole context, and the special ones."""
        contexts = sorted({example.second_text or "" for example in examples})
        num_tokens = dict(zip(contexts, map(len, encoder.encode_lines(contexts)), strict=True))
        questions = encoder.encode_lines([example.text for example in examples])
        of_questions = [min(MAX_QUESTION_LENGTH, len(question)) for question in questions]
        of_contexts = [num_tokens[example.second_text or ""] for example in examples]
        return np.array(of_questions, np.int32) + np.array(of_contexts, np.int32) + 3

    def predict(self, logits: np.ndarray, encoded: Encoded, examples: Examples) -> list[Any]:
        """Returns the best span of all windows of each example, or '' where none is better: `PredictedAnswer`s."""
        assert encoded.alignments is not None
        spans: list[list[tuple[float, int, int]]] = [[] for _ in examples]
        null_scores = np.full(len(examples), np.inf)
        context_begins = encoded.features[features.INPUT_TYPE_IDS].argmax(axis=1)
        beginnings = self._where_answers_begin(encoded)
        for row, (example_index, offsets) in enumerate(zip(encoded.example_indices, encoded.alignments, strict=True)):
            null_scores[example_index] = min(null_scores[example_index], float(logits[row, 0].sum()))
            window = logits[row, context_begins[row] : context_begins[row] + len(offsets)]
            for score, first, last in self._best_spans(window, beginnings[row]):
                spans[example_index].append((score, int(offsets[first, 0]), int(offsets[last, 1])))
        return [
            self._choose(example.second_text or "", of_example, float(null_score))
            for example, of_example, null_score in zip(examples, spans, null_scores, strict=True)
        ]

    def _where_answers_begin(self, encoded: Encoded) -> list[np.ndarray]:
        """Returns, of each row, in which of its window's tokens an answer may begin, bool [tokens]."""
        assert encoded.alignments is not None
        lengths = [len(offsets) for offsets in encoded.alignments]
        first_rows = np.flatnonzero(np.diff(encoded.example_indices, prepend=-1))
        may_begin: list[np.ndarray] = []
        for first, end in zip(first_rows, [*first_rows[1:], len(lengths)], strict=True):
            # The first of several windows is as long as its room is.
            step = min(self._doc_stride, lengths[first])
            may_begin += _most_context([(step * index, lengths[first + index]) for index in range(end - first)])
        return may_begin

    def _best_spans(self, window: np.ndarray, may_begin: np.ndarray) -> list[tuple[float, int, int]]:
        """Returns (score, first, last token) of the best spans of a window's logits, float32 [tokens, 2]."""
        longest = min(self._max_answer_length, len(window))
        if not longest:
            return []
        ends = np.concatenate([window[:, 1], np.full(longest - 1, -np.inf, np.float32)])
        # [first token, tokens behind it]
        begins = np.where(may_begin, window[:, 0], -np.inf)
        totals = begins[:, np.newaxis] + np.lib.stride_tricks.sliding_window_view(ends, longest)
        flat = totals.ravel()
        best = np.argpartition(-flat, min(self._num_best, len(flat)) - 1)[: self._num_best]
        spans = ((float(flat[index]), *divmod(int(index), longest)) for index in best)
        return [(score, first, first + more) for score, first, more in spans if np.isfinite(score)]

    def _choose(self, context: str, spans: list[tuple[float, int, int]], null_score: float) -> PredictedAnswer:
        best: dict[str, float] = {}
        for score, begin, end in sorted(spans, key=lambda span: (-span[0], span[1:])):
            if len(best) == self._num_best:
                break
            if context[begin:end].strip():
                best.setdefault(context[begin:end], score)
        if not best:
            return PredictedAnswer("")
        candidates = tuple(best.items())
        margin = null_score - candidates[0][1]
        gives_none = NO_ANSWER in self.labels.labels and margin > 0
        return PredictedAnswer("" if gives_none else candidates[0][0], candidates, margin)

    def _score(self, predictions: Sequence[Any], examples: Examples) -> scores.Scores:
        """Returns the scores of SQuAD 2.0 if the task or an example has questions without an answer, else of 1.1.

        The best threshold is among them for `PredictedAnswer`s only, not for plain strings.
        """
        answers = [[answer.text for answer in example.answers] for example in examples]
        if NO_ANSWER not in self.labels.labels and all(answers):
            return scores.score_answers(predictions, answers)
        if not all(isinstance(prediction, PredictedAnswer) for prediction in predictions):
            return scores.score_answers_or_none(predictions, answers)
        best = [prediction.candidates[0][0] if prediction.candidates else "" for prediction in predictions]
        margins = [prediction.null_margin for prediction in predictions]
        return scores.score_answers_or_none(predictions, answers, best, margins)


def _most_context(windows: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Returns, of each window (first token, number of tokens), bool [tokens], where no other window shows more context.

    That is how many tokens are to the left or to the right, whichever are fewer, and among equals the longer window,
    then the first one: the rule of BERT (`run_squad.py`, `_check_is_max_context`).
    """
    best = np.full(max(begin + length for begin, length in windows), -1.0)
    owner: np.ndarray = np.zeros(len(best), np.int32)
    for index, (begin, length) in enumerate(windows):
        distances = np.arange(length)
        context = np.minimum(distances, distances[::-1]) + 0.01 * length
        is_better = context > best[begin : begin + length]
        best[begin : begin + length][is_better] = context[is_better]
        owner[begin : begin + length][is_better] = index
    return [owner[begin : begin + length] == index for index, (begin, length) in enumerate(windows)]


def _answer_tokens(example: Example, offsets: np.ndarray) -> tuple[int, int] | None:
    """Returns the first and the last token of the first answer; None: no token is a part of one."""
    if not example.answers:
        return None
    answer = example.answers[0]
    first = int((offsets[:, 1] <= answer.start).sum())
    last = int((offsets[:, 0] < answer.start + len(answer.text)).sum()) - 1
    return (first, last) if first <= last else None
