"""From a fine-tuned model to a directory in a foreign format, checked before it appears."""

from electra_cli.errors import UserError
from electra_cli.finetuning import huggingface_export, saved_model
from electra_cli.finetuning.examples import Example
from electra_cli.finetuning.model import SENTENCE_KINDS
from electra_cli.finetuning.trained import FineTunedModel
from electra_cli.finetuning.workdir import read_record
from electra_cli.interop.exporting import check_installed, deliver, sample_texts


def check_format(workdir: str, format_name: str) -> None:
    """Checks that a fine-tuning can be exported in a format, before time is spent.

    Raises:
      UserError: it cannot, or something is not installed.
    """
    kind = read_record(workdir).kind
    if format_name not in ("huggingface", "saved_model"):
        raise UserError(
            f"--format={format_name} holds encoders without a task: for a fine-tuned model give huggingface, or "
            f"saved_model"
        )
    if format_name == "saved_model" and kind not in SENTENCE_KINDS:
        raise UserError(
            f"--format=saved_model is for classification and regression: of {kind.replace('_', ' ')} give huggingface"
        )
    check_installed(format_name)


def export(trained: FineTunedModel, format_name: str, output_dir: str, *, overwrite: bool) -> float:
    """Writes a fine-tuned model to a new directory.

    Args:
      trained: the model.
      format_name: 'huggingface' or 'saved_model', which `check_format` let pass.
      output_dir: the directory to be made; local.
      overwrite: whether one that is there and not empty may be replaced.

    Returns:
      The largest difference of logits (saved_model: of probabilities or numbers) from the model's own on sample text.

    Raises:
      UserError: the directory cannot be written, or what was written computes something else. Nothing is left then.
    """
    writer = huggingface_export if format_name == "huggingface" else saved_model
    examples = sample_examples(trained)

    def write(directory: str) -> float:
        writer.write(trained, directory)
        return writer.deviation(trained, directory, examples)

    return deliver(output_dir, write, overwrite=overwrite)


def sample_examples(trained: FineTunedModel) -> list[Example]:
    """Returns unlabelled examples of the task's kind to compare on."""
    # In the text of a task [MASK] is no token.
    texts = [text.replace("[MASK] ", "") for text in sample_texts(trained.tokenizer.vocabulary)]
    kind = trained.task.kind
    seconds: list[str | None] = [None] * len(texts)
    if kind == "question_answering":
        texts, seconds = [texts[0]] * len(texts), list(texts)
    elif trained.record.has_pairs:
        seconds = [*texts[1:], texts[0]]
    return [
        Example(
            where=f"sample {index}",
            id=str(index),
            text=text,
            second_text=second,
            words=tuple(text.split()) if kind == "tagging" else None,
        )
        for index, (text, second) in enumerate(zip(texts, seconds, strict=True))
    ]
