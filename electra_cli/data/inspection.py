"""Checks every byte of prepared data and describes it."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from electra_cli import files
from electra_cli.data.input_pipeline import parse_split
from electra_cli.data.masking import MaskingSettings, mask_batch
from electra_cli.data.preparation_report import lost_shares
from electra_cli.data.source import DataSplit, prepared_split
from electra_cli.data.tfrecords import (
    Manifest,
    Shard,
    file_checksum,
    read_manifest,
    read_token_counts,
)
from electra_cli.data.vocabulary import Vocabulary
from electra_cli.errors import UserError
from electra_cli.modeling import features

_BATCH_SIZE = 1024
_NUM_BINS = 8
_BAR_WIDTH = 40
_NUM_SHOWN = 3


def inspect_data(data_dir: str, notice: Callable[[str], None] = print) -> None:
    """Checks a local directory of electra-prepare against its manifest and describes it with `notice`, line by line; a
    `UserError` when something is missing, damaged, or not as in the manifest."""
    manifest = read_manifest(data_dir)
    vocabulary = Vocabulary.from_file(files.join(data_dir, "vocab.txt"))
    if vocabulary.sha256 != manifest.vocab_sha256:
        raise UserError(f"{data_dir}/vocab.txt is not the vocabulary that the shards were made with")
    for name, checksum in manifest.models.items():
        model_file = files.join(data_dir, name)
        if files.size(model_file) is None or file_checksum(model_file) != checksum:
            raise UserError(f"{model_file} is not the model that the shards were made with: copy it again")
    counted: np.ndarray = np.zeros(vocabulary.size, np.int64)
    further = manifest.rules.flags.replace(" --lower_case=false", "")
    notice(
        f"{data_dir}: format {manifest.format_version}, {vocabulary.size:,} tokens, "
        f"{'uncased' if manifest.lower_case else 'cased'}{further}, fingerprint {manifest.fingerprint[:16]}"
    )
    if coverage := manifest.statistics.get("coverage"):  # data of older versions has none
        unknown, unknown_tokens, removed = lost_shares(coverage)
        notice(
            f"text: {unknown:.3%} of the characters ({unknown_tokens:.3%} of the tokens) became [UNK], "
            f"{removed:.3%} were removed"
        )
    unit = "documents" if manifest.settings.get("packing") == "full" else "segments"
    for split, shards in manifest.splits.items():
        if not shards:
            notice(f"\n{split}: none")
            continue
        token_counts, lengths, num_segments = _read_split(data_dir, manifest, split, vocabulary)
        if split == "train":
            counted = token_counts
        unknown = token_counts[vocabulary.unk_id] / max(1, token_counts.sum())
        padding = 1 - lengths.sum() / (len(lengths) * manifest.max_seq_length)
        notice(
            f"\n{split}: {len(lengths):,} examples in {len(shards)} shard(s) of "
            f"{sum(shard.bytes for shard in shards) / 1e6:,.1f} MB, {lengths.sum():,} tokens\n"
            f"  padding {padding:.1%}, unknown tokens {unknown:.3%}, "
            f"{unit} an example {num_segments / len(lengths):.2f}\n"
            f"  tokens of an example:"
        )
        for line in _histogram(lengths, manifest.max_seq_length):
            notice(line)
    if (counted != read_token_counts(data_dir)).any():
        raise UserError(f"{data_dir}/token_counts.txt does not count the training examples: prepare the data again")
    for line in _show_examples(data_dir, manifest, vocabulary):
        notice(line)
    notice("\nAll checksums and counts are those of the manifest.")


def _read_split(
    data_dir: str, manifest: Manifest, split: str, vocabulary: Vocabulary
) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns int64 [vocab_size] counts of tokens, int64 [examples] lengths, and the number of segments in all."""
    counts: np.ndarray = np.zeros(vocabulary.size, np.int64)
    lengths: list[np.ndarray] = []
    num_segments = 0
    for shard in manifest.splits[split]:
        path = files.join(data_dir, shard.file)
        checksum = file_checksum(path)
        if checksum != shard.sha256:
            raise UserError(
                f"{path} was altered: its SHA-256 is {checksum[:16]}..., not {shard.sha256[:16]}...: "
                f"copy it again or prepare the data again"
            )
        shard_lengths = []
        for batch in _batches(_part(data_dir, manifest, split, shard), manifest, vocabulary):
            mask = batch[features.INPUT_MASK]
            counts += np.bincount(batch[features.INPUT_WORD_IDS][mask > 0], minlength=vocabulary.size)
            shard_lengths.append(mask.sum(axis=1))
            segment_ids = batch.get(features.DOCUMENT_IDS, batch[features.INPUT_TYPE_IDS] + 1)
            num_segments += int(segment_ids.max(axis=1).sum())
        lengths += shard_lengths
        counted = sum(map(len, shard_lengths)), sum(int(part.sum()) for part in shard_lengths)
        if counted != (shard.examples, shard.real_tokens):
            raise UserError(
                f"{path} holds {counted[0]:,} examples of {counted[1]:,} tokens, not {shard.examples:,} of "
                f"{shard.real_tokens:,}: prepare the data again"
            )
    return counts, np.concatenate(lengths).astype(np.int64), num_segments


def _part(data_dir: str, manifest: Manifest, name: str, shard: Shard) -> DataSplit:
    split = prepared_split(data_dir, dataclasses.replace(manifest, splits={name: (shard,)}), name)
    assert split is not None
    return split


def _batches(split: DataSplit, manifest: Manifest, vocabulary: Vocabulary) -> Iterator[dict[str, np.ndarray]]:
    dataset = tf.data.TFRecordDataset(split.files, compression_type=split.compression).batch(_BATCH_SIZE)
    for serialized in dataset:
        batch = parse_split(serialized, split, manifest.max_seq_length, vocabulary.pad_id)
        yield {name: value.numpy() for name, value in batch.items()}


def _histogram(lengths: np.ndarray, max_seq_length: int) -> Iterator[str]:
    edges = np.linspace(0, max_seq_length, min(_NUM_BINS, max_seq_length) + 1).astype(int)
    shares = np.histogram(lengths - 1, edges)[0] / len(lengths)  # a bin holds its upper end
    for begin, end, share in zip(edges, edges[1:], shares, strict=False):
        yield f"  {begin + 1:>6} to {end:<6}{share:>7.1%}  {'#' * round(share * _BAR_WIDTH)}".rstrip()


def _show_examples(data_dir: str, manifest: Manifest, vocabulary: Vocabulary) -> Iterator[str]:
    """Yields the first training examples as text, the last of them as generator and discriminator see it."""
    split = _part(data_dir, manifest, "train", manifest.splits["train"][0])
    batch = {name: value[:_NUM_SHOWN] for name, value in next(_batches(split, manifest, vocabulary)).items()}
    num_shown = len(batch[features.INPUT_MASK])
    for row, (ids, mask) in enumerate(zip(batch[features.INPUT_WORD_IDS], batch[features.INPUT_MASK], strict=True), 1):
        yield f"\nExample {row}: {_to_text(ids, mask, vocabulary)}"
    special = (vocabulary.pad_id, vocabulary.cls_id, vocabulary.sep_id, vocabulary.mask_id)
    slots = max(1, int(0.155 * manifest.max_seq_length))
    settings = MaskingSettings(0.15, slots, 0.85, vocabulary.mask_id, special, vocabulary.size)
    tensors = {name: tf.constant(value) for name, value in batch.items()}
    masked = {
        name: value.numpy()[num_shown - 1]
        for name, value in mask_batch(tensors, settings, tf.constant([0, 1]), tf.constant([0, 2])).items()
    }
    yield f"\n  masked: {_to_text(masked[features.INPUT_WORD_IDS], masked[features.INPUT_MASK], vocabulary)}"
    # A generator at its beginning knows how frequent tokens are and nothing else.
    counts = read_token_counts(data_dir)
    counts[list(special)] = 0
    ends = np.cumsum(counts)
    corrupted = batch[features.INPUT_WORD_IDS][num_shown - 1].copy()
    used = masked[features.MASKED_LM_WEIGHTS] > 0
    draws = masked[features.SAMPLING_UNIFORM][used].astype(np.float64) * ends[-1]
    corrupted[masked[features.MASKED_LM_POSITIONS][used]] = np.searchsorted(ends, draws, side="right")
    yield f"\n  corrupted: {_to_text(corrupted, masked[features.INPUT_MASK], vocabulary)}"


def _to_text(ids: np.ndarray, mask: np.ndarray, vocabulary: Vocabulary) -> str:
    return " ".join(vocabulary.to_text(ids[mask > 0]).split())
