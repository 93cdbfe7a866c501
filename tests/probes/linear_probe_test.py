import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from sklearn.model_selection import StratifiedKFold

from electra_cli.config.labeled_files import parse_probes
from electra_cli.errors import UserError
from electra_cli.probes.linear_probe import read_probe_file, score_linear_model


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


def read(tmp_path, lines, naming="", most=2000, name="data.tsv"):
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n")
    (file,) = parse_probes((f"{path}{naming}",))
    return read_probe_file(file, most)


def labelled(labels):
    return ["sentence\tlabel", *(f"text {i}\t{label}" for i, label in enumerate(labels))]


def test_classes_and_pairs(tmp_path):
    probe = read(tmp_path, labelled(["b", "a"] * 5))
    assert (probe.name, probe.is_classification) == ("data", True)
    assert probe.targets.tolist() == ["b", "a"] * 5
    assert probe.texts[:2] == (("text 0",), ("text 1",))
    lines = ["x,y,z", *(f"one {i},two {i},{i / 4}" for i in range(12))]
    probe = read(tmp_path, lines, ":text=x,second_text=y,label=z", name="pairs.csv")
    assert not probe.is_classification and probe.targets.dtype == np.float64
    assert probe.texts[3] == ("one 3", "two 3") and probe.targets[3] == 0.75


@pytest.mark.parametrize(
    ("labels", "naming", "is_classification"),
    [
        ([i % 12 for i in range(60)], "", True),  # no fractions: names of classes
        ([i % 12 for i in range(60)], ":task=regression", False),
        ([i % 11 / 2 for i in range(60)], "", False),
        ([i % 10 / 2 for i in range(60)], "", True),  # ten values
        ([i % 11 / 2 for i in range(60)], ":task=classification", True),
        ([*(i % 11 / 2 for i in range(60)), "nan"], "", True),
    ],
)
def test_labels_are_numbers_or_classes(tmp_path, labels, naming, is_classification):
    assert read(tmp_path, labelled(labels), naming).is_classification == is_classification


def test_the_same_examples_are_chosen_each_time(tmp_path):
    lines = labelled([i % 3 for i in range(400)])
    first, second = read(tmp_path, lines, most=90), read(tmp_path, lines, most=90)
    assert first.texts == second.texts and len(first.texts) == 90
    numbers = [int(text.split()[1]) for (text,) in first.texts]
    assert numbers == sorted(set(numbers))
    assert min(numbers) < 40 and max(numbers) >= 360  # from all over the file
    assert first.targets.tolist() == [str(number % 3) for number in numbers]


@pytest.mark.parametrize(
    ("lines", "naming", "name", "message"),
    [
        (labelled(["a"] * 30), "", "data.tsv", r"two labels at least must have 5 examples .* are a \(30\)"),
        (labelled(["a"] * 30 + ["b"] * 4), "", "data.tsv", r"labels are a \(30\), b \(4\): is --config\.eval\.probes"),
        (labelled([1.5] * 30), ":task=regression", "data.tsv", "30 examples with 1 different numbers are too few"),
        (labelled(range(9)), ":task=regression", "data.tsv", "9 examples with 9 different"),
        (labelled(["a"] * 9), ":task=regression", "data.tsv", r"data\.tsv:2: the label 'a' is no number"),
        (["sentence", "x"], "", "data.tsv", r"no column label; .* with --config\.eval\.probes=FILE:label=NAME"),
        (["sentence,label", "x,1"], "", "data.tsv", r"between commas: --config\.eval\.probes=FILE:format=csv"),
        (["a B-PER"], "", "data.conll", r"a probe needs a table, .*--config\.eval\.probes=FILE:format=tsv\|csv"),
        (labelled(["a", ""]), "", "data.tsv", r"data\.tsv:3: has no label, and others of the file do"),
    ],
)
def test_what_cannot_be_probed(tmp_path, lines, naming, name, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, lines, naming, name=name)


def test_a_directory_is_told_as_such(tmp_path):
    (file,) = parse_probes((str(tmp_path),))
    with pytest.raises(UserError, match="is a directory, not a file"):
        read_probe_file(file, 100)
