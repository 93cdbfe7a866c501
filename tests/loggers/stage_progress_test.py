import json

from electra_cli.loggers import stage_progress
from electra_cli.loggers.lines import JsonLines
from electra_cli.loggers.logger import Logger
from electra_cli.loggers.stage_progress import StageProgress


def tell(progress, monkeypatch):
    """Two stages, of which the first is at 40 % after 20 seconds."""
    now = [100.0]
    monkeypatch.setattr(stage_progress.time, "monotonic", lambda: now[0])
    progress("counting words", 0.0)
    now[0] += 5
    progress("counting words", 0.1, 1_000_000)  # within ten seconds of the last
    now[0] += 15
    progress("counting words", 0.4, 8_000_000)
    progress("writing", 0.0)
    progress.end()


LINES = ["counting words", "counting words: 40%, 8 MB, 0.4 MB/s, 0:00:30 left", "writing"]


def test_lines(monkeypatch, capsys):
    tell(StageProgress(), monkeypatch)
    found = capsys.readouterr()
    assert found.err.splitlines() == LINES and found.out == ""


def test_through_a_logger(monkeypatch, capsys):
    lines = []
    tell(StageProgress(JsonLines(lines.append)), monkeypatch)
    assert [(record["event"], record["text"]) for record in map(json.loads, lines)] == [("status", x) for x in LINES]
    tell(StageProgress(Logger()), monkeypatch)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_one_line_a_stage_which_ends_as_done(monkeypatch, capsys):
    progress = StageProgress()
    progress._is_terminal = True
    tell(progress, monkeypatch)
    counting, writing = capsys.readouterr().err.split("\n")[:2]
    assert counting.split("\r")[-1] == "counting words: done in 0:00:20\x1b[K"
    assert writing.split("\r")[-1] == "writing: done in 0:00:00\x1b[K"
