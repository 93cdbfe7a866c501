"""The directory of a fine-tuning: its record, and one directory a seed.

config.json  labels.json  vocab.txt (and a tokenizer's model)  scores.json
seed-0/checkpoints/  seed-0/metrics.jsonl  seed-0/scores.json  seed-0/predictions-validation.jsonl

TensorFlow is not imported here: mistakes in these files are reported before it is.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from electra_cli import files
from electra_cli.config.finetuning import FINETUNING
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.data.tfrecords import VOCAB_FILE
from electra_cli.data.tokenization import TokenizerSettings, saved_tokenizer
from electra_cli.errors import UserError
from electra_cli.finetuning.examples import LABELS_FILE, LabelMap
from electra_cli.objectives.costs import EncoderSizes
from electra_cli.workdir.run_files import CONFIG_FILE, write_json

SCORES_FILE = "scores.json"
_SEED_PREFIX = "seed-"


@dataclasses.dataclass(frozen=True)
class FineTuningRecord:
    """The content of a fine-tuning's `config.json`.

    `source` describes the encoder; `length` are tokens that training examples are padded to; `data_fingerprint` is of
    the examples, as arrays, and the weights it started from; `initializer_range` a standard deviation.
    """

    config: dict[str, Any]
    kind: str
    source: str
    sizes: EncoderSizes
    initializer_range: float
    length: int
    has_pairs: bool
    lower_case: bool
    data_fingerprint: str


# The content of a seed's `scores.json`: by split, `examples` (a fingerprint), `num_examples`, and `scores`, None where
# it is not labelled.
SeedScores = dict[str, dict[str, Any]]


_TYPES = {"int": "a whole number", "float": "a number", "str": "text"}


def read_record(workdir: str) -> FineTuningRecord:
    """Reads `config.json` of a fine-tuning."""
    file = files.join(workdir, CONFIG_FILE)
    if files.size(file) is None:
        remedy = "give the workdir of electra-finetune"
        files.check_directory("--workdir", workdir, remedy)
        raise UserError(f"--workdir={workdir} holds no {CONFIG_FILE}: {remedy}")
    try:
        content = files.parse_json(files.read_bytes(file))
        if "finetuning" not in content:
            raise UserError(f"{file} is not of electra-finetune: give a workdir that it wrote")
        config, sizes = content.pop("finetuning"), EncoderSizes(**content.pop("sizes"))
        for name, size in dataclasses.asdict(sizes).items():
            field = PRETRAINING.fields[f"model.{name}"]
            if type(size).__name__ != field.type_name:
                raise ValueError(f"{name}={size!r}: must be {_TYPES[field.type_name]}")
            mistake = field.find_mistake(size)
            if mistake is not None:
                raise ValueError(f"{name}={size!r}: {mistake}")
        if not 0 < content["length"] <= sizes.max_position_embeddings:
            raise ValueError(f"length={content['length']}: must be from 1 to {sizes.max_position_embeddings}")
        return FineTuningRecord(config=config, sizes=sizes, **content)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}): choose another --workdir") from error


def holds_finetuning(workdir: str) -> bool:
    """Whether a directory is the workdir of a fine-tuning, complete or damaged, and not of pre-training."""
    file = files.join(workdir, CONFIG_FILE)
    if files.size(file) is None:
        return False
    try:
        content = files.parse_json(files.read_bytes(file))
    except ValueError:
        return False  # whoever reads it as the other kind reports that it is damaged
    return isinstance(content, dict) and "finetuning" in content


def write_record(workdir: str, record: FineTuningRecord, labels: LabelMap, tokenizer: TokenizerSettings) -> None:
    """Writes the record of a fine-tuning, with labels and tokenizer.

    Raises a `UserError` where the workdir holds another one, a `ResumableError` where it cannot be written.
    """
    file = files.join(workdir, CONFIG_FILE)
    if files.size(file) is not None:
        old = read_record(workdir)
        changed, _ = FINETUNING.differences(old.config, record.config)
        if not changed and old.data_fingerprint != record.data_fingerprint:
            changed.append(f"its examples, or the weights it starts from ({old.source}), are others")
        if changed:
            raise UserError(
                f"--workdir={workdir} holds another fine-tuning: {'; '.join(changed)}; give the old values, or another "
                f"--workdir"
            )
    with files.writing("vocabulary and labels", to=workdir):
        tokenizer.save(workdir)
        labels.save(files.join(workdir, LABELS_FILE))
    content = dataclasses.asdict(record)
    write_json(file, {"finetuning": content.pop("config"), **content}, sort_keys=True)


def read_tokenizer(workdir: str, record: FineTuningRecord) -> TokenizerSettings:
    """Returns the tokenizer of a fine-tuning."""
    tokenizer = saved_tokenizer(workdir, record.lower_case)
    if tokenizer is None:
        raise UserError(f"{workdir} holds no {VOCAB_FILE}: put that of its encoder there")
    return tokenizer


def read_seed_scores(directory: str) -> SeedScores | None:
    """Reads `scores.json` of a seed's directory; None: the seed is not done."""
    file = files.join(directory, SCORES_FILE)
    if files.size(file) is None:
        return None
    try:
        scores: SeedScores = files.parse_json(files.read_bytes(file))
        for entry in scores.values():
            if entry["scores"] is not None:
                dict(entry["scores"])
            entry["examples"], entry["num_examples"]
        return scores
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error}): remove it, then the same command writes it again") from error


def seed_directory(workdir: str, seed: int | str) -> str:
    """Returns the directory of a seed; '*': the pattern of all."""
    return files.join(workdir, f"{_SEED_PREFIX}{seed}")


def choose_seed(workdir: str, notice: Callable[[str], None]) -> int:
    """Returns the seed with the best validation score, or test score where there is no validation; else the first."""
    file = files.join(workdir, SCORES_FILE)
    if files.size(file) is None:
        raise UserError(f"--workdir={workdir} holds no {SCORES_FILE}: its fine-tuning is not done")
    try:
        summary = files.parse_json(files.read_bytes(file))
        splits, primary = summary["splits"], summary["primary_score"]
        of_seed = splits.get("validation", splits.get("test", {})).get("seeds", {})
        best = max(of_seed, key=lambda seed: of_seed[seed][primary]) if of_seed else summary["seeds"][0]
        if len(of_seed) > 1:
            name = "validation" if "validation" in splits else "test"
            notice(f"Seed {best}, the best of {len(of_seed)} by {name} {primary}.")
        return int(best)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{file} is damaged ({error}): remove it and run the fine-tuning's command again") from error


def require_seed(workdir: str, seed: int) -> SeedScores:
    """Returns the scores of a seed; raises a `UserError` where its fine-tuning is not done."""
    scores = read_seed_scores(seed_directory(workdir, seed))
    if scores is None:
        directories = (name for name in files.list_directory(workdir) if name.startswith(_SEED_PREFIX))
        scored = (name for name in directories if files.size(files.join(workdir, f"{name}/{SCORES_FILE}")) is not None)
        done = sorted((name.removeprefix(_SEED_PREFIX) for name in scored), key=lambda number: (len(number), number))
        remedy = f"give one of {', '.join(done)}, or none for the best" if done else "run its fine-tuning to its end"
        raise UserError(f"--workdir={workdir} holds no fine-tuning with seed {seed} that is done: {remedy}")
    return scores
