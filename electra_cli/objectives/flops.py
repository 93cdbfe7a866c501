"""Floating-point operations of training, counted by hand. TensorFlow is not imported here.

Two counts serve two ends. `training_flops` is that of the paper (Clark et al., ICLR 2020, Table 8), counted as
google-research/electra's `flops_computation.py` does: every operation counts, looking up an embedding is a product with
one-hot rows, and the backward pass costs as much as the forward pass. `matmul_flops` is what hardware is measured by:
products of matrices alone, as they are made here, and twice as much backward as forward.
"""

import dataclasses
from typing import Any

# Operations an element, as the paper's script counts them: draw, compare, mask, scale; sum, square, sum, bias, scale;
# the tanh form of GELU; maximum, exponential, sum, divide and subtract.
_DROPOUT, _LAYER_NORM, _ACTIVATION, _SOFTMAX = 4, 5, 8, 5
# Tokens with an output softmax: 20 of 128, in all sizes, though ELECTRA-Large masks a quarter.
_MASKED_FRACTION = 0.15625


@dataclasses.dataclass(frozen=True)
class NetworkSize:
    """The sizes that operations of a network follow from.

    Attributes:
      hidden_size: width.
      num_layers: Transformer blocks.
      num_attention_heads: heads of each.
      intermediate_size: width of their feed-forward layers.
      embedding_size: width of the embeddings.
      vocab_size: entries of the vocabulary.
      seq_length: tokens of an example.
      num_predictions: masked slots of an example.
    """

    hidden_size: int
    num_layers: int
    num_attention_heads: int
    intermediate_size: int
    embedding_size: int
    vocab_size: int
    seq_length: int
    num_predictions: int


def network_sizes(config: Any) -> tuple[NetworkSize | None, NetworkSize]:
    """Returns the generator's and the discriminator's sizes of a resolved config.

    The generator is None when there is none: with `objective.uniform_generator`, and with the objective mlm, whose one
    network has the discriminator's size.
    """
    shared = {
        "embedding_size": config.model.embedding_size,
        "vocab_size": config.derived.vocab_size,
        "seq_length": config.data.max_seq_length,
        "num_predictions": config.derived.max_predictions_per_seq,
    }
    names = ("hidden_size", "num_layers", "num_attention_heads", "intermediate_size")
    discriminator = NetworkSize(**{name: config.model[name] for name in names}, **shared)
    if config.objective.name == "mlm" or config.objective.uniform_generator:
        return None, discriminator
    return NetworkSize(**{name: config.derived[f"generator_{name}"] for name in names}, **shared), discriminator


def training_flops(config: Any) -> float:
    """Returns the operations of a whole run, as the paper counts them.

    Args:
      config: a resolved config; of one phase, when there are several.
    """
    generator, discriminator = network_sizes(config)
    if config.objective.name == "mlm":
        an_example = _encoder_flops(discriminator) + _masked_lm_flops(discriminator)
    else:
        an_example = _encoder_flops(discriminator) + _rtd_flops(discriminator)
        if generator is not None:
            an_example += _encoder_flops(generator) + _masked_lm_flops(generator)
    # Twice: forward and backward.
    return 2.0 * an_example * config.train.global_batch_size * config.train.num_steps


def _encoder_flops(size: NetworkSize) -> float:
    """Embeddings and blocks of one example, forward."""
    h, s, e, heads, i = (
        size.hidden_size,
        size.seq_length,
        size.embedding_size,
        size.num_attention_heads,
        size.intermediate_size,
    )
    attention = (
        3 * (2 * h * h + h)  # query, key and value with their biases
        + 2 * h * s + (_SOFTMAX + _DROPOUT + 1) * s * heads  # scores; their softmax, dropout and scale
        + 2 * h * s  # weighted sum of values
        + 2 * h * h + h + _DROPOUT * h + h + _LAYER_NORM  # output, bias, dropout, residual; LayerNorm counted once
    )  # fmt: skip
    feed_forward = 2 * h * i + _ACTIVATION * i + i + 2 * h * i + h + _DROPOUT * h + h + _LAYER_NORM * h
    embedding = 2 * e * size.vocab_size + 2 * e * (s + 2) + 2 * e + _LAYER_NORM * e + _DROPOUT * e
    projection = 2 * h * e + h if e != h else 0
    return s * float(size.num_layers * (attention + feed_forward) + embedding + projection)


def _masked_lm_flops(size: NetworkSize) -> float:
    h, e, v = size.hidden_size, size.embedding_size, size.vocab_size
    a_slot = 2 * e * v + 2 * h * e + e + (_ACTIVATION + _LAYER_NORM) * e + _SOFTMAX * v + 2 * v
    return _MASKED_FRACTION * size.seq_length * float(a_slot)


def _rtd_flops(size: NetworkSize) -> float:
    h = size.hidden_size
    return size.seq_length * float(2 * h * h + h + _ACTIVATION * h + 2 * h)


def matmul_flops(config: Any) -> float:
    """Returns the operations that matrix products of one training step make, forward and backward, all replicas.

    Args:
      config: a resolved config; of one phase, when there are several.
    """
    generator, discriminator = network_sizes(config)

    def encoder(size: NetworkSize) -> float:
        h, s = size.hidden_size, size.seq_length
        block = 2 * s * (4 * h * h + 2 * h * size.intermediate_size) + 4 * s * s * h
        return size.num_layers * block + (2 * s * size.embedding_size * h if size.embedding_size != h else 0)

    def masked_lm(size: NetworkSize) -> float:
        return 2 * size.num_predictions * size.embedding_size * (size.hidden_size + size.vocab_size)

    total = encoder(discriminator)
    if config.objective.name == "mlm":
        total += masked_lm(discriminator)
    else:
        total += 2 * discriminator.seq_length * discriminator.hidden_size * (discriminator.hidden_size + 1)
        if generator is not None:
            total += encoder(generator) + masked_lm(generator)
    return 3.0 * total * config.train.global_batch_size
