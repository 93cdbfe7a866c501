"""Predictions of a fine-tuned model for a file, which is read and checked before TensorFlow is imported."""

import dataclasses

import ml_collections
import numpy as np

from electra_cli import files
from electra_cli.config.finetuning import FINETUNING
from electra_cli.finetuning.base import prediction_lines
from electra_cli.finetuning.examples import LABELS_FILE, Example, LabelMap, are_labelled
from electra_cli.finetuning.scores import Scores
from electra_cli.finetuning.tables import Columns
from electra_cli.finetuning.tasks import build_task, check_pairs, load_file
from electra_cli.finetuning.workdir import choose_seed, read_record, require_seed
from electra_cli.loggers.logger import Logger
from electra_cli.workdir.run_files import write_json_lines


@dataclasses.dataclass(frozen=True)
class PredictionRequest:
    """Checked examples of a file, and the fine-tuning in `workdir` that predicts them."""

    workdir: str
    seed: int
    config: ml_collections.ConfigDict
    examples: tuple[Example, ...]
    output: str


def open_prediction(
    workdir: str,
    path: str,
    output: str,
    seed: int | None,
    logger: Logger,
    *,
    columns: Columns | None = None,
    file_format: str = "",
) -> PredictionRequest:
    """Reads and checks a file to predict for, labelled or not, and checks that `output` can be written.

    `seed` None: the best. `columns` and `file_format` are as of `tasks.load_file`. Raises a `UserError` where there is
    no such fine-tuning in `workdir`, the file is broken, or the output cannot be written.
    """
    files.check_output("--output", output, rb'\{"id": [^\n]*, "prediction": ')
    record = read_record(workdir)
    config = FINETUNING.restore(record.config, workdir)
    seed = choose_seed(workdir, logger.notice) if seed is None else seed
    require_seed(workdir, seed)
    task = build_task(config)
    task.labels = LabelMap.load(files.join(workdir, LABELS_FILE))
    with logger.status(f"Reading {path}"):
        contents = load_file(path, config, task, columns, file_format)
    check_pairs(path, contents.examples, record.has_pairs, f"{workdir} was trained on", f"--predict={path}:")
    for notice in ([f"{path}: {contents.columns}"] if contents.columns else []) + [*contents.notices]:
        logger.notice(notice)
    return PredictionRequest(workdir, seed, config, contents.examples, output)


def run_prediction(request: PredictionRequest, logger: Logger) -> None:
    """Writes predictions, and scores them if the examples are labelled.

    They are JSON lines of `id`, `prediction`, the label where there is one and, of classes, `probability`, that of the
    predicted one. Raises a `UserError` where the model is damaged or the output cannot be written.
    """
    # Import time: seconds.
    from scipy.special import softmax  # noqa: PLC0415

    from electra_cli.finetuning.model import load_fine_tuned  # noqa: PLC0415
    from electra_cli.finetuning.trainer import build_finetuning_runtime, compile_model, compute_logits  # noqa: PLC0415

    with logger.status("Opening the model"):
        runtime = build_finetuning_runtime(request.config)
        with runtime.strategy.scope():
            model = load_fine_tuned(request.workdir, request.seed, logger.notice)
    task, examples, encoder = model.task, request.examples, model.tokenizer.build()
    length = task.padded_length(task.lengths(examples, encoder), model.max_length)
    encoded = task.encode(examples, encoder, model.tokenizer.vocabulary, length)
    for notice in encoded.notices:
        logger.notice(notice)
    with logger.status(f"Predicting {len(examples):,} examples"):
        compiled, batch_size = compile_model(model.model, runtime), request.config.train.global_batch_size
        logits = compute_logits(compiled, encoded, runtime, batch_size)
    predictions = task.predict(logits, encoded, examples)
    lines = prediction_lines(examples, predictions)
    if task.kind == "classification":
        probabilities = softmax(logits.astype(np.float64), axis=1)
        for line, probability in zip(lines, probabilities.max(axis=1), strict=True):
            line["probability"] = round(float(probability), 6)
    write_json_lines(request.output, lines)
    scores = task.score(predictions, examples) if are_labelled(examples) else Scores({})
    for name, reason in scores.reasons.items():
        logger.warning(f"{name} has no meaning here and counts as 0: {reason}")
    text = f"{len(lines):,} predictions: {request.output}"
    if scores:
        text += "\n" + "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
    logger.result("predictions", {"num_examples": len(lines), "path": request.output, **scores}, text)
