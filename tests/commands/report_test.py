"""`electra-report` as a user calls it."""

import subprocess
import sys

import pytest

from tests.cli.app_test import assert_user_error, call, call_and_time
from tests.report.common import write_workdir

REPORT = "electra_cli.commands.report"


def test_workdirs_may_stand_anywhere(tmp_path):
    paths = [write_workdir(tmp_path / name) for name in ("a", "b")]
    result = call(REPORT, paths[0], f"--output={tmp_path}/page.html", "--samples=0", paths[1])
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Written: {tmp_path}/page.html")
    assert "<title>a, b" in (tmp_path / "page.html").read_text()


def test_without_samples_it_is_quick_and_does_not_import_tensorflow(tmp_path):
    path = write_workdir(tmp_path / "run")
    result, seconds = call_and_time(REPORT, path, "--format=text", "--samples=0")
    assert result.returncode == 0 and result.stdout.startswith("run: complete, step 40 of 40")
    assert seconds < 2.0
    code = f"""import sys, atexit, os
sys.argv = ["x", {str(path)!r}, "--samples=0"]
atexit.register(lambda: os._exit(7 if "tensorflow" in sys.modules else 0))
import {REPORT} as report
report.main()"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_help_has_examples():
    result = call(REPORT, "--help")
    assert result.returncode == 0 and result.stderr == ""
    assert "small small_mlm --output=comparison.html" in result.stdout and "--samples" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "no workdir is given: electra-report WORKDIR [WORKDIR ...]"),
        (["/nowhere"], "/nowhere: no such directory; give the workdir of electra-pretrain"),
        (["/tmp", "--samples=-1"], "--samples=-1: must not be negative"),
        (["/tmp", "--format=pdf"], "--format=pdf: must be one of html, text"),
        (["/tmp", "--ouput=x"], "there is no flag --ouput; did you mean --output?"),
    ],
)
def test_mistakes(arguments, part):
    assert_user_error(call(REPORT, *arguments), part)
