import pytest

from electra_cli.data.inputs import describe_inputs
from electra_cli.errors import UserError


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
