"""Documents that share an example are encoded as if each stood in one of its own."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from electra_cli.config.resolution import resolve
from electra_cli.objectives.base import build_pretrainer
from electra_cli.objectives.electra import rtd_loss
from electra_cli.objectives.mlm import masked_lm_loss
from tests.conftest import MODERN
from tests.modeling.common import LENGTH, SLOTS, VOCAB_SIZE

# Lengths of the documents of two examples, and the slots in each document.
EXAMPLES = [[5, 4], [3, 3, 6]]
SLOTS_OF = [[[1, 3], [2]], [[1], [1], [4]]]


def row(values, fill=0):
    return [*values, *[fill] * (LENGTH - len(values))]


def make_batches(seed):
    """The same documents packed together, and apart; and where in the packed batch each stands."""
    rng = np.random.default_rng(seed)
    documents = [[rng.integers(5, VOCAB_SIZE, length) for length in lengths] for lengths in EXAMPLES]
    draws = [[rng.uniform(size=len(slots)) for slots in example] for example in SLOTS_OF]
    packed, apart, places = [], [], []
    for example, (texts, slots, uniforms) in enumerate(zip(documents, SLOTS_OF, draws, strict=True)):
        begins = np.cumsum([0, *map(len, texts)])
        packed.append(
            make_row(
                np.concatenate(texts),
                np.concatenate([s + b for s, b in zip(map(np.array, slots), begins, strict=False)]),
                np.concatenate(uniforms),
                [(n + 1, len(text)) for n, text in enumerate(texts)],
            )
        )
        slot = 0
        for text, chosen, uniform, begin in zip(texts, slots, uniforms, begins, strict=False):
            apart.append(make_row(text, np.array(chosen), uniform, None))
            places.append((example, begin, len(text), slot, len(chosen)))
            slot += len(chosen)
    return stack(packed), stack(apart), places


def make_row(ids, positions, uniform, documents):
    masked = ids.copy()
    masked[positions] = 4
    features = {
        "input_word_ids": row(masked),
        "input_mask": row([1] * len(ids)),
        "input_type_ids": [0] * LENGTH,
        "masked_lm_positions": [*positions, *[0] * (SLOTS - len(positions))],
        "masked_lm_ids": [*ids[positions], *[0] * (SLOTS - len(positions))],
        "masked_lm_weights": [1.0] * len(positions) + [0.0] * (SLOTS - len(positions)),
        "sampling_uniform": [*uniform, *[0.0] * (SLOTS - len(positions))],
    }
    if documents:
        features["document_ids"] = row([number for number, length in documents for _ in range(length)])
        features["position_ids"] = row([place for _, length in documents for place in range(length)])
    return features


def stack(rows):
    floats = ("masked_lm_weights", "sampling_uniform")
    return {
        name: tf.constant([one[name] for one in rows], tf.float32 if name in floats else tf.int32) for name in rows[0]
    }


@pytest.fixture(params=["electra", "electric", "mlm", "gradient_disentangled", "modern"])
def model(config, request):
    config.data.max_seq_length, config.data.mask_prob = LENGTH, 0.25
    if request.param in ("electric", "mlm"):
        config.objective.name = request.param
    elif request.param == "gradient_disentangled":
        config.model.embedding_sharing = "gradient_disentangled"
    elif request.param == "modern":
        config.update_from_flattened_dict({**MODERN, "model.local_attention": 4, "model.initializer_range": 0.1})
    tf_keras.utils.set_random_seed(1)
    return build_pretrainer(resolve(config, VOCAB_SIZE))


def test_outputs_are_those_of_the_documents_apart(model):
    packed, apart, places = make_batches(seed=0)
    together, single = model(packed, training=False), model(apart, training=False)
    for index, (example, begin, length, slot, num_slots) in enumerate(places):
        np.testing.assert_allclose(
            together["lm_outputs"][example, slot : slot + num_slots], single["lm_outputs"][index, :num_slots], atol=1e-5
        )
        for name in {"disc_logits", "disc_label"} & set(single):
            np.testing.assert_allclose(
                together[name][example, begin : begin + length], single[name][index, :length], atol=1e-5
            )


def test_losses_are_those_of_the_documents_apart(model):
    def sums(batch):
        outputs = model(batch, training=False)
        total, slots = masked_lm_loss(outputs["lm_outputs"], batch["masked_lm_ids"], batch["masked_lm_weights"])
        if "disc_logits" not in outputs:
            return [float(total), float(slots)]
        rtd = rtd_loss(outputs["disc_logits"], outputs["disc_label"], batch["input_mask"])
        return [float(total), float(slots), float(rtd)]

    packed, apart, _ = make_batches(seed=1)
    np.testing.assert_allclose(sums(packed), sums(apart), rtol=1e-5)


def test_without_documents_they_would_attend_to_each_other(model):
    packed, _, _ = make_batches(seed=2)
    joined = {name: value for name, value in packed.items() if name not in ("document_ids", "position_ids")}
    difference = model(packed, training=False)["lm_outputs"] - model(joined, training=False)["lm_outputs"]
    assert np.abs(difference).max() > 1e-3
