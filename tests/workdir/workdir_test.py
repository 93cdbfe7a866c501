import json

import pytest
import tensorflow as tf

from electra_cli import files
from electra_cli.config.resolution import resolve
from electra_cli.data.tokenization import TokenizerSettings
from electra_cli.data.vocabulary import SPECIAL_TOKENS, Vocabulary, WordRules
from electra_cli.errors import ResumableError, UserError
from electra_cli.workdir.workdir import RunRecords, Workdir
from tests.conftest import small_config


def test_events_follow_each_other_and_what_a_kill_cut_is_removed(tmp_path):
    file = tmp_path / "events.jsonl"
    RunRecords(str(tmp_path)).event("start", 0, devices="CPU", lost_step=0)
    with open(file, "a") as stream:
        stream.write('{"time": "2026-')
    records = RunRecords(str(tmp_path))
    records.event("stop", 5, reason="SIGTERM")
    records.event("end", 6)
    events = [json.loads(line) for line in file.read_text().splitlines()]
    times = [event.pop("time") for event in events]
    assert events == [
        {"event": "start", "step": 0, "devices": "CPU", "lost_step": 0},
        {"event": "stop", "step": 5, "reason": "SIGTERM"},
        {"event": "end", "step": 6},
    ]
    assert times == sorted(times) and times[0].endswith("+00:00")


def test_other_workers_write_nothing(tmp_path):
    with Workdir(str(tmp_path), is_writer=False) as workdir:
        tokenizer = TokenizerSettings(Vocabulary(SPECIAL_TOKENS), WordRules(True))
        workdir.write_config(resolve(small_config(tmp_path), 160), "fingerprint", "CPU", tokenizer)
        assert workdir.drop_metrics_after(0) == []
        with workdir.recording() as logger:
            logger.event("start", 0)
            logger.samples(0, [])
            logger.histograms(0, [])
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_keeps_the_weights_it_began_with_wherever_it_resumes(tmp_path, monkeypatch):
    tokenizer = TokenizerSettings(Vocabulary(SPECIAL_TOKENS), WordRules(True))
    config = small_config(tmp_path)
    for name, resumes in (("first", False), ("second", True)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        config.init.checkpoint = f"{name}_weights"  # which are gone when it resumes
        with Workdir(str(tmp_path / "run")) as workdir:
            workdir.write_config(resolve(config, 160), "fingerprint", "CPU", tokenizer, resumes=resumes)
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["directory"] == str(tmp_path / "second")
    assert record["config"]["init"]["checkpoint"] == str(tmp_path / "first" / "first_weights")


def test_links_are_not_followed_for_writing(tmp_path):
    precious, run = tmp_path / "precious", tmp_path / "run"
    precious.write_text("precious")
    run.mkdir()
    (tmp_path / "way").symlink_to(run)
    for name in (".lock", "events.jsonl", "metrics.jsonl"):
        (run / name).symlink_to(precious)
    (run / "vocab.txt").symlink_to(precious)
    message = r"is a symbolic link, which is not followed: remove it"
    with pytest.raises(UserError, match=rf"run/\.lock {message}"), Workdir(str(run)):
        pass
    with pytest.raises(UserError, match=rf"run/metrics\.jsonl {message}"):
        RunRecords(str(run)).metrics("train", 2, {"loss": 1.0}, "")
    (run / ".lock").unlink()
    (run / ".lock").write_text("kept")
    # A link to a workdir is one.
    with Workdir(str(tmp_path / "way")) as workdir, pytest.raises(BlockingIOError):
        tokenizer = TokenizerSettings(Vocabulary(SPECIAL_TOKENS), WordRules())
        workdir.write_config(resolve(small_config(tmp_path), 160), "fingerprint", "CPU", tokenizer)
        files.lock(str(run))
    assert (run / ".lock").read_text() == "kept"
    assert (run / "vocab.txt").read_bytes() == Vocabulary(SPECIAL_TOKENS).to_bytes()
    assert precious.read_text() == "precious"
    assert not [path for path in run.iterdir() if ".tmp" in path.name]


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(files, "open_file", full)
    with pytest.raises(ResumableError, match=r"events\.jsonl of step 8 could not be written .*No space left"):
        RunRecords(str(tmp_path)).event("stop", 8, reason="SIGTERM")
