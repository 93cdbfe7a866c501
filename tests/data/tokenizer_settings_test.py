"""Tokenizers that are kept beside what they tokenize for."""

import pytest

from electra_cli.data.tokenization import SentencePieceTokenizer
from electra_cli.data.tokenizer_settings import TokenizerSettings, find_vocab_file, read_tokenizer, saved_tokenizer
from electra_cli.errors import UserError
from tests.finetuning.common import VOCABULARY, train_sentencepiece


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "spm.model"
    train_sentencepiece(path, ["the cats sat in paris, red dog's a fine x-y where?"] * 5, 60)
    return str(path)


@pytest.mark.parametrize("lower_case", [False, True])
def test_a_vocabulary_is_kept(tmp_path, lower_case):
    assert saved_tokenizer(str(tmp_path)) is None and find_vocab_file(str(tmp_path)) is None
    settings = TokenizerSettings(VOCABULARY, lower_case)
    settings.save(str(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["vocab.txt"]
    assert saved_tokenizer(str(tmp_path), lower_case) == settings
    assert saved_tokenizer(str(tmp_path)).lower_case


def test_a_sentencepiece_model_is_kept_with_its_vocabulary(tmp_path, model_file):
    settings = read_tokenizer(model_file)
    assert settings == TokenizerSettings(SentencePieceTokenizer(model_file).vocabulary, False, model_file)
    settings.save(str(tmp_path))
    kept = saved_tokenizer(str(tmp_path), True)
    assert kept.sentencepiece_file == find_vocab_file(str(tmp_path)) == str(tmp_path / "sentencepiece.model")
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
