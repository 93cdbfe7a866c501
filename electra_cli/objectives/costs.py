"""The networks of objectives, their sizes and costs, for plans and reports: without TensorFlow.

Operations of training are counted by hand, in two ways. `training_flops` is the count of the paper (Clark et al., ICLR
2020, Table 8), as google-research/electra's `flops_computation.py` counts: every operation, looking up an embedding as
a product with one-hot rows, and the backward pass as much as the forward pass. `matmul_flops` is for measuring
hardware: matrix products alone, as made here, and twice as much backward as forward. What blocks of attention compute
again for the gradient counts in neither.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from electra_cli.config import default_config
from electra_cli.config.checks import MODERN_KEYS
from electra_cli.config.pretraining import attends_in_blocks, computed_keys

# Operations an element, as the paper's script counts them: draw, compare, mask, scale; sum, square, sum, bias, scale;
# the tanh form of GELU; maximum, exponential, sum, divide and subtract.
_DROPOUT, _LAYER_NORM, _ACTIVATION, _SOFTMAX = 4, 5, 8, 5
# Tokens with an output softmax: 20 of 128, in all sizes, though ELECTRA-Large masks a quarter.
_MASKED_FRACTION = 0.15625


@dataclasses.dataclass(frozen=True)
class Outline:
    """An objective in outline.

    Attributes:
      kept_head: the head of the network that is kept, 'masked_lm' or 'rtd'; a generator's is 'masked_lm'.
      num_sums: numbers in the sums of a batch (`Objective.sum_shapes`).
      num_towers: encoders of the generator; two of them read in one direction each, and predict all tokens together.
    """

    title: str
    has_generator: bool
    kept_head: str
    num_sums: int
    num_towers: int = 1


OUTLINES = {
    "electra": Outline("ELECTRA", has_generator=True, kept_head="rtd", num_sums=10 + 2 * 16_384),
    "electric": Outline("Electric", has_generator=True, kept_head="rtd", num_sums=12 + 2 * 16_384, num_towers=2),
    "teams": Outline("TEAMS", has_generator=True, kept_head="rtd", num_sums=12 + 2 * 16_384),
    "mlm": Outline("masked language modeling", has_generator=False, kept_head="masked_lm", num_sums=4),
}


def outline_of(config: Any) -> Outline:
    """Returns the outline of a config's objective."""
    return OUTLINES[config.objective.name]


_MODEL = default_config().model
_ARCHITECTURE_KEYS = ("architecture", *MODERN_KEYS)


@dataclasses.dataclass(frozen=True)
class EncoderSizes:
    """The sizes of a network, as its files record them, by the names of keys of the section `model`.

    Those from `global_attention_every` on belong to the architecture modern.
    """

    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    architecture: str = _MODEL.architecture  # records of earlier versions have none
    global_attention_every: int = _MODEL.global_attention_every
    local_attention: int = _MODEL.local_attention
    global_rope_theta: float = _MODEL.global_rope_theta
    local_rope_theta: float = _MODEL.local_rope_theta
    norm_epsilon: float = _MODEL.norm_epsilon

    def electra_sizes(self) -> dict[str, int]:
        """Returns the sizes of the architecture electra by name, as other libraries have them."""
        items = dataclasses.asdict(self).items()
        return {name: size for name, size in items if name not in _ARCHITECTURE_KEYS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSize(EncoderSizes):
    """The sizes that a network's operations follow from: also tokens of an example, and those that are predicted.

    `attention` is `runtime.attention`; `num_towers` is as of `Outline`, and all other sizes are those of a tower.
    """

    seq_length: int
    num_predictions: int
    attention: str
    num_towers: int = 1

    def layers_in_blocks(self) -> int:
        """Returns how many layers compute attention in blocks and so keep no probabilities."""
        return sum(attends_in_blocks(self.attention, self.seq_length, window) for window in self._windows())

    def keys_of_query(self) -> int:
        """Returns how many keys the scores of a query are computed of, in all layers together."""
        return sum(computed_keys(self.attention, self.seq_length, window) for window in self._windows())

    def _windows(self) -> list[int | None]:
        half, is_modern = self.local_attention // 2, self.architecture == "modern"
        return [half if is_modern and i % self.global_attention_every else None for i in range(self.num_layers)]


_Count = Callable[[NetworkSize], float]
_SelectionCount = Callable[[NetworkSize, int], float]


def network_sizes(config: Any) -> tuple[NetworkSize | None, NetworkSize]:
    """Returns the sizes of the generator, if there is one, and of the network that is kept."""
    shared = {
        "embedding_size": config.model.embedding_size,
        "vocab_size": config.derived.vocab_size,
        "max_position_embeddings": config.model.max_position_embeddings,
        "type_vocab_size": config.model.type_vocab_size,
        "seq_length": config.data.max_seq_length,
        "num_predictions": config.derived.max_predictions_per_seq,
        "attention": config.runtime.attention,
    }
    shared |= {name: config.model[name] for name in _ARCHITECTURE_KEYS}
    names = ("hidden_size", "num_layers", "num_attention_heads", "intermediate_size")
    kept = NetworkSize(**{name: config.model[name] for name in names}, **shared)
    if not outline_of(config).has_generator or config.objective.uniform_generator:
        return None, kept
    generator = {name: config.derived[f"generator_{name}"] for name in names}
    if config.model.architecture == "modern":
        shared["embedding_size"] = generator["hidden_size"]
    shared["num_towers"] = outline_of(config).num_towers
    if shared["num_towers"] > 1:
        shared["num_predictions"] = config.data.max_seq_length
    return NetworkSize(**{**shared, **generator}), kept


def num_shared_layers(config: Any) -> int:
    """Returns how many of its first layers the generator of the objective teams shares with the discriminator."""
    with_both_tasks = config.model.num_layers - config.objective.task_layers
    return min(config.objective.shared_layers, config.derived.generator_num_layers, with_both_tasks)


def num_selection_layers(config: Any) -> int:
    """Returns how many layers the discriminator has beside those of the network that is kept: those of selection."""
    return config.objective.task_layers if config.objective.name == "teams" else 0


def sizes_without_weights(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those `EncoderSizes` of a section `model` that follow from no shape of weights, but for the heads."""
    if model["architecture"] == "electra":
        return {}
    return {name: model[name] for name in (*_ARCHITECTURE_KEYS, "max_position_embeddings", "type_vocab_size")}


def expected_shapes(role: str, sizes: EncoderSizes) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all weights of a network and its head, by the names of `objectives.weights.Network`."""
    return (_modern_shapes if sizes.architecture == "modern" else _electra_shapes)(role, sizes)


def _modern_shapes(role: str, sizes: EncoderSizes) -> dict[str, tuple[int, ...]]:
    """Those of the architecture modern: the names of the original where a weight does the same."""
    hidden, inner = sizes.hidden_size, sizes.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings/word_embeddings": (sizes.vocab_size, hidden),
        "embeddings/LayerNorm/gamma": (hidden,),
    }
    for index in range(sizes.num_layers):
        layer = f"encoder/layer_{index}"
        if index > 0:
            shapes[f"{layer}/attention/LayerNorm/gamma"] = (hidden,)
        for part in ("self/query", "self/key", "self/value", "output/dense"):
            shapes[f"{layer}/attention/{part}/kernel"] = (hidden, hidden)
        shapes[f"{layer}/intermediate/LayerNorm/gamma"] = (hidden,)
        shapes[f"{layer}/intermediate/dense/kernel"] = (hidden, 2 * inner)
        shapes[f"{layer}/output/dense/kernel"] = (inner, hidden)
    shapes["encoder/LayerNorm/gamma"] = shapes["predictions/LayerNorm/gamma"] = (hidden,)
    shapes["predictions/dense/kernel"] = (hidden, hidden)
    if role == "generator":
        shapes["predictions/output_bias"] = (sizes.vocab_size,)
    else:
        shapes["predictions/dense_1/kernel"], shapes["predictions/dense_1/bias"] = (hidden, 1), (1,)
    return shapes


def _electra_shapes(role: str, sizes: EncoderSizes) -> dict[str, tuple[int, ...]]:
    hidden, embedding, inner = sizes.hidden_size, sizes.embedding_size, sizes.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {}

    def dense(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}/kernel"], shapes[f"{name}/bias"] = (inputs, outputs), (outputs,)

    def layer_norm(name: str, width: int) -> None:
        shapes[f"{name}/LayerNorm/gamma"] = shapes[f"{name}/LayerNorm/beta"] = (width,)

    shapes["embeddings/word_embeddings"] = (sizes.vocab_size, embedding)
    shapes["embeddings/position_embeddings"] = (sizes.max_position_embeddings, embedding)
    shapes["embeddings/token_type_embeddings"] = (sizes.type_vocab_size, embedding)
    layer_norm("embeddings", embedding)
    if embedding != hidden:
        dense("embeddings_project", embedding, hidden)
    for index in range(sizes.num_layers):
        layer = f"encoder/layer_{index}"
        for part in ("query", "key", "value"):
            dense(f"{layer}/attention/self/{part}", hidden, hidden)
        dense(f"{layer}/attention/output/dense", hidden, hidden)
        layer_norm(f"{layer}/attention/output", hidden)
        dense(f"{layer}/intermediate/dense", hidden, inner)
        dense(f"{layer}/output/dense", inner, hidden)
        layer_norm(f"{layer}/output", hidden)
    if role == "generator":
        dense("predictions/dense", hidden, embedding)
        layer_norm("predictions", embedding)
        shapes["predictions/output_bias"] = (sizes.vocab_size,)
    else:
        dense("predictions/dense", hidden, hidden)
        dense("predictions/dense_1", hidden, 1)
    return shapes


def training_flops(config: Any) -> float:
    """Returns the operations of a whole run (of one phase, when there are several), as the paper counts them."""
    heads: dict[str, _Count] = {"rtd": _rtd_flops, "masked_lm": _masked_lm_flops}
    of_example = _of_example(config, _encoder_flops, heads, _selection_flops, 2.0)
    return of_example * config.train.global_batch_size * config.train.num_steps


def _of_example(
    config: Any, encoder: _Count, heads: Mapping[str, _Count], selection_head: _SelectionCount, passes: float
) -> float:
    """Adds up operations of an example: `passes` times those forward, of a frozen generator once."""
    generator, kept = network_sizes(config)
    count = passes * (encoder(kept) + heads[outline_of(config).kept_head](kept))
    num_more = num_selection_layers(config)
    if num_more:
        lower = dataclasses.replace(kept, num_layers=kept.num_layers - num_more)
        count += passes * (encoder(kept) - encoder(lower) + selection_head(kept, config.objective.num_candidates))
    if generator is None:
        return count
    passes = 1.0 if config.objective.frozen_generator else passes
    return count + passes * (generator.num_towers * encoder(generator) + heads["masked_lm"](generator))


def _encoder_flops(size: NetworkSize) -> float:
    """Embeddings and blocks of one example, forward."""
    return (_modern_flops if size.architecture == "modern" else _electra_flops)(size)


def _modern_flops(size: NetworkSize) -> float:
    h, s, i, heads = size.hidden_size, size.seq_length, size.intermediate_size, size.num_attention_heads
    norm = _LAYER_NORM - 1
    attention = (
        norm * h + 3 * 2 * h * h + 2 * 3 * h  # query, key and value; rotation of two
        + 2 * h * h + _DROPOUT * h + h
    )  # fmt: skip
    of_key = 2 * h + (_SOFTMAX + _DROPOUT + 1) * heads + 2 * h
    feed_forward = norm * h + 2 * h * 2 * i + (_ACTIVATION + 1) * i + 2 * h * i + _DROPOUT * h + h
    embedding = 2 * h * size.vocab_size + norm * h + _DROPOUT * h
    scores = size.keys_of_query() * of_key
    return s * float(
        size.num_layers * (attention + feed_forward) + scores + embedding
    )  # the last LayerNorm for the first


def _electra_flops(size: NetworkSize) -> float:
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
    biases = 0 if size.architecture == "modern" else 2 * e
    inputs = size.num_towers * h
    a_slot = 2 * e * v + 2 * inputs * e + biases + (_ACTIVATION + _LAYER_NORM - 1) * e + _SOFTMAX * v + 2 * v
    return (_MASKED_FRACTION if size.num_towers == 1 else 1.0) * size.seq_length * float(a_slot)


def _rtd_flops(size: NetworkSize) -> float:
    h = size.hidden_size
    bias_or_norm = (_LAYER_NORM - 1) * h if size.architecture == "modern" else h
    return size.seq_length * float(2 * h * h + bias_or_norm + _ACTIVATION * h + 2 * h)


def _selection_flops(size: NetworkSize, num_candidates: int) -> float:
    h, e = size.hidden_size, size.embedding_size
    bias_or_norm = (_LAYER_NORM - 1) * e if size.architecture == "modern" else e + _LAYER_NORM * e
    a_slot = 2 * h * e + bias_or_norm + _ACTIVATION * e + (2 * e + _SOFTMAX) * num_candidates
    return _MASKED_FRACTION * size.seq_length * float(a_slot)


def matmul_flops(config: Any) -> float:
    """Returns the operations of matrix products of one training step (of a phase): both passes, all replicas."""
    heads: dict[str, _Count] = {"rtd": _rtd_products, "masked_lm": _masked_lm_products}
    of_example = _of_example(config, _encoder_products, heads, _selection_products, 3.0)
    return of_example * config.train.global_batch_size


def _encoder_products(size: NetworkSize) -> int:
    h, s = size.hidden_size, size.seq_length
    feed_forward_products = 3 if size.architecture == "modern" else 2  # one more for the gate
    block = 2 * s * (4 * h * h + feed_forward_products * h * size.intermediate_size)
    scores = 4 * s * h * size.keys_of_query()
    return size.num_layers * block + scores + (2 * s * size.embedding_size * h if size.embedding_size != h else 0)


def _masked_lm_products(size: NetworkSize) -> int:
    return 2 * size.num_predictions * size.embedding_size * (size.num_towers * size.hidden_size + size.vocab_size)


def _rtd_products(size: NetworkSize) -> int:
    return 2 * size.seq_length * size.hidden_size * (size.hidden_size + 1)


def _selection_products(size: NetworkSize, num_candidates: int) -> int:
    return 2 * size.num_predictions * size.embedding_size * (size.hidden_size + num_candidates)
