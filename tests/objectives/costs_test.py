import math

import pytest
import tensorflow as tf

from electra_cli.config import default_config
from electra_cli.config.resolution import resolve
from electra_cli.modeling import features
from electra_cli.modeling.encoders import build_discriminator
from electra_cli.objectives import costs
from electra_cli.objectives.base import objective_of
from tests.config.resolution_test import preset

VOCAB_SIZE = 30_522


def resolved(name, **changes):
    config = preset(name)
    config.data.dir = "data"
    config.update_from_flattened_dict(changes)
    return resolve(config, VOCAB_SIZE)


@pytest.mark.parametrize(
    ("name", "num_steps", "expected"),
    [
        ("small", 1_000_000, 1.29e18),
        ("base", 766_000, 6.42e19),
        ("large", 400_000, 7.12e20),
        ("large", 1_750_000, 3.11e21),
    ],
)
def test_training_flops_are_those_of_the_paper(name, num_steps, expected):
    assert costs.training_flops(resolved(name, **{"train.num_steps": num_steps})) == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize(
    "objective", ["electra", "uniform_generator", "tied_generator", "frozen_generator", "electric", "mlm", "teams"]
)
def test_matrix_products_of_a_step_counted_by_hand(objective):
    config = default_config()
    config.data.dir = "data"
    config.data.max_seq_length, config.data.mask_prob = 8, 0.25  # int(0.255 x 8) = 2 slots
    config.model.hidden_size, config.model.num_attention_heads, config.model.num_layers = 4, 2, 3
    config.model.intermediate_size, config.model.embedding_size = 16, 6
    config.model.generator_hidden_size, config.model.generator_num_attention_heads = 6, 1
    config.model.generator_num_layers, config.model.generator_intermediate_size = 1, 10
    config.train.global_batch_size = 5
    if objective in ("electric", "mlm", "teams"):
        config.objective.name = objective
    elif objective != "electra":
        config.objective[objective] = True
    config.model.embedding_sharing = "none" if objective == "frozen_generator" else "all"
    found = costs.matmul_flops(resolve(config, 100))

    def product(rows, inner, columns):
        return 2 * rows * inner * columns

    def block(width, intermediate, heads):
        head = width // heads
        attention = heads * (product(8, head, 8) + product(8, 8, head))
        return product(8, width, 3 * width) + attention + product(8, width, width) + 2 * product(8, width, intermediate)

    layer = block(4, 16, 2)
    large = product(8, 6, 4) + 3 * layer
    small = block(6, 10, 1)  # as wide as the embeddings: no projection
    discriminator = large + product(8, 4, 4) + product(8, 4, 1)
    vocabulary = product(2, 6, 100)
    generator = small + product(2, 6, 6) + vocabulary
    expected = {
        "electra": discriminator + generator,
        "frozen_generator": discriminator + generator / 3,  # forward only
        "uniform_generator": discriminator,
        "tied_generator": discriminator + large + product(2, 4, 6) + vocabulary,
        # Both towers' states of each of 8 tokens.
        "electric": discriminator + 2 * small + product(8, 2 * 6, 6) + product(8, 6, 100),
        "mlm": large + product(2, 4, 6) + vocabulary,
        # A generator of one layer, another of selection, and its head with 5 candidates.
        "teams": discriminator
        + product(8, 6, 4)
        + layer
        + product(2, 4, 6)
        + vocabulary
        + layer
        + product(2, 4, 6)
        + product(2, 6, 5),
    }
    assert found == pytest.approx(3 * 5 * expected[objective], rel=1e-12)


def test_a_frozen_generator_saves_its_backward_pass():
    changes = {"model.embedding_sharing": "none"}
    trained, frozen = (
        costs.training_flops(resolved("small", **changes, **{"objective.frozen_generator": is_frozen}))
        for is_frozen in (False, True)
    )
    alone = costs.training_flops(resolved("small", **{"objective.uniform_generator": True}))
    assert (trained - alone) / 2 == pytest.approx(frozen - alone, rel=1e-12)


def test_the_architecture_modern_counted_by_hand():
    config = default_config()
    config.data.dir = "data"
    config.data.max_seq_length, config.data.mask_prob = 8, 0.25  # 2 slots
    config.model.architecture = "modern"
    config.model.hidden_size = config.model.embedding_size = config.model.generator_hidden_size = 4
    config.model.num_attention_heads, config.model.num_layers, config.model.intermediate_size = 2, 3, 5
    config.model.generator_num_layers, config.model.generator_intermediate_size = 1, 6
    config.train.global_batch_size, config.train.num_steps = 5, 7
    found = resolve(config, 100)

    def products(layers, inner):  # query, key, value and output; scores and values; both halves and back
        return layers * (4 * 2 * 8 * 4 * 4 + 2 * 2 * 8 * 8 * 4 + 3 * 2 * 8 * 4 * inner)

    heads = 2 * 8 * 4 * (4 + 1) + 2 * 2 * 4 * (4 + 100)
    assert costs.matmul_flops(found) == 3 * 5 * (products(3, 5) + products(1, 6) + heads)

    def operations(layers, inner, num_heads):
        """Of a token: LayerNorms without bias 4, rotation 6 for a pair, softmax 5, dropout 4, GELU 8 and its gate 1."""
        attention = 4 * 4 + 4 * 2 * 4 * 4 + 2 * 4 * 3 + 2 * 2 * 4 * 8 + (5 + 4 + 1) * 8 * num_heads + (4 + 1) * 4
        feed_forward = 4 * 4 + 3 * 2 * 4 * inner + (8 + 1) * inner + (4 + 1) * 4
        return 8 * (layers * (attention + feed_forward) + 2 * 4 * 100 + (4 + 4) * 4)

    rtd = 8 * (2 * 4 * 4 + (8 + 4) * 4 + 2 * 4)
    masked_lm = 0.15625 * 8 * (2 * 4 * 4 + (8 + 4) * 4 + 2 * 4 * 100 + (5 + 2) * 100)
    a_step = 2 * 5 * (operations(3, 5, 2) + operations(1, 6, 1) + rtd + masked_lm)
    assert costs.training_flops(found) == pytest.approx(7 * a_step)


@pytest.mark.parametrize(("every", "window", "attention"), [(3, 20, "auto"), (2, 256, "auto"), (4, 20, "full")])
def test_products_of_windows_are_those_of_the_graph(every, window, attention):
    """At 512 tokens layers with windows are in blocks, others are not."""
    config = default_config()
    config.data.dir, config.data.max_seq_length, config.runtime.attention = "data", 512, attention
    config.model.architecture = "modern"
    config.model.hidden_size = config.model.embedding_size = config.model.generator_hidden_size = 8
    config.model.num_attention_heads, config.model.num_layers, config.model.intermediate_size = 2, 4, 6
    config.model.global_attention_every, config.model.local_attention = every, window
    found = resolve(config, 50)
    encoder = build_discriminator(found)
    inputs = {name: tf.TensorSpec([3, 512], tf.int32) for name in features.UNMASKED}
    graph = tf.function(lambda x: encoder(x)["sequence_output"], autograph=False).get_concrete_function(inputs).graph
    counted = 0
    for operation in graph.get_operations():
        if "MatMul" in operation.type:
            attributes, shape = operation.node_def.attr, operation.inputs[0].shape
            is_transposed = attributes["transpose_a"].b or attributes["adj_x"].b
            counted += 2 * shape[-2 if is_transposed else -1] * math.prod(operation.outputs[0].shape)
    _, size = costs.network_sizes(found)
    assert counted == 3 * costs._encoder_products(size)
    num_windows = 0 if attention == "full" else sum(bool(layer % every) for layer in range(4))
    assert size.keys_of_query() == (4 - num_windows) * 512 + num_windows * 4 * max(64, window // 2)


@pytest.mark.parametrize("name", costs.OUTLINES)
def test_the_outline_is_that_of_the_objective(name):
    objective = objective_of(resolved("small", **{"objective.name": name}))
    assert sum(math.prod(shape) for shape in objective.sum_shapes().values()) == costs.OUTLINES[name].num_sums
    assert costs.OUTLINES[name].has_generator == ("rtd_loss" in objective.loss_names)
