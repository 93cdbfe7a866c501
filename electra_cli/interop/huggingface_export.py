"""A network as a folder of Hugging Face transformers, with tokenizer and model card, compared with ours."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from electra_cli.data.tokenization import TokenizerSettings
from electra_cli.errors import UserError
from electra_cli.interop import huggingface
from electra_cli.interop.model_card import model_card
from electra_cli.interop.outputs import discriminator_logits, generator_logits, hidden_states
from electra_cli.interop.runs import Run, encode_texts

_ARCHITECTURES = {"discriminator": "ElectraForPreTraining", "generator": "ElectraForMaskedLM"}


def check_installed() -> None:
    """Raises a `UserError` when what writes and checks is not installed."""
    try:
        import safetensors  # noqa: F401, PLC0415  (an extra; only this format needs it)
        import torch  # noqa: F401, PLC0415
        import transformers  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        raise UserError(
            f"--format=huggingface needs {error.name}, which is not installed: pip install "
            f"'electra-pretrain[huggingface]'"
        ) from error


def write(run: Run, role: str, directory: str) -> None:
    """Writes `config.json`, `model.safetensors`, the tokenizer's files and `README.md`, the model card.

    Args:
      run: the run.
      role: 'discriminator' or 'generator'.
      directory: an empty directory.

    Raises:
      UserError: the run has a SentencePiece model, for which there is no tokenizer of ELECTRA.
      OSError: it cannot be written.
    """
    require_wordpiece(run.tokenizer, "--format=tfm or google_tf1, which hold no tokenizer")
    network = run.network(role)
    config = huggingface.config_of(network, run.settings, run.tokenizer.vocabulary.pad_id)
    tensors = {huggingface.their_name(name, role): their_layout(name, value) for name, value in network.weights.items()}
    write_folder(
        directory,
        {"architectures": [_ARCHITECTURES[role]], "model_type": "electra", **config},
        tensors,
        run.tokenizer,
        network.sizes.max_position_embeddings,
        model_card(run, role),
    )


def require_wordpiece(tokenizer: TokenizerSettings, others: str) -> None:
    """Raises a `UserError` for a SentencePiece model, of which ELECTRA has none there; `others` are formats that do."""
    if tokenizer.vocabulary.is_sentencepiece:
        raise UserError(
            f"the run's tokenizer is a SentencePiece model; ELECTRA's in transformers is WordPiece: choose {others}"
        )


def their_layout(name: str, value: np.ndarray) -> np.ndarray:
    """Returns a weight of a `Network` as PyTorch has it: kernels are [outputs, inputs]."""
    return np.ascontiguousarray(value.T if name.endswith("/kernel") else value)


def write_folder(
    directory: str,
    config: Mapping[str, Any],
    tensors: dict[str, np.ndarray],
    tokenizer: TokenizerSettings,
    max_length: int,
    card: str,
) -> None:
    """Writes `config.json`, `model.safetensors`, the tokenizer's files and `README.md`.

    Args:
      directory: an empty directory.
      config: the arguments of transformers' `ElectraConfig`, `architectures` and `model_type`.
      tensors: by their names there.
      tokenizer: how text becomes tokens; WordPiece.
      max_length: tokens that the tokenizer cuts text to.
      card: the model card.

    Raises:
      OSError: it cannot be written.
    """
    contents = {
        huggingface.CONFIG_FILE: json.dumps(config, indent=1) + "\n",
        "README.md": card,
        **huggingface.tokenizer_files(tokenizer.vocabulary.tokens, tokenizer.lower_case, max_length),
    }
    for name, content in contents.items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as stream:
            stream.write(content)
    _write_tensors(tensors, os.path.join(directory, "model.safetensors"))


def _write_tensors(tensors: dict[str, np.ndarray], file: str) -> None:
    import safetensors  # noqa: PLC0415  (an extra; only this format needs it)
    from safetensors.numpy import save_file  # noqa: PLC0415

    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from error


def load_folder(directory: str, automatic: str) -> tuple[Any, Any]:
    """Returns tokenizer and model of a folder, as transformers' class of the name `automatic` loads it."""
    import transformers  # noqa: PLC0415  (an extra; only this format needs it)

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return tokenizer, getattr(transformers, automatic).from_pretrained(directory).eval()


def deviation(run: Run, role: str, directory: str, texts: list[str]) -> float:
    """Loads a folder with transformers and returns the largest difference of hidden states and logits from ours.

    Args:
      run: the run that was written there.
      role: 'discriminator' or 'generator'.
      directory: the folder.
      texts: what to compare on.

    Raises:
      UserError: tokens differ.
    """
    import torch  # noqa: PLC0415  (an extra; only this format needs it)

    tokenizer, model = load_folder(
        directory, "AutoModelForPreTraining" if role == "discriminator" else "AutoModelForMaskedLM"
    )
    length = min(128, run.config.model.max_position_embeddings)
    inputs = encode_texts(run.tokenizer, texts, length)
    theirs = tokenizer(texts, truncation=True, max_length=length, padding=True)
    for text, ids, ours in zip(texts, theirs["input_ids"], inputs["input_word_ids"].tolist(), strict=True):
        if ids != ours:
            raise UserError(f"the exported tokenizer makes other tokens of {text[:40]!r}: nothing was exported")
    with torch.no_grad():
        found = model(
            torch.tensor(inputs["input_word_ids"], dtype=torch.long),
            attention_mask=torch.tensor(inputs["input_mask"], dtype=torch.long),
            token_type_ids=torch.tensor(inputs["input_type_ids"], dtype=torch.long),
            output_hidden_states=True,
        )
    states = hidden_states(run.model, role, inputs)
    logits = (discriminator_logits if role == "discriminator" else generator_logits)(run.model, states[-1])
    pairs = [(found.logits, logits), *zip(found.hidden_states[1:], states, strict=True)]
    real: np.ndarray = inputs["input_mask"].astype(bool)
    return max(float(np.abs(theirs.numpy() - ours.numpy())[real].max()) for theirs, ours in pairs)
