import re
from collections import Counter

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from electra_cli.data import vocabulary_learning
from electra_cli.data.packing import PrepareSettings
from electra_cli.data.prepare import open_tokenizer
from electra_cli.data.tokenization import Tokenizer
from electra_cli.data.vocabulary import SPECIAL_TOKENS, Vocabulary, WordRules, guess_rules, is_unused
from electra_cli.data.vocabulary_learning import LearningSettings, WordCounts, WordSplitter, learn_vocabulary
from electra_cli.errors import UserError

PIECES = ["the", "cat", "##s", "un", "##aff", "##able", "cafe", "[", "]", "mask", ".", "中", "Cat"]
VOCABULARY = Vocabulary((*SPECIAL_TOKENS, *PIECES))


def lines(tokens, end="\n"):
    return "".join(f"{token}{end}" for token in tokens).encode()


def pieces(text, lower_case=True):
    return [VOCABULARY.tokens[i] for i in Tokenizer(VOCABULARY, WordRules(lower_case)).encode_lines([text])[0]]


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
        (
            b"[PAD]\n[UNK]\n[unused0]\n",
            r"has no \[CLS\], \[SEP\], \[MASK\]: write each in place of .* as '\[unused0\]'",
        ),
        (b"Chapter I\nText.\nText.\n", r"is no WordPiece vocabulary: none of its lines is \[PAD\], \[UNK\]"),
        (b"", "is no WordPiece vocabulary"),
        (b"a\nb\xff\n", "is not UTF-8 text on line 2: save it as UTF-8"),
    ],
)
def test_bad_files(tmp_path, content, message):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        Vocabulary.from_file(str(tmp_path / "vocab.txt"))


ORDINARY = (*SPECIAL_TOKENS, "the", "cat", "##s", "dog")
CAT_AND_EMPTY = (*ORDINARY[:6], "", "cat", "the", "##s", "dog", "", "cat")


@pytest.mark.parametrize(
    ("content", "unused", "notes"),
    [
        (lines(ORDINARY), {}, []),
        (lines(ORDINARY, "\r\n"), {}, []),
        (
            lines(CAT_AND_EMPTY),
            {5, 6, 7, 11},
            [r"tokens that come again later\): 4; they stay, named as \[unused_row5\],"],
        ),
        (lines((*ORDINARY, "", "")), {9, 10}, [r"later\): 2;"]),
        (lines((*ORDINARY, "[MASK]")), {4}, [r"later\): 1;"]),
        (
            lines((*ORDINARY[:4], "[MASK]  ", *ORDINARY[5:6], "cat \t", *ORDINARY[7:])),
            {},
            [r"is no part of tokens \(lines: 2\)"],
        ),
        (b"\xef\xbb\xbf" + lines(ORDINARY), {}, [r"id 0 is \[PAD\], without what surrounds it there"]),
        (lines(("[unused_row1]", *ORDINARY, "", "[UNK]")), {0, 2, 10}, [r"later\): 2;"]),
    ],
)
def test_ids_are_those_of_transformers(tmp_path, content, unused, notes):
    file = tmp_path / "vocab.txt"
    file.write_bytes(content)
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
    vocabulary = Vocabulary.from_file(str(file), is_foreign=True)
    ours = Tokenizer(vocabulary, WordRules())
    for text in ("The cats, dogs", "cat", "dog the", "xyz [unused_row5]"):
        assert list(ours.encode(text)) == theirs(text, add_special_tokens=False)["input_ids"]
    assert {index for index, token in enumerate(vocabulary.tokens) if is_unused(token)} == set(unused)
    assert vocabulary.size == content.count(b"\n") and len(set(vocabulary.tokens)) == vocabulary.size
    for token in SPECIAL_TOKENS[
        content.startswith(b"\xef") :
    ]:  # transformers appends a [PAD] that has a mark before it
        assert vocabulary.tokens.index(token) == theirs.convert_tokens_to_ids(token)
    assert len(vocabulary.notes) == len(notes)
    for note, pattern in zip(vocabulary.notes, notes, strict=True):
        assert re.search(pattern, note) and str(file) in note and "\n" not in note
    file.write_bytes(vocabulary.to_bytes())  # what is written is read without any change
    for is_foreign in (True, False):
        again = Vocabulary.from_file(str(file), is_foreign=is_foreign)
        assert again == vocabulary and again.notes == ()


def test_what_this_program_wrote_is_read_to_the_byte(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(lines((*SPECIAL_TOKENS, "the ", "\u2028")))
    assert Vocabulary.from_file(str(tmp_path / "vocab.txt")).to_bytes() == lines((*SPECIAL_TOKENS, "the ", "\u2028"))
    assert Vocabulary.from_file(str(tmp_path / "vocab.txt"), is_foreign=True).tokens[5:] == ("the", "\u2028")


def test_the_advice_for_special_tokens_that_are_missing_keeps_ids(tmp_path):
    file = tmp_path / "vocab.txt"
    file.write_bytes(lines((*SPECIAL_TOKENS[:4], "[unused0]", "the")))
    with pytest.raises(
        UserError, match=r"has no \[MASK\]: write each in place of .*, such as '\[unused0\]'; or, where"
    ):
        Vocabulary.from_file(str(file))
    file.write_bytes(file.read_bytes().replace(b"[unused0]", b"[MASK]"))
    assert Vocabulary.from_file(str(file)).tokens == (*SPECIAL_TOKENS, "the")
    file.write_bytes(lines((*SPECIAL_TOKENS[:4], "the", "[MASK]")))  # appended
    assert Vocabulary.from_file(str(file)).mask_id == 5


def test_rows_beyond_the_last_token_are_named(tmp_path):
    tokens = (*SPECIAL_TOKENS, "[unused_row7]", "the")
    fitted = Vocabulary(tokens).fitted(9, "FILE", "the word table", "--vocab_file")
    assert fitted.tokens == (*tokens, "[[unused_row7]]", "[unused_row8]") and all(map(is_unused, fitted.tokens[7:]))
    assert fitted.notes == (
        "Vocabulary FILE: 7 tokens, the word table 9; the rows beyond stay, named from [[unused_row7]] to "
        "[unused_row8], and no text becomes them.",
    )
    assert fitted.fitted(9, "", "", "") is fitted
    with pytest.raises(
        UserError, match=r"FILE has 9 tokens, the word table 8: .* of at most 8 tokens, --vocab_file=FILE"
    ):
        fitted.fitted(8, "FILE", "the word table", "--vocab_file")


def test_two_tokens_of_one_id_are_refused():
    with pytest.raises(UserError, match="'the' and 'cat' have the id 5: remove one"):
        Vocabulary.from_ids({**dict(zip(SPECIAL_TOKENS, range(5), strict=True)), "the": 5, "cat": 5}, "FILE")


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


LINES = ["the cat sat on the mat", "the dog sat on the log", "Cats and dogs"] * 3


def learn(lines, size, *, lower_case=True, **options):
    splitter = WordSplitter(WordRules(lower_case))
    return learn_vocabulary(splitter.count(lines), LearningSettings(size, **options), splitter)


def test_learned_vocabulary_is_reproducible_and_of_the_size_asked_for():
    learned = learn(LINES, 40)
    assert learned.size == 40
    assert learned.tokens[:5] == SPECIAL_TOKENS
    assert {"the", "sat"} <= set(learned.tokens)
    assert learned == learn(reversed(LINES), 40)


def test_too_large_a_vocabulary_is_refused_with_the_possible_size():
    with pytest.raises(
        UserError, match=r"supports (\d+) tokens, not --learn_vocab=5000: .*lower --vocab_min_freq"
    ) as error:
        learn(LINES, 5000)
    possible = int(str(error.value).split()[3])
    assert learn(LINES, possible).size == possible
    assert "ask for" not in str(error.value)  # the command takes 100 or more


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(UserError, match=r"--learn_vocab=20 is too small: special tokens and characters alone are \d+"):
        learn(LINES, 20)


def test_reserved_and_user_tokens_come_first():
    tokens = learn(LINES, 42, num_reserved=2, user_tokens=("electra", "t"), min_frequency=1).tokens
    assert tokens[5:9] == ("[unused0]", "[unused1]", "electra", "t")
    assert tokens.count("t") == 1
    assert learn(LINES, 40, lower_case=False, user_tokens=("C",), min_frequency=1).tokens.count("C") == 1


@pytest.mark.parametrize(("token", "found"), [("C++", r"c \+ \+"), ("Electra", "electra"), ("two words", "two words")])
def test_user_tokens_that_text_never_has_are_refused(token, found):
    with pytest.raises(UserError, match=rf"never occurs in tokenized text, where it is '{found}'"):
        learn(LINES, 40, user_tokens=(token,))


def test_minimum_frequency_of_pieces_and_characters():
    # Characters: a and b six times each, x, y and z five, q once. Joins: xy and xyz five times, ab and ba three.
    lines = ["ab"] * 3 + ["ba"] * 3 + ["xyz"] * 5 + ["q"]
    assert set(learn(lines, 16, min_frequency=4).tokens[5:]) == {*"abxyz", "##a", "##b", "##y", "##z", "xy", "xyz"}
    with pytest.raises(UserError, match="supports 16 tokens"):
        learn(lines, 17, min_frequency=4)
    assert {"q", "ab", "ba"} <= set(learn(lines, 19, min_frequency=1).tokens)


def test_coverage_leaves_out_rare_characters():
    lines = ["aaaa bbbb"] * 100 + ["a\u4e00b"]
    assert "\u4e00" not in learn(lines, 10, min_frequency=1, character_coverage=0.99).tokens
    assert "\u4e00" in learn(lines, 12, min_frequency=1, character_coverage=1.0).tokens


def test_character_vocabularies_spell():
    lines = ["北京大学 abc", "学大 cab"] * 2
    vocabulary = learn(lines, 100, type="character")
    assert set(vocabulary.tokens[5:]) == {*"北京大学abc", "##a", "##b", "##c"}
    ids = Tokenizer(vocabulary, WordRules(True)).encode("大学 CAB")
    assert [vocabulary.tokens[index] for index in ids] == ["大", "学", "c", "##a", "##b"]


@given(st.lists(st.text("ab.,'É中 \t", max_size=30), max_size=20), st.booleans())
def test_words_are_those_of_the_whole_line(lines, lower_case):
    splitter = WordSplitter(WordRules(lower_case))
    assert splitter.count(lines) == Counter(word for line in lines for word in splitter.split(line))


def test_counts_forget_the_rarest_words(monkeypatch):
    monkeypatch.setattr(vocabulary_learning, "_MAX_WORDS", 10)
    words = WordCounts()
    words.add(Counter({f"often{number}": 50 for number in range(8)}))
    for number in range(100):
        words.add(Counter({f"rare{number}": 1}))
        assert len(words.counts) <= 10
    assert {f"often{number}" for number in range(8)} <= set(words.counts)
    assert words.counts.total() + words.num_forgotten == 500


SCRIPTS = {
    "korean": "가나다라마바사아자차카타파하",
    "hindi": ["कि", "की", "कं", "क्", "हिं"],
    "german": ["möchte", "größer"],
}


def make_vocabulary(kind):
    words = [a + b for a in SCRIPTS[kind] for b in SCRIPTS[kind]]
    return Vocabulary((*SPECIAL_TOKENS, *words))


@pytest.mark.parametrize("kind", ["korean", "hindi", "german"])
def test_rules_are_those_that_the_vocabulary_was_written_by(tmp_path, kind):
    vocabulary = make_vocabulary(kind)
    rules = guess_rules(vocabulary)
    assert rules == WordRules(strip_accents=False) and rules.flags == " --strip_accents=false"
    capitals = Vocabulary((*vocabulary.tokens, *(f"Word{index}" for index in range(50))))
    assert guess_rules(capitals) == WordRules(lower_case=False)
    assert guess_rules(VOCABULARY) == WordRules()
    path = tmp_path / "vocab.txt"
    path.write_bytes(capitals.to_bytes())
    with pytest.raises(UserError, match=r"is cased \(.* with capitals or accents\): add --lower_case=false$"):
        open_tokenizer(str(path), None, PrepareSettings())
    assert open_tokenizer(str(path), None, PrepareSettings(lower_case=False))[0].vocabulary == capitals
    path.write_bytes(vocabulary.to_bytes())
    if len(vocabulary.words) > 50:
        with pytest.raises(UserError, match=r"is accented \(.* with accents\): add --strip_accents=false$"):
            open_tokenizer(str(path), None, PrepareSettings())


def test_flags_of_rules():
    assert WordRules().flags == "" and WordRules(True, True).flags == ""
    assert WordRules(False, True, False, 20).flags == (
        " --lower_case=false --strip_accents=true --tokenize_chinese_chars=false --max_word_length=20"
    )


def test_longer_words_are_unknown():
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "a", "##a"))
    for limit in (3, 150):
        tokenizer = Tokenizer(vocabulary, WordRules(max_word_length=limit))
        assert list(tokenizer.encode("a" * limit)) == [5] + [6] * (limit - 1)
        assert list(tokenizer.encode("a" * (limit + 1))) == [1]
