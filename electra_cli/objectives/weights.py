"""The weights of a pretrainer as arrays under the names of google-research/electra, which all formats are read into.

An array's name is that of the variable in a checkpoint of the original: 'electra/encoder/layer_0/output/dense/kernel'.
The discriminator is 'electra', its head 'discriminator_predictions'; the generator is 'generator', its head
'generator_predictions'. Embeddings that both networks share are under 'electra' alone, those of the generator's own
under 'generator', as the original has them with `untied_generator_embeddings`. Where one network is both (tied, or of
the objective mlm), it is 'electra'.

Formats that hold one network a file use a `Network`: the same names without those of the networks.

The original has no network of the architecture modern. Its weights have the names of those that do the same there, with
'attention/LayerNorm', 'intermediate/LayerNorm' and 'encoder/LayerNorm' for the norms in front of the parts of a layer
and behind the last; 'intermediate/dense' has the columns of the activated half, then those of the gate.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from electra_cli.errors import UserError
from electra_cli.modeling.layers import ElectraEmbeddings, Encoder, LayerNorm
from electra_cli.modeling.modern import ModernEncoder, PredictionHead
from electra_cli.objectives.base import Pretrainer
from electra_cli.objectives.costs import EncoderSizes, expected_shapes

Weights = dict[str, np.ndarray]
# A variable of ours and the names of its parts in the original, joined along the last axis.
_Pair = tuple[tf.Variable, tuple[str, ...]]
_TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")
_ROWS = dict(zip(("vocab_size", "max_position_embeddings", "type_vocab_size"), _TABLES, strict=True))
_EMBEDDINGS = (*(f"embeddings/{name}" for name in _TABLES), "embeddings/LayerNorm/gamma", "embeddings/LayerNorm/beta")
_SCOPES = {"discriminator": "electra", "generator": "generator"}


@dataclasses.dataclass
class Network:
    """One network and its head.

    Attributes:
      role: 'discriminator' or 'generator'.
      weights: float32 arrays by name: 'embeddings/...', 'embeddings_project/...', 'encoder/layer_0/...', and of the
        head, if there is one, 'predictions/...'.
      num_attention_heads: of its layers; it does not follow from the arrays.
      settings: the others that do not (`costs.sizes_without_weights`).
    """

    role: str
    weights: Weights
    num_attention_heads: int
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def sizes(self) -> EncoderSizes:
        """The sizes that follow from the shapes of the weights.

        Raises:
          UserError: they contradict each other, or a weight is missing.
        """
        num_layers = 0
        while f"encoder/layer_{num_layers}/output/dense/kernel" in self.weights:
            num_layers += 1
        if num_layers == 0:
            raise UserError(f"the {self.role} has no layer: encoder/layer_0/output/dense/kernel is missing")
        for name in self.weights:
            layer = re.match(r"encoder/layer_([^/]*)", name)
            if layer and layer[1] not in map(str, range(num_layers)):
                raise UserError(
                    f"the {self.role} has weights of layer {layer[1]}, but encoder/layer_{num_layers}/output/dense/"
                    f"kernel is missing: a layer between them is lost, or incomplete"
                )
        rows = {key: f"embeddings/{table}" for key, table in _ROWS.items() if key not in self.settings}
        for name in (*rows.values(), "encoder/layer_0/output/dense/kernel"):
            if name not in self.weights:
                raise UserError(f"the {self.role} has no weight {name}")
            shape = self.weights[name].shape
            if len(shape) != 2 or 0 in shape:
                raise UserError(
                    f"the {self.role}'s weight {name} has shape {list(shape)}, which is no table of numbers"
                )
        intermediate_size, hidden_size = self.weights["encoder/layer_0/output/dense/kernel"].shape
        num_rows: dict[str, Any] = {key: len(self.weights[name]) for key, name in rows.items()}
        sizes = EncoderSizes(
            embedding_size=self.weights["embeddings/word_embeddings"].shape[1],
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=intermediate_size,
            **num_rows,
            **self.settings,
        )
        if hidden_size % self.num_attention_heads:
            raise UserError(f"the {self.role} of width {hidden_size} cannot have {self.num_attention_heads} heads")
        for name, shape in expected_shapes(self.role, sizes).items():
            if name in self.weights and self.weights[name].shape != shape:
                actual = list(self.weights[name].shape)
                raise UserError(f"the {self.role}'s weight {name} has shape {actual}, the others make it {list(shape)}")
        return sizes

    @property
    def has_head(self) -> bool:
        """Whether there are weights of a head."""
        return any(name.startswith("predictions/") for name in self.weights)

    def drop_unknown(self) -> list[str]:
        """Removes the weights that a network of these `sizes` does not have, and returns their names."""
        unknown = sorted(self.weights.keys() - expected_shapes(self.role, self.sizes).keys())
        for name in unknown:
            del self.weights[name]
        return unknown


def join(discriminator: Network | None, generator: Network | None) -> Weights:
    """Returns the weights of both networks, equal embeddings once; a generator alone is that of the objective mlm."""
    weights: Weights = {}
    for network in (discriminator, generator):
        if network is not None:
            scope = "generator/" if weights else "electra/"
            for name, value in network.weights.items():
                prefix = f"{network.role}_" if name.startswith("predictions/") else scope
                weights[prefix + name] = value
    if discriminator is not None and generator is not None and shares_embeddings(discriminator, generator):
        for name in _EMBEDDINGS:
            weights.pop(f"generator/{name}", None)
    return weights


def shares_embeddings(discriminator: Network, generator: Network) -> bool:
    """Returns whether two networks have the same embeddings, bit for bit."""
    first, second = (
        {name: network.weights[name] for name in _EMBEDDINGS if name in network.weights}
        for network in (discriminator, generator)
    )
    return are_equal(first, second)


def split(
    weights: Mapping[str, np.ndarray], role: str, num_attention_heads: int, settings: Mapping[str, Any] | None = None
) -> Network | None:
    """Returns one of the networks that `join` put together; None: it is not among them. See `Network`."""
    scope, head = _SCOPES[role], f"{role}_predictions/"
    has_encoder = any(name.startswith(f"{scope}/encoder/") for name in weights)
    if not has_encoder and not any(name.startswith(head) for name in weights):
        return None
    shared = {name: weights[f"electra/{name}"] for name in _EMBEDDINGS if f"electra/{name}" in weights}
    prefix = f"{scope}/" if has_encoder else "electra/"
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    own_head = {name.removeprefix(f"{role}_"): value for name, value in weights.items() if name.startswith(head)}
    return Network(role, {**shared, **own, **own_head}, num_attention_heads, settings or {})


def read(model: Pretrainer) -> Weights:
    """Returns copies of all weights of a pretrainer, float32.

    Gradient-disentangled embeddings become their sums. What networks share, but for all embeddings, each of them has.
    """
    weights = _values(_all_names(model))
    added_to = _networks(model)["electra"].embeddings.added_to
    if added_to is not None:
        added = _values(_embeddings(added_to, "electra/"))
        for name in (f"electra/embeddings/{table}" for table in _TABLES):
            if name in weights:
                weights[name] += added[name]
    return weights


@dataclasses.dataclass(frozen=True)
class Assignment:
    """The names of weights that `assign` assigned, those that were missing and left unchanged, and unknown ones."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]


def assign(model: Pretrainer, weights: Mapping[str, np.ndarray], *, require_all: bool = False) -> Assignment:
    """Assigns those weights to a pretrainer that there are; `require_all`: a missing one is an error.

    Raises:
      UserError: a weight has another shape than the model's, or is missing. The model is unchanged.
    """
    return _assign(named_weights(model), weights, require_all)


def assign_encoder(encoder: Encoder, network: Network) -> None:
    """Assigns the weights of a network, but for its head, to an encoder with embeddings of its own; see `assign`."""
    _assign(_named_encoder_weights(encoder), network.weights, require_all=True)


def read_encoder(encoder: Encoder) -> Weights:
    """Returns the weights of an encoder with embeddings of its own, as of `Network.weights`."""
    return _values(_named_encoder_weights(encoder))


def _values(pairs: Iterable[_Pair]) -> Weights:
    weights: Weights = {}
    for variable, names in pairs:
        weights.update(zip(names, np.split(variable.numpy(), len(names), axis=-1), strict=True))
    return weights


def _assign(pairs: Iterable[_Pair], weights: Mapping[str, np.ndarray], require_all: bool) -> Assignment:
    values: list[tuple[tf.Variable, np.ndarray]] = []
    matched: list[str] = []
    missing: list[str] = []
    for variable, names in pairs:
        absent = [name for name in names if name not in weights]
        if len(absent) == len(names) and not require_all:
            missing += names
            continue
        if absent:
            raise UserError(f"there is no weight {absent[0]}: the config has other layers, or sizes")
        value = np.concatenate([weights[name] for name in names], axis=-1)
        if value.shape != tuple(variable.shape):
            raise UserError(
                f"{names[0]} has shape {list(weights[names[0]].shape)}, which does not make the "
                f"{variable.shape.as_list()} that the config asks for"
            )
        values.append((variable, value))
        matched += names
    for variable, value in values:
        variable.assign(value)
    known = {*matched, *missing}
    return Assignment(matched, missing, [name for name in weights if name not in known])


def named_weights(model: Pretrainer) -> Iterator[_Pair]:
    """Yields every weight of a pretrainer's `networks` and their heads once, with its names.

    Query, key and value are three and one variable.
    """
    seen: set[Any] = set()
    for variable, names in _all_names(model):
        if variable.ref() not in seen:
            seen.add(variable.ref())
            yield variable, names


def _all_names(model: Pretrainer) -> Iterator[_Pair]:
    """As `named_weights`, but what networks share once for each, unless it is all embeddings."""
    embeddings: list[Any] = []
    for scope, network in _networks(model).items():
        if network.embeddings not in embeddings:
            embeddings.append(network.embeddings)
            yield from _embeddings(network.embeddings, f"{scope}/")
        yield from _layers(network, f"{scope}/")
    if "generator" in model.networks:
        yield from _dense(model.masked_lm.dense, "generator_predictions/dense")
        yield from _layer_norm(model.masked_lm.layer_norm, "generator_predictions/LayerNorm")
        yield model.masked_lm.bias, ("generator_predictions/output_bias",)
    if "discriminator" in model.networks:
        projection = model.discriminator_projection
        if isinstance(projection, PredictionHead):
            yield from _layer_norm(projection.layer_norm, "discriminator_predictions/LayerNorm")
            projection = projection.dense
        yield from _dense(projection, "discriminator_predictions/dense")
        yield from _dense(model.discriminator_head, "discriminator_predictions/dense_1")


def _named_encoder_weights(encoder: Encoder) -> Iterator[_Pair]:
    yield from _embeddings(encoder.embeddings, "")
    yield from _layers(encoder, "")


def _networks(model: Pretrainer) -> dict[str, Any]:
    """Returns the encoders by their names in the original; a tied generator is the discriminator."""
    different = {id(network): network for network in model.networks.values()}.values()
    return dict(zip(("electra", "generator"), different, strict=False))


def _embeddings(embeddings: ElectraEmbeddings, prefix: str) -> Iterator[_Pair]:
    tables = (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.type_embeddings)
    for table, name in zip(tables, _TABLES, strict=True):
        if table is not None:
            yield table, (f"{prefix}embeddings/{name}",)
    yield from _layer_norm(embeddings.layer_norm, f"{prefix}embeddings/LayerNorm")


def _layers(encoder: Encoder, prefix: str) -> Iterator[_Pair]:
    if encoder.embedding_projection is not None:
        yield from _dense(encoder.embedding_projection, f"{prefix}embeddings_project")
    for index, block in enumerate(encoder.transformer_layers):
        layer = f"{prefix}encoder/layer_{index}"
        parts = (f"{layer}/attention/self/{part}" for part in ("query", "key", "value"))
        yield from _dense(block.query_key_value, *parts)
        yield from _dense(block.attention_output, f"{layer}/attention/output/dense")
        yield from _dense(block.intermediate, f"{layer}/intermediate/dense")
        yield from _dense(block.output_dense, f"{layer}/output/dense")
        if isinstance(encoder, ModernEncoder):
            norms = {"attention": block.attention_norm, "intermediate": block.intermediate_norm}
        else:
            norms = {"attention/output": block.attention_norm, "output": block.output_norm}
        for name, norm in norms.items():
            yield from _layer_norm(norm, f"{layer}/{name}/LayerNorm")
    yield from _layer_norm(encoder.final_norm, f"{prefix}encoder/LayerNorm")


def _dense(layer: Any, *names: str) -> Iterator[_Pair]:
    yield layer.kernel, tuple(f"{name}/kernel" for name in names)
    if layer.bias is not None:
        yield layer.bias, tuple(f"{name}/bias" for name in names)


def _layer_norm(layer: LayerNorm | None, name: str) -> Iterator[_Pair]:
    """Yields nothing of a norm that is not there."""
    if layer is not None:
        yield layer.gamma, (f"{name}/gamma",)
        if layer.beta is not None:
            yield layer.beta, (f"{name}/beta",)


def are_equal(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> bool:
    """Returns whether two models have the same weights, bit for bit."""
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype and np.array_equal(value, second[name], equal_nan=True)
        for name, value in first.items()
    )
