"""Records are byte for byte what TensorFlow writes."""

import tempfile

import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from electra_cli.data.tfrecords import frame_record, serialize_examples

VALUES = st.lists(st.one_of(st.integers(0, 300), st.integers(0, 2**28 - 1)), min_size=1, max_size=40)


def serialize_with_tensorflow(row):
    feature = {name: tf.train.Feature(int64_list=tf.train.Int64List(value=values)) for name, values in row.items()}
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return example.SerializeToString(deterministic=True)


@given(st.lists(st.fixed_dictionaries({"b": VALUES, "a_longer_name": VALUES}), min_size=1, max_size=5))
def test_examples_are_those_of_tensorflow(rows):
    columns = {name: [np.array(row[name], np.uint32) for row in rows] for name in rows[0]}
    assert serialize_examples(columns) == [serialize_with_tensorflow(row) for row in rows]


def test_long_examples():
    values = list(range(0, 30_000, 2))
    assert serialize_examples({"x": [np.array(values)]}) == [serialize_with_tensorflow({"x": values})]


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_files_are_those_of_tensorflow(records):
    with tempfile.NamedTemporaryFile() as file:
        with tf.io.TFRecordWriter(file.name) as writer:
            for record in records:
                writer.write(record)
        assert file.read() == b"".join(map(frame_record, records))
