import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_cli.errors import UserError
from electra_cli.finetuning import base
from electra_cli.finetuning.examples import LabelMap
from electra_cli.finetuning.sentences import Classification, Regression
from tests.finetuning.common import ENCODER, VOCABULARY, sentence


@given(st.integers(0, 30), st.integers(0, 30), st.integers(2, 40))
def test_shares_are_those_of_berts_loop(num_first, num_second, room):
    first, second = num_first, num_second
    while first + second > room:  # `_truncate_seq_pair` of google-research/bert
        if first > second:
            first -= 1
        else:
            second -= 1
    assert base.shares(num_first, num_second, room) == (first, second)


def test_rows_by_hand():
    found = base.to_features([([5, 6], None), ([5], [7, 8])], VOCABULARY, 8)
    assert found["input_word_ids"].tolist() == [[2, 5, 6, 3, 0, 0, 0, 0], [2, 5, 3, 7, 8, 3, 0, 0]]
    assert found["input_mask"].tolist() == [[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]]
    assert found["input_type_ids"].tolist() == [[0] * 8, [0, 0, 0, 1, 1, 1, 0, 0]]
    assert {array.dtype.name for array in found.values()} == {"int32"}


def test_pairs_are_cut_to_the_length():
    assert base.cut_pair([1] * 9, None, 6) == ([1] * 4, None)
    assert base.cut_pair([1] * 9, [2] * 2, 8) == ([1] * 3, [2] * 2)
    with pytest.raises(ValueError, match="length 4 leaves no room"):
        Regression().encode([sentence("a")], ENCODER, VOCABULARY, 4)


def test_an_unknown_label_is_named_with_file_and_line_and_known_ones():
    task = Classification()
    task.labels = LabelMap("classification", ("neg", "pos"))
    with pytest.raises(UserError) as error:
        task.check([sentence("a", label="pos", line=6), sentence("b", label="neutral", line=7)])
    assert str(error.value) == "file.tsv:7: label 'neutral' does not occur in the training data, which has neg, pos"
