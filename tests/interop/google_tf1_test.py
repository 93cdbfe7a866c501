"""The original's recorded runs (shared/reference), recomputed from its checkpoints."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from electra_cli.config import default_config
from electra_cli.config.fields import flatten
from electra_cli.config.resolution import resolve
from electra_cli.errors import UserError
from electra_cli.interop import exporting, google_tf1, importing, starting_points
from electra_cli.interop.runs import load_run
from electra_cli.modeling import features
from electra_cli.objectives import weights
from electra_cli.objectives.base import build_pretrainer, objective_of
from electra_cli.objectives.electra_pretrainer import ElectraPretrainer, corrupt, sample_tokens
from electra_cli.training.distribution import build_runtime
from electra_cli.training.optimization import build_optimizer
from electra_cli.training.steps import build_train_steps
from tests.interop import original
from tests.interop.common import SPECIAL, TOKENS, make_run, random_inputs

ROOT = pathlib.Path(__file__).parents[2]
RUNS = [
    path.parent for shared in (ROOT / "shared", ROOT.parent / "shared") for path in shared.glob("reference/*/run.npz")
]
needs_runs = pytest.mark.skipif(not RUNS, reason="shared/reference, the original's recorded runs, is not here")


@dataclasses.dataclass
class Recorded:
    directory: pathlib.Path
    config: object
    arrays: dict
    model: ElectraPretrainer

    def inputs(self, step):
        """The masked batch that the original recorded, int32 and float32 tensors."""
        return {
            features.INPUT_WORD_IDS: tf.constant(self.arrays["masked_input_ids"][step]),
            features.INPUT_MASK: tf.constant(self.arrays["input_mask"][step]),
            features.INPUT_TYPE_IDS: tf.constant(self.arrays["segment_ids"][step]),
            features.MASKED_LM_POSITIONS: tf.constant(self.arrays["masked_lm_positions"][step], tf.int32),
            features.MASKED_LM_IDS: tf.constant(self.arrays["masked_lm_ids"][step], tf.int32),
            features.MASKED_LM_WEIGHTS: tf.constant(self.arrays["masked_lm_weights"][step], tf.float32),
            features.SAMPLING_UNIFORM: tf.fill(self.arrays["masked_lm_ids"][step].shape, 0.5),
        }


def load_weights(model, checkpoint):
    weights.assign(model, google_tf1.read_weights(checkpoint), require_all=True)


def load(directory):
    hparams = json.loads((directory / "config.json").read_text())
    config = google_tf1.config_from_hparams(hparams)
    config.data.dir = "unused"
    config.data.max_seq_length = hparams["max_seq_length"]
    resolved = resolve(config, hparams["vocab_size"])
    model = build_pretrainer(resolved)
    load_weights(model, str(directory / "model.ckpt-0"))
    return Recorded(directory, resolved, dict(np.load(directory / "run.npz")), model)


@pytest.fixture(params=RUNS, ids=lambda path: path.name)
def recorded(request):
    return load(request.param)


def largest(difference):
    return float(np.abs(np.asarray(difference)).max())


@needs_runs
def test_slots_are_as_many_as_there(recorded):
    assert recorded.config.derived.max_predictions_per_seq == recorded.arrays["masked_lm_ids"].shape[-1]


@needs_runs
def test_outputs_of_the_first_step(recorded):
    inputs, arrays = recorded.inputs(0), recorded.arrays
    outputs = recorded.model(inputs, training=False)
    assert largest(outputs["lm_outputs"] - arrays["mlm_logits"][0]) < 1e-5
    sampled = sample_tokens(outputs["lm_outputs"], inputs[features.SAMPLING_UNIFORM], temperature=1e-6)
    corrupted, labels = corrupt(inputs, sampled)
    np.testing.assert_array_equal(corrupted[features.INPUT_WORD_IDS], arrays["corrupted_ids"][0])
    np.testing.assert_array_equal(labels, arrays["rtd_labels"][0])
    np.testing.assert_array_equal(outputs["disc_label"], arrays["rtd_labels"][0])
    encoded = recorded.model.discriminator_network(corrupted, training=False)["sequence_output"]
    real = arrays["input_mask"][0][..., np.newaxis] > 0
    assert largest((encoded - arrays["disc_sequence_output"][0]) * real) < 1e-5
    assert largest((tf.sigmoid(outputs["disc_logits"]) - arrays["rtd_probs"][0]) * real[..., 0]) < 1e-5


@needs_runs
def test_ten_steps_and_the_weights_after_them(recorded):
    config, arrays = recorded.config, recorded.arrays
    optimizer = build_optimizer(config)
    optimizer.build(recorded.model.trainable_variables)
    runtime = build_runtime(config.runtime, [(config.train.global_batch_size, 1)])
    train_steps = build_train_steps(recorded.model, optimizer, runtime, config)
    num_steps = len(arrays["total_loss"])
    for step in range(num_steps):
        outputs = recorded.model(recorded.inputs(step), training=False)
        np.testing.assert_array_equal(outputs["disc_label"], arrays["rtd_labels"][step])
        assert largest(tf.sigmoid(outputs["disc_logits"]) - arrays["rtd_probs"][step]) < 1e-5
        batches = iter(tf.data.Dataset.from_tensors(recorded.inputs(step)))
        sums = train_steps(batches, tf.constant(step, tf.int64), tf.constant(1, tf.int64))
        found = objective_of(config).summarize({name: value.numpy() for name, value in sums.items()})
        assert found["masked_lm_loss"] == pytest.approx(arrays["mlm_loss"][step], rel=1e-4)
        assert found["rtd_loss"] == pytest.approx(arrays["rtd_loss"][step], rel=1e-4)
        assert found["total_loss"] == pytest.approx(arrays["total_loss"][step], rel=1e-4)
    trained = build_pretrainer(config)
    load_weights(trained, str(recorded.directory / f"model.ckpt-{num_steps}"))
    for variable, expected in zip(recorded.model.trainable_variables, trained.trainable_variables, strict=True):
        assert largest(variable - expected) < 1e-5, variable.name


@needs_runs
def test_every_weight_is_loaded_once(recorded):
    variables = [variable for variable, _ in weights.named_weights(recorded.model)]
    assert len(variables) == len({variable.ref() for variable in variables})
    assert {variable.ref() for variable in variables} == {
        variable.ref() for variable in recorded.model.trainable_variables
    }
    stored = tf.train.load_checkpoint(str(recorded.directory / "model.ckpt-0")).get_variable_to_shape_map()
    names = {name for _, names in weights.named_weights(recorded.model) for name in names}
    assert names == {name for name in stored if "adam" not in name and name != "global_step"}


@needs_runs
def test_checkpoints_of_other_sizes_are_refused():
    recorded = load(RUNS[0])
    before = [variable.numpy() for variable in recorded.model.trainable_variables]
    wrong = recorded.config.to_dict()
    for section, key, value, message in (
        ("model", "num_layers", 3, "no weight electra/encoder/layer_2"),
        ("model", "intermediate_size", 96, "which does not make the"),
        ("model", "embedding_size", 16, "has shape"),
    ):
        config = google_tf1.config_from_hparams(json.loads((recorded.directory / "config.json").read_text()))
        config.data.dir = "unused"
        config[section][key] = value
        model = build_pretrainer(resolve(config, wrong["derived"]["vocab_size"]))
        untouched = [variable.numpy() for variable in model.trainable_variables]
        with pytest.raises(UserError, match=message):
            load_weights(model, str(recorded.directory / "model.ckpt-10"))
        for variable, value_before in zip(model.trainable_variables, untouched, strict=True):
            np.testing.assert_array_equal(variable, value_before)
    with pytest.raises(UserError, match=r"none is no checkpoint that can be read"):
        load_weights(recorded.model, str(recorded.directory / "none"))
    for variable, value_before in zip(recorded.model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value_before)


@pytest.mark.parametrize("seed", range(3))
def test_a_model_of_odd_shapes_computes_what_the_original_does(tmp_path, seed):
    weights = original.random_weights(seed)
    prefix = str(tmp_path / "model.ckpt")
    names = sorted(weights)
    tensors = [tf.constant(weights[name], tf.float32) for name in names]
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)
    config = google_tf1.config_from_hparams(original.HPARAMS)
    config.data.dir = "unused"
    model = build_pretrainer(resolve(config, 60))
    load_weights(model, prefix)

    rng = np.random.default_rng(seed)
    ids = rng.integers(5, 60, (5, 16))
    mask = (np.arange(16) < np.array([16, 12, 9, 16, 5])[:, None]).astype(np.int64)
    types = rng.integers(0, 2, (5, 16)) * mask
    positions = np.stack([np.sort(rng.choice(5, 4, replace=False)) for _ in range(5)])
    inputs = {
        features.INPUT_WORD_IDS: ids,
        features.INPUT_MASK: mask,
        features.INPUT_TYPE_IDS: types,
        features.MASKED_LM_POSITIONS: positions,
        features.MASKED_LM_IDS: rng.integers(5, 60, (5, 4)),
        features.MASKED_LM_WEIGHTS: np.ones((5, 4), np.float32),
        features.SAMPLING_UNIFORM: np.full((5, 4), 0.5, np.float32),
    }
    outputs = model({name: tf.constant(value) for name, value in inputs.items()}, training=False)
    computed = original.Original(weights)
    logits = computed.masked_lm_logits(ids, mask, types, positions)
    np.testing.assert_allclose(outputs["lm_outputs"], logits, atol=1e-4)
    corrupted = ids.copy()
    np.put_along_axis(corrupted, positions, logits.argmax(-1), 1)
    unmasked = ids.copy()
    np.put_along_axis(unmasked, positions, inputs[features.MASKED_LM_IDS], 1)
    np.testing.assert_array_equal(outputs["disc_label"], corrupted != unmasked)
    np.testing.assert_allclose(outputs["disc_logits"], computed.rtd_logits(corrupted, mask, types), atol=1e-4)


def write_checkpoint(directory, values, name="model.ckpt-3"):
    directory.mkdir(exist_ok=True)
    google_tf1.write({name: np.float32(value) for name, value in values.items()}, 3, str(directory / name))
    return str(directory / name)


def import_from(source, output, notice=lambda _: None, **changes):
    external = starting_points.read_source("google_tf1", str(source), **changes)
    importing.import_external(
        external, "google_tf1", str(output), vocab_file=None, lower_case=None, generator_size=0.25, overwrite=False,
        notice=notice,
    )  # fmt: skip
    return load_run(str(output), notice=lambda _: None)


@needs_runs
@pytest.mark.parametrize("step", [0, 10])
def test_recorded_checkpoints_go_in_and_out_bit_for_bit(tmp_path, step):
    for directory in RUNS:
        lines = []
        run = import_from(directory / f"model.ckpt-{step}", tmp_path / "start", lines.append)
        recorded = load(directory)
        load_weights(recorded.model, str(directory / f"model.ckpt-{step}"))
        inputs = recorded.inputs(0)
        expected, found = recorded.model(inputs, training=False), run.model(inputs, training=False)
        for name in ("lm_outputs", "disc_logits"):
            assert largest(expected[name] - found[name]) < 1e-5
        if step == 0:
            assert largest(found["lm_outputs"] - recorded.arrays["mlm_logits"][0]) < 1e-5
        assert "Missing: nothing." in lines and "Freshly initialized: nothing." in lines
        exporting.export_run(run, "google_tf1", "both", str(tmp_path / "out"), overwrite=False)
        there = tf.train.load_checkpoint(str(directory / f"model.ckpt-{step}"))
        back = tf.train.load_checkpoint(str(tmp_path / "out"))
        names = {name for name in there.get_variable_to_shape_map() if "adam" not in name}
        assert back.get_variable_to_shape_map().keys() == names
        for name in names - {"global_step"}:
            first, second = there.get_tensor(name), back.get_tensor(name)
            assert first.dtype == second.dtype and first.tobytes() == second.tobytes(), name
        hparams = json.loads((directory / "config.json").read_text())
        written = json.loads((tmp_path / "out" / "config.json").read_text())
        for name in hparams.keys() & written.keys() - {"model_hparam_overrides"}:
            assert written[name] == pytest.approx(hparams[name]), name


def test_a_checkpoint_without_hyperparameters_tells_its_sizes(tmp_path):
    write_checkpoint(tmp_path / "there", original.random_weights(1))
    (tmp_path / "there" / "vocab.txt").write_text("\n".join([*SPECIAL, *(f"w{i}" for i in range(55))]))
    run = import_from(tmp_path / "there", tmp_path / "ours", num_attention_heads=3)
    derived, model = run.config.derived, run.config.model
    assert (model.hidden_size, model.num_layers, model.intermediate_size, model.embedding_size) == (48, 3, 80, 20)
    assert (derived.generator_hidden_size, derived.generator_num_layers) == (24, 2)
    assert (derived.generator_num_attention_heads, derived.generator_intermediate_size) == (1, 96)
    assert (model.max_position_embeddings, run.config.data.max_seq_length) == (24, 24)
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 60, (2, 9))
    inputs = {features.INPUT_WORD_IDS: ids, features.INPUT_MASK: np.ones_like(ids), features.INPUT_TYPE_IDS: 0 * ids}
    states = run.hidden_states("discriminator", {name: tf.constant(x, tf.int32) for name, x in inputs.items()})
    expected = original.Original(original.random_weights(1)).encode("electra", ids, np.ones_like(ids), 0 * ids, heads=3)
    np.testing.assert_allclose(states[-1], expected, atol=1e-4)


def test_checkpoints_that_will_not_do(tmp_path):
    values = original.random_weights(0)
    prefix = write_checkpoint(tmp_path / "there", values)
    with pytest.raises(UserError, match="width 48 cannot have 5 heads"):
        starting_points.read_source("google_tf1", prefix, num_attention_heads=5)
    (tmp_path / "there" / "config.json").write_text(json.dumps({"embedding_size": 128}))
    with pytest.raises(UserError, match=r"config\.json makes embedding_size 128, the weights have 20"):
        starting_points.read_source("google_tf1", prefix)
    (tmp_path / "there" / "config.json").write_text("[")
    with pytest.raises(UserError, match=r"config\.json is no JSON"):
        starting_points.read_source("google_tf1", prefix)
    (tmp_path / "there" / "config.json").unlink()
    del values["electra/encoder/layer_1/output/dense/bias"]
    with pytest.raises(UserError, match="1 weights of the discriminator are missing, such as encoder/layer_1/output/d"):
        starting_points.read_source("google_tf1", write_checkpoint(tmp_path / "cut", values))
    write_checkpoint(tmp_path / "cut", values, "model.ckpt-4")
    (tmp_path / "cut" / "checkpoint").unlink()
    with pytest.raises(UserError, match="holds several checkpoints"):
        starting_points.read_source("google_tf1", str(tmp_path / "cut"))
    with pytest.raises(UserError, match="is no checkpoint of google-research/electra"):
        starting_points.read_source("google_tf1", write_checkpoint(tmp_path / "other", {"x": np.zeros(3)}))
    data = tmp_path / "there" / "model.ckpt-3.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"ckpt-3 is no checkpoint that can be read: .* cannot be read"):
        starting_points.read_source("google_tf1", prefix)
    data.unlink()
    with pytest.raises(UserError, match="its data file is missing"):
        starting_points.read_source("google_tf1", prefix)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"model.embedding_sharing": "word"},
        {"model.embedding_sharing": "none"},
        {"model.embedding_sharing": "gradient_disentangled"},
        {"objective.tied_generator": True},
        {"objective.uniform_generator": True},
        {"objective.name": "mlm"},
    ],
)
def test_every_objective_and_sharing_goes_out_and_in(tmp_path, overrides):
    run = make_run(tmp_path / "run", **{"model.generator_size": 1.0, **overrides})
    network = "both" if len(run.roles) == 2 else run.roles[0]
    exporting.export_run(run, "google_tf1", network, str(tmp_path / "out"), overwrite=False)
    again = import_from(
        tmp_path / "out", tmp_path / "again", num_attention_heads=2,
        generator_num_attention_heads=run.config.derived.generator_num_attention_heads,
    )  # fmt: skip
    inputs = random_inputs(len(TOKENS))
    for role in run.roles:
        first, second = (each.hidden_states(role, inputs)[-1] for each in (run, again))
        np.testing.assert_allclose(first, second, atol=1e-5)
        assert weights.are_equal(run.network(role).weights, again.network(role).weights)


def test_hyperparameters_become_ours():
    config = google_tf1.config_from_hparams(
        {
            "generator_layers": 0.5,
            "mask_prob": 0.25,
            "model_hparam_overrides": {"hidden_size": 64, "num_attention_heads": 2},
        }
    )
    flat = flatten(config)
    assert flat["data.mask_prob"] == 0.25
    assert flat["model.generator_layers"] == 0.5
    assert (flat["model.hidden_size"], flat["model.num_attention_heads"]) == (64, 2)
    assert not config.objective.tied_generator
    model = google_tf1.config_from_hparams({"model_hparam_overrides": {"hidden_size": 512}}).model
    assert (model.hidden_size, model.num_attention_heads, model.intermediate_size) == (512, 8, 2048)
    assert google_tf1.config_from_hparams({"untied_generator": False}).objective.tied_generator
    with pytest.raises(UserError, match="without a counterpart here: two_tower_generator"):
        google_tf1.config_from_hparams({"two_tower_generator": True})
    assert google_tf1.config_from_hparams({"max_predictions_per_seq": 19}).data.mask_prob == 0.15
    rising = default_config()  # its slots are those of the larger rate
    rising.data.dir, rising.data.mask_prob_end = "data", 0.3
    rising.model.num_attention_heads, rising.model.intermediate_size = 4, 1024
    hparams = google_tf1._hparams(resolve(rising, 100))
    assert hparams["max_predictions_per_seq"] == 19
    with pytest.raises(UserError, match=r"max_predictions_per_seq is 20: .* give 19"):
        google_tf1.config_from_hparams({"max_predictions_per_seq": 20})
