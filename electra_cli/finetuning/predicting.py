"""Predictions of a fine-tuned model for a file."""

import os

import numpy as np
import tensorflow as tf

from electra_cli import files
from electra_cli.errors import UserError
from electra_cli.finetuning.examples import are_labelled
from electra_cli.finetuning.finetune import build_finetuning_runtime, padded_length
from electra_cli.finetuning.seed_run import prediction_lines
from electra_cli.finetuning.tasks import load_file
from electra_cli.finetuning.trained import load_trained, read_config
from electra_cli.finetuning.trainer import compute_logits
from electra_cli.finetuning.workdir import read_record, write_json_lines
from electra_cli.reporter import Lines, Reporter


def predict(workdir: str, path: str, output: str, seed: int | None = None, reporter: Reporter | None = None) -> None:
    """Predicts for the examples of a file, and scores them if they are labelled.

    Args:
      workdir: of electra-finetune.
      path: the file, of the columns that the fine-tuning's had; labels may be missing.
      output: file for the predictions, JSON lines of `id`, `prediction`, the label where there is one and, of classes,
        `probability`, that of the predicted one.
      seed: which fine-tuning; None: the best.
      reporter: is told how it goes; None: prints lines.

    Raises:
      UserError: there is no such fine-tuning, the file is broken, or the output cannot be written.
    """
    reporter = reporter or Lines()
    directory = os.path.dirname(output)
    if directory and not files.is_remote(output) and not os.path.isdir(directory):
        raise UserError(f"--output={output}: there is no directory {directory}")
    config = read_config(read_record(workdir), workdir)
    with reporter.status("Opening the model"):
        runtime = build_finetuning_runtime(config)
        with runtime.strategy.scope():
            trained = load_trained(workdir, seed, reporter.notice)
    task = trained.task
    contents = load_file(path, config, task)
    for notice in contents.notices:
        reporter.notice(notice)
    encoder = trained.tokenizer.build()
    length = padded_length(task.lengths(contents.examples, encoder), trained.max_length)
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
    scores = task.score(predictions, contents.examples) if are_labelled(contents.examples) else {}
    shown = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
    text = f"{len(lines):,} predictions: {output}" + (f"\n{shown}" if shown else "")
    reporter.result("predictions", {"num_examples": len(lines), "path": output, **scores}, text)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
