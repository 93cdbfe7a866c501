import json
import math
import os
import subprocess
import sys

import pytest

from electra_cli.errors import Interrupted, UserError
from electra_cli.loggers import lines as lines_module
from electra_cli.loggers.lines import JsonLines, Lines, Quiet, StageProgress
from electra_cli.loggers.logger import Logger, format_duration

METRICS = {"total_loss": 1.5, "rtd_auc": math.nan}


def log_all(logger):
    with logger:
        logger.notice("Devices: 1")
        with logger.status("Restoring"):
            pass
        with logger.status("Building step 1", in_lines=True):
            pass
        logger.progress(5, 10, 2.5, "phase 1 of 2")
        logger.metrics("train", 5, METRICS, "step 5/10  total_loss 1.500")
        logger.checkpoint(5, "run/checkpoints/ckpt-5")
        logger.warning("Warning, step 5")
        logger.result("evaluation", {"step": 5, **METRICS, "trials": [{"loss": math.inf}]}, "a\ntable")


def test_lines():
    lines = []
    log_all(Lines(lines.append))
    assert lines == [
        "Devices: 1", "Building step 1.", "step 5/10  total_loss 1.500", "Warning, step 5", "a\ntable"
    ]  # fmt: skip


def test_quiet_leaves_warnings_and_results():
    lines = []
    log_all(Quiet(Lines(lines.append)))
    assert lines == ["Warning, step 5", "a\ntable"]
    log_all(Logger())


def test_json():
    lines = []
    log_all(JsonLines(lines.append))
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert all(record.pop("time").endswith("Z") for record in records)
    metrics = {"step": 5, "total_loss": 1.5, "rtd_auc": None}
    assert records == [
        {"event": "notice", "text": "Devices: 1"},
        {"event": "status", "text": "Restoring"},
        {"event": "status", "text": "Building step 1"},
        {"event": "progress", "step": 5, "num_steps": 10, "seconds_left": 2.5, "phase": "phase 1 of 2"},
        {"event": "train", **metrics},
        {"event": "checkpoint", "step": 5, "path": "run/checkpoints/ckpt-5"},
        {"event": "warning", "text": "Warning, step 5"},
        {"event": "evaluation", **metrics, "trials": [{"loss": None}]},
        {"event": "end", "outcome": "done"},
    ]


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (Interrupted("stopped by SIGTERM"), {"outcome": "interrupted", "text": "stopped by SIGTERM"}),
        (UserError("no such file"), {"outcome": "error", "text": "no such file"}),
        (ZeroDivisionError("division"), {"outcome": "error", "text": "ZeroDivisionError: division"}),
    ],
)
def test_json_tells_how_it_ended(error, end):
    for quiet in (False, True):
        lines = []
        logger = JsonLines(lines.append)
        with pytest.raises(type(error)), Quiet(logger) if quiet else logger:
            raise error
        record = json.loads(lines[-1])
        assert {**record, "time": ""} == {"time": "", "event": "end", **end}


def test_progress_in_json_comes_every_ten_seconds():
    now, lines = [0.0], []
    logger = JsonLines(lines.append, clock=lambda: now[0])
    for step in range(25):
        now[0] = float(step)
        logger.progress(step, 25, math.nan)
    assert [json.loads(line)["step"] for line in lines] == [0, 10, 20]
    assert json.loads(lines[0])["seconds_left"] is None and "phase" not in json.loads(lines[0])


@pytest.mark.parametrize(("seconds", "text"), [(5.4, "5s"), (65, "1m 5s"), (3661, "1h 1m"), (90_000, "1d 1h")])
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_work_goes_on_when_nobody_reads():
    code = (
        "import sys; from electra_cli.loggers.lines import print_line\n"
        "for number in range(3): print_line('a line')\n"
        "print('done', file=sys.stderr)"
    )
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, "done\n")


def report_stages(progress, monkeypatch):
    """Two stages, of which the first is at 40 % after 20 seconds."""
    now = [100.0]
    monkeypatch.setattr(lines_module.time, "monotonic", lambda: now[0])
    progress("counting words", 0.0)
    now[0] += 5
    progress("counting words", 0.1, 1_000_000)  # within ten seconds of the last
    now[0] += 15
    progress("counting words", 0.4, 8_000_000)
    progress("writing", 0.0)
    progress.end()


STAGES = ["counting words", "counting words: 40%, 8 MB, 0.4 MB/s, 0:00:30 left", "writing"]


def test_lines_of_stages(monkeypatch, capsys):
    report_stages(StageProgress(), monkeypatch)
    found = capsys.readouterr()
    assert found.err.splitlines() == STAGES and found.out == ""


def test_stages_through_a_logger(monkeypatch, capsys):
    lines = []
    report_stages(StageProgress(JsonLines(lines.append)), monkeypatch)
    assert [(record["event"], record["text"]) for record in map(json.loads, lines)] == [("status", x) for x in STAGES]
    report_stages(StageProgress(Logger()), monkeypatch)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_one_line_a_stage_which_ends_as_done(monkeypatch, capsys):
    progress = StageProgress()
    progress._is_terminal = True
    report_stages(progress, monkeypatch)
    counting, writing = capsys.readouterr().err.split("\n")[:2]
    assert counting.split("\r")[-1] == "counting words: done in 0:00:20\x1b[K"
    assert writing.split("\r")[-1] == "writing: done in 0:00:00\x1b[K"
