"""A network of a run, or a fine-tuned model, as a folder of Hugging Face transformers, compared with ours."""

import importlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from electra_cli.data.model_tokenizers import ByteLevelTokenizer
from electra_cli.data.tfrecords import SENTENCEPIECE_FILE
from electra_cli.data.tokenization import TokenizerSettings
from electra_cli.data.vocabulary import SPECIAL_TOKENS
from electra_cli.errors import UserError
from electra_cli.finetuning.examples import Example
from electra_cli.finetuning.model import SENTENCE_KINDS, FineTunedModel
from electra_cli.interop import modernbert
from electra_cli.interop.delivery import write_texts
from electra_cli.interop.huggingface import CONFIG_FILE, INSTALL, SETTINGS, size_keys, to_hf_name
from electra_cli.interop.model_card import fine_tuned_card, run_card
from electra_cli.interop.runs import LoadedRun, encode_texts, largest_difference, unpadded_rows
from electra_cli.modeling.fused import LAYER_NORM_EPSILON
from electra_cli.modeling.modern import PredictionHead
from electra_cli.objectives.costs import EncoderSizes
from electra_cli.objectives.weights import Weights, read_encoder

# Classes of a prefix (`_PREFIXES`) for each network, and for each task.
_NETWORK_CLASSES = {
    "electra": {"discriminator": "ForPreTraining", "generator": "ForMaskedLM"},
    "modern": {"discriminator": "ForTokenClassification", "generator": "ForMaskedLM"},
}
_TASK_CLASSES = {
    "classification": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "tagging": "ForTokenClassification",
    "question_answering": "ForQuestionAnswering",
}
_PREFIXES = {"electra": "Electra", "modern": "ModernBert"}
_PROBLEM_TYPES = {"classification": "single_label_classification", "regression": "regression"}
# ELECTRA's output layer of each task's head; heads on whole texts have `classifier.dense` before it.
_OUTPUT_LAYERS = {
    "classification": "classifier.out_proj",
    "regression": "classifier.out_proj",
    "tagging": "classifier",
    "question_answering": "qa_outputs",
}
_SPECIAL_TOKENS = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
}  # fmt: skip
_UNIGRAM, _USER_DEFINED = 1, 4  # kinds of models, and of pieces, in SentencePiece's format


def check_installed() -> None:
    """Raises a `UserError` when a library that writing and checking need is not installed."""
    try:
        for name in ("safetensors", "torch", "transformers"):
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"--format=huggingface needs {error.name}, which is not installed: {INSTALL}") from error


def write(run: LoadedRun, role: str, directory: str) -> None:
    """Writes a network to an empty directory: config, weights, the tokenizer's files and `README.md`, the model card.

    Raises:
      UserError: the run has a SentencePiece model of a kind that `tokenizers` does not compute.
      OSError: it cannot be written.
    """
    network, rates = run.network(role), run.config.model
    sizes = network.sizes
    config = _config(_class_of(sizes, role), sizes, rates, rates.initializer_range, run.tokenizer)
    if sizes.architecture == "modern" and role == "discriminator":  # transformers counts its outputs by their names
        label = "energy" if run.has_energies else "replaced"
        config |= {"id2label": {"0": label}, "label2id": {label: 0}}
    tensors = _tensors(network.weights, role, sizes)
    _write_folder(directory, config, tensors, run.tokenizer, sizes.max_position_embeddings, run_card(run, role))


def write_fine_tuned(model: FineTunedModel, directory: str) -> None:
    """Writes a fine-tuned model as `write` does a network; raises what it raises."""
    kind, record, rates = model.task.kind, model.record, model.config.model
    weights = read_encoder(model.model.encoder)
    sizes = record.sizes
    config = _config(_class_of(sizes, kind), sizes, rates, record.initializer_range, model.tokenizer)
    if kind != "question_answering":
        # Transformers counts the outputs of a regression by their names, too.
        names = model.task.labels.labels if kind != "regression" else ("number",)
        config["id2label"] = {str(index): name for index, name in enumerate(names)}
        config["label2id"] = {name: index for index, name in enumerate(names)}
    if kind in _PROBLEM_TYPES:
        config["problem_type"] = _PROBLEM_TYPES[kind]
    config["classifier_dropout"] = rates.head_dropout
    tensors = {**_tensors(weights, "discriminator", sizes), **_head_tensors(model)}
    _write_folder(
        directory, config, tensors, model.tokenizer, model.max_length, fine_tuned_card(model), kind == "tagging"
    )


def _class_of(sizes: EncoderSizes, use: str) -> str:
    """Returns transformers' class for a network, 'discriminator' or 'generator', or for a kind of task."""
    return _PREFIXES[sizes.architecture] + {**_TASK_CLASSES, **_NETWORK_CLASSES[sizes.architecture]}[use]


def _config(
    class_name: str, sizes: EncoderSizes, rates: Any, initializer_range: float, tokenizer: TokenizerSettings
) -> dict[str, Any]:
    """Returns transformers' `config.json`; `rates` are the section `model` of a config."""
    settings = {**rates.to_dict(), "initializer_range": initializer_range}
    vocabulary = tokenizer.vocabulary
    if sizes.architecture == "modern":
        names, own = modernbert.SETTINGS, modernbert.config_of(sizes)
        own["embedding_dropout"] = settings["hidden_dropout"]
        own |= dict.fromkeys(("bos_token_id", "cls_token_id"), vocabulary.cls_id)
        own |= dict.fromkeys(("eos_token_id", "sep_token_id"), vocabulary.sep_id)
    else:
        names, own = SETTINGS, {"model_type": "electra", **size_keys(sizes)}
        own |= {"hidden_act": "gelu", "layer_norm_eps": LAYER_NORM_EPSILON}
    return {
        "architectures": [class_name],
        **own,
        "pad_token_id": vocabulary.pad_id,
        **{name: settings[key.removeprefix("model.")] for name, key in names.items()},
    }


def _tensors(weights: Weights, role: str, sizes: EncoderSizes) -> Weights:
    """Returns weights of a `Network` under PyTorch's names and in its layout: kernels are [outputs, inputs]."""
    if sizes.architecture == "modern":
        return modernbert.to_tensors(weights)
    return {
        to_hf_name(name, role): np.ascontiguousarray(value.T if name.endswith("/kernel") else value)
        for name, value in weights.items()
    }


def _head_tensors(model: FineTunedModel) -> Weights:
    output, head = _OUTPUT_LAYERS[model.task.kind], model.model.head_dense
    tensors = {}
    if isinstance(head, PredictionHead):
        output, tensors["head.norm.weight"] = "classifier", head.layer_norm.gamma.numpy()
        tensors["head.dense.weight"] = np.ascontiguousarray(head.dense.kernel.numpy().T)
        head = None
    for name, layer in (("classifier.dense", head), (output, model.model.head_output)):
        if layer is not None:
            tensors[f"{name}.weight"] = np.ascontiguousarray(layer.kernel.numpy().T)
            tensors[f"{name}.bias"] = layer.bias.numpy()
    if model.task.kind == "regression":
        labels = model.task.labels  # transformers' output is the number itself
        tensors[f"{output}.weight"] *= np.float32(labels.deviation)
        tensors[f"{output}.bias"] = labels.numbers(tensors[f"{output}.bias"]).astype(np.float32)
    return tensors


def _write_folder(
    directory: str,
    config: Mapping[str, Any],
    tensors: Weights,
    tokenizer: TokenizerSettings,
    max_length: int,
    card: str,
    has_words: bool = False,
) -> None:
    import safetensors  # noqa: PLC0415  (an extra; only this format needs it)
    from safetensors.numpy import save_file  # noqa: PLC0415

    write_texts(directory, {CONFIG_FILE: json.dumps(config, indent=1) + "\n", "README.md": card})
    has_types = config["model_type"] != "modernbert"
    write_texts(directory, tokenizer_files(tokenizer, max_length, has_types=has_types, has_words=has_words))
    try:
        save_file(tensors, os.path.join(directory, "model.safetensors"), metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from error


def tokenizer_files(
    tokenizer: TokenizerSettings, max_length: int, has_types: bool = True, has_words: bool = False
) -> dict[str, str]:
    """Returns the files of a tokenizer of transformers, contents by name; text is cut to `max_length` tokens.

    `has_types`: whether it returns segment types, which models of ModernBERT do not take. `has_words`: whether it is
    given words, before each of which byte-level BPE has a space.
    """
    if tokenizer.model_file:
        fast, names = _with_model(tokenizer, has_words)
        settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        files = {}
    else:
        fast, names = _wordpiece(tokenizer), {name: name for name in SPECIAL_TOKENS}
        settings = {"tokenizer_class": "BertTokenizer", **tokenizer.rules.to_config()}
        files = {"vocab.txt": tokenizer.vocabulary.to_bytes().decode()}
    special = {key: names[name] for key, name in _SPECIAL_TOKENS.items()}
    settings |= {"model_max_length": max_length, **special}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    if not has_types or tokenizer.model_file:
        settings["model_input_names"] = inputs if has_types else [inputs[0], inputs[2]]
    return files | {
        "tokenizer.json": fast.to_str(pretty=False),
        "tokenizer_config.json": json.dumps(settings, indent=1) + "\n",
        "special_tokens_map.json": json.dumps(special, indent=1) + "\n",
    }


def _wordpiece(tokenizer: TokenizerSettings) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors  # noqa: PLC0415  (import time)

    rules, ids = tokenizer.rules, {token: index for index, token in enumerate(tokenizer.vocabulary.tokens)}
    fast = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=rules.max_word_length))
    fast.normalizer = rules.normalizer()
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    fast.decoder = decoders.WordPiece(prefix="##")
    fast.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return fast


def _with_model(tokenizer: TokenizerSettings, has_words: bool) -> tuple[Any, dict[str, str]]:
    """Returns the tokenizer of `tokenizers` of a model, and its names of special tokens by BERT's."""
    from tokenizers import Tokenizer, decoders, normalizers, processors  # noqa: PLC0415  (import time)

    encoder = tokenizer.build()
    if isinstance(encoder, ByteLevelTokenizer):
        fast, names = Tokenizer.from_str(encoder.content.decode()), encoder.special_tokens
        fast.decoder = fast.decoder or decoders.ByteLevel()
        if has_words:
            steps = [fast.normalizer] if fast.normalizer else []
            fast.normalizer = normalizers.Sequence([*steps, normalizers.Prepend(" ")])
    else:
        fast, pieces = _unigram(tokenizer.model[SENTENCEPIECE_FILE])
        tokens = tokenizer.vocabulary.tokens
        names = {name: (*pieces, *tokens[len(pieces) :])[tokens.index(name)] for name in SPECIAL_TOKENS}
        # Those that the model lacks follow its last piece, in this order.
        fast.add_special_tokens(list(names.values()))
    cls, sep = names["[CLS]"], names["[SEP]"]
    fast.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(name, fast.token_to_id(name)) for name in (cls, sep)],
    )
    return fast, names


def _unigram(content: bytes) -> tuple[Any, list[str]]:
    """Returns the tokenizer of `tokenizers` of a SentencePiece model, and the pieces."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models  # noqa: PLC0415  (import time)
    from tokenizers import normalizers as normal  # noqa: PLC0415
    from tokenizers.pre_tokenizers import Metaspace  # noqa: PLC0415

    # SentencePiece's own needs a version of protobuf that TensorFlow may not allow.
    format_module = importlib.import_module("transformers.utils.sentencepiece_model_pb2_new")
    model = format_module.ModelProto.FromString(content)
    training, rules = model.trainer_spec, model.normalizer_spec
    if training.model_type != _UNIGRAM:
        raise UserError(
            "the run's SentencePiece model is not of the type unigram, the only one that --format=huggingface has a "
            "tokenizer for: choose tfm or google_tf1, which hold none"
        )
    pieces = [piece.piece for piece in model.pieces]
    scores = [(piece.piece, piece.score) for piece in model.pieces]
    fast = Tokenizer(models.Unigram(scores, training.unk_id, training.byte_fallback))
    steps: list[Any] = [normal.Precompiled(rules.precompiled_charsmap)] if rules.precompiled_charsmap else []
    if rules.remove_extra_whitespaces:
        steps += [normal.Strip(), normal.Replace(Regex(" {2,}"), " ")]
    fast.normalizer = normal.Sequence(steps)
    scheme = "always" if rules.add_dummy_prefix else "never"
    fast.pre_tokenizer = Metaspace(prepend_scheme=scheme, split=training.split_by_whitespace)
    fast.decoder = decoders.Metaspace(prepend_scheme=scheme)
    user_defined = [piece.piece for piece in model.pieces if piece.type == _USER_DEFINED]
    fast.add_tokens([AddedToken(piece, normalized=True) for piece in user_defined])
    return fast, pieces


def compare(run: LoadedRun, role: str, directory: str, given: list[str]) -> float:
    """Returns the largest difference of states and logits once loaded; raises a `UserError` where tokens differ."""
    tokenizer = _load(directory, "AutoTokenizer")
    texts = [text.replace("[MASK]", tokenizer.mask_token) for text in given]
    length = min(128, run.config.model.max_position_embeddings)
    inputs = encode_texts(run.tokenizer, given, length)
    for text, ids in zip(texts, unpadded_rows(inputs), strict=True):
        _check_tokens(text, tokenizer(text, truncation=True, max_length=length)["input_ids"], ids)
    theirs = _outputs(directory, _class_of(run.network(role).sizes, role), inputs)
    states = run.hidden_states(role, inputs)
    logits = run.logits(role, states[-1])
    pairs = [(theirs.logits.reshape(tuple(logits.shape)), logits), *zip(theirs.hidden_states[1:], states, strict=True)]
    return largest_difference(pairs, inputs["input_mask"].astype(bool))


def compare_fine_tuned(model: FineTunedModel, directory: str, examples: list[Example]) -> float:
    """Returns the largest difference of logits once loaded; raises a `UserError` where tokens differ."""
    task, encoder = model.task, model.tokenizer.build()
    tokenizer = _load(directory, "AutoTokenizer")
    encoded = task.encode(examples, encoder, model.tokenizer.vocabulary, model.max_length)
    inputs, rows = encoded.features, encoded.example_indices.tolist()
    ids = unpadded_rows(inputs)
    for index, (example, length) in enumerate(zip(examples, task.lengths(examples, encoder), strict=True)):
        if length > model.max_length:
            continue
        if example.words is not None:
            theirs = tokenizer(list(example.words), is_split_into_words=True)["input_ids"]
        else:
            theirs = tokenizer(example.text, example.second_text)["input_ids"]
        _check_tokens(example.text, theirs, ids[rows.index(index)])
    outputs = _outputs(directory, _class_of(model.record.sizes, task.kind), inputs)
    if task.kind == "question_answering":
        logits = np.stack([outputs.start_logits, outputs.end_logits], axis=-1)
    elif task.kind == "regression":
        logits = task.labels.scaled(outputs.logits.numpy())
    else:
        logits = outputs.logits.numpy()
    kept: Any = ... if task.kind in SENTENCE_KINDS else inputs["input_mask"].astype(bool)
    return largest_difference([(logits, model.model(inputs, training=False))], kept)


def _load(directory: str, automatic: str) -> Any:
    """Returns what transformers' class `automatic` loads."""
    import transformers  # noqa: PLC0415  (an extra; only this format needs it)

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return getattr(transformers, automatic).from_pretrained(directory)


def _outputs(directory: str, class_name: str, inputs: dict[str, np.ndarray]) -> Any:
    """Returns what the written model, loaded as users load it, computes."""
    import torch  # noqa: PLC0415  (an extra; only this format needs it)

    model = _load(directory, f"AutoModelFor{class_name.partition('For')[2]}")
    names = {"input_ids": "input_word_ids", "attention_mask": "input_mask"}
    if class_name.startswith("Electra"):
        names["token_type_ids"] = "input_type_ids"
    tensors = {name: torch.tensor(inputs[ours], dtype=torch.long) for name, ours in names.items()}
    with torch.no_grad():
        return model.eval()(**tensors, output_hidden_states=True)


def _check_tokens(text: str, theirs: list[int], ours: list[int]) -> None:
    if theirs != ours:
        raise UserError(f"the exported tokenizer makes other tokens of {text[:40]!r}: nothing was exported")
