import pytest

from electra_cli.config.labeled_files import ProbeFile, parse_probes
from electra_cli.errors import UserError


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), ()),
        (("a.tsv",), (ProbeFile("a.tsv"),)),
        (("a.tsv, b.csv",), (ProbeFile("a.tsv"), ProbeFile("b.csv"))),
        (
            ("a.tsv:text=x,label=y,b.csv",),
            (ProbeFile("a.tsv", text="x", label="y"), ProbeFile("b.csv")),
        ),
        # As a command line divides it.
        (
            ("gs://b/a.tsv:text=0", "second_text=1", "label=-1", "c:d.jsonl"),
            (ProbeFile("gs://b/a.tsv", text="0", second_text="1", label="-1"), ProbeFile("c:d.jsonl")),
        ),
        (("a:format=tsv,task=regression",), (ProbeFile("a", format="tsv", task="regression"),)),
    ],
)
def test_files_and_their_columns(values, expected):
    assert parse_probes(values) == expected


def test_names_are_those_of_the_files():
    files = parse_probes(("dir/trec.tsv", "gs://b/sts.b.csv.gz", "plain:format=csv"))
    assert [file.name for file in files] == ["trec", "sts.b", "plain"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((3,), "give names of files"),
        (("a.tsv:lable=x",), "'lable=x' is none of what may follow a file, each once: text=..., second_text=..."),
        (("a.tsv:label=x,label=y",), "'label=y' is none of"),
        (("a.tsv:label=",), "'label=' is none of"),
        ((":label=x",), "names no file"),
        (("a.tsv:task=tagging",), "task must be one of classification, regression"),
        (("a.tsv:format=conll",), "format must be one of tsv, csv, jsonl"),
        (("a.tsv:second_text=x",), "give text=COLUMN as well"),
        (("a/x.tsv", "b/x.csv"), "two files are named x"),
    ],
)
def test_what_cannot_be_meant(values, message):
    with pytest.raises(UserError, match=rf"^config\.eval\.probes.*{message}"):
        parse_probes(values)
