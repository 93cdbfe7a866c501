"""From a run or a fine-tuned model to a directory in the format of another library, checked before it appears."""

import os
import random
from collections.abc import Callable

from electra_cli.data.vocabulary import BYTE_WORD_BEGIN, CONTROL_TOKENS, Vocabulary
from electra_cli.errors import UserError
from electra_cli.finetuning.examples import Example
from electra_cli.finetuning.model import SENTENCE_KINDS, FineTunedModel
from electra_cli.interop import google_tf1, huggingface_export, saved_model, tfm
from electra_cli.interop.delivery import new_directory
from electra_cli.interop.runs import LoadedRun

# `largest_difference` of hidden states, logits or probabilities that another library's float32 may make.
TOLERANCE = 1e-4
_SAMPLE_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "In 1863, President Lincoln spoke for two minutes; it wasn't long, but it was enough!",
    "Das Café in São Paulo öffnet um 8:30 Uhr - für 5€.",
    "東京 is a city of [MASK] people, и Москва тоже.",
)


def check_format(format_name: str, kind: str | None = None) -> None:
    """Raises a `UserError` where a format does not hold fine-tuned models of a kind, or something is not installed."""
    if kind is not None and format_name not in ("huggingface", "saved_model"):
        raise UserError(
            f"--format={format_name} holds encoders without a task: for a fine-tuned model give huggingface"
        )
    if kind is not None and format_name == "saved_model" and kind not in SENTENCE_KINDS:
        raise UserError(
            f"--format=saved_model is for classification and regression: of {kind.replace('_', ' ')} give huggingface"
        )
    if format_name == "huggingface":
        huggingface_export.check_installed()


def _check_tokenizer(format_name: str, vocabulary: Vocabulary) -> None:
    if format_name == "saved_model" and vocabulary.word_begin == BYTE_WORD_BEGIN:
        raise UserError(
            "--format=saved_model takes text, and TensorFlow has no byte-level BPE to make tokens of it: give "
            "huggingface, or in Python use electra_cli.api"
        )


def export_run(
    run: LoadedRun,
    format_name: str,
    network: str,
    output_dir: str,
    *,
    overwrite: bool,
    notice: Callable[[str], None] = print,
) -> float:
    """Writes networks of a run to a new directory.

    Args:
      format_name: 'huggingface', 'saved_model', 'tfm' or 'google_tf1'.
      network: 'discriminator', 'generator' or 'both', of which huggingface and tfm write a directory each.

    Returns:
      The largest difference of hidden states and logits from the run's own on sample text.

    Raises:
      UserError: the run has no such network, something is not installed, the directory cannot be written, or what was
        written computes something else. Nothing is left then.
    """
    roles = ["discriminator", "generator"] if network == "both" else [network]
    for role in roles:
        if role not in run.roles:
            raise UserError(f"--network={network}: the run {run.workdir} has no {role}; give --network={run.roles[0]}")
    check_format(format_name)
    if run.config.model.architecture != "electra" and format_name in ("tfm", "google_tf1"):
        raise UserError(
            f"--format={format_name} has no network of config.model.architecture={run.config.model.architecture}: give "
            f"huggingface"
        )
    _check_tokenizer(format_name, run.tokenizer.vocabulary)
    texts = sample_texts(run.tokenizer.vocabulary)

    def write(directory: str) -> float:
        if format_name == "saved_model":
            saved_model.write(run, roles, directory)
            return saved_model.compare(run, roles, directory, texts)
        if format_name == "google_tf1":
            return google_tf1.write_run(run, roles, directory)
        differences = []
        writer = huggingface_export if format_name == "huggingface" else tfm
        for role in roles:
            below = directory if len(roles) == 1 else os.path.join(directory, role)
            os.makedirs(below, exist_ok=True)
            writer.write(run, role, below)
            differences.append(writer.compare(run, role, below, texts))
            if writer is tfm:
                tanh = tfm.compare(run, role, below, texts, exact=False)
                notice(
                    f"tf-models-official computes GELU in its tanh form: before fine-tuning, the {role}'s outputs "
                    f"there differ by up to {tanh:.1e}."
                )
        return max(differences)

    return _deliver(output_dir, write, overwrite=overwrite)


def export_fine_tuned(model: FineTunedModel, format_name: str, output_dir: str, *, overwrite: bool) -> float:
    """Writes a fine-tuned model to a new directory in a format that `check_format` allows.

    Returns:
      The largest difference of logits (saved_model: of probabilities or numbers) from the model's own on sample text.

    Raises:
      UserError: the directory cannot be written, or what was written computes something else. Nothing is left then.
    """
    check_format(format_name, model.task.kind)
    _check_tokenizer(format_name, model.tokenizer.vocabulary)
    writer = huggingface_export if format_name == "huggingface" else saved_model
    examples = _sample_examples(model)

    def write(directory: str) -> float:
        writer.write_fine_tuned(model, directory)
        return writer.compare_fine_tuned(model, directory, examples)

    return _deliver(output_dir, write, overwrite=overwrite)


def _deliver(output_dir: str, write: Callable[[str], float], *, overwrite: bool) -> float:
    """Creates a directory with what `write` writes to it, if the difference that `write` returns is small enough."""
    with new_directory(output_dir, overwrite=overwrite) as directory:
        difference = write(directory)
        if not difference <= TOLERANCE:
            raise UserError(
                f"what was written differs from the checkpoint by {difference:.1e}, more than {TOLERANCE:.0e}: nothing "
                f"was exported"
            )
    return difference


def sample_texts(vocabulary: Vocabulary) -> list[str]:
    """Returns texts to compare on: four sentences, and words of the vocabulary in a fixed random order."""
    pairs = zip(vocabulary.tokens, vocabulary.texts, strict=True)
    words = [text for token, text in pairs if token not in CONTROL_TOKENS]
    rng = random.Random(0)
    return [*_SAMPLE_TEXTS, *(" ".join(rng.choices(words, k=length)) for length in (5, 20, 80))]


def _sample_examples(model: FineTunedModel) -> list[Example]:
    """Returns unlabelled examples of the task's kind to compare on."""
    # In the text of a task [MASK] is no token.
    texts = [text.replace("[MASK] ", "") for text in sample_texts(model.tokenizer.vocabulary)]
    kind = model.task.kind
    seconds: list[str | None] = [None] * len(texts)
    if kind == "question_answering":
        texts, seconds = [texts[0]] * len(texts), list(texts)
    elif model.record.has_pairs:
        seconds = [*texts[1:], texts[0]]
    examples = []
    for index, (text, second) in enumerate(zip(texts, seconds, strict=True)):
        words = tuple(text.split()) if kind == "tagging" else None
        examples.append(Example(f"sample {index}", str(index), text, second_text=second, words=words))
    return examples
