"""What a replica's memory holds while it trains, by part. Pure arithmetic; TensorFlow is not imported here.

What is kept of a forward pass for the backward pass is counted tensor by tensor, from `modeling/layers.py`. Two ways of
execution order things differently: a step that XLA compiles as a whole (GPUs, TPUs), and TensorFlow's products with
compiled parts between them (CPUs). A step peaks at one of three moments: at the end of the forward pass, with the
gradients that come before activations go, all of them by experience; when the generator's logits are sampled from; or
at the update.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

from electra_cli.objectives import flops
from electra_cli.planning.parameters import count_parameters

FLOAT = 4  # bytes of float32, which weights, optimizer and gradients have in every precision

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
      working: what is alive beside them while gradients of a block are taken.
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
    execution = _Compiled(config, width) if compiled else _InParts(config, width)
    weights = trained * (1.0 if width == FLOAT else 1.0 + width / FLOAT)
    optimizer = trained * num_copies(config)
    has_parts = config.train.gradient_accumulation_steps > 1
    gradients = trained * (execution.gradient_copies + has_parts + (num_replicas > 1))
    generator, discriminator = flops.network_sizes(config)
    sizes = [size for size in (generator, discriminator) if size is not None]
    kept = [num_examples * size for size in execution.networks(sizes, remat)]
    activations = execution.at_once(kept)
    working = num_examples * max(execution.working(size, remat) for size in sizes)
    a_copy = FLOAT * num_examples * discriminator.num_predictions * discriminator.vocab_size
    logits = a_copy * (execution.logits_kept if config.objective.uniform_generator else execution.logits_alive)
    moments = (
        activations + working + a_copy * execution.logits_kept + trained * execution.gradients_kept,
        kept[0] + logits,
        gradients - trained * has_parts,
    )
    peak = weights + optimizer + trained * has_parts + max(moments)
    return ReplicaMemory(weights, optimizer, gradients, activations, working, logits, peak)


def kept_of_example(config: Any, *, compiled: bool) -> float:
    """Returns the bytes of an example that the forward passes of both networks keep together, with its logits."""
    width = compute_bytes(config)
    execution = _Compiled(config, width) if compiled else _InParts(config, width)
    generator, discriminator = flops.network_sizes(config)
    sizes = [size for size in (generator, discriminator) if size is not None]
    has_logits = not config.objective.uniform_generator
    logits = FLOAT * discriminator.num_predictions * discriminator.vocab_size * execution.logits_alive * has_logits
    return sum(execution.networks(sizes, remat=False)) + logits


def num_copies(config: Any) -> int:
    """Returns how many numbers the optimizer keeps for each weight: moments, and a moving average if one is asked."""
    return _MOMENTS + (1 if config.optimizer.ema_decay > 0 else 0)


def compute_bytes(config: Any) -> int:
    """Returns the bytes of a number in the precision that matrix products are computed in."""
    return FLOAT if config.runtime.precision == "float32" else 2


class _Execution(abc.ABC):
    """Bytes that an example needs, however the step is executed.

    Args:
      config: a resolved config.
      width: bytes of a number in the compute dtype.
    """

    gelu_tensors: float
    gradient_copies: float
    gradients_kept: float
    logits_alive: float
    logits_kept: float

    def __init__(self, config: Any, width: int):
        self.width = width
        self.has_hidden_dropout = config.model.hidden_dropout > 0
        self.has_attention_dropout = config.model.attention_dropout > 0

    def networks(self, sizes: Sequence[flops.NetworkSize], remat: bool) -> list[float]:
        """What is kept of each network, embeddings and the discriminator's head included."""
        kept = []
        for size in sizes:
            again = self.recomputed(size) if remat else 0.0
            kept.append(self.embeddings(size) + size.num_layers * (self.block(size) - again))
        return [*kept[:-1], kept[-1] + self.head(sizes[-1])]

    def _scores(self, size: flops.NetworkSize) -> float:
        """Bytes a token of attention probabilities, before and behind dropout."""
        return self.width * size.num_attention_heads * size.seq_length * (2.0 if self.has_attention_dropout else 1.0)

    def recomputed(self, size: flops.NetworkSize) -> float:
        """What of a block `model.remat` does not keep: query, key, value, probabilities, and GELU but for its input."""
        wide = self.width * (3.0 * size.hidden_size + (self.gelu_tensors - 1.0) * size.intermediate_size)
        return size.seq_length * (wide + self._scores(size))

    @abc.abstractmethod
    def at_once(self, kept: Sequence[float]) -> float:
        """What is kept of the networks at one time."""

    @abc.abstractmethod
    def embeddings(self, size: flops.NetworkSize) -> float:
        """What is kept of the embeddings."""

    @abc.abstractmethod
    def block(self, size: flops.NetworkSize) -> float:
        """What is kept of a Transformer block."""

    @abc.abstractmethod
    def head(self, size: flops.NetworkSize) -> float:
        """What is kept of the discriminator's head."""

    @abc.abstractmethod
    def working(self, size: flops.NetworkSize, remat: bool) -> float:
        """What is alive beside that while gradients of a block are taken."""


class _Compiled(_Execution):
    """A step that XLA compiles as a whole, as its buffer assignments show (scripts/benchmark_memory.py).

    It takes the generator's gradients before the discriminator runs, so that one network's activations are there at a
    time; keeps GELU's input once more than it must; and copies kernels for products.
    """

    gelu_tensors = 3.0
    gradient_copies = 1.0
    gradients_kept = 2.0
    logits_alive = 3.0
    logits_kept = 0.0

    def at_once(self, kept: Sequence[float]) -> float:
        """Returns what is kept of the networks at one time."""
        return max(kept)

    def embeddings(self, size: flops.NetworkSize) -> float:
        """Both sides of LayerNorm and of dropout."""
        return size.seq_length * size.embedding_size * 4.0 * self.width

    def block(self, size: flops.NetworkSize) -> float:
        """Query, key, value, context; both sides of two LayerNorms; three about GELU; probabilities."""
        wide = self.width * (8.0 * size.hidden_size + self.gelu_tensors * size.intermediate_size)
        return size.seq_length * (wide + self._scores(size))

    def head(self, size: flops.NetworkSize) -> float:
        """What its products read, and the gradient of the last block's widest tensor."""
        return size.seq_length * self.width * (2.0 * size.hidden_size + size.intermediate_size)

    def working(self, size: flops.NetworkSize, remat: bool) -> float:
        """What is computed again of one block."""
        return self.recomputed(size) if remat else 0.0


class _InParts(_Execution):
    """TensorFlow's products, and what lies between them compiled by itself (`fused.py`), as on CPUs."""

    gelu_tensors = 2.0
    gradient_copies = 2.0  # as they are, and clipped
    gradients_kept = 1.0
    logits_alive = logits_kept = 3.0  # with a copy to sample from and their gradient, which nothing makes come later

    def at_once(self, kept: Sequence[float]) -> float:
        """Returns what is kept of the networks at one time."""
        return sum(kept)

    def embeddings(self, size: flops.NetworkSize) -> float:
        """LayerNorm's input and output; and behind dropout."""
        return size.seq_length * size.embedding_size * self.width * (3.0 if self.has_hidden_dropout else 2.0)

    def block(self, size: flops.NetworkSize) -> float:
        """Query, key, value, context; both sides of two LayerNorms and of GELU; probabilities."""
        wide = self.width * (8.0 * size.hidden_size + self.gelu_tensors * size.intermediate_size)
        return size.seq_length * (wide + self._scores(size))

    def head(self, size: flops.NetworkSize) -> float:
        """Both sides of GELU, and the latter in float32."""
        return size.seq_length * size.hidden_size * (2.0 * self.width + self.width % FLOAT * 2)

    def working(self, size: flops.NetworkSize, remat: bool) -> float:
        """Gradients of a block's feed-forward layer and probabilities, and what is computed again of it."""
        widest = size.seq_length * (2.0 * self.width * size.intermediate_size + self._scores(size))
        return widest + (self.recomputed(size) if remat else 0.0)
