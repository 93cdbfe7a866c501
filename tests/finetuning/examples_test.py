import json

import pytest

from electra_cli.errors import UserError
from electra_cli.finetuning.examples import LabelMap, abbreviate, most_frequent, sort_labels, to_number


def test_numbers_are_sorted_as_numbers_and_others_as_text():
    assert sort_labels(["10", "9", "-1", "2.5", "9"]) == ("-1", "2.5", "9", "10")
    assert sort_labels(["10", "9", "b", "B"]) == ("10", "9", "B", "b")
    assert sort_labels(["1", "1.0", "0"]) == ("0", "1", "1.0")


def test_what_is_a_number():
    assert (to_number("5.000"), to_number("-1e3"), to_number(" 2 ")) == (5.0, -1000.0, 2.0)
    assert [to_number(text) for text in ("nan", "inf", "", "1,5", "1_000", "x")] == [None] * 6


def test_most_frequent_is_stable():
    assert most_frequent(["b", "a", "b", "a", "c"]) == "a"


def test_a_map_is_saved_and_read(tmp_path):
    labels = LabelMap("tagging", ("B-ORT", "I-ORT", "Ö"), "Ö", 0.1, 1e-5)
    path = tmp_path / "labels.json"
    labels.save(str(path))
    assert LabelMap.load(str(path)) == labels
    assert [file.name for file in tmp_path.iterdir()] == ["labels.json"]


@pytest.mark.slow
def test_a_map_is_saved_to_a_remote_directory():
    labels = LabelMap("classification", ("neg", "pos"))
    labels.save("ram://labels/labels.json")
    assert LabelMap.load("ram://labels/labels.json") == labels


def test_a_damaged_or_missing_map_is_named(tmp_path):
    path = tmp_path / "labels.json"
    with pytest.raises(UserError, match=r"labels\.json cannot be read: No such file"):
        LabelMap.load(str(path))
    older = {"format_version": 1, "kind": "x", "labels": [], "fallback": None, "mean": 0.0, "deviation": 1.0}
    for content in ("{", "[]", "{}", json.dumps(older)):
        path.write_text(content)
        with pytest.raises(UserError, match=r"labels\.json holds no labels of a fine-tuned model"):
            LabelMap.load(str(path))


def test_long_lists_of_names_are_cut():
    assert abbreviate([str(number) for number in range(20)], limit=3) == "0, 1, 2 and 17 more"
    assert abbreviate(["x" * 100]) == "x" * 37 + "..."
