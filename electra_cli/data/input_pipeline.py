"""Masked batches from prepared shards, from any step on.

The stream of training examples is a pure function of (data, train.seed): each epoch visits the shards, and each visit a
shard's examples, in an order drawn for it. Batch s takes the examples s x global_batch_size to (s + 1) x
global_batch_size of that stream, masked with seeds that follow from s. To start at step s costs reading one shard,
whatever s.
"""

import contextlib
import dataclasses
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from electra_cli import files
from electra_cli.data.masking import MaskingSettings, mask_batch
from electra_cli.data.source import DataSplit, Phase, RecordFormat
from electra_cli.errors import UserError
from electra_cli.modeling import features, randomness
from electra_cli.modeling.randomness import Stream

# Evaluation masks examples in groups of this size, so that they do not depend on the batch size.
_EVAL_MASKING_GROUP = 64
# Training batches that are made before they are asked for.
_BATCHES_AHEAD = 4


@dataclasses.dataclass(frozen=True)
class Part:
    """The part of a batch that one host computes; each replica of it gets an equal, consecutive share as its batch."""

    index: int = 0  # number of the host
    num_parts: int = 1  # hosts
    num_replicas: int = 1  # of a host

    def size(self, global_batch_size: int) -> int:
        """Returns the examples of the part."""
        return global_batch_size // self.num_parts

    def divide(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Divides batches of the part's size into one for each replica."""
        if self.num_replicas == 1:
            return batches

        def split(batch: dict[str, tf.Tensor]) -> tf.data.Dataset:
            shares = {
                name: tf.reshape(value, [self.num_replicas, value.shape[0] // self.num_replicas, *value.shape[1:]])
                for name, value in batch.items()
            }
            return tf.data.Dataset.from_tensor_slices(shares)

        return batches.flat_map(split)


WHOLE = Part()


def training_dataset(
    split: DataSplit,
    masking: MaskingSettings,
    *,
    pad_id: int,
    max_seq_length: int,
    global_batch_size: int,
    seed: int,
    start_step: int,
    first_step: int = 0,
    num_skipped: int = 0,
    part: Part = WHOLE,
) -> tf.data.Dataset:
    """Returns the endless dataset of masked training batches `start_step`, `start_step` + 1, ...

    Args:
      start_step: optimizer updates already made.
      first_step: those of them made on other data; this step takes the first examples.
      num_skipped: those of them whose examples were skipped instead, which count in no schedule.
      part: only this part is parsed and masked; its content does not depend on how many parts there are.

    Returns:
      Dicts of `features.MASKED` (and `features.PACKED`): the part's batch, or one batch a replica, one after the other.
      Iterating raises tf.errors.InvalidArgumentError at a damaged shard; see `reading`.
    """
    first_slot, offset = locate_example(split.examples, seed, (start_step - first_step) * global_batch_size)
    slots = tf.data.Dataset.range(first_slot, tf.int64.max)
    # One shard ahead is read while the current one is consumed.
    shards = slots.map(lambda slot: _load_shard(split, seed, slot)).prefetch(1)
    records = shards.flat_map(tf.data.Dataset.from_tensor_slices).skip(offset)
    batches = records.batch(global_batch_size, drop_remainder=True).enumerate(start_step)

    size = part.size(global_batch_size)
    first = part.index * size

    @tf.autograph.experimental.do_not_convert  # which takes seconds, and is for loops and conditions alone
    def prepare(step: tf.Tensor, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        serialized = tf.ensure_shape(serialized[first : first + size], [size])
        batch = parse_split(serialized, split, max_seq_length, pad_id)
        batch = {name: tf.ensure_shape(value, [size, max_seq_length]) for name, value in batch.items()}
        masking_seed = randomness.stream_seed(seed, Stream.MASKING, step)
        sampling_seed = randomness.stream_seed(seed, Stream.SAMPLING, step)
        settings = masking.at(step - num_skipped)
        return mask_batch(batch, settings, masking_seed, sampling_seed, (first, global_batch_size))

    prepared = batches.map(prepare, num_parallel_calls=2)
    return part.divide(prepared).prefetch(_BATCHES_AHEAD).with_options(pipeline_options())


def training_batches(
    phase: Phase,
    distribute: Callable[[Callable[[Part], tf.data.Dataset]], Iterable],
    data_step: int,
    num_skipped: int = 0,
) -> Iterator:
    """Returns an iterator over a phase's batches, which `distribute` puts on devices; `data_step` counts the steps of
    the run that took earlier examples, `num_skipped` skipped ones included."""

    def make(part: Part) -> tf.data.Dataset:
        return training_dataset(
            phase.source.train,
            phase.masking,
            pad_id=phase.source.vocabulary.pad_id,
            max_seq_length=phase.config.data.max_seq_length,
            global_batch_size=phase.config.train.global_batch_size,
            seed=phase.config.train.seed,
            start_step=data_step,
            first_step=phase.begin,
            num_skipped=num_skipped,
            part=part,
        )

    return iter(distribute(make))


def evaluation_dataset(
    split: DataSplit,
    masking: MaskingSettings,
    *,
    pad_id: int,
    max_seq_length: int,
    global_batch_size: int,
    num_examples: int,
    part: Part = WHOLE,
) -> tf.data.Dataset:
    """Returns the dataset of the first `num_examples` examples of a split (0: all), with masks that never change.

    Neither examples nor masks depend on a seed, a step or the batch size, so that any two runs on the same data can be
    compared. The last batch is filled up with examples of padding alone, which count nowhere. Iterating raises
    tf.errors.DataLossError or FailedPreconditionError at a damaged shard; see `reading`.
    """
    shards = tf.data.Dataset.range(len(split.files))

    def read(shard: tf.Tensor) -> tf.data.Dataset:
        # At some damages the reader ends early without an error.
        num_examples = tf.gather(tf.constant(split.examples, tf.int64), shard)
        return _read_shard(split, shard).apply(tf.data.experimental.assert_cardinality(num_examples))

    records = shards.flat_map(read)
    groups = records.take(num_examples or -1).batch(_EVAL_MASKING_GROUP).enumerate()

    @tf.autograph.experimental.do_not_convert
    def prepare(group: tf.Tensor, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = parse_split(serialized, split, max_seq_length, pad_id)
        masking_seed = randomness.stream_seed(0, Stream.EVAL_MASKING, group)
        return mask_batch(batch, masking, masking_seed, randomness.stream_seed(0, Stream.EVAL_SAMPLING, group))

    size = part.size(global_batch_size)
    first = part.index * size

    @tf.autograph.experimental.do_not_convert
    def fill_up(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        missing = global_batch_size - tf.shape(batch[features.INPUT_MASK])[0]
        filled = {}
        for name, value in batch.items():
            pad_value = tf.cast(pad_id if name == features.INPUT_WORD_IDS else 0, value.dtype)
            padded = tf.pad(value, [[0, missing], [0, 0]], constant_values=pad_value)
            filled[name] = tf.ensure_shape(padded[first : first + size], [size, value.shape[1]])
        return filled

    batches = groups.map(prepare).rebatch(global_batch_size).map(fill_up)
    return part.divide(batches).prefetch(1).with_options(pipeline_options())


def locate_example(shard_examples: Sequence[int], seed: int, index: int) -> tuple[int, int]:
    """Returns (slot, offset) of the example `index` of the training stream, which may be any number of epochs ahead:
    the number of the visit to a shard, over all epochs, and the example's position in the order of this visit."""
    epoch, rest = divmod(index, sum(shard_examples))
    order = _shard_order(len(shard_examples), seed, epoch).numpy()
    ends = np.cumsum([shard_examples[shard] for shard in order])
    visit = int(np.searchsorted(ends, rest, side="right"))
    begin = int(ends[visit - 1]) if visit else 0
    return epoch * len(shard_examples) + visit, rest - begin


def find_examples(split: DataSplit, seed: int, index: int, count: int) -> list[tuple[str, int]]:
    """Returns (file, number of the record in it, from 0) of `count` examples of the training stream from `index` on."""
    num_shards = len(split.files)
    slot, offset = locate_example(split.examples, seed, index)
    locations: list[tuple[str, int]] = []
    while len(locations) < count:
        epoch = slot // num_shards
        shard = int(_shard_order(num_shards, seed, epoch)[slot % num_shards])
        order = _example_order(split.examples[shard], seed, epoch, shard).numpy()
        records = order[offset : offset + count - len(locations)]
        file = split.files[shard]
        before = sum(split.examples[other] for other in range(shard) if split.files[other] == file)
        locations += [(file, before + int(record)) for record in records]
        slot, offset = slot + 1, 0
    return locations


def _shard_order(num_shards: int, seed: int, epoch: tf.Tensor | int) -> tf.Tensor:
    draws = randomness.uniform([num_shards], randomness.stream_seed(seed, Stream.SHARD_ORDER, epoch))
    return tf.argsort(draws, stable=True)


@tf.autograph.experimental.do_not_convert
def _load_shard(split: DataSplit, seed: int, slot: tf.Tensor) -> tf.Tensor:
    """Reads the shard of visit `slot` (int64, scalar): string [examples], in the order of the stream."""
    num_shards = len(split.files)
    epoch = slot // num_shards
    shard = tf.gather(_shard_order(num_shards, seed, epoch), slot % num_shards)
    file = tf.gather(tf.constant(split.files), shard)
    expected = tf.gather(tf.constant(split.examples, tf.int64), shard)
    # Errors of reading name no file: `reading` finds it. They are not ignored and counted: TensorFlow (2.20)
    # would try to open a missing file for ever.
    records = _read_shard(split, shard)
    # One more than expected, so that a shard that holds too many is noticed as well; none is a batch too.
    batches = records.batch(expected + 1).concatenate(tf.data.Dataset.from_tensors(tf.constant([], tf.string)))
    records = batches.take(1).get_single_element()
    count = tf.size(records, tf.int64)
    with tf.control_dependencies(
        [tf.debugging.Assert(tf.equal(count, expected), [file, "holds", count, "whole records, not", expected])]
    ):
        order = _example_order(count, seed, epoch, shard)
    return tf.gather(records, order)


def _read_shard(split: DataSplit, shard: tf.Tensor) -> tf.data.Dataset:
    """Returns the records, string [], of shard number `shard` (int64, scalar)."""
    file = tf.gather(tf.constant(split.files), shard)
    if not split.offsets:
        return tf.data.TFRecordDataset(file, compression_type=split.compression)
    offset, count = (tf.gather(tf.constant(numbers, tf.int64), shard) for numbers in (split.offsets, split.examples))
    # What `tf.data.TFRecordDataset` calls, which has no argument for offsets.
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=[file], compression_type=split.compression, buffer_size=2**18, byte_offsets=[offset]
    )
    return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(count)


def _example_order(num_examples: tf.Tensor | int, seed: int, epoch: tf.Tensor | int, shard: tf.Tensor) -> tf.Tensor:
    order_seed = randomness.fold_in(randomness.stream_seed(seed, Stream.EXAMPLE_ORDER, epoch), shard)
    return tf.argsort(randomness.uniform([num_examples], order_seed), stable=True)


def pipeline_options() -> tf.data.Options:
    """Returns the options of all pipelines: batches in a fixed order, divided explicitly, and no tuning.

    Where TensorFlow tunes, closing an iterator may wait a minute for the tuning thread, which misses a notice to end
    that comes while it goes to sleep (2.20, `Model::OptimizeLoop`). With several devices TensorFlow adds iterators that
    still tune.
    """
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options


def detect_format(file: str) -> tuple[RecordFormat | None, int]:
    """Returns the format of a TFRecord file by its first record, None when unknown, and its number of ids."""
    with files.open_file(file, "rb") as stream:  # no `tf.data`: devices cannot be chosen after TensorFlow computes
        length = struct.unpack("<Q", stream.read(8))[0]
        stream.read(4)  # a checksum
        serialized = stream.read(length)
    names = tf.train.Example.FromString(serialized).features.feature
    for record_format in RecordFormat:
        if all(name in names for name in record_format.value):
            return record_format, len(names[record_format.value[0]].int64_list.value)
    return None, 0


def parse_split(serialized: tf.Tensor, split: DataSplit, max_seq_length: int, pad_id: int) -> dict[str, tf.Tensor]:
    """Parses a split's serialized examples, string [batch], to `features.UNMASKED` and, where the split has them,
    `features.CONTINUES_WORD` and `features.PACKED`: int32 [batch, max_seq_length], padded."""
    if split.record_format is RecordFormat.ELECTRA_PRETRAIN:
        return _parse_prepared(serialized, split, max_seq_length, pad_id)
    names = split.record_format.value[:3]
    is_masked = split.record_format is not RecordFormat.GOOGLE_ELECTRA
    spec: dict[str, object] = {name: tf.io.FixedLenFeature([max_seq_length], tf.int64) for name in names}
    if is_masked:
        spec |= {name: tf.io.RaggedFeature(tf.int64) for name in ("masked_lm_positions", "masked_lm_ids")}
        spec["masked_lm_weights"] = tf.io.RaggedFeature(tf.float32)
    parsed = tf.io.parse_example(serialized, spec)
    batch = {ours: tf.cast(parsed[theirs], tf.int32) for ours, theirs in zip(features.UNMASKED, names, strict=True)}
    if is_masked:
        batch[features.INPUT_WORD_IDS] = _unmask(batch[features.INPUT_WORD_IDS], parsed)
    return batch


def _parse_prepared(serialized: tf.Tensor, split: DataSplit, max_seq_length: int, pad_id: int) -> dict[str, tf.Tensor]:
    lengths_name = features.DOCUMENT_LENGTHS if split.has_documents else features.FIRST_SEGMENT_LENGTH
    names = [features.INPUT_WORD_IDS, lengths_name, *([features.CONTINUES_WORD] if split.has_words else [])]
    parsed = tf.io.parse_example(serialized, {name: tf.io.RaggedFeature(tf.int64) for name in names})
    ids = parsed[features.INPUT_WORD_IDS]
    padded = ids.to_tensor(default_value=tf.cast(pad_id, tf.int64), shape=[None, max_seq_length])
    lengths = tf.cast(ids.row_lengths(), tf.int64)
    positions = tf.range(max_seq_length, dtype=tf.int64)[tf.newaxis, :]
    is_real = positions < lengths[:, tf.newaxis]
    batch = {features.INPUT_WORD_IDS: padded, features.INPUT_MASK: is_real}
    if split.has_documents:
        batch[features.INPUT_TYPE_IDS] = tf.zeros_like(padded)
        batch |= _locate_documents(parsed[lengths_name], is_real)
    else:
        batch[features.INPUT_TYPE_IDS] = is_real & (positions >= parsed[lengths_name].to_tensor(shape=[None, 1]))
    if split.has_words:
        batch[features.CONTINUES_WORD] = parsed[features.CONTINUES_WORD].to_tensor(shape=[None, max_seq_length])
    return {name: tf.cast(value, tf.int32) for name, value in batch.items()}


def _locate_documents(document_lengths: tf.RaggedTensor, is_real: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns `features.PACKED` of document lengths, int64 [batch, (documents)], and bool [batch, seq_length]."""
    lengths = document_lengths.to_tensor()
    ends = tf.cumsum(lengths, axis=1)
    positions = tf.zeros_like(is_real, tf.int64) + tf.range(is_real.shape[1], dtype=tf.int64)
    index = tf.searchsorted(ends, positions, side="right", out_type=tf.int64)
    starts = tf.gather(tf.pad(ends, [[0, 0], [1, 0]]), index, batch_dims=1)
    return {
        features.DOCUMENT_IDS: tf.where(is_real, index + 1, 0),
        features.POSITION_IDS: tf.where(is_real, positions - starts, 0),
    }


def _unmask(ids: tf.Tensor, parsed: dict[str, tf.RaggedTensor]) -> tf.Tensor:
    """Restores the originals: tf-models-official masks once, when it writes; here masks are drawn again each time."""
    weights, positions = parsed["masked_lm_weights"], parsed["masked_lm_positions"]
    is_used = weights.flat_values > 0
    indices = tf.stack([tf.cast(positions.value_rowids(), tf.int64), positions.flat_values], -1)
    originals = tf.cast(parsed["masked_lm_ids"].flat_values, tf.int32)
    return tf.tensor_scatter_nd_update(ids, tf.boolean_mask(indices, is_used), tf.boolean_mask(originals, is_used))


@contextlib.contextmanager
def reading(data_dir: str, when: str, split: DataSplit) -> Iterator[None]:
    """Turns errors of iterating datasets into a `UserError` that names the data, the time (`when`: 'between steps 5 and
    10') and the damaged shard, which is found by reading the shards again."""
    try:
        yield
    except (
        tf.errors.DataLossError,
        tf.errors.NotFoundError,
        tf.errors.InvalidArgumentError,
        tf.errors.FailedPreconditionError,
    ) as error:
        message = " ".join(str(error).split())
        # Operations of models raise these too: a GPU's that finds no algorithm says NOT_FOUND.
        if "GetNext" not in message:
            raise
        if isinstance(error, tf.errors.FailedPreconditionError) and "Input dataset was expected" not in message:
            raise
        counted = re.search(r"\[(\S[^\[\]]*)\] \[holds\] \[(\d+)\] \[whole records, not\] \[(\d+)\]", message)
        problem = _miscounted(*counted.groups()) if counted else _find_damage(split)
        raise UserError(
            f"reading {data_dir} failed {when}: {problem or message[:300]}; copy it again or prepare the data again, "
            f"then the same command resumes from the newest checkpoint"
        ) from error


def _find_damage(split: DataSplit) -> str | None:
    """Returns which shard of a split is damaged and how; None when all can be read."""
    num_examples: Counter[str] = Counter()
    for file, number in zip(split.files, split.examples, strict=True):
        num_examples[file] += number
    for file, expected in num_examples.items():
        try:
            count = sum(1 for _ in tf.data.TFRecordDataset(file, compression_type=split.compression))
        except tf.errors.NotFoundError:
            return f"{file} is gone"
        except tf.errors.OpError as error:
            reason = re.sub(r"\{\{.*?\}\} | ?\[.*", "", error.message)  # TensorFlow names its operations
            return f"{file} is damaged ({reason})"
        if count != expected:
            return _miscounted(file, count, expected)
    return None


def _miscounted(file: str, count: str | int, expected: str | int) -> str:
    return f"{file} holds {count} whole records, not {expected}"
