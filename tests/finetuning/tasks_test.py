import collections
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_cli.config.finetuning import check
from electra_cli.errors import UserError
from electra_cli.finetuning.examples import LabelMap
from electra_cli.finetuning.question_answering import QuestionAnswering
from electra_cli.finetuning.sentences import Classification, Regression
from electra_cli.finetuning.tagging import Tagging
from electra_cli.finetuning.tasks import build_task, load_file, load_splits, split_off
from tests.finetuning.common import config_of, question, sentence, tagged


def load(directory, seed=0, kind="classification", **changes):
    config = config_of(kind, dir=str(directory), **changes)
    check(config)
    task = build_task(config)
    return config, task, load_splits(config, task, seed)


def write_table(path, rows, header="text\tlabel"):
    path.write_text("".join(line + "\n" for line in ([header] if header else []) + ["\t".join(row) for row in rows]))


@pytest.fixture
def directory(tmp_path):
    write_table(tmp_path / "train.tsv", [(f"text {number}", str(number % 2)) for number in range(40)])
    write_table(tmp_path / "dev.tsv", [("text 0", "0"), ("other", "1")])
    write_table(tmp_path / "test.tsv", [("one",), ("two",)], "text")
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("classification", Classification),
        ("regression", Regression),
        ("tagging", Tagging),
        ("question_answering", QuestionAnswering),
    ],
)
def test_kinds_and_primary_scores(kind, expected):
    task = build_task(config_of(kind))
    assert type(task) is expected and task.kind == kind
    assert task.primary_score == task.score_names[0]
    assert build_task(config_of(kind, task.score_names[-1])).primary_score == task.score_names[-1]


def test_three_files(directory):
    _, task, splits = load(directory, train="train.tsv", validation="dev.tsv", test="test.tsv")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (40, 2, 2)
    assert splits.labels == task.labels == LabelMap("classification", ("0", "1"))
    assert splits.notices == (
        f"{directory}/train.tsv: text in column text, labels in label",
        f"{directory}/test.tsv: text in column text, no labels",
        "1 of 2 validation examples are among the training examples: scores are flattered",
    )
    assert splits.more == {}


def test_a_part_is_held_out_where_there_is_no_validation_file(directory):
    splits = load(directory, train="train.tsv", validation_fraction=0.25)[-1]
    assert (len(splits.train), len(splits.validation)) == (30, 10)
    assert any("10 of 40 training examples are held out" in notice for notice in splits.notices)
    assert load(directory, train="train.tsv", validation_fraction=0.25)[-1] == splits
    assert load(directory, seed=1, train="train.tsv", validation_fraction=0.25)[-1] != splits
    assert load(directory, train="train.tsv", validation_fraction=0.0)[-1].validation == ()


def test_files_of_pairs_and_of_single_texts_do_not_go_together(directory):
    write_table(directory / "pairs.tsv", [("who", "text 0", "0"), ("where", "text 1", "1")], "question\ttext\tlabel")
    _, _, splits = load(directory, train="train.tsv", validation="pairs.tsv")
    assert [example.text for example in splits.validation] == ["text 0", "text 1"]
    write_table(directory / "pairs.tsv", [("who", "text 0", "0")], "question\tsentence\tlabel")
    told = (
        r"/pairs\.tsv was read as pairs, and .*/train\.tsv as one text an example: name what to read, \S+text=COLUMN$"
    )
    with pytest.raises(UserError, match=told):
        load(directory, train="train.tsv", validation="pairs.tsv")
    told = r"/train\.tsv as pairs: .*--config\.data\.text=COLUMN --config\.data\.second_text=COLUMN$"
    write_table(directory / "train.tsv", [("who", "text 0", "0")] * 9, "question\tsentence\tlabel")
    with pytest.raises(UserError, match=told):
        load(directory, train="train.tsv", validation="dev.tsv")


def test_files_to_predict_for(directory):
    config, task, _ = load(directory, train="train.tsv", validation="dev.tsv")
    assert [example.text for example in load_file(str(directory / "test.tsv"), config, task).examples] == [
        "one",
        "two",
    ]
    assert load_file(str(directory / "dev.tsv"), config, task).examples[1].label == "1"
    write_table(directory / "dev.tsv", [("a", "2")])
    with pytest.raises(UserError, match=r"dev\.tsv:2: label '2' does not occur in the training data, which has 0, 1"):
        load_file(str(directory / "dev.tsv"), config, task)


def test_labels_of_other_splits_are_checked(directory):
    for split in ("validation", "test"):
        write_table(directory / "bad.tsv", [("a", "0"), ("b", "yes")])
        with pytest.raises(UserError, match=r"bad\.tsv:3: label 'yes' does not occur in the training data"):
            load(directory, train="train.tsv", **{split: "bad.tsv"})
    write_table(directory / "bad.tsv", [("a",)], "text")
    with pytest.raises(UserError, match=r"bad\.tsv: no column label; it has text"):
        load(directory, train="train.tsv", validation="bad.tsv")


def test_bad_examples_are_skipped_where_it_is_asked_for(directory):
    with open(directory / "train.tsv", "a") as stream:
        stream.write(" \t0\n")
    with pytest.raises(UserError, match=r"train\.tsv:42: the text is empty$"):
        load(directory, train="train.tsv", validation="dev.tsv")
    splits = load(directory, train="train.tsv", validation="dev.tsv", skip_bad_examples=True)[-1]
    told = (
        f"{directory}/train.tsv: bad examples skipped: 1 of 41; the first: {directory}/train.tsv:42: the text is empty"
    )
    assert len(splits.train) == 40 and told in splits.notices


def test_labels_that_look_wrong_are_told(directory):
    rows = [("a", "Yes"), ("b", "yes"), ("c", "yes"), ("d", "Yes"), ("e", "no")]
    write_table(directory / "train.tsv", rows)
    notices = load(directory, train="train.tsv", validation_fraction=0.0)[-1].notices
    assert "labels Yes, yes differ by case only, and are learned as different ones" in notices
    assert "labels with one training example only: no" in notices
    write_table(directory / "train.tsv", [("a", "-1"), ("b", "0"), ("c", "2"), ("d", "-1")])
    told = "label -1 is learned as a class: if it stands for none, name the others, --config.data.label_names=FILE"
    assert told in load(directory, train="train.tsv", validation_fraction=0.0)[-1].notices


def test_names_of_labels_are_read_from_a_file(directory):
    (directory / "names.txt").write_text("bad\ngood\n")
    config, task, splits = load(directory, train="train.tsv", validation="dev.tsv", label_names="names.txt")
    assert splits.labels.labels == ("bad", "good") and [example.label for example in splits.validation] == [
        "bad",
        "good",
    ]
    assert load_file(str(directory / "dev.tsv"), config, task).examples[1].label == "good"
    (directory / "names.txt").unlink()
    assert len(load_file(str(directory / "test.tsv"), config, task).examples) == 2
    with pytest.raises(UserError, match=r"config\.data\.label_names.*regression has no labels with names"):
        load(directory, kind="regression", train="train.tsv", label_names="names.txt")


def test_tagging_and_question_answering(tmp_path):
    (tmp_path / "train.conll").write_text("\n\n".join(f"w{number} X\nv Y" for number in range(20)))
    splits = load(tmp_path, kind="tagging", train="train.conll")[-1]
    assert splits.labels.labels == ("X", "Y") and len(splits.validation) == 2
    told = "the tags mark no entities (as B-PER and O do): scores are the accuracy of words only"
    assert splits.notices[-1] == told
    (tmp_path / "named.conll").write_text("\n\n".join(f"w{number} X_B\nv O" for number in range(20)))
    _, task, splits = load(tmp_path, kind="tagging", train="named.conll")
    assert told not in splits.notices and task.primary_score == "f1"
    with pytest.raises(UserError, match=r"primary_score=f1: the tags of .*train\.conll mark no entities"):
        load(tmp_path, kind="tagging", train="train.conll", primary_score="f1")
    qas = [{"id": str(number), "question": "Who?", "answers": []} for number in range(2)]
    (tmp_path / "dev.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": "c", "qas": qas}]}]}))
    qas = [{"id": "x", "question": "Who?", "answers": [{"text": "c", "answer_start": 0}]}]
    (tmp_path / "train.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": "c", "qas": qas}]}]}))
    splits = load(tmp_path, kind="question_answering", train="train.json", validation="dev.json")[-1]
    assert splits.labels.labels == ("answer",) and len(splits.validation) == 2


def test_tensorflow_is_not_imported():
    code = "import sys, electra_cli.finetuning.tasks; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_was_held_out_is_told_where_too_little_is_left(tmp_path):
    write_table(tmp_path / "train.tsv", [("a", "x"), ("b", "x")])
    told = (
        r"train\.tsv: the only training example has the label 'x': there must be two classes at least; 1 of 2 training "
        r"examples is held out for validation \(config\.data\.validation_fraction=0\.1\)$"
    )
    with pytest.raises(UserError, match=told):
        load(tmp_path, train="train.tsv")
    with pytest.raises(
        UserError, match=r"all 2 training examples have the label 'x': there must be two classes at .*t$"
    ):
        load(tmp_path, train="train.tsv", validation_fraction=0.0)


@pytest.mark.parametrize("kind", ["classification", "question_answering"])
def test_a_directory_or_a_missing_file_is_told_as_such_whatever_its_name(tmp_path, kind):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"/empty is a directory, not a file: name a file in it$"):
        load(tmp_path, kind=kind, train="empty")
    with pytest.raises(UserError, match=r"/nothing: no such file$"):
        load(tmp_path, kind=kind, train="nothing")
    (tmp_path / "link").symlink_to("/nowhere/file")
    with pytest.raises(UserError, match=r"/link: a broken link, to /nowhere/file"):
        load(tmp_path, kind=kind, train="link")


def labelled(counts):
    labels = [label for label, number in counts.items() for _ in range(number)]
    return [sentence(f"text {line}", label=label, line=line) for line, label in enumerate(labels)]


@given(
    st.dictionaries(st.sampled_from("abcde"), st.integers(4, 60), min_size=1), st.floats(0.05, 0.5), st.integers(0, 99)
)
@settings(max_examples=80, deadline=None)
def test_classes_keep_their_fractions(counts, fraction, seed):
    examples = labelled(counts)
    train, held_out = split_off(examples, fraction, seed)
    assert sorted((*train, *held_out), key=examples.index) == examples
    assert list(train) == sorted(train, key=examples.index) and list(held_out) == sorted(held_out, key=examples.index)
    found = collections.Counter(example.label for example in held_out)
    for label, number in counts.items():
        assert abs(found[label] - fraction * number) <= 1 + 1e-9
        assert found[label] < number
    assert abs(len(held_out) - fraction * len(examples)) <= 1
    assert split_off(examples, fraction, seed) == (train, held_out)


def test_by_hand():
    train, held_out = split_off(labelled({"a": 80, "b": 20}), 0.1, 3)
    assert collections.Counter(example.label for example in held_out) == {"a": 8, "b": 2}
    assert len(train) == 90
    assert split_off(labelled({"a": 80, "b": 20}), 0.1, 4)[1] != held_out


def test_numbers_are_split_without_classes():
    examples = [sentence(f"text {line}", label=float(line), line=line) for line in range(50)]
    assert len(split_off(examples, 0.2, 0)[1]) == 10
    assert len(split_off(examples, 0.001, 0)[1]) == 1


@given(
    st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=2, max_size=12), st.floats(0.1, 0.9), st.integers(0, 20)
)
@settings(max_examples=80, deadline=None)
def test_every_label_and_tag_is_trained_on_and_texts_stay_together(labels, fraction, seed):
    examples = [sentence(f"text {line % 5}", label=label, line=line) for line, label in enumerate(labels)]
    sentences = [tagged(f"w{line} x", f"{label} O", line=line) for line, label in enumerate(labels)]
    for kind, label_of in ((examples, lambda e: {e.label}), (sentences, lambda e: set(e.tags))):
        try:
            train, held_out = split_off(kind, fraction, seed)
        except UserError:  # then no text can be spared: each has the last example of a label
            texts = {example.text for example in kind}
            assert all(
                set().union(*map(label_of, kind))
                != set().union(*(label_of(example) for example in kind if example.text != text))
                for text in texts
            )
            continue
        assert held_out
        assert set().union(*map(label_of, train)) == set().union(*map(label_of, kind))
        assert not {example.text for example in train} & {example.text for example in held_out}


def test_questions_of_a_context_stay_together():
    examples = [question(f"Who is {number}?", f"cat {number // 4}", "cat", number=number) for number in range(40)]
    train, held_out = split_off(examples, 0.2, 0)
    assert len(held_out) == 8
    assert not {example.second_text for example in train} & {example.second_text for example in held_out}


@pytest.mark.parametrize("seed", range(5))
def test_a_large_context_does_not_end_the_held_out_part(seed):
    sizes = [300, *[10] * 18]
    examples = [
        question(f"Who is {number}?", f"cat {context}", "cat", number=number)
        for context, size in enumerate(sizes)
        for number in range(size)
    ]
    train, held_out = split_off(examples, 0.1, seed)
    assert len(held_out) == 50  # of 480; the nearest to 48 in contexts of 10
    assert len(train) == 430


def test_the_least_part_is_drawn_from_small_texts():
    examples = [question(f"Who is {number}?", f"cat {number // 10}", "cat", number=number) for number in range(100)]
    examples += [question("Who?", f"dog {number}", "dog", number=number) for number in range(100, 110)]
    held_out = [split_off(examples, 0.001, seed)[1] for seed in range(8)]
    assert [len(part) for part in held_out] == [1] * 8
    assert all(part[0].second_text.startswith("dog") for part in held_out)
    assert len({part[0].second_text for part in held_out}) > 2


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([sentence("a", label="a")], r"file\.tsv:1: the only training example cannot be held out: give --config"),
        ([sentence("same", label=str(line % 2), line=line) for line in range(1, 21)],
         r"file\.tsv:1: all 20 training examples have the same text, which is not divided: none of them can be held o"),
        ([question("Who?", "the cat", "cat", number=number) for number in range(20)],
         r"question q0: all 20 training examples have the same context, which is not divided"),
        ([sentence(str(line), label=str(line), line=line) for line in range(1, 4)],
         r"file\.tsv:1: none of 3 training examples can be held out: each text is the last one of a label: give"),
    ],
)  # fmt: skip
def test_why_none_can_be_held_out(examples, message):
    with pytest.raises(UserError, match=message):
        split_off(examples, 0.5, 0)
