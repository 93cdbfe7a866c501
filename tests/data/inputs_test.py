import bz2
import errno
import gzip
import io
import json
import lzma
import os
import random

import pyarrow
import pyarrow.ipc
import pytest
from pyarrow import parquet

from electra_cli import files
from electra_cli.data import corpus as corpus_module
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


def write_json_lines(path, compress=bytes):
    path.write_bytes(compress(b'{"text": "one"}\n{"text": "two"}\n'))
    return path


@pytest.mark.parametrize("name", ["a.JSONL", "a.Json.GZ", "a.ndjson.gz"])
def test_endings_are_recognized_in_any_case(tmp_path, name):
    path = write_json_lines(tmp_path / name, gzip.compress if name.lower().endswith("gz") else bytes)
    assert read(path) == [("one",), ("two",)]
    write_parquet(tmp_path / "a.PARQUET", ["three"])
    assert read(tmp_path / "a.PARQUET") == [("three",)]


def test_a_format_that_is_given_holds_for_any_name(tmp_path):
    path = write_json_lines(tmp_path / "wiki_00")
    assert corpus_test.read(path, "blank_line", "strict", "text", "jsonl")[1].lines == ("two",)
    path = write_json_lines(tmp_path / "a.jsonl")
    assert corpus_test.read(path, "line", "strict", "text", "text")[0].lines == ('{"text": "one"}',)
    write_parquet(tmp_path / "part-0", ["three"])
    assert corpus_test.read(tmp_path / "part-0", "line", "strict", "text", "parquet")[0].lines == ("three",)


@pytest.mark.parametrize(
    ("content", "look"),
    [
        ('{"text": "one"}\n', "looks like JSON lines, read as plain text: --input_format=jsonl"),
        ('\ufeff[\n {"text": "one"}]', "looks like JSON lines"),
        ('<doc id="1" url="x">\ntext</doc>', "looks like XML or HTML"),
        ("<!DOCTYPE html>\n<p>", "looks like XML or HTML"),
        ("a\tb\n" * 5, "looks like a table"),
        ("{ x } is a set\n", ""),
        ("<3 is a heart\n", ""),
        ("a\tb\nc\n" * 5, ""),
    ],
)
def test_plain_text_that_does_not_look_like_it_is_warned_of(tmp_path, content, look):
    (tmp_path / "wiki_00.gz").write_bytes(gzip.compress(content.encode()))
    _, warnings = describe_inputs([str(tmp_path)])
    assert [warning.partition(f"{tmp_path}: wiki_00.gz ")[2][: len(look)] for warning in warnings] == [look] * bool(
        look
    )
    assert describe_inputs([str(tmp_path)], "text")[1] == []


def test_a_compressed_file_without_its_ending_is_named_by_its_first_bytes(tmp_path):
    write_json_lines(tmp_path / "a.jsonl", gzip.compress)
    with pytest.raises(UserError, match=r"a\.jsonl.* it begins like a \.gz file: name it NAME\.gz"):
        read(tmp_path / "a.jsonl")
    write_parquet(tmp_path / "part-0", ["three"])
    with pytest.raises(UserError, match=r"part-0 is no text file.* it begins like a \.parquet file"):
        read(tmp_path / "part-0")


def test_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(UserError, match="pipe is a pipe or device, and text is read more than once: write it to a"):
            inputs.list_files(str(path))
    with pytest.raises(UserError, match="--input=/dev/null is a pipe or device"):
        inputs.list_files("/dev/null")


def write_arrow(path, texts, new=pyarrow.ipc.new_stream, kind=None):
    table = pyarrow.table({"text": pyarrow.array(texts, kind)})
    with new(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)


def test_arrow_files_as_datasets_saves_them(tmp_path):
    texts = [f"row {index}" for index in range(2500)]
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for name in ("state.json", "dataset_info.json"):
            (tmp_path / split / name).write_text('{\n "_data_files": []\n}')
        write_arrow(tmp_path / split / "cache-0123.arrow", ["a cache"])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    write_arrow(tmp_path / "train" / "data-00000-of-00001.arrow", [*texts, None])
    write_arrow(tmp_path / "test" / "data-00000-of-00001.arrow", ["held out"])
    assert read(tmp_path) == [("held out",), *((text,) for text in texts)]
    documents = corpus_test.read(tmp_path / "train" / "data-00000-of-00001.arrow")
    assert [documents[index].position for index in (0, 999, 1000)] == ["0/0/0", "0/0/999", "0/1/0"]


def test_arrow_files_of_other_forms(tmp_path):
    write_arrow(tmp_path / "a.arrow", ["one", "two"], pyarrow.ipc.new_file, pyarrow.large_string())
    assert read(tmp_path / "a.arrow") == [("one",), ("two",)]
    with pytest.raises(UserError, match=r"a\.arrow has no column 'body'; it has text"):
        read(tmp_path / "a.arrow", text_field="body")
    write_arrow(tmp_path / "b.arrow", ["one"])
    (tmp_path / "b.arrow.gz").write_bytes(gzip.compress((tmp_path / "b.arrow").read_bytes()))
    assert read(tmp_path / "b.arrow.gz") == [("one",)]
    (tmp_path / "c.arrow").write_bytes((tmp_path / "b.arrow").read_bytes()[:-200])
    with pytest.raises(UserError, match=r"c\.arrow is damaged or cut off after 0 rows"):
        read(tmp_path / "c.arrow")


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_dictionary_columns_are_text(tmp_path, suffix):
    column = pyarrow.array(["one", None, "two", "one"]).dictionary_encode()
    if suffix == ".parquet":
        parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    else:
        write_arrow(tmp_path / "a.arrow", column)
    assert read(tmp_path / f"a{suffix}") == [("one",), ("two",), ("one",)]


def test_parquet_within_a_compressed_file_is_refused(tmp_path):
    write_parquet(tmp_path / "a.parquet", ["one"])
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    with pytest.raises(UserError, match=r"a\.parquet\.gz is Parquet in a compressed file.*: decompress it first"):
        read(tmp_path / "a.parquet.gz")


# A zstd frame's header: magic, descriptor (no single segment), window of 2^28 bytes; then the last block, raw, "a".
WIDE_WINDOW = b"\x28\xb5\x2f\xfd\x00" + bytes([(28 - 10) << 3]) + b"\x09\x00\x00a"


def test_a_window_above_the_limit_is_not_called_damage(tmp_path):
    (tmp_path / "a.txt.zst").write_bytes(WIDE_WINDOW)
    with pytest.raises(UserError, match=r"more than 128 MiB.*the limit: compress it again, zstd -d --long=31 < "):
        read(tmp_path / "a.txt.zst")
    (tmp_path / "a.txt.zst").write_bytes(WIDE_WINDOW.replace(bytes([18 << 3]), bytes([17 << 3])))
    assert read(tmp_path / "a.txt.zst") == [("a",)]


def largest_batch(monkeypatch):
    """Returns a list that receives the bytes of each batch that is decoded."""
    sizes = []
    original = parquet.ParquetFile.iter_batches

    def iterate(*arguments, **options):
        for batch in original(*arguments, **options):
            sizes.append(batch.nbytes)
            yield batch

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", iterate)
    return sizes


def test_long_rows_are_decoded_and_handed_on_a_few_at_a_time(tmp_path, monkeypatch):
    texts = [f"{number} " + "x" * 400_000 for number in range(100)]
    write_parquet(tmp_path / "books.parquet", texts)
    sizes = largest_batch(monkeypatch)
    chunks = list(corpus_module.Corpus([str(tmp_path)], corpus_module.TextFormat()).chunks())
    assert [text for chunk in chunks for block in chunk for text in block.content] == texts
    assert max(sizes) < 2**24 + 2**19
    assert max(block.num_bytes for chunk in chunks for block in chunk) <= 2**23
    # One value on disk that stands for many rows.
    parquet.write_table(pyarrow.table({"text": ["y" * 3_000_000] * 300}), tmp_path / "books.parquet")
    sizes.clear()
    chunks = list(corpus_module.Corpus([str(tmp_path)], corpus_module.TextFormat()).chunks())
    assert sum(len(block.content) for chunk in chunks for block in chunk) == 300
    assert max(sizes) < 64 * 3_000_000 + 2**20
    assert max(block.num_bytes for chunk in chunks for block in chunk) <= 2**23


def test_records_longer_than_a_document_may_be_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "_LONGEST_DOCUMENT_BYTES", 2**20)
    monkeypatch.setattr(corpus_module, "_READ_BYTES", 2**16)
    long = "ä" * (2**19 + 1)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("one", "x" * 2**21)))
    write_parquet(tmp_path / "a.parquet", ["one", long[:-1], long])
    write_arrow(tmp_path / "a.arrow", ["one", long])
    for name, where in (("a.jsonl", "line 2"), ("a.parquet", "row 3"), ("a.arrow", "row 2")):
        with pytest.raises(UserError, match=rf"{name}, {where}: too long: a document may have up to 1 MiB; "):
            read(tmp_path / name)


def test_broken_links_are_named(tmp_path):
    (tmp_path / "a.txt").write_text("Text.")
    (tmp_path / "b.txt").symlink_to("/nowhere/b.txt")
    for path in (tmp_path, tmp_path / "*.txt", tmp_path / "b.txt"):
        with pytest.raises(UserError) as error:
            inputs.list_files(str(path))
        assert str(error.value) == (
            f"--input={path}: {tmp_path}/b.txt is a broken link: remove it, or put back what belongs there"
        )
