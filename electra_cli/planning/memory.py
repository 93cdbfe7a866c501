"""What a replica's memory holds while it trains, by part. Pure arithmetic; TensorFlow is not imported here.

What is kept of a forward pass for the backward pass is counted tensor by tensor, from `modeling/layers.py`. Two ways of
execution keep different things: a step that XLA compiles as a whole (GPUs, TPUs) keeps what matrix products and
LayerNorm read and computes the rest again; TensorFlow's operations one by one (CPUs) keep every factor of every product.
A step's peak is the greatest of three moments: the end of the forward pass, with the gradients that come before activations go,
all of them by experience; when the generator's logits are sampled from; and the update.
"""

import dataclasses
from typing import Any

from electra_cli import flops
from electra_cli.planning.parameters import count_parameters

FLOAT = 4  # bytes of float32, which weights, optimizer and gradients have in every precision
MASK = 1  # bytes of a decision of dropout

# Of the optimizers of `training/optimization.py`, all of which are kinds of Adam.
_MOMENTS = 2


@dataclasses.dataclass(frozen=True)
class ReplicaMemory:
    """Bytes of one replica.

    Attributes:
      weights: float32, and their copies in the compute dtype while a step runs.
      optimizer: moments and moving averages.
      gradients: of all weights at the end of a step, with those of earlier parts and other replicas.
      activations: kept of the forward pass of one part of a batch.
      working: with recomputation, the block that is there as a whole while its gradients are taken.
      logits: of the masked-LM head, with their copies.
      peak: the most that is there at one time: activations go as gradients come.
    """

    weights: float
    optimizer: float
    gradients: float
    activations: float
    working: float
    logits: float
    peak: float


def replica_memory(config: Any, num_examples: int, *, remat: bool, compiled: bool, num_replicas: int) -> ReplicaMemory:
    """Returns the memory that a replica needs.

    Args:
      config: a resolved config; of one phase, when there are several.
      num_examples: examples of a part: of the global batch, what one replica computes at one time.
      remat: whether blocks are computed again for their gradients.
      compiled: whether XLA compiles the step as a whole.
      num_replicas: replicas that sum up their gradients.
    """
    trained = FLOAT * count_parameters(config).trained
    width = compute_bytes(config)
    execution = _Compiled(config, width) if compiled else _OneByOne(config, width)
    weights = trained * (1.0 if width == FLOAT else 1.0 + width / FLOAT)
    optimizer = trained * num_copies(config)
    has_parts = config.train.gradient_accumulation_steps > 1
    gradients = trained * (execution.gradient_copies + has_parts + (num_replicas > 1))
    generator, discriminator = flops.network_sizes(config)
    sizes = [size for size in (generator, discriminator) if size is not None]
    kept = [num_examples * execution.network(size, remat) for size in sizes]
    kept[-1] += num_examples * execution.head(discriminator)
    working = num_examples * max(execution.block(size) for size in sizes) if remat else 0.0
    a_copy = FLOAT * num_examples * discriminator.num_predictions * discriminator.vocab_size
    logits = a_copy * (execution.logits_kept if config.objective.uniform_generator else execution.logits_alive)
    moments = (
        sum(kept) + working + a_copy * execution.logits_kept + trained,
        kept[0] + logits,
        gradients - trained * has_parts,
    )
    peak = weights + optimizer + trained * has_parts + max(moments)
    return ReplicaMemory(weights, optimizer, gradients, sum(kept), working, logits, peak)


def num_copies(config: Any) -> int:
    """Returns how many numbers the optimizer keeps for each weight: moments, and a moving average if one is asked."""
    return _MOMENTS + (1 if config.optimizer.ema_decay > 0 else 0)


def compute_bytes(config: Any) -> int:
    """Returns the bytes of a number in the precision that matrix products are computed in."""
    return FLOAT if config.runtime.precision == "float32" else 2


class _Execution:
    """Bytes that an example needs, however the step is executed.

    Args:
      config: a resolved config.
      width: bytes of a number in the compute dtype.
    """

    gradient_copies: float
    logits_alive: float
    logits_kept: float

    def __init__(self, config: Any, width: int):
        self.width = width
        self.has_hidden_dropout = config.model.hidden_dropout > 0
        self.has_attention_dropout = config.model.attention_dropout > 0

    def network(self, size: flops.NetworkSize, remat: bool) -> float:
        """What is kept of a network, its embeddings included."""
        a_block = self.width * size.hidden_size * size.seq_length if remat else self.block(size)
        return self.embeddings(size) + size.num_layers * a_block

    def embeddings(self, size: flops.NetworkSize) -> float:
        raise NotImplementedError

    def block(self, size: flops.NetworkSize) -> float:
        raise NotImplementedError

    def head(self, size: flops.NetworkSize) -> float:
        raise NotImplementedError


class _Compiled(_Execution):
    """A step that XLA compiles as a whole: fused operations keep only what they read from memory."""

    gradient_copies = 1.0
    logits_alive = 2.0
    logits_kept = 1.0

    def embeddings(self, size: flops.NetworkSize) -> float:
        """The sum, and what LayerNorm makes of it."""
        return size.seq_length * 2.0 * self.width * size.embedding_size

    def block(self, size: flops.NetworkSize) -> float:
        """Query, key, value, context; of each LayerNorm input and output; both sides of GELU; probabilities."""
        wide = self.width * (8.0 * size.hidden_size + 2.0 * size.intermediate_size)
        scores = self.width * (2.0 if self.has_attention_dropout else 1.0)
        return size.seq_length * (wide + scores * size.num_attention_heads * size.seq_length)

    def head(self, size: flops.NetworkSize) -> float:
        """Both sides of GELU."""
        return size.seq_length * 2.0 * self.width * size.hidden_size


class _OneByOne(_Execution):
    """TensorFlow's operations one by one: a product keeps both factors, LayerNorm and softmax are float32."""

    gradient_copies = 2.0  # as they are, and clipped
    logits_alive = 4.0  # logits, gradient of the loss, and two copies to sample from
    logits_kept = 1.0  # gradient of the loss

    def _layer_norm(self) -> float:
        """Bytes a unit: input and scale, float32, and output."""
        return 2.0 * FLOAT + self.width

    def embeddings(self, size: flops.NetworkSize) -> float:
        """LayerNorm and dropout."""
        dropped = MASK * self.has_hidden_dropout
        return size.seq_length * size.embedding_size * (self._layer_norm() + dropped)

    def block(self, size: flops.NetworkSize) -> float:
        """Query, scaled query, key, value, context; two LayerNorms; four factors of GELU; probabilities."""
        a_unit = 5.0 * self.width + 2.0 * (self._layer_norm() + MASK * self.has_hidden_dropout)
        wide = a_unit * size.hidden_size + 4.0 * self.width * size.intermediate_size
        scores = FLOAT + (MASK + self.width if self.has_attention_dropout else self.width % FLOAT)
        return size.seq_length * (wide + scores * size.num_attention_heads * size.seq_length)

    def head(self, size: flops.NetworkSize) -> float:
        """Four factors of GELU, and the last in float32."""
        return size.seq_length * size.hidden_size * (4.0 * self.width + self.width % FLOAT * 2)
