"""What a data directory holds, as training needs it: shards by split, vocabulary, token counts."""

import contextlib
import dataclasses
import enum
import hashlib
import re
import struct
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from electra_cli.data.data_size import check_data_dir
from electra_cli.data.tfrecords import MANIFEST_FILE, Manifest, check_length, read_manifest, read_token_counts
from electra_cli.data.vocabulary import Vocabulary
from electra_cli.errors import UserError
from electra_cli.modeling import features

# The features of a batch that are filled with the id of [PAD]; all others are filled with 0.
PAD_FOR = (features.INPUT_WORD_IDS,)


class RecordFormat(enum.Enum):
    """Who wrote a TFRecord; the values are the features that tell."""

    ELECTRA_PRETRAIN = ("input_word_ids", "first_segment_length")
    # tf-models-official writes the old names of BERT unless told otherwise; masks tell it from google-research/electra.
    TF_MODELS_V1 = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions")
    TF_MODELS_V2 = ("input_word_ids", "input_mask", "input_type_ids", "masked_lm_positions")
    GOOGLE_ELECTRA = ("input_ids", "input_mask", "segment_ids")


def detect_format(serialized: bytes) -> tuple[RecordFormat | None, int]:
    """Returns the format of a serialized `tf.train.Example`, None when it is none of ours, and its number of ids."""
    example = tf.train.Example.FromString(serialized)
    names = example.features.feature
    for record_format in RecordFormat:
        if all(name in names for name in record_format.value):
            return record_format, len(names[record_format.value[0]].int64_list.value)
    return None, 0


def parse_records(
    serialized: tf.Tensor,
    record_format: RecordFormat,
    max_seq_length: int,
    pad_id: int,
    *,
    has_words: bool = False,
    has_documents: bool = False,
) -> dict[str, tf.Tensor]:
    """Parses serialized examples.

    Args:
      serialized: string [batch].
      record_format: who wrote them.
      max_seq_length: length to pad to.
      pad_id: id to pad with.
      has_words: whether records of electra-prepare hold `features.CONTINUES_WORD`.
      has_documents: whether they hold `features.DOCUMENT_LENGTHS`.

    Returns:
      `features.UNMASKED`; with `has_words` also `features.CONTINUES_WORD`, with `has_documents` also `features.PACKED`;
      int32 [batch, max_seq_length].
    """
    if record_format is RecordFormat.ELECTRA_PRETRAIN:
        return _parse_electra_pretrain(serialized, max_seq_length, pad_id, has_words, has_documents)
    names = record_format.value[:3]
    is_masked = record_format is not RecordFormat.GOOGLE_ELECTRA
    spec: dict[str, object] = {name: tf.io.FixedLenFeature([max_seq_length], tf.int64) for name in names}
    if is_masked:
        spec |= {name: tf.io.RaggedFeature(tf.int64) for name in ("masked_lm_positions", "masked_lm_ids")}
        spec["masked_lm_weights"] = tf.io.RaggedFeature(tf.float32)
    parsed = tf.io.parse_example(serialized, spec)
    batch = {ours: tf.cast(parsed[theirs], tf.int32) for ours, theirs in zip(features.UNMASKED, names, strict=True)}
    if is_masked:
        batch[features.INPUT_WORD_IDS] = _unmask(batch[features.INPUT_WORD_IDS], parsed)
    return batch


def _parse_electra_pretrain(
    serialized: tf.Tensor, max_seq_length: int, pad_id: int, has_words: bool, has_documents: bool
) -> dict[str, tf.Tensor]:
    lengths_name = features.DOCUMENT_LENGTHS if has_documents else features.FIRST_SEGMENT_LENGTH
    names = [features.INPUT_WORD_IDS, lengths_name, *([features.CONTINUES_WORD] if has_words else [])]
    parsed = tf.io.parse_example(serialized, {name: tf.io.RaggedFeature(tf.int64) for name in names})
    ids = parsed[features.INPUT_WORD_IDS]
    padded = ids.to_tensor(default_value=tf.cast(pad_id, tf.int64), shape=[None, max_seq_length])
    lengths = tf.cast(ids.row_lengths(), tf.int64)
    places = tf.range(max_seq_length, dtype=tf.int64)[tf.newaxis, :]
    is_real = places < lengths[:, tf.newaxis]
    batch = {features.INPUT_WORD_IDS: padded, features.INPUT_MASK: is_real}
    if has_documents:
        batch[features.INPUT_TYPE_IDS] = tf.zeros_like(padded)
        batch |= _locate_documents(parsed[lengths_name], is_real)
    else:
        batch[features.INPUT_TYPE_IDS] = is_real & (places >= parsed[lengths_name].to_tensor(shape=[None, 1]))
    if has_words:
        batch[features.CONTINUES_WORD] = parsed[features.CONTINUES_WORD].to_tensor(shape=[None, max_seq_length])
    return {name: tf.cast(value, tf.int32) for name, value in batch.items()}


def _locate_documents(document_lengths: tf.RaggedTensor, is_real: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns `features.PACKED`, int64 [batch, seq_length].

    Args:
      document_lengths: int64 [batch, (documents)].
      is_real: bool [batch, seq_length].
    """
    lengths = document_lengths.to_tensor()
    ends = tf.cumsum(lengths, axis=1)
    places = tf.zeros_like(is_real, tf.int64) + tf.range(is_real.shape[1], dtype=tf.int64)
    index = tf.searchsorted(ends, places, side="right", out_type=tf.int64)
    starts = tf.gather(tf.pad(ends, [[0, 0], [1, 0]]), index, batch_dims=1)
    return {
        features.DOCUMENT_IDS: tf.where(is_real, index + 1, 0),
        features.POSITION_IDS: tf.where(is_real, places - starts, 0),
    }


def _unmask(ids: tf.Tensor, parsed: dict[str, tf.RaggedTensor]) -> tf.Tensor:
    """Puts back the originals: tf-models-official masks when it writes, once and for all; here masks are drawn anew."""
    weights, positions = parsed["masked_lm_weights"], parsed["masked_lm_positions"]
    is_used = weights.flat_values > 0
    places = tf.stack([tf.cast(positions.value_rowids(), tf.int64), positions.flat_values], -1)
    originals = tf.cast(parsed["masked_lm_ids"].flat_values, tf.int32)
    return tf.tensor_scatter_nd_update(ids, tf.boolean_mask(places, is_used), tf.boolean_mask(originals, is_used))


@dataclasses.dataclass(frozen=True)
class Split:
    """The shards of one split.

    Attributes:
      files: their paths.
      examples: examples of each.
      compression: '' or 'GZIP'.
      record_format: who wrote them.
      has_words: whether they say where words are continued.
      has_documents: whether an example holds several documents.
    """

    files: tuple[str, ...]
    examples: tuple[int, ...]
    compression: str
    record_format: RecordFormat
    has_words: bool = False
    has_documents: bool = False

    @property
    def num_examples(self) -> int:
        """Examples in all."""
        return sum(self.examples)


@dataclasses.dataclass(frozen=True)
class DataSource:
    """A data directory.

    Attributes:
      data_dir: where it is.
      vocabulary: its vocabulary.
      train, validation: its splits; None when there is no such shard.
      token_counts: int64 [vocab_size], occurrences of each id in the training split; None when not recorded.
      fingerprint: tells one data set from another.
    """

    data_dir: str
    vocabulary: Vocabulary
    train: Split
    validation: Split | None
    token_counts: np.ndarray | None
    fingerprint: str


def open_data(data_dir: str, max_seq_length: int) -> DataSource:
    """Opens a directory of electra-prepare, or of TFRecords of google-research/electra or tf-models-official.

    Args:
      data_dir: directory; without a manifest every file in it with `.tfrecord` in its name is a shard, of validation
        when the name starts with `validation`, else of training, and `vocab.txt` must lie there.
      max_seq_length: the length that the run is configured for.

    Raises:
      UserError: the directory, a shard or the vocabulary is missing or damaged, or of another sequence length.
    """
    check_data_dir(data_dir)
    if tf.io.gfile.exists(tf.io.gfile.join(data_dir, MANIFEST_FILE)):
        return _open_prepared(data_dir, max_seq_length)
    return _open_foreign(data_dir, max_seq_length)


def _open_prepared(data_dir: str, max_seq_length: int) -> DataSource:
    manifest = read_manifest(data_dir)
    check_length(data_dir, manifest.max_seq_length, max_seq_length)
    vocabulary = Vocabulary.from_file(tf.io.gfile.join(data_dir, "vocab.txt"))
    if vocabulary.sha256 != manifest.vocab_sha256:
        raise UserError(
            f"{data_dir}/vocab.txt is not the vocabulary that the shards were made with; prepare the data anew"
        )
    train = prepared_split(data_dir, manifest, "train")
    if train is None:
        raise UserError(f"{data_dir} has no training examples; prepare the data anew")
    return DataSource(
        data_dir=data_dir,
        vocabulary=vocabulary,
        train=train,
        validation=prepared_split(data_dir, manifest, "validation"),
        token_counts=read_token_counts(data_dir),
        fingerprint=manifest.fingerprint,
    )


def prepared_split(data_dir: str, manifest: Manifest, name: str) -> Split | None:
    """Returns a split of a directory of electra-prepare; None when it has no shard."""
    shards = manifest.splits.get(name, ())
    if not shards:
        return None
    return Split(
        files=tuple(tf.io.gfile.join(data_dir, shard.file) for shard in shards),
        examples=tuple(shard.examples for shard in shards),
        compression=manifest.compression,
        record_format=RecordFormat.ELECTRA_PRETRAIN,
        has_words=manifest.settings.get("word_boundaries") == "whitespace",
        has_documents=manifest.settings.get("packing") == "full",
    )


def _open_foreign(data_dir: str, max_seq_length: int) -> DataSource:
    files = sorted(tf.io.gfile.glob(tf.io.gfile.join(data_dir, "*.tfrecord*")))
    if not files:
        raise UserError(f"{data_dir} holds neither {MANIFEST_FILE} nor *.tfrecord files; run electra-prepare first")
    vocab_file = tf.io.gfile.join(data_dir, "vocab.txt")
    if not tf.io.gfile.exists(vocab_file):
        raise UserError(f"{vocab_file} is missing: put the vocabulary there that the TFRecords were made with")
    counts = {file: count_records(file) for file in files}
    files = [file for file in files if counts[file]]  # google-research/electra leaves empty shards
    vocabulary = Vocabulary.from_file(vocab_file)
    if not files:
        raise UserError(f"the TFRecords of {data_dir} hold no examples")
    record_format, length = detect_format(next(iter(tf.data.TFRecordDataset(files[0]))).numpy())
    if record_format is None:
        raise UserError(f"{files[0]} holds neither examples of google-research/electra nor of tf-models-official")
    check_length(data_dir, length, max_seq_length)

    def split(is_validation: bool) -> Split | None:
        chosen = tuple(
            f for f in files if tf.io.gfile.join("", f).rsplit("/", 1)[-1].startswith("validation") == is_validation
        )
        return Split(chosen, tuple(counts[file] for file in chosen), "", record_format) if chosen else None

    train = split(False)
    if train is None:
        raise UserError(f"{data_dir} has no training shards, only validation ones")
    return DataSource(
        data_dir=data_dir,
        vocabulary=vocabulary,
        train=train,
        validation=split(True),
        token_counts=None,
        fingerprint=_foreign_fingerprint(vocabulary, length, counts),
    )


def _foreign_fingerprint(vocabulary: Vocabulary, length: int, counts: dict[str, int]) -> str:
    """Tells one data set from another without reading all of it: by vocabulary, and by names and sizes of shards."""
    parts = [vocabulary.sha256, str(length)]
    parts += [f"{file.rsplit('/', 1)[-1]}:{counts[file]}:{tf.io.gfile.stat(file).length}" for file in sorted(counts)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


@contextlib.contextmanager
def reading(data_dir: str, when: str, split: Split) -> Iterator[None]:
    """Turns the errors of datasets that are iterated within it into a `UserError` that names the data.

    Args:
      data_dir: the directory that is read.
      when: 'between steps 5 and 10'.
      split: the shards that are read: they are read again to find the one.
    """
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
            f"reading {data_dir} failed {when}: {problem or message[:300]}; copy it anew or prepare the data anew, "
            f"then the same command goes on from the newest checkpoint"
        ) from error


def _find_damage(split: Split) -> str | None:
    """Reads the shards of a split; returns which is damaged and how, None when all can be read."""
    for file, expected in zip(split.files, split.examples, strict=True):
        try:
            found = sum(1 for _ in tf.data.TFRecordDataset(file, compression_type=split.compression))
        except tf.errors.NotFoundError:
            return f"{file} is gone"
        except tf.errors.OpError as error:
            reason = re.sub(r"\{\{.*?\}\} | ?\[.*", "", error.message)  # TensorFlow names its operations
            return f"{file} is damaged ({reason})"
        if found != expected:
            return _miscounted(file, found, expected)
    return None


def _miscounted(file: str, found: str | int, expected: str | int) -> str:
    return f"{file} holds {found} whole records, not {expected}"


def count_records(file: str) -> int:
    """Counts the records of an uncompressed TFRecord file by their headers.

    Raises:
      UserError: the file ends within a record.
    """
    size = tf.io.gfile.stat(file).length
    place = records = 0
    with tf.io.gfile.GFile(file, "rb") as stream:
        while place < size:
            stream.seek(place)
            header = stream.read(8)
            if len(header) < 8:
                break
            # A record is its length (8 bytes), a checksum (4), the data, another checksum (4).
            place += 8 + 4 + struct.unpack("<Q", header)[0] + 4
            records += 1
    if place != size:
        raise UserError(f"{file} is cut off or no TFRecord file: record {records} ends beyond the file; make it anew")
    return records
