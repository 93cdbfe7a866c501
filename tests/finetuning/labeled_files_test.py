import copy
import dataclasses
import gzip
import json
import re

import pytest

from electra_cli.errors import UserError
from electra_cli.finetuning.examples import Answer
from electra_cli.finetuning.labeled_files import LabeledFile, find_format
from electra_cli.finetuning.tables import Columns


def write(tmp_path, content, name="data.tsv"):
    path = tmp_path / name
    path.write_text(content)
    return str(path)


def read(path, kind="classification", columns=None, file_format="", label_needed=True, **options):
    return LabeledFile(path, columns or Columns(), file_format, label_needed, **options).read(kind)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("a.tsv", "classification", "tsv"),
        ("a.CSV", "regression", "csv"),
        ("a.csv.gz", "regression", "csv"),
        ("a.json", "classification", "jsonl"),
        ("a.json.gz", "question_answering", "squad"),
        ("a.jsonl", "tagging", "jsonl"),
        ("eng.train", "tagging", "conll"),
        ("a.txt", "tagging", "conll"),
        ("a.conll", "tagging", "conll"),
        ("a.conllu.gz", "tagging", "conllu"),
    ],
)
def test_formats_are_told_by_names(name, kind, expected):
    assert find_format(name, kind, "") == expected


@pytest.mark.parametrize(
    ("name", "kind", "given", "message"),
    [
        ("a.txt", "classification", "", r"a\.txt: the name does not show the format: give --config\.data\.format"),
        ("a.tsv", "question_answering", "", "--config.task=question_answering needs SQuAD's JSON"),
        ("a.json", "classification", "squad", "--config.task=classification cannot read SQuAD's JSON"),
        ("a.conll", "regression", "", "columns of CoNLL are read with --config.task=tagging, not regression"),
        ("a.conllu", "regression", "", "columns of CoNLL are read with --config.task=tagging, not regression"),
    ],
)
def test_formats_that_do_not_fit(name, kind, given, message):
    with pytest.raises(UserError, match=message):
        find_format(name, kind, given)


def test_all_formats_give_the_same_examples(tmp_path):
    rows = [("a cat", "a dog", "1"), ("x", "y", "0")]
    tsv = write(tmp_path, "sentence1\tsentence2\tlabel\n" + "".join("\t".join(row) + "\n" for row in rows))
    csv = write(tmp_path, "sentence1,sentence2,label\n" + "".join(",".join(row) + "\n" for row in rows), "data.csv")
    jsonl = write(
        tmp_path,
        "".join(json.dumps({"sentence1": a, "sentence2": b, "label": int(c)}) + "\n" for a, b, c in rows),
        "data.jsonl",
    )
    packed = tmp_path / "data.tsv.gz"
    packed.write_bytes(gzip.compress((tmp_path / "data.tsv").read_bytes()))
    found = [
        [(example.id, example.text, example.second_text, example.label) for example in read(path).examples]
        for path in (tsv, csv, jsonl, str(packed))
    ]
    assert found == [[("0", "a cat", "a dog", "1"), ("1", "x", "y", "0")]] * 4
    assert read(tsv).columns == "texts in columns sentence1 and sentence2, labels in label"
    assert read(tsv, columns=Columns("sentence1", "sentence2", "label")).columns == ""
    numbers = read(tsv, "regression").examples
    assert [example.label for example in numbers] == [1.0, 0.0]


def test_labels_as_json_has_them(tmp_path):
    for values, expected in (([1, 0], ["1", "0"]), ([True, False], ["true", "false"]), ([1.5, 2], ["1.5", "2"])):
        content = "".join(json.dumps({"text": "a", "label": value}) + "\n" for value in values)
        assert [example.label for example in read(write(tmp_path, content, "a.jsonl")).examples] == expected


def test_spaces_around_texts_and_labels_do_not_count(tmp_path):
    (example,) = read(write(tmp_path, "text\tlabel\n a  b \t 1 \n")).examples
    assert (example.text, example.label) == ("a  b", "1")


def test_unlabelled_files(tmp_path):
    for content in ("text\na\nb\n", "text\tlabel\na\t\nb\t\n"):
        contents = read(write(tmp_path, content), label_needed=False)
        assert [example.label for example in contents.examples] == [None, None]
    with pytest.raises(UserError, match=r"data\.tsv: no example is labelled, and labels are needed"):
        read(write(tmp_path, "text\tlabel\na\t\nb\t\n"))
    with pytest.raises(UserError, match=r"data\.tsv:3: has no label, and others of the file do"):
        read(write(tmp_path, "text\tlabel\na\t1\nb\t\n"), label_needed=False)
    with pytest.raises(UserError, match="no column label; it has text"):
        read(write(tmp_path, "text\na\n"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.txt", "O\nB-PER\nI-PER\n"),
        ("names.json", '["O", "B-PER", "I-PER"]'),
        ("names.json", '{"names": ["O", "B-PER", "I-PER"]}'),
        ("config.json", '{"hidden": 1, "id2label": {"1": "B-PER", "2": "I-PER", "0": "O"}}'),
    ],
)
def test_numbers_have_the_names_of_a_file(tmp_path, name, content):
    names = write(tmp_path, content, name)
    tags = write(tmp_path, '{"tokens": ["a", "b", "c"], "ner_tags": [1, 2, 0]}\n', "a.jsonl")
    assert read(tags, "tagging", label_names=names).examples[0].tags == ("B-PER", "I-PER", "O")
    labels = read(write(tmp_path, "text\tlabel\na\t2\nb\tB-PER\nc\t-1\n"), label_names=names)
    assert [example.label for example in labels.examples] == ["I-PER", "B-PER"]
    assert labels.notices == [
        f"{tmp_path}/data.tsv: 1 of 3 examples have the label -1, which stands for none: they are skipped"
    ]
    told = r"data\.tsv:2: label '3' is neither a number from 0 to 2 nor a name in .*/" + name
    with pytest.raises(UserError, match=told):
        read(write(tmp_path, "text\tlabel\na\t3\nb\t0\n"), label_names=names)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("names.json", "{", r"names\.json is no JSON"),
        ("names.json", '{"0": "a", "2": "b"}', r"names\.json: give a name for each of the numbers from 0 on"),
        ("names.json", "3", "give a name for each of the numbers"),
        ("names.txt", "a\n\nb\n", "give a name for each of the numbers"),
        ("names.txt", "a\na\n", "'a' is the name of two labels"),
    ],
)
def test_bad_names_of_labels(tmp_path, name, content, message):
    path = write(tmp_path, "text\tlabel\na\t0\n")
    with pytest.raises(UserError, match=message):
        read(path, label_names=write(tmp_path, content, name))
    unlabelled = write(tmp_path, "text\na\n")  # then they are not read
    assert len(read(unlabelled, label_needed=False, label_names=f"{tmp_path}/nothing").examples) == 1


def test_labels_that_stand_for_none(tmp_path):
    rows = "a\tb\tx\nc\td\t-\ne\tf\ty\n"
    contents = read(write(tmp_path, "sentence1\tsentence2\tgold_label\n" + rows))
    assert [(example.id, example.label) for example in contents.examples] == [("0", "x"), ("2", "y")]
    assert contents.notices == [
        f"{tmp_path}/data.tsv: 1 of 3 examples have the label -, which stands for none: they are skipped"
    ]
    contents = read(write(tmp_path, "sentence1\tsentence2\tlabel\n" + rows))
    assert [example.label for example in contents.examples] == ["x", "-", "y"] and contents.notices == []
    for kind in ("classification", "regression"):
        path = write(tmp_path, "text\tlabel\na\t-1\nb\t-1\n")
        contents = read(path, kind, label_needed=False)
        assert [example.label for example in contents.examples] == [None, None]
        assert contents.notices == [
            f"{path}: 2 of 2 examples have the label -1, which stands for none: they are not scored"
        ]
        contents = read(write(tmp_path, "text\tlabel\na\t-1\nb\t1\n"), kind, label_needed=False)
        assert [float(example.label) for example in contents.examples] == [-1, 1] and contents.notices == []


def test_words_and_tags(tmp_path):
    content = '{"tokens": ["New York", "is"], "tags": ["B-LOC", "O"]}\n{"tokens": ["a", 1], "tags": ["O", "O"]}\n'
    examples = read(write(tmp_path, content, "a.jsonl"), "tagging").examples
    assert [(example.words, example.tags) for example in examples] == [
        (("New York", "is"), ("B-LOC", "O")),
        (("a", "1"), ("O", "O")),
    ]
    (example,) = read(write(tmp_path, "words\ttags\nNew York is\tB I O\n"), "tagging").examples
    assert (example.words, example.tags) == (("New", "York", "is"), ("B", "I", "O"))
    (example,) = read(write(tmp_path, "words\ttags\n10\u00a0000 \u3000 km\tB O  O\n"), "tagging").examples
    assert (example.words, example.tags) == (("10\u00a0000", "\u3000", "km"), ("B", "O", "O"))
    content = '{"tokens": ["\\u200b", "\\u3000"], "tags": ["B", "O"]}\n'
    assert read(write(tmp_path, content, "a.jsonl"), "tagging").examples[0].words == ("\u200b", "\u3000")
    with pytest.raises(UserError, match=r"data\.tsv:2: the line is blank; .*: --config\.data\.format=conll$"):
        read(write(tmp_path, "EU\tORG\n\nis\tO\n"), "tagging")
    (example,) = read(write(tmp_path, "a O\nb O\n", "a.conll"), "tagging").examples
    assert example.words == ("a", "b")
    row = "\t".join(["1", "is", "be", "AUX", "VBZ", *"_____"])
    (example,) = read(write(tmp_path, row, "a.conllu"), "tagging").examples
    assert (example.words, example.tags) == (("is",), ("AUX",))


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ("text\tlabel\na\t1\n \t0\n", "classification", r"data\.tsv:3: the text is empty"),
        ("sentence1\tsentence2\tlabel\na\t\t1\n", "classification", r"data\.tsv:2: the second text is empty"),
        ("text\tlabel\na\t1\nb\tgood\n", "regression",
         r"data\.tsv:3: the label 'good' is no number: classes are learned with --config\.task=classification"),
        ("text\tlabel\na\t1,5\n", "regression", r"data\.tsv:2: the label '1,5' is no number: write 1\.5"),
        ("text\tlabel\na\tnan\n", "regression", r"data\.tsv:2: the label 'nan' is no number"),
        ("words\ttags\na b\tO\n", "tagging", r"data\.tsv:2: 2 words, but 1 tags"),
        ("words\ttags\n \tO\n", "tagging", r"data\.tsv:2: there are no words"),
    ],
)  # fmt: skip
def test_bad_rows_of_tables(tmp_path, content, kind, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, content), kind)


@pytest.mark.parametrize(
    ("record", "kind", "message"),
    [
        ({"text": 5, "label": 1}, "classification", r"a\.jsonl:2: the text is no text but int"),
        ({"label": 1}, "classification", r"a\.jsonl:2: the text is missing"),
        ({"text": "a", "label": [1]}, "classification", r"a\.jsonl:2: the label is list, not one value: \[1\]"),
        ({"text": "a"}, "classification", r"a\.jsonl:2: has no label, and others of the file do"),
        (
            {"text": "a", "label": float("nan")},
            "classification",
            r"a\.jsonl:2: has no label, and others of the file do",
        ),
        ({"text": "a", "label": float("nan")}, "regression", r"a\.jsonl:2: has no label, and others of the file do"),
        ({"text": float("nan"), "label": 1}, "classification", r"a\.jsonl:2: the text is missing"),
        ({"text": "a", "label": True}, "regression", r"a\.jsonl:2: the label 'true' is no number"),
        ({"text": ["a", ""], "label": ["1", "1"]}, "tagging", r"a\.jsonl:2: '' is none of the words"),
        ({"text": ["a"], "label": [None]}, "tagging", r"a\.jsonl:2: None is none of the tags"),
        ({"text": ["a"], "label": 7}, "tagging", r"a\.jsonl:2: there are no tags"),
        ({"text": [], "label": []}, "tagging", r"a\.jsonl:2: there are no words"),
    ],
)
def test_bad_json_lines(tmp_path, record, kind, message):
    good = {"text": "a", "label": "1"}
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, f"{json.dumps(good)}\n{json.dumps(record)}\n", "a.jsonl"), kind)


def test_empty_texts_can_be_left_out(tmp_path):
    content = "sentence1\tsentence2\tlabel\na\tb\t1\nc\t\t0\nd\n \te\t1\nf\tg\t0\n"
    contents = read(write(tmp_path, content), skip_bad=True)
    assert [(example.text, example.second_text, example.label) for example in contents.examples] == [
        ("a", "b", "1"),
        ("f", "g", "0"),
    ]
    assert [notice.partition(": ")[2] for notice in contents.notices] == [
        f"bad examples skipped: 3 of 5; the first: {tmp_path}/data.tsv:4: 1 column, where the header has 3: fix "
        f"the line, whose columns lie between tabs"
    ]
    with pytest.raises(UserError, match=r"data\.tsv:2: the text is empty$"):
        read(write(tmp_path, "sentence\tlabel\n\t1\n"), skip_bad=True)


def test_broken_lines_and_quoted_texts_are_told(tmp_path):
    contents = read(write(tmp_path, 'text\tlabel\n"a"\t1\nb\n"c"\t0\n'), skip_bad=True)
    assert len(contents.examples) == 2
    assert [notice.partition(": ")[2] for notice in contents.notices] == [
        f"bad examples skipped: 1 of 3; the first: {tmp_path}/data.tsv:3: 1 column, where the header has 2: fix the "
        f"line, whose columns lie between tabs",
        "every text begins and ends with a quote, which is taken for text: if the file has quotes as CSV has, write it "
        "without",
    ]


CONTEXT = " The cat sat. A dog sat, too."
CONTENT = {
    "version": "v2.0",
    "data": [
        {
            "title": "x",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "a",
                            "question": "Who?",
                            "answers": [{"text": "cat", "answer_start": 5}, {"text": "dog", "answer_start": 16}],
                        },
                        {"id": "b", "question": "Where?", "answers": [], "is_impossible": True},
                        {"id": "c", "question": "Why?", "answers": []},
                        {"id": "d", "question": "When?", "is_impossible": False,
                         "answers": [{"text": "sat", "answer_start": 20}]},
                    ],
                }
            ],
        }
    ],
}  # fmt: skip


def read_questions(tmp_path, content):
    path = tmp_path / "dev.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read(str(path), "question_answering", label_needed=False).examples


def changed(key, value, index=0):
    content = copy.deepcopy(CONTENT)
    content["data"][0]["paragraphs"][0]["qas"][index][key] = value
    return content


def test_both_versions_are_read(tmp_path):
    examples = read_questions(tmp_path, CONTENT)
    assert [(example.id, example.text, example.is_impossible) for example in examples] == [
        ("a", "Who?", False),
        ("b", "Where?", True),
        ("c", "Why?", True),
        ("d", "When?", False),
    ]
    assert examples[0].answers == (Answer("cat", 5), Answer("dog", 16))
    assert all(example.second_text == CONTEXT and example.is_labelled for example in examples)
    assert examples[0].where.endswith("dev.json, question a")


def test_questions_without_answers_are_unlabelled(tmp_path):
    content = copy.deepcopy(CONTENT)
    for question in content["data"][0]["paragraphs"][0]["qas"]:
        question.pop("answers")
        question.pop("is_impossible", None)
    assert not any(example.is_labelled for example in read_questions(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"dev\.json is no JSON"),
        ("[]", r"dev\.json holds no question"),
        ("[1]", r"dev\.json is not of SQuAD's form"),
        ({"data": []}, r"dev\.json holds no question"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r"dev\.json is not of SQuAD's form \(KeyError\('context'\)\)"),
        (changed("id", "b"), r"dev\.json, question b: questions 1 and 2 of the file have this id"),
        (changed("question", " "), r"question a: the question is empty"),
        (changed("answers", [{"text": "bird", "answer_start": 5}]),
         r"dev\.json, question a: the answer 'bird' does not occur in its context$"),
        (changed("answers", [{"text": "cat", "answer_start": 4}]),
         r"question a: the answer 'cat' is not at character 4 of its context, where ' ca' is, but at 5"),
        (changed("answers", [{"text": "cat", "answer_start": -24}]), "is not at character -24"),
        (changed("answers", [{"text": "cat", "answer_start": "5"}]), "question a: answer_start is '5'"),
        (changed("answers", [{"text": " ", "answer_start": 0}]), "question a: an answer is empty"),
        (changed("answers", [{"answer_start": 0}]), r"dev\.json is not of SQuAD's form \(KeyError\('text'\)\)"),
        (changed("is_impossible", True), r"question a: is_impossible, but has an answer \('cat'\)"),
        (changed("is_impossible", False, 2), r"question c: has no answer, but is_impossible is false"),
    ],
)  # fmt: skip
def test_bad_files_of_squad(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_questions(tmp_path, content)


FLAT = [
    {"id": "a", "title": "x", "context": CONTEXT, "question": "Who?",
     "answers": {"text": ["cat", "dog"], "answer_start": [5, 16]}},
    {"id": "b", "title": "x", "context": CONTEXT, "question": "Where?", "answers": {"text": [], "answer_start": []}},
    {"id": "c", "title": "x", "context": CONTEXT, "question": "Why?", "answers": []},
    {"id": "d", "title": "x", "context": CONTEXT, "question": "When?",
     "answers": [{"text": "sat", "answer_start": 20}]},
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dev.jsonl", "".join(json.dumps(record) + "\n" for record in FLAT)),
        ("dev.json", "".join(json.dumps(record) + "\n" for record in FLAT)),
        ("dev.json", json.dumps(FLAT)),
        ("dev.json", json.dumps({"data": FLAT}, indent=2)),
    ],
)
def test_flat_records_are_the_same_questions(tmp_path, name, content):
    expected = read_questions(tmp_path, CONTENT)
    examples = read(write(tmp_path, content, name), "question_answering").examples
    assert [dataclasses.replace(example, where="") for example in examples] == [
        dataclasses.replace(example, where="") for example in expected
    ]
    assert examples[3].where == f"{tmp_path}/{name}, question d"


def test_one_flat_record_and_bad_ones(tmp_path):
    (example,) = read(write(tmp_path, json.dumps(FLAT[0]), "one.jsonl"), "question_answering").examples
    assert example.answers == (Answer("cat", 5), Answer("dog", 16))
    with pytest.raises(UserError, match=r"dev\.jsonl:2: no JSON"):
        read(write(tmp_path, json.dumps(FLAT[0]) + "\n{\n", "dev.jsonl"), "question_answering")
    bad = {**FLAT[0], "answers": {"text": ["cat"], "answer_start": []}}
    with pytest.raises(UserError, match=r"dev\.jsonl is not of SQuAD's form \(ValueError"):
        read(write(tmp_path, json.dumps(bad), "dev.jsonl"), "question_answering")


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("big cat", 4, Answer("big\u00a0 cat", 4)),
        ("big\ncat ", 4, Answer("big\u00a0 cat", 4)),
        (" big cat", 3, Answer("big\u00a0 cat", 4)),
        ("big cat", 3, r"is not at character 3 of its context, where ' big\\xa0 c' is, but at 4$"),
        ("bigcat", 4, r"does not occur in its context$"),
    ],
)
def test_answers_may_differ_from_their_context_by_white_space(tmp_path, text, start, expected):
    record = {**FLAT[0], "context": "the big\u00a0 cat", "answers": {"text": [text], "answer_start": [start]}}
    path = write(tmp_path, json.dumps(record), "a.jsonl")
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            read(path, "question_answering")
    else:
        assert read(path, "question_answering").examples[0].answers == (expected,)


_QUESTIONS = [
    {**FLAT[0], "id": number, "answers": {"text": ["cat"], "answer_start": [5 + (number in (3, 7))]}}
    for number in range(10)
]
BAD_FILES = [
    ("a.jsonl", "question_answering", "".join(json.dumps(record) + "\n" for record in _QUESTIONS),
     "question 3: the answer 'cat' is not at character 6 of its context, where 'at ' is, but at 5"),
    ("a.tsv", "classification", "text\tlabel\n" + "a\t1\n" * 8 + " \t0\nb\t\n", "a.tsv:10: the text is empty"),
    ("a.csv", "classification", "text,label\n" + "a,1\n" * 8 + "b\nc,d,e\n",
     "a.csv:10: 1 column, where the header has 2: fix the line, whose columns lie between commas"),
    ("a.jsonl", "regression", '{"text": "a", "label": 1}\n' * 8 + '{"text"\n{"text": "a", "label": "x"}\n',
     "a.jsonl:9: no JSON"),
    ("a.conll", "tagging", "a O\n\n" * 8 + "b\n\na O O\nb O\n",
     "a.conll:17: number of columns 1, where the first word's line has 2"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "content", "first"), BAD_FILES)
def test_bad_examples_are_counted_and_can_be_skipped(tmp_path, name, kind, content, first):
    path = write(tmp_path, content, name)
    if kind != "regression":  # of JSON lines, lines and their values are read one after the other
        told = "; 1 more of 10 examples is bad: fix them, or skip them with --config.data.skip_bad_examples=true"
        with pytest.raises(UserError, match=re.escape(first) + ".*" + re.escape(told) + "$"):
            read(path, kind)
    contents = read(path, kind, skip_bad=True)
    assert len(contents.examples) == 8
    assert contents.notices[0].startswith(f"{path}: bad examples skipped: 2 of 10; the first: ")
    assert first in contents.notices[0]


def test_where_all_are_bad_none_are_skipped(tmp_path):
    with pytest.raises(UserError, match=r"data\.tsv:2: the text is empty; 1 more of 2 examples is bad: fix them, or"):
        read(write(tmp_path, "text\tlabel\n \t1\n \t0\n"), skip_bad=True)
    columns = Columns(flag="--predict=FILE:")
    with pytest.raises(UserError, match=r"1 more of 2 examples is bad: fix them$"):
        read(write(tmp_path, "text\tlabel\n \t1\n \t0\n"), columns=columns)


def test_an_empty_context_is_named(tmp_path):
    content = changed("answers", [])
    content["data"][0]["paragraphs"][0]["context"] = ""
    with pytest.raises(UserError, match="question a: the context is empty"):
        read_questions(tmp_path, content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"words": ["[CLS]", "Ann"], "tags": [-100, 1]}\n{"words": ["Bob"], "tags": [1]}\n'),
        ("a.tsv", "words\ttags\n[CLS] Ann\t-100 1\nBob\t1\n"),
        ("a.conll", "[CLS] -100\nAnn 1\n\nBob 1\n"),
    ],
)
def test_tags_that_were_aligned_with_tokens(tmp_path, name, content):
    path = write(tmp_path, content, name)
    (tmp_path / "names").write_text("O\nB-PER\n")
    for names in ("", str(tmp_path / "names")):
        with pytest.raises(UserError) as error:
            read(path, "tagging", label_names=names)
        assert re.fullmatch(
            rf"{re.escape(str(path))}:\d: the tag of '\[CLS\]' is -100, which stands for a token that is no word's "
            rf"first: give each word and its tag, as before words were divided into tokens",
            str(error.value),
        )
    contents = read(path, "tagging", skip_bad=True)
    assert [example.words for example in contents.examples] == [("Bob",)]
    assert "bad examples skipped: 1 of 2" in contents.notices[0]
