import dataclasses
import itertools
import pathlib
import threading

import numpy as np
import pytest
import tensorflow as tf

from electra_cli.config.resolution import resolve
from electra_cli.data import source as source_module
from electra_cli.data.input_pipeline import (
    WHOLE,
    Part,
    evaluation_dataset,
    find_examples,
    locate_example,
    reading,
    training_dataset,
)
from electra_cli.data.masking import masking_settings
from electra_cli.data.source import find_shards, open_data
from electra_cli.errors import UserError
from electra_cli.modeling.schedules import Schedule
from tests.conftest import SEQ_LENGTH, prepare_small, small_config
from tests.data.prepare_test import read_records


@pytest.fixture(scope="module")
def sharded(corpus_file, tmp_path_factory):
    directory, _ = prepare_small(corpus_file, tmp_path_factory.mktemp("sharded") / "data", shard_size_mb=0.006)
    source = open_data(str(directory), SEQ_LENGTH)
    assert len(source.train.files) > 3
    return directory, source, masking_settings(resolve(small_config(directory), source.vocabulary.size), source)


def batches(sharded, start_step, number, batch_size=8, seed=0, part=WHOLE, num_skipped=0):
    _, source, masking = sharded
    dataset = training_dataset(
        source.train,
        masking,
        pad_id=0,
        max_seq_length=SEQ_LENGTH,
        global_batch_size=batch_size,
        seed=seed,
        start_step=start_step,
        num_skipped=num_skipped,
        part=part,
    )
    # Whoever closes it need not wait for a thread that tunes.
    assert dataset.options().autotune.enabled is False and dataset.options().deterministic
    return [{name: value.numpy() for name, value in batch.items()} for batch in dataset.take(number)]


def test_the_rate_of_masks_follows_from_the_step(sharded):
    """Also where examples were skipped, which advances the data but not the schedule."""
    directory, source, masking = sharded
    masking = dataclasses.replace(masking, max_predictions_per_seq=SEQ_LENGTH)
    changing = dataclasses.replace(masking, schedule=Schedule(0.0, 1.0, 3, "linear"))
    first, middle, last = batches((directory, source, changing), 0, 3)
    assert (first["masked_lm_weights"].sum(axis=1) == 1).all()
    kept = set(masking.special_token_ids) - {masking.mask_token_id}  # everything else is masked
    num_kept = np.isin(last["input_word_ids"], list(kept)).sum(axis=1)
    np.testing.assert_array_equal(last["masked_lm_weights"].sum(axis=1), SEQ_LENGTH - num_kept)
    constant = dataclasses.replace(masking, mask_prob=0.5)
    (expected,) = batches((directory, source, constant), 1, 1)
    for name, value in expected.items():
        np.testing.assert_array_equal(middle[name], value, err_msg=name)
    (skipping,) = batches((directory, source, changing), 4, 1, num_skipped=3)
    (expected,) = batches((directory, source, constant), 4, 1)
    for name, value in expected.items():
        np.testing.assert_array_equal(skipping[name], value, err_msg=name)


def originals(batch):
    """The unmasked, unpadded ids of each example."""
    ids = batch["input_word_ids"].copy()
    for row, positions in enumerate(batch["masked_lm_positions"]):
        used = batch["masked_lm_weights"][row] > 0
        ids[row, positions[used]] = batch["masked_lm_ids"][row, used]
    return [tuple(row[mask > 0]) for row, mask in zip(ids, batch["input_mask"], strict=True)]


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_an_epoch_sees_every_example_once_in_another_order(sharded):
    directory, source, _ = sharded
    num_examples = source.train.num_examples
    seen = [ids for batch in batches(sharded, 0, num_examples // 4, batch_size=8) for ids in originals(batch)]
    expected = sorted(ids for ids, _ in read_records(directory, "train"))
    first, second = seen[:num_examples], seen[num_examples : 2 * num_examples]
    assert sorted(first) == expected
    assert first != second
    assert sorted(second)[:10] != [] and set(second) <= set(expected)


def test_batches_from_any_step_are_those_of_the_whole_run(sharded):
    per_epoch = sharded[1].train.num_examples // 8
    steps = 2 * per_epoch + 5
    whole = batches(sharded, 0, steps)
    for start in (1, 7, per_epoch, per_epoch + 3, 2 * per_epoch):
        assert_equal(batches(sharded, start, 3), whole[start : start + 3])


@pytest.mark.parametrize(("num_parts", "num_replicas"), [(2, 1), (1, 4), (2, 2), (8, 1)])
def test_parts_of_a_batch_are_those_of_the_whole(sharded, num_parts, num_replicas):
    whole = batches(sharded, 3, 4)
    parts = [
        batches(sharded, 3, 4 * num_replicas, part=Part(index, num_parts, num_replicas)) for index in range(num_parts)
    ]
    for step, batch in enumerate(whole):
        shares = [part[step * num_replicas + replica] for part in parts for replica in range(num_replicas)]
        assert all(len(share["input_mask"]) == 8 // (num_parts * num_replicas) for share in shares)
        assert_equal([{name: np.concatenate([share[name] for share in shares]) for name in batch}], [batch])


def test_parts_of_evaluation_are_those_of_the_whole(sharded):
    _, source, masking = sharded

    def evaluate(part):
        dataset = evaluation_dataset(
            source.validation,
            masking,
            pad_id=0,
            max_seq_length=SEQ_LENGTH,
            global_batch_size=8,
            num_examples=21,
            part=part,
        )
        return [{name: value.numpy() for name, value in batch.items()} for batch in dataset]

    whole = evaluate(WHOLE)
    assert len(whole) == 3
    parts = [evaluate(Part(index, 2, 2)) for index in range(2)]
    for step, batch in enumerate(whole):
        shares = [part[2 * step + replica] for part in parts for replica in range(2)]
        assert_equal([{name: np.concatenate([share[name] for share in shares]) for name in batch}], [batch])


def test_an_example_is_masked_anew_in_each_epoch(sharded):
    num_examples = sharded[1].train.num_examples
    masks = {}
    for batch in batches(sharded, 0, 2 * num_examples // 8):
        for ids, positions in zip(originals(batch), batch["masked_lm_positions"], strict=True):
            masks.setdefault(ids, []).append(tuple(positions))
    again = [positions for positions in masks.values() if len(positions) == 2]
    assert sum(first != second for first, second in again) > 0.9 * len(again)


def test_another_seed_gives_another_order(sharded):
    assert originals(batches(sharded, 0, 1)[0]) != originals(batches(sharded, 0, 1, seed=1)[0])


def test_examples_are_located_far_ahead(sharded):
    counts = [5, 3, 4]
    places = [locate_example(counts, 0, index) for index in range(36)]
    for _, offsets in itertools.groupby(places, key=lambda place: place[0]):
        assert [offset for _, offset in offsets] in ([0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4])
    assert [slot for slot, _ in itertools.groupby(places, key=lambda place: place[0])] == list(range(9))
    assert locate_example(counts, 0, 12 * 10**9 + 11)[0] == 3 * 10**9 + 2


def test_evaluation_is_the_same_for_every_batch_size(sharded):
    _, source, masking = sharded

    def evaluate(batch_size, num_examples):
        dataset = evaluation_dataset(
            source.validation,
            masking,
            pad_id=0,
            max_seq_length=SEQ_LENGTH,
            global_batch_size=batch_size,
            num_examples=num_examples,
        )
        assert dataset.options().autotune.enabled is False and dataset.options().deterministic
        batched = [{name: value.numpy() for name, value in batch.items()} for batch in dataset]
        assert {batch["input_mask"].shape[0] for batch in batched} == {batch_size}
        return {name: np.concatenate([batch[name] for batch in batched]) for name in batched[0]}

    small, large = evaluate(4, 30), evaluate(16, 30)
    for name in small:
        np.testing.assert_array_equal(small[name][:30], large[name][:30])
    assert (
        small["input_mask"][30:].sum() == large["input_mask"][30:].sum() == large["masked_lm_weights"][30:].sum() == 0
    )
    assert len(originals(evaluate(8, 0))) >= source.validation.num_examples


def test_damaged_shards_are_noticed_when_read(sharded, tmp_path):
    _, source, masking = sharded
    file = source.train.files[0]
    missing_one = (source.train.examples[0] - 1, *source.train.examples[1:])
    split = type(source.train)(source.train.files, missing_one, "GZIP", source.train.record_format)
    dataset = training_dataset(
        split, masking, pad_id=0, max_seq_length=SEQ_LENGTH, global_batch_size=8, seed=0, start_step=0
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=file):
        list(dataset.take(200))


@pytest.mark.parametrize("place", [0, 3, 12, -100, -1])  # header, flags that make TensorFlow end early, data, check
@pytest.mark.parametrize("is_training", [True, False])
def test_an_altered_shard_is_named(sharded, tmp_path, place, is_training):
    _, source, masking = sharded
    split = source.train if is_training else source.validation
    file = tmp_path / "altered.tfrecord"
    content = bytearray(pathlib.Path(split.files[0]).read_bytes())
    content[place] ^= 4
    file.write_bytes(content)
    split = dataclasses.replace(split, files=(str(file), *split.files[1:]))
    common = {"pad_id": 0, "max_seq_length": SEQ_LENGTH, "global_batch_size": 8}
    with (
        pytest.raises(UserError, match=rf"reading data failed in a test: {file} (holds \d+ whole records, not \d+|is "
                      rf"damaged \([^\[\]{{}}]+\)); copy it again"),
        reading("data", "in a test", split),
    ):  # fmt: skip
        if is_training:
            list(training_dataset(split, masking, seed=0, start_step=0, **common).take(200))
        else:
            list(evaluation_dataset(split, masking, num_examples=0, **common))


def test_a_shard_that_is_gone_is_named(sharded, tmp_path):
    _, source, masking = sharded
    file = tmp_path / "gone.tfrecord"
    split = dataclasses.replace(source.train, files=(str(file), *source.train.files[1:]))
    told = []

    def read():
        with pytest.raises(UserError) as error, reading("data", "in a test", split):
            list(training_dataset(split, masking, pad_id=0, max_seq_length=SEQ_LENGTH, global_batch_size=8, seed=0,
                                  start_step=0).take(200))  # fmt: skip
        told.append(str(error.value))

    # In a thread, since TensorFlow may try to open it for ever.
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(60)
    assert told and told[0].startswith(f"reading data failed in a test: {file} is gone; copy it again")


def example(**features):
    def feature(values):
        if isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    named = {name: feature(values) for name, values in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def write_foreign(data_dir, directory, name, records):
    with tf.io.TFRecordWriter(str(directory / name)) as writer:
        for record in records:
            writer.write(record)
    (directory / "vocab.txt").write_bytes((data_dir / "vocab.txt").read_bytes())


def unmasked_rows(directory, length):
    source = open_data(str(directory), length)
    masking = masking_settings(resolve(small_config(directory), source.vocabulary.size), source)
    dataset = training_dataset(
        source.train, masking, pad_id=0, max_seq_length=length, global_batch_size=2, seed=0, start_step=0
    )
    batch = {name: value.numpy() for name, value in next(iter(dataset)).items()}
    return sorted(originals(batch)), batch


def test_records_of_google_research_are_read(data_dir, tmp_path):
    rows = [[2, 7, 8, 9, 3, 10, 3, 0], [2, 11, 12, 3, 13, 14, 15, 3]]
    records = [
        example(input_ids=row, input_mask=[int(i > 0) for i in row], segment_ids=[0, 0, 0, 0, 0, 1, 1, 0])
        for row in rows
    ]
    write_foreign(data_dir, tmp_path, "pretrain_data.tfrecord-0-of-1", records)
    unmasked, batch = unmasked_rows(tmp_path, 8)
    assert unmasked == [(2, 7, 8, 9, 3, 10, 3), tuple(rows[1])]
    np.testing.assert_array_equal(batch["input_type_ids"], [[0, 0, 0, 0, 0, 1, 1, 0]] * 2)


@pytest.mark.parametrize("names", [("input_ids", "segment_ids"), ("input_word_ids", "input_type_ids")])
def test_records_of_tf_models_are_unmasked_and_masked_anew(data_dir, tmp_path, names):
    record = example(
        **{names[0]: [2, 4, 8, 9, 3, 4, 3, 0], names[1]: [0] * 8},
        input_mask=[1] * 7 + [0],
        masked_lm_positions=[1, 5, 0],
        masked_lm_ids=[7, 10, 0],
        masked_lm_weights=[1.0, 1.0, 0.0],
    )
    write_foreign(data_dir, tmp_path, "data.tfrecord", [record, record])
    assert unmasked_rows(tmp_path, 8)[0] == [(2, 7, 8, 9, 3, 10, 3)] * 2


def test_large_files_of_other_programs_are_read_in_parts(data_dir, tmp_path, monkeypatch):
    rows = [(2, 7, number, 9, 3, 10, 3) for number in range(20, 60)]
    records = [example(input_ids=[*row, 0], input_mask=[1] * 7 + [0], segment_ids=[0] * 8) for row in rows]
    write_foreign(data_dir, tmp_path, "a.tfrecord", records[:30])
    write_foreign(data_dir, tmp_path, "b.tfrecord", records[30:])
    whole = open_data(str(tmp_path), 8)
    assert whole.train.offsets == ()
    record_bytes = (tmp_path / "b.tfrecord").stat().st_size // 10
    monkeypatch.setattr(source_module, "_SHARD_BYTES", 11 * record_bytes)
    source = open_data(str(tmp_path), 8)
    assert source.fingerprint == whole.fingerprint
    assert source.train.examples == (10, 10, 10, 10)
    assert source.train.offsets == (0, 10 * record_bytes, 20 * record_bytes, 0)
    masking = masking_settings(resolve(small_config(tmp_path), source.vocabulary.size), source)
    common = {"pad_id": 0, "max_seq_length": 8}

    def stream(start_step, number):
        dataset = training_dataset(source.train, masking, global_batch_size=5, seed=3, start_step=start_step, **common)
        return [{name: value.numpy() for name, value in batch.items()} for batch in dataset.take(number)]

    order = list(itertools.chain.from_iterable(map(originals, stream(0, 8))))
    assert order != rows and sorted(order) == rows
    assert_equal(stream(0, 8)[5:], stream(5, 3))
    located = find_examples(source.train, 3, 0, 40)
    numbers = [number + 30 * file.endswith("b.tfrecord") for file, number in located]
    assert [rows[number] for number in numbers] == order
    batches = evaluation_dataset(source.train, masking, global_batch_size=10, num_examples=0, **common)
    read = [originals({name: value.numpy() for name, value in batch.items()}) for batch in batches]
    assert list(itertools.chain.from_iterable(read)) == rows
    with open(tmp_path / "a.tfrecord", "rb+") as file:
        file.truncate(25 * record_bytes)
    with pytest.raises(UserError, match=r"a\.tfrecord (holds 5 whole|is damaged)"), reading("d", "now", source.train):
        stream(0, 8)


def test_foreign_data_with_another_vocabulary_is_other_data(data_dir, tmp_path):
    record = example(input_ids=[2, 7, 8, 9, 3, 10, 3, 0], input_mask=[1] * 7 + [0], segment_ids=[0] * 8)
    write_foreign(data_dir, tmp_path, "a.tfrecord", [record])
    before = open_data(str(tmp_path), 8).fingerprint
    assert open_data(str(tmp_path), 8).fingerprint == before
    (tmp_path / "vocab.txt").write_text((tmp_path / "vocab.txt").read_text() + "another\n")
    assert open_data(str(tmp_path), 8).fingerprint != before


def test_bad_directories(data_dir, tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        open_data(str(tmp_path / "nowhere"), 8)
    with pytest.raises(UserError, match=r"holds neither manifest\.json nor \*\.tfrecord"):
        open_data(str(tmp_path), 8)
    write_foreign(data_dir, tmp_path, "a.tfrecord", [example(x=[1])])
    with pytest.raises(UserError, match="neither examples of google-research/electra nor"):
        open_data(str(tmp_path), 8)
    write_foreign(data_dir, tmp_path, "a.tfrecord", [example(input_ids=[2, 3], input_mask=[1, 1], segment_ids=[0, 0])])
    with pytest.raises(UserError, match=r"examples of 2 tokens but config\.data.max_seq_length=8"):
        open_data(str(tmp_path), 8)
    with open(tmp_path / "a.tfrecord", "rb+") as stream:
        stream.truncate(20)
    with pytest.raises(UserError, match="is cut off"):
        find_shards(str(tmp_path / "a.tfrecord"))
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"vocab\.txt is missing"):
        open_data(str(tmp_path), 8)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "manifest.json").write_text("{"), "is damaged"),
        (lambda d: (d / "manifest.json").write_text('{"format_version": 9}'), "format 9, newer than"),
        (lambda d: next(d.glob("train-*")).unlink(), "is missing: copy it again"),
        (lambda d: next(d.glob("train-*")).write_bytes(b"x"), "has 1 bytes, not"),
        (lambda d: (d / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nx\n"), "is not the vocabulary"),
        (
            lambda d: (d / "manifest.json").write_text(
                (d / "manifest.json").read_text().replace('"max_seq_length": 32,\n "', '"max_seq_length": 8,\n "')
            ),
            "was altered",
        ),
        (lambda d: (d / "token_counts.txt").unlink(), "token_counts.txt is missing or damaged"),
    ],
)
def test_damaged_directories(data_dir, tmp_path, damage, message):
    for path in data_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        open_data(str(tmp_path), SEQ_LENGTH)


def test_another_length_is_refused(data_dir):
    with pytest.raises(UserError, match=r"examples of 32 tokens but config\.data\.max_seq_length=64"):
        open_data(str(data_dir), 64)
