import bz2
import errno
import gzip
import io
import json
import lzma
import os
import random

import pyarrow
import pytest
from pyarrow import parquet

from electra_cli import files
from electra_cli.data import inputs
from electra_cli.data.inputs import describe_inputs
from electra_cli.errors import UnreadableError, UserError
from tests.data import corpus_test

TEXT = "first line\nsecond line\n\nanother document\n" * 400


def zstd(content):
    return pyarrow.compress(content, "zstd", asbytes=True)


COMPRESSORS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


def read(path, text_field="text"):
    return [document.lines for document in corpus_test.read(path, "blank_line", "strict", text_field)]


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_files_are_unpacked(tmp_path, suffix):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / f"b.txt{suffix}").write_bytes(COMPRESSORS[suffix](TEXT.encode()))
    assert read(tmp_path / f"b.txt{suffix}") == read(tmp_path / "a.txt")


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize(
    "damage", [lambda content: content[: len(content) // 2], lambda content: b"nonsense" + content]
)
def test_damaged_files_are_named(tmp_path, suffix, damage):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(damage(COMPRESSORS[suffix](TEXT.encode())))
    with pytest.raises(UserError, match=rf"a\.txt\{suffix} is damaged or cut off after [\d,]+ bytes of text"):
        read(path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_each_line_of_json_is_a_document(tmp_path, suffix):
    records = [{"text": "one\n\ntwo\n", "id": 1}, {"text": None}, {"text": "three \u2028 four"}]
    content = "\n".join(map(json.dumps, records)).encode() + b"\n\n"
    (tmp_path / f"a.jsonl{suffix}").write_bytes(COMPRESSORS[suffix](content) if suffix else content)
    assert read(tmp_path / f"a.jsonl{suffix}") == [("one", "two"), ("three", "four")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("plain text", r"a\.jsonl, line 2: no JSON .*rename it to \.txt"),
        ('{"body": "x"}', r"a\.jsonl, line 2: no field 'text' \(it has body\); .*--text_field"),
        ('["text"]', r"a\.jsonl, line 2: no field 'text' \(it is no object\)"),
        ('{"text": 5}', r"a\.jsonl, line 2: field 'text' is no text but int"),
    ],
)
def test_lines_that_are_no_such_json(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n' + line + "\n")
    with pytest.raises(UserError, match=message):
        read(tmp_path / "a.jsonl")


def test_each_row_of_parquet_is_a_document(tmp_path):
    texts = [f"row {index}\nof many" for index in range(2500)]
    table = pyarrow.table({"body": [*texts, None, ""], "number": range(2502)})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=700)
    assert read(tmp_path / "a.parquet", text_field="body") == [tuple(text.split("\n")) for text in texts]
    with pytest.raises(
        UserError, match=r"a\.parquet has no column 'text'; it has body, number: name one with --text_field"
    ):
        read(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"column 'number' is no text but int64"):
        read(tmp_path / "a.parquet", text_field="number")
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"a\.parquet is damaged or cut off after 0 rows"):
        read(tmp_path / "a.parquet", text_field="body")


class Failing(io.FileIO):
    """A file of which no more than its first half, and its end, can be read."""

    def read(self, size=-1):
        whole = os.fstat(self.fileno()).st_size
        if whole // 2 < self.tell() + size < whole:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return super().read(size)


def write_parquet(path, texts):
    parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=1000, compression="none")


@pytest.mark.parametrize("suffix", [".txt", *COMPRESSORS, ".parquet"])
def test_a_file_that_cannot_be_read_any_more_is_not_called_damaged(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    texts = [random.Random(number).randbytes(400).hex() for number in range(5000)]
    if suffix == ".parquet":
        write_parquet(path, texts)
    else:
        path.write_bytes(COMPRESSORS.get(suffix, bytes)("\n\n".join(texts).encode()))
    assert len(read(path)) == 5000
    monkeypatch.setattr(files, "open_file", Failing)
    with pytest.raises(UnreadableError, match=r"cannot be read after [\d,]+ (bytes of text|rows): Stale file handle"):
        read(path)
    monkeypatch.undo()
    if suffix == ".parquet":
        path.write_bytes(path.read_bytes().replace(texts[1000][:100].encode(), b"x"))
        with pytest.raises(UserError, match="damaged or cut off") as caught:
            read(path)
        assert not isinstance(caught.value, UnreadableError)


def test_a_remote_file_that_cannot_be_read_any_more_is_told(monkeypatch):
    import tensorflow as tf

    with tf.io.gfile.GFile("ram://unreadable/a.txt", "wb") as stream:
        stream.write(b"one\n\ntwo\n")

    def fail(*_):
        raise tf.errors.UnavailableError(None, None, "the service is gone")

    monkeypatch.setattr(tf.io.gfile.GFile, "read", fail)
    with pytest.raises(UnreadableError, match=r"a\.txt cannot be read after 0 bytes of text: the service is gone"):
        read("ram://unreadable/a.txt")


def test_patterns(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "e.txt").write_text("e")
    assert read(tmp_path / "*.txt") == [("a.txt",), ("b.txt",)]
    assert read(tmp_path / "**" / "*.txt") == [("a.txt",), ("b.txt",), ("e",)]
    os.makedirs(tmp_path / "exp [1]" / "sub")
    (tmp_path / "exp [1]" / "sub" / "f,[2].txt").write_text("f")
    assert read(tmp_path / "exp [1]" / "*" / "*.txt") == read(tmp_path / "exp [1]" / "sub" / "f,[2].txt") == [("f",)]
    with pytest.raises(UserError, match=r"\*\.json: the pattern matches no file"):
        read(tmp_path / "*.json")


def test_remote_files_are_read_through_tensorflow(tmp_path):
    import tensorflow as tf

    # TensorFlow's file system in memory stands for gs://.
    tf.io.gfile.makedirs("ram://corpus/sub")
    for name, content in (("a.txt.gz", gzip.compress(b"zipped")), ("sub/b.txt", b"plain"), ("sub/.c", b"hidden")):
        with tf.io.gfile.GFile(f"ram://corpus/{name}", "wb") as stream:
            stream.write(content)
    assert read("ram://corpus/a.txt.gz") == [("zipped",)]
    assert read("ram://corpus/sub/*.txt") == [("plain",)]
    with tf.io.gfile.GFile("ram://corpus/d[1].txt", "wb") as stream:
        stream.write(b"literal")
    assert read("ram://corpus/d[1].txt") == [("literal",)]
    with pytest.raises(UserError, match="ram://corpus/x: no such file or directory"):
        inputs.list_files("ram://corpus/x")


def test_halves_of_utf16_pairs_in_json_are_replaced(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a \\ud83d b \\ud83d\\ude00"}')
    assert read(tmp_path / "a.jsonl") == [("a \ufffd b \U0001f600",)]


def test_documents_carry_the_weight_of_their_input(tmp_path):
    (tmp_path / "a").write_text("a")
    assert [document.weight for document in corpus_test.read(tmp_path / "a", weights=[2.5])] == [2.5]


def write(directory, *names):
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("text")


def test_names_are_those_within_what_was_given(tmp_path):
    write(tmp_path, "text/books.txt", "text/more/books.txt", "single.txt")
    line, warnings = describe_inputs([f"{tmp_path}/text/", f"{tmp_path}/single.txt", "builtin:python-docs"])
    assert (line, warnings) == ("reading 3 files: books.txt, more/books.txt, single.txt", [])
    assert describe_inputs([f"{tmp_path}/s*.txt"])[0] == "reading 1 file: single.txt"
    assert describe_inputs(["builtin:python-docs"]) == ("", [])
    with pytest.raises(UserError, match="nowhere: no such file"):
        describe_inputs([f"{tmp_path}/nowhere"])


def test_long_lists_are_cut(tmp_path):
    write(tmp_path, *(f"{number}.txt" for number in range(9)))
    line, _ = describe_inputs([str(tmp_path)])
    assert line == "reading 9 files: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, 5.txt, 6.txt, 7.txt and 1 more"


def test_tables_that_nobody_named_are_warned_of(tmp_path):
    write(tmp_path, "a.txt", "reviews.tsv", "b.CSV.gz")
    (warning,) = describe_inputs([str(tmp_path)])[1]
    assert warning.startswith(f"--input={tmp_path}: b.CSV.gz, reviews.tsv are read as plain text, labels and all; ")
    (warning,) = describe_inputs([f"{tmp_path}/*.tsv", f"{tmp_path}/a.txt"])[1]
    assert warning.startswith(f"--input={tmp_path}/*.tsv: reviews.tsv is read as plain text, labels and all; ")
    assert describe_inputs([f"{tmp_path}/reviews.tsv"])[1] == []
