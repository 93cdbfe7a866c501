import bz2
import gzip
import sys

import pytest

from electra_cli.errors import UserError
from electra_cli.finetuning.text_formats import read_text, split_lines


def test_packed_files_and_byte_order_marks(tmp_path):
    for name, pack in (("a.tsv", bytes), ("a.tsv.gz", gzip.compress), ("a.tsv.bz2", bz2.compress)):
        (tmp_path / name).write_bytes(pack("\ufeffä\tb\n".encode()))
        assert read_text(str(tmp_path / name)) == "ä\tb\n"


def test_lines_end_with_newlines_only():
    assert split_lines("a\r\n\nb\u2028c\x0bd\n \n\n") == ["a", "", "b\u2028c\x0bd"]


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"is a directory, not a file: name a file in it"):
        read_text(str(tmp_path))
    with pytest.raises(UserError, match=r"/trian\.tsv: no such file$"):
        read_text(str(tmp_path / "trian.tsv"))
    for name in ("train.tsv", "test.tsv", ".trian.tsv"):
        (tmp_path / name).write_text("a")
    with pytest.raises(UserError, match=r"/trian\.tsv: no such file; did you mean .*/train\.tsv\?$"):
        read_text(str(tmp_path / "trian.tsv"))
    with pytest.raises(UserError, match=r"/nofile\.tsv: no such file$"):
        read_text(str(tmp_path / "nofile.tsv"))
    with pytest.raises(UserError, match=r"no/x\.tsv: no such file$"):
        read_text(str(tmp_path / "no" / "x.tsv"))
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"a" * 1000)[:-10])
    with pytest.raises(UserError, match=r"x\.gz is damaged or cut off"):
        read_text(str(tmp_path / "x.gz"))
    (tmp_path / "y.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match=r"y\.gz is damaged or cut off"):
        read_text(str(tmp_path / "y.gz"))


@pytest.mark.slow
def test_remote_files(tmp_path):
    import tensorflow as tf

    tf.io.gfile.makedirs("ram://labelled")
    with tf.io.gfile.GFile("ram://labelled/a.tsv", "w") as stream:
        stream.write("a\tb\n")
    assert read_text("ram://labelled/a.tsv") == "a\tb\n"
    with pytest.raises(UserError, match=r"ram://labelled/b\.tsv: no such file$"):
        read_text("ram://labelled/b.tsv")
    with pytest.raises(UserError, match="ram://labelled is a directory, not a file"):
        read_text("ram://labelled")
    assert "tensorflow" in sys.modules
