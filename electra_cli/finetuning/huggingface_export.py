"""A fine-tuned model as a folder of Hugging Face transformers, compared with ours."""

from typing import Any

import numpy as np

from electra_cli.errors import UserError
from electra_cli.finetuning.examples import Example
from electra_cli.finetuning.model_card import model_card
from electra_cli.finetuning.trained import FineTunedModel
from electra_cli.interop import huggingface
from electra_cli.interop.huggingface_export import load_folder, require_wordpiece, their_layout, write_folder
from electra_cli.objectives.weights import Network, Weights, read_encoder

# Of each kind: the class of the model there, and the one that picks it.
_CLASSES = {
    "classification": ("ElectraForSequenceClassification", "AutoModelForSequenceClassification"),
    "regression": ("ElectraForSequenceClassification", "AutoModelForSequenceClassification"),
    "tagging": ("ElectraForTokenClassification", "AutoModelForTokenClassification"),
    "question_answering": ("ElectraForQuestionAnswering", "AutoModelForQuestionAnswering"),
}
_PROBLEM_TYPES = {"classification": "single_label_classification", "regression": "regression"}
# The name of each layer of the head.
_HEADS = {
    "classification": ("classifier.dense", "classifier.out_proj"),
    "regression": ("classifier.dense", "classifier.out_proj"),
    "tagging": (None, "classifier"),
    "question_answering": (None, "qa_outputs"),
}


def write(trained: FineTunedModel, directory: str) -> None:
    """Writes `config.json`, `model.safetensors`, the tokenizer's files and `README.md`, the model card.

    Args:
      trained: the model.
      directory: an empty directory.

    Raises:
      UserError: it has a SentencePiece model, for which there is no tokenizer of ELECTRA.
      OSError: it cannot be written.
    """
    others = "--format=saved_model" if trained.model.head_dense is not None else "an encoder with WordPiece"
    require_wordpiece(trained.tokenizer, others)
    write_folder(
        directory,
        _config(trained),
        _tensors(trained),
        trained.tokenizer,
        trained.max_length,
        model_card(trained),
    )


def _config(trained: FineTunedModel) -> dict[str, Any]:
    kind, settings = trained.task.kind, trained.config.model
    network = Network("discriminator", read_encoder(trained.model.encoder), trained.record.sizes.num_attention_heads)
    config = huggingface.config_of(
        network,
        {
            "model.hidden_dropout": settings.hidden_dropout,
            "model.attention_dropout": settings.attention_dropout,
            "model.initializer_range": trained.record.initializer_range,
        },
        trained.tokenizer.vocabulary.pad_id,
    )
    if kind != "question_answering":
        # Of a regression transformers counts outputs by their names, too.
        names = trained.task.labels.labels if kind != "regression" else ("number",)
        config["id2label"] = {str(place): name for place, name in enumerate(names)}
        config["label2id"] = {name: place for place, name in enumerate(names)}
    if kind in _PROBLEM_TYPES:
        config["problem_type"] = _PROBLEM_TYPES[kind]
    return {
        "architectures": [_CLASSES[kind][0]],
        "model_type": "electra",
        **config,
        "classifier_dropout": settings.head_dropout,
    }


def _tensors(trained: FineTunedModel) -> Weights:
    model, (dense, output) = trained.model, _HEADS[trained.task.kind]
    tensors = {
        huggingface.their_name(name, "discriminator"): their_layout(name, value)
        for name, value in read_encoder(model.encoder).items()
    }
    for name, layer in ((dense, model.head_dense), (output, model.head_output)):
        if layer is not None:
            tensors[f"{name}.weight"] = np.ascontiguousarray(layer.kernel.numpy().T)
            tensors[f"{name}.bias"] = layer.bias.numpy()
    if trained.task.kind == "regression":
        # Their output is the number itself.
        known = trained.task.labels
        tensors[f"{output}.weight"] *= np.float32(known.deviation)
        tensors[f"{output}.bias"] = known.numbers(tensors[f"{output}.bias"]).astype(np.float32)
    return tensors


def deviation(trained: FineTunedModel, directory: str, examples: list[Example]) -> float:
    """Loads a folder with transformers and returns the largest difference of logits from ours.

    Args:
      trained: the model that was written there.
      directory: the folder.
      examples: what to compare on; unlabelled.

    Raises:
      UserError: tokens differ.
    """
    import torch  # noqa: PLC0415  (an extra; only this format needs it)

    task, encoder = trained.task, trained.tokenizer.build()
    tokenizer, model = load_folder(directory, _CLASSES[task.kind][1])
    encoded = task.encode(examples, encoder, trained.tokenizer.vocabulary, trained.max_length)
    inputs = encoded.features
    rows = encoded.example_indices.tolist()
    real: np.ndarray = inputs["input_mask"].astype(bool)
    for example, length, index in zip(examples, task.lengths(examples, encoder), range(len(examples)), strict=True):
        row = rows.index(index)
        ours = inputs["input_word_ids"][row][real[row]].tolist()
        if length <= trained.max_length and _their_ids(tokenizer, example) != ours:
            raise UserError(f"the exported tokenizer makes other tokens of {example.text[:40]!r}: nothing was exported")
    with torch.no_grad():
        found = model(
            torch.tensor(inputs["input_word_ids"], dtype=torch.long),
            attention_mask=torch.tensor(inputs["input_mask"], dtype=torch.long),
            token_type_ids=torch.tensor(inputs["input_type_ids"], dtype=torch.long),
        )
    if task.kind == "question_answering":
        theirs = torch.stack([found.start_logits, found.end_logits], dim=-1).numpy()
    else:
        theirs = found.logits.numpy()
    if task.kind == "regression":
        theirs = task.labels.scaled(theirs)
    difference = np.abs(theirs - trained.model(inputs, training=False).numpy())
    return float((difference if trained.model.head_dense is not None else difference[real]).max())


def _their_ids(tokenizer: Any, example: Example) -> list[int]:
    if example.words is not None:
        return tokenizer(list(example.words), is_split_into_words=True)["input_ids"]
    return tokenizer(example.text, example.second_text)["input_ids"]
