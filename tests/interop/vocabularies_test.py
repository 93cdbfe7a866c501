"""Vocabularies that are not a token for each row, as they come with models: the ids are those of transformers, and what
a message advises gets through."""

import json

import numpy as np
import pytest
import transformers

from electra_cli.data.vocabulary import Vocabulary, is_unused
from electra_cli.errors import UserError
from electra_cli.interop import exporting, starting_points
from electra_cli.interop.runs import load_run
from electra_cli.loggers.logger import Logger
from tests.interop.common import TOKENS, make_workdir, random_inputs
from tests.interop.huggingface_test import TINY, compute, hf_config, import_from, largest, same_tensors, save

TEXTS = ["the quick brown fox", "jump over the lazy dog, covid", "president [MASK] xyz"]
# As an editor, or a script that joins files, leaves them.
ODD = (*TOKENS[:5], "[MASK]", *TOKENS[5:8], "", *TOKENS[8:20], "dog ", *TOKENS[20:], "the", "")


def make_folder(directory, tokens, num_rows, files=()):
    """Saves a discriminator with a word table of `num_rows`, and a `vocab.txt` (None: none) with other files."""
    config = hf_config(TINY)
    config.vocab_size = num_rows
    model = save(transformers.ElectraForPreTraining(config), directory)
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (directory / name).unlink()
    if tokens is not None:
        (directory / "vocab.txt").write_bytes("".join(f"{token}\n" for token in tokens).encode())
    for name, content in dict(files).items():
        (directory / name).write_text(json.dumps(content))
    return model


def tokenizer_json(ids, added=()):
    return {
        "version": "1.0", "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                                         "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": None, "decoder": None,
        "added_tokens": [{"id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for token, index in added],
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": ids},
    }  # fmt: skip


def ids_in(directory):
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return [tokenizer(text.replace("[MASK]", ""), add_special_tokens=False)["input_ids"] for text in TEXTS]


def ids_of(run):
    return [list(run.tokenizer.build().encode(text.replace("[MASK]", ""))) for text in TEXTS]


IDS = {token: index for index, token in enumerate(TOKENS)}
GAPS = {token: index if index < 30 else index + 4 for index, token in enumerate(TOKENS)}
CASES = {
    "padded": (TOKENS, 128, {}, "108 tokens, the word table 128; the rows beyond stay, named from [unused_row108] to"),
    "odd lines": (ODD, len(ODD), {}, "later): 5;"),
    "odd lines, padded": (ODD, 120, {}, "later): 5;"),
    "gaps": (None, len(TOKENS) + 4, {"tokenizer.json": tokenizer_json(GAPS)}, "later): 4;"),
    "another vocab.txt": (TOKENS[::-1], 108, {"tokenizer.json": tokenizer_json(IDS)}, ""),
    "added": (TOKENS, 112, {"added_tokens.json": {"covid": 108}}, "Added tokens: 1, the first 'covid'"),
    "added in the config": (TOKENS, 109, {"tokenizer_config.json": {"added_tokens_decoder": {
        "108": {"content": "covid", "special": False}}}}, "Added tokens: 1, the first 'covid'"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_folder_is_read_as_transformers_reads_it_and_goes_back_as_it_came(tmp_path, case):
    tokens, num_rows, files, note = CASES[case]
    model, notices = make_folder(tmp_path / "theirs", tokens, num_rows, files), []
    run = import_from(tmp_path / "theirs", tmp_path / "ours", notices.append)
    assert sum(note in line for line in notices) == 1 or not note
    vocabulary, inputs = run.tokenizer.vocabulary, random_inputs(num_rows)
    assert vocabulary.size == run.config.derived.vocab_size == num_rows
    assert ids_of(run) == ids_in(tmp_path / "theirs")
    states, expected = run.hidden_states("discriminator", inputs), compute(model, inputs)
    assert largest(run.logits("discriminator", states[-1]), expected.logits, inputs) < 1e-4
    exporting.export_run(run, "huggingface", "discriminator", str(tmp_path / "back"), overwrite=False)
    assert same_tensors(tmp_path / "theirs", tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["vocab_size"] == num_rows
    assert ids_in(tmp_path / "back") == ids_of(run)
    assert (tmp_path / "back" / "vocab.txt").read_bytes() == vocabulary.to_bytes()
    logger, again = Logger(), []
    logger.notice = again.append
    start = starting_points.open_starting_point(str(tmp_path / "back"), "discriminator", logger)
    assert start.tokenizer.vocabulary == vocabulary and not any("Vocabulary" in line for line in again)


def test_fine_tuning_notes_how_a_vocabulary_is_read(tmp_path):
    make_folder(tmp_path / "theirs", ODD, 128)
    logger, notices = Logger(), []
    logger.notice = notices.append
    start = starting_points.open_starting_point(str(tmp_path / "theirs"), "discriminator", logger)
    assert start.tokenizer.vocabulary.size == 128
    kinds = ("no part of tokens (lines: 1)", "later): 5;", "113 tokens, the word table 128")
    for kind in kinds:
        assert sum(kind in line for line in notices) == 1, notices


def test_added_tokens_without_a_row_are_left_out(tmp_path):
    make_folder(tmp_path / "theirs", TOKENS, 109, {"added_tokens.json": {"[E1]": 108, "covid": 109, "sars": 110}})
    notices = []
    run = import_from(tmp_path / "theirs", tmp_path / "ours", notices.append)
    assert run.tokenizer.vocabulary.tokens == (*TOKENS, "[E1]")
    assert "Added tokens: 2 are left out, the first 'covid': the word table of 109 rows has none for them." in notices


@pytest.mark.parametrize(
    ("tokens", "files", "message"),
    [
        ((*TOKENS, "more"), {}, "has 109 tokens, the word table 108: give the one that it was trained with, of at"),
        (TOKENS[:2], {}, r"has no \[CLS\], \[SEP\], \[MASK\]: write each in .*, give a vocabulary of at most 108"),
        (("the", "quick"), {}, r"is no WordPiece vocabulary: .*; to use BERT's tokenizer all the same, give a vocab"),
        (TOKENS, {"added_tokens.json": {"covid": 119}}, r"the added token 'covid' is 119, and 108 in trans.* give"),
        (None, {"tokenizer.json": tokenizer_json({**IDS, "more": 9})}, r"have the id 9: .* give a"),
        (None, {"tokenizer.json": tokenizer_json({**IDS, "more": 10**12})},
         r"ids beyond the 108 rows of the word table; .*, give a vocabulary"),
        (None, {"tokenizer.json": tokenizer_json({**IDS, "more": 120})}, "has 121 tokens, the word"),
    ],
)  # fmt: skip
def test_what_is_advised_for_a_vocabulary_gets_through(tmp_path, tokens, files, message):
    make_folder(tmp_path / "theirs", tokens, 108, files)
    with pytest.raises(UserError, match=message) as caught:
        import_from(tmp_path / "theirs", tmp_path / "ours")
    assert "--vocab_file=" in str(caught.value) and not (tmp_path / "ours").exists()
    (tmp_path / "copy.txt").write_text("\n".join(TOKENS[:90]))
    run = import_from(tmp_path / "theirs", tmp_path / "ours", vocab_file=str(tmp_path / "copy.txt"))
    assert run.tokenizer.vocabulary.tokens[:90] == TOKENS[:90] and run.tokenizer.vocabulary.size == 108
    assert all(map(is_unused, run.tokenizer.vocabulary.tokens[90:]))


def test_bytes_of_another_encoding_are_named_by_line(tmp_path):
    make_folder(tmp_path / "theirs", None, 108)
    content = "\n".join((*TOKENS[:107], "naïve"))
    (tmp_path / "theirs" / "vocab.txt").write_bytes(content.replace("東", "a").replace("京", "b").encode("latin-1"))
    with pytest.raises(UserError, match=r"vocab\.txt is not UTF-8 text on line 108: save it as UTF-8; .* give a vocab"):
        import_from(tmp_path / "theirs", tmp_path / "ours")
    (tmp_path / "theirs" / "vocab.txt").write_text(content, encoding="utf-8")
    assert import_from(tmp_path / "theirs", tmp_path / "ours").tokenizer.vocabulary.tokens[-1] == "naïve"


def test_a_vocabulary_that_is_given_for_a_run(tmp_path):
    workdir, notices = make_workdir(tmp_path / "run"), []
    file = workdir / "data" / "vocab.txt"
    file.write_text("\n".join(TOKENS[:100]))
    with pytest.raises(UserError, match=r"has lost tokens: 100 of 108 are left; give the one .*--vocab_file=FILE"):
        load_run(str(workdir))
    (tmp_path / "given.txt").write_text("\n".join((*TOKENS[:100], "", *TOKENS[101:])))
    run = load_run(str(workdir), vocab_file=str(tmp_path / "given.txt"), notice=notices.append)
    assert run.tokenizer.vocabulary.tokens == (*TOKENS[:100], "[unused_row100]", *TOKENS[101:])
    assert any("given.txt: ids without a token" in line for line in notices)
    (tmp_path / "given.txt").write_text("\n".join(TOKENS) + "\nmore")
    with pytest.raises(
        UserError, match=r"has 109 tokens, the model of .*run 108: .* of at most 108 tokens, --vocab_file"
    ):
        load_run(str(workdir), vocab_file=str(tmp_path / "given.txt"))
    (tmp_path / "given.txt").write_text("\n".join(TOKENS[:100]))
    run = load_run(str(workdir), vocab_file=str(tmp_path / "given.txt"), notice=notices.append)
    assert run.tokenizer.vocabulary == Vocabulary(TOKENS[:100]).fitted(108, "", "", "")
    assert np.shape(run.network("discriminator").weights["embeddings/word_embeddings"])[0] == 108
    assert not any("differs" in line for line in notices)  # nothing is known of the right one
    (workdir / "vocab.txt").write_text("\n".join(TOKENS))
    for content, differs in (
        ("\n".join(reversed(TOKENS)), True),
        ("\r\n".join(TOKENS), False),
        ("\n".join(TOKENS[:100]), False),
        ("\n".join((*TOKENS[:100], "", *TOKENS[101:])), False),
    ):
        notices.clear()
        (tmp_path / "given.txt").write_bytes(content.encode())
        load_run(str(workdir), vocab_file=str(tmp_path / "given.txt"), notice=notices.append)
        assert any(f"given.txt differs from {workdir}/vocab.txt, which the" in line for line in notices) == differs
