"""A network as a folder of Hugging Face transformers, with tokenizer and model card, compared with ours."""

import json
import os
from typing import Any

import numpy as np

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
    if run.tokenizer.sentencepiece_file:
        raise UserError(
            "the run's tokenizer is a SentencePiece model; ELECTRA's in transformers is WordPiece: choose "
            "--format=tfm or google_tf1, which hold no tokenizer"
        )
    network = run.network(role)
    vocabulary = run.tokenizer.vocabulary
    config = huggingface.config_of(network, run.settings, vocabulary.pad_id)
    contents = {
        huggingface.CONFIG_FILE: json.dumps(
            {"architectures": [_ARCHITECTURES[role]], "model_type": "electra", **config}, indent=1
        )
        + "\n",
        "README.md": model_card(run, role),
        **huggingface.tokenizer_files(
            vocabulary.tokens, run.tokenizer.lower_case, network.sizes.max_position_embeddings
        ),
    }
    for name, content in contents.items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as stream:
            stream.write(content)
    _write_tensors(
        {
            huggingface.their_name(name, role): np.ascontiguousarray(value.T if name.endswith("/kernel") else value)
            for name, value in network.weights.items()
        },
        os.path.join(directory, "model.safetensors"),
    )


def _write_tensors(tensors: dict[str, np.ndarray], file: str) -> None:
    import safetensors  # noqa: PLC0415  (an extra; only this format needs it)
    from safetensors.numpy import save_file  # noqa: PLC0415

    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from error


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
    import transformers  # noqa: PLC0415

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    length = min(128, run.config.model.max_position_embeddings)
    inputs = encode_texts(run.tokenizer, texts, length)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    theirs = tokenizer(texts, truncation=True, max_length=length, padding=True)
    for text, ids, ours in zip(texts, theirs["input_ids"], inputs["input_word_ids"].tolist(), strict=True):
        if ids != ours:
            raise UserError(f"the exported tokenizer makes other tokens of {text[:40]!r}: nothing was exported")
    automatic: Any = transformers.AutoModelForPreTraining if role == "discriminator" else (
        transformers.AutoModelForMaskedLM
    )  # fmt: skip
    model = automatic.from_pretrained(directory).eval()
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
