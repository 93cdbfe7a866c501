import os

import pytest

from electra_cli.errors import UserError
from electra_cli.loggers.lines import Lines
from electra_cli.report import report
from tests.report.common import write_workdir


def test_the_page_lies_in_the_first_workdir(tmp_path):
    paths = [str(write_workdir(tmp_path / name)) for name in ("a", "b")]
    assert report.write_report(paths, num_samples=0) == f"Written: {paths[0]}/report.html (0.3 MB)"
    assert "</html>" in (tmp_path / "a" / "report.html").read_text()
    assert sorted(os.listdir(paths[1])) == ["config.json", "events.jsonl", "metrics.jsonl"]


def test_text_is_returned_or_written(tmp_path):
    path = str(write_workdir(tmp_path / "run"))
    text = report.write_report([path], output_format="text", num_samples=0)
    assert text.startswith("run: complete")
    said = report.write_report([path], str(tmp_path / "run.txt"), output_format="text", num_samples=0)
    assert said == f"Written: {tmp_path}/run.txt ({os.path.getsize(tmp_path / 'run.txt') / 1000:.1f} KB)"
    assert (tmp_path / "run.txt").read_text().rstrip() == text


def test_notes_are_said(tmp_path):
    path = write_workdir(tmp_path / "run")
    with open(path / "metrics.jsonl", "a") as stream:
        stream.write("{\n")
    said = []
    report.write_report([str(path)], num_samples=0, logger=Lines(said.append))
    assert said[0] == f"{path}: 1 line is damaged in metrics.jsonl and left out, the first is line 9."


def test_outputs_that_cannot_be_written(tmp_path, monkeypatch):
    path = str(write_workdir(tmp_path / "run"))
    for output, message in (
        (str(tmp_path), "is a directory: give a file in it"),
        (str(tmp_path / "no" / "report.html"), "there is no directory .*; make it, or choose another"),
        ("/proc/report.html", "cannot be written"),
    ):
        with pytest.raises(UserError, match=f"^--output={output}.*{message}"):
            report.write_report([path], output, num_samples=0)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"report\.html cannot be written: No space left on device; choose another"):
        report.write_report([path], num_samples=0)
    assert "report.html" not in " ".join(os.listdir(path))


def test_a_page_without_the_samples_that_cannot_be_made(tmp_path):
    path = str(write_workdir(tmp_path / "run", overrides={"data.dir": str(tmp_path / "gone")}))
    said = []
    report.write_report([path], num_samples=2, logger=Lines(said.append))
    assert said[0].startswith(f"{path}: no samples: config.data.dir={tmp_path}/gone: no such directory")
    assert "no such directory" in (tmp_path / "run" / "report.html").read_text()
