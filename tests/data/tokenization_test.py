"""Tokens are those of BERT's own tokenizer."""

import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer

from electra_cli.data import tokenization
from electra_cli.data.tokenization import CONTINUES_WORD, Tokenizer
from electra_cli.data.vocabulary import Vocabulary

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# A line or more in each of twenty scripts, and what tends to go wrong.
SAMPLES = """
The quick brown fox doesn't jump over 3.14 lazy dogs — isn't it “nice”?
Čeština a příliš žluťoučký kůň; Straße, GRÖSSE, ﬁne ½ cup, 5 m², naïve café
Жили-были дед и баба, ёлка и йод. ЩЁТКА
Ο γρήγορος καφέ σκύλος. ΟΔΟΣ ὀδός ς Σ
العربية: السَّلامُ عَلَيْكُم ١٢٣
עברית: שָׁלוֹם עולם
हिन्दी: नमस्ते दुनिया १२३
বাংলা: আমার সোনার বাংলা
தமிழ்: வணக்கம் உலகம்
ไทย: สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่างระหว่างคำและยาวมากกว่าหนึ่งร้อยตัวอักษร
中文:我们在这里学习自然语言处理。繁體中文「引號」
日本語:これはテストです。カタカナ ﾊﾝｶｸ ガギグ
한국어: 안녕하세요 세계 각각
ქართული: გამარჯობა მსოფლიო
Հայերեն: Բարեւ աշխարհ և
አማርኛ: ሰላም ልዑል
ខ្មែរ: សួស្តី​ពិភពលោក
မြန်မာ: မင်္ဂလာပါ
ᏣᎳᎩ: ᎣᏏᏲ ꮳꮃꭹ
Tiếng Việt: xin chào thế giới, Đường
Türkçe: İstanbul'da ılık ISPARTA
👩‍👩‍👧‍👦 🇨🇭 ☺️ 😀😃 ❤️‍🔥
a\x00b\x01c\x7f\x85\xa0d\u200be\u2028f\ufefff\tg\ufffd
\U0001d400\U0001d7ce \u0378 \ue000 \U0010ffff ａｂｃ１２３ ‼ ⁉ №
[MASK] [CLS]x ##ing ##
""".strip("\n").split("\n")
WORDS = [
    *SAMPLES,
    "",
    " ",
    "a" * 100,
    "b" * 101,
    "é" * 100,
    "é" * 101,
    "각" * 33,
    "각" * 34,
    "각" * 100,
    "x" * 99 + "." + "y" * 100,
    "漢" * 150,
    "ß" * 60,
    "a  b   c ",
    "\u0301 \u0301a \u200d b",
    "don't,stop.me(now)",
]


@pytest.fixture(scope="module")
def vocabulary():
    """All characters of the samples, their normal forms, and pieces of their words."""
    rng = random.Random(0)
    pieces = set()
    lower = [line.lower() for line in SAMPLES]
    for text in (*SAMPLES, *lower, *(unicodedata.normalize("NFKD", line) for line in lower)):
        for word in text.split():
            for _ in range(4):
                begin = rng.randrange(len(word))
                piece = word[begin : begin + rng.randint(1, 4)]
                pieces |= {piece, f"##{piece}"}
            pieces |= {*word, *(f"##{character}" for character in word)}
    # tensorflow-text takes no invisible or control characters as tokens.
    visible = {piece for piece in pieces if piece.isprintable() and "\0" not in piece and piece.strip("#")}
    return Vocabulary((*SPECIAL, *sorted(visible - set(SPECIAL))))


MODES = [(True, None), (False, None), (True, False), (False, True)]


@pytest.fixture(scope="module", params=MODES, ids=["uncased", "cased", "uncased-accents", "cased-no-accents"])
def tokenizers_of_mode(request, vocabulary, tmp_path_factory):
    lower_case, strip_accents = request.param
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(vocabulary.tokens))
    bert = BertWordPieceTokenizer(str(path), lowercase=lower_case, strip_accents=strip_accents)
    ours = Tokenizer(vocabulary, lower_case=lower_case, strip_accents=strip_accents)
    return bert, ours


def expected_ids(bert, lines):
    # That class knows special tokens in text; BERT's tokenizer splits them, as ours does.
    bert._tokenizer.encode_special_tokens = True
    return [encoding.ids for encoding in bert._tokenizer.encode_batch(lines, add_special_tokens=False)]


def encode(tokenizer, lines):
    return [ids.tolist() for ids in tokenizer.encode_lines(lines)]


def test_ids_are_berts_in_twenty_scripts(tokenizers_of_mode):
    bert, ours = tokenizers_of_mode
    expected = expected_ids(bert, WORDS)
    assert encode(ours, WORDS) == expected
    assert encode(ours, WORDS) == expected  # now from memory


CHARACTERS = st.one_of(
    st.sampled_from(sorted({character for line in SAMPLES for character in line})),
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from("  aeiou.,'-"),
)


@given(st.lists(st.text(CHARACTERS, max_size=150), max_size=20))
@settings(max_examples=150, deadline=None)
def test_ids_are_berts_on_any_text(tokenizers_of_mode, lines):
    bert, ours = tokenizers_of_mode
    assert encode(ours, lines) == expected_ids(bert, lines)


@pytest.mark.slow
def test_ids_are_berts_on_every_character_in_words(tokenizers_of_mode):
    bert, ours = tokenizers_of_mode
    rng = random.Random(1)
    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    lines = [f"a{chr(point)}b {chr(point)} .{chr(point)}\u0301" for point in rng.sample(points, 30_000)]
    lines += [f"a{chr(point)}b {chr(point)} {chr(point)}." for point in points if point < 0x3000]
    lines += ["".join(map(chr, rng.choices(points, k=40))) for _ in range(2000)]
    assert encode(ours, lines) == expected_ids(bert, lines)


def test_memory_is_bounded(tokenizers_of_mode, monkeypatch):
    monkeypatch.setattr(tokenization, "_MAX_REMEMBERED", 8)
    bert, ours = tokenizers_of_mode
    lines = [f"word{number}, other" for number in range(100)] + ["北京" * 50, "a" * 100, "a" * 101, "a" * 10_000]
    assert encode(ours, lines) == expected_ids(bert, lines)
    assert len(ours._remembered) <= 8
    assert max(map(len, ours._remembered)) <= 32


def test_segmented_lines(vocabulary):
    tokenizer = Tokenizer(Vocabulary((*SPECIAL, *"北京大学", "play", "##ing")), lower_case=True, keeps_words=True)
    ids = tokenizer.encode_lines(["北京 大学 playing 北", ""])
    assert [[(token & ~CONTINUES_WORD, token >= CONTINUES_WORD) for token in line] for line in ids] == [
        [(5, False), (6, True), (7, False), (8, True), (9, False), (10, True), (5, False)],
        [],
    ]


@given(st.text(CHARACTERS, max_size=150))
@settings(max_examples=150, deadline=None)
def test_offsets_go_with_the_ids_of_training(tokenizers_of_mode, text):
    _, ours = tokenizers_of_mode
    ids, offsets = ours.encode_with_offsets(text)
    assert ids == ours.encode(text)
    assert offsets.shape == (len(ids), 2)
    assert all(0 <= begin <= end <= len(text) for begin, end in offsets)
    assert (offsets[1:, 0] >= offsets[:-1, 0]).all()


def test_offsets_are_those_of_the_text_as_it_stands():
    vocabulary = Vocabulary((*SPECIAL, "naive", "##ly", "cafe", ",", "北", "x"))
    text = "  Naïvely\tCAFÉ, zzz北\u200bx"
    ids, offsets = Tokenizer(vocabulary, lower_case=True).encode_with_offsets(text)
    assert [vocabulary.tokens[token] for token in ids] == ["naive", "##ly", "cafe", ",", "[UNK]", "北", "x"]
    assert [text[begin:end] for begin, end in offsets] == ["Naïve", "ly", "CAFÉ", ",", "zzz", "北", "x"]
    assert Tokenizer(vocabulary, lower_case=True).encode_with_offsets(" ")[1].shape == (0, 2)
