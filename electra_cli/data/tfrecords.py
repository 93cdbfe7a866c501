"""Prepared data on disk: TFRecord shards, and the manifest that describes them.

A directory holds `train-*.tfrecord`, `validation-*.tfrecord`, `vocab.txt`, `token_counts.txt` (a line a token: how
often it occurs in the training examples), `manifest.json`, and `sentencepiece.model` or `tokenizer.json` (byte-level
BPE) when one was given. A record is a `tf.train.Example` with the int64 features `input_word_ids`, `[CLS] a [SEP] b
[SEP]` without padding, and `first_segment_length`, the tokens up to the first [SEP]. Data of `--packing=full` holds
`[CLS] a [SEP] [CLS] b [SEP] ...` and instead of the latter `document_lengths`, the tokens of each document with its
[CLS] and [SEP]. Data whose words were given (`--word_boundaries=whitespace`, and all of byte-level BPE) has
`continues_word` as well: 1 for a token that belongs to the word of the token before it.
"""

import dataclasses
import functools
import gzip
import hashlib
import itertools
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np

from electra_cli import files
from electra_cli.data.spool import CONTINUES_WORD, PackedExample
from electra_cli.data.vocabulary import WordRules
from electra_cli.errors import UserError
from electra_cli.modeling import features

_CRC_DELTA = 0xA282EAD8  # of TFRecord's masked checksums (tensorflow/core/lib/hash/crc32c.h)


def serialize_examples(features: Mapping[str, Sequence[np.ndarray]]) -> list[bytes]:
    """Returns serialized `tf.train.Example`s of each feature's values: one or more integers in [0, 2^28) an example."""
    columns = []
    for name, rows in sorted(features.items()):
        lengths = np.array([len(row) for row in rows])
        values = np.concatenate([*rows, np.zeros(0, np.int64)]).astype(np.uint32)
        encoded, widths = _varints(values)
        ends = np.concatenate([[0], np.cumsum(widths, dtype=np.int64)])[
            np.concatenate([[0], np.cumsum(lengths)])
        ].tolist()
        key = _field(1, name.encode())
        # Entries of `Features.feature`: a `Feature` with an `Int64List` of the packed values.
        entries = (_field(2, _field(3, _field(1, encoded[begin:end]))) for begin, end in itertools.pairwise(ends))
        columns.append([_field(1, key + entry) for entry in entries])
    return [_field(1, b"".join(row)) for row in zip(*columns, strict=True)]


def frame_record(record: bytes) -> bytes:
    """Returns a record with the length and the checksums that TFRecord files have around it."""
    length = struct.pack("<Q", len(record))
    return b"".join((length, _masked_crc(length), record, _masked_crc(record)))


def _masked_crc(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _CRC_DELTA) & 0xFFFFFFFF)


def _varints(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Returns values, uint32 below 2^28, as varints one after the other, and the bytes that each takes."""
    is_long = [values >= 1 << 7 * shift for shift in (1, 2, 3)]
    widths = 1 + sum(part.view(np.uint8) for part in is_long)
    encoded = values & 0x7F  # seven bits a byte, the lowest first; 0x80 says that another follows
    for shift, part in enumerate(is_long, 1):
        encoded |= (values & (0x7F << 7 * shift)) << shift
        encoded |= part.astype(np.uint32) << (8 * shift - 1)
    is_used = np.arange(4, dtype=np.uint8) < widths[:, np.newaxis]
    return encoded.astype("<u4").view(np.uint8).reshape(-1, 4)[is_used].tobytes(), widths


def _field(number: int, content: bytes) -> bytes:
    return _head(number, len(content)) + content


@functools.lru_cache(maxsize=1 << 16)
def _head(number: int, length: int) -> bytes:
    """Returns the tag of a field of bytes and their number."""
    head = bytearray([number << 3 | 2])
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head)


FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
VOCAB_FILE = "vocab.txt"
SENTENCEPIECE_FILE = "sentencepiece.model"
TOKENIZER_FILE = "tokenizer.json"
TOKEN_COUNTS_FILE = "token_counts.txt"
# What a data directory holds.
DATA_FILES = (
    MANIFEST_FILE,
    VOCAB_FILE,
    SENTENCEPIECE_FILE,
    TOKENIZER_FILE,
    TOKEN_COUNTS_FILE,
    "train-*.tfrecord",
    "validation-*.tfrecord",
)
COMPRESSION = "GZIP"
# The default, 6, takes twice the time and saves one byte in a hundred.
_COMPRESSION_LEVEL = 4
_EXAMPLES_AT_ONCE = 1000


@dataclasses.dataclass(frozen=True)
class Shard:
    """A TFRecord file: its name, examples, real tokens, size in bytes, and checksum."""

    file: str
    examples: int
    real_tokens: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a directory of prepared data holds.

    Attributes:
      lower_case: whether text was lower-cased and accents stripped before WordPiece.
      settings, statistics: how the data was prepared, and what was counted.
      splits: 'train' and 'validation'.
      sentencepiece_sha256, tokenizer_sha256: of the model of SentencePiece and of byte-level BPE; '' without it.
      compression: of the shards, as TFRecord readers name it.
    """

    max_seq_length: int
    vocab_size: int
    lower_case: bool
    vocab_sha256: str
    settings: dict[str, Any]
    statistics: dict[str, Any]
    splits: dict[str, tuple[Shard, ...]]
    sentencepiece_sha256: str = ""
    tokenizer_sha256: str = ""
    compression: str = COMPRESSION
    format_version: int = FORMAT_VERSION

    @property
    def rules(self) -> WordRules:
        """How text became words; data of older versions has BERT's rules."""
        names = ("strip_accents", "tokenize_chinese_chars", "max_word_length")
        return WordRules(self.lower_case, **{name: self.settings[name] for name in names if name in self.settings})

    @property
    def models(self) -> dict[str, str]:
        """The checksum by name of the tokenizer's model; none with WordPiece."""
        checksums = {SENTENCEPIECE_FILE: self.sentencepiece_sha256, TOKENIZER_FILE: self.tokenizer_sha256}
        return {name: checksum for name, checksum in checksums.items() if checksum}

    @property
    def fingerprint(self) -> str:
        """A checksum over vocabulary, length and all shards' checksums, different for each data set."""
        parts = [self.vocab_sha256, str(self.max_seq_length)]
        parts += [shard.sha256 for name in sorted(self.splits) for shard in self.splits[name]]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def num_examples(self, split: str) -> int:
        """Returns the examples of a split."""
        return sum(shard.examples for shard in self.splits.get(split, ()))

    def real_tokens(self, split: str) -> int:
        """Returns the tokens of a split without padding."""
        return sum(shard.real_tokens for shard in self.splits.get(split, ()))

    def to_json(self) -> str:
        """Returns the content of `manifest.json`."""
        record = {**dataclasses.asdict(self), "fingerprint": self.fingerprint}
        if not self.tokenizer_sha256:  # which older versions do not know
            del record["tokenizer_sha256"]
        return json.dumps(record, indent=1, sort_keys=True) + "\n"


def read_manifest(data_dir: str) -> Manifest:
    """Reads `manifest.json`. A `UserError` when it is missing, damaged or of a newer format, or a shard is missing or
    of another size."""
    path = files.join(data_dir, MANIFEST_FILE)
    try:
        record = files.parse_json(files.read_bytes(path))
        version = record.pop("format_version")
        if version > FORMAT_VERSION:
            raise UserError(
                f"{path} is of format {version}, newer than this program knows ({FORMAT_VERSION}): "
                f"update electra-pretrain"
            )
        fingerprint = record.pop("fingerprint")
        splits = {name: tuple(Shard(**shard) for shard in shards) for name, shards in record.pop("splits").items()}
        manifest = Manifest(splits=splits, format_version=version, **record)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; run electra-prepare first") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): prepare the data again") from error
    if manifest.fingerprint != fingerprint:
        raise UserError(f"{path} was altered: its fingerprint does not fit what it lists; prepare the data again")
    for shard in (shard for shards in splits.values() for shard in shards):
        size = files.size(files.join(data_dir, shard.file))
        if size != shard.bytes:
            state = "is missing" if size is None else f"has {size:,} bytes, not {shard.bytes:,}"
            raise UserError(f"{files.join(data_dir, shard.file)} {state}: copy it again or prepare the data again")
    return manifest


def find_manifest(data_dir: str) -> Manifest | None:
    """Returns the manifest of a directory as `read_manifest` does; None where it has none."""
    return None if files.size(files.join(data_dir, MANIFEST_FILE)) is None else read_manifest(data_dir)


def check_length(data_dir: str, length: int, configured: int) -> None:
    """Raises a `UserError` when data has examples of another length than a run is configured for."""
    if length != configured:
        raise UserError(
            f"{data_dir} holds examples of {length} tokens but config.data.max_seq_length={configured}: set the key to "
            f"{length} or prepare the data with --max_seq_length={configured}"
        )


def read_token_counts(data_dir: str) -> np.ndarray:
    """Returns int64 [vocab_size], occurrences of each token in training examples; a `UserError` without a valid
    file."""
    path = files.join(data_dir, TOKEN_COUNTS_FILE)
    try:
        return np.array(files.read_bytes(path).split(), dtype=np.int64)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged ({error}): prepare the data again") from error


def shard_name(split: str, index: int, num_shards: int) -> str:
    """Returns the name of a shard."""
    return f"{split}-{index:05}-of-{num_shards:05}.tfrecord"


def token_counts_to_bytes(counts: np.ndarray) -> bytes:
    """Returns the content of `token_counts.txt` for int64 [vocab_size]."""
    return b"".join(b"%d\n" % number for number in counts)


def write_shard(
    path: str, parts: Iterable[Sequence[PackedExample]], *, lengths_name: str, has_words: bool, vocab_size: int
) -> tuple[Shard, np.ndarray]:
    """Writes a new local TFRecord file; returns its description, and int64 [vocab_size], the occurrences of each token.

    `lengths_name` is the feature that lengths become, `FIRST_SEGMENT_LENGTH` or `DOCUMENT_LENGTHS`; `has_words` adds
    the one of continued words.
    """
    num_examples = real_tokens = 0
    counts: np.ndarray = np.zeros(vocab_size, np.int64)
    # Neither name nor time go into the header, so that equal content makes equal files.
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", _COMPRESSION_LEVEL, raw, mtime=0) as stream:
        for part in parts:
            for begin in range(0, len(part), _EXAMPLES_AT_ONCE):
                examples = part[begin : begin + _EXAMPLES_AT_ONCE]
                rows = [np.frombuffer(example.ids, np.uint32) for example in examples]
                columns = {
                    features.INPUT_WORD_IDS: [row & ~np.uint32(CONTINUES_WORD) for row in rows] if has_words else rows,
                    lengths_name: [np.frombuffer(example.lengths, np.uint32) for example in examples],
                }
                if has_words:
                    columns[features.CONTINUES_WORD] = [row // CONTINUES_WORD for row in rows]
                stream.write(b"".join(map(frame_record, serialize_examples(columns))))
                ids = np.concatenate(columns[features.INPUT_WORD_IDS])
                counts += np.bincount(ids, minlength=vocab_size)
                num_examples += len(examples)
                real_tokens += len(ids)
    name = path.rsplit("/", 1)[-1]
    return Shard(name, num_examples, real_tokens, files.size(path) or 0, file_checksum(path)), counts


def file_checksum(path: str) -> str:
    """Returns the SHA-256 of a local file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
