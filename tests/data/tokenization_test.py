"""Tokens are those of BERT's own tokenizer or of a SentencePiece model, which are kept next to models."""

import io
import random
import unicodedata
from collections import Counter

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer

from electra_cli.data import tokenization
from electra_cli.data.packing import PrepareSettings
from electra_cli.data.prepare import prepare
from electra_cli.data.source import open_data
from electra_cli.data.tfrecords import read_manifest
from electra_cli.data.tokenization import (
    CONTINUES_WORD,
    Coverage,
    SentencePieceTokenizer,
    Tokenizer,
    TokenizerSettings,
    find_vocab_file,
    read_tokenizer,
    saved_tokenizer,
)
from electra_cli.data.vocabulary import Vocabulary, WordRules
from electra_cli.errors import UserError
from tests.conftest import make_text
from tests.data.prepare_test import read_records
from tests.finetuning.common import VOCABULARY, train_sentencepiece

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
    ours = Tokenizer(vocabulary, WordRules(lower_case, strip_accents))
    return bert, ours


def expected_ids(bert, lines):
    # That class knows special tokens in text; BERT's tokenizer splits them, as ours does.
    bert._tokenizer.encode_special_tokens = True
    return [encoding.ids for encoding in bert._tokenizer.encode_batch(lines, add_special_tokens=False)]


def encode(tokenizer, lines):
    """Returns the ids of lines, which those of many at once are too."""
    few = tokenizer.encode_lines(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenization, "_MANY_LINES", 1)
        assert tokenizer.encode_lines(lines) == few
    return [ids.tolist() for ids in few]


def test_ids_are_berts_in_twenty_scripts(tokenizers_of_mode):
    bert, ours = tokenizers_of_mode
    expected = expected_ids(bert, WORDS)
    assert encode(ours, WORDS) == expected
    assert encode(ours, ["", "\x01"]) == [[], []]
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
    tokenizer = Tokenizer(Vocabulary((*SPECIAL, *"北京大学", "play", "##ing")), WordRules(True), keeps_words=True)
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
    ids, offsets = Tokenizer(vocabulary, WordRules(True)).encode_with_offsets(text)
    assert [vocabulary.tokens[token] for token in ids] == ["naive", "##ly", "cafe", ",", "[UNK]", "北", "x"]
    assert [text[begin:end] for begin, end in offsets] == ["Naïve", "ly", "CAFÉ", ",", "zzz", "北", "x"]
    assert Tokenizer(vocabulary, WordRules(True)).encode_with_offsets(" ")[1].shape == (0, 2)


@pytest.mark.parametrize("keeps_words", [False, True])
@pytest.mark.parametrize(
    ("line", "rules", "lost"),
    [
        ("naive cafe, naively", WordRules(), {}),
        ("naive zz,zzz naive", WordRules(), {"not_covered": 5, "unknown_tokens": 2}),
        ("Naïve Café", WordRules(lower_case=False), {"other_case": 9, "unknown_tokens": 2}),
        ("naïve cafe", WordRules(strip_accents=False), {"other_case": 5, "unknown_tokens": 1}),
        (
            "x" * 7 + " xx z" + "x" * 7,
            WordRules(max_word_length=6),
            {"too_long": 7, "not_covered": 8, "unknown_tokens": 2},
        ),
        ("X" * 7 + " xx", WordRules(False, max_word_length=6), {"other_case": 7, "unknown_tokens": 1}),
        # Normalized, a syllable is two characters or three.
        ("각각각 xx", WordRules(max_word_length=8), {"not_covered": 3, "unknown_tokens": 1}),
        ("naive \u0301 cafe\u0301", WordRules(), {"marks": 2}),
        ("na\u200bive \ue000\ue001 cafe\u3000x", WordRules(), {"invisible": 3}),
        ("zz\u200bz", WordRules(), {"invisible": 1, "not_covered": 4, "unknown_tokens": 1}),
        ("", WordRules(), {}),
    ],
)
def test_lost_characters_are_counted_by_cause(line, rules, lost, keeps_words):
    vocabulary = Vocabulary((*SPECIAL, "naive", "##ly", "cafe", ",", "x", "##x"))
    tokenizer = Tokenizer(vocabulary, rules, keeps_words=keeps_words)
    lines = ["x naive", line, "", line]
    counts = Coverage(tokenizer, vocabulary).count(lines, tokenizer.encode_lines(lines))
    assert counts.pop("characters") == 6 + 2 * sum(character != " " for character in line)
    assert counts.pop("tokens") == 2 + 2 * len(tokenizer.encode(line))
    assert +counts == {name: 2 * number for name, number in lost.items()}


@given(st.booleans(), st.lists(st.text(CHARACTERS, max_size=150), max_size=8))
@settings(max_examples=100, deadline=None)
def test_lost_characters_of_any_text(vocabulary, lower_case, lines):
    # Half of the vocabulary, without the second half of the alphabets.
    vocabulary = Vocabulary(vocabulary.tokens[: vocabulary.size // 2])
    rules = WordRules(lower_case, max_word_length=9)
    tokenizer = Tokenizer(vocabulary, rules)
    counts = Coverage(tokenizer, vocabulary).count(lines, tokenizer.encode_lines(lines))
    unknown, removed = [], 0
    for line in lines:
        ids, offsets = tokenizer.encode_with_offsets(line)
        unknown += [end - begin for token, (begin, end) in zip(ids, offsets, strict=True) if token == 1]
        others = (character for character in line if not character.isascii() and not character.isspace())
        removed += sum(rules.normalizer().normalize_str(character) == "" for character in others)
    assert counts["unknown_tokens"] == len(unknown)
    assert sum(counts[cause] for cause in ("too_long", "other_case", "not_covered")) == sum(unknown)
    assert counts["marks"] + counts["invisible"] == removed


def test_memory_of_unknown_words_is_bounded_and_counts_are_right(monkeypatch):
    monkeypatch.setattr(tokenization, "_MAX_REMEMBERED", 8)
    vocabulary = Vocabulary((*SPECIAL, "naive", ",", "北"))
    tokenizer = Tokenizer(vocabulary, WordRules())
    coverage = Coverage(tokenizer, vocabulary)
    for number in range(10, 20):
        long = f"{number}" + "é" * 40
        lines = [f"q{number}{letter}, naive {long} {letter}z" for letter in "abcdefghijklmnopqrst"]
        lines += [f"{long},北{long}", "y" * 200 + ",naive", "y" * 40, "naive"]
        counts = coverage.count(lines, tokenizer.encode_lines(lines))
        assert counts["unknown_tokens"] == 20 * 3 + 2 + 1 + 1
        assert counts["not_covered"] == 20 * (4 + 42 + 2) + 2 * 42 + 200 + 40
        assert len(tokenizer._remembered) <= 8 and max(map(len, tokenizer._unknown), default=0) <= 32
    assert len(tokenizer._unknown) <= 8


def test_characters_that_a_model_lacks_are_counted(model_file):
    tokenizer = SentencePieceTokenizer(model_file)
    lines = ["the cats", "the 北京 cats in 北,paris"]
    counts = Coverage(tokenizer, tokenizer.vocabulary).count(lines, tokenizer.encode_lines(lines))
    assert +counts == {"characters": 25, "tokens": counts["tokens"], "unknown_tokens": 2, "not_covered": 3}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "spm.model"
    train_sentencepiece(path, ["the cats sat in paris, red dog's a fine x-y where?"] * 5, 60)
    return str(path)


@pytest.mark.parametrize("lower_case", [False, True])
def test_a_vocabulary_is_kept(tmp_path, lower_case):
    assert saved_tokenizer(str(tmp_path)) is None and find_vocab_file(str(tmp_path)) is None
    settings = TokenizerSettings(VOCABULARY, WordRules(lower_case))
    settings.save(str(tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tokenizer_config.json", "vocab.txt"]
    assert saved_tokenizer(str(tmp_path), lower_case) == settings
    assert saved_tokenizer(str(tmp_path)).rules.lower_case == lower_case
    (tmp_path / "tokenizer_config.json").unlink()  # as of older versions
    assert saved_tokenizer(str(tmp_path)).rules.lower_case


def test_a_sentencepiece_model_is_kept_with_its_vocabulary(tmp_path, model_file):
    settings = read_tokenizer(model_file)
    assert settings == TokenizerSettings(SentencePieceTokenizer(model_file).vocabulary, WordRules(False), model_file)
    settings.save(str(tmp_path))
    kept = saved_tokenizer(str(tmp_path), True)
    assert kept.model_file == find_vocab_file(str(tmp_path)) == str(tmp_path / "sentencepiece.model")
    text = ["the red cat"]
    assert kept.build().encode_lines(text) == settings.build().encode_lines(text)
    assert read_tokenizer(str(tmp_path / "vocab.txt")).vocabulary == settings.vocabulary


def test_what_is_there_already_is_not_written_again(tmp_path, model_file):
    settings = read_tokenizer(model_file)
    settings.save(str(tmp_path))
    before = {file: file.stat().st_ino for file in tmp_path.iterdir()}
    settings.save(str(tmp_path))
    assert {file: file.stat().st_ino for file in tmp_path.iterdir()} == before and len(before) == 2
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    settings.save(str(tmp_path))
    assert (tmp_path / "vocab.txt").read_bytes() == settings.vocabulary.to_bytes()


def test_pieces_without_their_model_do_not_tokenize(tmp_path, model_file):
    read_tokenizer(model_file).save(str(tmp_path))
    (tmp_path / "sentencepiece.model").unlink()
    with pytest.raises(
        UserError, match=r"is that of a SentencePiece model.*: give the model, --vocab_file=FILE\.model"
    ):
        saved_tokenizer(str(tmp_path)).build()


def train_model(path, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(make_text(100).splitlines()),
        model_writer=model,
        vocab_size=70,
        minloglevel=2,
        **options,
    )
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def prepare_with(model, output, text_file, **settings):
    options = PrepareSettings(max_seq_length=32, validation_fraction=0.1, **settings)
    return prepare(
        [str(text_file)], str(output), options, vocab_file=str(model), num_workers=1, overwrite=False,
        report=lambda *_: None,
    )  # fmt: skip


def test_ids_are_the_models_and_special_tokens_follow(tmp_path):
    processor = train_model(tmp_path / "spm.model")
    tokenizer = SentencePieceTokenizer(str(tmp_path / "spm.model"))
    tokens = tokenizer.vocabulary.tokens
    assert tokens[70:] == ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
    assert tokens[processor.unk_id()] == "[UNK]"
    assert all(tokens[index] == processor.id_to_piece(index) for index in range(70) if index != processor.unk_id())
    lines = ["The old cat sees the river.", "", "ﬁne ½ 中 unknown Ünïcödé"]
    assert [ids.tolist() for ids in tokenizer.encode_lines(lines)] == processor.encode(lines)


def test_a_models_own_special_tokens_are_used(tmp_path):
    train_model(
        tmp_path / "spm.model", control_symbols=["[CLS]", "[SEP]", "[MASK]"], pad_id=0, unk_id=1, bos_id=-1, eos_id=-1
    )
    vocabulary = SentencePieceTokenizer(str(tmp_path / "spm.model")).vocabulary
    assert vocabulary.size == 70
    assert (vocabulary.pad_id, vocabulary.unk_id, vocabulary.cls_id) == (0, 1, 2)


def test_data_is_prepared_with_a_model(tmp_path):
    processor = train_model(tmp_path / "spm.model")
    (tmp_path / "text.txt").write_text(make_text(60))
    manifest = prepare_with(tmp_path / "spm.model", tmp_path / "data", tmp_path / "text.txt")
    assert (tmp_path / "data" / "sentencepiece.model").read_bytes() == (tmp_path / "spm.model").read_bytes()
    assert manifest.fingerprint == read_manifest(str(tmp_path / "data")).fingerprint
    assert manifest.sentencepiece_sha256 and not manifest.lower_case
    found = Counter(
        token
        for split in ("train", "validation")
        for ids, _ in read_records(tmp_path / "data", split)
        for token in ids
        if token < 70
    )
    assert found == Counter(token for line in make_text(60).splitlines() for token in processor.encode(line))
    continues = open_data(str(tmp_path / "data"), 32).vocabulary.continues_word
    assert 0 < continues.sum() < 70


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "text.txt").write_text(make_text(10))
    (tmp_path / "spm.model").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"spm\.model is no SentencePiece model"):
        prepare_with(tmp_path / "spm.model", tmp_path / "data", tmp_path / "text.txt")
    with pytest.raises(UserError, match=r"none\.model cannot be read: No such file"):
        prepare_with(tmp_path / "none.model", tmp_path / "data", tmp_path / "text.txt")
    train_model(tmp_path / "spm.model")
    with pytest.raises(UserError, match="--word_boundaries=whitespace does not go with the SentencePiece model"):
        prepare_with(tmp_path / "spm.model", tmp_path / "data", tmp_path / "text.txt", word_boundaries="whitespace")
    assert isinstance(SentencePieceTokenizer(str(tmp_path / "spm.model")).vocabulary, Vocabulary)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "spm.model"
    train_model(path)
    return SentencePieceTokenizer(str(path))


@given(
    st.text(st.one_of(st.sampled_from(" thecatsriver.ﬁ½ü中"), st.characters(exclude_categories=["Cs"])), max_size=60)
)
@settings(max_examples=200, deadline=None)
def test_offsets_of_pieces_go_with_the_ids_of_training(tokenizer, text):
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode_lines([text])[0]
    assert offsets.shape == (len(ids), 2)
    assert all(0 <= begin <= end <= len(text) for begin, end in offsets)
    assert (offsets[1:, 0] >= offsets[:-1, 0]).all()
    assert not any(text[begin:end].startswith(" ") for begin, end in offsets)


def test_offsets_cover_the_text_but_spaces(tokenizer):
    text = "  The old ﬁne 中 cat½  sees"
    _, offsets = tokenizer.encode_with_offsets(text)
    parts = [text[begin:end] for begin, end in offsets]
    assert "".join(parts) == "Theoldﬁne中cat½sees"
    tokens = [tokenizer.vocabulary.tokens[token] for token in tokenizer.encode_lines([text])[0]]
    pairs = [
        pair for pair in zip(tokens, parts, strict=True) if pair[1] and pair[1] in "oldcatsees" and pair[0] != "[UNK]"
    ]
    assert len(pairs) > 3 and all(token.lstrip("\u2581") == part for token, part in pairs)
