"""Models of Hugging Face transformers: names and layout of their weights to ours and back, and their folders read.

Read are folders of `ElectraForPreTraining` (a discriminator), `ElectraForMaskedLM` (a generator), any other model of
ELECTRA and any of BERT (a discriminator without its head). Transformers is not imported; PyTorch is, for files that it
wrote.
"""

import json
import os
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from electra_cli import files
from electra_cli.errors import Option, UserError
from electra_cli.interop.foreign import Foreign, drop_unknown, read_json
from electra_cli.modeling.fused import LAYER_NORM_EPSILON
from electra_cli.objectives.weights import Network, Weights

CONFIG_FILE = "config.json"
_SAFETENSORS, _PYTORCH = "model.safetensors", "pytorch_model.bin"
# Parts of names there and here, in this order; what is left is the same.
_PARTS = (
    ("encoder.layer.", "encoder.layer_"),
    ("discriminator_predictions.dense_prediction.", "predictions.dense_1."),
    ("discriminator_predictions.", "predictions."),
    ("generator_predictions.", "predictions."),
    ("generator_lm_head.bias", "predictions.output_bias"),
)
# Buffers of older versions, and the word table's second name.
_NO_WEIGHT = ("embeddings.position_ids", "generator_lm_head.weight")
# What a config there says that decides what is computed, and what it must be for ours to compute the same.
_REQUIRED = {
    "hidden_act": ("gelu", "the exact GELU"),
    "position_embedding_type": ("absolute", "absolute positions"),
    "layer_norm_eps": (LAYER_NORM_EPSILON, f"a LayerNorm epsilon of {LAYER_NORM_EPSILON}"),
}
_SETTINGS = {
    "hidden_dropout_prob": "model.hidden_dropout",
    "attention_probs_dropout_prob": "model.attention_dropout",
    "initializer_range": "model.initializer_range",
}


def read(source: str) -> Foreign:
    """Reads a folder of transformers.

    Raises:
      UserError: it is none, is incomplete, holds code, contradicts its own config, or is of another kind of model.
    """
    files.check_directory("--source", source, f"give the folder of a model, with its {CONFIG_FILE}")
    file = os.path.join(source, CONFIG_FILE)
    if not os.path.exists(file):
        raise UserError(Option("--source"), f"={source} holds no {CONFIG_FILE}: it is no model of transformers")
    config = read_json(file)
    if "config" in config:
        raise UserError(
            Option("--source"), f"={source} is a workdir of electra-pretrain: give --format=electra_pretrain"
        )
    if config.get("model_type") not in ("electra", "bert"):
        raise UserError(f"{file}: model_type is {config.get('model_type')!r}; electra and bert can be imported")
    for key, (wanted, meaning) in _REQUIRED.items():
        if config.get(key, wanted) != wanted:
            raise UserError(f"{file}: {key} is {config[key]!r}; this program computes {meaning} only")
    tensors, notices = _read_tensors(source)
    network, unexpected = _network(tensors, config, file)
    vocabulary = _read_vocabulary(source)
    foreign = Foreign(
        source=source,
        discriminator=network if network.role == "discriminator" else None,
        generator=network if network.role == "generator" else None,
        settings={key: float(config[name]) for name, key in _SETTINGS.items() if name in config},
        unexpected=unexpected,
        notices=notices,
        **vocabulary,
    )
    return foreign


def _network(tensors: Weights, config: dict[str, Any], file: str) -> tuple[Network, list[str]]:
    is_bert = config["model_type"] == "bert"
    role = "generator" if any(name.startswith("generator_predictions.") for name in tensors) else "discriminator"
    if role == "generator" and any(name.startswith("discriminator_predictions.") for name in tensors):
        raise UserError(f"{os.path.dirname(file)} holds the heads of both networks: save each in a folder of its own")
    table = tensors.get("electra.embeddings.word_embeddings.weight")
    if not np.array_equal(tensors.get("generator_lm_head.weight", table), table):
        raise UserError(f"{os.path.dirname(file)}: the head's table is not the word table, as ELECTRA's is")
    network = Network(role, {}, _number(config, "num_attention_heads", file))
    unexpected = []
    for name, value in tensors.items():
        ours = our_name(name)
        if ours is None or (is_bert and not ours.startswith(("embeddings/", "encoder/"))):
            if not name.endswith(_NO_WEIGHT):
                unexpected.append(name)
            continue
        network.weights[ours] = value.T if ours.endswith("/kernel") else value
    try:
        sizes = network.sizes
        unexpected += drop_unknown(network)
    except UserError as error:
        raise UserError(f"{os.path.dirname(file)}: {error}") from error
    for key, found in (
        ("vocab_size", sizes.vocab_size),
        ("embedding_size", sizes.embedding_size),
        ("hidden_size", sizes.hidden_size),
        ("num_hidden_layers", sizes.num_layers),
        ("intermediate_size", sizes.intermediate_size),
        ("max_position_embeddings", sizes.max_position_embeddings),
        ("type_vocab_size", sizes.type_vocab_size),
    ):
        if key in config and config[key] != found:
            raise UserError(f"{file}: {key} is {config[key]}, the weights have {found}")
    return network, sorted(unexpected)


def _number(config: dict[str, Any], key: str, file: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{file}: {key} is {value!r}, not a number")
    return value


def our_name(name: str) -> str | None:
    """Returns the name in a `Network` of a tensor of transformers; None when it is not of one."""
    if name.endswith(_NO_WEIGHT):
        return None
    name = name.removeprefix("electra.").removeprefix("bert.")
    for theirs, ours in _PARTS:
        name = name.replace(theirs, ours)
    if not name.startswith(("embeddings.", "embeddings_project.", "encoder.", "predictions.")):
        return None
    # Checkpoints of old versions say gamma and beta.
    is_norm = "LayerNorm." in name
    is_table = name.endswith("_embeddings.weight")
    stem, _, last = name.rpartition(".")
    if last == "weight":
        last = "gamma" if is_norm else "" if is_table else "kernel"
    elif last == "bias" and is_norm:
        last = "beta"
    return "/".join(filter(None, [stem.replace(".", "/"), last]))


def their_name(name: str, role: str) -> str:
    """Returns the name of a tensor of `ElectraForPreTraining` or `ElectraForMaskedLM` for one in a `Network`."""
    if name == "predictions/output_bias":
        return "generator_lm_head.bias"
    stem, _, last = name.rpartition("/")
    last = {"gamma": "weight", "beta": "bias", "kernel": "weight", "bias": "bias"}.get(last, f"{last}.weight")
    name = f"{stem}.{last}".replace("/", ".").replace("layer_", "layer.")
    if name.startswith("predictions.dense_1."):
        name = name.replace("dense_1", "dense_prediction")
    return f"{role}_{name}" if name.startswith("predictions.") else f"electra.{name}"


def _read_tensors(source: str) -> tuple[Weights, list[str]]:
    """Returns all tensors of a folder as float32, and what is to be said of them."""
    readers: tuple[tuple[str, Callable[[str], dict[str, Any]]], ...] = (
        (_SAFETENSORS, _read_safetensors),
        (_PYTORCH, _read_pytorch),
    )
    for name, read_file in readers:
        index = os.path.join(source, f"{name}.index.json")
        if os.path.exists(os.path.join(source, name)):
            return _to_float32(read_file(os.path.join(source, name)))
        if os.path.exists(index):
            return _to_float32(_read_shards(source, index, read_file))
    raise UserError(Option("--source"), f"={source} holds neither {_SAFETENSORS} nor {_PYTORCH}")


def _read_shards(source: str, index: str, read_file: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise UserError(f"{index} has no weight_map: copy the folder anew")
    shards = sorted(set(places.values()))
    lost = [shard for shard in shards if not os.path.exists(os.path.join(source, shard))]
    if lost:
        raise UserError(f"{source} holds {len(shards) - len(lost)} of {len(shards)} shards: {lost[0]} is missing")
    tensors: dict[str, Any] = {}
    for shard in shards:
        tensors.update(read_file(os.path.join(source, shard)))
    absent = sorted(places.keys() - tensors.keys())
    if absent:
        raise UserError(f"{os.path.join(source, places[absent[0]])} lacks {absent[0]}, which {index} names")
    return tensors


def _read_safetensors(file: str) -> dict[str, Any]:
    try:
        import safetensors  # noqa: PLC0415  (an extra; only this format needs it)
        from safetensors.numpy import load_file  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise UserError(
            "reading safetensors needs that package, which is not installed: pip install "
            "'electra-pretrain[huggingface]'"
        ) from error
    try:
        return load_file(file)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {str(error).splitlines()[0]}; copy it anew") from error
    except (KeyError, TypeError, AttributeError):
        return _read_bfloat16(file)  # a type that NumPy does not have


def _read_bfloat16(file: str) -> dict[str, Any]:
    try:
        from safetensors.torch import load_file  # noqa: PLC0415  (PyTorch is an extra)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{file} holds bfloat16, which takes PyTorch to read: pip install 'electra-pretrain[huggingface]', or save "
            f"it in float32"
        ) from error
    return load_file(file)


def _read_pytorch(file: str) -> dict[str, Any]:
    try:
        import torch  # noqa: PLC0415  (an extra; only this format needs it)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{file}: reading it needs PyTorch, which is not installed: pip install 'electra-pretrain[huggingface]', "
            f"or save it as safetensors"
        ) from error
    try:
        # Without this a pickle may run any code.
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{file} holds more than tensors, which is not unpickled: save it as safetensors") from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {str(error).splitlines()[0]}; copy it anew") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise UserError(f"{file} holds no state dict of tensors")
    return tensors


def _to_float32(tensors: dict[str, Any]) -> tuple[Weights, list[str]]:
    """Takes arrays of NumPy or tensors of PyTorch; leaves out what is no number with a point."""
    types = {name: str(value.dtype).removeprefix("torch.") for name, value in tensors.items()}
    weights = {
        name: np.asarray(value if isinstance(value, np.ndarray) else value.float().numpy(), np.float32)
        for name, value in tensors.items()
        if "float" in types[name]
    }
    others = sorted({types[name] for name in weights} - {"float32"})
    return weights, [f"Weights of type {', '.join(others)} became float32."] if others else []


def _read_vocabulary(source: str) -> dict[str, Any]:
    """Returns the arguments of `Foreign` that a folder's tokenizer decides."""
    found: dict[str, Any] = {}
    tokenizer_file, settings_file = (os.path.join(source, name) for name in ("tokenizer.json", "tokenizer_config.json"))
    if os.path.exists(settings_file):
        lower_case = read_json(settings_file).get("do_lower_case")
        if isinstance(lower_case, bool):
            found["lower_case"] = lower_case
    if os.path.exists(os.path.join(source, "vocab.txt")):
        found["vocab_file"] = os.path.join(source, "vocab.txt")
    if os.path.exists(tokenizer_file):
        tokenizer = read_json(tokenizer_file)
        model = tokenizer.get("model") or {}
        if model.get("type") != "WordPiece":
            raise UserError(f"{tokenizer_file} is a tokenizer of type {model.get('type')!r}, not WordPiece")
        lower_case = (tokenizer.get("normalizer") or {}).get("lowercase")
        if isinstance(lower_case, bool):
            found["lower_case"] = lower_case
        if "vocab_file" not in found:
            ids = {**model.get("vocab", {}), **{item["content"]: item["id"] for item in tokenizer["added_tokens"]}}
            if sorted(ids.values()) != list(range(len(ids))):
                raise UserError(f"{tokenizer_file}: the ids of its {len(ids)} tokens have gaps")
            found["tokens"] = tuple(sorted(ids, key=lambda token: ids[token]))
    return found


def config_of(network: Network, settings: Mapping[str, float], pad_id: int) -> dict[str, Any]:
    """Returns the arguments of transformers' `ElectraConfig` for a network.

    Args:
      network: the network.
      settings: dropout rates and initializer range under our keys.
      pad_id: id of [PAD].
    """
    sizes = network.sizes
    return {
        "vocab_size": sizes.vocab_size,
        "embedding_size": sizes.embedding_size,
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_attention_heads,
        "intermediate_size": sizes.intermediate_size,
        "max_position_embeddings": sizes.max_position_embeddings,
        "type_vocab_size": sizes.type_vocab_size,
        "hidden_act": "gelu",
        "layer_norm_eps": LAYER_NORM_EPSILON,
        "pad_token_id": pad_id,
        **{name: settings[key] for name, key in _SETTINGS.items()},
    }


def tokenizer_files(tokens: tuple[str, ...], lower_case: bool, max_length: int) -> dict[str, str]:
    """Returns the content of the files that make a `BertTokenizerFast` of the vocabulary, by name."""
    special = {
        "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
    }  # fmt: skip
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": lower_case,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "model_max_length": max_length,
        **special,
    }
    return {
        "vocab.txt": "\n".join(tokens) + "\n",
        "tokenizer.json": _fast_tokenizer(tokens, lower_case),
        "tokenizer_config.json": json.dumps(settings, indent=1) + "\n",
        "special_tokens_map.json": json.dumps(special, indent=1) + "\n",
    }


def _fast_tokenizer(tokens: tuple[str, ...], lower_case: bool) -> str:
    import tokenizers  # noqa: PLC0415  (import time)
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors  # noqa: PLC0415

    ids = {token: index for index, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return tokenizer.to_str(pretty=False)
