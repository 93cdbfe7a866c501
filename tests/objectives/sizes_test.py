"""The model of memory: its arithmetic by hand, and its peak beside that of a process that trains."""

import collections
import dataclasses
import os
import types

import pytest
import tensorflow as tf

from electra_cli.config import default_config
from electra_cli.config.resolution import resolve
from electra_cli.errors import UserError
from electra_cli.objectives import costs, sizes
from electra_cli.objectives.base import build_pretrainer, objective_of
from electra_cli.objectives.sizes import FLOAT, checkpoint_size, count_parameters, num_copies, replica_memory
from electra_cli.objectives.weights import read, split
from electra_cli.training.distribution import Runtime
from electra_cli.training.optimization import build_optimizer
from electra_cli.training.run import check_memory
from electra_cli.training.updates import IntervalSums
from electra_cli.workdir.checkpoints import Checkpoints
from tests.config.resolution_test import TABLE_6, preset
from tests.planning.common import load_script


def resolved(vocab_size=100, **changes):
    config = default_config()
    config.data.dir = "data"
    config.data.max_seq_length = 16
    config.model.hidden_size = config.model.embedding_size = 8
    config.model.num_attention_heads, config.model.num_layers, config.model.intermediate_size = 2, 3, 32
    config.objective.uniform_generator = True
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return resolve(config, vocab_size)


def memory(config, num_examples=4, remat=False, compiled=True, num_replicas=1):
    return replica_memory(config, num_examples, remat=remat, compiled=compiled, num_replicas=num_replicas)


def test_weights_and_what_belongs_to_each():
    config = resolved()
    trained = 4 * count_parameters(config).trained
    found = memory(config)
    assert (found.weights, found.optimizer, found.gradients) == (trained, 2 * trained, trained)
    averaged = memory(resolved(optimizer__ema_decay=0.9))
    assert (averaged.optimizer, averaged.weights) == (3 * trained, trained)
    mixed = memory(resolved(runtime__precision="mixed_bfloat16"))
    assert (mixed.optimizer, mixed.weights) == (2 * trained, 1.5 * trained)
    in_parts = memory(resolved(train__gradient_accumulation_steps=2))
    assert (in_parts.gradients, memory(config, num_replicas=4).gradients) == (2 * trained, 2 * trained)


@pytest.mark.parametrize(("precision", "width", "gelu"), [("float32", 4, 3), ("mixed_bfloat16", 2, 2)])
def test_activations_of_a_compiled_step_counted_by_hand(precision, width, gelu):
    found = memory(resolved(runtime__precision=precision))
    tokens, scores = 4 * 16, 4 * 2 * 16 * 16
    # Query, key, value, context and both LayerNorms' outputs; two or three about GELU; scores and probabilities. In
    # float32 the sums before LayerNorm, and as bytes two decisions of dropout.
    block = width * (tokens * (6 * 8 + gelu * 32) + 2 * scores) + tokens * 2 * 8 * (4 + 1)
    embeddings, head = width * 4 * tokens * 8, width * tokens * (2 * 8 + 32)
    assert found.activations == 3 * block + embeddings + head
    kept = memory(resolved(runtime__precision=precision), remat=True)
    # Query, key, value, GELU but for its input, scores and probabilities are computed again, decisions are not.
    again = width * (tokens * (3 * 8 + (gelu - 1) * 32) + 2 * scores) - scores
    assert kept.activations == 3 * (block - again) + embeddings + head
    # With gradients; of scores alone, whose softmax is float32.
    assert (found.working, kept.working) == ((4 + width) * scores, 1.5 * again)


@pytest.mark.parametrize(("precision", "width"), [("float32", 4), ("mixed_bfloat16", 2)])
def test_activations_on_a_cpu_counted_by_hand(precision, width):
    found = memory(resolved(runtime__precision=precision), compiled=False)
    tokens, scores = 4 * 16, 4 * 2 * 16 * 16
    block = width * (tokens * (8 * 8 + 2 * 32) + 2 * scores)
    embeddings, head = width * 3 * tokens * 8, tokens * 8 * (2 * width + (4 if width == 2 else 0))
    assert found.activations == 3 * block + embeddings + head
    kept = memory(resolved(runtime__precision=precision), remat=True, compiled=False)
    again = width * (tokens * (3 * 8 + 32) + 2 * scores)
    widest = 2 * width * scores
    assert (found.working, kept.working) == (widest, widest + again)


def test_logits_of_all_tokens_by_hand():
    sizes = {"model__generator_size": 1.0, "model__generator_num_attention_heads": 2}
    electra, electric = (
        resolved(objective__uniform_generator=False, objective__name=name, **sizes) for name in ("electra", "electric")
    )
    assert memory(electra).logits == 3 * 4 * 4 * 2 * 100  # copies of float32, of 2 slots of 4 examples
    assert memory(electric).logits == 3 * 4 * 4 * 16 * 100
    # Two towers keep as much as the discriminator without its head does twice.
    head = 4 * 16 * 8 * 2 * 4
    kept = memory(electra, compiled=False).activations - head
    assert memory(electric, compiled=False).activations == 1.5 * kept + head


def test_without_dropout_its_tensors_are_not_there():
    for compiled in (True, False):
        dropped = memory(resolved(), compiled=compiled).activations
        kept = memory(resolved(model__hidden_dropout=0.0, model__attention_dropout=0.0), compiled=compiled).activations
        assert kept < dropped


def test_peak_grows_with_the_batch_and_has_the_weights_at_least():
    config = resolved()
    peaks = [memory(config, number).peak for number in (1, 8, 64)]
    assert peaks == sorted(peaks) and peaks[0] > 3 * 4 * count_parameters(config).trained
    # Activations dominate in the end: eight times as many take eight times as much.
    assert (memory(config, 6400).peak - memory(config, 3200).peak) / 3200 == pytest.approx(
        (memory(config, 12800).peak - memory(config, 6400).peak) / 6400
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", [0, 8])
def test_peak_of_steps(case):
    """Of two layers, op by op and compiled; docs/scale.md has more, and deeper ones. The goal of the model is 15 %."""
    script = load_script("benchmark_memory")
    overrides = {**script.case_overrides(case), "model.num_layers": 2}
    assert script.predict(overrides) == pytest.approx(script.measure(overrides)["measured_bytes"], rel=0.15)


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


MODERN = {
    "model.architecture": "modern",
    "model.embedding_size": 24,
    "model.type_vocab_size": 2,
    "model.generator_hidden_size": 24,
    "model.generator_num_attention_heads": 3,
    "model.local_attention": 4,
}
TEAMS = {"objective.name": "teams", "objective.shared_layers": 1}
MODERN_NARROW_GENERATOR = {"model.embedding_sharing": "none", "model.generator_hidden_size": 12}


def resolve_small(config, vocab_size=70, **changes):
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
    shares_layers = generator is discriminator or config.objective.name == "teams"

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
        elif config.objective.name == "teams" and key not in in_generator | in_discriminator:
            counts["selection_head"] += size
        elif key in in_generator and key in in_discriminator:
            counts[f"shared_{kind}"] += size
        else:
            counts[f"{'generator' if key in in_generator else 'discriminator'}_{kind}"] += size
    assert shares_layers == ("shared_encoder" in counts)
    return counts


@pytest.mark.parametrize("name", ["tiny", "small_mlm", *TABLE_6])
def test_presets_of_one_layer(name):
    config = resolve_small(preset(name), vocab_size=300, **{"model.num_layers": 1, "model.generator_layers": 1.0})
    assert count_parameters(config).groups == groups_of(build_pretrainer(config), config)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model.embedding_sharing": "word"},
        {"model.embedding_sharing": "none"},
        {"model.embedding_sharing": "gradient_disentangled"},
        {"model.embedding_sharing": "none", "objective.frozen_generator": True},
        {"model.embedding_sharing": "gradient_disentangled", "objective.frozen_generator": True},
        {"objective.tied_generator": True},
        {"objective.uniform_generator": True},
        {"objective.name": "mlm"},
        {"model.embedding_size": 24},
        {"model.generator_hidden_size": 12, "model.generator_num_attention_heads": 1},
        MODERN,
        {**MODERN, "model.embedding_sharing": "word"},
        {**MODERN, **MODERN_NARROW_GENERATOR},
        {**MODERN, "model.embedding_sharing": "gradient_disentangled"},
        {**MODERN, "objective.tied_generator": True},
        {**MODERN, "objective.uniform_generator": True},
        {**MODERN, "objective.name": "mlm", "model.num_layers": 1},
        {"objective.name": "electric"},
        {"objective.name": "electric", "model.embedding_sharing": "gradient_disentangled"},
        {**MODERN, **MODERN_NARROW_GENERATOR, "objective.name": "electric"},
        TEAMS,
        {**TEAMS, "objective.shared_layers": 0, "objective.task_layers": 2},
        {**TEAMS, "model.embedding_size": 24, "model.generator_num_layers": 1},
        {**TEAMS, **MODERN},
    ],
    ids=str,
)
def test_odd_configs(changes):
    config = resolve_small(default_config(), **{**NARROW, **changes})
    counted, model = count_parameters(config), build_pretrainer(config)
    assert counted.updated == sum(int(tf.size(variable)) for variable in model.trainable_variables)
    assert bool(counted.frozen) == config.objective.frozen_generator
    for network in (model, *model.networks.values()):
        network.trainable = True
    if model.masked_lm is not None:
        model.masked_lm.trainable = True
    assert collections.Counter(counted.groups) == groups_of(model, config)
    for role, size in zip(("generator", "discriminator"), costs.network_sizes(config), strict=True):
        if size is not None and role in model.networks and config.objective.name != "mlm":
            weights = read(model)
            heads, settings = size.num_attention_heads, costs.sizes_without_weights(config.model)
            network = split(weights, role, heads, settings)
            shapes = {name: value.shape for name, value in network.weights.items()}
            assert shapes == costs.expected_shapes(role, size)
            assert dataclasses.asdict(network.sizes).items() <= dataclasses.asdict(size).items()
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
        counted = count_parameters(resolve_small(preset(name), vocab_size=30_522))
        assert counted.discriminator == pytest.approx(expected, rel=2e-3)
        assert counted.networks < counted.discriminator + counted.generator < counted.trained * 1.5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective.name": "mlm"},
        {"model.embedding_sharing": "none", "objective.frozen_generator": True},
        {"optimizer.ema_decay": 0.9, "optimizer.name": "lamb"},
    ],
    ids=str,
)
def test_checkpoints_on_the_disk(tmp_path, changes):
    wide = {"model.embedding_size": 64, "train.num_steps": 12, "train.checkpoint_interval": 12, "eval.interval": 0}
    config = resolve_small(
        default_config(), 6000, **{**NARROW, **wide, "train.steps_per_loop": 1, "train.log_interval": 1, **changes}
    )
    model, optimizer = build_pretrainer(config), build_optimizer(config)
    optimizer.build(model.trainable_variables)
    slots = sum(int(tf.size(variable)) for variable in optimizer.variables if variable.shape.rank)
    assert slots == num_copies(config) * count_parameters(config).updated
    sums = IntervalSums(objective_of(config).sum_shapes())
    with Checkpoints(str(tmp_path), model, optimizer, {"interval_sums": sums}, config.train) as checkpoints:
        checkpoints.save()
    found = sum(os.path.getsize(path) for path in tmp_path.rglob("*") if path.is_file())
    predicted = checkpoint_size(config)
    assert predicted.one > FLOAT * (count_parameters(config).trained + 2 * count_parameters(config).updated)
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
    config = resolve_small(default_config(), **{**NARROW, **run, **changes})
    found = checkpoint_size(config)
    assert (found.num_kept, found.kept) == (num_kept, found.one * (num_kept + 1))


@pytest.mark.parametrize("keep_every", [0, 3, 6, 30])
@pytest.mark.parametrize("keep", [1, 2, 7, 10**9])
@pytest.mark.parametrize("num_steps", [1, 3, 10, 89, 90])
def test_numbers_of_kept_checkpoints_are_those_of_counting_them(num_steps, keep, keep_every):
    run = {"train.num_steps": num_steps, "train.checkpoint_interval": 3, "train.keep_checkpoints": keep}
    run |= {"train.keep_every_steps": keep_every, "train.log_interval": 1, "train.steps_per_loop": 1}
    regular = list(range(3, num_steps + 1, 3))
    for_good = {step for step in regular if keep_every and step % keep_every == 0}
    found = checkpoint_size(resolve_small(default_config(), **{**NARROW, **run, "eval.interval": 0}))
    assert found.num_for_good == len(for_good)
    assert found.num_kept == len(for_good | set(regular[-keep:]) | {num_steps})


def test_a_network_larger_than_the_memory(monkeypatch):
    config = resolved()
    number = count_parameters(config).discriminator + 8 * 8 + 8 + 8 + 1
    monkeypatch.setattr(sizes, "host_memory", lambda: 4 * number)
    build_pretrainer(config)
    monkeypatch.setattr(sizes, "host_memory", lambda: 4 * number - 1)
    expected = (
        f"config.model: a network of hidden_size=8, num_layers=3, intermediate_size=32, embedding_size=8, "
        f"vocab_size=100 has {number:,} weights, which take 0.0 MiB, and this machine has 0.0 MiB of memory: choose "
        f"smaller sizes"
    )
    with pytest.raises(UserError) as error:
        build_pretrainer(config)
    assert str(error.value) == expected
    monkeypatch.setattr(sizes, "host_memory", lambda: 2**30)
    generator = {"objective.uniform_generator": False, "model.generator_hidden_size": 2**16}
    with pytest.raises(
        UserError, match=r"network of hidden_size=65536, num_layers=3, intermediate_size=262144, .* GiB"
    ):
        build_pretrainer(resolved(**{**generator, "model.generator_num_attention_heads": 2}))


@pytest.mark.parametrize(("batch", "parts", "refused"), [(2**20, 1, True), (2**20, 2**18, False), (4, 1, False)])
def test_steps_that_need_far_more_than_the_memory(batch, parts, refused):
    config = resolved(train__global_batch_size=batch, train__gradient_accumulation_steps=parts)
    runtime = Runtime(tf.distribute.OneDeviceStrategy("CPU:0"), False, "CPU", jit_regions=True)
    phases = [types.SimpleNamespace(config=config)]
    needed = memory(config, batch // parts, compiled=False).peak
    assert refused == (needed > 1.5 * sizes.host_memory())
    check_memory(dataclasses.replace(runtime, devices="1 GPU"), phases)  # which reports that by itself
    if not refused:
        check_memory(runtime, phases)
        return
    message = (
        rf"^config.train.global_batch_size=1048576: steps in config.train.gradient_accumulation_steps=1 parts need "
        rf"about {needed / 2**30:.2f} GiB with config.model.hidden_size=8 and config.data.max_seq_length=16, and this "
        rf"machine has {sizes.host_memory() / 2**30:.2f} GiB of memory: choose smaller ones, or more parts$"
    )
    with pytest.raises(UserError, match=message):
        check_memory(runtime, phases)


@pytest.mark.parametrize("overrides", [{}, {"model.architecture": "modern", "model.embedding_size": 256}])
@pytest.mark.parametrize("compiled", [False, True])
def test_activations_of_attention_in_blocks_grow_with_the_length(overrides, compiled):
    def activations(attention, length):
        config = default_config()
        config.data.dir = "none"
        config.model.generator_size = 1.0
        config.update_from_flattened_dict({
            **overrides, "runtime.attention": attention, "data.max_seq_length": length,
            "model.max_position_embeddings": length,
        })  # fmt: skip
        memory = replica_memory(resolve(config, 1000), 1, remat=False, compiled=compiled, num_replicas=1)
        return memory.activations + memory.working

    assert activations("blockwise", 4096) == pytest.approx(8 * activations("blockwise", 512))
    assert activations("full", 4096) > 20 * activations("full", 512)
    assert activations("auto", 4096) == activations("blockwise", 4096)
    if not overrides:
        assert activations("auto", 512) == activations("full", 512)
