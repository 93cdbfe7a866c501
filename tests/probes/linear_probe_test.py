import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from sklearn.model_selection import StratifiedKFold

from electra_cli.probes.linear_probe import score_linear_model


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_classes_are_scored_on_what_was_not_fitted(rng):
    features = rng.normal(3, 2, (200, 10))
    targets = np.array(["b" if row[:2].sum() + rng.normal() > 6 else "a" for row in features])
    predictions = targets.copy()
    for fitted, held_out in StratifiedKFold(5, shuffle=True, random_state=0).split(features, targets):
        mean, deviation = features[fitted].mean(axis=0), features[fitted].std(axis=0)
        model = LogisticRegression(C=0.01, max_iter=500).fit((features[fitted] - mean) / deviation, targets[fitted])
        predictions[held_out] = model.predict((features[held_out] - mean) / deviation)
    scores = score_linear_model(features.astype(np.float32), targets, is_classification=True)
    assert list(scores) == ["accuracy", "f1", "mcc"]
    assert scores["accuracy"] == accuracy_score(targets, predictions) > 0.7
    assert scores["f1"] == pytest.approx(f1_score(targets, predictions, pos_label="b"))
    assert scores["mcc"] == pytest.approx(matthews_corrcoef(targets, predictions))


def test_nothing_is_found_where_nothing_is(rng):
    # More features than examples: whoever scored on what was fitted would find 1.
    features = rng.normal(size=(200, 300))
    classes = score_linear_model(features, rng.choice(["a", "b"], 200), is_classification=True)
    assert classes["accuracy"] < 0.62
    numbers = score_linear_model(features, rng.normal(size=200), is_classification=False)
    # Below 0 by chance: what is held out is the lower, the higher the mean of what is fitted.
    assert numbers["spearman"] < 0.2


def test_numbers(rng):
    features = rng.normal(size=(200, 10)).astype(np.float32)
    targets = features[:, 0] * 2 - features[:, 1] + 5
    scores = score_linear_model(features, targets.astype(np.float64), is_classification=False)
    assert list(scores) == ["spearman", "pearson"] and scores["pearson"] > 0.98


def test_rare_classes_and_constant_features_pass_without_a_warning(capfd, rng):
    features = np.concatenate([rng.normal(size=(43, 3)), np.ones((43, 1))], axis=1)
    targets = np.array(["a"] * 20 + ["b"] * 20 + ["c", "d", "d"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = score_linear_model(features, targets, is_classification=True)
    assert first == score_linear_model(features, targets, is_classification=True)
    assert all(np.isfinite(value) for value in first.values())
    assert capfd.readouterr() == ("", "")
