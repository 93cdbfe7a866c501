import copy
import json

import pytest

from electra_cli.errors import UserError
from electra_cli.finetuning.examples import Answer
from electra_cli.finetuning.text_formats import read_squad

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


def read(tmp_path, content):
    path = tmp_path / "dev.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_squad(str(path))


def changed(key, value, index=0):
    content = copy.deepcopy(CONTENT)
    content["data"][0]["paragraphs"][0]["qas"][index][key] = value
    return content


def test_both_versions_are_read(tmp_path):
    examples = read(tmp_path, CONTENT)
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
    assert not any(example.is_labelled for example in read(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"dev\.json is no JSON"),
        ("[]", r"dev\.json is not of SQuAD's form"),
        ({"data": []}, r"dev\.json holds no question"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r"dev\.json is not of SQuAD's form \(KeyError\('context'\)\)"),
        (changed("id", "b"), r"dev\.json, question b: questions 1 and 2 of the file have this id"),
        (changed("question", " "), r"question a: the question is empty"),
        (changed("answers", [{"text": "bird", "answer_start": 5}]),
         r"dev\.json, question a: the answer 'bird' does not occur in its context$"),
        (changed("answers", [{"text": "cat", "answer_start": 4}]),
         r"question a: the answer 'cat' does not stand at character 4 of its context, where ' ca' is, but at 5"),
        (changed("answers", [{"text": "cat", "answer_start": -24}]), "does not stand at character -24"),
        (changed("answers", [{"text": "cat", "answer_start": "5"}]), "question a: answer_start is '5'"),
        (changed("answers", [{"text": " ", "answer_start": 0}]), "question a: an answer is empty"),
        (changed("answers", [{"answer_start": 0}]), r"dev\.json is not of SQuAD's form \(KeyError\('text'\)\)"),
        (changed("is_impossible", True), r"question a: is_impossible, but has an answer \('cat'\)"),
        (changed("is_impossible", False, 2), r"question c: has no answer, but is_impossible is false"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, content)


def test_an_empty_context_is_named(tmp_path):
    content = changed("answers", [])
    content["data"][0]["paragraphs"][0]["context"] = ""
    with pytest.raises(UserError, match="question a: the context is empty"):
        read(tmp_path, content)
