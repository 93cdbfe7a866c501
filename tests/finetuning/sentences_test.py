import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_cli.data.tokenization import SentencePieceTokenizer
from electra_cli.errors import UserError
from electra_cli.finetuning.examples import LabelMap
from electra_cli.finetuning.sentences import Classification, Regression
from tests.finetuning.common import ENCODER, VOCABULARY, sentence, tokens, train_sentencepiece


def classification(*labels):
    task = Classification()
    task.labels = LabelMap("classification", labels)
    return task


def encode(task, examples, length=16):
    return task.encode(examples, ENCODER, VOCABULARY, length)


def test_one_text_and_pairs_by_hand():
    examples = [sentence("The cats sat.", label="pos"), sentence("Who?", "A dog", label="neg")]
    encoded = encode(classification("neg", "pos"), examples)
    assert [tokens(row) for row in encoded.features["input_word_ids"]] == [
        "[CLS] the cat ##s sat . [SEP]",
        "[CLS] who ? [SEP] a dog [SEP]",
    ]
    assert encoded.features["input_type_ids"][1].tolist() == [0] * 4 + [1] * 3 + [0] * 9
    assert encoded.features["input_mask"].sum(axis=1).tolist() == [7, 7]
    assert encoded.targets.tolist() == [1, 0] and encoded.targets.dtype == np.int32
    assert encoded.example_indices.tolist() == [0, 1] and encoded.example_indices.dtype == np.int32
    assert encoded.notices == ()
    assert Classification().lengths(examples, ENCODER).tolist() == [7, 7]


@pytest.mark.parametrize(("text", "share"), [("the cat xyz", "20.0%"), ("cat " * 16 + "xyz", "5.3%")])
def test_text_that_the_vocabulary_lacks_is_told(text, share):
    (notice,) = encode(classification("0", "1"), [sentence(text, label="0")], length=32).notices
    assert notice == (
        f"{share} of the tokens are [UNK], of which the encoder knows nothing: its vocabulary lacks words of "
        f"this text, which is of another language, case or alphabet, or has no spaces"
    )
    assert encode(classification("0", "1"), [sentence("cat " * 18 + "xyz", label="0")], length=32).notices == ()


def test_texts_without_a_token_are_counted():
    examples = [sentence("\u200b\u3000", label="0"), sentence("the", "\u2060", label="1"), sentence("cat", label="1")]
    told = "examples with a text of invisible characters only, which has no token: 2 of 3"
    assert encode(classification("0", "1"), examples).notices == (told,)


def test_the_longer_text_is_cut_and_told():
    examples = [sentence("the cat sat on the mat", "a dog", label="0"), sentence("the cat", label="1")]
    encoded = encode(classification("0", "1"), examples, length=8)
    assert tokens(encoded.features["input_word_ids"][0]) == "[CLS] the cat sat [SEP] a dog [SEP]"
    assert encoded.notices == ("examples cut to 8 tokens: 1 of 2",)
    assert classification("0", "1").lengths(examples, ENCODER).tolist() == [11, 4]


@given(
    st.lists(st.tuples(st.text("the cats.", max_size=20), st.none() | st.text("a dog?", max_size=20)), min_size=1),
    st.integers(5, 20),
)
@settings(max_examples=60, deadline=None)
def test_lengths_are_those_of_rows_long_enough(texts, length):
    examples = [sentence(first, second) for first, second in texts]
    lengths = Regression().lengths(examples, ENCODER)
    rows = encode(Regression(), examples, length=64).features["input_mask"]
    assert rows.sum(axis=1).tolist() == lengths.tolist() and lengths.dtype == np.int32
    cut = encode(Regression(), examples, length=length).features
    assert cut["input_mask"].sum(axis=1).tolist() == np.minimum(lengths, length).tolist()


def test_tokens_are_those_of_a_sentencepiece_model(tmp_path):
    train_sentencepiece(tmp_path / "spm.model", ["the cat sat on the mat", "a dog is in paris"] * 5, 40)
    encoder = SentencePieceTokenizer(str(tmp_path / "spm.model"))
    encoded = Regression().encode([sentence("the dog", "a mat")], encoder, encoder.vocabulary, 32)
    row = encoded.features["input_word_ids"][0][encoded.features["input_mask"][0] == 1]
    first, second = encoder.encode_lines(["the dog", "a mat"])
    cls, sep = encoder.vocabulary.cls_id, encoder.vocabulary.sep_id
    assert row.tolist() == [cls, *first, sep, *second, sep]


def test_logits_become_labels_and_numbers():
    task = classification("neg", "pos")
    examples = [sentence("cat", label="pos"), sentence("dog", label="neg")]
    logits = np.array([[0.1, 0.4], [3, -1]], np.float32)
    predictions = task.predict(logits, encode(task, examples), examples)
    assert predictions == ["pos", "neg"]
    assert task.score(predictions, examples) == {"accuracy": 1, "f1": 1, "mcc": 1}
    assert (task.num_outputs, task.primary_score, Classification("mcc").primary_score) == (2, "accuracy", "mcc")
    task = Regression()
    examples = [sentence("cat", label=1000.0), sentence("dog", label=3000.0)]
    task.labels = task.find_labels(examples)
    assert task.labels == LabelMap("regression", (), mean=2000.0, deviation=1000.0)
    encoded = encode(task, examples)
    assert encoded.targets.tolist() == [-1.0, 1.0] and encoded.targets.dtype == np.float32
    predictions = task.predict(np.array([[1.5], [-0.25]], np.float32), encoded, examples)
    assert predictions == [3500.0, 1750.0] and type(predictions[0]) is float
    assert task.score(predictions, examples) == pytest.approx({"spearman": -1, "pearson": -1})
    assert (task.num_outputs, task.primary_score) == (1, "spearman")


def test_unlabelled_examples_have_no_targets_and_no_scores():
    task = classification("neg", "pos")
    assert encode(task, [sentence("cat")]).targets is None
    with pytest.raises(ValueError, match=r"file\.tsv:1 is unlabelled"):
        task.score(["neg"], [sentence("cat")])
    with pytest.raises(ValueError, match="1 predictions for 2 examples"):
        task.score(["neg"], [sentence("cat", label="neg")] * 2)


def test_an_unknown_label_is_named():
    with pytest.raises(
        UserError, match=r"^file\.tsv:9: label 'so' does not occur in the training data, which has a, b$"
    ):
        encode(classification("a", "b"), [sentence("cat", label="a"), sentence("cat", label="so", line=9)])
    with pytest.raises(ValueError, match="labels of the task are not known yet"):
        encode(Classification(), [sentence("cat", label="a")])


def examples_of(labels):
    return [sentence("cat", label=label, line=line) for line, label in enumerate(labels, 2)]


def test_classes_are_found():
    assert Classification().find_labels(examples_of(["10", "9", "9"])).labels == ("9", "10")
    many = [f"{number / 2}" for number in range(10)] * 3  # few enough to be classes
    assert len(Classification().find_labels(examples_of(many)).labels) == 10
    assert (
        len(Classification().find_labels(examples_of([f"class {number % 60}" for number in range(120)])).labels) == 60
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 3, r"file\.tsv: all 3 training examples have the label 'a': there must be two classes"),
        (
            [f"{number / 2}" for number in range(12)] * 5,
            r"file\.tsv:3: the label '0\.5' and 11 other numbers look like",
        ),
        (
            [str(number) for number in range(30)],
            r"file\.tsv: 30 different labels in 30 examples \(file\.tsv:2 has '0'\)",
        ),
    ],
)
def test_labels_that_are_no_classes(labels, message):
    with pytest.raises(UserError, match=message):
        Classification().find_labels(examples_of(labels))


def test_numbers_that_are_no_regression():
    Regression().find_labels(examples_of([1.0, 2.0, 2.5] * 10))
    assert Regression().find_labels(examples_of([1.0, 2.0])).labels == ()
    with pytest.raises(UserError, match=r"all 2 training examples have the number 3: there is nothing to learn"):
        Regression().find_labels(examples_of([3.0, 3.0]))
    with pytest.raises(UserError, match="the labels 0 and 1, and no other in 20 examples, look like classes"):
        Regression().find_labels(examples_of([0.0, 1.0] * 10))
