"""TEAMS next to `official.projects.teams`, whose model, loss and defaults of its sampling it has."""

import functools
import runpy

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tf_keras
from official.modeling import tf_utils
from official.nlp.configs.encoders import BertEncoderConfig
from official.nlp.modeling import layers as nlp_layers
from official.projects.teams import teams, teams_pretrainer, teams_task

from electra_cli import api
from electra_cli.config import default_config
from electra_cli.config.checks import notices
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.config.resolution import resolve
from electra_cli.errors import Interrupted, UserError
from electra_cli.interop.exporting import export_run
from electra_cli.interop.runs import load_run
from electra_cli.modeling import features, layers
from electra_cli.objectives.base import build_pretrainer, objective_of
from electra_cli.objectives.electra_pretrainer import corrupt, sample_tokens
from electra_cli.objectives.teams import draw_candidates, selection_sums
from electra_cli.objectives.weights import named_weights, read
from tests.conftest import MODERN
from tests.graphs import without_graphs
from tests.modeling.common import LENGTH, VOCAB_SIZE, make_inputs
from tests.objectives.divided_steps import divided_steps
from tests.training import loop_test

SMALL = {
    "objective.name": "teams",
    "objective.shared_layers": 1,
    "model.num_layers": 3,
    "model.generator_num_layers": 2,
    "model.initializer_range": 0.3,
}
TWO_LAYERS = {"model.num_layers": 2, "model.generator_num_layers": 1}


def resolved(config, **changes):
    config.data.max_seq_length, config.data.mask_prob = LENGTH, 0.25
    config.update_from_flattened_dict({**SMALL, **changes})
    return resolve(config, VOCAB_SIZE)


def build(config):
    tf_keras.utils.set_random_seed(0)
    return build_pretrainer(config)


def drawn(inputs, outputs, num_candidates=5):
    """The samples and candidates of a call: int32 [batch, slots] and [batch, slots, num_candidates]."""
    logits, uniform = outputs["lm_outputs"], inputs["sampling_uniform"]
    return sample_tokens(logits, uniform), draw_candidates(logits, uniform, inputs["masked_lm_ids"], num_candidates)


def tf_models_teams(config, monkeypatch, inputs, outputs):
    """Their task and model, with the exact GELU, and with our samples and candidates."""
    samples, candidates = drawn(inputs, outputs)
    monkeypatch.setattr(tf_utils, "get_activation", lambda *_, **__: layers.gelu)
    sampler = teams_pretrainer.models.electra_pretrainer
    monkeypatch.setattr(sampler, "sample_from_softmax", lambda *_, **__: tf.one_hot(samples, VOCAB_SIZE))
    monkeypatch.setattr(teams_pretrainer, "sample_k_from_softmax", lambda *_, **__: candidates[..., 1:])
    names = ("hidden_size", "num_attention_heads", "intermediate_size", "embedding_size", "max_position_embeddings")
    sizes = {name: config.model[name] for name in names} | {"vocab_size": VOCAB_SIZE, "type_vocab_size": 2}
    task = teams_task.TeamsPretrainTask(
        teams_task.TeamsPretrainTaskConfig(
            model=teams.TeamsPretrainerConfig(
                num_shared_generator_hidden_layers=config.objective.shared_layers,
                num_discriminator_task_agnostic_layers=config.model.num_layers - config.objective.task_layers,
                generator=BertEncoderConfig(num_layers=config.derived.generator_num_layers, **sizes),
                discriminator=BertEncoderConfig(num_layers=config.model.num_layers, **sizes),
            )
        )
    )
    model = task.build_model()
    model(inputs)
    return task, model


def copy_block(ours, theirs):
    attention = theirs._attention_layer
    kernels, biases = (tf.split(value, 3, axis=-1) for value in ours.query_key_value.weights)
    for dense, kernel, bias in zip(
        (attention._query_dense, attention._key_dense, attention._value_dense), kernels, biases, strict=True
    ):
        dense.set_weights([tf.reshape(kernel, dense.kernel.shape), tf.reshape(bias, dense.bias.shape)])
    output = attention._output_dense
    kernel, bias = ours.attention_output.weights
    output.set_weights([tf.reshape(kernel, [-1, *output.kernel.shape[1:]]), bias])
    for name, their_name in (
        ("attention_norm", "_attention_layer_norm"), ("intermediate", "_intermediate_dense"),
        ("output_dense", "_output_dense"), ("output_norm", "_output_layer_norm"),
    ):  # fmt: skip
        getattr(theirs, their_name).set_weights([value.numpy() for value in getattr(ours, name).weights])


def copy_weights(ours, theirs):
    """Gives theirs our weights; our projection of embeddings loses its bias, which theirs has not."""
    embeddings, table = ours.discriminator_network.embeddings, theirs.discriminator_mws_network.embedding_network
    projection = ours.discriminator_network.embedding_projection
    projection.bias.assign(tf.zeros_like(projection.bias))
    values = {
        "word_embeddings": embeddings.word_embeddings,
        "position_embedding": embeddings.position_embeddings,
        "type_embeddings": embeddings.type_embeddings,
        "gamma": embeddings.layer_norm.gamma,
        "beta": embeddings.layer_norm.beta,
        "embedding_projection": projection.kernel,
    }
    assert len(table.weights) == len(values)
    for variable in table.weights:
        (value,) = [value for name, value in values.items() if name in variable.name]
        variable.assign(value)
    for network, their_network in (
        (ours.selection_network, theirs.discriminator_mws_network), (ours.generator_network, theirs.generator_network)
    ):  # fmt: skip
        for block, their_block in zip(network.transformer_layers, their_network.hidden_layers, strict=True):
            copy_block(block, their_block)
    rtd_layers = theirs.discriminator_rtd_head.hidden_layers
    for block, their_block in zip(
        ours.discriminator_network.transformer_layers[-len(rtd_layers) :], rtd_layers, strict=True
    ):
        copy_block(block, their_block)
    theirs.discriminator_rtd_head.dense.set_weights(ours.discriminator_projection.get_weights())
    theirs.discriminator_rtd_head.rtd_head.set_weights(ours.discriminator_head.get_weights())
    dense, norm = ours.selection_head.transform.layers
    theirs.discriminator_mws_head.dense.set_weights(dense.get_weights())
    theirs.discriminator_mws_head.layer_norm.set_weights(norm.get_weights())
    theirs.masked_lm.set_weights(ours.masked_lm.get_weights())


@pytest.mark.parametrize("task_layers", [1, 2])
def test_outputs_and_losses_are_those_of_tf_models(config, monkeypatch, task_layers):
    weights = {"objective.discriminator_loss_weight": 5.0, "objective.selection_loss_weight": 2.0}
    config = resolved(config, **weights, **{"objective.task_layers": task_layers})
    ours, inputs = build(config), make_inputs()
    ours.discriminator_network.embedding_projection.bias.assign(tf.zeros([16]))
    outputs = ours(inputs)
    task, theirs = tf_models_teams(config, monkeypatch, inputs, outputs)
    copy_weights(ours, theirs)
    expected = dict(theirs(inputs))
    if task_layers == 2:
        # Their head gives all of its layers the same input, so that only the last counts: harmless where there is one.
        assert np.abs(outputs["disc_logits"] - expected["disc_rtd_logits"]).max() > 1e-2
        expected["disc_rtd_logits"] = chained_rtd_logits(theirs, inputs, outputs)
    names = {"lm_outputs": "lm_outputs", "disc_label": "disc_rtd_label"}
    names |= {"disc_logits": "disc_rtd_logits", "selection_logits": "disc_mws_logits"}
    for name, their_name in names.items():
        assert np.std(outputs[name]) > 0.01
        np.testing.assert_allclose(outputs[name], expected[their_name], atol=2e-6, rtol=0, err_msg=name)
    objective, metrics = objective_of(config), {metric.name: metric for metric in task.build_metrics()}
    loss, sums = objective.loss_and_sums(inputs, outputs, objective.batch_weights(inputs))
    their_loss = task.build_losses(inputs, expected, metrics.values())
    task.process_metrics(metrics.values(), inputs, expected)
    found = objective.summarize({name: value.numpy() for name, value in sums.items()})
    assert float(loss) == pytest.approx(float(their_loss), rel=2e-6)
    names = {"total_loss": "total_loss", "masked_lm_loss": "masked_lm_loss"}
    names |= {"rtd_loss": "replaced_token_detection_loss", "rtd_accuracy": "replaced_token_detection_accuracy"}
    names |= {"selection_loss": "multiword_selection_loss", "selection_accuracy": "multiword_selection_accuracy"}
    assert {name: found[name] for name in names} == pytest.approx(
        {name: float(metrics[their_name].result()) for name, their_name in names.items()}, rel=2e-6
    )


def chained_rtd_logits(theirs, inputs, outputs):
    """What their head for detection makes where each of its layers has the output of the one before."""
    head, samples = theirs.discriminator_rtd_head, drawn(inputs, outputs)[0]
    corrupted, _ = corrupt(inputs, samples)
    encoded = theirs.discriminator_mws_network([corrupted[name] for name in features.UNMASKED])["encoder_outputs"]
    x = encoded[theirs.num_task_agnostic_layers - 1]
    mask = nlp_layers.SelfAttentionMask()([x, inputs["input_mask"]])
    for layer in head.hidden_layers:
        x = layer([x, mask])
    return tf.squeeze(head.rtd_head(head.dense(x)), axis=-1)


def test_the_preset_has_the_values_of_tf_models():
    config = runpy.run_path(PRETRAINING.path("small_teams"))["get_config"]()
    config.data.dir = "data"
    config = resolve(config, 30_522)
    theirs = teams.TeamsPretrainerConfig()
    assert config.objective.generator_loss_weight == theirs.generator_loss_weight
    assert config.objective.discriminator_loss_weight == theirs.discriminator_rtd_loss_weight
    assert config.objective.selection_loss_weight == theirs.discriminator_mws_loss_weight
    assert config.objective.num_candidates == theirs.candidate_size
    assert config.objective.shared_layers == theirs.num_shared_generator_hidden_layers
    assert config.model.num_layers - config.objective.task_layers == theirs.num_discriminator_task_agnostic_layers
    # Of their teams_experiments.py, which needs Python 3.10, and experiments/small/wiki_books_pretrain.yaml.
    optimizer, train = config.optimizer, config.train
    assert (optimizer.name, optimizer.learning_rate, optimizer.warmup_steps) == ("adamw", 5e-4, 10_000)
    assert (optimizer.weight_decay_rate, optimizer.epsilon, optimizer.clip_norm) == (0.01, 1e-6, 1.0)
    assert (config.derived.generator_hidden_size, config.derived.generator_num_layers) == (256, 6)
    assert (config.data.max_seq_length, train.global_batch_size, train.num_steps) == (512, 256, 500_000)


def test_candidates_are_drawn_without_replacement():
    """Pairs have the probabilities of drawing one after the other, whatever the sample at the same slot."""
    probabilities = np.array([0.4, 0.3, 0.2, 0.1])
    number = 40_000
    logits = tf.constant(np.broadcast_to(np.log(probabilities), (1, number, 4)), tf.float32)
    uniform = tf.constant(np.random.default_rng(0).uniform(size=(1, number)), tf.float32)
    originals = tf.ones([1, number], tf.int32)
    candidates = draw_candidates(logits, uniform, originals, 3)[0].numpy()
    samples = sample_tokens(logits, uniform)[0].numpy()
    assert (candidates[:, 0] == 1).all() and all(len(set(row)) == 3 for row in candidates.tolist())
    for kept in (slice(None), samples == 0, samples == 3):
        pairs = candidates[kept, 1:].tolist()
        others = {index: probabilities[index] / 0.7 for index in (0, 2, 3)}
        expected = {(i, j): others[i] * others[j] / (1 - others[i]) for i in others for j in others if i != j}
        counts = [pairs.count(list(pair)) for pair in expected]
        assert scipy.stats.chisquare(counts, len(pairs) * np.array(list(expected.values()))).pvalue > 1e-3
    # A generator that is certain of the original leaves the others as likely as they are among themselves.
    certain = tf.constant([[[200.0, 0.0, -200.0, -400.0]]])
    assert draw_candidates(certain, tf.constant([[0.5]]), tf.constant([[0]]), 4).numpy().tolist() == [[[0, 1, 2, 3]]]
    cold = draw_candidates(logits[:, :9], uniform[:, :9], originals[:, :9], 4, temperature=1e-3)
    assert cold.numpy().tolist() == [[[1, 0, 2, 3]] * 9]


def test_sums_of_selection_by_hand():
    inputs = {"masked_lm_weights": tf.constant([[1.0, 1.0, 1.0, 0.0]])}
    chances = [[0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [1 / 3] * 3, [0.1, 0.8, 0.1]]
    sums = selection_sums(inputs, {"selection_logits": tf.constant(np.log([chances]), tf.float32)})
    # Equal logits are no right choice, and unused slots count nothing.
    assert float(sums["selection_loss"]) == pytest.approx(np.log(2) + np.log(4) + np.log(3), rel=1e-6)
    assert float(sums["selection_correct"]) == 1.0


@pytest.mark.parametrize("changes", [{}, {**MODERN, "model.initializer_range": 0.3}], ids=["electra", "modern"])
def test_what_is_shared_and_what_learns_from_what(config, changes):
    config = resolved(config, **changes)
    model, inputs = build(config), make_inputs()
    generator, kept, selection = model.generator_network, model.discriminator_network, model.selection_network
    assert generator.embeddings is kept.embeddings is selection.embeddings
    assert generator.embedding_projection is kept.embedding_projection is selection.embedding_projection
    for network, number in ((generator, 1), (selection, 2)):
        pairs = list(zip(network.transformer_layers, kept.transformer_layers, strict=False))
        assert [first is second for first, second in pairs] == [index < number for index in range(len(pairs))]
    with tf.GradientTape(persistent=True) as tape:
        outputs = model(inputs, training=True, seed=tf.constant([1, 2]))
        losses = {
            name: tf.reduce_mean(outputs[name] ** 2) for name in ("lm_outputs", "disc_logits", "selection_logits")
        }
    everything = {id(variable) for variable in model.trainable_variables}
    assert len(everything) == len(model.trainable_variables)

    def learns(name):
        gradients = tape.gradient(losses[name], model.trainable_variables)
        return {id(v) for v, gradient in zip(model.trainable_variables, gradients, strict=True) if gradient is not None}

    def ids(*parts):
        return {id(variable) for part in parts for variable in part.trainable_variables}

    table = {id(generator.embeddings.word_embeddings)}
    assert learns("lm_outputs") == ids(generator, model.masked_lm)
    assert learns("disc_logits") == ids(kept, model.discriminator_projection, model.discriminator_head)
    assert learns("selection_logits") == ids(selection, model.selection_head) | table
    assert learns("lm_outputs") | learns("disc_logits") | learns("selection_logits") == everything


@pytest.mark.parametrize("changes", [{}, {**MODERN, "model.initializer_range": 0.3}], ids=["electra", "modern"])
def test_xla_and_rows_by_themselves_give_the_same(config, changes):
    model, inputs = build(resolved(config, **{**changes, **TWO_LAYERS})), make_inputs()
    expected = model(inputs)
    compiled = tf.function(model, jit_compile=True)(inputs)
    # A replica has some of the rows: their samples and candidates are the same.
    halves = [model({name: value[rows] for name, value in inputs.items()}) for rows in (slice(0, 1), slice(1, 4))]
    for name, value in expected.items():
        np.testing.assert_allclose(compiled[name], value, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(tf.concat([half[name] for half in halves], 0), value, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_two_replicas_make_the_steps_of_one(data_dir):
    changes = {**SMALL, **TWO_LAYERS, "objective.num_candidates": 3}
    one, two = divided_steps(data_dir, changes, [(1, 1, False), (2, 1, False)])
    assert one[0]["selection_loss"] != one[1]["selection_loss"] and one[0].keys() >= {"masked_lm_loss", "rtd_loss"}
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


def test_a_few_examples_can_be_learned_by_heart(config):
    config.model.hidden_dropout = config.model.attention_dropout = 0.0
    config = resolved(config, **TWO_LAYERS, **{"model.initializer_range": 0.1})
    model, inputs, objective = build(config), make_inputs(), objective_of(config)
    # To a rate of 0, so that the last loss is none of a spike, on any processor.
    optimizer = tf_keras.optimizers.Adam(tf_keras.optimizers.schedules.CosineDecay(0.01, 400), beta_2=0.98)
    optimizer.build(model.trainable_variables)

    @functools.partial(tf.function, autograph=False)
    def step():
        with tf.GradientTape() as tape:
            outputs = model(inputs, training=True)
            loss, sums = objective.loss_and_sums(inputs, outputs, objective.batch_weights(inputs))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return sums

    steps = [step() for _ in range(400)]
    first, last = (
        objective.summarize({name: value.numpy() for name, value in steps[index].items()}) for index in (0, -1)
    )
    assert first["selection_loss"] > 1 and first["selection_accuracy"] < 0.5
    assert last["selection_loss"] < 0.1 and last["masked_lm_loss"] < 0.2  # chance: log(5), log(100)
    assert last["selection_accuracy"] == last["masked_lm_accuracy"] == last["rtd_accuracy"] == 1


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """A config, and the workdir of its run of 4 steps."""
    config = loop_test.small_config(data_dir)
    config.update_from_flattened_dict({
        **SMALL, **TWO_LAYERS, "train.num_steps": 4, "eval.num_samples": 2, "model.num_attention_heads": 1,
        "model.intermediate_size": 64,
    })  # fmt: skip
    workdir = tmp_path_factory.mktemp("teams") / "run"
    with without_graphs():
        return config, workdir, loop_test.train(config, workdir)


@pytest.mark.slow
def test_a_run_that_was_stopped_equals_one_that_was_not(run, tmp_path, monkeypatch):
    config, workdir, lines = run
    with without_graphs():
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            loop_test.stop_at(patch, 2)
            loop_test.train(config, tmp_path)
        loop_test.train(config, tmp_path)
    loop_test.assert_same_run(workdir, tmp_path)
    last = loop_test.metrics_of(workdir)[-1]
    assert last["split"] == "validation" and 0 < last["selection_accuracy"] < 1
    assert any("selection_accuracy" in line and "0.2000  chance" in line for line in "\n".join(lines).splitlines())


def test_a_run_is_an_ordinary_electra(run, tmp_path):
    _, workdir, _ = run
    loaded = load_run(str(workdir), notice=lambda _: None)
    weights, encoder = read(loaded.model), loaded.model.discriminator_network
    shared = [name for name in weights if name.startswith("generator/encoder/layer_0/")]
    assert len(shared) == 16
    for name in shared:
        np.testing.assert_array_equal(weights[name], weights[name.replace("generator/", "electra/")])
    last = encoder.transformer_layers[-1]
    assert last is not loaded.model.selection_network.transformer_layers[-1]
    np.testing.assert_array_equal(weights["electra/encoder/layer_1/output/dense/kernel"], last.output_dense.kernel)
    assert not any(name.startswith("generator/embeddings/") for name in weights)
    assert len({variable.ref() for variable, _ in named_weights(loaded.model)}) == len(
        list(named_weights(loaded.model))
    )
    for format_name in ("google_tf1", "tfm"):
        assert export_run(loaded, format_name, "both", str(tmp_path / format_name), overwrite=False) < 1e-4
    model = api.load(str(workdir))
    ((filled,),) = model.fill_mask(["the [MASK] river"], top_k=3)
    (tokens,) = model.detect_replaced_tokens(["the old cat"])
    assert len(filled) == 3 and 0 < tokens[1].replaced_probability < 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.embedding_sharing": "word"}, r"^config.model.embedding_sharing='word': must be all with config.obj"),
        ({"objective.tied_generator": True}, r"^config.objective.tied_generator=True: belongs to config.obj"),
        ({"objective.uniform_generator": True}, r"^config.objective.uniform_generator=True: belongs to config.obj"),
        ({"objective.task_layers": 12}, r"^config.objective.task_layers=12: must be less than config.model.num_layers"),
        ({"objective.num_candidates": 1}, r"^config.objective.num_candidates=1: must be at least 2"),
        ({"objective.num_candidates": 31}, r"^config.objective.num_candidates=31 but the vocabulary has 30 entries"),
        ({"objective.name": "electra", "train.best_metric": "selection_loss"}, r"^config.train.best_metric='sele"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(overrides, message):
    config = default_config()
    config.update_from_flattened_dict({"data.dir": "data", "objective.name": "teams", **overrides})
    with pytest.raises(UserError, match=message):
        resolve(config, 30)


def test_keys_that_are_not_read():
    config = default_config()
    config.objective.num_candidates = 7
    assert notices(config) == ["config.objective.num_candidates is not used: it belongs to config.objective.name=teams"]
    config.objective.name, config.model.generator_size, config.model.generator_num_layers = "teams", 0.5, 2
    reason = "the generator of teams has the discriminator's width"
    assert notices(config) == [f"config.model.generator_size is not used: {reason}"]


def test_baselines_and_collapse():
    config = default_config()
    config.objective.name = "teams"
    objective = objective_of(config)
    metrics = {
        "masked_lm_loss": 1.0, "replaced_fraction": 0.1, "rtd_accuracy": 0.95, "rtd_auc": 0.9, "selection_loss": 1.6,
    }  # fmt: skip
    found = objective.baselines(metrics)
    assert (found["selection_loss"], found["selection_accuracy"]) == ("1.6094  chance", "0.2000  chance")
    assert set(objective.find_collapse(metrics, None)) == {"selection"}
    assert objective.find_collapse({**metrics, "selection_loss": 1.5}, None) == {}
