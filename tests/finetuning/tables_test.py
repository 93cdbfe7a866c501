import bz2
import gzip
import json
import sys

import pytest

from electra_cli.errors import UserError
from electra_cli.finetuning import tables
from electra_cli.finetuning.tables import Columns, find_columns, read_table, read_text, split_lines
from tests.data import inputs_test


def write(tmp_path, content, name="data.tsv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def rows(table):
    return [(row.where.rpartition("/")[2], list(row.fields)) for row in table.rows]


def test_tsv_has_no_quotes_and_only_newlines_end_lines(tmp_path):
    path = write(tmp_path, 'sentence\tlabel\r\n"a" said "b\t1\r\nc\u2028d\x85e\x0cf\t0\r\n\r\n')
    table = read_table(path, "tsv", Columns())
    assert table.names == ("sentence", "label")
    assert rows(table) == [("data.tsv:2", ['"a" said "b', "1"]), ("data.tsv:3", ["c\u2028d\x85e\x0cf", "0"])]


def test_csv_has_quotes_and_names_the_line_that_a_row_begins_in(tmp_path):
    path = write(tmp_path, 'text,label\n"a, ""b""\nc",1\nd,0\n', "data.csv")
    table = read_table(path, "csv", Columns())
    assert rows(table) == [("data.csv:2", ['a, "b"\nc', "1"]), ("data.csv:4", ["d", "0"])]


def test_fields_of_csv_may_be_long(tmp_path):
    path = write(tmp_path, f'text,label\n"{"a" * 200_000}",1\n', "data.csv")
    assert [len(fields[0]) for _, fields in rows(read_table(path, "csv", Columns()))] == [200_000]


def test_json_lines_have_fields(tmp_path):
    path = write(tmp_path, '{"text": "a\\ud800", "label": true}\n{"label": 1.5, "more": [1]}\n', "data.jsonl")
    table = read_table(path, "jsonl", Columns())
    assert table.names == ("text", "label", "more")
    assert rows(table) == [("data.jsonl:1", ["a\ufffd", True, None]), ("data.jsonl:2", [None, 1.5, [1]])]


def test_numbers_alone_mean_that_there_is_no_header(tmp_path):
    path = write(tmp_path, "1\ta cat\n0\ta dog\n")
    table = read_table(path, "tsv", Columns("-1", "", "0"))
    assert table.names is None and len(table.rows) == 2
    indices = find_columns(table, Columns("-1", "", "0"), tagging=False, label_needed=True)
    assert (indices.text, indices.second_text, indices.label, indices.id) == (1, None, 0, None)
    # A name among them: there is a header.
    table = read_table(write(tmp_path, "y\ts\n0\ta dog\n"), "tsv", Columns("1", "", "y"))
    indices = find_columns(table, Columns("1", "", "y"), tagging=False, label_needed=True)
    assert table.names == ("y", "s") and (indices.text, indices.label) == (1, 0)


@pytest.mark.parametrize(
    ("header", "tagging", "expected"),
    [
        ("sentence label", False, (0, None, 1, None)),
        ("label text", False, (1, None, 0, None)),
        ("idx sentence1 sentence2 score", False, (1, 2, 3, 0)),
        ("question1 question2", False, (0, 1, None, None)),
        ("premise hypothesis label id", False, (0, 1, 2, 3)),
        ("tokens ner_tags", True, (0, None, 1, None)),
    ],
)
def test_usual_names_are_found(tmp_path, header, tagging, expected):
    names = header.split()
    path = write(tmp_path, "\t".join(names) + "\n" + "\t".join(["x"] * len(names)) + "\n")
    table = read_table(path, "tsv", Columns())
    indices = find_columns(table, Columns(), tagging=tagging, label_needed=False)
    assert (indices.text, indices.second_text, indices.label, indices.id) == expected
    assert names[indices.text] in indices.description


@pytest.mark.parametrize(
    ("header", "tagging", "expected", "not_read"),
    [
        ("question sentence label", False, (0, 1, 2), ""),
        ("text premise hypothesis label", False, (1, 2, 3), "; not read: text"),
        ("sentence question1 text question2 score label", False, (1, 3, 5), "; not read: sentence, text, score"),
        ("text tokens labels ner_tags", True, (1, None, 3), "; not read: text, labels"),
    ],
)
def test_the_fullest_match_is_taken_and_the_others_are_named(tmp_path, header, tagging, expected, not_read):
    table = read_table(write(tmp_path, f"{header}\n{header}\n".replace(" ", "\t")), "tsv", Columns())
    indices = find_columns(table, Columns(), tagging=tagging, label_needed=True)
    assert (indices.text, indices.second_text, indices.label) == expected
    assert indices.description.endswith(f", labels in {header.split()[expected[2]]}{not_read}")


@pytest.mark.parametrize(
    ("header", "flag", "message"),
    [
        ("sentence text label", "--config.data.",
         r"data\.tsv: the text may be in sentence, or text: name it, --config\.data\.text=COLUMN$"),
        ("premise hypothesis sentence1 sentence2 label", "--config.data.",
         r"in sentence1 and sentence2, or premise and hypothesis: name it, --config\.data\.text=COLUMN "
         r"--config\.data\.second_text=COLUMN$"),
        ("premise hypothesis sentence1 sentence2 label", "--predict=FILE:",
         r"name it, --predict=FILE:text=COLUMN,second_text=COLUMN$"),
        ("text label gold_label", "--config.data.", r"the label may be in label, or gold_label: name it, .*label=COL"),
    ],
)  # fmt: skip
def test_columns_that_fit_equally_are_refused(tmp_path, header, flag, message):
    columns = Columns(flag=flag)
    table = read_table(write(tmp_path, f"{header}\n{header}\n".replace(" ", "\t")), "tsv", columns)
    with pytest.raises(UserError, match=message):
        find_columns(table, columns, tagging=False, label_needed=True)


def test_a_file_without_labels_need_not_have_their_column(tmp_path):
    """What was trained with text=0,label=-1, and is asked to predict."""
    columns = Columns("0", label="-1")
    table = read_table(write(tmp_path, "a cat\na dog\n"), "tsv", columns)
    indices = find_columns(table, columns, tagging=False, label_needed=False)
    assert (indices.text, indices.label) == (0, None) and "no labels" in indices.description
    with pytest.raises(UserError, match="one column is read as two"):
        find_columns(table, columns, tagging=False, label_needed=True)


GOOD = "sentence\tlabel\na\t1\n"
BAD_FILES = [
    ("", "data.tsv is empty: give a file that holds examples"),
    (" \n\n", "data.tsv is empty: give a file that holds examples"),
    (
        "sentence\tlabel\n\n",
        r"data\.tsv has a header \(sentence, label\) and nothing below it: give a file with examples",
    ),
    (
        "sentence\tlabel\na\t1\nb\n",
        r"data\.tsv:3: 1 column, where the header has 2: fix the line, whose columns lie between tabs$",
    ),
    (
        "sentence\tlabel\na\t1\nb\t0\tx\n",
        r"data\.tsv:3: 3 columns, where the header has 2: fix the line, whose columns lie between",
    ),
    ("sentence\tlabel\n\na\t1\n", r"data\.tsv:2: the line is blank"),
    (GOOD.encode() + b"\nb\xff\t1\n", r"data\.tsv:4: byte 0xff is not UTF-8"),
    (GOOD.encode("utf-16"), r"data\.tsv is UTF-16: convert it"),
    (GOOD.encode() + b"\x00\t1", r"data\.tsv:3: a zero byte"),
]


@pytest.mark.parametrize(("content", "message"), BAD_FILES, ids=[message for _, message in BAD_FILES])
def test_bad_files(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_table(write(tmp_path, content), "tsv", Columns())


def test_bad_csv_and_json(tmp_path):
    with pytest.raises(UserError, match=r"data\.csv:3: .*is a quote not closed"):
        read_table(write(tmp_path, 'text,label\na,1\n"b,0\nc,1\n', "data.csv"), "csv", Columns())
    with pytest.raises(
        UserError, match=r"data\.csv:2: 2 columns, where the header has 1 \(its columns lie between tabs"
    ):
        read_table(write(tmp_path, "text\tlabel\na,b\t1\n", "data.csv"), "csv", Columns())
    for line, message in (("{", "no JSON"), ("[1]", "list in the place of an object"), ("", "the line is blank")):
        content = f"{json.dumps({'text': 'a'})}\n{line}\n{json.dumps({'text': 'b'})}\n"
        with pytest.raises(UserError, match=rf"data\.jsonl:2: {message}"):
            read_table(write(tmp_path, content, "data.jsonl"), "jsonl", Columns())


def test_a_conll_file_that_is_named_as_a_table_is_told(tmp_path):
    path = write(tmp_path, "EU\tORG\nis\tO\n\nPeter\tPER\n")
    for columns in (Columns(), Columns("0", "", "1")):
        with pytest.raises(UserError, match=r"data\.tsv:3: the line is blank; .*: --config\.data\.format=conll$"):
            read_table(path, "tsv", columns, tagging=True)
    with pytest.raises(UserError, match=r"data\.tsv:3: the line is blank: remove it$"):
        read_table(path, "tsv", Columns())


def test_broken_lines_can_be_left_out(tmp_path):
    table = read_table(write(tmp_path, GOOD + "b\nc\t0\n"), "tsv", Columns(), skip_bad=True)
    assert [fields for _, fields in rows(table)] == [["a", "1"], ["c", "0"]] and [
        str(error) for error in table.errors
    ] == [f"{tmp_path}/data.tsv:3: 1 column, where the header has 2: fix the line, whose columns lie between tabs"]
    with pytest.raises(UserError, match="no line has as many columns as the header, 2"):
        read_table(write(tmp_path, "a\tb\nc\n"), "tsv", Columns(), skip_bad=True)


BAD_COLUMNS = [
    (
        "sentence\tlabel\na\t1\n",
        Columns("review"),
        r"no column review; it has sentence, label: name one with --config\.da",
    ),
    ("sentence\tlabel\na\t1\n", Columns("sentence", "other"), "no column other.*second_text=NAME"),
    ("sentence\tlabel\na\t1\n", Columns("sentence", "", "y"), r"no column y; .*--config\.data\.label=NAME"),
    ("x\ty\na\t1\n", Columns(), "no column sentence or text or sentence1"),
    ("sentence\ty\na\t1\n", Columns(), "no column label; it has sentence, y"),
    ("sentence,label\na,1\n", Columns(), r"its columns lie between commas: --config\.data\.format=csv"),
    ("sentence;label\na;1\n", Columns(), "its columns lie between semicolons"),
    ("sentence\tlabel\na\t1\n", Columns("sentence", "", "sentence"), "one column is read as two"),
    ("label\tsentence\tsentence\n1\ta\tb\n", Columns("sentence"), "2 columns are named 'sentence': give its number"),
    ("a\t1\n", Columns("0", "", "2"), r"has 2 columns, counted from 0: no --config\.data\.label=2"),
    (
        "a\t1\n",
        Columns("0"),
        r"data\.tsv: columns by numbers mean that there is no header: give --config\.data\.label=NUMBER as well "
        r"\(it has 2 columns, counted from 0\), or, if it has a header, all by their names$",
    ),
    ("text\tid\ty\na\tb\t1\n", Columns("", "", "2"), r"no header: give --config\.data\.text=NUMBER as well \(it has 3"),
    ("a\t1\n", Columns("3", "", "1"), r"no --config\.data\.text=3"),
    ("sentence\tlabel\na\t1\n", Columns("0", "", "1"), r"data\.tsv:1: looks like a header \(sentence, label\)"),
    ("0\t1\na\t1\n", Columns("0", "", "1"), r"data\.tsv:1: looks like a header \(0, 1\)"),
    ("review\tstars\na\t1.5\nb\t2\n", Columns("0", "", "1"), r"data\.tsv:1: looks like a header \(review, stars\)"),
    (
        "Review text\tsentiment\na\tgood\nb\tbad\nc\tbad\nd\tgood\n",
        Columns("0", "", "-1"),
        r"data\.tsv:1: looks like a header \(Review text, sentiment\), and columns by numbers mean that there is "
        r"none: name them \(--config\.data\.text=Review text\), or remove the line$",
    ),
]


@pytest.mark.parametrize(("content", "columns", "message"), BAD_COLUMNS, ids=[item[2] for item in BAD_COLUMNS])
def test_bad_columns(tmp_path, content, columns, message):
    table = read_table(write(tmp_path, content), "tsv", columns)
    with pytest.raises(UserError, match=message):
        find_columns(table, columns, tagging=False, label_needed=True)


@pytest.mark.parametrize(
    "content",
    [
        "a\tgood\nb\tbad\nc\tbad\n d\tgood\n",  # the first label is there twice
        "a\tgood\nb\tbad\nc\tbad\nd\tfair\n",  # another label is there once
        "a\t7\nb\t1\nc\t1\n",  # a number
        "a text of four words\tgood\nb\tbad\nc\tbad\n",
        "a\tgood\n",
    ],
)
def test_first_rows_that_are_no_header(tmp_path, content):
    columns = Columns("0", "", "1")
    table = read_table(write(tmp_path, content), "tsv", columns)
    assert find_columns(table, columns, tagging=False, label_needed=True).label == 1
    assert len(table.rows) == content.count("\n")


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


@pytest.mark.parametrize(("limit", "value"), [("_MAX_BYTES", 40), ("_MAX_LINES", 3)])
def test_files_that_would_fill_the_memory_are_refused_before_they_are_unpacked(tmp_path, monkeypatch, limit, value):
    path = write(tmp_path, gzip.compress(b"text\tlabel\n" + b"a fox\t1\n" * 3), "data.tsv.gz")
    assert len(read_text(path)) == 35
    monkeypatch.setattr(tables, limit, value)
    write(tmp_path, gzip.compress(b"text\tlabel\n" + b"a fox\t1\n" * 10**6), "data.tsv.gz")
    with pytest.raises(UserError, match=r"data\.tsv\.gz holds more than .* lines, which is the limit"):
        read_text(path)


def test_lines_may_end_as_on_old_macs(tmp_path):
    path = write(tmp_path, "text\tlabel\ra fox\t1\rtwo\t0\r")
    assert rows(read_table(path, "tsv", Columns())) == [("data.tsv:2", ["a fox", "1"]), ("data.tsv:3", ["two", "0"])]


def test_a_decoder_that_is_limited_is_not_called_damage(tmp_path):
    with pytest.raises(UserError, match="window of more than 128 MiB"):
        read_text(write(tmp_path, inputs_test.WIDE_WINDOW, "data.tsv.zst"))
