"""Scores of predictions: fractions from 0 to 1, correlations from -1 to 1.

The formulas are those of scikit-learn, SciPy, seqeval and the official SQuAD scripts. Where they have no value, or give
NaN and a warning, a score is 0, with the reason in `Scores.reasons`.
"""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np


class Scores(dict[str, float]):
    """Scores by name, all finite; `reasons`: why a score has no meaning and is 0, by its name."""

    def __init__(self, values: Mapping[str, float], reasons: Mapping[str, str] | None = None):
        super().__init__({name: float(value) for name, value in values.items()})
        self.reasons = dict(reasons or {})


def score_classes(predictions: Sequence[str], gold: Sequence[str], labels: Sequence[str]) -> Scores:
    """Returns accuracy, F1 and Matthews correlation of a label an example.

    With two `labels` in all, `f1` is that of the second, the positive class; with more the mean of the F1 of each label
    that occurs (macro).
    """
    from sklearn import metrics  # noqa: PLC0415  (import time)

    reasons = {}
    f1_labels = [labels[1]] if len(labels) == 2 else None
    if f1_labels and labels[1] not in gold and labels[1] not in predictions:
        reasons["f1"] = f"no example is {labels[1]!r}, the positive class, and none is predicted to be"
    if len(set(gold)) < 2:
        reasons["mcc"] = f"all examples are {gold[0]!r}"
    elif len(set(predictions)) < 2:
        reasons["mcc"] = f"all are predicted to be {predictions[0]!r}"
    with warnings.catch_warnings():
        # Of many classes of few examples; it asks whether they are numbers.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        values = {
            "accuracy": metrics.accuracy_score(gold, predictions),
            "f1": metrics.f1_score(gold, predictions, labels=f1_labels, average="macro", zero_division=0),
            "mcc": 0.0 if "mcc" in reasons else metrics.matthews_corrcoef(gold, predictions),
        }
    return Scores(values, reasons)


def score_numbers(predictions: Sequence[float], gold: Sequence[float]) -> Scores:
    """Returns Pearson's and Spearman's correlation."""
    from scipy import stats  # noqa: PLC0415  (import time)

    reason = _no_correlation(np.asarray(predictions, np.float64), np.asarray(gold, np.float64))
    values, reasons = {}, {}
    for name, function in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
        value = 0.0
        if reason is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of inputs that are all but constant; the value shows it
                value = float(function(predictions, gold)[0])
        if reason or not np.isfinite(value):
            value, reasons[name] = 0.0, reason or "the numbers are all but equal"
        values[name] = value
    return Scores(values, reasons)


def _no_correlation(predictions: np.ndarray, gold: np.ndarray) -> str | None:
    if not np.isfinite(predictions).all():
        return "a predicted number is not finite"
    if len(gold) < 2:
        return "there is one example only"
    if (gold == gold[0]).all():
        return f"all examples are {gold[0]:g}"
    if (predictions == predictions[0]).all():
        return f"all are predicted to be {predictions[0]:g}"
    return None


# BILOU and BMES have other letters for what seqeval reads as BIOES.
_SEQEVAL_LETTERS = {"L": "E", "U": "S", "M": "I"}
# 'B-PER', or 'B'; 'B_PER'; 'PER-B', ...: the forms of the tags of entities but 'O'.
_ENTITY_FORMS = [
    re.compile(form.format(letter="(?P<letter>[BIESLUM])", type="(?P<type>.+)", separator=re.escape(separator)))
    for separator in "-_:/."
    for form in ("{letter}(?:{separator}(?P<type>.*))?", "{type}{separator}{letter}")
]


def _entity_form(tags: Iterable[str]) -> re.Pattern[str] | None:
    """Returns the form that all tags but 'O' have, None: they mark no entities."""
    marks = {tag for tag in tags if tag != "O"}
    return next((form for form in _ENTITY_FORMS if marks and all(map(form.fullmatch, marks))), None)


def mark_entities(tags: Iterable[str]) -> bool:
    """Whether tags are 'O', and 'B-PER', 'PER-B' or 'B' with a letter of BIO, BIOES, BILOU or BMES, and '-', '_', ':',
    '/' or '.' in all of them; parts of speech are not."""
    return _entity_form(tags) is not None


def score_tags(predictions: Sequence[Sequence[str]], gold: Sequence[Sequence[str]], labels: Sequence[str]) -> Scores:
    """Returns the fraction of words with the right tag, and F1, precision and recall of entities.

    An entity is right when its type and its first and last word are, as in CoNLL-2003's script (`seqeval`). Where
    `labels`, all tags there are, mark none (`mark_entities`), only `accuracy` is returned.
    """
    pairs = [pair for both in zip(predictions, gold, strict=True) for pair in zip(*both, strict=True)]
    accuracy = sum(predicted_tag == right_tag for predicted_tag, right_tag in pairs) / len(pairs)
    form = _entity_form(labels)
    if form is None:
        return Scores({"accuracy": accuracy})
    from seqeval.metrics import sequence_labeling  # noqa: PLC0415  (import time)

    def to_seqeval(tag: str) -> str:
        match = form.fullmatch(tag)
        if match is None:  # 'O'
            return tag
        return "-".join(filter(None, (_SEQEVAL_LETTERS.get(match["letter"], match["letter"]), match["type"])))

    predicted, right = ([list(map(to_seqeval, tags)) for tags in sentences] for sentences in (predictions, gold))
    precision, recall, f1, _ = sequence_labeling.precision_recall_fscore_support(
        right, predicted, average="micro", zero_division=0
    )
    reasons = {}
    if not sequence_labeling.get_entities(predicted):
        reasons["precision"] = "no entity is predicted"
    if not sequence_labeling.get_entities(right):
        reasons["recall"] = "there is no entity"
    if len(reasons) == 2:
        reasons["f1"] = "there is no entity, and none is predicted"
    return Scores({"f1": f1, "precision": precision, "recall": recall, "accuracy": accuracy}, reasons)


def score_answers(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> Scores:
    """Returns `exact_match` and `f1` of SQuAD 1.1; of several right answers the one that fits best counts."""
    from electra_cli.modeling.tf_models import evaluate_squad_v1_1  # noqa: PLC0415  (import time)

    result = evaluate_squad_v1_1(_squad(answers), {str(i): text for i, text in enumerate(predictions)})
    return Scores({"f1": result["final_f1"], "exact_match": result["exact_match"]})


def score_answers_or_none(
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]],
    best_answers: Sequence[str] | None = None,
    null_margins: Sequence[float] | None = None,
) -> Scores:
    """Returns the scores of SQuAD 2.0.

    Args:
      predictions: an answer a question; '': none.
      answers: the right ones of each question; none: the context does not answer it.
      best_answers: the answer to each if one must be given.
      null_margins: the score of giving none less that of this answer. A question is answered where it is not above the
        threshold; in `predictions` that is 0.

    Returns:
      `exact_match` and `f1`; the same of questions that have an answer (`has_answer_*`) and that have none
      (`no_answer_*`), if there are any; and with the last two arguments `best_exact_match` and `best_f1`, those of the
      best threshold (`*_threshold`, logits) for these very questions.
    """
    from electra_cli.modeling.tf_models import evaluate_squad_v2_0  # noqa: PLC0415  (import time)

    dataset = _squad(answers)
    result = evaluate_squad_v2_0(dataset, {str(i): text for i, text in enumerate(predictions)})
    values = {"f1": result["f1"] / 100, "exact_match": result["exact"] / 100}
    for name, official in (("has_answer", "HasAns"), ("no_answer", "NoAns")):
        if f"{official}_f1" in result:
            values[f"{name}_f1"] = result[f"{official}_f1"] / 100
            values[f"{name}_exact_match"] = result[f"{official}_exact"] / 100
    if best_answers is None or null_margins is None:
        return Scores(values)
    # The official script takes probabilities and compares them only: ranks do, and have no rounding. It answers 0 where
    # it is best to answer no question.
    margins, ranks = np.unique(np.asarray(null_margins, np.float64), return_inverse=True)
    result = evaluate_squad_v2_0(
        dataset,
        {str(i): text for i, text in enumerate(best_answers)},
        {str(i): (rank + 1) / len(margins) for i, rank in enumerate(ranks)},
    )
    for name, official in (("f1", "f1"), ("exact_match", "exact")):
        rank = round(result[f"final_{official}_thresh"] * len(margins)) - 1
        values[f"best_{name}"] = result[f"final_{official}"] / 100
        values[f"best_{name}_threshold"] = margins[rank] if rank >= 0 else margins[0] - 1
    return Scores(values)


def _squad(answers: Sequence[Sequence[str]]) -> list[dict]:
    """Returns right answers in the form of SQuAD's files; ids are indices, as text."""
    questions = [{"id": str(i), "answers": [{"text": text} for text in texts]} for i, texts in enumerate(answers)]
    return [{"paragraphs": [{"qas": questions}]}]
