"""Predictions of a fine-tuned model for a file."""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from electra_cli import files
from electra_cli.errors import UserError
from electra_cli.finetuning.examples import Example, are_labelled
from electra_cli.finetuning.finetune import build_finetuning_runtime, padded_length
from electra_cli.finetuning.scores import Scores
from electra_cli.finetuning.seed_run import prediction_lines
from electra_cli.finetuning.tables import Columns
from electra_cli.finetuning.tasks import load_file
from electra_cli.finetuning.trained import Trained, load_trained, read_config
from electra_cli.finetuning.trainer import compute_logits
from electra_cli.finetuning.workdir import read_record, write_json_lines
from electra_cli.reporter import Lines, Reporter


def predict(
    workdir: str,
    path: str,
    output: str,
    seed: int | None = None,
    reporter: Reporter | None = None,
    *,
    columns: Columns | None = None,
    file_format: str = "",
) -> None:
    """Predicts for the examples of a file, and scores them if they are labelled.

    Args:
      workdir: of electra-finetune.
      path: the file; labels may be missing.
      output: file for the predictions, JSON lines of `id`, `prediction`, the label where there is one and, of classes,
        `probability`, that of the predicted one.
      seed: which fine-tuning; None: the best.
      reporter: is told how it goes; None: prints lines.
      columns, file_format: of the file; see `tasks.load_file`.

    Raises:
      UserError: there is no such fine-tuning, the file is broken, or the output cannot be written.
    """
    reporter = reporter or Lines()
    _check_output(output, path)
    config = read_config(read_record(workdir), workdir)
    with reporter.status("Opening the model"):
        runtime = build_finetuning_runtime(config)
        with runtime.strategy.scope():
            trained = load_trained(workdir, seed, reporter.notice)
    task = trained.task
    contents = load_file(path, config, task, columns, file_format)
    if contents.columns:
        reporter.notice(f"{path}: {contents.columns}")
    for notice in contents.notices:
        reporter.notice(notice)
    _check_texts(contents.examples, trained, path)
    encoder = trained.tokenizer.build()
    length = padded_length(task, task.lengths(contents.examples, encoder), trained.max_length)
    encoded = task.encode(contents.examples, encoder, trained.tokenizer.vocabulary, length)
    for notice in encoded.notices:
        reporter.notice(notice)
    compute = tf.function(lambda inputs: trained.model(inputs, training=False), jit_compile=runtime.jit_compile)
    with reporter.status(f"Predicting {len(contents.examples):,} examples"):
        logits = compute_logits(compute, encoded, runtime, config.train.global_batch_size)
    predictions = task.predict(logits, encoded, contents.examples)
    lines = prediction_lines(contents.examples, predictions)
    if task.kind == "classification":
        for line, probability in zip(lines, _softmax(logits).max(axis=1), strict=True):
            line["probability"] = round(float(probability), 6)
    write_json_lines(output, lines)
    scores = task.score(predictions, contents.examples) if are_labelled(contents.examples) else Scores({})
    for name, reason in scores.reasons.items():
        reporter.warning(f"{name} has no meaning here and counts as 0: {reason}")
    shown = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
    text = f"{len(lines):,} predictions: {output}" + (f"\n{shown}" if shown else "")
    reporter.result("predictions", {"num_examples": len(lines), "path": output, **scores}, text)


def _check_output(output: str, path: str) -> None:
    """Raises a `UserError` where predictions cannot be written to `output`, or would take the place of the examples."""
    files.check_output("--output", output)
    if os.path.exists(output) and os.path.exists(path) and os.path.samefile(output, path):
        raise UserError(f"--output={output} is the file to predict for: give another")


def _check_texts(examples: Sequence[Example], trained: Trained, path: str) -> None:
    """Raises a `UserError` where the file has pairs and the model was made for one text, or the reverse."""
    has_pairs = examples[0].second_text is not None
    if has_pairs == trained.record.has_pairs:
        return
    here, there = ("pairs", "one text an example") if has_pairs else ("one text an example", "pairs")
    names = "text=COLUMN" if has_pairs else "text=COLUMN,second_text=COLUMN"
    raise UserError(
        f"{path} was read as {here}, and {trained.workdir} was trained on {there}: name what to read, "
        f"--predict={path}:{names}"
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
