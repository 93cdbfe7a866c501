"""Reads SQuAD's JSON: articles with paragraphs, or the flat records of Hugging Face's datasets, also one a line."""

import re
from collections.abc import Iterator
from typing import Any

from electra_cli.data.inputs import without_surrogates
from electra_cli.errors import UserError
from electra_cli.files import parse_json
from electra_cli.finetuning.examples import Answer, Example, convert_each
from electra_cli.finetuning.tables import read_text, split_lines

_FORM = (
    '{"data": [{"paragraphs": [{"context": "...", "qas": [{"id": "...", "question": "...", "answers": [...]}]}]}]}, or '
    'records {"id": "...", "context": "...", "question": "...", "answers": {"text": [...], "answer_start": [...]}}'
)


def read_squad(path: str, errors: list[UserError]) -> list[Example]:
    """Returns the questions of a file, in its order; what is wrong with others is added to `errors`.

    A question without `answers` is unlabelled. One with none in the list has none (`is_impossible`), as the official
    script counts. An answer may differ from its context by white space. Raises a `UserError` where the file cannot be
    read, is not of that form, or holds no question.
    """
    questions: list[tuple[str, dict[str, Any]]] = []
    try:
        for question in _questions(_parse(path)):
            questions.append(question)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise _form_error(path, questions, error) from error
    if not questions:
        raise UserError(f"{path} holds no question")
    seen: dict[str, int] = {}

    def convert(numbered: tuple[int, tuple[str, dict[str, Any]]]) -> Example:
        number, (context, record) = numbered
        try:
            example = _read_question(path, without_surrogates(context), record)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _form_error(path, questions[: number - 1], error) from error
        first = seen.setdefault(example.id, number)
        if first != number:
            raise UserError(
                f"{example.where}: questions {first:,} and {number:,} of the file have this id: give each its own"
            )
        return example

    return convert_each(convert, enumerate(questions, 1), errors)


def _parse(path: str) -> Any:
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        lines = split_lines(text)
        is_record_a_line = len(lines) > 1 and lines[0].rstrip().endswith("}")
        if not is_record_a_line:
            raise UserError(f"{path} is no JSON ({error}): give a file of SQuAD, {_FORM}") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(parse_json(line))
        except ValueError as error:
            raise UserError(f"{path}:{number}: no JSON ({error}): give a file of SQuAD, {_FORM}") from error
    return records


def _questions(content: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Returns the context and the record of each question."""
    if isinstance(content, dict):
        content = content["data"] if "context" not in content else [content]
    for entry in content:
        if "paragraphs" not in entry:
            yield entry["context"], entry
            continue
        for paragraph in entry["paragraphs"]:
            context = paragraph["context"]
            for question in paragraph["qas"]:
                yield context, question


def _form_error(path: str, before: list[tuple[str, dict[str, Any]]], error: Exception) -> UserError:
    position = f" behind question {before[-1][1].get('id')}" if before else ""
    return UserError(f"{path}{position} is not of SQuAD's form ({error!r}): {_FORM} is needed")


def _read_question(path: str, context: str, record: dict[str, Any]) -> Example:
    where = f"{path}, question {record['id']}"
    question = without_surrogates(record["question"])
    if not question.strip():
        raise UserError(f"{where}: the question is empty")
    if not context.strip():
        raise UserError(f"{where}: the context is empty")
    given = record.get("answers")
    if isinstance(given, dict):
        pairs = list(zip(given["text"], given["answer_start"], strict=True))
    else:
        pairs = [(answer["text"], answer["answer_start"]) for answer in given or ()]
    answers = tuple(_find_answer(without_surrogates(text), start, context, where) for text, start in pairs)
    has_none = given is not None and not answers
    marked_impossible = record.get("is_impossible")
    if marked_impossible and answers:
        raise UserError(f"{where}: is_impossible, but has an answer ({answers[0].text!r})")
    if marked_impossible is False and has_none:
        raise UserError(f"{where}: has no answer, but is_impossible is false")
    is_impossible = bool(marked_impossible) or has_none
    return Example(where, str(record["id"]), question, context, answers=answers, is_impossible=is_impossible)


def _find_answer(text: str, start: Any, context: str, where: str) -> Answer:
    """Returns an answer as its context has it, from `start` on, where it may have other white space."""
    if isinstance(start, bool) or not isinstance(start, int):
        raise UserError(f"{where}: answer_start is {start!r}: it is a character of the context, counted from 0")
    if not text.strip():
        raise UserError(f"{where}: an answer is empty")
    if start >= 0 and context.startswith(text, start):
        return Answer(text, start)
    words = r"\s+".join(map(re.escape, text.split()))
    leading = r"\s*" if text[0].isspace() else ""
    pattern = re.compile(f"{leading}({words})")
    match = pattern.match(context, start) if start >= 0 else None
    if match:
        return Answer(match[1], match.start(1))
    match = pattern.search(context)
    if match is None:
        raise UserError(f"{where}: the answer {_short(text)!r} does not occur in its context")
    other = context[max(start, 0) : max(start, 0) + len(text)]
    raise UserError(
        f"{where}: the answer {_short(text)!r} is not at character {start} of its context, where {_short(other)!r} is, "
        f"but at {match.start(1)}"
    )


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
