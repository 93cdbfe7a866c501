"""Files of SQuAD's JSON, 1.1 and 2.0, in; examples out."""

import json
from typing import Any

from electra_cli.data.text_files import without_surrogates
from electra_cli.errors import UserError
from electra_cli.finetuning.examples import Answer, Example
from electra_cli.finetuning.text_lines import read_text

_FORM = '{"data": [{"paragraphs": [{"context": "...", "qas": [{"id": "...", "question": "...", "answers": [...]}]}]}]}'


def read_squad(path: str) -> list[Example]:
    """Returns the questions of a file, in its order.

    A question without `answers` is unlabelled. One with none in the list has none (`is_impossible`), as the official
    script counts.

    Raises:
      UserError: the file cannot be read or is not of that form; two questions have one id; an answer does not stand in
        its context where it says.
    """
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): give a file of SQuAD, {_FORM}") from error
    examples: list[Example] = []
    seen: dict[str, int] = {}
    try:
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                context = without_surrogates(paragraph["context"])
                for question in paragraph["qas"]:
                    example = _read_question(path, context, question)
                    if example.id in seen:
                        raise UserError(
                            f"{example.where}: questions {seen[example.id] + 1:,} and {len(examples) + 1:,} of the "
                            f"file have this id: give each its own"
                        )
                    seen[example.id] = len(examples)
                    examples.append(example)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        place = f" behind question {examples[-1].id}" if examples else ""
        raise UserError(f"{path}{place} is not of SQuAD's form ({error!r}): {_FORM} is needed") from error
    if not examples:
        raise UserError(f"{path} holds no question")
    return examples


def _read_question(path: str, context: str, record: dict[str, Any]) -> Example:
    where = f"{path}, question {record['id']}"
    question = without_surrogates(record["question"])
    if not question.strip():
        raise UserError(f"{where}: the question is empty")
    if not context.strip():
        raise UserError(f"{where}: the context is empty")
    answers = tuple(
        Answer(without_surrogates(answer["text"]), answer["answer_start"]) for answer in record.get("answers") or ()
    )
    for answer in answers:
        _check_answer(answer, context, where)
    says_impossible = record.get("is_impossible")
    if says_impossible and answers:
        raise UserError(f"{where}: is_impossible, but has an answer ({answers[0].text!r})")
    if says_impossible is False and record.get("answers") == []:
        raise UserError(f"{where}: has no answer, but is_impossible is false")
    return Example(
        where=where,
        id=str(record["id"]),
        text=question,
        second_text=context,
        answers=answers,
        is_impossible=bool(says_impossible) or record.get("answers") == [],
    )


def _check_answer(answer: Answer, context: str, where: str) -> None:
    if isinstance(answer.start, bool) or not isinstance(answer.start, int):
        raise UserError(f"{where}: answer_start is {answer.start!r}: it is a character of the context, counted from 0")
    if not answer.text.strip():
        raise UserError(f"{where}: an answer is empty")
    if answer.start >= 0 and context.startswith(answer.text, answer.start):
        return
    place = context.find(answer.text)
    if place < 0:
        raise UserError(f"{where}: the answer {_short(answer.text)!r} does not occur in its context")
    found = context[max(answer.start, 0) : max(answer.start, 0) + len(answer.text)]
    raise UserError(
        f"{where}: the answer {_short(answer.text)!r} does not stand at character {answer.start} of its context, where "
        f"{_short(found)!r} is, but at {place}"
    )


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
