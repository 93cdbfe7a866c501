"""tf-models-official's checkpoints in, and encoders out that its own fine-tuning tasks train from, unmodified."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import yaml
from official.nlp.configs import encoders
from official.nlp.data import question_answering_dataloader, sentence_prediction_dataloader, tagging_dataloader
from official.nlp.modeling import models, networks
from official.nlp.tasks import question_answering, sentence_prediction, tagging

from electra_cli.errors import UserError
from electra_cli.interop import exporting, importing, starting_points, tfm
from electra_cli.interop.runs import load_run
from electra_cli.modeling.layers import gelu
from tests.interop.common import TOKENS, make_run, random_inputs, write_vocabulary

SIZES = {"vocab_size": len(TOKENS), "num_layers": 2, "inner_dim": 40, "max_sequence_length": 48, "type_vocab_size": 2}


def make_encoder(kind, *, exact=True, hidden_size=16, seed=0, **arguments):
    """An encoder of tf-models-official with random weights, biases too."""
    activation = {"inner_activation": gelu} if exact else {}
    encoder = kind(
        **{**SIZES, "hidden_size": hidden_size, "num_attention_heads": 4, "embedding_width": 8, "dict_outputs": True},
        **activation,
        **arguments,
    )
    encoder(random_inputs(len(TOKENS)))
    rng = np.random.default_rng(seed)
    for variable in encoder.trainable_variables:
        variable.assign_add(rng.normal(scale=0.2, size=variable.shape))
    return encoder


def import_from(directory, path, notice=lambda _: None):
    external = starting_points.read_source("tfm", str(path))
    importing.import_external(
        external, "tfm", str(directory / "ours"), vocab_file=str(write_vocabulary(directory)), lower_case=False,
        generator_size=0.5, overwrite=True, notice=notice,
    )  # fmt: skip
    return load_run(str(directory / "ours"), notice=lambda _: None)


def largest(first, second, inputs):
    real = inputs["input_mask"].astype(bool)
    return np.abs(np.asarray(first) - np.asarray(second))[real].max()


@pytest.mark.parametrize("kind", [networks.BertEncoder, networks.BertEncoderV2])
def test_an_encoder_is_imported(tmp_path, kind):
    encoder = make_encoder(kind)
    tf.train.Checkpoint(encoder=encoder).write(str(tmp_path / "ckpt"))
    lines = []
    run = import_from(tmp_path, tmp_path / "ckpt", lines.append)
    inputs = random_inputs(len(TOKENS))
    expected = encoder(inputs)["encoder_outputs"]
    for first, second in zip(run.hidden_states("discriminator", inputs), expected, strict=True):
        assert largest(first, second, inputs) < 1e-5
    assert "Unexpected, left out: nothing." in lines
    assert any(line.startswith("Missing: discriminator_predictions (2 weights), generator.") for line in lines)
    assert run.config.model.num_attention_heads == 4 and not run.tokenizer.rules.lower_case


def test_a_pretrainer_is_imported_with_both_heads(tmp_path):
    generator = make_encoder(networks.BertEncoder, hidden_size=8, seed=1)
    discriminator = make_encoder(networks.BertEncoder, seed=2, embedding_layer=generator.get_embedding_layer())
    model = models.ElectraPretrainer(
        generator, discriminator, len(TOKENS), num_classes=2, num_token_predictions=3, mlm_activation=gelu
    )
    slots = tf.constant([[1, 2, 3]] * 4)
    inputs = random_inputs(len(TOKENS))
    masked = {**inputs, "masked_lm_positions": slots, "masked_lm_ids": slots}
    expected = model(masked)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=tf_keras.optimizers.Adam(), **model.checkpoint_items)
    path = checkpoint.save(str(tmp_path / "ckpt"))
    lines = []
    run = import_from(tmp_path, tmp_path, lines.append)
    assert path.endswith("ckpt-1")
    assert run.config.model.embedding_sharing == "word"
    assert "Missing: nothing." in lines and "Freshly initialized: nothing." in lines
    assert "Unexpected, left out: model (4 weights)." in lines  # next-sentence prediction
    encoded = run.hidden_states("generator", inputs)[-1]
    np.testing.assert_allclose(run.logits("generator", encoded, slots), expected["lm_outputs"], atol=1e-5)
    encoded = run.hidden_states("discriminator", inputs)[-1]
    theirs = discriminator(inputs)["sequence_output"]
    theirs = model.discriminator_head(model.discriminator_projection(theirs))[..., 0]
    assert largest(run.logits("discriminator", encoded), theirs, inputs) < 1e-5


def test_checkpoints_that_will_not_do(tmp_path):
    tf.train.Checkpoint(x=tf.Variable(1.0)).write(str(tmp_path / "other"))
    with pytest.raises(UserError, match="holds neither `encoder` nor an ElectraPretrainer"):
        tfm.read(str(tmp_path / "other"))
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "tf1"), tensor_names=["x"], shape_and_slices=[""], tensors=[tf.zeros(2)])
    with pytest.raises(UserError, match=r"was not written by tf\.train\.Checkpoint; .* give --format=google_tf1"):
        tfm.read(str(tmp_path / "tf1"))
    with pytest.raises(UserError, match="its index file is missing"):
        tfm.read(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="give the path of a checkpoint"):
        tfm.read(str(tmp_path))
    tf.train.Checkpoint(encoder=tf.Module()).write(str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"is no BertEncoder|holds neither"):
        tfm.read(str(tmp_path / "empty"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfm")
    run = make_run(root / "run")
    lines = []
    difference = exporting.export_run(run, "tfm", "both", str(root / "out"), overwrite=False, notice=lines.append)
    assert difference < 1e-5
    assert all("computes GELU in its tanh form" in line for line in lines) and len(lines) == 2
    return root / "out", run


def test_both_networks_go_out_and_in_bit_for_bit(exported, tmp_path):
    out, run = exported
    for role in ("discriminator", "generator"):
        read = tfm.read(str(out / role)).discriminator
        expected = {k: v for k, v in run.network(role).weights.items() if not k.startswith("predictions/")}
        assert read.weights.keys() == expected.keys()
        assert all(read.weights[name].tobytes() == value.tobytes() for name, value in expected.items())


def encoder_config(directory):
    """The exported config as a user's experiment file has it."""
    written = yaml.safe_load((directory / "encoder.yaml").read_text())["task"]["model"]["encoder"]
    config = encoders.EncoderConfig()
    config.override(written, is_strict=True)
    return config


def make_tasks(directory):
    encoder = encoder_config(directory)
    start = {"init_checkpoint": str(directory / tfm.CHECKPOINT_NAME)}
    data = {"input_path": "dummy", "seq_length": 16, "global_batch_size": 2}
    yield sentence_prediction.SentencePredictionTask(
        sentence_prediction.SentencePredictionConfig(
            **start,
            model=sentence_prediction.ModelConfig(num_classes=2, encoder=encoder),
            train_data=sentence_prediction_dataloader.SentencePredictionDataConfig(**data),
        )
    )
    yield tagging.TaggingTask(
        tagging.TaggingConfig(
            **start,
            model=tagging.ModelConfig(encoder=encoder),
            train_data=tagging_dataloader.TaggingDataConfig(**data),
            class_names=["a", "b", "c"],
        )
    )
    reader = question_answering_dataloader.QADataConfig(**data)
    held_out = question_answering_dataloader.QADataConfig(tokenization="WordPiece")
    yield question_answering.QuestionAnsweringTask(
        question_answering.QuestionAnsweringConfig(
            **start, model=question_answering.ModelConfig(encoder=encoder), train_data=reader, validation_data=held_out
        )
    )


def test_fine_tuning_tasks_start_from_the_export_and_train(exported):
    out, run = exported
    table = run.network("discriminator").weights["embeddings/word_embeddings"]
    names = []
    for task in make_tasks(out / "discriminator"):
        model = task.build_model()
        task.initialize(model)
        encoder = model.checkpoint_items["encoder"]
        np.testing.assert_array_equal(encoder.get_embedding_table(), table)
        before = [variable.numpy() for variable in encoder.trainable_variables]
        iterator = iter(task.build_inputs(task.task_config.train_data))
        optimizer = tf_keras.optimizers.SGD(0.1)
        logs = task.train_step(next(iterator), model, optimizer, metrics=task.build_metrics())
        assert np.isfinite(float(logs["loss"]))
        changed = [np.any(old != new.numpy()) for old, new in zip(before, encoder.trainable_variables, strict=True)]
        assert np.mean(changed) > 0.5, type(task)
        names.append(type(task).__name__)
    assert len(names) == 3
    assert isinstance(encoder_config(out / "discriminator"), encoders.EncoderConfig)
