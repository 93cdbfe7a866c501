import json
import os
import shutil

import numpy as np
import pytest

from electra_cli.commands import export_checkpoint, import_checkpoint
from electra_cli.data.tokenization import read_tokenizer
from electra_cli.errors import UserError
from electra_cli.interop.starting_points import open_starting_point
from electra_cli.loggers.logger import Logger
from electra_cli.objectives.weights import are_equal
from tests.finetuning.common import train_sentencepiece
from tests.interop.commands_test import run
from tests.interop.common import TOKENS, make_workdir


def opened(path, role="discriminator", **arguments):
    return open_starting_point(str(path), role, Logger(), **arguments)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("start") / "run", lower_case=False)


@pytest.fixture(scope="module")
def ours(workdir):
    """The encoder of the workdir, without its head."""
    return encoder_of(opened(workdir))


def encoder_of(start):
    return {name: value for name, value in start.network.weights.items() if not name.startswith("predictions/")}


def test_a_workdir(workdir):
    start = opened(workdir)
    assert start.source == f"discriminator of {workdir} at step 7"
    assert (start.is_random, start.initializer_range) == (False, 0.3)
    assert start.network.role == "discriminator" and start.network.sizes.hidden_size == 16
    assert start.tokenizer.vocabulary.tokens == TOKENS and not start.tokenizer.rules.lower_case


def test_checkpoints_by_path_and_directory(workdir, ours, monkeypatch):
    best = workdir / "checkpoints" / "best"
    best.mkdir()
    try:
        for name in ("ckpt-7.index", "ckpt-7.data-00000-of-00001"):
            shutil.copy(workdir / "checkpoints" / name, best)
        for path in ("checkpoints/ckpt-7", "checkpoints", "checkpoints/best", "checkpoints/best/ckpt-7"):
            assert are_equal(encoder_of(opened(workdir / path)), ours)
    finally:
        shutil.rmtree(best)
    monkeypatch.chdir(workdir / "checkpoints")
    assert are_equal(encoder_of(opened("ckpt-7")), ours)
    with pytest.raises(UserError, match="ckpt-8: no such checkpoint or directory"):
        opened(workdir / "checkpoints/ckpt-8")


def test_an_import(workdir, ours, tmp_path):
    run(import_checkpoint, "--format=electra_pretrain", f"--source={workdir}", f"--output_dir={tmp_path / 'start'}")
    start = opened(tmp_path / "start")
    assert are_equal(encoder_of(start), ours) and not start.tokenizer.rules.lower_case


@pytest.mark.parametrize("format_name", ["google_tf1", "tfm", pytest.param("huggingface", marks=pytest.mark.slow)])
def test_exports(workdir, ours, tmp_path, format_name):
    if format_name == "huggingface":
        pytest.importorskip("transformers")
    out = tmp_path / "out"
    run(export_checkpoint, f"--workdir={workdir}", f"--format={format_name}", f"--output_dir={out}")
    start = opened(out, lower_case=False)
    assert are_equal(encoder_of(start), ours)
    assert start.source.startswith(f"discriminator of {out}")
    assert start.tokenizer.vocabulary.tokens == TOKENS
    assert not start.tokenizer.rules.lower_case
    assert not opened(out).tokenizer.rules.lower_case
    if format_name == "google_tf1":
        assert are_equal(encoder_of(opened(out / "model.ckpt-7")), ours)


@pytest.mark.parametrize("way", ["import", "tfm"])
def test_a_sentencepiece_model_goes_with_the_encoder(way, tmp_path):
    model_file = tmp_path / "spm.model"
    train_sentencepiece(model_file, ["the quick brown fox jumps over a lazy dog in 1923!"] * 5, 60)
    settings = read_tokenizer(str(model_file))
    workdir = make_workdir(tmp_path / "run", tokenizer=settings)
    command, out = (import_checkpoint, "start") if way == "import" else (export_checkpoint, "out")
    given = ("--format=electra_pretrain", f"--source={workdir}") if way == "import" else (
        f"--workdir={workdir}", "--format=tfm", "--network=discriminator"
    )  # fmt: skip
    run(command, *given, f"--output_dir={tmp_path / out}")
    start = opened(tmp_path / out)
    assert start.tokenizer.vocabulary == settings.vocabulary
    text = ["the lazy fox"]
    assert start.tokenizer.build().encode_lines(text) == settings.build().encode_lines(text)


def test_the_generator_is_taken_when_it_is_meant(workdir, tmp_path):
    start = opened(workdir, "generator")
    assert start.network.role == "generator" and start.network.sizes.hidden_size == 8
    masked_lm = make_workdir(tmp_path / "mlm", **{"objective.name": "mlm"})
    for role in ("discriminator", "generator"):  # there is one network
        start = opened(masked_lm, role)
        assert start.network.role == "generator" and start.network.sizes.hidden_size == 16
    electric = make_workdir(tmp_path / "electric", **{"objective.name": "electric"})
    with pytest.raises(UserError, match=r"config\.model\.network=generator: .*electric has no generator; give discrim"):
        opened(electric, "generator")


def test_random_weights_take_sizes_and_vocabulary(workdir):
    start = opened("random", like=str(workdir))
    assert start.is_random and start.network.sizes == opened(workdir).network.sizes
    assert start.source == f"random weights, sizes of the discriminator of {workdir} at step 7"
    assert start.tokenizer.vocabulary.tokens == TOKENS
    with pytest.raises(UserError, match="--init=random needs --like=DIR"):
        opened("random")
    with pytest.raises(UserError, match="is read with --init=random only: leave it out"):
        opened(workdir, like=str(workdir))
    with pytest.raises(UserError, match="--like=nowhere: no such checkpoint or directory"):
        opened("random", like="nowhere")


def test_what_is_no_encoder(workdir, tmp_path):
    with pytest.raises(UserError, match=r"is neither a workdir of electra-pretrain nor what .* wrote$"):
        opened(tmp_path)
    (tmp_path / "both").mkdir()
    (tmp_path / "both/discriminator").mkdir()
    with pytest.raises(UserError, match=rf"did you mean {tmp_path}/both/discriminator\?"):
        opened(tmp_path / "both")
    (tmp_path / "served").mkdir()
    (tmp_path / "served/saved_model.pb").write_bytes(b"")
    with pytest.raises(UserError, match="is a SavedModel, which cannot be trained: export with --format=huggingface"):
        opened(tmp_path / "served")
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned/config.json").write_text(json.dumps({"finetuning": {}}))
    with pytest.raises(UserError, match="is fine-tuned already: give the encoder that it started from"):
        opened(tmp_path / "tuned")
    (tmp_path / "tuned/config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        opened(tmp_path / "tuned")


def test_messages_name_the_flags_of_this_command(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "electra", "num_attention_heads": 2}))
    with pytest.raises(UserError, match=rf"^--init={tmp_path} holds neither model\.safetensors nor"):
        opened(tmp_path)
    with pytest.raises(UserError, match=rf"^--like={tmp_path} holds neither"):
        opened("random", like=str(tmp_path))


def test_the_vocabulary_can_be_given(workdir, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(workdir, moved)
    record = json.loads((moved / "config.json").read_text())
    record["config"]["data"]["dir"] = str(tmp_path / "gone")
    (moved / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="is not there any more: give its vocabulary, --vocab_file=FILE"):
        opened(moved)
    start = opened(moved, vocab_file=os.path.join(workdir, "data", "vocab.txt"))
    assert not start.tokenizer.rules.lower_case
    assert opened(
        moved, vocab_file=os.path.join(workdir, "data", "vocab.txt"), lower_case=True
    ).tokenizer.rules.lower_case
    np.testing.assert_array_equal(start.network.weights["embeddings/word_embeddings"].shape, [len(TOKENS), 8])
