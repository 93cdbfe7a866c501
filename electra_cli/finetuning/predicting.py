"""Predictions of a fine-tuned model for a file."""

import numpy as np
import tensorflow as tf

from electra_cli.finetuning.examples import are_labelled
from electra_cli.finetuning.finetune import build_finetuning_runtime, padded_length
from electra_cli.finetuning.prediction_input import AskedPrediction, open_prediction
from electra_cli.finetuning.scores import Scores
from electra_cli.finetuning.seed_run import prediction_lines
from electra_cli.finetuning.tables import Columns
from electra_cli.finetuning.trained import load_fine_tuned
from electra_cli.finetuning.trainer import compute_logits
from electra_cli.loggers.lines import Lines
from electra_cli.loggers.logger import Logger
from electra_cli.workdir.run_files import write_json_lines


def predict(
    workdir: str,
    path: str,
    output: str,
    seed: int | None = None,
    logger: Logger | None = None,
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
      logger: receives progress reports; None: prints lines.
      columns, file_format: of the file; see `tasks.load_file`.

    Raises:
      UserError: there is no such fine-tuning, the file is broken, or the output cannot be written.
    """
    logger = logger or Lines()
    asked = open_prediction(workdir, path, output, seed, logger, columns=columns, file_format=file_format)
    predict_asked(asked, logger)


def predict_asked(asked: AskedPrediction, logger: Logger) -> None:
    """Predicts for examples that `open_prediction` read, and scores them if they are labelled.

    Raises:
      UserError: the model is damaged, or the output cannot be written.
    """
    with logger.status("Opening the model"):
        runtime = build_finetuning_runtime(asked.config)
        with runtime.strategy.scope():
            trained = load_fine_tuned(asked.workdir, asked.seed, logger.notice)
    task, examples = trained.task, asked.examples
    encoder = trained.tokenizer.build()
    length = padded_length(task, task.lengths(examples, encoder), trained.max_length)
    encoded = task.encode(examples, encoder, trained.tokenizer.vocabulary, length)
    for notice in encoded.notices:
        logger.notice(notice)
    compute = tf.function(lambda inputs: trained.model(inputs, training=False), jit_compile=runtime.jit_compile)
    with logger.status(f"Predicting {len(examples):,} examples"):
        logits = compute_logits(compute, encoded, runtime, asked.config.train.global_batch_size)
    predictions = task.predict(logits, encoded, examples)
    lines = prediction_lines(examples, predictions)
    if task.kind == "classification":
        for line, probability in zip(lines, _softmax(logits).max(axis=1), strict=True):
            line["probability"] = round(float(probability), 6)
    write_json_lines(asked.output, lines)
    scores = task.score(predictions, examples) if are_labelled(examples) else Scores({})
    for name, reason in scores.reasons.items():
        logger.warning(f"{name} has no meaning here and counts as 0: {reason}")
    shown = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
    text = f"{len(lines):,} predictions: {asked.output}" + (f"\n{shown}" if shown else "")
    logger.result("predictions", {"num_examples": len(lines), "path": asked.output, **scores}, text)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
