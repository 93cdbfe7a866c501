import gzip
import itertools
import json
import os
import shutil

import pytest
import tensorflow as tf

pytest.importorskip("apache_beam")

from apache_beam.io.filesystem import FileMetadata, MatchResult
from apache_beam.io.localfilesystem import LocalFileSystem

from electra_cli.data import beam, beam_pipeline, prepare
from electra_cli.data import corpus as corpus_module
from electra_cli.data.packing import PrepareSettings
from electra_cli.data.tfrecords import file_checksum, read_manifest
from electra_cli.data.vocabulary_learning import LearningSettings
from electra_cli.errors import Interrupted, UserError
from tests.conftest import SEQ_LENGTH, VOCAB_SIZE, make_text
from tests.data.tokenization_test import train_model
from tests.finetuning.common import train_byte_level


@pytest.fixture
def small_chunks(monkeypatch):
    """Blocks of some 500 bytes, and a group of files for each 2,000."""
    monkeypatch.setattr(corpus_module, "_READ_BYTES", 500)
    monkeypatch.setattr(corpus_module, "_GROUP_BYTES", 2000)


def run(module, inputs, output, *, vocab_file=None, num_workers=1, overwrite=False, beam_options=None, **changes):
    options = {} if beam_options is None else {"beam_options": beam_options}
    return module.prepare(
        [str(path) for path in inputs],
        str(output),
        PrepareSettings(**{"max_seq_length": SEQ_LENGTH, "validation_fraction": 0.15, **changes}),
        vocab_file=vocab_file,
        learning=None if vocab_file else LearningSettings(VOCAB_SIZE, min_frequency=1),
        num_workers=num_workers,
        overwrite=overwrite,
        report=lambda *_: None,
        **options,
    )


def read(directory, split):
    """Returns the serialized records of all shards, in order."""
    manifest = read_manifest(str(directory))
    records = []
    for shard in manifest.splits[split]:
        found = list(tf.data.TFRecordDataset(str(directory / shard.file), manifest.compression).as_numpy_iterator())
        assert len(found) == shard.examples > 0
        records += found
    return records


def assert_same_data(first, second):
    """The same but for where shards end."""
    manifest = read_manifest(str(second))
    names = ["token_counts.txt", "vocab.txt", *manifest.models]
    assert sorted(path.name for path in second.iterdir()) == sorted(
        ["manifest.json", *names] + [shard.file for shards in manifest.splits.values() for shard in shards]
    )
    for split in ("train", "validation"):
        assert read(first, split) == read(second, split)
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    one, other = (json.loads((directory / "manifest.json").read_text()) for directory in (first, second))
    one_shards, other_shards = one.pop("splits"), other.pop("splits")
    for split in ("train", "validation"):
        for total in ("examples", "real_tokens"):
            assert sum(shard[total] for shard in one_shards[split]) == sum(
                shard[total] for shard in other_shards[split]
            )
    assert one.pop("fingerprint") and other.pop("fingerprint")
    assert one == other


def assert_both_paths_agree(tmp_path, inputs, **changes):
    local = run(prepare, inputs, tmp_path / "local", **changes)
    piped = run(beam, inputs, tmp_path / "piped", **changes)
    assert_same_data(tmp_path / "local", tmp_path / "piped")
    return local, piped


def test_a_path_is_no_pattern(tmp_path):
    for name in ("g1", "g[1]"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    assert beam._list(str(tmp_path / "g[1]")) == (str(tmp_path / "g[1]" / "file"),)


@pytest.mark.parametrize("packing", ["pairs", "single", "full"])
def test_the_same_examples_in_the_same_order(tmp_path, small_chunks, packing):
    inputs = [tmp_path / "a.txt", tmp_path / "b.txt.gz", tmp_path / "c"]
    inputs[0].write_text(make_text(40))
    inputs[1].write_bytes(gzip.compress(make_text(40, seed=1).encode()))
    inputs[2].mkdir()
    for index in range(3):
        lines = (json.dumps({"text": text}) for text in make_text(8, seed=index + 2).split("\n\n"))
        (inputs[2] / f"{index}.jsonl").write_text("\n".join(lines))
    local, piped = assert_both_paths_agree(tmp_path, inputs, packing=packing, shard_size_mb=0.005)
    assert local.num_examples("validation") > 10
    assert len(local.splits["train"]) > 3 and len(piped.splits["train"]) > 3


def test_one_shard_has_the_same_bytes(tmp_path):
    (tmp_path / "text.txt").write_text(make_text(60))
    local, piped = assert_both_paths_agree(tmp_path, [tmp_path / "text.txt"])
    assert local == piped
    assert local.fingerprint == piped.fingerprint


def test_ranges_without_examples_make_no_shard(tmp_path):
    (tmp_path / "text.txt").write_text(make_text(20))
    local, piped = assert_both_paths_agree(tmp_path, [tmp_path / "text.txt"], shard_size_mb=1e-6)
    # A shard an example, if ranges of keys held one each.
    assert len(local.splits["train"]) == local.num_examples("train")
    names = [shard.file for shard in piped.splits["train"]]
    assert 10 < len(names) < piped.num_examples("train")
    assert names == [f"train-{index:05}-of-{len(names):05}.tfrecord" for index in range(len(names))]


def test_given_words_and_lengths_without_a_validation_split(tmp_path):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"北京大学很美", "play", "##ing"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    (tmp_path / "text.txt").write_text("北京 大学 很 美\nplaying 北 京大学\n")
    assert_both_paths_agree(
        tmp_path,
        [tmp_path / "text.txt"],
        vocab_file=str(tmp_path / "vocab.txt"),
        word_boundaries="whitespace",
        validation_fraction=0.0,
    )


@pytest.mark.parametrize("packing", ["pairs", "full"])
def test_a_model_of_sentencepiece_or_byte_level_bpe(tmp_path, small_chunks, packing):
    (tmp_path / "text.txt").write_text(make_text(40))
    train_model(tmp_path / "spm.model")
    model = str(tmp_path / "spm.model")
    _, piped = assert_both_paths_agree(tmp_path, [tmp_path / "text.txt"], vocab_file=model, packing=packing)
    assert piped.sentencepiece_sha256 == file_checksum(model)
    assert not piped.lower_case
    tokenizer = str(tmp_path / "tokenizer.json")
    train_byte_level(tokenizer, make_text(9).splitlines())
    (tmp_path / "byte_level").mkdir()
    _, piped = assert_both_paths_agree(
        tmp_path / "byte_level", [tmp_path / "text.txt"], vocab_file=tokenizer, packing=packing
    )
    assert piped.tokenizer_sha256 == file_checksum(str(tmp_path / "byte_level" / "piped" / "tokenizer.json"))
    (tmp_path / "spm.model").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"spm\.model is no SentencePiece model"):
        run(beam, [tmp_path / "text.txt"], tmp_path / "other", vocab_file=model)


def test_how_the_vocabulary_was_learned_is_noted(tmp_path, small_chunks):
    (tmp_path / "text.txt").write_text(make_text(40))
    local, piped = assert_both_paths_agree(tmp_path, [tmp_path / "text.txt"])
    assert piped.settings["learning"] == local.settings["learning"] != {}
    assert piped.statistics["different_words"] > 10


def test_short_documents_and_bytes_that_are_no_text(tmp_path, small_chunks):
    text = make_text(40) + "\nonly four words here\n\n" * 3
    (tmp_path / "text.txt").write_bytes(text.replace("the", "th\xe9").encode("latin-1"))
    _, piped = assert_both_paths_agree(
        tmp_path, [tmp_path / "text.txt"], min_words=5, encoding_errors="replace", document_separator="blank_line"
    )
    assert piped.statistics["short_documents_dropped"] == 3
    assert sum(piped.statistics["replaced_characters"].values()) == text.count("the")


def chain(num_texts):
    """Texts of 300 words; each is near the one before, and further and further from the first."""
    return [" ".join(f"w{index}" for index in range(30 * number, 30 * number + 300)) for number in range(num_texts)]


@pytest.mark.parametrize(("deduplicate", "num_copies"), [("exact", 32), ("near", 46)])
def test_copies(tmp_path, small_chunks, deduplicate, num_copies):
    (tmp_path / "a.txt").write_text(make_text(30))
    (tmp_path / "b.txt").write_text("\n\n".join([make_text(30), *chain(20), *chain(2)]))
    inputs = [tmp_path / "a.txt", tmp_path / "b.txt"]
    _, piped = assert_both_paths_agree(tmp_path, inputs, deduplicate=deduplicate, min_words=3)
    assert piped.statistics["copies_dropped"] == num_copies


@pytest.mark.parametrize("packing", ["pairs", "full"])
def test_weights(tmp_path, small_chunks, packing):
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.txt").write_text(make_text(40, seed=seed))
    inputs = [tmp_path / "a.txt", tmp_path / "b.txt"]
    assert_both_paths_agree(tmp_path, inputs, packing=packing, input_weights=(0.5, 2.5))


def test_one_document_and_its_copies_are_held_out_where_chance_holds_out_none(tmp_path, small_chunks):
    (tmp_path / "text.txt").write_text("\n".join([make_text(12)] * 2))
    _, piped = assert_both_paths_agree(tmp_path, [tmp_path / "text.txt"], validation_fraction=1e-9)
    assert piped.num_examples("validation") % 2 == 0
    assert 0 < piped.num_examples("validation") < piped.num_examples("train")


BAD_INPUTS = {
    "damaged": (gzip.compress(make_text(50).encode())[:-200], "bad.txt.gz", {}),
    "no UTF-8": (make_text(50).encode() + b"\n\nb\xe4d", "bad.txt", {}),
    "no JSON": (b'{"text": "the small cat"}\n{"text": 1}', "bad.jsonl", {}),
    "no text": (b"\n \n\n", "empty.txt", {}),
    "no bytes": (b"", "empty.txt", {}),
    "one document": (make_text(60).replace("\n\n", "\n").encode(), "text.txt", {}),
    "short documents": (make_text(10).encode(), "text.txt", {"min_words": 9999}),
}


@pytest.mark.parametrize("deduplicate", ["none", "exact"])
@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_mistakes_are_told_as_by_the_local_path(tmp_path, data_dir, small_chunks, kind, deduplicate):
    content, name, changes = BAD_INPUTS[kind]
    (tmp_path / name).write_bytes(content)
    options = {"vocab_file": str(data_dir / "vocab.txt"), "deduplicate": deduplicate, **changes}
    messages = []
    for module in (prepare, beam):
        with pytest.raises(UserError) as caught:
            run(module, [tmp_path / name], tmp_path / "data", **options)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_of_several_mistakes_the_first_is_told(tmp_path, data_dir, small_chunks):
    (tmp_path / "a.txt").write_text(make_text(100))
    for name in ("b", "c", "d"):
        (tmp_path / f"{name}.txt").write_bytes(b"b\xe4d")
    inputs = [tmp_path / f"{name}.txt" for name in "abcd"]
    with pytest.raises(UserError, match=r"b\.txt, line 1, byte 1: 0xe4 is not UTF-8"):
        run(beam, inputs, tmp_path / "data", vocab_file=str(data_dir / "vocab.txt"))


def test_output_is_replaced_only_when_asked_and_whole(tmp_path):
    (tmp_path / "text.txt").write_text(make_text(30))
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "vocab.txt").write_text("x")
    with pytest.raises(UserError, match=r"data is not empty: .*--overwrite"):
        run(beam, [tmp_path / "text.txt"], tmp_path / "data")
    with pytest.raises(UserError, match="not UTF-8"):
        run(beam, [tmp_path / "text.txt", tmp_path / "bad.txt"], tmp_path / "data", overwrite=True)
    assert (tmp_path / "data" / "vocab.txt").read_text() == "x" and len(list((tmp_path / "data").iterdir())) == 1
    run(beam, [tmp_path / "text.txt"], tmp_path / "data", overwrite=True)
    run(prepare, [tmp_path / "text.txt"], tmp_path / "local")
    assert_same_data(tmp_path / "local", tmp_path / "data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.txt", "data", "local", "text.txt"]


class ObjectStore(LocalFileSystem):
    """`store://PATH`: files at PATH, of which the order of changes is kept."""

    changes: list[str] = []  # noqa: RUF012

    @classmethod
    def scheme(cls):
        return "store"

    def mkdirs(self, path):
        pass

    def match(self, patterns, limits=None):
        (result,) = super().match([self._local(pattern) for pattern in patterns], limits)
        return [MatchResult(*patterns, [FileMetadata(f"store:/{file.path}", 1) for file in result.metadata_list])]

    def create(self, path, *arguments, **options):
        self.changes.append(path)
        return super().create(self._local(path), *arguments, **options)

    def open(self, path, *arguments, **options):
        return super().open(self._local(path), *arguments, **options)

    def exists(self, path):
        return super().exists(self._local(path))

    def rename(self, source_file_names, destination_file_names):
        for source, target in zip(source_file_names, destination_file_names, strict=True):
            self.changes.append(target)
            os.rename(self._local(source), self._local(target))

    def delete(self, paths):
        self.changes += [f"-{path}" for path in paths]
        for path in paths:
            os.remove(self._local(path))

    @staticmethod
    def _local(path):
        return "/" + path.removeprefix("store://").lstrip("/")


def test_an_object_store_gets_the_manifest_last(tmp_path, small_chunks):
    (tmp_path / "text.txt").write_text(make_text(60))
    options = {"deduplicate": "exact", "shard_size_mb": 0.005}
    run(prepare, [tmp_path / "text.txt"], tmp_path / "local", **options)
    store = f"store:/{tmp_path}/data"
    (tmp_path / "data").mkdir()
    ObjectStore.changes.clear()
    run(beam, [tmp_path / "text.txt"], store, **options)
    changes = [change for change in ObjectStore.changes if "/partial-" not in change]
    assert [change.rsplit("/", 1)[-1] for change in changes[-3:]] == ["vocab.txt", "token_counts.txt", "manifest.json"]
    for directory in (tmp_path / "data").glob("partial-*"):
        shutil.rmtree(directory)  # empty; object stores have no directories
    assert_same_data(tmp_path / "local", tmp_path / "data")

    with pytest.raises(UserError, match=r"is not empty: choose another, or replace it with --overwrite"):
        run(beam, [tmp_path / "text.txt"], store, **options)
    (tmp_path / "data" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds files that were not written by this command \(mine\.txt\)"):
        run(beam, [tmp_path / "text.txt"], store, overwrite=True, **options)
    (tmp_path / "data" / "mine.txt").unlink()
    for directory in (tmp_path / "data").glob("partial-*"):
        shutil.rmtree(directory)
    before = sorted(path.name for path in (tmp_path / "data").iterdir())
    ObjectStore.changes.clear()
    run(beam, [tmp_path / "text.txt"], store, overwrite=True, seed=1, **options)
    changes = [change for change in ObjectStore.changes if "/partial-" not in change]
    # All that was there goes before anything comes.
    gone = list(itertools.takewhile(lambda change: change.startswith("-"), changes))
    assert sorted(change.rsplit("/", 1)[-1] for change in gone) == before
    run(prepare, [tmp_path / "text.txt"], tmp_path / "other", seed=1, **options)
    for directory in (tmp_path / "data").glob("partial-*"):
        shutil.rmtree(directory)
    assert_same_data(tmp_path / "other", tmp_path / "data")


def test_file_systems_that_beam_does_not_know(tmp_path):
    (tmp_path / "text.txt").write_text(make_text(30))
    with pytest.raises(UserError, match=r"Beam knows no nosuch:// here; install what it needs"):
        run(beam, [tmp_path / "text.txt"], "nosuch://bucket/data")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--runner=NoSuchRunner", "--beam_options=--runner=NoSuchRunner: Unexpected pipeline runner: NoSuchRunner"),
        ("--direct_num_workers=x", r"--beam_options=--direct_num_workers=x: .*invalid int value: 'x'"),
        ("'", "--beam_options=': No closing quotation"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    (tmp_path / "text.txt").write_text(make_text(30))
    with pytest.raises(UserError, match=message):
        run(beam, [tmp_path / "text.txt"], tmp_path / "data", beam_options=options)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_runner_whose_job_service_gets_the_pipeline(tmp_path, data_dir):
    """As of Flink and Spark; here it lies in this process, as do the workers."""
    (tmp_path / "text.txt").write_text(make_text(30))
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    options = {"vocab_file": str(data_dir / "vocab.txt"), "deduplicate": "exact"}
    portable = "--runner=PortableRunner --job_endpoint=embed --environment_type=LOOPBACK"
    run(prepare, [tmp_path / "text.txt"], tmp_path / "local", **options)
    run(beam, [tmp_path / "text.txt"], tmp_path / "piped", beam_options=portable, **options)
    assert_same_data(tmp_path / "local", tmp_path / "piped")
    with pytest.raises(UserError, match=r"bad\.txt, line 1, byte 0: 0xff is not UTF-8"):
        run(beam, [tmp_path / "bad.txt"], tmp_path / "other", beam_options=portable, **options)


def test_a_stop_is_told_as_it_came(tmp_path, data_dir, monkeypatch):
    """In this process a signal comes while a step runs."""
    (tmp_path / "text.txt").write_text(make_text(30))

    def stop(*_):
        raise Interrupted("stopped by a signal")

    monkeypatch.setattr(beam_pipeline.Packer, "pack", stop)
    with pytest.raises(Interrupted, match=r"^stopped by a signal$"):
        run(beam, [tmp_path / "text.txt"], tmp_path / "data", vocab_file=str(data_dir / "vocab.txt"))
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_runner_that_fails_is_named(tmp_path, data_dir, monkeypatch):
    (tmp_path / "text.txt").write_text(make_text(30))
    vocab_file = str(data_dir / "vocab.txt")
    flink = f"--runner=FlinkRunner --flink_master=localhost:1 --flink_job_server_jar={tmp_path}/none"
    with pytest.raises(UserError, match=r"^FlinkRunner failed: Unable to parse jar URL"):
        run(beam, [tmp_path / "text.txt"], tmp_path / "data", vocab_file=vocab_file, beam_options=flink)

    def fail(*_):
        raise AssertionError("a defect")

    monkeypatch.setattr(beam_pipeline, "_leave_result", fail)
    portable = "--runner=PortableRunner --job_endpoint=embed --environment_type=LOOPBACK"
    with pytest.raises(UserError, match=r"^PortableRunner failed: Pipeline job-.* failed in state FAILED: "):
        run(beam, [tmp_path / "text.txt"], tmp_path / "data", vocab_file=vocab_file, beam_options=portable)
    with pytest.raises(AssertionError, match="a defect"):
        run(beam, [tmp_path / "text.txt"], tmp_path / "data", vocab_file=vocab_file)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_workers_that_do_not_see_the_output(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(make_text(30))
    monkeypatch.setattr(beam_pipeline, "_leave_result", lambda *_: None)
    with pytest.raises(UserError, match=r"left nothing in .*: give an --output_dir that all its machines write to"):
        run(beam, [tmp_path / "text.txt"], tmp_path / "data")


@pytest.mark.slow
def test_processes_of_the_local_runner(tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.txt").write_text(make_text(200, seed=index))
    inputs = [tmp_path / f"{index}.txt" for index in range(3)]
    assert_both_paths_agree(tmp_path, inputs, num_workers=2, deduplicate="near", shard_size_mb=0.03)
