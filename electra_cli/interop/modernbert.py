"""ModernBERT of Hugging Face transformers: names, layout and config of its weights to ours and back.

`ModernBertForTokenClassification` with one label is a discriminator, `ModernBertForMaskedLM` a generator, any other a
discriminator without its head.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from electra_cli.config import default_config
from electra_cli.errors import UserError
from electra_cli.interop import external_files
from electra_cli.interop.external_files import abbreviate
from electra_cli.objectives.costs import EncoderSizes
from electra_cli.objectives.weights import Network, Weights

# Keys of a config there that change what is computed, and the value with which ours computes the same.
REQUIRED = {
    **dict.fromkeys(("hidden_activation", "classifier_activation"), ("gelu", "the exact GELU")),
    **dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), (False, "layers without bias")),
    "decoder_bias": (True, "a decoder with a bias"),
    "tie_word_embeddings": (True, "a decoder that is the word table"),
    "rope_scaling": (None, "rotary positions that are not scaled"),
}
# Names there and our keys of what sizes do not determine. Its feed-forward layers drop before their last product.
SETTINGS = {
    "mlp_dropout": "model.hidden_dropout",
    "attention_dropout": "model.attention_dropout",
    "initializer_range": "model.initializer_range",
}
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "intermediate_size": "intermediate_size",
    "num_attention_heads": "num_attention_heads",
    "max_position_embeddings": "max_position_embeddings",
    "local_attention": "local_attention",
    "norm_eps": "norm_epsilon",
}
_THETAS = {
    "full_attention": ("global_rope_theta", 160_000.0),
    "sliding_attention": ("local_rope_theta", 10_000.0),
}  # fmt: skip
# Tensors there (without 'model.') and their weights here, joined along the last axis. Of a layer, and of the rest.
_LAYER = {
    "attn_norm.weight": ("attention/LayerNorm/gamma",),
    "attn.Wqkv.weight": tuple(f"attention/self/{part}/kernel" for part in ("query", "key", "value")),
    "attn.Wo.weight": ("attention/output/dense/kernel",),
    "mlp_norm.weight": ("intermediate/LayerNorm/gamma",),
    "mlp.Wi.weight": ("intermediate/dense/kernel",),
    "mlp.Wo.weight": ("output/dense/kernel",),
}
_OTHERS: dict[str, tuple[str, ...]] = {
    "embeddings.tok_embeddings.weight": ("embeddings/word_embeddings",),
    "embeddings.norm.weight": ("embeddings/LayerNorm/gamma",),
    "final_norm.weight": ("encoder/LayerNorm/gamma",),
    "head.dense.weight": ("predictions/dense/kernel",),
    "head.norm.weight": ("predictions/LayerNorm/gamma",),
    "decoder.bias": ("predictions/output_bias",),
    "classifier.weight": ("predictions/dense_1/kernel",),
    "classifier.bias": ("predictions/dense_1/bias",),
}
_HEAD = ("head.", "decoder.", "classifier.")


def _weight_names(tensor: str) -> tuple[str, ...] | None:
    """Returns the names in a `Network` of what a tensor there holds; None where it belongs to none."""
    name = tensor.removeprefix("model.")
    layer = re.match(r"layers\.(\d+)\.", name)
    if layer is None:
        return _OTHERS.get(name)
    names = _LAYER.get(name[layer.end() :])
    return names and tuple(f"encoder/layer_{layer[1]}/{part}" for part in names)


def read_network(tensors: Weights, config: Mapping[str, Any], file: str) -> tuple[Network, list[str]]:
    """Returns the network of a folder's tensors, by its config in `file`, and the names of those that belong to none.

    Raises:
      UserError: its config asks for what ours does not compute, or the tensors contradict it or each other.
    """
    folder = os.path.dirname(file)
    heads = external_files.field(config, "num_attention_heads", int, file, 0)
    if heads < 1:
        raise UserError(f"{file}: num_attention_heads is {config.get('num_attention_heads')}, not a number from 1")
    kind = (config.get("architectures") or [""])[0]
    is_rtd = kind == "ModernBertForTokenClassification" and len(tensors.get("classifier.weight", ())) == 1
    role = "generator" if kind == "ModernBertForMaskedLM" else "discriminator"
    table = tensors.get("model.embeddings.tok_embeddings.weight")
    if table is not None and not np.array_equal(tensors.get("decoder.weight", table), table, equal_nan=True):
        raise UserError(f"{folder}: the decoder's table is not the word table: only tied ones can be imported")
    network = Network(role, {}, heads, _settings(config, file))
    unexpected = []
    for tensor, value in tensors.items():
        names = _weight_names(tensor)
        if names is None or (tensor.startswith(_HEAD) and role == "discriminator" and not is_rtd):
            if tensor != "decoder.weight":
                unexpected.append(tensor)
            continue
        value = value.T if names[0].endswith("/kernel") else value
        if value.shape[-1:] == () or value.shape[-1] % len(names):
            raise UserError(f"{folder}: {tensor} has shape {list(value.shape)}, which is not {len(names)} weights")
        network.weights.update(zip(names, np.split(value, len(names), axis=-1), strict=True))
    try:
        unexpected += network.drop_unknown()
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    for key, name in _SIZES.items():
        size = getattr(network.sizes, name)
        if key in config and config[key] != size:
            raise UserError(f"{file}: {key} is {abbreviate(config[key])}, the weights have {size}")
    return network, sorted(unexpected)


def _settings(config: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Returns the sizes of a network that do not follow from its weights (`costs.sizes_without_weights`)."""
    names = {key: f"model.{_SIZES[key]}" for key in ("local_attention", "norm_eps", "max_position_embeddings")}
    given = {"max_position_embeddings": 8192, **config}  # the default there
    settings = {
        "architecture": "modern",
        **{key.removeprefix("model."): value for key, value in external_files.settings(given, names, file).items()},
        "global_attention_every": _global_attention_every(config, file),
        "type_vocab_size": default_config().model.type_vocab_size,
    }
    rope = external_files.field(config, "rope_parameters", dict, file, {})
    for kind, (name, default) in _THETAS.items():
        own = external_files.field(rope, kind, dict, file, {})
        if own.get("rope_type", "default") != "default":
            raise UserError(f"{file}: rope_type is {abbreviate(own['rope_type'])}; only default can be imported")
        theta = {name: own.get("rope_theta", config.get(name) or default)}
        settings[name] = external_files.settings(theta, {name: f"model.{name}"}, file)[f"model.{name}"]
    return settings


def _global_attention_every(config: Mapping[str, Any], file: str) -> int:
    every = external_files.field(config, "global_attn_every_n_layers", int, file, 3)
    kinds = external_files.field(config, "layer_types", list, file, [])
    for number in (every, *range(1, len(kinds) + 1)) if kinds else (every,):
        if number > 0 and all(kind == _layer_type(index, number) for index, kind in enumerate(kinds)):
            return number
    if not kinds:
        raise UserError(f"{file}: global_attn_every_n_layers is {every}, not a number from 1")
    raise UserError(
        f"{file}: layer_types are not full_attention in every n-th layer from the first and sliding_attention in the "
        f"others, which is all that this program computes"
    )


def _layer_type(index: int, every: int) -> str:
    return "sliding_attention" if index % every else "full_attention"


def config_of(sizes: EncoderSizes) -> dict[str, Any]:
    """Returns what `config.json` has of the sizes of a network, for transformers from 4.48 on, which has two forms."""
    thetas = {kind: getattr(sizes, name) for kind, (name, _) in _THETAS.items()}
    return {
        "model_type": "modernbert",
        **{key: getattr(sizes, name) for key, name in _SIZES.items()},
        **{key: value for key, (value, _) in REQUIRED.items() if value is not None},
        "global_attn_every_n_layers": sizes.global_attention_every,
        "layer_types": [_layer_type(index, sizes.global_attention_every) for index in range(sizes.num_layers)],
        **{name: getattr(sizes, name) for name, _ in _THETAS.values()},
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()},
        "classifier_pooling": "cls",
    }


def to_tensors(weights: Weights) -> Weights:
    """Returns weights of a `Network` under PyTorch's names and in its layout: kernels are [outputs, inputs]."""
    names = dict(_OTHERS)
    for index in sorted({int(found[1]) for name in weights if (found := re.match(r"encoder/layer_(\d+)/", name))}):
        for tensor, parts in _LAYER.items():
            names[f"layers.{index}.{tensor}"] = tuple(f"encoder/layer_{index}/{part}" for part in parts)
    tensors = {}
    for tensor, parts in names.items():
        if parts[0] in weights:
            value = np.concatenate([weights[part] for part in parts], axis=-1)
            value = value.T if parts[0].endswith("/kernel") else value
            name = tensor if tensor.startswith(_HEAD) else f"model.{tensor}"
            tensors[name] = np.ascontiguousarray(value)
    return tensors
