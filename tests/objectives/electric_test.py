"""Electric: towers that do not see what they predict, its loss computed again in NumPy, and that it learns."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from electra_cli.config.pretraining import BEST_METRICS
from electra_cli.config.resolution import resolve
from electra_cli.errors import UserError
from electra_cli.objectives import weights
from electra_cli.objectives.base import build_pretrainer, objective_of
from tests.conftest import MODERN
from tests.modeling.common import LENGTH, SLOTS, VOCAB_SIZE, make_inputs
from tests.objectives.divided_steps import divided_steps


def resolve_electric(config, **overrides):
    config.data.max_seq_length, config.data.mask_prob, config.model.num_layers = LENGTH, 0.25, 1
    config.model.initializer_range = 0.3  # so that tokens far away matter
    config.update_from_flattened_dict({"objective.name": "electric", **overrides})
    return resolve(config, VOCAB_SIZE)


def build(config, **overrides):
    tf_keras.utils.set_random_seed(0)
    resolved = resolve_electric(config, **overrides)
    return build_pretrainer(resolved), objective_of(resolved)


def make_batch(seed=0):
    """Inputs whose first and last real tokens may not be masked."""
    inputs = make_inputs(seed=seed)
    mask = inputs["input_mask"].numpy()
    maskable = mask.copy()
    maskable[:, 0] = maskable[np.arange(4), mask.sum(1) - 1] = 0
    return {**inputs, "maskable": tf.constant(maskable)}


def test_embeddings_added_to_those_of_the_towers_are_read_whole(config):
    model, _ = build(config, **{"model.embedding_sharing": "gradient_disentangled"})
    table = weights.read(model)["electra/embeddings/word_embeddings"]
    np.testing.assert_array_equal(table, model.discriminator_network.embeddings.word_table())
    assert table.std() > 0.1  # the differences alone are 0 at first


@pytest.mark.parametrize("kind", ["electra", "modern", "blockwise", "packed"])
def test_a_prediction_does_not_see_its_token_and_sees_all_others(config, kind):
    overrides = {"modern": {**MODERN, "model.local_attention": 2 * LENGTH}, "blockwise": {"runtime.attention": kind}}
    model, _ = build(config, **overrides.get(kind, {}))
    towers = model.generator_network
    rng = np.random.default_rng(0)
    ids = np.tile(rng.integers(5, VOCAB_SIZE, LENGTH), [LENGTH + 1, 1])
    for token in range(LENGTH):  # row t + 1 has another token t
        ids[token + 1, token] = 5 + (ids[0, token] - 4) % (VOCAB_SIZE - 5)
    real = 10
    mask = np.tile(np.arange(LENGTH) < real, [LENGTH + 1, 1]).astype(np.int32)
    documents = mask * (1 + (np.arange(LENGTH) >= 6)) if kind == "packed" else mask
    inputs = {"input_word_ids": ids, "input_mask": mask, "input_type_ids": np.zeros_like(mask)}
    if kind == "packed":
        inputs |= {"document_ids": documents, "position_ids": np.arange(LENGTH) - 6 * (documents == 2)}
    inputs = {name: tf.constant(value, tf.int32) for name, value in inputs.items()}
    width = model.generator_network.left.get_config()["hidden_size"]
    before, after = np.split(towers(inputs)["sequence_output"].numpy(), [width], axis=-1)
    left = towers.left(inputs)["sequence_output"].numpy()
    for token in range(real):

        def changes(states, token=token):
            return np.abs(states[token + 1] - states[0]).max(-1) > 0

        same = (documents[0] == documents[0, token]) & (mask[0] == 1)
        positions = np.arange(LENGTH)
        np.testing.assert_array_equal(changes(left)[:real], (same & (positions >= token))[:real])
        np.testing.assert_array_equal(changes(before)[:real], (same & (positions > token))[:real])
        np.testing.assert_array_equal(changes(after)[:real], (same & (positions < token))[:real])
    assert not before[:, 0].any() and not after[:, real - 1].any()


def log_softmax(logits):
    logits = logits.astype(np.float64)
    largest = logits.max(-1, keepdims=True)
    return logits - largest - np.log(np.exp(logits - largest).sum(-1, keepdims=True))


def test_the_loss_is_that_of_the_paper_in_numpy(config):
    model, objective = build(config, **{"objective.generator_loss_weight": 2.0})
    inputs = make_batch()
    ids, positions, originals = (
        inputs[name].numpy() for name in ("input_word_ids", "masked_lm_positions", "masked_lm_ids")
    )
    rows = np.arange(4)[:, np.newaxis]
    text = ids.copy()
    text[rows, positions] = originals
    unmasked = {**inputs, "input_word_ids": tf.constant(text)}
    every = tf.tile(tf.range(LENGTH)[tf.newaxis], [4, 1])
    log_q = log_softmax(model.masked_lm(model.generator_network(unmasked)["sequence_output"], every).numpy())

    # A sample is where the cumulative distribution passes the draw.
    ends = np.exp(log_q[rows, positions]).cumsum(-1)
    noise = (ends <= inputs["sampling_uniform"].numpy()[..., np.newaxis] * ends[..., -1:]).sum(-1)
    noised = text.copy()
    noised[rows, positions] = noise
    encoded = model.discriminator_network({**inputs, "input_word_ids": tf.constant(noised)})["sequence_output"]
    energies = model.discriminator_head(model.discriminator_projection(encoded)).numpy()[..., 0].astype(np.float64)
    is_noise = np.zeros_like(text)
    is_noise[rows, positions] = 1
    log_q_noised = np.take_along_axis(log_q, noised[..., np.newaxis], -1)[..., 0]
    # Of a token of the text p = exp(-E), with probability 0.75; of noise q, with 0.25.
    text_part, noise_part = np.log(0.75) - energies, np.log(0.25) + log_q_noised
    of_class = np.where(is_noise, noise_part, text_part) - np.logaddexp(text_part, noise_part)
    mask, maskable = inputs["input_mask"].numpy(), inputs["maskable"].numpy()
    cloze = -np.take_along_axis(log_q, text[..., np.newaxis], -1)[..., 0]
    expected = {
        "cloze_loss": (cloze * maskable).sum(),
        "cloze_weight": maskable.sum(),
        "rtd_loss": -(of_class * mask).sum(),
        "masked_lm_loss": cloze[rows, positions].sum(),
        "sampled_correct": (noise == originals).sum(),
        "positives": 4 * SLOTS,
        "real_tokens": mask.sum(),
    }
    outputs = model(inputs)
    np.testing.assert_array_equal(outputs["sampled_ids"], noise)
    loss, sums = objective.loss_and_sums(inputs, outputs, objective.batch_weights(inputs))
    assert {name: float(sums[name]) for name in expected} == pytest.approx(expected, rel=1e-5)
    total = 2 * expected["cloze_loss"] / maskable.sum() + 50 * expected["rtd_loss"] / mask.sum()
    assert float(loss) == pytest.approx(total, rel=1e-5)
    metrics = objective.summarize({name: value.numpy() for name, value in sums.items()})
    assert metrics["total_loss"] == pytest.approx(total, rel=1e-5)
    assert metrics["cloze_loss"] == pytest.approx(expected["cloze_loss"] / maskable.sum(), rel=1e-5)
    assert set(BEST_METRICS["electric"]) == metrics.keys() - {"replaced_fraction"}
    share = 12 / mask.sum()
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert objective.baselines(metrics)["rtd_loss"] == f"{entropy:.4f}  knowing the share of noise alone"
    chosen = objective.choices(inputs, outputs)
    np.testing.assert_array_equal(chosen["choices"], noise)
    np.testing.assert_allclose(chosen["replaced"], np.exp(noise_part - np.logaddexp(text_part, noise_part)), rtol=1e-4)


def test_a_discriminator_at_chance_is_no_collapse(config):
    _, objective = build(config)
    metrics = {"masked_lm_loss": 1.0, "rtd_accuracy": 0.85, "rtd_auc": 0.5, "replaced_fraction": 0.15}
    assert objective.find_collapse(metrics, unigram_loss=3.0) == {}
    assert objective.find_collapse({**metrics, "masked_lm_loss": 3.0}, unigram_loss=3.0).keys() == {"generator"}


def test_noise_that_is_the_original_is_noise(config):
    """Unlike ELECTRA's sample: the odds are those of a draw, whatever came of it."""
    model, _ = build(config)
    first = tf.constant([[1.0, 0.0, 0.0]] * 4)
    inputs = {**make_batch(), "masked_lm_weights": first}
    sampled = model(inputs)["sampled_ids"]
    outputs = model({**inputs, "masked_lm_ids": sampled})  # no prediction sees its own token
    np.testing.assert_array_equal(outputs["sampled_ids"][:, 0], sampled[:, 0])
    noise = np.argwhere(outputs["disc_label"].numpy() == 1)
    np.testing.assert_array_equal(noise, list(enumerate(inputs["masked_lm_positions"].numpy()[:, 0])))


def test_each_loss_trains_its_own_networks(config):
    model, _ = build(config, **{"model.embedding_sharing": "none"})
    inputs = make_batch()
    with tf.GradientTape(persistent=True) as tape:
        outputs = model(inputs, training=True, seed=tf.constant([1, 2]))
        noise_loss, cloze_loss = tf.reduce_sum(outputs["disc_logits"]), tf.reduce_sum(outputs["cloze_losses"])
    towers = [*model.generator_network.trainable_variables, *model.masked_lm.trainable_variables]
    towers = list({variable.ref(): variable for variable in towers}.values())
    kept = [variable for variable in model.trainable_variables if all(variable is not tower for tower in towers)]
    assert all(gradient is None for gradient in tape.gradient(noise_loss, towers))
    assert all(gradient is None for gradient in tape.gradient(cloze_loss, kept))
    for loss, variables in ((noise_loss, kept), (cloze_loss, towers)):
        assert all(gradient is not None for gradient in tape.gradient(loss, variables))
    assert len(towers) + len(kept) == len(model.trainable_variables)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"objective.uniform_generator": True}, "must be False with config.objective.name=electric"),
        ({"objective.tied_generator": True}, "must be False with config.objective.name=electric"),
        ({"objective.disallow_correct": True}, "must be False with config.objective.name=electric"),
        ({"objective.sampling_temperature": 0.5}, r"sampling_temperature=0\.5: must be 1\.0 with"),
        ({"model.generator_hidden_size": 15, "model.generator_num_attention_heads": 2}, "a generator of width 15"),
    ],
)
def test_what_it_does_not_go_with_is_refused(config, overrides, message):
    with pytest.raises(UserError, match=message):
        resolve_electric(config, **overrides)


@pytest.mark.slow
def test_replicas_parts_and_xla_make_the_same_steps(data_dir):
    changes = {"objective.name": "electric", "model.num_layers": 1}
    divisions = [(1, 1, False), (2, 2, False), (1, 1, True)]
    expected, *others = divided_steps(data_dir, changes, divisions)
    assert expected[0]["cloze_loss"] != expected[1]["cloze_loss"]
    for other in others:
        for ours, theirs in zip(expected, other, strict=True):
            assert theirs == pytest.approx(ours, rel=1e-4)


@pytest.mark.slow
def test_a_batch_is_learned_by_heart(config):
    """Its tokens are certain: nothing but its share is known of noise, and energies are the logarithm of p = q = 1."""
    config.model.hidden_dropout = config.model.attention_dropout = 0.0
    overrides = {"model.initializer_range": 0.05, "objective.discriminator_loss_weight": 1.0}
    model, objective = build(config, **overrides)
    inputs, rng = make_batch(), np.random.default_rng(0)
    text, maskable = inputs["input_word_ids"].numpy(), inputs["maskable"].numpy() == 1
    text[np.arange(4)[:, np.newaxis], inputs["masked_lm_positions"]] = inputs["masked_lm_ids"]
    inputs["input_word_ids"] = tf.constant(text)
    optimizer = tf_keras.optimizers.Adam(0.01)

    @tf.function(autograph=False)
    def step(positions, ids, uniform):
        slots = {"masked_lm_positions": positions, "masked_lm_ids": ids, "sampling_uniform": uniform}
        batch = {**inputs, **slots}
        with tf.GradientTape() as tape:
            loss, sums = objective.loss_and_sums(batch, model(batch), objective.batch_weights(batch))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return sums

    for _ in range(600):
        positions = np.stack([np.sort(rng.choice(np.flatnonzero(row), SLOTS, replace=False)) for row in maskable])
        ids, uniform = np.take_along_axis(text, positions, 1), rng.uniform(size=(4, SLOTS))
        sums = step(tf.constant(positions, tf.int32), tf.constant(ids), tf.constant(uniform, tf.float32))
    metrics = objective.summarize({name: value.numpy() for name, value in sums.items()})
    assert metrics["masked_lm_accuracy"] == 1.0 and metrics["cloze_loss"] < 0.05
    encoded = model.discriminator_network(inputs)["sequence_output"]
    energies = model.discriminator_head(model.discriminator_projection(encoded)).numpy()[..., 0]
    # But for the difference between the rows' own shares of noise and `data.mask_prob`.
    shares = SLOTS / maskable.sum(axis=1, keepdims=True)
    expected = np.log(shares / (1 - shares)) - np.log(0.25 / 0.75)
    assert np.abs(energies - expected)[maskable].mean() < 0.15
