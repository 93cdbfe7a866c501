import gzip

import pytest

from electra_cli.data.corpus import Corpus, Document
from electra_cli.errors import UserError


def read(path, *arguments):
    return list(Corpus([str(path)], *arguments))


def test_documents_end_at_blank_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone \r\n two\n\n \nthree\n\n")
    assert read(tmp_path / "a.txt") == [Document(0, 0, ("one", "two")), Document(0, 1, ("three",))]


def test_documents_end_at_lines_or_files(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree")
    assert [document.lines for document in read(tmp_path / "a.txt", "line")] == [("one",), ("two",), ("three",)]
    assert [document.lines for document in read(tmp_path / "a.txt", "file")] == [("one", "two", "three")]


def test_directories_are_read_in_order_without_hidden_files(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x").write_text("no")
    (tmp_path / "b" / "wiki_00").write_text("second")
    with gzip.open(tmp_path / "a.txt.gz", "wt") as stream:
        stream.write("first")
    (tmp_path / ".hidden").write_text("no")
    assert read(tmp_path) == [Document(0, 0, ("first",)), Document(1, 0, ("second",))]


def test_bad_bytes_are_named_by_place(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\nb\xe4d\n")
    with pytest.raises(UserError, match=r"a\.txt, line 2, byte 6: 0xe4 is not UTF-8.*--encoding_errors=replace"):
        read(tmp_path / "a.txt")


def test_bad_bytes_are_replaced_and_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\nb\xe4d \xff\n")
    corpus = Corpus([str(tmp_path / "a.txt")], "line", "replace")
    assert [document.lines for document in corpus] == [("good",), ("b\ufffdd \ufffd",)]
    assert corpus.replaced == {str(tmp_path / "a.txt"): 2}


def test_binary_files_are_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"PK\3\4\0\0")
    with pytest.raises(UserError, match=r"a\.bin is no text file.*line 1, byte 4"):
        read(tmp_path)


def test_cut_gzip_is_named(tmp_path):
    whole = gzip.compress(b"some text\n" * 10_000)
    (tmp_path / "a.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a\.gz is damaged or cut off after"):
        read(tmp_path / "a.gz")
    (tmp_path / "a.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match=r"a\.gz is damaged"):
        read(tmp_path / "a.gz")


def test_missing_and_empty_inputs(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such file or directory"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="the directory holds no files"):
        read(tmp_path)
    (tmp_path / "a.txt").write_text(" \n\n")
    with pytest.raises(UserError, match="--input holds no text"):
        read(tmp_path)
