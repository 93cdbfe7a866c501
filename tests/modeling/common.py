"""What several tests of models share."""

import numpy as np
import tensorflow as tf
from official.nlp.modeling import networks

VOCAB_SIZE, LENGTH, SLOTS = 50, 12, 3


def make_inputs(batch_size=4, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, VOCAB_SIZE, (batch_size, LENGTH)).astype(np.int32)
    mask = np.ones_like(ids)
    mask[-1, 8:] = 0
    positions = np.stack([np.sort(rng.choice(np.arange(1, 8), SLOTS, replace=False)) for _ in ids]).astype(np.int32)
    originals = np.take_along_axis(ids, positions, 1)
    masked = ids.copy()
    np.put_along_axis(masked, positions, 4, 1)
    return {
        "input_word_ids": tf.constant(masked),
        "input_mask": tf.constant(mask),
        "input_type_ids": tf.constant((np.arange(LENGTH) > 6).astype(np.int32) * mask),
        "masked_lm_positions": tf.constant(positions),
        "masked_lm_ids": tf.constant(originals),
        "masked_lm_weights": tf.ones([batch_size, SLOTS]),
        "sampling_uniform": tf.constant(rng.uniform(size=(batch_size, SLOTS)).astype(np.float32)),
    }


def tf_models_encoder(hidden_size, vocab_size=VOCAB_SIZE):
    return networks.BertEncoder(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=2,
        num_attention_heads=2,
        inner_dim=2 * hidden_size,
        max_sequence_length=LENGTH,
        type_vocab_size=2,
        embedding_width=8,
        output_dropout=0.0,
        attention_dropout=0.0,
        dict_outputs=True,
    )
