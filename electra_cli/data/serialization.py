"""Examples to TFRecords without TensorFlow, whose import takes longer than to prepare a small corpus.

A record is a `tf.train.Example` of int64 lists, in protocol buffers' wire format, with the features in the order of
their names: byte for byte what TensorFlow writes.
"""

import functools
import itertools
import struct
from collections.abc import Mapping, Sequence

import google_crc32c
import numpy as np

_CRC_DELTA = 0xA282EAD8  # of TFRecord's masked checksums (tensorflow/core/lib/hash/crc32c.h)


def serialize_examples(features: Mapping[str, Sequence[np.ndarray]]) -> list[bytes]:
    """Returns serialized `tf.train.Example`s.

    Args:
      features: by name, the values of each example: one or more integers, at least 0 and less than 2^28.
    """
    columns = []
    for name, rows in sorted(features.items()):
        lengths = np.array([len(row) for row in rows])
        values = np.concatenate([*rows, np.zeros(0, np.int64)]).astype(np.uint32)
        encoded, widths = _varints(values)
        ends = np.concatenate([[0], np.cumsum(widths, dtype=np.int64)])[
            np.concatenate([[0], np.cumsum(lengths)])
        ].tolist()
        key = _field(1, name.encode())
        columns.append([_feature(key, encoded[begin:end]) for begin, end in itertools.pairwise(ends)])
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
    is_long = [values >= 1 << 7 * places for places in (1, 2, 3)]
    widths = 1 + sum(part.view(np.uint8) for part in is_long)
    encoded = values & 0x7F  # seven bits a byte, the lowest first; 0x80 says that another follows
    for places, part in enumerate(is_long, 1):
        encoded |= (values & (0x7F << 7 * places)) << places
        encoded |= part.astype(np.uint32) << (8 * places - 1)
    is_used = np.arange(4, dtype=np.uint8) < widths[:, np.newaxis]
    return encoded.astype("<u4").view(np.uint8).reshape(-1, 4)[is_used].tobytes(), widths


def _feature(key: bytes, packed: bytes) -> bytes:
    """Returns an entry of `Features.feature`: a `Feature` with an `Int64List` of these values."""
    return _field(1, key + _field(2, _field(3, _field(1, packed))))


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
