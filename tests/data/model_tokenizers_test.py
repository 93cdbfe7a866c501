"""Byte-level BPE: ids are those of the package tokenizers, and data is prepared, checked and masked with them."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors

from electra_cli.data import prepare as prepare_module
from electra_cli.data.inspection import inspect_data
from electra_cli.data.masking import MaskingSettings, mask_batch
from electra_cli.data.model_tokenizers import ByteLevelTokenizer
from electra_cli.data.packing import PrepareSettings
from electra_cli.data.source import open_data
from electra_cli.data.spool import CONTINUES_WORD
from electra_cli.data.tfrecords import file_checksum, read_manifest
from electra_cli.data.tokenization import (
    Coverage,
    TokenizerSettings,
    find_vocab_file,
    read_tokenizer,
    saved_tokenizer,
)
from electra_cli.data.vocabulary import BYTE_WORD_BEGIN, SPECIAL_TOKENS, Vocabulary, WordRules
from electra_cli.data.vocabulary_learning import LearningSettings
from electra_cli.errors import UserError
from electra_cli.modeling import features
from tests.conftest import make_text
from tests.data.prepare_test import assert_same_files
from tests.finetuning.common import train_byte_level

ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
LINES = ["the cat sat on the mat, isn't it? in 1863 it's   fine", "Das Café öffnet; 東京 и Москва"]
LINES += make_text(20).splitlines()
# Split as Llama 3 and others do before bytes.
GPT4 = pre_tokenizers.Split(Regex(r"'(?i:[sdmt]|ll)|\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"), "isolated")
KINDS = {
    "modernbert": {},
    "prefix": {"add_prefix_space": True, "names": ROBERTA},
    "nfc": {"normalizer": normalizers.NFC()},
    "split": {"split": GPT4},
}


@pytest.fixture(scope="module")
def tokenizer_files(tmp_path_factory):
    """Paths by kind; each tokenizer has added tokens that are not special, truncation, padding and a post-processor."""
    directory = tmp_path_factory.mktemp("byte_level")
    for kind, options in KINDS.items():
        path = directory / f"{kind}.json"
        tokenizer = train_byte_level(path, LINES, **options)
        tokenizer.add_tokens(["   ", "|||IP_ADDRESS|||", AddedToken("line\nbreak", normalized=False)])
        tokenizer.enable_truncation(4)
        tokenizer.enable_padding(length=9)
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        tokenizer.save(str(path))
    return {kind: str(directory / f"{kind}.json") for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@given(
    st.lists(
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
            st.text(st.sampled_from(" \t\nthecats'é\u0301東🙂<s>[MASK]"), max_size=40),
            st.sampled_from([" the cat   sat", "|||IP_ADDRESS|||", "line\nbreak", "<mask> [CLS]</s>"]),
        ),
        max_size=4,
    )
)
@settings(max_examples=100, deadline=None)
def test_ids_and_offsets_are_those_of_tokenizers(tokenizer_files, kind, lines):
    tokenizer = ByteLevelTokenizer(tokenizer_files[kind])
    original = tokenizers.Tokenizer.from_file(tokenizer_files[kind])
    original.no_truncation()
    original.no_padding()
    original.encode_special_tokens = True
    encodings = [original.encode(line, add_special_tokens=False) for line in lines]
    encoded = tokenizer.encode_lines(lines)
    assert [ids.tolist() for ids in encoded] == [encoding.ids for encoding in encodings]
    special = {tokenizer.vocabulary.tokens.index(name) for name in SPECIAL_TOKENS}
    for line, ids in zip(lines, encoded, strict=True):
        assert special.isdisjoint(ids)
        again, offsets = tokenizer.encode_with_offsets(line)
        assert again == ids and offsets.shape == (len(ids), 2)
        assert not any(line[begin:end][:1].isspace() for begin, end in offsets)
        covered = {position for begin, end in offsets for position in range(begin, end)}
        letters = {position for position, letter in enumerate(line) if not letter.isspace()}
        assert covered >= letters or kind == "nfc"  # a letter that is composed covers the first of its characters
    counts = Coverage(tokenizer, tokenizer.vocabulary).count(lines, encoded)
    assert +counts == {
        name: number
        for name, number in (
            ("characters", sum(len(line) - line.count(" ") for line in lines)),
            ("tokens", sum(map(len, encoded))),
        )
        if number
    }
    text = normalizers.NFC().normalize_str(lines[0]) if kind == "nfc" and lines else "".join(lines[:1])
    decoded = tokenizer.vocabulary.to_text(encoded[0]) if lines else ""
    assert decoded in (text, f" {text}") or (kind == "prefix" and "   " in text)


def test_special_tokens_have_berts_names_and_the_others_their_ids(tmp_path):
    original = train_byte_level(tmp_path / "tokenizer.json", LINES, names=("<s>", "<pad>", "</s>", "<mask>"))
    original.add_tokens(["   ", "line\nbreak", "a\r"])
    original.save(str(tmp_path / "tokenizer.json"))
    tokenizer = ByteLevelTokenizer(str(tmp_path / "tokenizer.json"))
    names = {"<s>": "[CLS]", "<pad>": "[PAD]", "</s>": "[SEP]", "<mask>": "[MASK]"}
    names |= {"line\nbreak": "lineĊbreak", "a\r": "ač"}
    ids = {names.get(token, token): index for token, index in original.get_vocab().items()}
    size = original.get_vocab_size()
    assert tokenizer.vocabulary.tokens == (*sorted(ids, key=lambda token: ids[token]), "[UNK]")
    assert tokenizer.vocabulary.unk_id == size and tokenizer.special_tokens["[CLS]"] == "<s>"
    assert tokenizer.vocabulary.word_begin == BYTE_WORD_BEGIN
    written = tmp_path / "copy.json"
    written.write_bytes(tokenizer.content)
    assert ByteLevelTokenizer(str(written)).content == tokenizer.content
    (tmp_path / "vocab.txt").write_bytes(tokenizer.vocabulary.to_bytes())
    assert Vocabulary.from_file(str(tmp_path / "vocab.txt")) == tokenizer.vocabulary


def test_a_special_token_in_text_is_text_even_if_the_file_does_not_call_it_special(tmp_path):
    path = tmp_path / "tokenizer.json"
    train_byte_level(path, LINES)
    record = json.loads(path.read_text())
    for item in record["added_tokens"]:
        item["special"] = False
    path.write_text(json.dumps(record))
    tokenizer = ByteLevelTokenizer(str(path))
    (ids,) = tokenizer.encode_lines(["a [MASK] b"])
    assert tokenizer.vocabulary.mask_id not in ids and tokenizer.vocabulary.to_text(ids) == "a [MASK] b"
    assert all(item["special"] for item in json.loads(tokenizer.content)["added_tokens"])


def damaged(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    return str(path)


def merge_mask(record):
    """Makes a word of '<mask>' that no pre-tokenizer divides and the vocabulary has."""
    record["model"]["vocab"]["<mask>"] = 10**3
    record["model"]["ignore_merges"] = True
    record["pre_tokenizer"]["use_regex"] = False
    record["added_tokens"] = [item for item in record["added_tokens"] if item["content"] != "[MASK]"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda record: record["model"].update(type="WordPiece"),
            "of type WordPiece.*: give its vocabulary, --",
        ),
        (lambda record: record["model"].update(type="Unigram"), "of type Unigram.*: give a SentencePiece model"),
        (lambda record: record.update(pre_tokenizer=None), "of type BPE of unsplit text, not of byte-level BPE"),
        (lambda record: record.update(pre_tokenizer={"type": "Metaspace"}), "type BPE of Metaspace"),
        (lambda record: record["model"].update(dropout=0.1), r"dropout is 0\.1, .*: set it to null$"),
        (lambda record: record["added_tokens"].pop(), r"has no \[MASK\]: add them, Tokenizer\.add_special_tokens"),
        (lambda record: record["model"]["vocab"].pop("é"), r"cannot be read by|lacks tokens of 1 bytes, such as 'é'"),
        (
            lambda record: record["model"]["vocab"].update(far=2**25),
            r"33,\d{3},\d{3} ids up to 33,554,432 have no token",
        ),
        (
            lambda record: record.pop("model"),
            r"is no tokenizer\.json of the package tokenizers \(KeyError\('model'\)\)",
        ),
        (lambda record: record.update(added_tokens=[{}]), r"is no tokenizer\.json"),
        (lambda record: record["model"].update(merges="no"), "cannot be read by the package tokenizers: "),
        (merge_mask, r"text '<mask>' becomes \[MASK\], which no text may"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, change, message):
    train_byte_level(tmp_path / "tokenizer.json", LINES, 262)
    with pytest.raises(UserError, match=message) as error:
        ByteLevelTokenizer(damaged(tmp_path / "tokenizer.json", change))
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("no")
    with pytest.raises(UserError, match=r"is no tokenizer\.json"):
        read_tokenizer(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"none\.json cannot be read: No such file"):
        read_tokenizer(str(tmp_path / "none.json"))


def test_ids_without_a_token_have_a_name(tmp_path):
    train_byte_level(tmp_path / "tokenizer.json", LINES, 262)
    path = damaged(tmp_path / "tokenizer.json", lambda record: record["model"]["vocab"].update(zz=300))
    vocabulary = ByteLevelTokenizer(path).vocabulary
    assert vocabulary.tokens[300] == "zz" and vocabulary.tokens[290] == "[unused_row290]"
    assert "ids without a token" in vocabulary.notes[0]


def test_a_tokenizer_is_kept(tmp_path, tokenizer_files):
    settings = read_tokenizer(tokenizer_files["prefix"])
    assert settings == TokenizerSettings(
        ByteLevelTokenizer(tokenizer_files["prefix"]).vocabulary, WordRules(False), tokenizer_files["prefix"]
    )
    settings.save(str(tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tokenizer.json", "vocab.txt"]
    kept = saved_tokenizer(str(tmp_path), True)
    assert kept.model_file == find_vocab_file(str(tmp_path)) == str(tmp_path / "tokenizer.json")
    assert kept.build().encode_lines(LINES) == settings.build().encode_lines(LINES)
    assert kept.vocabulary == settings.vocabulary
    (tmp_path / "tokenizer.json").unlink()
    message = r"is that of a byte-level BPE model.*: give the model, --vocab_file=tokenizer\.json"
    with pytest.raises(UserError, match=message):
        saved_tokenizer(str(tmp_path)).build()


def run(output, text, tokenizer_file, num_workers=1, learning=None, **changes):
    return prepare_module.prepare(
        [str(text)],
        str(output),
        PrepareSettings(**{"max_seq_length": 32, "validation_fraction": 0.1, **changes}),
        vocab_file=tokenizer_file,
        learning=learning,
        num_workers=num_workers,
        overwrite=False,
        report=lambda *_: None,
    )


def test_data_is_the_same_for_any_number_of_workers_and_checked(tmp_path, tokenizer_files):
    (tmp_path / "text.txt").write_text(make_text(60) + "東京 — naïve 🙂\n")
    manifest = run(tmp_path / "one", tmp_path / "text.txt", tokenizer_files["modernbert"])
    run(tmp_path / "three", tmp_path / "text.txt", tokenizer_files["modernbert"], num_workers=3)
    assert_same_files(tmp_path / "one", tmp_path / "three")
    model = tmp_path / "one" / "tokenizer.json"
    assert manifest.tokenizer_sha256 == file_checksum(str(model)) and not manifest.sentencepiece_sha256
    assert not manifest.lower_case and read_manifest(str(tmp_path / "one")).fingerprint == manifest.fingerprint
    assert not manifest.statistics["coverage"]["unknown_tokens"]
    lines = []
    inspect_data(str(tmp_path / "one"), lines.append)
    assert "0.000% of the characters (0.000% of the tokens) became [UNK]" in "\n".join(lines)
    model.write_bytes(model.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"tokenizer\.json is not the model that the shards were made with"):
        inspect_data(str(tmp_path / "one"))
    model.unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is not the model that the shards were made with"):
        inspect_data(str(tmp_path / "one"))


def test_manifests_of_other_tokenizers_are_as_before(tmp_path, data_dir):
    record = json.loads((tmp_path / data_dir / "manifest.json").read_text())
    assert "tokenizer_sha256" not in record and record["sentencepiece_sha256"] == ""


def test_a_stopped_preparation_resumes(tmp_path, monkeypatch, tokenizer_files):
    (tmp_path / "text.txt").write_text(make_text(40))
    run(tmp_path / "first", tmp_path / "text.txt", tokenizer_files["nfc"])
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "make_shard", None)
        with pytest.raises(TypeError):
            run(tmp_path / "second", tmp_path / "text.txt", tokenizer_files["nfc"])
    run(tmp_path / "second", tmp_path / "text.txt", tokenizer_files["nfc"])
    assert_same_files(tmp_path / "first", tmp_path / "second")


def test_words_begin_with_a_space_and_at_the_beginning_of_a_line(tmp_path):
    path = tmp_path / "tokenizer.json"
    original = train_byte_level(path, ["cats"] * 9, 262)  # 'ca', 'ts', 'cats' at most, besides letters
    original.add_tokens(["   "])
    original.save(str(path))
    tokenizer = ByteLevelTokenizer(str(path), keeps_words=True)
    tokens = tokenizer.vocabulary.tokens
    (ids, nothing, second) = tokenizer.encode_lines(["cats do   it, é", "", "so"])
    assert [(tokens[index & ~CONTINUES_WORD], index >= CONTINUES_WORD) for index in ids] == [
        ("cats", False), ("Ġ", False), ("d", True), ("o", True), ("   ", False), ("i", False), ("t", True),
        (",", True), ("Ġ", False), ("Ã", True), ("©", True),
    ]  # fmt: skip
    assert not nothing and [index >= CONTINUES_WORD for index in second] == [False, True]


def test_words_of_lines_are_masked_whole(tmp_path):
    path = tmp_path / "tokenizer.json"
    train_byte_level(path, ["cats"] * 9, 262)
    (tmp_path / "text.txt").write_text("cats do it\nso am\n")
    run(tmp_path / "data", tmp_path / "text.txt", str(path), validation_fraction=0.0, packing="single")
    source = open_data(str(tmp_path / "data"), 32)
    assert source.train.has_words
    record = next(iter(tf.data.TFRecordDataset(list(source.train.files), source.train.compression)))
    feature = tf.train.Example.FromString(record.numpy()).features.feature
    ids = np.array([feature[features.INPUT_WORD_IDS].int64_list.value], np.int32)
    continues = np.array([feature[features.CONTINUES_WORD].int64_list.value], np.int32)
    vocabulary = source.vocabulary
    assert [vocabulary.tokens[index] for index in ids[0]] == [
        "[CLS]", "cats", "Ġ", "d", "o", "Ġ", "i", "t", "s", "o", "Ġ", "a", "m", "[SEP]"
    ]  # fmt: skip
    assert continues.tolist() == [[0, 0, 0, 1, 1, 0, 1, 1, 0, 1, 0, 1, 1, 0]]
    batch = {
        features.INPUT_WORD_IDS: np.tile(ids, (50, 1)),
        features.INPUT_MASK: np.ones([50, 14], np.int32),
        features.INPUT_TYPE_IDS: np.zeros([50, 14], np.int32),
        features.CONTINUES_WORD: np.tile(continues, (50, 1)),
    }
    masking = MaskingSettings(
        mask_prob=3 / 14, max_predictions_per_seq=3, mask_token_prob=1.0, mask_token_id=vocabulary.mask_id,
        special_token_ids=(vocabulary.cls_id, vocabulary.sep_id), vocab_size=vocabulary.size, uses_segmentation=True,
    )  # fmt: skip
    masked = mask_batch({name: tf.constant(value) for name, value in batch.items()}, masking, [1, 2], [3, 4])
    positions = [
        tuple(row[weights > 0].tolist())
        for row, weights in zip(
            masked[features.MASKED_LM_POSITIONS].numpy(), masked[features.MASKED_LM_WEIGHTS].numpy(), strict=True
        )
    ]
    words = {(1,), (2, 3, 4), (5, 6, 7), (8, 9), (10, 11, 12)}
    assert set(positions) == {(2, 3, 4), (5, 6, 7), (10, 11, 12), (1, 8, 9)} and (8, 9) in words
    # Without marks in records, as of another program, the token alone decides.
    assert vocabulary.continues_word[ids[0]].tolist() == [
        False, True, False, True, True, False, True, True, True, True, False, True, True, False
    ]  # fmt: skip


def test_texts_of_tokens_are_for_people(tmp_path, tokenizer_files):
    tokenizer = ByteLevelTokenizer(tokenizer_files["modernbert"])
    vocabulary = tokenizer.vocabulary
    texts = dict(zip(vocabulary.tokens, vocabulary.texts, strict=True))
    assert texts["Ġthe"] == "the" and texts["Ã"] == "Ã" and texts["[MASK]"] == "[MASK]" and texts["Ġ"] == "Ġ"
    (ids,) = tokenizer.encode_lines(["Café in 東京"])
    row = [vocabulary.cls_id, *ids, vocabulary.sep_id]
    assert vocabulary.to_text(row) == "[CLS] Café in 東京 [SEP]"


def test_other_vocabularies_with_all_letters_are_not_byte_level():
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert Vocabulary((*SPECIAL_TOKENS, *letters)).word_begin == BYTE_WORD_BEGIN
    assert Vocabulary((*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters))).word_begin == ""
    assert Vocabulary((*SPECIAL_TOKENS, *letters[:-40], "\u2581the")).word_begin == "\u2581"


def test_a_byte_level_bpe_is_learned_from_text(tmp_path):
    (tmp_path / "text.txt").write_text(make_text(80) + "\n\nCafe\u0301 東京 東京 東京 東京\n")
    learning = LearningSettings(320, type="bpe", num_reserved=2)
    manifest = run(tmp_path / "one", tmp_path / "text.txt", None, learning=learning)
    run(tmp_path / "three", tmp_path / "text.txt", None, num_workers=3, learning=learning)
    assert_same_files(tmp_path / "one", tmp_path / "three")
    source = open_data(str(tmp_path / "one"), 32)
    vocabulary = source.vocabulary
    assert vocabulary.size == 320 and vocabulary.tokens[:7] == (*SPECIAL_TOKENS, "[unused0]", "[unused1]")
    assert vocabulary.word_begin == BYTE_WORD_BEGIN and source.train.has_words and manifest.tokenizer_sha256
    assert sum(token.startswith("Ġ") and len(token) > 2 for token in vocabulary.tokens) > 10
    lines = ["the Ünïcödé 🙂 text\tof ไทย", "Cafe\u0301"]
    texts = [vocabulary.to_text(ids) for ids in source.tokenizer.build().encode_lines(lines)]
    assert texts == [" the Ünïcödé 🙂 text\tof ไทย", " Café"]  # composed, and a line begins as any word does
    assert manifest.statistics["coverage"]["unknown_tokens"] == 0
    message = r"is that of a byte-level BPE model.*: give the model, --vocab_file=tokenizer\.json"
    with pytest.raises(UserError, match=message):  # alone
        run(tmp_path / "other", tmp_path / "text.txt", str(tmp_path / "one" / "vocab.txt"))


@pytest.mark.parametrize(
    ("learning", "message"),
    [
        (LearningSettings(262, type="bpe", num_reserved=2), "--learn_bpe=262 is too small: .* alone are 263"),
        (LearningSettings(9000, type="bpe"), r"the text supports \d+ tokens, not --learn_bpe=9000: ask for \d+, give"),
    ],
)
def test_a_size_that_cannot_be_learned_is_refused(tmp_path, learning, message):
    (tmp_path / "text.txt").write_text(make_text(10))
    with pytest.raises(UserError, match=message):
        run(tmp_path / "data", tmp_path / "text.txt", None, learning=learning)
    assert not (tmp_path / "data").exists()
