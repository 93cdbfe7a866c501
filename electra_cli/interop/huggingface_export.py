"""A network of a run, or a fine-tuned model, as a folder of Hugging Face transformers, compared with ours."""

import importlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from electra_cli.data.tokenization import TokenizerSettings
from electra_cli.errors import UserError
from electra_cli.finetuning.examples import Example
from electra_cli.finetuning.model import FineTunedModel
from electra_cli.interop.delivery import write_texts
from electra_cli.interop.huggingface import CONFIG_FILE, INSTALL, SETTINGS, size_keys, to_hf_name
from electra_cli.interop.model_card import fine_tuned_card, run_card
from electra_cli.interop.runs import LoadedRun, encode_texts, largest_difference, unpadded_rows
from electra_cli.modeling.fused import LAYER_NORM_EPSILON
from electra_cli.objectives.costs import EncoderSizes
from electra_cli.objectives.weights import Network, Weights, read_encoder

_NETWORK_CLASSES = {"discriminator": "ElectraForPreTraining", "generator": "ElectraForMaskedLM"}
_TASK_CLASSES = {
    "classification": "ElectraForSequenceClassification",
    "regression": "ElectraForSequenceClassification",
    "tagging": "ElectraForTokenClassification",
    "question_answering": "ElectraForQuestionAnswering",
}
_PROBLEM_TYPES = {"classification": "single_label_classification", "regression": "regression"}
# The output layer of each task's head; heads on whole texts have `classifier.dense` before it.
_OUTPUT_LAYERS = {
    "classification": "classifier.out_proj",
    "regression": "classifier.out_proj",
    "tagging": "classifier",
    "question_answering": "qa_outputs",
}
_SPECIAL_TOKENS = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
}  # fmt: skip


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
      UserError: the run has a SentencePiece model, for which there is no tokenizer of ELECTRA.
      OSError: it cannot be written.
    """
    _require_wordpiece(run.tokenizer, "--format=tfm or google_tf1, which hold no tokenizer")
    network, rates = run.network(role), run.config.model
    config = _config(_NETWORK_CLASSES[role], network.sizes, rates, rates.initializer_range, run.tokenizer)
    tensors = _tensors(network.weights, role)
    length = network.sizes.max_position_embeddings
    _write_folder(directory, config, tensors, run.tokenizer, length, run_card(run, role))


def write_fine_tuned(model: FineTunedModel, directory: str) -> None:
    """Writes a fine-tuned model as `write` does a network; raises what it raises."""
    others = "--format=saved_model" if model.model.head_dense is not None else "an encoder with WordPiece"
    _require_wordpiece(model.tokenizer, others)
    kind, record, rates = model.task.kind, model.record, model.config.model
    weights = read_encoder(model.model.encoder)
    sizes = Network("discriminator", weights, record.sizes.num_attention_heads).sizes
    config = _config(_TASK_CLASSES[kind], sizes, rates, record.initializer_range, model.tokenizer)
    if kind != "question_answering":
        # Transformers counts the outputs of a regression by their names, too.
        names = model.task.labels.labels if kind != "regression" else ("number",)
        config["id2label"] = {str(index): name for index, name in enumerate(names)}
        config["label2id"] = {name: index for index, name in enumerate(names)}
    if kind in _PROBLEM_TYPES:
        config["problem_type"] = _PROBLEM_TYPES[kind]
    config["classifier_dropout"] = rates.head_dropout
    tensors = {**_tensors(weights, "discriminator"), **_head_tensors(model)}
    _write_folder(directory, config, tensors, model.tokenizer, model.max_length, fine_tuned_card(model))


def _require_wordpiece(tokenizer: TokenizerSettings, others: str) -> None:
    if tokenizer.vocabulary.is_sentencepiece:
        raise UserError(
            f"the run's tokenizer is a SentencePiece model; ELECTRA's in transformers is WordPiece: choose {others}"
        )


def _config(
    architecture: str, sizes: EncoderSizes, rates: Any, initializer_range: float, tokenizer: TokenizerSettings
) -> dict[str, Any]:
    """Returns transformers' `config.json`; `rates` are the section `model` of a config."""
    settings = {**rates.to_dict(), "initializer_range": initializer_range}
    return {
        "architectures": [architecture],
        "model_type": "electra",
        **size_keys(sizes),
        "hidden_act": "gelu",
        "layer_norm_eps": LAYER_NORM_EPSILON,
        "pad_token_id": tokenizer.vocabulary.pad_id,
        **{name: settings[key.removeprefix("model.")] for name, key in SETTINGS.items()},
    }


def _tensors(weights: Weights, role: str) -> Weights:
    """Returns weights of a `Network` under PyTorch's names and in its layout: kernels are [outputs, inputs]."""
    return {
        to_hf_name(name, role): np.ascontiguousarray(value.T if name.endswith("/kernel") else value)
        for name, value in weights.items()
    }


def _head_tensors(model: FineTunedModel) -> Weights:
    output = _OUTPUT_LAYERS[model.task.kind]
    tensors = {}
    for name, layer in (("classifier.dense", model.model.head_dense), (output, model.model.head_output)):
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
) -> None:
    import safetensors  # noqa: PLC0415  (an extra; only this format needs it)
    from safetensors.numpy import save_file  # noqa: PLC0415

    write_texts(directory, {CONFIG_FILE: json.dumps(config, indent=1) + "\n", "README.md": card})
    write_texts(directory, tokenizer_files(tokenizer, max_length))
    try:
        save_file(tensors, os.path.join(directory, "model.safetensors"), metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from error


def tokenizer_files(tokenizer: TokenizerSettings, max_length: int) -> dict[str, str]:
    """Returns the files of a `BertTokenizerFast`, contents by name; text is cut to `max_length` tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors  # noqa: PLC0415  (import time)

    rules, tokens = tokenizer.rules, tokenizer.vocabulary.tokens
    ids = {token: index for index, token in enumerate(tokens)}
    fast = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=rules.max_word_length))
    fast.normalizer = rules.normalizer()
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    fast.decoder = decoders.WordPiece(prefix="##")
    fast.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    settings = {
        "tokenizer_class": "BertTokenizer",
        **rules.to_config(),
        "model_max_length": max_length,
        **_SPECIAL_TOKENS,
    }
    return {
        "vocab.txt": "\n".join(tokens) + "\n",
        "tokenizer.json": fast.to_str(pretty=False),
        "tokenizer_config.json": json.dumps(settings, indent=1) + "\n",
        "special_tokens_map.json": json.dumps(_SPECIAL_TOKENS, indent=1) + "\n",
    }


def compare(run: LoadedRun, role: str, directory: str, texts: list[str]) -> float:
    """Returns the largest difference of states and logits once loaded; raises a `UserError` where tokens differ."""
    tokenizer = _load(directory, "AutoTokenizer")
    length = min(128, run.config.model.max_position_embeddings)
    inputs = encode_texts(run.tokenizer, texts, length)
    for text, ids in zip(texts, unpadded_rows(inputs), strict=True):
        _check_tokens(text, tokenizer(text, truncation=True, max_length=length)["input_ids"], ids)
    theirs = _outputs(directory, _NETWORK_CLASSES[role], inputs)
    states = run.hidden_states(role, inputs)
    pairs = [(theirs.logits, run.logits(role, states[-1])), *zip(theirs.hidden_states[1:], states, strict=True)]
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
    outputs = _outputs(directory, _TASK_CLASSES[task.kind], inputs)
    if task.kind == "question_answering":
        logits = np.stack([outputs.start_logits, outputs.end_logits], axis=-1)
    elif task.kind == "regression":
        logits = task.labels.scaled(outputs.logits.numpy())
    else:
        logits = outputs.logits.numpy()
    kept: Any = ... if model.model.head_dense is not None else inputs["input_mask"].astype(bool)
    return largest_difference([(logits, model.model(inputs, training=False))], kept)


def _load(directory: str, automatic: str) -> Any:
    """Returns what transformers' class `automatic` loads."""
    import transformers  # noqa: PLC0415  (an extra; only this format needs it)

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return getattr(transformers, automatic).from_pretrained(directory)


def _outputs(directory: str, architecture: str, inputs: dict[str, np.ndarray]) -> Any:
    """Returns what the written model, loaded as users load it, computes."""
    import torch  # noqa: PLC0415  (an extra; only this format needs it)

    model = _load(directory, architecture.replace("Electra", "AutoModel"))
    with torch.no_grad():
        return model.eval()(
            torch.tensor(inputs["input_word_ids"], dtype=torch.long),
            attention_mask=torch.tensor(inputs["input_mask"], dtype=torch.long),
            token_type_ids=torch.tensor(inputs["input_type_ids"], dtype=torch.long),
            output_hidden_states=True,
        )


def _check_tokens(text: str, theirs: list[int], ours: list[int]) -> None:
    if theirs != ours:
        raise UserError(f"the exported tokenizer makes other tokens of {text[:40]!r}: nothing was exported")
