import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_cli.data.model_tokenizers import ByteLevelTokenizer, SentencePieceTokenizer
from electra_cli.errors import UserError
from electra_cli.finetuning.examples import LabelMap
from electra_cli.finetuning.tagging import Tagging
from tests.finetuning.common import (
    CLS,
    ENCODER,
    PAD,
    SEP,
    UNK,
    VOCABULARY,
    tagged,
    tokens,
    train_byte_level,
    train_sentencepiece,
)

TAGS = ("B-A", "I-A", "O")


def tagging(*labels, fallback="O"):
    task = Tagging()
    task.labels = LabelMap("tagging", labels or TAGS, fallback)
    return task


def one_hot(targets):
    """Logits that say what the targets are; where none is, nonsense."""
    logits = np.random.default_rng(0).normal(size=(*targets.shape, 3)).astype(np.float32)
    for place in np.argwhere(targets >= 0):
        logits[(*place, targets[tuple(place)])] = 100
    return logits


def test_the_first_token_of_a_word_carries_its_tag():
    encoded = tagging().encode([tagged("The cats xyz sat\u200bting", "O B-A I-A O")], ENCODER, VOCABULARY, 10)
    assert tokens(encoded.features["input_word_ids"][0]) == "[CLS] the cat ##s [UNK] sat ##ting [SEP]"
    assert encoded.targets.tolist() == [[-1, 2, 0, -1, 1, 2, -1, -1, -1, -1]]
    assert [places.tolist() for places in encoded.alignments] == [[1, 2, 4, 5]]
    assert encoded.targets.dtype == np.int32
    assert [notice[:37] for notice in encoded.notices] == ["12.5% of the tokens are [UNK], of whi"]  # one of eight
    # A word of no tokens has one all the same.
    example = tagged("the \u200b cat", "O I-A B-A")
    encoded = tagging().encode([example], ENCODER, VOCABULARY, 6)
    assert tokens(encoded.features["input_word_ids"][0]) == "[CLS] the [UNK] cat [SEP]"
    assert encoded.notices[0] == "words of invisible characters only, read as [UNK]: 1"
    assert encoded.targets.tolist() == [[-1, 2, 1, 0, -1, -1]] and Tagging().lengths([example], ENCODER).tolist() == [5]


def test_words_behind_the_length_are_left_out_and_told():
    examples = [tagged("the cats sat", "O B-A I-A"), tagged("the", "O")]
    encoded = tagging().encode(examples, ENCODER, VOCABULARY, 4)
    assert tokens(encoded.features["input_word_ids"][0]) == "[CLS] the cat [SEP]"
    assert encoded.targets.tolist() == [[-1, 2, 0, -1], [-1, 2, -1, -1]]
    assert encoded.notices == ("words behind 4 tokens are not learned, and predicted as 'O': 1, in 1 of 2 examples",)
    assert tagging().predict(one_hot(encoded.targets), encoded, examples) == [("O", "B-A", "O"), ("O",)]
    assert tagging().lengths(examples, ENCODER).tolist() == [6, 3]


WORDS = st.text("cats.dog\u200b?", min_size=1, max_size=6)


@given(st.lists(st.lists(st.tuples(WORDS, st.sampled_from(TAGS)), min_size=1, max_size=8), min_size=1, max_size=5))
@settings(max_examples=80, deadline=None)
def test_gold_tags_come_back(sentences):
    task = tagging()
    examples = [tagged(" ".join(w for w, _ in words), " ".join(t for _, t in words)) for words in sentences]
    longest = int(task.lengths(examples, ENCODER).max())
    encoded = task.encode(examples, ENCODER, VOCABULARY, longest)
    predictions = task.predict(one_hot(encoded.targets), encoded, examples)
    assert predictions == [example.tags for example in examples]
    assert task.score(predictions, examples)["accuracy"] == 1
    num_invisible = sum(not word.strip("\u200b") for example in examples for word in example.words)
    told = f"words of invisible characters only, read as [UNK]: {num_invisible}"
    others = [notice for notice in encoded.notices if "of the tokens are [UNK]" not in notice]
    assert others == ([told] if num_invisible else [])
    # The tokens are those that the text would have in training, but for words that have none.
    for example, row in zip(examples, encoded.features["input_word_ids"], strict=True):
        kept = [token for token in row.tolist() if token not in (PAD, CLS, SEP, UNK)]
        assert kept == [token for token in ENCODER.encode(example.text) if token != UNK]
    # Cut, each example has a tag a word all the same.
    cut = task.encode(examples, ENCODER, VOCABULARY, 5)
    predictions = task.predict(one_hot(cut.targets), cut, examples)
    assert [len(tags) for tags in predictions] == [len(example.words) for example in examples]


def test_tags_are_found():
    task = Tagging()
    task.labels = task.find_labels([tagged("the cat", "O B-X"), tagged("sat", "O")])
    assert task.labels == LabelMap("tagging", ("B-X", "O"), "O")
    assert (task.num_outputs, task.primary_score) == (2, "f1")
    task.labels = task.find_labels([tagged("the cat sat", "DET NOUN DET")])
    assert task.labels == LabelMap("tagging", ("DET", "NOUN"), "DET")
    assert (task.score_names, task.primary_score) == (("accuracy",), "accuracy")
    assert task.score([("DET", "DET")], [tagged("the cat", "DET NOUN")]) == {"accuracy": 0.5}


def test_sentences_without_entities_have_scores():
    found = tagging().score([("O", "O")], [tagged("the cat", "O O")])
    assert found == {"f1": 0, "precision": 0, "recall": 0, "accuracy": 1}
    assert found.reasons["f1"] == "there is no entity, and none is predicted"


def test_one_tag_only_and_unknown_tags_are_named():
    with pytest.raises(UserError, match=r"^file\.conll: all 2 words have the tag 'O': there must be two at least$"):
        Tagging().find_labels([tagged("the cat", "O O")])
    with pytest.raises(UserError, match=r"^file\.conll:7: label 'B-Z' does not occur in the training data"):
        tagging().encode([tagged("cat", "B-Z", line=7)], ENCODER, VOCABULARY, 8)


def test_unlabelled_words_are_predicted():
    examples = [tagged("cats sat")]
    encoded = tagging().encode(examples, ENCODER, VOCABULARY, 8)
    assert encoded.targets is None
    logits = np.zeros([1, 8, 3], np.float32)
    logits[0, 1, 0] = logits[0, 3, 2] = 1
    assert tagging().predict(logits, encoded, examples) == [("B-A", "O")]


def test_words_of_a_sentencepiece_model_have_the_tokens_of_the_text(tmp_path):
    train_sentencepiece(tmp_path / "spm.model", ["the cat sat on the mat", "a dog is in paris"] * 5, 40)
    encoder = SentencePieceTokenizer(str(tmp_path / "spm.model"))
    example = tagged("the mat is on a dog", "O O O B-A I-A O")
    encoded = tagging().encode([example], encoder, encoder.vocabulary, 64)
    row = encoded.features["input_word_ids"][0][encoded.features["input_mask"][0] == 1].tolist()
    assert row[1:-1] == encoder.encode_lines([example.text])[0].tolist()
    pieces = [encoder.vocabulary.tokens[row[place]] for place in encoded.alignments[0]]
    assert len(pieces) == 6 and all(piece.startswith("\u2581") for piece in pieces)


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_words_of_byte_level_bpe_have_the_space_before_them(tmp_path, add_prefix_space):
    path = tmp_path / "tokenizer.json"
    train_byte_level(path, ["the cat sat on the mat", "a dog is in paris"] * 5, 300, add_prefix_space=add_prefix_space)
    encoder = ByteLevelTokenizer(str(path))
    example = tagged("the mat is in 東京", "O O O B-A I-A")
    encoded = tagging().encode([example], encoder, encoder.vocabulary, 64)
    row = encoded.features["input_word_ids"][0][encoded.features["input_mask"][0] == 1].tolist()
    assert row[1:-1] == encoder.encode_lines([f" {example.text}"])[0].tolist()
    pieces = [encoder.vocabulary.tokens[row[place]] for place in encoded.alignments[0]]
    assert len(pieces) == 5 and all(piece.startswith("Ġ") for piece in pieces)
