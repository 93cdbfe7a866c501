import collections

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_cli.errors import UserError
from electra_cli.finetuning.splitting import split_off
from tests.finetuning.common import question, sentence, tagged


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


def test_too_few_examples():
    with pytest.raises(
        UserError, match=r"file\.tsv:1: training examples \(1\) are too few to hold some of them out: give"
    ):
        split_off([sentence("a", label="a")], 0.5, 0)
