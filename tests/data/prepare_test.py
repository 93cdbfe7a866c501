import filecmp
import gzip
import json
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from electra_cli.data.input_pipeline import parse_split
from electra_cli.data.packing import PrepareSettings
from electra_cli.data.prepare import prepare
from electra_cli.data.source import open_data
from electra_cli.data.spool import Totals
from electra_cli.data.tfrecords import read_manifest, read_token_counts
from electra_cli.data.tokenization import Tokenizer
from electra_cli.data.vocabulary import Vocabulary, WordRules
from electra_cli.data.vocabulary_learning import LearningSettings
from electra_cli.errors import UserError
from tests.conftest import SEQ_LENGTH, VOCAB_SIZE, make_text, prepare_small
from tests.data import corpus_test


def read_records(directory, split):
    manifest = read_manifest(str(directory))
    files = [str(directory / shard.file) for shard in manifest.splits[split]]
    for record in tf.data.TFRecordDataset(files, manifest.compression):
        feature = tf.train.Example.FromString(record.numpy()).features.feature
        yield tuple(feature["input_word_ids"].int64_list.value), feature["first_segment_length"].int64_list.value[0]


def assert_same_files(first, second):
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert filecmp.cmpfiles(first, second, names, shallow=False) == (names, [], [])


def test_every_token_of_the_corpus_is_in_the_records(data_dir, corpus_file):
    vocabulary = Vocabulary.from_file(str(data_dir / "vocab.txt"))
    assert vocabulary.size == VOCAB_SIZE
    tokenizer = Tokenizer(vocabulary, WordRules(True))
    lines = [line for document in corpus_test.read(corpus_file) for line in document.lines]
    expected = np.bincount([token for ids in tokenizer.encode_lines(lines) for token in ids], minlength=VOCAB_SIZE)
    records = [*read_records(data_dir, "train"), *read_records(data_dir, "validation")]
    found = np.bincount([token for ids, _ in records for token in ids], minlength=VOCAB_SIZE)
    is_special = np.isin(np.arange(VOCAB_SIZE), [vocabulary.cls_id, vocabulary.sep_id])
    np.testing.assert_array_equal(found[~is_special], expected[~is_special])
    for ids, first_segment_length in records:
        assert len(ids) <= SEQ_LENGTH
        assert ids[0] == vocabulary.cls_id and ids[-1] == ids[first_segment_length - 1] == vocabulary.sep_id
        assert ids.count(vocabulary.sep_id) == 1 + (first_segment_length < len(ids))


def test_manifest_counts_what_is_there(data_dir):
    manifest = read_manifest(str(data_dir))
    train = list(read_records(data_dir, "train"))
    assert manifest.num_examples("train") == len(train)
    assert manifest.real_tokens("train") == sum(len(ids) for ids, _ in train)
    counts = np.bincount([token for ids, _ in train for token in ids], minlength=VOCAB_SIZE)
    np.testing.assert_array_equal(read_token_counts(str(data_dir)), counts)
    assert manifest.statistics["documents"] == 150
    assert "/" not in json.dumps(manifest.settings)


def test_same_bytes_for_any_number_of_workers(corpus_file, data_dir, tmp_path):
    prepare_small(corpus_file, tmp_path / "three", num_workers=3)
    assert_same_files(data_dir, tmp_path / "three")
    prepare_small(corpus_file, tmp_path / "other", seed=1)
    assert read_manifest(str(tmp_path / "other")).fingerprint != read_manifest(str(data_dir)).fingerprint


def test_shards_hold_equal_parts_of_one_shuffle(corpus_file, tmp_path):
    whole, _ = prepare_small(corpus_file, tmp_path / "whole")
    parts, manifest = prepare_small(corpus_file, tmp_path / "parts", shard_size_mb=0.01)
    sizes = [shard.examples for shard in manifest.splits["train"]]
    assert len(sizes) > 2 and max(sizes) - min(sizes) <= 1
    assert list(read_records(parts, "train")) == list(read_records(whole, "train"))


def test_copies_of_a_document_are_never_on_both_sides(tmp_path):
    text = make_text(60)
    (tmp_path / "text.txt").write_text(text + "\n" + text)
    directory, manifest = prepare_small(tmp_path / "text.txt", tmp_path / "data", validation_fraction=0.3)
    assert manifest.num_examples("validation") > 20
    assert not set(read_records(directory, "train")) & set(read_records(directory, "validation"))


def test_one_document_is_held_out_where_chance_holds_out_none(tmp_path):
    (tmp_path / "text.txt").write_text(make_text(12))
    _, tiny = prepare_small(tmp_path / "text.txt", tmp_path / "tiny", validation_fraction=1e-9)
    _, none = prepare_small(tmp_path / "text.txt", tmp_path / "none", validation_fraction=0.0)
    assert 0 < tiny.num_examples("validation") < none.num_examples("train") / 4
    assert tiny.num_examples("train") + tiny.num_examples("validation") == none.num_examples("train")
    assert none.splits["validation"] == ()


def test_all_copies_of_that_document_are_held_out(tmp_path):
    text = make_text(4)
    (tmp_path / "text.txt").write_text("\n".join([text] * 3))
    directory, manifest = prepare_small(tmp_path / "text.txt", tmp_path / "data", validation_fraction=1e-9)
    assert manifest.num_examples("validation") % 3 == 0
    assert not set(read_records(directory, "train")) & set(read_records(directory, "validation"))


def test_one_document_cannot_be_divided(tmp_path):
    (tmp_path / "text.txt").write_text(make_text(60).replace("\n\n", "\n"))
    with pytest.raises(UserError, match=r"1 document\(s\), and all of them would be held out.*--validation_fraction=0"):
        prepare_small(tmp_path / "text.txt", tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_gzip_gives_the_same_data(corpus_file, data_dir, tmp_path):
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(corpus_file.read_bytes()))
    prepare_small(tmp_path / "text.txt.gz", tmp_path / "data")
    assert_same_files(data_dir, tmp_path / "data")


def test_failure_leaves_what_was_there(corpus_file, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "vocab.txt").write_text("x")
    with pytest.raises(UserError, match=r"data is not empty: .*--overwrite"):
        prepare_small(corpus_file, tmp_path / "data")
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        prepare_to(tmp_path / "data", tmp_path / "bad.txt", PrepareSettings(), num_workers=2)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bad.txt", "data", "vocab.txt"]


def test_a_directory_with_other_files_is_never_replaced(corpus_file, tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    (mine / "thesis").mkdir(parents=True)
    for name in ("text.txt", "manifest.json", *"abcd"):
        (mine / name).write_text("x")
    message = r"mine holds files that were not written by this command \(a, b, c, d, \.\.\.\): choose another directory"
    with pytest.raises(UserError, match=message):
        prepare_small(corpus_file, mine)
    with pytest.raises(UserError, match=message):
        prepare_to(mine, mine / "text.txt", PrepareSettings(), num_workers=1)
    assert {path.name for path in mine.iterdir()} == {"text.txt", "manifest.json", "thesis", *"abcd"}
    (tmp_path / "here/below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here/below")
    for directory in (tmp_path / "here/below", tmp_path / "here"):
        with pytest.raises(UserError, match="is the directory that you are in: choose one to create"):
            prepare_to(directory, corpus_file, PrepareSettings(), num_workers=1)
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine").write_text("x")
    with pytest.raises(UserError, match=r"out\.partial is needed for unfinished output, and holds other files"):
        prepare_small(corpus_file, tmp_path / "out")
    assert (tmp_path / "out.partial" / "mine").exists()


def prepare_to(directory, file, settings, num_workers):
    prepare(
        [str(file)],
        str(directory),
        settings,
        learning=LearningSettings(VOCAB_SIZE, min_frequency=1),
        num_workers=num_workers,
        overwrite=True,
        report=lambda *_: None,
    )


def test_a_vocabulary_is_learned_from_a_chunk_at_least(tmp_path):
    (tmp_path / "a.txt").write_text(make_text(50))
    learning = LearningSettings(VOCAB_SIZE, min_frequency=1, sample_mb=1e-6)
    manifest = prepare(
        [str(tmp_path / "a.txt")],
        str(tmp_path / "data"),
        PrepareSettings(max_seq_length=SEQ_LENGTH),
        learning=learning,
        num_workers=1,
        overwrite=False,
        report=lambda *_: None,
    )
    assert manifest.statistics["vocabulary_text_bytes"] == (tmp_path / "a.txt").stat().st_size


def test_overwriting_replaces_the_whole(corpus_file, data_dir, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00007.tfrecord").write_text("x")
    (tmp_path / "data.partial.old").mkdir()  # left by a kill between two renames
    (tmp_path / "data.partial.old" / "older").write_text("x")
    settings = PrepareSettings(max_seq_length=SEQ_LENGTH, validation_fraction=0.15)
    prepare_to(tmp_path / "data", corpus_file, settings, num_workers=1)
    assert_same_files(data_dir, tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_unwritable_output(corpus_file, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        prepare_small(corpus_file, tmp_path / "file" / "data")
    with pytest.raises(UserError, match="is a file"):
        prepare_small(corpus_file, tmp_path / "file")


def test_case_of_a_given_vocabulary_is_checked(corpus_file, data_dir, tmp_path):
    tokens = Vocabulary.from_file(str(data_dir / "vocab.txt")).tokens
    (tmp_path / "cased.txt").write_text("\n".join([*tokens, *(f"Word{index}" for index in range(50))]))
    with pytest.raises(UserError, match=r"is cased \(50 tokens with capitals or accents\): add --lower_case=false"):
        prepare([str(corpus_file)], str(tmp_path / "data"), PrepareSettings(), vocab_file=str(tmp_path / "cased.txt"),
                num_workers=1, overwrite=False, report=lambda *_: None)  # fmt: skip


def test_a_given_segmentation_is_kept(tmp_path):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"北京大学很美", "play", "##ing"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    (tmp_path / "text.txt").write_text("北京 大学 很 美\nplaying 北 京大学\n")
    settings = PrepareSettings(max_seq_length=32, validation_fraction=0.0, word_boundaries="whitespace")
    prepare([str(tmp_path / "text.txt")], str(tmp_path / "data"), settings, vocab_file=str(tmp_path / "vocab.txt"),
            num_workers=1, overwrite=False, report=lambda *_: None)  # fmt: skip
    split = open_data(str(tmp_path / "data"), 32).train
    dataset = tf.data.TFRecordDataset(split.files, compression_type=split.compression).batch(1)
    batch = parse_split(next(iter(dataset)), split, 32, 0)
    ids = [tokens[token] for token in batch["input_word_ids"][0].numpy() if token]
    continues = batch["continues_word"][0].numpy()[: len(ids)]
    words = "".join(("" if flag else " ") + token for token, flag in zip(ids, continues, strict=True)).split()
    assert [word for word in words if word[0] != "["] == ["北京", "大学", "很", "美", "play##ing", "北", "京大学"]
    counts = dict(zip(tokens, read_token_counts(str(tmp_path / "data")), strict=True))
    assert (counts["北"], counts["大"], counts["[PAD]"]) == (2, 2, 0)


def test_weights_take_documents_more_or_less_often(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.txt").write_text(make_text(200, seed=seed))
    inputs = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]

    def tokens(name, **settings):
        options = PrepareSettings(max_seq_length=SEQ_LENGTH, validation_fraction=0.1, **settings)
        manifest = prepare(
            inputs,
            str(tmp_path / name),
            options,
            learning=LearningSettings(VOCAB_SIZE, min_frequency=1),
            num_workers=1,
            overwrite=False,
            report=lambda *_: None,
        )
        return manifest.real_tokens("train"), manifest.real_tokens("validation")

    plain, held_out = tokens("plain")
    assert tokens("same", input_weights=(1.0, 1.0)) == (plain, held_out)
    both, both_held_out = tokens("double", input_weights=(2.0, 2.0))
    assert both == pytest.approx(2 * plain, rel=0.02)
    assert both_held_out == pytest.approx(held_out, rel=0.001)
    assert len(set(read_records(tmp_path / "double", "train"))) > 1.5 * len(
        set(read_records(tmp_path / "plain", "train"))
    )
    half, _ = tokens("half", input_weights=(0.5, 1.5))
    assert half == pytest.approx(plain, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_a_document_that_weights_leave_out_is_not_the_one_that_is_held_out(tmp_path, seed):
    (tmp_path / "text.txt").write_text(make_text(12, seed=seed))
    _, manifest = prepare_small(
        tmp_path / "text.txt", tmp_path / "data", input_weights=(0.2,), validation_fraction=0.01
    )
    assert manifest.num_examples("validation") and manifest.num_examples("train")


def test_full_examples_hold_several_documents(corpus_file, tmp_path):
    directory, manifest = prepare_small(corpus_file, tmp_path / "full", packing="full", document_separator="line")
    _, single = prepare_small(corpus_file, tmp_path / "single", packing="single", document_separator="line")
    vocabulary = Vocabulary.from_file(str(directory / "vocab.txt"))
    assert manifest.num_examples("train") < 0.75 * single.num_examples("train")
    split = open_data(str(directory), SEQ_LENGTH).train
    dataset = tf.data.TFRecordDataset(split.files, compression_type=split.compression).batch(10_000)
    batch = {name: value.numpy() for name, value in parse_split(next(iter(dataset)), split, SEQ_LENGTH, 0).items()}
    ids, mask = batch["input_word_ids"], batch["input_mask"]
    assert (mask.sum(axis=1) > SEQ_LENGTH - 8).mean() > 0.95
    # A document begins with [CLS], wherever the number of the document changes, and with position 0.
    begins = np.diff(batch["document_ids"], axis=1, prepend=0) == 1
    np.testing.assert_array_equal(begins, ids == vocabulary.cls_id)
    np.testing.assert_array_equal(begins, (batch["position_ids"] == 0) & (mask == 1))
    follows = (np.diff(batch["position_ids"], axis=1, prepend=-1) == 1) | begins | (mask == 0)
    assert follows.all()
    assert not batch["document_ids"][mask == 0].any()
    assert (batch["document_ids"].max(axis=1) > 1).mean() > 0.5
    assert not batch["input_type_ids"].any()


def test_bytes_that_are_no_text_are_counted_by_file(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.txt").write_text(make_text(60))
    (tmp_path / "in" / "bad.txt").write_bytes(make_text(30, seed=1).replace("the", "th\xe9").encode("latin-1"))
    _, manifest = prepare_small(tmp_path / "in", tmp_path / "data", encoding_errors="replace")
    ((path, number),) = manifest.statistics["replaced_characters"].items()
    assert path == str(tmp_path / "in" / "bad.txt")
    assert number == (tmp_path / "in" / "bad.txt").read_bytes().count(b"\xe9")


@pytest.mark.parametrize(
    ("megabytes", "expected"), [(0.1, 1), (1.0, 1), (1.1, 2), (2.5, 4), (5.0, 8), (8.0, 8), (8.5, 16), (16.1, 24)]
)
def test_workers_share_shards_evenly(megabytes, expected):
    totals = Totals(num_records=Counter({("train", 0): 1000}), num_bytes=Counter({"train": int(megabytes * 2e6)}))
    assert totals.num_shards("train", 1.0) == expected
    totals.num_records["train", 0] = 3
    assert totals.num_shards("train", 1.0) == min(3, expected)
