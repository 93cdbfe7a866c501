"""`electra-prepare` as a user calls it."""

import subprocess
import sys

from tests.conftest import make_text


def test_what_is_read_comes_first_and_what_to_do_with_it_last(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "books.txt").write_text(make_text(60))
    (tmp_path / "text" / "reviews.tsv").write_text(make_text(2))
    flags = ["--input=text/", "--learn_vocab=160", "--max_seq_length=64", "--output_dir=data", "--num_workers=1"]
    command = [sys.executable, "-m", "electra_cli.commands.prepare", *flags]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[0] == "reading 2 files: books.txt, reviews.tsv"
    first, *_, last = result.stdout.splitlines()
    assert first.startswith("--input=text/: reviews.tsv is read as plain text")
    assert last.startswith("Next: electra-pretrain --config=small --config.data.dir=data --config.data.max_seq_length=")

    quiet = [*command, "--quiet", "--overwrite"]
    result = subprocess.run(quiet, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.stderr == "" and result.stdout.startswith("--input=text/: reviews.tsv is read as plain text")
    assert "Next:" not in result.stdout
