import io
from collections import Counter

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_cli.data.packing import PrepareSettings
from electra_cli.data.prepare import prepare
from electra_cli.data.source import open_data
from electra_cli.data.tfrecords import read_manifest
from electra_cli.data.tokenization import SentencePieceTokenizer
from electra_cli.data.vocabulary import Vocabulary
from electra_cli.errors import UserError
from tests.conftest import make_text
from tests.data.prepare_test import read_records


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
def test_offsets_go_with_the_ids_of_training(tokenizer, text):
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
