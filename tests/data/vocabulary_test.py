import pytest

from electra_cli.data.tokenization import Tokenizer
from electra_cli.data.vocabulary import SPECIAL_TOKENS, Vocabulary
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
        (b"[PAD]\n[UNK]\n[UNK]\n", r"holds '\[UNK\]' twice, on lines 2 and 3"),
        (b"Chapter I\nText.\nText.\n", r"is no WordPiece vocabulary: none of its lines is \[PAD\], \[UNK\]"),
        (b"[PAD]\n\nb\n", "no token on line 2"),
        (b"", "is no WordPiece vocabulary"),
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


def test_words_of_sentencepiece_begin_with_a_bar():
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "<s>", "\u2581the", "\u2581", "cat", "."))
    assert vocabulary.continues_word.tolist() == [False] * 8 + [True, True]
    assert vocabulary.to_text([2, 6, 7, 8, 9, 3]).split() == ["[CLS]", "the", "cat.", "[SEP]"]
    assert VOCABULARY.to_text([2, 5, 6, 7, 3]) == "[CLS] the cats [SEP]"
