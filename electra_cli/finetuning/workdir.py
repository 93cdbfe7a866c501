"""The directory of a fine-tuning: what it was made of, and one directory a seed.

config.json  labels.json  vocab.txt (and a SentencePiece model)  scores.json
seed-0/checkpoints/  seed-0/metrics.jsonl  seed-0/scores.json  seed-0/predictions-validation.jsonl
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import ml_collections
import tensorflow as tf

from electra_cli.data.tfrecords import VOCAB_FILE
from electra_cli.data.tokenizer_settings import TokenizerSettings, saved_tokenizer
from electra_cli.errors import ResumableError, UserError
from electra_cli.files import write_atomically
from electra_cli.finetuning.config import differences
from electra_cli.finetuning.labels import LABELS_FILE, LabelMap
from electra_cli.finetuning.starting_point import StartingPoint
from electra_cli.interop.weights import Sizes
from electra_cli.run_files import CONFIG_FILE

SCORES_FILE = "scores.json"


@dataclasses.dataclass(frozen=True)
class Record:
    """What `config.json` of a fine-tuning holds.

    Attributes:
      config: the config of `config.fill_in`.
      kind: the kind of task.
      source: what the encoder was.
      sizes: the encoder's sizes.
      initializer_range: standard deviation of weights that were drawn.
      length: tokens that training examples are padded to.
      has_pairs: whether an example is two texts.
      lower_case: whether its tokenizer lower-cases.
      data_fingerprint: of the examples, as arrays, and the weights it started from.
    """

    config: dict[str, Any]
    kind: str
    source: str
    sizes: Sizes
    initializer_range: float
    length: int
    has_pairs: bool
    lower_case: bool
    data_fingerprint: str


@dataclasses.dataclass(frozen=True)
class SeedScores:
    """What `scores.json` of a seed holds.

    Attributes:
      splits: by name of a split that was predicted: `examples`, their fingerprint, `num_examples` and `scores`, None
        where it is not labelled.
    """

    splits: Mapping[str, Mapping[str, Any]]

    def has(self, name: str, fingerprint: str) -> bool:
        """Returns whether these examples were predicted."""
        return name in self.splits and self.splits[name]["examples"] == fingerprint

    def scores(self, name: str) -> dict[str, float]:
        """Returns the scores of a labelled split."""
        return dict(self.splits[name]["scores"])

    def with_split(
        self, name: str, fingerprint: str, num_examples: int, scores: Mapping[str, float] | None
    ) -> "SeedScores":
        """Returns these and one more, in place of one of that name."""
        values = None if scores is None else dict(scores)
        entry = {"examples": fingerprint, "num_examples": num_examples, "scores": values}
        return SeedScores({**self.splits, name: entry})


def read_seed_scores(directory: str) -> SeedScores | None:
    """Reads `scores.json` of a seed's directory; None: the seed is not done.

    Raises:
      UserError: it is damaged.
    """
    file = tf.io.gfile.join(directory, SCORES_FILE)
    if not tf.io.gfile.exists(file):
        return None
    try:
        with tf.io.gfile.GFile(file) as stream:
            found = SeedScores(json.load(stream))
        for entry in found.splits.values():
            if entry["scores"] is not None:
                dict(entry["scores"])
            entry["examples"], entry["num_examples"]
        return found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error}): remove it, then the same command makes it again") from error


def seed_directory(workdir: str, seed: int) -> str:
    """Returns the directory of a seed."""
    return tf.io.gfile.join(workdir, f"seed-{seed}")


def holds_finetuning(workdir: str) -> bool:
    """Returns whether a directory is the workdir of a fine-tuning, and not of pre-training; whole or damaged."""
    file = tf.io.gfile.join(workdir, CONFIG_FILE)
    if not tf.io.gfile.exists(file):
        return False
    try:
        with tf.io.gfile.GFile(file) as stream:
            content = json.load(stream)
    except ValueError:
        return False  # whoever reads it as the other kind says that it is damaged
    return isinstance(content, dict) and "finetuning" in content


def adopt(
    workdir: str, record: Record, config: ml_collections.FrozenConfigDict, labels: LabelMap, start: StartingPoint
) -> None:
    """Records what a fine-tuning is made of, or checks that it is the one that the workdir holds.

    Raises:
      UserError: the workdir holds another one.
      ResumableError: it cannot be written.
    """
    file = tf.io.gfile.join(workdir, CONFIG_FILE)
    if tf.io.gfile.exists(file):
        old = read_record(workdir)
        changed = differences(old.config, config)
        if not changed and old.data_fingerprint != record.data_fingerprint:
            changed.append(f"its examples, or the weights it starts from ({old.source}), are others")
        if changed:
            raise UserError(
                f"--workdir={workdir} holds another fine-tuning: {'; '.join(changed)}; give the old values, or another "
                f"--workdir"
            )
    try:
        start.tokenizer.save(workdir)
        labels.save(tf.io.gfile.join(workdir, LABELS_FILE))
        content = {"finetuning": record.config, **_fields(record)}
        write_atomically(file, json.dumps(content, indent=1, sort_keys=True) + "\n")
    except (OSError, tf.errors.OpError) as error:
        raise ResumableError(f"--workdir={workdir} cannot be written: {str(error).splitlines()[0]}") from error


def read_record(workdir: str) -> Record:
    """Reads `config.json` of a fine-tuning.

    Raises:
      UserError: there is none, or it is damaged or of something else.
    """
    file = tf.io.gfile.join(workdir, CONFIG_FILE)
    if not tf.io.gfile.exists(file):
        raise UserError(f"--workdir={workdir} holds no {CONFIG_FILE}: give the workdir of electra-finetune")
    try:
        with tf.io.gfile.GFile(file) as stream:
            content = json.load(stream)
        if "finetuning" not in content:
            raise UserError(f"{file} is not of electra-finetune: give a workdir that it wrote")
        config, sizes = content.pop("finetuning"), Sizes(**content.pop("sizes"))
        return Record(config=config, sizes=sizes, **content)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}): choose another --workdir") from error


def read_tokenizer(workdir: str, record: Record) -> TokenizerSettings:
    """Returns the tokenizer of a fine-tuning.

    Raises:
      UserError: its vocabulary is missing.
    """
    tokenizer = saved_tokenizer(workdir, record.lower_case)
    if tokenizer is None:
        raise UserError(f"{workdir} holds no {VOCAB_FILE}: put that of its encoder there")
    return tokenizer


def _fields(record: Record) -> dict[str, Any]:
    fields = dataclasses.asdict(record)
    del fields["config"]
    return fields


def write_json(file: str, content: Any) -> None:
    """Writes JSON, whole or not at all.

    Raises:
      ResumableError: it cannot be written.
    """
    _write(file, json.dumps(content, indent=1) + "\n")


def write_json_lines(file: str, lines: list[dict[str, Any]]) -> None:
    """Writes one JSON object a line, all or none.

    Raises:
      ResumableError: they cannot be written.
    """
    _write(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _write(file: str, text: str) -> None:
    try:
        write_atomically(file, text)
    except (OSError, tf.errors.OpError) as error:
        raise ResumableError(
            f"{file} cannot be written ({str(error).splitlines()[0]}): make room or mend the directory, then the same "
            f"command goes on"
        ) from error
