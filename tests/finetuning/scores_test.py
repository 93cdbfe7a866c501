"""Scores equal those of the libraries' and of the definitions, and are never NaN."""

import collections
import json
import re
import string
import warnings

import numpy as np
import pytest
import seqeval.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from seqeval.metrics.sequence_labeling import get_entities
from sklearn import metrics

from electra_cli.finetuning import scores

pytestmark = pytest.mark.filterwarnings("error")


def test_two_classes_by_hand():
    # Of the positive class, the second label: 2 found of 3, and 1 of 3 predicted is wrong.
    found = scores.score_classes(["1", "1", "1", "0", "0", "0"], ["1", "1", "0", "1", "0", "0"], ["0", "1"])
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["mcc"] == pytest.approx((2 * 2 - 1 * 1) / 9)
    assert found.reasons == {}


def test_f1_is_of_the_second_label_and_macro_for_more():
    predictions, gold = ["yes", "no", "no", "no"], ["yes", "yes", "no", "no"]
    assert scores.score_classes(predictions, gold, ["no", "yes"])["f1"] == pytest.approx(2 / 3)
    assert scores.score_classes(predictions, gold, ["yes", "no"])["f1"] == pytest.approx(4 / 5)
    # "maybe" never occurs and does not count.
    assert scores.score_classes(predictions, gold, ["maybe", "no", "yes"])["f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_as_many_classes_as_examples_are_no_regression():
    labels = ["0", *map(str, range(39))]
    assert scores.score_classes(labels, labels, labels)["accuracy"] == 1.0  # and no warning


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30), st.booleans())
@settings(max_examples=60, deadline=None)
def test_classes_are_scikit_learns(pairs, two):
    pairs = [(a.replace("c", "b"), b.replace("c", "b")) for a, b in pairs] if two else pairs
    predictions, gold = zip(*pairs, strict=True)
    found = scores.score_classes(predictions, gold, ["a", "b"] if two else ["a", "b", "c"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"average": "binary", "pos_label": "b"} if two and "b" in (*predictions, *gold) else {}
        f1 = metrics.f1_score(gold, predictions, zero_division=0, **options or {"average": "macro"})
        mcc = metrics.matthews_corrcoef(gold, predictions)
    if not two or options:
        assert found["f1"] == pytest.approx(f1)
    else:
        assert found["f1"] == 0 and "f1" in found.reasons
    assert found["mcc"] == pytest.approx(mcc)
    assert found["accuracy"] == pytest.approx(np.mean([a == b for a, b in pairs]))
    assert ("mcc" in found.reasons) == (len(set(gold)) == 1 or len(set(predictions)) == 1)
    json.dumps(found, allow_nan=False)


def test_undefined_scores_of_classes_say_why():
    found = scores.score_classes(["0", "0"], ["0", "0"], ["0", "1"])
    assert found == {"accuracy": 1.0, "f1": 0.0, "mcc": 0.0}
    assert found.reasons == {
        "f1": "no example is '1', the positive class, and none is predicted to be",
        "mcc": "all examples are '0'",
    }
    assert scores.score_classes(["0", "0"], ["0", "1"], ["0", "1"]).reasons == {"mcc": "all are predicted to be '0'"}


NUMBERS = st.one_of(st.floats(-1e6, 1e6), st.integers(0, 3).map(float))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_correlations_are_scipys(pairs):
    predictions, gold = zip(*pairs, strict=True)
    found = scores.score_numbers(predictions, gold)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pearson, spearman = (
            (stats.pearsonr(predictions, gold)[0], stats.spearmanr(predictions, gold)[0])
            if len(pairs) > 1
            else (np.nan, np.nan)
        )
    for name, value in (("pearson", pearson), ("spearman", spearman)):
        is_constant = len(set(gold)) == 1 or len(set(predictions)) == 1
        if np.isfinite(value) and not is_constant:
            assert found[name] == pytest.approx(value) and name not in found.reasons
        else:
            assert found[name] == 0 and found.reasons[name]
    json.dumps(found, allow_nan=False)


def test_correlations_by_hand_and_undefined_ones():
    # Deviations -1, 0, 1 and -1.5, -0.5, 2: 3.5 / sqrt(2 * 6.5).
    assert scores.score_numbers([1.0, 2.0, 4.5], [1.0, 2.0, 3.0]) == pytest.approx(
        {"spearman": 1.0, "pearson": 3.5 / 13**0.5}
    )
    assert scores.score_numbers([3.0, 3.0], [1.0, 2.0]).reasons["pearson"] == "all are predicted to be 3"
    assert scores.score_numbers([3.0, 4.0], [2.0, 2.0]).reasons["spearman"] == "all examples are 2"
    assert scores.score_numbers([3.0], [2.0]).reasons["spearman"] == "there is one example only"
    diverged = scores.score_numbers([np.nan, 4.0, 1.0], [2.0, 3.0, 4.0])
    assert diverged == {"spearman": 0.0, "pearson": 0.0}
    assert diverged.reasons["pearson"] == "a predicted number is not finite"


TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "S-LOC", "E-PER"]


@given(st.lists(st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), min_size=1, max_size=6), min_size=1))
@settings(max_examples=60, deadline=None)
def test_entities_are_seqevals(sentences):
    predictions = [[predicted for predicted, _ in sentence] for sentence in sentences]
    gold = [[right for _, right in sentence] for sentence in sentences]
    found = scores.score_tags(predictions, gold, TAGS)
    assert found["f1"] == pytest.approx(seqeval.metrics.f1_score(gold, predictions, zero_division=0))
    assert found["precision"] == pytest.approx(seqeval.metrics.precision_score(gold, predictions, zero_division=0))
    assert found["recall"] == pytest.approx(seqeval.metrics.recall_score(gold, predictions, zero_division=0))
    assert found["accuracy"] == pytest.approx(seqeval.metrics.accuracy_score(gold, predictions))
    assert ("precision" in found.reasons) == (not get_entities(predictions))
    assert ("recall" in found.reasons) == (not get_entities(gold))


def test_entities_by_hand():
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-PER"]]
    predictions = [["B-PER", "O", "O", "B-LOC"], ["O", "B-LOC"]]  # one of three predicted, one of three there
    assert scores.score_tags(predictions, gold, TAGS) == pytest.approx(
        {"f1": 1 / 3, "precision": 1 / 3, "recall": 1 / 3, "accuracy": 4 / 6}
    )
    # An entity does not go on in the next sentence, and BILOU's letters mean what BIOES' do.
    assert scores.score_tags([["I-PER"], ["I-PER"]], [["B-PER"], ["B-PER"]], ["B-X"])["f1"] == 1
    assert scores.score_tags([["B-X", "L-X", "U-X"]], [["B-X", "E-X", "S-X"]], ["B-X"])["f1"] == 1
    assert scores.score_tags([["B-X", "L-X", "U-X"]], [["B-X", "I-X", "S-X"]], ["B-X"])["f1"] == 1
    assert scores.score_tags([["NOUN", "VERB"]], [["NOUN", "NOUN"]], ["NOUN", "VERB"]) == {"accuracy": 0.5}
    none = scores.score_tags([["O", "O"]], [["O", "O"]], TAGS)
    assert none == {"f1": 0, "precision": 0, "recall": 0, "accuracy": 1} and set(none.reasons) == set(none) - {
        "accuracy"
    }


def test_which_tags_mark_entities():
    assert scores.mark_entities(["O", "B-PER", "I-PER"]) and scores.mark_entities(["B", "I"])
    assert scores.mark_entities(["B-X", "L-X", "U-X", "O"])
    assert scores.mark_entities(["O", "PER-B", "PER-I"]) and scores.mark_entities(["B_PER", "I_PER"])
    for tags in (
        ["NOUN", "VERB", "O"], ["IN", "NN"], ["O"], [], ["B-PER", "X"], ["B-PER", "PER-I"], ["B-A", "I_A"], ["0", "1"]
    ):  # fmt: skip
        assert not scores.mark_entities(tags)


@pytest.mark.parametrize("separator", ["-", "_", ":", "/", "."])
def test_entities_are_the_same_in_every_form_of_tags(separator):
    gold = [["B-PER", "I-PER", "O", "B-my_own-LOC"], ["O", "S-PER", "E-PER"]]
    predictions = [["B-PER", "O", "O", "B-my_own-LOC"], ["O", "S-PER", "O"]]
    expected = scores.score_tags(predictions, gold, TAGS)
    assert expected == pytest.approx({"f1": 4 / 7, "precision": 2 / 3, "recall": 1 / 2, "accuracy": 5 / 7})

    def change(form, sentences):
        return [["O" if tag == "O" else form.format(*tag.split("-", 1)) for tag in tags] for tags in sentences]

    for form in (f"{{0}}{separator}{{1}}", f"{{1}}{separator}{{0}}"):
        changed = [change(form, sentences) for sentences in (predictions, gold)]
        labels = sorted({tag for tags in changed[1] for tag in tags})
        assert scores.score_tags(*changed, labels) == pytest.approx(expected)


def normalized(text):
    """The definition: Rajpurkar et al., 2016 and 2018."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(?:a|an|the)\b", " ", text).split()


def overlap(predicted, right, empty):
    a, b = normalized(predicted), normalized(right)
    if not a or not b:
        return float(a == b) if empty else 0.0
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    return 2 * common / (len(a) + len(b))


ANSWERS = st.lists(st.sampled_from(["the", "A", "cat", "Cat.", "dog", "dog's", "1,000", "an", "é"]), max_size=4).map(
    " ".join
)


@given(st.lists(st.tuples(ANSWERS, st.lists(ANSWERS.filter(bool), min_size=1, max_size=3)), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_answers_are_scored_as_squad_defines(pairs):
    predictions, answers = zip(*pairs, strict=True)
    found = scores.score_answers(predictions, answers)
    exact = [max(normalized(p) == normalized(a) for a in right) for p, right in pairs]
    assert found["exact_match"] == pytest.approx(np.mean(exact))
    assert found["f1"] == pytest.approx(np.mean([max(overlap(p, a, False) for a in right) for p, right in pairs]))


@given(
    st.lists(
        st.tuples(
            ANSWERS.filter(normalized),
            st.lists(ANSWERS.filter(normalized), max_size=2),
            st.integers(-9, 9),
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda item: item[2],
    )
)
@settings(max_examples=100, deadline=None)
def test_answers_or_none_are_scored_as_squad_2_defines(triples):
    best, answers, margins = zip(*triples, strict=True)

    def at(threshold):
        given = [text if margin <= threshold else "" for text, margin in zip(best, margins, strict=True)]
        pairs = list(zip(given, (right or [""] for right in answers), strict=True))
        exact = [max(normalized(p) == normalized(a) for a in right) for p, right in pairs]
        f1 = [max(overlap(p, a, True) for a in right) for p, right in pairs]
        return given, exact, f1

    given, exact, f1 = at(0)
    found = scores.score_answers_or_none(given, answers, best, margins)
    assert (found["exact_match"], found["f1"]) == pytest.approx((np.mean(exact), np.mean(f1)))
    for name, is_in in (("has_answer", True), ("no_answer", False)):
        part = [place for place, right in enumerate(answers) if bool(right) == is_in]
        if part:
            assert found[f"{name}_exact_match"] == pytest.approx(np.mean([exact[place] for place in part]))
            assert found[f"{name}_f1"] == pytest.approx(np.mean([f1[place] for place in part]))
        else:
            assert f"{name}_f1" not in found
    for name, index in (("exact_match", 1), ("f1", 2)):
        thresholds = [min(margins) - 1, *margins]
        assert found[f"best_{name}"] == pytest.approx(max(np.mean(at(threshold)[index]) for threshold in thresholds))
        at_best = at(found[f"best_{name}_threshold"])[index]
        assert found[f"best_{name}"] == pytest.approx(np.mean(at_best))
    assert "best_f1" not in scores.score_answers_or_none(given, answers)
