"""The directory of a fine-tuning, written: what it was made of, predictions and scores."""

import dataclasses
import json
from typing import Any

import ml_collections
import tensorflow as tf

from electra_cli.config.finetuning import differences
from electra_cli.data.tfrecords import VOCAB_FILE
from electra_cli.data.tokenization import TokenizerSettings, saved_tokenizer
from electra_cli.errors import ResumableError, UserError
from electra_cli.files import write_atomically
from electra_cli.finetuning.examples import LABELS_FILE, LabelMap
from electra_cli.finetuning.workdir_files import Record, read_record
from electra_cli.workdir.run_files import CONFIG_FILE


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
    workdir: str,
    record: Record,
    config: ml_collections.FrozenConfigDict,
    labels: LabelMap,
    tokenizer: TokenizerSettings,
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
        tokenizer.save(workdir)
        labels.save(tf.io.gfile.join(workdir, LABELS_FILE))
        content = {"finetuning": record.config, **_fields(record)}
        write_atomically(file, json.dumps(content, indent=1, sort_keys=True) + "\n")
    except (OSError, tf.errors.OpError) as error:
        raise ResumableError(f"--workdir={workdir} cannot be written: {str(error).splitlines()[0]}") from error


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
