"""How large a run is: parameters, a replica's memory and checkpoints, computed from a config. No TensorFlow here.

What is kept of a forward pass for the backward pass is counted tensor by tensor, from `modeling/layers.py`. Two ways of
execution order things differently: a step that XLA compiles as a whole (GPUs, TPUs), and TensorFlow's products with
compiled parts between them (CPUs). A step peaks at one of three moments: at the end of the forward pass, with the
gradients that come before activations go, all of them by experience; when the generator's logits are sampled from; or
at the update.
"""

import dataclasses
import math
import os
import shutil
from collections.abc import Sequence
from typing import Any

from electra_cli import files
from electra_cli.config.pretraining import BLOCK, MIN_HALF_WINDOW
from electra_cli.errors import UserError
from electra_cli.objectives import costs
from electra_cli.workdir.run_files import CHECKPOINT_DIRECTORY

FLOAT = 4  # bytes of float32, which weights, optimizer and gradients have in every precision
# As measured in compiled steps: copies in float32 of blocks of scores; of what is recomputed of a block, what is alive
# with the gradients that take its place.
_FLOAT_BLOCKS, _RECOMPUTED = 5.0, 1.5
_MOMENTS = 2  # of the optimizers of `training/optimization.py`, all of which are kinds of Adam


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Parameters of a resolved config; those of a network include its embeddings, not its head."""

    groups: dict[str, int]  # all that training builds, by part
    generator: int  # 0 when there is none
    discriminator: int  # of the objective mlm, its one network
    frozen: int = 0  # of `trained`, those that stay as they are

    @property
    def trained(self) -> int:
        """All that training builds, with heads; shared parameters count once."""
        return sum(self.groups.values())

    @property
    def updated(self) -> int:
        """Those that have gradients and moments."""
        return self.trained - self.frozen

    @property
    def networks(self) -> int:
        """Both networks without heads; shared parameters count once."""
        return sum(number for name, number in self.groups.items() if not name.endswith("_head"))


def count_parameters(config: Any) -> Parameters:
    """Counts the parameters of a resolved config."""
    generator, discriminator = costs.network_sizes(config)
    head = costs.outline_of(config).kept_head
    kept = _count("generator" if head == "masked_lm" else "discriminator", discriminator)
    heads = {f"{head}_head": kept["head"]}
    embeddings, encoder = kept["embeddings"], kept["encoder"]
    if generator is None:
        groups = {"discriminator_embeddings": embeddings, "discriminator_encoder": encoder, **heads}
        return Parameters(groups, 0, embeddings + encoder)
    small = _count("generator", generator)
    heads = {"masked_lm_head": small["head"], **heads}
    if config.objective.tied_generator:
        groups = {"shared_embeddings": embeddings, "shared_encoder": encoder, **heads}
    elif config.objective.name == "teams":
        shared, with_both_tasks = (  # with the projection of embeddings, without a final norm
            _count("discriminator", dataclasses.replace(discriminator, num_layers=number))["encoder"]
            - kept["final_norm"]
            for number in (
                costs.num_shared_layers(config),
                discriminator.num_layers - costs.num_selection_layers(config),
            )
        )
        groups = {
            "shared_embeddings": embeddings,
            "shared_encoder": shared,
            "generator_encoder": small["encoder"] - shared,
            "discriminator_encoder": encoder - shared,
            **heads,
            # Its layers, and what the other head of the slots has but for the bias of each token.
            "selection_head": encoder - with_both_tasks + small["head"] - discriminator.vocab_size,
        }
    else:
        groups = {
            **_divide_embeddings(kept, small["embeddings"], config.model.embedding_sharing),
            "generator_encoder": small["encoder"],
            "discriminator_encoder": encoder,
            **heads,
        }
    frozen = sum(small[part] for part in ("embeddings", "encoder", "head")) if config.objective.frozen_generator else 0
    return Parameters(groups, small["embeddings"] + small["encoder"], embeddings + encoder, frozen)


def _count(role: str, size: costs.NetworkSize) -> dict[str, int]:
    """Returns the parameters of a network's parts; those of the embeddings are the sum of tables and LayerNorm.

    Of several towers, `size.num_towers`, those of all together.
    """
    parts: dict[str, str | tuple[str, ...]] = {
        "word_table": "embeddings/word_embeddings",
        "layer_norm": "embeddings/LayerNorm/",
        "embeddings": "embeddings/",
        "encoder": ("embeddings_project/", "encoder/"),
        "final_norm": "encoder/LayerNorm/",
        "head": "predictions/",
    }
    numbers = {name: math.prod(shape) for name, shape in costs.expected_shapes(role, size).items()}
    counts = {
        part: sum(number for name, number in numbers.items() if name.startswith(prefix))
        for part, prefix in parts.items()
    }
    counts["encoder"] *= size.num_towers
    counts["head"] += (size.num_towers - 1) * size.hidden_size * size.embedding_size  # whose input is all towers'
    return counts


def _divide_embeddings(numbers: dict[str, int], of_generator: int, sharing: str) -> dict[str, int]:
    """Returns the parameters of embeddings that networks share, and of each network's own.

    `numbers` are the discriminator's; `of_generator` differs where its embeddings are its own and as narrow as it.
    """
    total, word, norm = (numbers[name] for name in ("embeddings", "word_table", "layer_norm"))
    if sharing == "all":
        return {"shared_embeddings": total}
    if sharing == "word":
        own = total - word
        return {"shared_embeddings": word, "generator_embeddings": own, "discriminator_embeddings": own}
    if sharing == "gradient_disentangled":
        # The discriminator adds tables of its own to the generator's; LayerNorm is each one's.
        return {"shared_embeddings": total - norm, "generator_embeddings": norm, "discriminator_embeddings": total}
    return {"generator_embeddings": of_generator, "discriminator_embeddings": total}


@dataclasses.dataclass(frozen=True)
class ReplicaMemory:
    """Bytes of one replica."""

    weights: float  # float32, and their copies in the compute dtype while a step runs
    optimizer: float  # moments and moving averages
    gradients: float  # of all weights at the end of a step, with those of earlier parts and other replicas
    activations: float  # kept of the forward pass of one part of a batch; compiled, of the network that keeps more
    working: float  # also alive while gradients of a block are computed
    logits: float  # of the masked-LM head, with their copies
    peak: float  # at one time: activations are freed as gradients are computed


def replica_memory(config: Any, num_examples: int, *, remat: bool, compiled: bool, num_replicas: int) -> ReplicaMemory:
    """Returns the memory that a replica needs for a resolved phase.

    `num_examples`: at one time; `compiled`: XLA compiles the complete step; `num_replicas`: that sum their gradients.
    """
    parameters = count_parameters(config)
    updated = FLOAT * parameters.updated
    width = compute_bytes(config)
    execution = _Execution(config, compiled)
    weights = FLOAT * parameters.trained * (1.0 if width == FLOAT else 1.0 + width / FLOAT)
    optimizer = updated * num_copies(config)
    has_parts = config.train.gradient_accumulation_steps > 1
    gradients = updated * (execution.gradient_copies + has_parts + (num_replicas > 1))
    sizes = [size for size in costs.network_sizes(config) if size is not None]
    kept = [num_examples * size for size in execution.networks(sizes, remat)]
    activations = max(kept) if compiled else sum(kept)
    # At the end of the forward pass those of the generator exist, where they are taken before.
    of_generator = FLOAT * parameters.generator if compiled and not execution.is_frozen else 0.0
    working = num_examples * max(execution.working(size, remat) for size in sizes)
    a_copy = FLOAT * num_examples * sizes[0].num_predictions * sizes[0].vocab_size
    logits = a_copy * (execution.logits_kept if config.objective.uniform_generator else execution.logits_alive)
    moments = (
        activations + working + a_copy * execution.logits_kept + of_generator,
        kept[0] + logits,
        gradients - updated * has_parts,
    )
    peak = weights + optimizer + updated * has_parts + max(moments)
    return ReplicaMemory(weights, optimizer, gradients, activations, working, logits, peak)


def kept_of_example(config: Any, *, compiled: bool) -> float:
    """Returns the bytes of an example that the forward passes of both networks keep, added up, with its logits."""
    execution = _Execution(config, compiled)
    sizes = [size for size in costs.network_sizes(config) if size is not None]
    has_logits = not config.objective.uniform_generator
    logits = FLOAT * sizes[0].num_predictions * sizes[0].vocab_size * execution.logits_alive * has_logits
    return sum(execution.networks(sizes, remat=False)) + logits


def num_copies(config: Any) -> int:
    """Returns how many numbers the optimizer keeps for each weight: moments, and a moving average if one is asked."""
    return _MOMENTS + (1 if config.optimizer.ema_decay > 0 else 0)


def compute_bytes(config: Any) -> int:
    """Returns the bytes of a number in the precision that matrix products are computed in."""
    return FLOAT if config.runtime.precision == "float32" else 2


class _Execution:
    """Bytes that an example needs, depending on how the step is executed.

    Compiled: XLA compiles the complete step, as its buffer assignments show (scripts/benchmark_memory.py and, for
    accelerators, scripts/compile_for.py). The generator's gradients are taken before the discriminator runs, so that
    one network's activations exist at a time. It keeps the sums that enter LayerNorm in float32, which it computes in,
    decisions of dropout as bytes, and scores of attention beside the probabilities, which it makes of them again. Else:
    TensorFlow's products, and what is between them compiled by itself (`fused.py`), as on CPUs, of both networks at
    once.

    Attributes:
      gelu_tensors: kept about GELU: input, output, and of float32 a value within that its gradient has, too.
      gradient_copies: of all gradients at the end of a step; without compilation as they are, and clipped.
      logits_alive, logits_kept: copies of the masked-LM head's logits while they are sampled from, and after that;
        without compilation with a copy to sample from, and then the logits alone.
    """

    def __init__(self, config: Any, compiled: bool):
        self.width = compute_bytes(config)
        self.compiled = compiled
        self.has_hidden_dropout = config.model.hidden_dropout > 0
        self.has_attention_dropout = config.model.attention_dropout > 0
        self.selection_layers = costs.num_selection_layers(config)
        self.gradient_copies = 1.0 if compiled else 2.0
        self.gelu_tensors = 3.0 if compiled and self.width == FLOAT else 2.0
        self.logits_alive = 3.0
        self.is_frozen = config.objective.frozen_generator  # keeps nothing for gradients
        predicts_all = costs.outline_of(config).num_towers > 1  # each with a loss: then gradients are kept, too
        self.logits_kept = 0.0 if self.is_frozen or compiled else 3.0 if predicts_all else 1.0

    def networks(self, sizes: Sequence[costs.NetworkSize], remat: bool) -> list[float]:
        """What is kept of each network, embeddings and the discriminator's head included."""
        kept = []
        for size in sizes:
            again = self.recomputed(size) if remat else 0.0
            num_layers = size.num_layers + (self.selection_layers if size is sizes[-1] else 0)
            kept.append(size.num_towers * (self.embeddings(size) + num_layers * (self.block(size) - again)))
        if self.is_frozen:
            kept[0] = 0.0
        return [*kept[:-1], kept[-1] + self.head(sizes[-1])]

    def _scores(self, size: costs.NetworkSize) -> float:
        """Bytes a token of what a layer keeps of its attention scores on average.

        Compiled: scores and probabilities, after dropout if there is any. Else probabilities, before and after it.
        """
        share = 1.0 - size.layers_in_blocks() / size.num_layers
        tensors = 2.0 if self.compiled or self.has_attention_dropout else 1.0
        return share * tensors * self._a_score(size, size.seq_length)

    def _a_score(self, size: costs.NetworkSize, num_keys: int) -> float:
        """Bytes a token of a score of each key in all heads."""
        return self.width * size.num_attention_heads * num_keys

    def _probabilities(self, size: costs.NetworkSize, num_keys: int) -> float:
        return self._a_score(size, num_keys) * (2.0 if self.has_attention_dropout else 1.0)

    def _blocks(self, size: costs.NetworkSize) -> float:
        """Bytes a token at work in layers that compute attention in blocks: probabilities and their gradients.

        Compiled, what else XLA makes of blocks of queries, keys and scores at once, too.
        """
        if not size.layers_in_blocks():
            return 0.0
        # Of layers with windows all blocks exist at once, those of others are smaller (`modeling/blockwise.py`).
        num_keys = 4 * max(MIN_HALF_WINDOW, size.local_attention // 2) if size.architecture == "modern" else BLOCK
        copies = _FLOAT_BLOCKS * FLOAT / self.width if self.compiled else 0.0
        return 2.0 * self._probabilities(size, num_keys) + copies * self._a_score(size, num_keys)

    def recomputed(self, size: costs.NetworkSize) -> float:
        """What of a block `model.remat` does not keep: query, key, value, scores, and GELU but for its input.

        Compiled, decisions of dropout stay, which the forward pass and its repetition have in common.
        """
        if size.architecture == "modern":  # and LayerNorm's output; of two halves that enter GELU and gate, none
            again = 4.0 * size.hidden_size + (1.0 if self.compiled else 2.0) * size.intermediate_size
        else:
            again = 3.0 * size.hidden_size + (self.gelu_tensors - 1.0) * size.intermediate_size
        decisions = self._scores(size) / (2.0 * self.width) if self.compiled and self.has_attention_dropout else 0.0
        return size.seq_length * (self.width * again + self._scores(size) - decisions)

    def embeddings(self, size: costs.NetworkSize) -> float:
        """LayerNorm's input and output, and dropout's output; compiled, both sides of both."""
        tensors = 4.0 if self.compiled else 3.0 if self.has_hidden_dropout else 2.0
        return size.seq_length * size.embedding_size * self.width * tensors

    def block(self, size: costs.NetworkSize) -> float:
        """Query, key, value, context; both sides of two LayerNorms; input and output of GELU; scores."""
        inner = self.gelu_tensors
        if size.architecture == "modern":  # both halves, which are one product, and what of them enters the next
            inner = 3.0 if self.compiled else 4.0  # not compiled, also GELU's output
        wide = self.width * (8.0 * size.hidden_size + inner * size.intermediate_size)
        if self.compiled and size.architecture == "electra":
            wide += 2.0 * size.hidden_size * (FLOAT - self.width)  # sums before LayerNorm, in float32
        if self.compiled and self.has_hidden_dropout:
            wide += 2.0 * size.hidden_size  # decisions
        return size.seq_length * (wide + self._scores(size))

    def head(self, size: costs.NetworkSize) -> float:
        """Of the discriminator's head."""
        if self.compiled:  # what its products read, and the gradient of the last block's widest tensor
            return size.seq_length * self.width * (2.0 * size.hidden_size + size.intermediate_size)
        # Both sides of GELU, and its output in float32.
        return size.seq_length * size.hidden_size * (2.0 * self.width + self.width % FLOAT * 2)

    def working(self, size: costs.NetworkSize, remat: bool) -> float:
        """While gradients of a block are computed: what is recomputed, and gradients.

        Compiled, of what is recomputed, or else of scores, of which the softmax is made again in float32. Not compiled,
        of scores, and of the architecture modern those of both halves of the feed-forward layer, of their product, and
        joined.
        """
        recomputed, blocks = self.recomputed(size) if remat else 0.0, self._blocks(size)
        is_full = size.layers_in_blocks() < size.num_layers
        if self.compiled:
            softmax = is_full * (FLOAT / self.width + 1.0) * self._a_score(size, size.seq_length)
            return _RECOMPUTED * recomputed + size.seq_length * (blocks if remat else max(blocks, softmax))
        halves = 4.0 * self.width * size.intermediate_size if size.architecture == "modern" else 0.0
        scores = self._probabilities(size, size.seq_length) if is_full else 0.0
        return recomputed + size.seq_length * (blocks + scores + halves)


def host_memory() -> int:
    """Returns the bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_network(sizes: costs.EncoderSizes) -> None:
    """Raises a `UserError` where the weights of a network alone are more than this machine's memory."""
    number = sum(math.prod(shape) for shape in costs.expected_shapes("discriminator", sizes).values())
    if FLOAT * number > host_memory():
        names = ("hidden_size", "num_layers", "intermediate_size", "embedding_size", "vocab_size")
        given = ", ".join(f"{name}={getattr(sizes, name)}" for name in names)
        raise UserError(
            f"config.model: a network of {given} has {number:,} weights, which take {describe_bytes(FLOAT * number)}, "
            f"and this machine has {describe_bytes(host_memory())} of memory: choose smaller sizes"
        )


@dataclasses.dataclass(frozen=True)
class CheckpointSize:
    """Checkpoints of a run, in numbers and bytes."""

    one: int  # bytes of one
    num_kept: int  # at the end
    num_for_good: int  # of these, never deleted
    kept: int  # bytes of `num_kept`, and of one more while it is written


def describe_shortage(workdir: str, size: CheckpointSize) -> str | None:
    """Returns what to do where checkpoints do not fit on the disk of a workdir; None where they do, or it is remote."""
    if files.is_remote(workdir):
        return None
    directory = os.path.join(workdir, CHECKPOINT_DIRECTORY)
    free = shutil.disk_usage(existing_directory(workdir)).free
    if os.path.isdir(directory):  # those that are there will be replaced
        free += sum(files.size(os.path.join(directory, name)) or 0 for name in os.listdir(directory))
    if free >= size.kept:
        return None
    fewer = " or raise config.train.keep_every_steps" if size.num_for_good else ""
    return (
        f"--workdir={workdir}: checkpoints will take {describe_bytes(size.kept)} ({size.num_kept} that are kept, and "
        f"one being written) but {describe_bytes(free)} are free there: make room, lower "
        f"config.train.keep_checkpoints{fewer}"
    )


def existing_directory(path: str) -> str:
    """Returns a local directory, or the nearest one above it that exists."""
    path = os.path.abspath(path)
    return path if os.path.exists(path) else existing_directory(os.path.dirname(path))


def describe_bytes(number: float) -> str:
    """Returns a size in GiB, or in MiB where it is less than one."""
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"


def checkpoint_size(config: Any) -> CheckpointSize:
    """Returns what the checkpoints of a run with a resolved config take."""
    # Sums of an unfinished interval of metrics, float64, with the three counts of `updates.with_counts`.
    sums = 8 * (costs.outline_of(config).num_sums + 3)
    parameters = count_parameters(config)
    one = FLOAT * (parameters.trained + parameters.updated * num_copies(config)) + sums
    train = config.train
    last = train.num_steps // train.checkpoint_interval
    before = max(0, last - train.keep_checkpoints)
    every = train.keep_every_steps // train.checkpoint_interval
    for_good = last // every if every else 0
    newest = last - before - (for_good - before // every if every else 0)
    num_kept = for_good + newest + bool(train.num_steps % train.checkpoint_interval) + bool(train.best_metric)
    return CheckpointSize(one, num_kept, for_good, one * (num_kept + 1))
