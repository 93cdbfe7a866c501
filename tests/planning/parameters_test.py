"""Counts beside the variables that training builds, and what their checkpoint takes of the disk."""

import collections
import os

import pytest
import tensorflow as tf

from electra_cli.config import default_config
from electra_cli.config.resolution import resolve
from electra_cli.objectives.base import build_pretrainer, objective_of
from electra_cli.planning.memory import FLOAT, num_copies
from electra_cli.planning.parameters import count_parameters
from electra_cli.planning.run_size import checkpoint_size
from electra_cli.training.optimization import build_optimizer
from electra_cli.training.updates import IntervalSums
from electra_cli.workdir.checkpoints import Checkpoints
from tests.config.resolution_test import TABLE_6, preset

NARROW = {
    "model.hidden_size": 24,
    "model.num_attention_heads": 2,
    "model.intermediate_size": 40,
    "model.embedding_size": 12,
    "model.num_layers": 3,
    "data.max_seq_length": 16,
    "model.max_position_embeddings": 20,
    "model.type_vocab_size": 3,
    "model.generator_hidden_size": 10,
    "model.generator_num_attention_heads": 5,
    "model.generator_intermediate_size": 14,
    "model.generator_num_layers": 2,
}


def resolved(config, vocab_size=70, **changes):
    config.data.dir = "data"
    config.update_from_flattened_dict(changes)
    return resolve(config, vocab_size)


def groups_of(model, config):
    """Counts the variables of a model by the object that owns them."""
    if config.objective.name == "mlm":
        generator, discriminator, rtd_layers = None, model.encoder_network, []
    else:
        generator, discriminator = model.generator_network, model.discriminator_network
        rtd_layers = [model.discriminator_projection, model.discriminator_head]
    is_tied = generator is discriminator

    def ids(layers):
        return {id(variable) for layer in layers if layer is not None for variable in layer.trainable_variables}

    in_generator, in_discriminator = ids([generator]), ids([discriminator])
    if generator is not None and generator.embeddings is not discriminator.embeddings:
        in_discriminator -= ids([generator.embeddings.layer_norm])  # held with tables that are added to, and not used
    embeddings = ids([network.embeddings for network in (generator, discriminator) if network is not None])
    masked_lm = ids([model.masked_lm]) - embeddings if model.masked_lm is not None else set()
    counts = collections.Counter()
    for variable in model.trainable_variables:
        key, size = id(variable), int(tf.size(variable))
        kind = "embeddings" if key in embeddings else "encoder"
        if key in masked_lm:
            counts["masked_lm_head"] += size
        elif key in ids(rtd_layers):
            counts["rtd_head"] += size
        elif key in in_generator and key in in_discriminator:
            counts[f"shared_{kind}"] += size
        else:
            counts[f"{'generator' if key in in_generator else 'discriminator'}_{kind}"] += size
    assert is_tied == ("shared_encoder" in counts)
    return counts


@pytest.mark.parametrize("name", ["tiny", "small_mlm", *TABLE_6])
def test_presets_of_one_layer(name):
    config = resolved(preset(name), vocab_size=300, **{"model.num_layers": 1, "model.generator_layers": 1.0})
    assert count_parameters(config).groups == groups_of(build_pretrainer(config), config)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model.embedding_sharing": "word"},
        {"model.embedding_sharing": "none"},
        {"model.embedding_sharing": "gradient_disentangled"},
        {"objective.tied_generator": True},
        {"objective.uniform_generator": True},
        {"objective.name": "mlm"},
        {"model.embedding_size": 24},
        {"model.generator_hidden_size": 12, "model.generator_num_attention_heads": 1},
    ],
    ids=str,
)
def test_odd_configs(changes):
    config = resolved(default_config(), **{**NARROW, **changes})
    counted, model = count_parameters(config), build_pretrainer(config)
    assert counted.groups == groups_of(model, config)
    assert counted.trained == sum(int(tf.size(variable)) for variable in model.trainable_variables)
    network = model.encoder_network if config.objective.name == "mlm" else model.discriminator_network
    if config.model.embedding_sharing != "gradient_disentangled":  # which holds the generator's tables too
        assert counted.discriminator == sum(int(tf.size(variable)) for variable in network.trainable_variables)
    if counted.generator:
        variables = model.generator_network.trainable_variables
        assert counted.generator == sum(int(tf.size(variable)) for variable in variables)


def test_released_models():
    """The sizes of the paper, of which Table 6 tells millions."""
    for name, expected in {"small": 13.5e6, "base": 108.9e6, "large": 334.1e6}.items():
        counted = count_parameters(resolved(preset(name), vocab_size=30_522))
        assert counted.discriminator == pytest.approx(expected, rel=2e-3)
        assert counted.networks < counted.discriminator + counted.generator < counted.trained * 1.5


@pytest.mark.parametrize(
    "changes", [{}, {"objective.name": "mlm"}, {"optimizer.ema_decay": 0.9, "optimizer.name": "lamb"}], ids=str
)
def test_checkpoints_on_the_disk(tmp_path, changes):
    wide = {"model.embedding_size": 64, "train.num_steps": 12, "train.checkpoint_interval": 12, "eval.interval": 0}
    config = resolved(
        default_config(), 6000, **{**NARROW, **wide, "train.steps_per_loop": 1, "train.log_interval": 1, **changes}
    )
    model, optimizer = build_pretrainer(config), build_optimizer(config)
    optimizer.build(model.trainable_variables)
    slots = sum(int(tf.size(variable)) for variable in optimizer.variables if variable.shape.rank)
    assert slots == num_copies(config) * count_parameters(config).trained
    sums = IntervalSums(objective_of(config).sum_shapes())
    with Checkpoints(str(tmp_path), model, optimizer, {"interval_sums": sums}, config.train) as checkpoints:
        checkpoints.save()
    found = sum(os.path.getsize(path) for path in tmp_path.rglob("*") if path.is_file())
    predicted = checkpoint_size(config)
    assert predicted.one > FLOAT * count_parameters(config).trained * 3
    assert found == pytest.approx(predicted.one, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "num_kept"),
    [
        ({}, 4),  # 70, 80, 90, and the last
        ({"train.keep_every_steps": 30}, 6),  # 30, 60, 90 for good; 70, 80, 95
        ({"train.keep_every_steps": 10, "train.best_metric": "rtd_loss"}, 11),  # 10 to 90, 95, the best
        ({"train.num_steps": 8}, 1),
        ({"phases.num_steps": (93, 2)}, 4),  # 70, 80, 90, 95
        ({"train.num_steps": 90}, 3),
        ({"train.keep_checkpoints": 1}, 2),  # 90, 95
    ],
    ids=str,
)
def test_checkpoints_that_are_kept(changes, num_kept):
    run = {"train.num_steps": 95, "train.checkpoint_interval": 10, "train.steps_per_loop": 1, "train.log_interval": 1}
    config = resolved(default_config(), **{**NARROW, **run, **changes})
    found = checkpoint_size(config)
    assert (found.num_kept, found.kept) == (num_kept, found.one * (num_kept + 1))
