import pytest

from electra_cli.data.tokenization import Tokenizer
from electra_cli.data.vocabulary import SPECIAL_TOKENS, Vocabulary, learn_vocabulary
from electra_cli.errors import UserError

PIECES = ["the", "cat", "##s", "un", "##aff", "##able", "cafe", "[", "]", "mask", ".", "中", "Cat"]
VOCABULARY = Vocabulary((*SPECIAL_TOKENS, *PIECES))


def pieces(text, lower_case=True):
    return [VOCABULARY.tokens[i] for i in Tokenizer(VOCABULARY, lower_case=lower_case).encode_lines([text])[0]]


def test_file_round_trip(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(VOCABULARY.to_bytes())
    loaded = Vocabulary.from_file(str(tmp_path / "vocab.txt"))
    assert loaded == VOCABULARY
    assert (loaded.pad_id, loaded.cls_id, loaded.sep_id, loaded.mask_id, loaded.size) == (0, 2, 3, 4, 18)
    (tmp_path / "vocab.txt").write_bytes(VOCABULARY.to_bytes().replace(b"\n", b"\r\n"))
    assert Vocabulary.from_file(str(tmp_path / "vocab.txt")) == VOCABULARY


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n", r"has no \[MASK\]"),
        (b"a\nb\na\n", r"holds 'a' twice, on lines 1 and 3"),
        (b"a\n\nb\n", "no token on line 2"),
        (b"", "has no "),
        (b"\xff\n", "not UTF-8 text"),
    ],
)
def test_bad_files(tmp_path, content, message):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        Vocabulary.from_file(str(tmp_path / "vocab.txt"))


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        Vocabulary.from_file(str(tmp_path / "vocab.txt"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cats.", ["the", "cat", "##s", "."]),
        ("unaffable", ["un", "##aff", "##able"]),
        ("Café\u0301 CAT", ["cafe", "cat"]),
        ("the\u0000\ufffdcat\tcat\u00a0cat", ["[UNK]", "cat", "cat"]),
        ("the中cat", ["the", "中", "cat"]),
        ("[MASK]", ["[", "mask", "]"]),
        ("dog", ["[UNK]"]),
        ("a" * 101, ["[UNK]"]),
        ("", []),
    ],
)
def test_tokenization_is_berts(text, expected):
    assert pieces(text) == expected


def test_cased_tokenization():
    assert pieces("Cat cat", lower_case=False) == ["Cat", "cat"]


def test_learned_vocabulary_is_reproducible_and_of_the_size_asked_for():
    lines = ["the cat sat on the mat", "the dog sat on the log", "Cats and dogs"] * 3
    learned = learn_vocabulary(lines, 40, lower_case=True)
    assert learned.size == 40
    assert learned.tokens[:5] == SPECIAL_TOKENS
    assert {"the", "sat"} <= set(learned.tokens)
    assert learned == learn_vocabulary(reversed(lines), 40, lower_case=True)


def test_too_large_vocabulary_is_refused_with_the_possible_size():
    with pytest.raises(UserError, match=r"supports (\d+) tokens, not --learn_vocab=5000"):
        learn_vocabulary(["the cat sat"], 5000, lower_case=True)
