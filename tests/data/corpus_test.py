import gzip
import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_cli.data import corpus as corpus_module
from electra_cli.data.corpus import Corpus, Document, TextFormat, cut_into_blocks, read_documents
from electra_cli.errors import UserError


def read(path, *arguments, replaced=None, **options):
    text_format = TextFormat(*arguments)
    corpus = Corpus([str(path)], text_format, **options)
    return [
        document
        for chunk in corpus.chunks()
        for block in chunk
        for document in read_documents(block, text_format, Counter() if replaced is None else replaced)
    ]


def test_documents_end_at_blank_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone \r\n two\n\n \nthree\n\n")
    assert read(tmp_path / "a.txt") == [Document("0/0/0", ("one", "two")), Document("0/0/1", ("three",))]


def test_lines_may_end_as_on_old_macs(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "_READ_BYTES", 16)
    (tmp_path / "a.txt").write_bytes(b"one\rtwo\r\rthree\r\rand more, \xff\r")
    documents = read(tmp_path / "a.txt", "blank_line", "replace")
    assert [document.lines for document in documents] == [("one", "two"), ("three",), ("and more, \ufffd",)]
    with pytest.raises(UserError, match="line 6, byte 26: 0xff is not UTF-8"):
        read(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"a line's\rmiddle\n")
    assert read(tmp_path / "a.txt") == [Document("0/0/0", ("a line's\rmiddle",))]
    (tmp_path / "a.txt").write_bytes(b"fifteen letters\r\n\r\nb")
    assert [document.lines for document in read(tmp_path / "a.txt")] == [("fifteen letters",), ("b",)]


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
    assert read(tmp_path) == [Document("0/0/0", ("first",)), Document("1/0/0", ("second",))]


def test_bad_bytes_are_named_by_place(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\nb\xe4d\n")
    with pytest.raises(UserError, match=r"a\.txt, line 2, byte 6: 0xe4 is not UTF-8.*--encoding_errors=replace"):
        read(tmp_path / "a.txt")


def test_bad_bytes_are_replaced_and_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\nb\xe4d \xff \xef\xbf\xbd\n")
    replaced = Counter()
    lines = [document.lines for document in read(tmp_path / "a.txt", "line", "replace", replaced=replaced)]
    assert lines == [("good",), ("b\ufffdd \ufffd \ufffd",)]
    assert replaced == {str(tmp_path / "a.txt"): 2}  # the third stood in the file


def test_binary_files_are_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"PK\3\4\0\0")
    with pytest.raises(UserError, match=r"a\.bin is no text file.*line 1, byte 4"):
        read(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("\ufefftext".encode(encoding))
    with pytest.raises(UserError, match=r"a\.txt is UTF-16: make UTF-8 of it first, iconv -f UTF-16 -t UTF-8 "):
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
    assert read(tmp_path) == []


def test_places_count_over_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "_READ_BYTES", 64)
    lines = [f"line {number:03}" for number in range(100)]
    (tmp_path / "a.txt").write_bytes("\n".join(lines).encode() + b"\nbad \xff")
    with pytest.raises(UserError, match=r"a\.txt, line 101, byte 904: 0xff"):
        read(tmp_path / "a.txt", "line")
    (tmp_path / "a.txt").write_text("\n".join(lines))
    documents = read(tmp_path / "a.txt", "line")
    assert [document.lines[0] for document in documents] == lines
    assert len({document.position for document in documents}) == 100
    assert len({document.position.split("/")[1] for document in documents}) > 10


@given(st.text("ab \n\r", max_size=300), st.integers(1, 40), st.sampled_from(["line", "blank_line", "file"]))
def test_blocks_hold_whole_documents(text, size, separator):
    content = text.encode()
    pieces = [content[begin : begin + size] for begin in range(0, len(content), size)]
    blocks = list(cut_into_blocks(iter(pieces), separator))
    assert b"".join(block for block, _ in blocks) == content
    assert not any(is_cut for _, is_cut in blocks)

    def split(part):
        return corpus_module._split_documents(part.decode(), separator)

    assert list(itertools.chain.from_iterable(split(block) for block, _ in blocks)) == list(split(content))


@pytest.mark.parametrize("separator", ["blank_line", "file", "line"])
def test_documents_of_any_length_are_cut_at_words(monkeypatch, separator):
    monkeypatch.setattr(corpus_module, "_LONGEST_DOCUMENT_BYTES", 100)
    words = " ".join(random.Random(0).choices(["wörd", "a", "something"], k=200)).encode()
    blocks = list(cut_into_blocks((words[begin : begin + 30] for begin in range(0, len(words), 30)), separator))
    assert b"".join(block for block, _ in blocks) == words
    assert [is_cut for _, is_cut in blocks] == [True] * (len(blocks) - 1) + [False]
    assert all(len(block) < 130 for block, _ in blocks)
    assert [word for block, _ in blocks for word in block.split()] == words.split()


def test_text_without_spaces_is_cut_between_characters(monkeypatch):
    monkeypatch.setattr(corpus_module, "_LONGEST_DOCUMENT_BYTES", 100)
    text = "漢字" * 100
    content = text.encode()
    blocks = cut_into_blocks((content[begin : begin + 31] for begin in range(0, len(content), 31)), "line")
    assert "".join(block.decode() for block, _ in blocks) == text


def test_groups_and_chunks_hold_all_files_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "_READ_BYTES", 50)
    monkeypatch.setattr(corpus_module, "_GROUP_BYTES", 200)
    for number in range(30):
        (tmp_path / f"{number:02}").write_text(f"text number {number}\n\n" * (number % 5))
    corpus = Corpus([str(tmp_path)], TextFormat())
    groups = corpus.groups()
    assert list(itertools.chain.from_iterable(groups)) == list(range(30))
    assert len(groups) > 2
    chunks = [chunk for group in groups for chunk in corpus.chunks_of(group)]
    assert chunks == list(Corpus([str(tmp_path)], TextFormat()).chunks())
    assert corpus.fraction_read == 1.0
    assert corpus.text_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
