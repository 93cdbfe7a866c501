import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from official.nlp.tools.squad_evaluate_v1_1 import _normalize_answer

from electra_cli.data.model_tokenizers import ByteLevelTokenizer, SentencePieceTokenizer
from electra_cli.finetuning.examples import Answer, Example, LabelMap
from electra_cli.finetuning.question_answering import PredictedAnswer, QuestionAnswering, _most_context
from tests.finetuning.common import ENCODER, VOCABULARY, question, tokens, train_byte_level, train_sentencepiece


def answering(has_none=False, doc_stride=4, max_answer_length=30, num_best=5):
    task = QuestionAnswering(doc_stride=doc_stride, max_answer_length=max_answer_length, num_best=num_best)
    task.labels = LabelMap("question_answering", ("answer", "no_answer") if has_none else ("answer",))
    return task


def logits_of(encoded):
    """Logits whose best span is the target of each row; windows without one are sure that there is none."""
    rows, length = encoded.features["input_word_ids"].shape
    logits = np.zeros([rows, length, 2], np.float32)
    for row, (first, last) in enumerate(encoded.targets):
        sure = 10 if first else 5
        logits[row, first, 0] += sure
        logits[row, last, 1] += sure
    return logits


def row_with_most_context(encoded, doc_stride, row, place):
    """Of all windows of an example, the row of that which shows the most context of a token, by BERT's definition."""
    rows = np.flatnonzero(encoded.example_indices == encoded.example_indices[row])
    lengths = [len(encoded.alignments[each]) for each in rows]
    step = min(doc_stride, lengths[0])
    token = step * (row - rows[0]) + place
    shown = []
    for index, length in enumerate(lengths):
        left, right = token - step * index, step * index + length - 1 - token
        shown.append(min(left, right) + 0.01 * length if min(left, right) >= 0 else -1.0)
    return rows[0] + int(np.argmax(shown))


def test_the_window_with_the_most_context_by_hand():
    """Token 6 has 6 and 2 beside it in the first window of 9, 2 and 5 in the second: as few, but in a longer window."""
    first, second = _most_context([(0, 9), (4, 8)])
    assert first.tolist() == [True] * 7 + [False] * 2
    assert second.tolist() == [False] * 3 + [True] * 5
    assert [owned.tolist() for owned in _most_context([(0, 3)])] == [[True] * 3]
    example = question("Where is it?", "The cats sat on a red mat, in Paris.", "mat")
    encoded = answering().encode([example], ENCODER, VOCABULARY, 16)
    logits = np.zeros([2, 16, 2], np.float32)
    logits[0, 13], logits[1, 12] = 10.0, 9.0  # mat, at the first window's end; paris
    assert answering().predict(logits, encoded, [example]) == ["Paris"]


def test_windows_and_targets_by_hand():
    example = question("Where is it?", "The cats sat on a red mat, in Paris.", "red mat")
    encoded = answering().encode([example], ENCODER, VOCABULARY, 16)
    # 4 tokens of question and 3 special ones leave 9 of the 12.
    assert [tokens(row) for row in encoded.features["input_word_ids"]] == [
        "[CLS] where is [UNK] ? [SEP] the cat ##s sat on a red mat , [SEP]",
        "[CLS] where is [UNK] ? [SEP] on a red mat , in paris . [SEP]",
    ]
    assert encoded.features["input_type_ids"].tolist() == [[0] * 6 + [1] * 10, [0] * 6 + [1] * 9 + [0]]
    assert encoded.targets.tolist() == [[12, 13], [8, 9]] and encoded.targets.dtype == np.int32
    assert encoded.example_indices.tolist() == [0, 0]
    assert [example.second_text[begin:end] for begin, end in encoded.alignments[1]][:4] == ["on", "a", "red", "mat"]
    assert answering().lengths([example], ENCODER).tolist() == [4 + 12 + 3]


def test_questions_and_contexts_without_a_token_are_counted():
    examples = [question("\u200b", "the cat", "cat"), question("Who?", "\u2060", is_impossible=True)]
    encoded = answering(has_none=True).encode([*examples, question("Who?", "the cat", "cat")], ENCODER, VOCABULARY, 16)
    assert encoded.notices == ("questions or contexts of invisible characters only, which have no token: 2",)


def test_windows_without_the_whole_answer_point_at_cls():
    example = question("Who?", "the cat sat on a red mat the dog is in paris .", "mat the dog")
    encoded = answering(doc_stride=8).encode([example], ENCODER, VOCABULARY, 16)
    assert [tokens(row) for row in encoded.features["input_word_ids"]] == [
        "[CLS] who ? [SEP] the cat sat on a red mat the dog is in [SEP]",
        "[CLS] who ? [SEP] dog is in paris . [SEP]",
    ]
    assert encoded.targets.tolist() == [[10, 12], [0, 0]]
    assert answering().predict(logits_of(encoded), encoded, [example]) == ["mat the dog"]
    example = question("Who?", example.second_text, "in paris")  # tokens 10 and 11; the first window ends before 11
    assert answering(doc_stride=8).encode([example], ENCODER, VOCABULARY, 16).targets.tolist() == [[0, 0], [6, 7]]


def test_answers_begin_and_end_within_what_has_no_spaces():
    example = question("Who?", "the cat,red.mat", "red")
    encoded = answering().encode([example], ENCODER, VOCABULARY, 16)
    assert encoded.targets.tolist() == [[7, 7]]
    assert answering().predict(logits_of(encoded), encoded, [example]) == ["red"]


def test_tokens_without_text_are_no_answer():
    example = question("Who?", "the cat", "the")
    encoded = answering(has_none=True).encode([example], ENCODER, VOCABULARY, 16)
    # As a piece of SentencePiece that stands for the beginning of the text.
    empty = dataclasses.replace(encoded, alignments=(np.array([[0, 0], [4, 7]], np.int32),))
    found = answering(has_none=True).predict(logits_of(encoded), empty, [example])
    assert "" not in dict(found[0].candidates) and found[0].candidates[0][0] == "the cat"


@given(st.integers(0, 40), st.integers(1, 20), st.integers(1, 30))
def test_windows_cover_all_tokens(num_tokens, room, stride):
    windows = list(answering(doc_stride=stride)._windows(num_tokens, room))
    assert set(itertools.chain(*(range(begin, end) for begin, end in windows))) == set(range(num_tokens))
    assert all(end - begin <= room for begin, end in windows)
    begins = [begin for begin, _ in windows]
    assert all(after - before == min(stride, room) for before, after in itertools.pairwise(begins))
    assert len(windows) == 1 or windows[-2][1] < num_tokens  # no window that adds nothing


WORDS = st.lists(
    st.sampled_from(["the", "Cats", "sat", "Ünknown", "Paris,", "(red)", "dog's", "A", "ﬁne", "中国", "x-y"]),
    min_size=1,
    max_size=30,
)


@pytest.fixture(scope="module")
def sentencepiece_encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "spm.model"
    train_sentencepiece(path, ["the Cats sat in Paris, (red) dog's A fine x-y 中国 Where?"] * 5, 60)
    return SentencePieceTokenizer(str(path))


@pytest.fixture(scope="module")
def byte_level_encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tokenizer.json"
    train_byte_level(path, ["the Cats sat in Paris, (red) dog's A fine x-y 中国 Where?"] * 5, 300)
    return ByteLevelTokenizer(str(path))


@given(WORDS, st.data())
@settings(max_examples=120, deadline=None)
def test_gold_positions_give_the_gold_answer(sentencepiece_encoder, byte_level_encoder, words, data):
    context = data.draw(st.sampled_from(["", " ", "  "])) + data.draw(st.sampled_from([" ", "  ", "\n"])).join(words)
    starts = [place for place in range(len(context)) if context[place].strip() and not context[:place][-1:].strip()]
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, min(first + 3, len(words) - 1)))
    text = context[starts[first] : starts[last] + len(words[last])]
    example = Example("w", "id", "Where?", context, answers=(Answer(text, starts[first]),))
    doc_stride = data.draw(st.integers(8, 20))
    task = answering(doc_stride=doc_stride, max_answer_length=64)
    others = ((encoder, encoder.vocabulary) for encoder in (sentencepiece_encoder, byte_level_encoder))
    for encoder, vocabulary in ((ENCODER, VOCABULARY), *others):
        encoded = task.encode([example], encoder, vocabulary, 256)
        found = task.predict(logits_of(encoded), encoded, [example])
        assert _normalize_answer(found[0]) == _normalize_answer(text)
        assert task.score(found, [example]) == {"f1": 1.0, "exact_match": 1.0} or not _normalize_answer(text)
        # In windows too, if that which may answer holds all of it.
        encoded = task.encode([example], encoder, vocabulary, 64)
        begins = encoded.features["input_type_ids"].argmax(axis=1)
        holders = np.flatnonzero(encoded.targets[:, 0])
        if any(
            row_with_most_context(encoded, doc_stride, row, encoded.targets[row, 0] - begins[row]) == row
            for row in holders
        ):
            found = task.predict(logits_of(encoded), encoded, [example])
            assert _normalize_answer(found[0]) == _normalize_answer(text)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_best_span_is_that_of_trying_all(seed, longest, has_none):
    task = answering(has_none, doc_stride=3, max_answer_length=longest, num_best=4)
    context = "the cat sat on a red mat , in paris . big bird dog is who"
    examples = [question("Who?", context, "cat"), question("Where is a dog?", "a cat", "cat", number=2)]
    encoded = task.encode(examples, ENCODER, VOCABULARY, 16)
    logits = np.random.default_rng(seed).normal(size=(len(encoded.targets), 16, 2)).astype(np.float32)
    found = task.predict(logits, encoded, examples)
    for index, example in enumerate(examples):
        spans, nulls = {}, []
        for row in np.flatnonzero(encoded.example_indices == index):
            nulls.append(float(logits[row, 0].sum()))
            begin = encoded.features["input_type_ids"][row].tolist().index(1)
            for first, last in itertools.product(range(len(encoded.alignments[row])), repeat=2):
                if first <= last < first + longest and row_with_most_context(encoded, 3, row, first) == row:
                    places = encoded.alignments[row]
                    text = example.second_text[places[first][0] : places[last][1]]
                    score = float(logits[row, begin + first, 0] + logits[row, begin + last, 1])
                    spans[text] = max(score, spans.get(text, -np.inf))
        best = sorted(spans.items(), key=lambda item: -item[1])
        margin = min(nulls) - best[0][1]
        assert found[index].null_margin == pytest.approx(margin, abs=1e-5)
        assert found[index] == ("" if has_none and margin > 0 else best[0][0])
        assert dict(found[index].candidates) == pytest.approx(dict(best[:4]), abs=1e-5)


def test_contexts_without_an_answer():
    examples = [
        question("Who?", "the cat sat", "cat"),
        question("Where?", "the cat sat", is_impossible=True, number=2),
    ]
    task = QuestionAnswering(doc_stride=4, max_answer_length=8, num_best=2)
    task.labels = task.find_labels(examples)
    assert task.labels.labels == ("answer", "no_answer") and task.num_outputs == 2 and task.primary_score == "f1"
    encoded = task.encode(examples, ENCODER, VOCABULARY, 16)
    assert encoded.targets.tolist() == [[5, 5], [0, 0]]
    found = task.predict(logits_of(encoded), encoded, examples)
    assert found == ["cat", ""] and isinstance(found[1], PredictedAnswer) and found[1].null_margin > 0
    scores = task.score(found, examples)
    assert (scores["f1"], scores["has_answer_f1"], scores["no_answer_f1"], scores["best_f1"]) == (1, 1, 1, 1)
    assert "best_f1" not in task.score(["cat", ""], examples)
    # A task that knows none always answers.
    task.labels = task.find_labels(examples[:1])
    assert task.labels.labels == ("answer",)
    assert all(task.predict(logits_of(encoded), encoded, examples))
    assert task.score(["cat"], examples[:1]) == {"f1": 1, "exact_match": 1}
    assert task.score(["cat", "cat"], examples)["no_answer_f1"] == 0


def test_long_questions_are_cut_and_told():
    examples = [question("who " * 80, "the cat", "cat"), question("who", "the cat", "cat")]
    encoded = answering().encode(examples, ENCODER, VOCABULARY, 200)
    assert encoded.features["input_mask"].sum(axis=1).tolist() == [64 + 2 + 3, 1 + 2 + 3]
    assert encoded.notices == ("questions cut to 64 tokens: 1",)
    assert answering().lengths(examples, ENCODER).tolist() == [69, 6]
    assert answering().encode(examples, ENCODER, VOCABULARY, 32).features["input_mask"][0].sum() == 14 + 2 + 3


def test_contexts_without_tokens_have_no_answer():
    example = Example("w", "id", "Who?", "\u200b")
    encoded = answering().encode([example], ENCODER, VOCABULARY, 16)
    assert encoded.targets is None
    found = answering().predict(np.zeros([1, 16, 2], np.float32), encoded, [example])
    assert found == [""] and found[0].candidates == ()
