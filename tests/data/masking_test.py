import numpy as np
import tensorflow as tf

from electra_cli.data.masking import MaskingSettings, mask_batch

PAD, CLS, SEP, MASK = 0, 2, 3, 4
SPECIAL = (PAD, CLS, SEP, MASK)


def make_batch(lengths, length=20, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, 90, (len(lengths), length)).astype(np.int32)
    mask = (np.arange(length) < np.array(lengths)[:, None]).astype(np.int32)
    ids[mask == 0] = PAD
    ids[:, 0] = CLS
    for row, end in enumerate(lengths):
        ids[row, end - 1] = SEP
    return {"input_word_ids": ids, "input_mask": mask, "input_type_ids": np.zeros_like(ids)}


def mask(batch, mask_prob=0.15, slots=5, mask_token_prob=0.85, seed=(1, 2)):
    settings = MaskingSettings(mask_prob, slots, mask_token_prob, MASK, SPECIAL)
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
