"""Fine-tuning: config, labelled files and an encoder in; models, predictions and scores out."""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf

from electra_cli.config.finetuning import check, fill_in
from electra_cli.errors import UserError
from electra_cli.files import LOCK_FILE
from electra_cli.finetuning.base import Task
from electra_cli.finetuning.examples import Examples, most_frequent
from electra_cli.finetuning.model import OpenEncoder, StartingPoint
from electra_cli.finetuning.seed_run import EncodedSplit, SeedRun
from electra_cli.finetuning.tasks import Splits, read_task
from electra_cli.finetuning.trainer import Trainer, build_finetuning_runtime
from electra_cli.finetuning.workdir import SCORES_FILE, FineTuningRecord, seed_directory, write_record
from electra_cli.loggers.lines import Lines
from electra_cli.loggers.logger import Logger
from electra_cli.modeling import features
from electra_cli.training.stopping import StopRequest
from electra_cli.workdir.run_files import write_json
from electra_cli.workdir.workdir import Workdir

# Steps that are worth a warning if there are fewer.
_FEW_STEPS = 10


def finetune(
    config: ml_collections.ConfigDict,
    workdir: str,
    open_encoder: OpenEncoder,
    logger: Logger | None = None,
    *,
    data: tuple[Task, Splits] | None = None,
) -> dict[str, Any]:
    """Fine-tunes an encoder with each seed, and scores it; steps that a workdir already holds are not repeated.

    Args:
      config: a config (`config.finetuning.default_config`) with overrides.
      workdir: created when missing.
      open_encoder: opens the encoder, as `interop.starting_points.open_starting_point` does.
      logger: None: prints lines.
      data: what `tasks.read_task` returned for the config; None: it is read here.

    Returns:
      The content of scores.json: the seeds; by split, `num_examples`, the scores of each seed, of each score `median`,
      `min` and `max`, and of a classification `most_frequent_class`, the scores of always guessing that of training.

    Raises:
      UserError: config, files, encoder and workdir do not fit, or a loss is not finite.
      Interrupted: a stop was requested; everything is saved.
    """
    logger = logger or Lines()
    check(config)
    if data is None:
        with logger.status("Reading the labelled files"):
            data = read_task(config)
    task, splits = data
    with logger.status("Looking for devices"):
        runtime = build_finetuning_runtime(config)
    logger.notice(f"Devices: {runtime.description}")
    for notice in splits.notices:
        logger.notice(notice)
    start = open_encoder(config.model.network, logger)
    sizes = start.network.sizes
    filled = fill_in(config, task.kind, sizes.hidden_size)
    with logger.status("Tokenizing"):
        encoded = _encode(task, filled, splits.by_name, start, logger)
    train = encoded["train"].encoded
    record = _record(task, filled, encoded, start)
    with Workdir(workdir), StopRequest() as stop:
        runtime.check_shared("--workdir", workdir, LOCK_FILE)
        write_record(workdir, record, task.labels, start.tokenizer)
        logger.notice(f"Encoder: {start.source}: {_number(sizes.num_layers, 'layer')} of {sizes.hidden_size}.")
        with logger.status("Building the model"):
            trainer = Trainer(filled, task.kind, task.num_outputs, start, train, runtime)
        _check_steps(trainer.num_steps, filled, len(train.example_indices), logger)
        logger.notice(_describe(task, filled, splits, record.length, trainer.num_steps))
        predicted = [split for split in encoded.values() if split.name != "train"]
        seeds = filled.train.seeds
        scores = {
            seed: SeedRun(trainer, task, predicted, workdir, seeds, index, stop, logger).run()
            for index, seed in enumerate(seeds)
        }
        summary = _summarize(task, splits.train, predicted, scores, start.source)
        write_json(tf.io.gfile.join(workdir, SCORES_FILE), summary)
    logger.result("scores", summary, format_scores(summary))
    _report_next_steps(workdir, seeds, logger)
    return summary


def _report_next_steps(workdir: str, seeds: Sequence[int], logger: Logger) -> None:
    where = seed_directory(workdir, seeds[0] if len(seeds) == 1 else "*")
    flag = shlex.quote(f"--workdir={workdir}")
    logger.notice(f"Models and predictions: {where}; scores: {tf.io.gfile.join(workdir, SCORES_FILE)}.")
    logger.notice(
        f"To predict: electra-finetune {flag} --predict=FILE --output=predicted.jsonl; to export: "
        f"electra-export {flag} --format=huggingface --output_dir=DIR"
    )


def _encode(
    task: Task,
    config: ml_collections.FrozenConfigDict,
    splits: Mapping[str, Examples],
    start: StartingPoint,
    logger: Logger,
) -> dict[str, EncodedSplit]:
    encoder = start.tokenizer.build()
    asked, positions = config.data.max_seq_length, start.network.sizes.max_position_embeddings
    limit = min(asked, positions)
    if limit < task.min_length:
        raise UserError(
            f"config.data.max_seq_length={asked}, of {positions} that the encoder has: too few for any text; "
            f"{task.kind.replace('_', ' ')} takes {task.min_length} at least"
        )
    if limit < asked:
        logger.notice(f"config.data.max_seq_length={asked}, but the encoder has {limit} positions: as many.")
    # What training sees does not depend on files that are only predicted, which may be others later.
    learned = [example for name in ("train", "validation") for example in splits.get(name, ())]
    length = task.padded_length(task.lengths(learned, encoder), limit)
    encoded = {}
    for name, examples in splits.items():
        is_learned = name in ("train", "validation")
        own_length = length if is_learned else task.padded_length(task.lengths(examples, encoder), limit)
        arrays = task.encode(examples, encoder, start.tokenizer.vocabulary, own_length)
        encoded[name] = EncodedSplit(name, examples, arrays)
        for notice in arrays.notices:
            logger.notice(f"{name}: {notice}")
    has_pairs = any(split.encoded.features[features.INPUT_TYPE_IDS].any() for split in encoded.values())
    if start.network.sizes.type_vocab_size < 2 and has_pairs:
        raise UserError(f"{start.source} has one segment type only: pairs need an encoder with two")
    return encoded


def _record(
    task: Task, config: ml_collections.FrozenConfigDict, splits: Mapping[str, EncodedSplit], start: StartingPoint
) -> FineTuningRecord:
    train = splits["train"]
    return FineTuningRecord(
        config=config.to_dict(),
        kind=task.kind,
        source=start.source,
        sizes=start.network.sizes,
        initializer_range=start.initializer_range,
        length=train.encoded.features[features.INPUT_WORD_IDS].shape[1],
        has_pairs=train.examples[0].second_text is not None,
        lower_case=start.tokenizer.rules.lower_case,
        data_fingerprint=_fingerprint(start, splits, task),
    )


def _check_steps(num_steps: int, config: ml_collections.FrozenConfigDict, num_rows: int, logger: Logger) -> None:
    """Warns of a fine-tuning of few steps, and refuses one of one step, whose learning rate is 0."""
    if num_steps >= _FEW_STEPS:
        return
    batch_size, epochs = config.train.global_batch_size, config.train.num_epochs
    text = (
        f"{_number(num_rows, 'training example')} in {_number(epochs, 'epoch')} make {_number(num_steps, 'step')} of "
        f"config.train.global_batch_size={batch_size}"
    )
    remedy = "give a smaller one, or more config.train.num_epochs"
    if num_steps == 1:
        raise UserError(f"{text}, which learns nothing: {remedy}")
    logger.warning(f"{text}, which learn little: {remedy}.")


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("s" if number != 1 else "")


def _describe(task: Task, config: ml_collections.FrozenConfigDict, splits: Splits, length: int, num_steps: int) -> str:
    test = f", {len(splits.test):,} test" if splits.test else ""
    train, optimizer = config.train, config.optimizer
    make = "makes" if train.num_epochs == 1 else "make"
    return (
        f"{task.kind.replace('_', ' ').capitalize()}: {len(splits.train):,} training, {len(splits.validation):,} "
        f"validation{test} examples of up to {length} tokens; {_number(train.num_epochs, 'epoch')} {make} "
        f"{num_steps:,} steps of {train.global_batch_size}; learning rate {optimizer.learning_rate:g}, times "
        f"{optimizer.layerwise_lr_decay:g} from layer to layer."
    )


def _fingerprint(start: StartingPoint, splits: Mapping[str, EncodedSplit], task: Task) -> str:
    """Returns a hash of all that the trained weights depend on, except the config."""
    digest = hashlib.sha256(json.dumps([start.is_random, task.labels.labels]).encode())
    for name, array in sorted(start.network.weights.items()):
        digest.update(name.encode() + str(array.shape).encode())
        digest.update(b"" if start.is_random else np.ascontiguousarray(array).tobytes())
    for split in ("train", "validation"):
        if split in splits:
            arrays, targets = splits[split].encoded.features, splits[split].encoded.targets
            assert targets is not None
            for name, array in (*sorted(arrays.items()), ("targets", targets)):
                digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _summarize(
    task: Task,
    train: Examples,
    splits: Sequence[EncodedSplit],
    scores_of_seeds: Mapping[int, Mapping[str, Mapping[str, float]]],
    source: str,
) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "task": task.kind,
        "init": source,
        "primary_score": task.primary_score,
        "seeds": list(scores_of_seeds),
        "splits": {},
    }
    for split in splits:
        if not split.is_labelled:
            continue
        by_seed = {seed: scores[split.name] for seed, scores in scores_of_seeds.items()}
        columns = {name: [scores[name] for scores in by_seed.values()] for name in next(iter(by_seed.values()))}
        summary["splits"][split.name] = {
            "num_examples": len(split.examples),
            "seeds": {str(seed): dict(scores) for seed, scores in by_seed.items()},
            "median": {name: float(np.median(values)) for name, values in columns.items()},
            "min": {name: min(values) for name, values in columns.items()},
            "max": {name: max(values) for name, values in columns.items()},
        }
        if task.kind == "classification":
            guess = most_frequent(str(example.label) for example in train)
            guessed = task.score([guess] * len(split.examples), split.examples)
            summary["splits"][split.name]["most_frequent_class"] = dict(guessed)
    return summary


def format_scores(summary: Mapping[str, Any]) -> str:
    """Returns the scores as a table."""
    lines: list[str] = []
    is_marked = is_guessed = False
    for name, split in summary["splits"].items():
        seeds = list(split["seeds"])
        columns = ["median", "min", "max"] if len(seeds) > 1 else []
        guessed = split.get("most_frequent_class")
        is_guessed |= bool(guessed)
        head = [*columns, "guess"] if guessed else columns
        title = f"{name} ({split['num_examples']:,} examples)"
        lines.append(f"{title:<34}" + "".join(f"{name:>9}" for name in [*head, *(f"seed {seed}" for seed in seeds)]))
        for score in split["median"]:
            rows = [*(split[column] for column in columns), *([guessed] if guessed else []), *split["seeds"].values()]
            mark = " *" if score == summary["primary_score"] and len(split["median"]) > 1 else ""
            is_marked |= bool(mark)
            lines.append(f"  {score + mark:<32}" + "".join(f"{row[score]:>9.4f}" for row in rows))
    if not lines:
        return "No labelled examples were given to score."
    legend = ["*: the score that models are compared by"] * is_marked
    legend += ["guess: always the most frequent class of the training data"] * is_guessed
    return "\n".join([*lines, "; ".join(legend)] if legend else lines)
