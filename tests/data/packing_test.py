import random
from array import array
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from electra_cli.data.packing import Segments, add_special_tokens, pack_document, pack_full


def arrays(sentences):
    return [array("I", sentence) for sentence in sentences]


def pack(sentences, length, *, single=0.0, short=0.0, rng=None):
    packed = pack_document(
        arrays(sentences), length, rng or random.Random(0), single_segment_prob=single, short_target_prob=short
    )
    return [Segments(first.tolist(), second.tolist()) for first, second in packed]


def test_single_segment_takes_all_sentences():
    assert pack([[1, 2, 3], [4, 5], [6]], 16, single=1.0) == [Segments([1, 2, 3, 4, 5, 6], [])]


def test_first_segment_is_filled_below_half_of_the_target():
    # Half of 16 - 3 is 6: 3 + 2 tokens are below it; the sentence of 4 is not, and may go either way.
    halves = {
        tuple(map(tuple, pack([[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]], 16, rng=random.Random(seed))[0]))
        for seed in range(40)
    }
    assert halves == {((1, 2, 3, 4, 5), (6, 7, 8, 9, 10)), ((1, 2, 3, 4, 5, 6, 7, 8, 9), (10,))}


def test_example_ends_where_the_target_is_reached():
    assert [sum(map(len, segments)) for segments in pack([[1] * 4] * 6, 8, single=1.0)] == [6, 6, 6, 6]


def test_what_exceeds_an_example_begins_the_next():
    assert pack([list(range(20))], 8, single=1.0) == [
        Segments([0, 1, 2, 3, 4, 5], []),
        Segments([6, 7, 8, 9, 10, 11], []),
        Segments([12, 13, 14, 15, 16, 17], []),
        Segments([18, 19], []),
    ]


def test_a_line_of_any_length_is_packed_in_time():
    packed = pack([list(range(300_000))], 16, single=1.0)  # minutes, were the rest copied for each example
    assert [token for segments in packed for token in segments.first] == list(range(300_000))


def test_short_targets_make_shorter_examples():
    lengths = [len(segments.first) for segments in pack([[1]] * 4000, 64, single=1.0, short=1.0)]
    assert min(lengths) == 5
    assert max(lengths) == 62
    assert abs(sum(lengths) / len(lengths) - (5 + 64) / 2) < 4


def test_probabilities_of_the_original():
    rng = random.Random(1)
    packed = list(pack_document(arrays([[1] * 7] * 40_000), 64, rng))
    # With 9 and more sentences a second segment is empty only where a single one was drawn.
    full = [segments for segments in packed if sum(map(len, segments)) >= 60]
    assert abs(sum(not segments.second for segments in full) / len(full) - 0.1) < 0.015


def test_empty_document_gives_nothing():
    assert pack([], 16) == pack([[], []], 16) == []


@given(
    st.lists(st.lists(st.integers(5, 1000), max_size=40), max_size=30),
    st.integers(8, 48),
    st.integers(0, 9),
    st.randoms(),
)
def test_every_token_stands_in_one_example_that_fits(sentences, length, probabilities, rng):
    packed = pack(sentences, length, single=probabilities / 9, short=1 - probabilities / 9, rng=rng)
    tokens = Counter(token for sentence in sentences for token in sentence)
    assert Counter(token for segments in packed for part in segments for token in part) == tokens
    for segments in packed:
        ids, first_segment_length = add_special_tokens(Segments(*arrays(segments)), 2, 3)
        assert len(ids) <= length
        assert segments.first
        assert first_segment_length == len(segments.first) + 2


def test_special_tokens():
    def add(first, second):
        ids, first_segment_length = add_special_tokens(Segments(*arrays([first, second])), 2, 3)
        return ids.tolist(), first_segment_length

    assert add([7, 8], [9]) == ([2, 7, 8, 3, 9, 3], 4)
    assert add([7, 8], []) == ([2, 7, 8, 3], 4)


def full(documents, length):
    return [[piece.tolist() for piece in pieces] for pieces in pack_full(arrays(documents), length)]


def test_full_examples_hold_documents_one_after_the_other():
    # Of 16 tokens each document's [CLS] and [SEP] take two.
    assert full([[1] * 4, [2] * 3, [3] * 9], 16) == [[[1] * 4, [2] * 3, [3] * 3], [[3] * 6]]


def test_full_examples_do_not_cut_for_a_scrap():
    # 3 tokens are left behind the first document of 11, less than an eighth of 32 once its special tokens are off.
    assert full([[1] * 25, [2] * 20], 32) == [[[1] * 25], [[2] * 20]]
    assert full([[1] * 25, [2] * 3], 32) == [[[1] * 25, [2] * 3]]


@given(st.lists(st.lists(st.integers(5, 1000), max_size=60), max_size=30), st.integers(8, 48))
def test_every_token_stands_in_one_full_example(documents, length):
    packed = full(documents, length)
    assert [token for pieces in packed for piece in pieces for token in piece] == [
        token for ids in documents for token in ids
    ]
    for pieces in packed:
        assert all(pieces)
        assert sum(len(piece) + 2 for piece in pieces) <= length
    for pieces in packed[:-1]:  # no room is wasted
        assert sum(len(piece) + 2 for piece in pieces) >= length - 2 - max(1, length // 8)
