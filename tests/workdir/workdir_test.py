import json

import pytest
import tensorflow as tf

from electra_cli.errors import ResumableError
from electra_cli.workdir.workdir import Workdir


def test_events_follow_each_other_and_what_a_kill_cut_is_removed(tmp_path):
    file = tmp_path / "events.jsonl"
    with Workdir(str(tmp_path)) as workdir:
        workdir.write_event("start", 0, devices="CPU", lost_step=0)
    with open(file, "a") as stream:
        stream.write('{"time": "2026-')
    with Workdir(str(tmp_path)) as workdir:
        workdir.write_event("stop", 5, reason="SIGTERM")
        workdir.write_event("end", 6)
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
        workdir.write_event("start", 0)
        workdir.write_samples(0, [])
        workdir.write_histograms(0, [])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    with Workdir(str(tmp_path)) as workdir:
        monkeypatch.setattr(tf.io.gfile, "GFile", full)
        with pytest.raises(ResumableError, match=r"events\.jsonl of step 8 could not be written .*No space left"):
            workdir.write_event("stop", 8, reason="SIGTERM")
