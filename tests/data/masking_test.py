import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_cli.data import masking
from electra_cli.data.masking import MaskingSettings, mask_batch

PAD, CLS, SEP, MASK = 0, 2, 3, 4
SPECIAL = (PAD, CLS, SEP, MASK)
VOCAB_SIZE = 90


def make_batch(lengths, length=20, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, 90, (len(lengths), length)).astype(np.int32)
    mask = (np.arange(length) < np.array(lengths)[:, None]).astype(np.int32)
    ids[mask == 0] = PAD
    ids[:, 0] = CLS
    for row, end in enumerate(lengths):
        ids[row, end - 1] = SEP
    return {"input_word_ids": ids, "input_mask": mask, "input_type_ids": np.zeros_like(ids)}


def mask(batch, mask_prob=0.15, slots=5, mask_token_prob=0.85, seed=(1, 2), **options):
    settings = MaskingSettings(mask_prob, slots, mask_token_prob, MASK, SPECIAL, VOCAB_SIZE, **options)
    tensors = {name: tf.constant(value) for name, value in batch.items()}
    masked = mask_batch(tensors, settings, tf.constant(seed), tf.constant([3, 4]))
    return {name: value.numpy() for name, value in masked.items()}


def test_number_of_masked_slots():
    # round(0.15 n) of n real tokens, at least 1, at most the slots, at most what may be masked.
    masked = mask(make_batch([20, 13, 10, 4, 2]), slots=3)
    np.testing.assert_array_equal(masked["masked_lm_weights"].sum(1), [3, 2, 2, 1, 0])
    np.testing.assert_array_equal(mask(make_batch([20]), slots=2)["masked_lm_weights"], [[1, 1]])


def test_positions_are_distinct_ascending_and_never_special():
    batch = make_batch([20, 17, 9] * 50)
    masked = mask(batch, mask_prob=0.5, slots=10)
    used = masked["masked_lm_weights"] > 0
    for row, positions in enumerate(masked["masked_lm_positions"]):
        chosen = positions[used[row]]
        assert (np.diff(chosen) > 0).all()
        assert not np.isin(batch["input_word_ids"][row, chosen], SPECIAL).any()
        np.testing.assert_array_equal(masked["masked_lm_ids"][row, used[row]], batch["input_word_ids"][row, chosen])
    assert (masked["masked_lm_positions"][~used] == 0).all()
    assert (masked["masked_lm_ids"][~used] == 0).all()


def test_what_might_be_masked_is_kept_where_it_is_asked_for():
    batch = make_batch([20, 6])
    batch["input_word_ids"][0, 3] = MASK
    expected = np.zeros([2, 20], np.int32)
    expected[0, 1:19] = expected[1, 1:5] = 1
    expected[0, 3] = 0
    np.testing.assert_array_equal(mask(batch, keeps_maskable=True)["maskable"], expected)
    assert "maskable" not in mask(batch)


def test_rates_of_0_and_1_decide_what_is_shown():
    batch = make_batch([20, 12])
    shown = mask(batch, mask_token_prob=0.0)
    np.testing.assert_array_equal(shown["input_word_ids"], batch["input_word_ids"])
    hidden = mask(batch, mask_token_prob=1.0)
    expected = batch["input_word_ids"].copy()
    for row, positions in enumerate(hidden["masked_lm_positions"]):
        expected[row, positions[hidden["masked_lm_weights"][row] > 0]] = MASK
    np.testing.assert_array_equal(hidden["input_word_ids"], expected)
    assert (hidden["input_word_ids"] == MASK).sum() == hidden["masked_lm_weights"].sum() == 5


def test_every_token_is_as_likely_to_be_masked():
    masked = mask(make_batch([20] * 6000), slots=3)
    counts = np.bincount(masked["masked_lm_positions"].ravel(), minlength=20)
    assert counts[0] == counts[19] == 0
    # 3 of 18 tokens in each of 6,000 examples: 1,000 expected, standard deviation below 30.
    assert np.abs(counts[1:19] - 1000).max() < 150
    share = (masked["input_word_ids"] == MASK).sum() / masked["masked_lm_weights"].sum()
    assert abs(share - 0.85) < 0.01


def test_masks_follow_from_the_seed():
    batch = make_batch([20] * 4)
    first, again, other = mask(batch), mask(batch), mask(batch, seed=(1, 3))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["masked_lm_positions"] != other["masked_lm_positions"]).any()
    assert ((first["sampling_uniform"] >= 0) & (first["sampling_uniform"] < 1)).all()


def test_rates_and_positions_over_10_000_examples_are_binomial():
    num_examples, length, slots = 10_000, 32, 5
    batch = make_batch([length] * num_examples, length)
    masked = mask(batch, mask_prob=0.15, slots=slots, mask_token_prob=0.8, random_token_prob=0.1)
    assert (masked["masked_lm_weights"].sum(1) == 5).all()  # round(0.15 x 32)
    counts = np.bincount(masked["masked_lm_positions"].ravel(), minlength=length)
    assert counts[0] == counts[-1] == 0
    # 5 of 30 tokens, without replacement: each position's count is binomial, and they vary together as a multinomial
    # does with less variance; six standard deviations.
    expected = num_examples * 5 / 30
    deviation = np.sqrt(num_examples * (5 / 30) * (25 / 30))
    assert np.abs(counts[1:-1] - expected).max() < 6 * deviation
    shown = np.take_along_axis(masked["input_word_ids"], masked["masked_lm_positions"], 1)
    total = num_examples * 5
    num_masks = (shown == MASK).sum()
    num_kept = (shown == masked["masked_lm_ids"]).sum()
    num_random = total - num_masks - num_kept
    for found, rate in ((num_masks, 0.8), (num_random, 0.1 * (1 - 1 / 86)), (num_kept, 0.1 + 0.1 / 86)):
        assert abs(found - total * rate) < 6 * np.sqrt(total * rate * (1 - rate))


def test_random_tokens_are_uniform_over_what_is_not_special():
    batch = make_batch([32] * 2000, 32)
    masked = mask(batch, mask_prob=0.5, slots=16, mask_token_prob=0.0, random_token_prob=1.0)
    shown = np.take_along_axis(masked["input_word_ids"], masked["masked_lm_positions"], 1)
    counts = np.bincount(shown.ravel(), minlength=VOCAB_SIZE)
    assert counts[list(SPECIAL)].sum() == 0
    allowed = np.setdiff1d(np.arange(VOCAB_SIZE), SPECIAL)
    assert scipy.stats.chisquare(counts[allowed]).pvalue > 1e-4


CONTINUES = np.arange(VOCAB_SIZE) % 3 == 0  # which tokens of the tests' vocabulary begin with '##'


def words_of(row):
    """The words of a row, as lists of positions."""
    words = []
    for position, token in enumerate(row):
        if token in SPECIAL:
            continue
        if words and words[-1][-1] == position - 1 and CONTINUES[token]:
            words[-1].append(position)
        else:
            words.append([position])
    return words


def test_words_are_masked_whole():
    batch = make_batch([40] * 300 + [11, 3], 40)
    masked = mask(batch, mask_prob=0.25, slots=10, continues_word=CONTINUES)
    reached = np.zeros(40, bool)
    for row in range(302):
        chosen = set(masked["masked_lm_positions"][row][masked["masked_lm_weights"][row] > 0])
        words = words_of(batch["input_word_ids"][row])
        taken = [word for word in words if chosen & set(word)]
        assert chosen == {position for word in taken for position in word}
        left = max(1, round(0.25 * batch["input_mask"][row].sum())) - len(chosen)
        assert left >= 0
        # Nothing that would have fitted was left out.
        assert all(len(word) > left for word in words if word not in taken)
        reached[list(chosen)] = True
    assert reached[1:39].all()
    assert not reached[[0, 39]].any()
    assert masked["masked_lm_weights"][:300].mean() > 0.95


def test_a_given_segmentation_takes_the_place_of_wordpieces():
    batch = make_batch([12] * 200, 12)
    batch["continues_word"] = np.tile([0, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 0], (200, 1)).astype(np.int32)
    masked = mask(batch, mask_prob=0.25, slots=3, continues_word=CONTINUES, uses_segmentation=True)
    assert "continues_word" not in masked
    found = {tuple(positions) for positions in masked["masked_lm_positions"]}
    assert found == {(1, 2, 3), (4, 5, 6), (7, 8, 9)} | {f for f in found if 10 in f}
    assert {f[:1] for f in found if 10 in f} <= {(10,)}  # position 10 is a word of one; no other fits beside it


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_units_are_taken_greedily_in_a_random_order(data):
    length = 12
    starts = np.array(data.draw(st.lists(st.booleans(), min_size=length, max_size=length)))
    candidates = np.array(data.draw(st.lists(st.booleans(), min_size=length, max_size=length)))
    starts = candidates & (starts | ~np.concatenate([[False], candidates[:-1]]))
    budget = data.draw(st.integers(1, length))
    draws = np.random.default_rng(data.draw(st.integers(0, 50))).uniform(size=length).astype(np.float32)
    chosen = masking._choose_units(
        tf.constant(starts[None]), tf.constant(candidates[None]), tf.constant([budget]), tf.constant(draws[None])
    ).numpy()[0]

    unit = np.where(candidates, np.cumsum(starts) - 1, -1)
    left, expected = budget, np.zeros(length, bool)
    for index in np.argsort(draws[: starts.sum()], kind="stable"):
        tokens = unit == index
        if tokens.sum() <= left:
            left -= tokens.sum()
            expected |= tokens
    np.testing.assert_array_equal(chosen, expected)


@pytest.mark.parametrize("max_ngram", [2, 3])
def test_lengths_of_spans_are_as_likely_as_their_inverse(max_ngram):
    candidates = np.ones((400, 200), bool)
    starts = masking._span_starts(
        tf.constant(candidates), tf.constant(candidates), max_ngram, masking.randomness.uniform((400, 200), [5, 6])
    ).numpy()
    lengths = np.concatenate([np.diff(np.flatnonzero(row)) for row in starts])  # the last, which is cut, left out
    counts = np.bincount(lengths, minlength=max_ngram + 1)[1:]
    weights = 1 / np.arange(1, max_ngram + 1)
    assert len(counts) == max_ngram
    assert scipy.stats.chisquare(counts, counts.sum() * weights / weights.sum()).pvalue > 1e-4


def test_spans_end_before_special_tokens_and_hold_whole_words():
    batch = make_batch([40] * 100, 40)
    batch["input_word_ids"][:, 20] = SEP
    candidates = ~np.isin(batch["input_word_ids"], SPECIAL)
    words = np.zeros_like(candidates)
    for row, ids in enumerate(batch["input_word_ids"]):
        words[row, [word[0] for word in words_of(ids)]] = True
    draws = masking.randomness.uniform(words.shape, [5, 6])
    starts = masking._span_starts(tf.constant(words), tf.constant(candidates), 3, draws).numpy()
    assert starts[:, 1].all()
    assert starts[:, 21].all()
    assert not (starts & ~words).any()
    spans = [part for row in range(100) for part in np.split(words[row], np.flatnonzero(starts[row]))[1:]]
    assert max(part.sum() for part in spans) == 3
    masked = mask(batch, mask_prob=0.3, slots=12, max_ngram=3, continues_word=CONTINUES)
    assert masked["masked_lm_weights"].mean() > 0.9


def test_examples_without_anything_to_mask():
    batch = make_batch([2, 3, 20])
    batch["input_mask"][0] = 0
    batch["input_word_ids"][0] = PAD
    for options in ({}, {"max_ngram": 3}, {"continues_word": CONTINUES}):
        masked = mask(batch, **options)
        np.testing.assert_array_equal(masked["masked_lm_weights"].sum(1)[:2], [0, 1])
        np.testing.assert_array_equal(masked["input_word_ids"][0], batch["input_word_ids"][0])
