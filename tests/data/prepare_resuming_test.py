"""A preparation that is stopped, and what the same command makes of it."""

import errno
import json
import os

import pytest

from electra_cli import files
from electra_cli.data import prepare as prepare_module
from electra_cli.data import spool as spool_module
from electra_cli.data import workers
from electra_cli.errors import Interrupted, ResumableError, UserError
from tests.conftest import make_text, prepare_small
from tests.data import corpus_test
from tests.data.output_directory_test import Killed
from tests.data.prepare_test import assert_same_files


def interrupted_at(monkeypatch, module, name, call, error):
    """Makes the function raise at its n-th call."""
    original = getattr(module, name)
    calls = []

    def wrapper(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            raise error
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, wrapper)
    return original


PLACES = [
    (prepare_module, "learn_vocabulary", 1),
    (prepare_module.Preparation, "_write_note", 3),
    (prepare_module, "sign_documents", 3),
    (prepare_module, "pack_chunk", 1),
    (prepare_module, "pack_chunk", 5),
    (workers, "write_shard", 1),
    (workers, "write_shard", 3),
    (spool_module.os, "fsync", 5),
    (spool_module.os, "fsync", 6),
]


@pytest.mark.parametrize(("module", "name", "call"), PLACES, ids=[f"{name}-{call}" for _, name, call in PLACES])
def test_a_stopped_preparation_goes_on(tmp_path, monkeypatch, module, name, call):
    # Blocks of 500 bytes, and a flush of the spool every few of them.
    monkeypatch.setattr(corpus_test.corpus_module, "_READ_BYTES", 500)
    monkeypatch.setattr(spool_module, "_BUFFER_BYTES", 3000)
    (tmp_path / "text.txt").write_text(make_text(60) + "\n" + make_text(10))
    options = {"shard_size_mb": 0.003, "deduplicate": "exact"}
    whole, manifest = prepare_small(tmp_path / "text.txt", tmp_path / "whole", **options)
    assert len(manifest.splits["train"]) > 3
    original = interrupted_at(monkeypatch, module, name, call, Killed())
    with pytest.raises(Killed):
        prepare_small(tmp_path / "text.txt", tmp_path / "stopped", **options)
    assert not (tmp_path / "stopped").exists()
    monkeypatch.setattr(module, name, original)
    num_packed = []
    pack_chunk = prepare_module.pack_chunk
    monkeypatch.setattr(prepare_module, "pack_chunk", lambda *task: num_packed.append(1) or pack_chunk(*task))
    resumed, _ = prepare_small(tmp_path / "text.txt", tmp_path / "stopped", **options)
    assert_same_files(whole, resumed)
    if name == "write_shard":
        assert not num_packed  # nothing was tokenized twice
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped", "text.txt", "whole"]


@pytest.mark.parametrize(("module", "name", "call"), [PLACES[4], PLACES[5]], ids=["packing", "writing shards"])
def test_progress_without_coverage_as_older_versions_record_it_is_used(tmp_path, monkeypatch, module, name, call):
    monkeypatch.setattr(corpus_test.corpus_module, "_READ_BYTES", 500)
    monkeypatch.setattr(spool_module, "_BUFFER_BYTES", 3000)
    (tmp_path / "text.txt").write_text(make_text(60))
    _, expected = prepare_small(tmp_path / "text.txt", tmp_path / "whole")
    original = interrupted_at(monkeypatch, module, name, call, Killed())
    with pytest.raises(Killed):
        prepare_small(tmp_path / "text.txt", tmp_path / "stopped")
    monkeypatch.setattr(module, name, original)
    (progress,) = (tmp_path / "stopped.partial").glob("*/examples.json")
    record = json.loads(progress.read_text())
    assert record["totals"].pop("coverage")["characters"] > 0
    progress.write_text(json.dumps(record))
    _, manifest = prepare_small(tmp_path / "text.txt", tmp_path / "stopped")
    assert manifest.splits == expected.splits
    # Only what was tokenized since is counted.
    counted, all_of_it = (item.statistics.pop("coverage") for item in (manifest, expected))
    assert counted.get("characters", 0) < all_of_it["characters"] and bool(counted) == (name == "pack_chunk")
    assert manifest.statistics == expected.statistics


def test_what_another_job_left_is_not_used(tmp_path, monkeypatch, corpus_file, data_dir):
    original = interrupted_at(monkeypatch, workers, "write_shard", 1, Killed())
    with pytest.raises(Killed):
        prepare_small(corpus_file, tmp_path / "data", seed=5)
    monkeypatch.setattr(workers, "write_shard", original)
    prepare_small(corpus_file, tmp_path / "data")
    assert_same_files(data_dir, tmp_path / "data")


def test_a_signal_leaves_what_is_needed_to_go_on(tmp_path, monkeypatch, corpus_file):
    interrupted_at(monkeypatch, workers, "write_shard", 1, Interrupted("stopped"))
    with pytest.raises(Interrupted):
        prepare_small(corpus_file, tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data.partial"]


def test_a_full_disk_is_named_and_loses_nothing(tmp_path, monkeypatch, corpus_file, data_dir):
    full = OSError(28, "No space left on device")
    original = interrupted_at(monkeypatch, workers, "write_shard", 1, full)
    with pytest.raises(ResumableError, match=r"no space is left on the disk of .*data\.partial: make room"):
        prepare_small(corpus_file, tmp_path / "data")
    monkeypatch.setattr(workers, "write_shard", original)
    prepare_small(corpus_file, tmp_path / "data")
    assert_same_files(data_dir, tmp_path / "data")


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_failure_to_read_loses_nothing(tmp_path, monkeypatch, corpus_file, data_dir, call):
    stale = OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    original = interrupted_at(monkeypatch, files, "open_file", call, stale)
    with pytest.raises(ResumableError, match=r"cannot be read.*: Stale file handle; once .*the same command resumes"):
        prepare_small(corpus_file, tmp_path / "data")
    assert (tmp_path / "data.partial" / "vocab.txt").exists() == (call > 1)
    monkeypatch.setattr(files, "open_file", original)
    prepare_small(corpus_file, tmp_path / "data")
    assert_same_files(data_dir, tmp_path / "data")


def test_an_input_that_is_gone_for_a_while_loses_nothing(tmp_path, monkeypatch, corpus_file, data_dir):
    text = tmp_path / "text.txt"
    text.write_bytes(corpus_file.read_bytes())
    learn = prepare_module.learn_vocabulary
    monkeypatch.setattr(
        prepare_module, "learn_vocabulary", lambda *given: text.rename(f"{text}.gone") and learn(*given)
    )
    with pytest.raises(
        ResumableError, match="no such file or directory; once it can be read, the same command resumes"
    ):
        prepare_small(text, tmp_path / "data")
    (tmp_path / "text.txt.gone").rename(text)
    prepare_small(text, tmp_path / "data")  # where nothing is learned again
    assert_same_files(data_dir, tmp_path / "data")


def test_two_preparations_do_not_share_a_directory(tmp_path, monkeypatch, corpus_file):
    def meet(*_, **__):
        with pytest.raises(UserError, match="another process is writing it"):
            prepare_small(corpus_file, tmp_path / "data")
        raise Killed

    monkeypatch.setattr(workers, "write_shard", meet)
    with pytest.raises(Killed):
        prepare_small(corpus_file, tmp_path / "data")
