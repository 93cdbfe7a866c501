"""Reads folders of Hugging Face transformers; names and layout of their weights to ours and back.

`ElectraForPreTraining` becomes a discriminator, `ElectraForMaskedLM` a generator, any other ELECTRA and any BERT a
discriminator without its head; of ModernBERT see `modernbert.py`. Transformers is not imported; PyTorch is, for files
that it wrote.
"""

import contextlib
import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from electra_cli import files
from electra_cli.data.model_tokenizers import ByteLevelTokenizer
from electra_cli.data.vocabulary import TOKENIZER_CONFIG_FILE, Vocabulary, WordRules, read_rules, read_vocabulary
from electra_cli.errors import Option, UserError
from electra_cli.files import read_json
from electra_cli.interop import external_files, modernbert
from electra_cli.interop.external_files import abbreviate
from electra_cli.interop.importing import ExternalModel
from electra_cli.modeling.fused import LAYER_NORM_EPSILON
from electra_cli.objectives.costs import EncoderSizes
from electra_cli.objectives.weights import Network, Weights

CONFIG_FILE = "config.json"
_SAFETENSORS, _PYTORCH = "model.safetensors", "pytorch_model.bin"
_HEADS = ("discriminator_predictions.", "generator_predictions.")
INSTALL = "pip install 'electra-pretrain[huggingface]'"
# Parts of names there and here, replaced in this order; the rest is the same.
_PARTS = (
    ("encoder.layer.", "encoder.layer_"),
    ("discriminator_predictions.dense_prediction.", "predictions.dense_1."),
    ("discriminator_predictions.", "predictions."),
    ("generator_predictions.", "predictions."),
    ("generator_lm_head.bias", "predictions.output_bias"),
)
# Buffers of older versions, and the word table's second name.
_NO_WEIGHT = ("embeddings.position_ids", "generator_lm_head.weight")
# Keys of a config there that change what is computed, and the value with which ours computes the same.
_REQUIRED = {
    "hidden_act": ("gelu", "the exact GELU"),
    "position_embedding_type": ("absolute", "absolute positions"),
    "layer_norm_eps": (LAYER_NORM_EPSILON, f"a LayerNorm epsilon of {LAYER_NORM_EPSILON}"),
    "is_decoder": (False, "attention to both sides"),
    "add_cross_attention": (False, "attention within one text"),
}
# Names there (and in google-research/electra, both from BERT) and our keys of what sizes do not determine.
SETTINGS = {
    "hidden_dropout_prob": "model.hidden_dropout",
    "attention_probs_dropout_prob": "model.attention_dropout",
    "initializer_range": "model.initializer_range",
}


def read(source: str) -> ExternalModel:
    """Reads a folder of transformers.

    Raises:
      UserError: it is none, is incomplete, holds code, contradicts its own config, or is of another kind of model.
    """
    option = Option("--source")
    files.check_directory(option, source, f"give the folder of a model, with its {CONFIG_FILE}")
    file = external_files.find(source, CONFIG_FILE)
    if file is None:
        raise UserError(option, f"={source} holds no {CONFIG_FILE}: it is no model of transformers")
    config = read_json(file)
    if "config" in config:
        raise UserError(option, f"={source} is a workdir of electra-pretrain: give --format=electra_pretrain")
    if config.get("model_type") not in ("electra", "bert", "modernbert"):
        kind = abbreviate(config.get("model_type"))
        raise UserError(f"{file}: model_type is {kind}; electra, bert and modernbert can be imported")
    is_modern = config["model_type"] == "modernbert"
    for key, (wanted, meaning) in (modernbert.REQUIRED if is_modern else _REQUIRED).items():
        if config.get(key, wanted) != wanted:
            raise UserError(f"{file}: {key} is {abbreviate(config[key])}; this program computes {meaning} only")
    tensors, notices = _read_tensors(source)
    network, unexpected = (modernbert.read_network if is_modern else _network)(tensors, config, file)
    return ExternalModel(
        source=source,
        discriminator=network if network.role == "discriminator" else None,
        generator=network if network.role == "generator" else None,
        settings=external_files.settings(config, modernbert.SETTINGS if is_modern else SETTINGS, file),
        unexpected=unexpected,
        notices=notices,
        **_read_vocabulary(source, network.sizes.vocab_size, notices),
    )


def _network(tensors: Weights, config: dict[str, Any], file: str) -> tuple[Network, list[str]]:
    """Returns the network of a folder's tensors, and the names of those that belong to none."""
    folder, is_bert = os.path.dirname(file), config["model_type"] == "bert"
    heads = {name.split("_")[0] for name in tensors if name.startswith(_HEADS)}
    if len(heads) == 2:
        raise UserError(f"{folder} holds the heads of both networks: save each in a folder of its own")
    role = "generator" if "generator" in heads else "discriminator"
    table = tensors.get("electra.embeddings.word_embeddings.weight")
    if table is not None and not np.array_equal(tensors.get("generator_lm_head.weight", table), table, equal_nan=True):
        raise UserError(f"{folder}: the head's table is not the word table, as ELECTRA's is")
    num_heads = external_files.field(config, "num_attention_heads", int, file, 0)
    if num_heads < 1:
        raise UserError(f"{file}: num_attention_heads is {config.get('num_attention_heads')}, not a number from 1")
    network = Network(role, {}, num_heads)
    unexpected = []
    for name, value in tensors.items():
        ours = from_hf_name(name)
        if ours is not None and (not is_bert or ours.startswith(("embeddings/", "encoder/"))):
            network.weights[ours] = value.T if ours.endswith("/kernel") else value
        elif not name.endswith(_NO_WEIGHT):
            unexpected.append(name)
    try:
        unexpected += network.drop_unknown()
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    for key, size in size_keys(network.sizes).items():
        if key in config and config[key] != size:
            raise UserError(f"{file}: {key} is {abbreviate(config[key])}, the weights have {size}")
    return network, sorted(unexpected)


def size_keys(sizes: EncoderSizes) -> dict[str, int]:
    """Returns the sizes of a network as arguments of transformers' `ElectraConfig`."""
    items = sizes.electra_sizes().items()
    return {"num_hidden_layers" if name == "num_layers" else name: size for name, size in items}


def from_hf_name(name: str) -> str | None:
    """Returns the name in a `Network` of a tensor of transformers; None when it is not of one."""
    if name.endswith(_NO_WEIGHT):
        return None
    name = name.removeprefix("electra.").removeprefix("bert.")
    for theirs, ours in _PARTS:
        name = name.replace(theirs, ours)
    if not name.startswith(("embeddings.", "embeddings_project.", "encoder.", "predictions.")):
        return None
    if name.endswith("_embeddings.weight"):
        name = name.removesuffix(".weight")
    elif "LayerNorm." in name:  # of old versions with gamma and beta
        name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
    return name.replace(".weight", ".kernel").replace(".", "/")


def to_hf_name(name: str, role: str) -> str:
    """Returns the name in `ElectraForPreTraining` or `ElectraForMaskedLM` of a weight of a `Network`."""
    if name == "predictions/output_bias":
        return "generator_lm_head.bias"
    stem, _, last = name.rpartition("/")
    last = {"gamma": "weight", "beta": "bias", "kernel": "weight", "bias": "bias"}.get(last, f"{last}.weight")
    name = f"{stem}.{last}".replace("/", ".").replace("layer_", "layer.")
    if name.startswith("predictions.dense_1."):
        name = name.replace("dense_1", "dense_prediction")
    return f"{role}_{name}" if name.startswith("predictions.") else f"electra.{name}"


def _read_tensors(source: str) -> tuple[Weights, list[str]]:
    """Returns all tensors of a folder as float32, and notices for the user."""
    for name, read_file in ((_SAFETENSORS, _read_safetensors), (_PYTORCH, _read_pytorch)):
        file = external_files.find(source, name)
        if file is not None:
            return external_files.to_float32(read_file(file), file)
        index = external_files.find(source, f"{name}.index.json")
        if index is not None:
            return external_files.to_float32(_read_shards(source, index, read_file), source)
    raise UserError(Option("--source"), f"={source} holds neither {_SAFETENSORS} nor {_PYTORCH}")


def _read_shards(source: str, index: str, read_file: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    file_of = external_files.field(read_json(index), "weight_map", dict, index, {})
    if not file_of:
        raise UserError(f"{index} has no weight_map: copy the folder again")
    for name, shard in file_of.items():
        if not isinstance(shard, str) or os.path.basename(shard) != shard:
            raise UserError(f"{index}: the weight_map of {name} names no file of this folder: copy the folder again")
    shards = sorted(set(file_of.values()))
    lost = [shard for shard in shards if external_files.find(source, shard) is None]
    if lost:
        raise UserError(f"{source} holds {len(shards) - len(lost)} of {len(shards)} shards: {lost[0]} is missing")
    tensors: dict[str, Any] = {}
    for shard in shards:
        tensors.update(read_file(os.path.join(source, shard)))
    absent = sorted(file_of.keys() - tensors.keys())
    if absent:
        raise UserError(f"{os.path.join(source, file_of[absent[0]])} lacks {absent[0]}, which {index} names")
    return tensors


@contextlib.contextmanager
def _needs_extra(message: str) -> Iterator[None]:
    """Raises a `UserError` where an import in the block fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(message) from error


def _read_safetensors(file: str) -> dict[str, Any]:
    with _needs_extra(f"reading safetensors needs that package, which is not installed: {INSTALL}"):
        from safetensors.numpy import load_file  # noqa: PLC0415  (an extra; only this format needs it)
    try:
        with external_files.parsing(file):
            return load_file(file)
    except UserError as error:
        if not isinstance(error.__cause__, KeyError | TypeError | AttributeError):  # a type that NumPy does not have
            raise
        with _needs_extra(f"{file} holds bfloat16, which takes PyTorch to read: {INSTALL}, or save it in float32"):
            from safetensors.torch import load_file as load_with_torch  # noqa: PLC0415
        with external_files.parsing(file):
            return load_with_torch(file)


def _read_pytorch(file: str) -> dict[str, Any]:
    with _needs_extra(
        f"{file}: reading it needs PyTorch, which is not installed: {INSTALL}, or save it as safetensors"
    ):
        import torch  # noqa: PLC0415  (an extra; only this format needs it)
    with external_files.parsing(file):
        try:
            # Without this a pickle may run any code.
            tensors = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            message = f"{file} holds more than tensors, which is not unpickled: save it as safetensors"
            raise UserError(message) from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items()
    ):
        raise UserError(f"{file} holds no state dict of tensors")
    return tensors


def _read_vocabulary(source: str, num_rows: int, notices: list[str]) -> dict[str, Any]:
    """Returns the arguments of `ExternalModel` that a folder's tokenizer decides, as transformers reads it; what the
    user should know of it is added to `notices`."""
    names = ("vocab.txt", "tokenizer.json", "added_tokens.json")
    vocab_file, tokenizer_file, added_file = (external_files.find(source, name) for name in names)
    external_files.check_regular(os.path.join(source, TOKENIZER_CONFIG_FILE))
    added = read_json(added_file) if added_file else {}
    _check_ids(added, added_file or source)
    arguments: dict[str, Any] = {}
    try:
        with external_files.parsing(f"{source}: its tokenizer"):
            if tokenizer_file and _is_bpe(tokenizer_file):
                tokenizer = ByteLevelTokenizer(tokenizer_file)
                _check_byte_level(source, tokenizer)
                return {"vocab_file": tokenizer_file, "vocabulary": tokenizer.vocabulary}
            arguments["rules"] = read_rules(source)
            file = tokenizer_file or vocab_file
            tokens: dict[str, int] = {}
            notes: tuple[str, ...] = ()
            if tokenizer_file:
                arguments["rules"], tokens, others = _read_tokenizer(source, tokenizer_file)
                added = {**added, **others}
            elif vocab_file:
                tokens, notes = read_vocabulary(vocab_file, is_foreign=True)
            if file:
                tokens |= _added_tokens(source, tokens, added, num_rows, notices)
                if max(tokens.values(), default=0) >= num_rows + len(tokens):
                    raise UserError(f"{file}: there are ids beyond the {num_rows:,} rows of the word table")
                arguments["vocabulary"] = Vocabulary.from_ids(tokens, file, notes)
    except UserError as error:
        arguments["unsupported"] = str(error)
    return arguments


def _is_bpe(file: str) -> bool:
    return external_files.field(read_json(file), "model", dict, file, {}).get("type") == "BPE"


def _check_byte_level(source: str, tokenizer: ByteLevelTokenizer) -> None:
    """Raises a `UserError` where `tokenizer_config.json` changes what `tokenizer.json` makes of text."""
    file = os.path.join(source, TOKENIZER_CONFIG_FILE)
    config = read_json(file) if os.path.exists(file) else {}
    prefix = config.get("add_prefix_space")
    if prefix is not None and prefix != tokenizer.adds_space:
        raise UserError(f"{file}: add_prefix_space is {abbreviate(prefix)}, and not in tokenizer.json: make them equal")
    names = {own: name for name, own in tokenizer.special_tokens.items()}
    tokens = set(tokenizer.vocabulary.tokens)
    for item in external_files.field(config, "added_tokens_decoder", dict, file, {}).values():
        if names.get(item["content"], item["content"]) not in tokens:
            raise UserError(f"{file}: the added token {item['content'][:40]!r} is not in tokenizer.json: add it there")


def _added_tokens(
    source: str, tokens: dict[str, int], added: dict[str, int], num_rows: int, notices: list[str]
) -> dict[str, int]:
    """Returns the ids of tokens that a vocabulary lacks and the word table has a row for, from the first that has any
    of `tokenizer_config.json` and `added`. A `UserError` where transformers gives them others."""
    config_file = os.path.join(source, TOKENIZER_CONFIG_FILE)
    config = read_json(config_file) if os.path.exists(config_file) else {}
    decoder = external_files.field(config, "added_tokens_decoder", dict, config_file, {})
    ids = {item["content"]: int(index) for index, item in decoder.items()} or added
    lacking = sorted((index, token) for token, index in ids.items() if token not in tokens)
    size = max(tokens.values(), default=-1) + 1
    for expected, (index, token) in enumerate(lacking, len(tokens)):
        if index != expected or len(tokens) != size:
            raise UserError(
                f"{source}: the id of the added token {token[:40]!r} is {index}, and {expected} in transformers, which "
                f"numbers them from the vocabulary's {len(tokens):,} on"
            )
    kept = {token: index for index, token in lacking if index < num_rows}
    if kept:
        notices.append(
            f"Added tokens: {len(kept)}, the first {next(iter(kept))!r}. They are in the vocabulary; those with "
            f"punctuation in them do not occur, since text is divided there first."
        )
    if len(kept) < len(lacking):
        notices.append(
            f"Added tokens: {len(lacking) - len(kept)} are left out, the first {lacking[len(kept)][1]!r}: the word "
            f"table of {num_rows:,} rows has none for them."
        )
    return kept


def _read_tokenizer(source: str, file: str) -> tuple[WordRules, dict[str, int], dict[str, int]]:
    """Returns rules of a `tokenizer.json`, and the ids of its tokens and of added ones; a `UserError` when it is not
    BERT's. What `tokenizer_config.json` next to it holds comes first, as in transformers."""
    tokenizer = read_json(file)
    model = external_files.field(tokenizer, "model", dict, file, {})
    if model.get("type") != "WordPiece":
        raise UserError(f"{file} is a tokenizer of type {abbreviate(model.get('type'))}, not WordPiece")
    normalizer = _only_step(tokenizer, "normalizer", "normalizers", "BertNormalizer", file)
    _only_step(tokenizer, "pre_tokenizer", "pretokenizers", "BertPreTokenizer", file)
    config = {
        "wordpieces_prefix": model.get("continuing_subword_prefix", "##"),
        "unk_token": model.get("unk_token", "[UNK]"),
        "max_input_chars_per_word": model.get("max_input_chars_per_word", WordRules().max_word_length),
        "clean_text": normalizer.get("clean_text", True),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
        "strip_accents": normalizer.get("strip_accents"),
        "do_lower_case": normalizer.get("lowercase", True),
    }
    WordRules.from_config(config, file)
    config_file = os.path.join(source, TOKENIZER_CONFIG_FILE)
    if os.path.exists(config_file):
        others = read_json(config_file)
        # Classes of one model take its settings, those of any model only what this file holds.
        is_general = str(others.get("tokenizer_class")).startswith(("PreTrained", "TokenizersBackend"))
        config = {**others, **config} if is_general else {**config, **others}
    added: dict[str, Any] = {}
    for item in external_files.field(tokenizer, "added_tokens", list, file, []):
        if not isinstance(item, dict) or not isinstance(item.get("content"), str):
            raise UserError(f"{file}: one of added_tokens has no content: copy it again")
        added[item["content"]] = item.get("id")
    tokens = dict(external_files.field(model, "vocab", dict, file, {}))
    _check_ids({**tokens, **added}, file)
    return WordRules.from_config(config, config_file), tokens, added


def _only_step(tokenizer: dict[str, Any], key: str, steps_key: str, wanted: str, file: str) -> dict[str, Any]:
    """Returns a component, or the one step of a `Sequence`; a `UserError` when it is of another type than `wanted`."""
    component = tokenizer.get(key) or {}
    steps = component.get(steps_key, []) if component.get("type") == "Sequence" else [component]
    types = [step.get("type") for step in steps]
    if types != [wanted]:
        names = " and ".join(map(str, types)) or "empty"
        raise UserError(f"{file}: {key} is {names}, not {wanted}: text would become other tokens")
    return steps[0]


def _check_ids(ids: dict[str, Any], file: str) -> None:
    for token, index in ids.items():
        if type(index) is not int or index < 0:
            raise UserError(f"{file}: the id of the token {token[:40]!r} is no whole number: copy it again")
