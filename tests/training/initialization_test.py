"""Runs that begin with the weights of others: a longer vocabulary, other lengths, the optimizer's moments."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from electra_cli.config import default_config
from electra_cli.config.resolution import resolve
from electra_cli.data.packing import PrepareSettings
from electra_cli.data.prepare import prepare
from electra_cli.data.tokenization import TokenizerSettings
from electra_cli.data.vocabulary import Vocabulary, WordRules
from electra_cli.errors import UserError
from electra_cli.interop.runs import load_run
from electra_cli.loggers.lines import Lines
from electra_cli.loggers.logger import Logger
from electra_cli.objectives.base import build_pretrainer
from electra_cli.training.initialization import Changes, begin, resize_positions, split_token, start_from
from electra_cli.training.optimization import build_optimizer
from tests.conftest import VOCAB_SIZE
from tests.graphs import without_graphs
from tests.interop.common import TOKENS, make_workdir, small_settings
from tests.training.loop_test import finished, metrics_of, small_config, train  # noqa: F401  (a fixture)

NEW_TOKENS = (*TOKENS, "foxes", "##xed", "東京", "ß!")


class Target:
    """A model of other sizes, and its optimizer, as a run builds them."""

    def __init__(self, tokens=NEW_TOKENS, **overrides):
        config = default_config()
        config.update_from_flattened_dict({**small_settings(), **overrides, "data.dir": "unused"})
        self.config = resolve(config, len(tokens))
        tf_keras.utils.set_random_seed(1)
        self.model = build_pretrainer(self.config)
        self.optimizer = build_optimizer(self.config)
        self.optimizer.build(self.model.trainable_variables)
        self.lines = []
        self.tokens = tokens

    def start_from(self, path, of_generator=False, **changes):
        changes = Changes(TokenizerSettings(Vocabulary(self.tokens), WordRules()), **changes)
        start_from(str(path), self.model, self.optimizer, changes, Lines(self.lines.append), of_generator)
        return self


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of `TOKENS`, 48 positions and a trained optimizer."""
    workdir = make_workdir(tmp_path_factory.mktemp("source") / "run", step=3)
    (workdir / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    return workdir


@pytest.fixture(scope="module")
def old(source):
    """Its model."""
    return Target(TOKENS).start_from(source).model


def embeddings(model):
    return model.discriminator_network.embeddings


def test_new_tokens_begin_as_the_mean_of_their_pieces(tmp_path, source, old):
    target = Target().start_from(source)
    ids = {token: index for index, token in enumerate(TOKENS)}
    pieces = [
        [ids["fox"], ids["##e"], ids["##s"]],
        [ids["##x"], ids["##e"], ids["##d"]],
        [ids["東"], ids["京"]],
        list(range(len(TOKENS))),
    ]
    for before, after in (
        (embeddings(old).word_embeddings.numpy(), embeddings(target.model).word_embeddings.numpy()),
        (old.masked_lm.bias.numpy(), target.model.masked_lm.bias.numpy()),
    ):
        np.testing.assert_array_equal(after[: len(TOKENS)], before)
        assert len(after) == len(NEW_TOKENS)
        for row, of_token in zip(after[len(TOKENS) :], pieces, strict=True):
            np.testing.assert_allclose(row, before[of_token].mean(axis=0), rtol=1e-6, atol=1e-7)
    assert "4 tokens are new; each begins as the mean of its pieces." in target.lines
    assert "Of ß! there are no pieces: the mean of all tokens." in target.lines
    others = zip(old.variables, target.model.variables, strict=True)
    for before, after in others:
        if before.shape == after.shape:
            np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("objective", "sharing"), [("electra", "none"), ("electra", "gradient_disentangled"), ("electric", "none")]
)
def test_tables_that_are_not_shared_grow_too(tmp_path, objective, sharing):
    changes = {"objective.name": objective, "model.embedding_sharing": sharing}
    workdir = make_workdir(tmp_path / "run", **changes)
    target = Target(**changes).start_from(workdir)
    same = Target(TOKENS, **changes).start_from(workdir)
    for network in ("generator_network", "discriminator_network"):
        before, after = (getattr(each.model, network).embeddings.word_embeddings for each in (same, target))
        np.testing.assert_array_equal(after[: len(TOKENS)], before)
        np.testing.assert_allclose(after[len(TOKENS) + 2], (before[-3] + before[-2]) / 2, rtol=1e-6)


def test_positions_are_copied_or_interpolated(tmp_path, source, old):
    before = embeddings(old).position_embeddings.numpy()
    longer = {"model.max_position_embeddings": 120}
    copied = embeddings(Target(**longer).start_from(source).model).position_embeddings.numpy()
    np.testing.assert_array_equal(copied, np.concatenate([before, before, before[:24]]))
    target = Target(**{"model.max_position_embeddings": 95}).start_from(source, positions="interpolate")
    interpolated = embeddings(target.model).position_embeddings.numpy()
    np.testing.assert_allclose(interpolated[::2], before, atol=1e-6)
    np.testing.assert_allclose(interpolated[1::2], (before[1:] + before[:-1]) / 2, atol=1e-6)
    shorter = Target(**{"model.max_position_embeddings": 32}).start_from(source)
    np.testing.assert_array_equal(embeddings(shorter.model).position_embeddings, before[:32])


def test_resized_tables_by_hand():
    table = np.array([[0.0], [3.0], [9.0]])
    assert resize_positions(table, 5, "copy").ravel().tolist() == [0, 3, 9, 0, 3]
    assert resize_positions(table, 5, "interpolate").ravel().tolist() == [0, 1.5, 3, 6, 9]
    assert resize_positions(table, 2, "interpolate").ravel().tolist() == [0, 9]
    assert resize_positions(table, 5, "zeros").ravel().tolist() == [0, 3, 9, 0, 0]


def test_pieces_of_tokens():
    ids = {token: index for index, token in enumerate(["un", "##aff", "##able", "##a", "aff", "▁new", "s", "-", "19"])}
    assert split_token("unaffable", ids) == [0, 1, 2]
    assert split_token("##affable", ids) == [1, 2]
    assert split_token("un-19", ids) == [0, 7, 8]
    assert split_token("▁news", ids) == [5, 6]
    assert split_token("unknown", ids) == []


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_moments_are_restored_when_asked_and_the_step_is_not(tmp_path, precision):
    workdir = make_workdir(tmp_path / "run", **{"runtime.precision": precision})
    checkpoint = workdir / "checkpoints" / "ckpt-7"
    target = Target(**{"runtime.precision": precision, "model.max_position_embeddings": 50})
    inner = getattr(target.optimizer, "inner_optimizer", target.optimizer)
    names = [name for name, _ in tf.train.list_variables(str(checkpoint)) if name.startswith("optimizer/_variables")]
    assert len(names) == 2 * len(target.model.trainable_variables)
    # The checkpoint's moments are zeros: write others.
    source = Target(TOKENS, **{"runtime.precision": precision})
    source.start_from(workdir)
    moments = getattr(source.optimizer, "inner_optimizer", source.optimizer)
    rng = np.random.default_rng(0)
    for variable in (*moments._m, *moments._v):
        variable.assign(rng.uniform(size=variable.shape))
    source.optimizer.iterations.assign(5)
    path = str(tmp_path / "with_moments")
    tf.train.Checkpoint(model=source.model, optimizer=source.optimizer).write(path)
    vocab_file = str(workdir / "data" / "vocab.txt")
    target.start_from(path, restore_optimizer=True, old_vocab_file=vocab_file)
    assert int(target.optimizer.iterations.numpy()) == 0
    for name in ("_m", "_v"):
        for old, new in zip(getattr(moments, name), getattr(inner, name), strict=True):
            rows = old.shape[0]
            np.testing.assert_array_equal(new[:rows], old)
            assert not np.any(new[rows:])
    assert target.lines[-1].endswith("the optimizer resumes with its moments.")
    fresh = Target().start_from(path, old_vocab_file=vocab_file)
    assert not any(np.any(moment) for moment in (*fresh.optimizer._m, *fresh.optimizer._v))
    assert fresh.lines[-1].endswith("the optimizer starts fresh.")


def test_averages_start_from_the_weights_that_were_taken(tmp_path, source):
    target = Target(**{"optimizer.ema_decay": 0.9}).start_from(source)
    averages = target.optimizer._model_variables_moving_average
    for average, variable in zip(averages, target.model.trainable_variables, strict=True):
        np.testing.assert_array_equal(average, variable)


def test_vocabularies_that_do_not_go_on_from_the_checkpoints(tmp_path, source):
    before = [variable.numpy() for variable in Target().model.variables]

    def refuse(message, tokens=NEW_TOKENS, path=source, **changes):
        target = Target(tokens)
        with pytest.raises(UserError, match=message):
            target.start_from(path, **changes)
        if tokens is NEW_TOKENS:
            for variable, value in zip(target.model.variables, before, strict=True):
                np.testing.assert_array_equal(variable, value)

    swapped = (*TOKENS[:20], TOKENS[21], TOKENS[20], *NEW_TOKENS[22:])
    refuse(rf"its token 20 is '{TOKENS[21]}', in .*vocab.txt '{TOKENS[20]}'", swapped)
    refuse("lacks the last 3 tokens", TOKENS[:-3])
    (tmp_path / "long.txt").write_text("\n".join(NEW_TOKENS))
    refuse("has 112 tokens, checkpoint .* 108: .* at most 108 tokens, --config.init.vocab_file=FILE",
           old_vocab_file=str(tmp_path / "long.txt"))  # fmt: skip
    moved = (*TOKENS[:20], "[unused_row20]", *TOKENS[21:], TOKENS[20])  # as a file with a copy at its end is read
    refuse(f"its token 20 is .* and has '{TOKENS[20]}' again later, which is one too many", moved)
    (tmp_path / "lonely").mkdir()
    for file in (source / "checkpoints").glob("ckpt-3.*"):
        (tmp_path / "lonely" / file.name).write_bytes(file.read_bytes())
    refuse("has 108 tokens, the data 112, and its vocabulary is not next to it", path=tmp_path / "lonely")
    checkpoint = tf.train.Checkpoint(model=Target().model)
    refuse("holds no optimizer: give --config.init.optimizer=fresh", path=checkpoint.write(str(tmp_path / "bare")),
           restore_optimizer=True)  # fmt: skip
    target = Target(**{"model.hidden_size": 32})
    with pytest.raises(UserError, match="are of different models"):
        target.start_from(source)


SEPARATE = {"model.embedding_sharing": "none", "objective.frozen_generator": True}
OF_MLM = {"model.generator_hidden_size": 16, "model.generator_num_attention_heads": 2,
          "model.generator_intermediate_size": 40}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("electra", {}), ("mlm", OF_MLM), ("teams", {**OF_MLM, "model.generator_num_layers": 1})],
)
def test_a_generator_begins_as_that_of_another_run(tmp_path, name, sizes):
    """One that has tokens of its own, too."""
    workdir = make_workdir(tmp_path / "run", **{"objective.name": name})
    loaded = load_run(str(workdir), notice=lambda _: None).model
    changes = {**SEPARATE, **sizes}
    before = [variable.numpy() for variable in Target(**changes).model.discriminator_network.variables]
    target = Target(**changes).start_from(workdir, of_generator=True)
    pairs = zip(loaded.networks["generator"].variables, target.model.generator_network.variables, strict=True)
    for old, new in pairs:
        np.testing.assert_array_equal(old, new[: old.shape[0]])
    np.testing.assert_array_equal(loaded.masked_lm.dense.kernel, target.model.masked_lm.dense.kernel)
    np.testing.assert_array_equal(loaded.masked_lm.bias, target.model.masked_lm.bias[: len(TOKENS)])
    for value, variable in zip(before, target.model.discriminator_network.variables, strict=True):
        np.testing.assert_array_equal(value, variable)
    assert target.lines[-1] == f"The generator starts from the weights of {workdir}/checkpoints/ckpt-7."


def test_generators_that_do_not_fit(tmp_path):
    workdir = make_workdir(tmp_path / "run", **{"objective.name": "mlm"})
    for changes, message in (
        ({}, r"of different models: model/masked_lm/dense/kernel is float32 \[8, 8\] by the config, float32 \[16, 8\]"),
        (
            {**OF_MLM, "model.generator_num_attention_heads": 4},
            "the generator has 4 attention heads by the config, 2 in",
        ),
        ({**OF_MLM, "model.generator_num_layers": 3}, r"layer\S* is not in the checkpoint"),
    ):
        with pytest.raises(UserError, match=message):
            Target(**SEPARATE, **changes).start_from(workdir, of_generator=True)
    uniform = make_workdir(tmp_path / "uniform", **{"objective.uniform_generator": True})
    with pytest.raises(UserError, match="model/masked_lm/embedding_table is not in the checkpoint"):
        Target(**SEPARATE).start_from(uniform, of_generator=True)
    with pytest.raises(
        UserError, match=r"; give config\.model\.generator_\* its sizes, or another checkpoint of the obj"
    ):
        Target(**SEPARATE).start_from(workdir, of_generator=True)
    for key in ("init.checkpoint", "init.generator"):  # and not --checkpoint, which nobody gave
        target = Target(**{"model.embedding_sharing": "none", key: str(tmp_path)})
        with pytest.raises(UserError, match=f"config.{key}={tmp_path}: holds no checkpoint"):
            begin(target.model, target.optimizer, target.config, None, None, Logger())
    target = Target(**SEPARATE)
    with pytest.raises(
        UserError, match=r"frozen_generator=True: its weights would stay random; .*--config\.init.generator"
    ):
        begin(target.model, target.optimizer, target.config, None, None, Logger())
    both = Target(**{"model.embedding_sharing": "word", "init.checkpoint": "run", "init.generator": "mlm"})
    with pytest.raises(UserError, match=r"init\.generator=mlm would change embeddings that the discriminator of run"):
        begin(both.model, both.optimizer, both.config, None, None, Logger())


def test_rows_without_tokens_may_be_missing_from_the_data(source, tmp_path):
    """The word table is longer than the vocabulary, as with a padded one: data of either vocabulary will do."""
    short = TOKENS[:-4]
    (tmp_path / "short.txt").write_text("\n".join(short))
    before = embeddings(Target(TOKENS).start_from(source).model).word_embeddings.numpy()
    target = Target(short).start_from(source, old_vocab_file=str(tmp_path / "short.txt"))
    np.testing.assert_array_equal(embeddings(target.model).word_embeddings, before[:-4])
    padded = Vocabulary(short).fitted(len(TOKENS), "", "", "").tokens
    target = Target(padded).start_from(source, old_vocab_file=str(tmp_path / "short.txt"))
    np.testing.assert_array_equal(embeddings(target.model).word_embeddings, before)


def test_a_run_begins_with_what_the_config_names_and_goes_on(finished, tmp_path, corpus_file, data_dir):  # noqa: F811
    config = small_config(data_dir)
    config.train.num_steps = 4
    tokens = (data_dir / "vocab.txt").read_text().split("\n")[:VOCAB_SIZE]
    (tmp_path / "longer.txt").write_text("\n".join([*tokens, "catbird", "fishhorse"]) + "\n")
    prepare(
        [str(corpus_file)], str(tmp_path / "data"), PrepareSettings(max_seq_length=32, validation_fraction=0.15),
        vocab_file=str(tmp_path / "longer.txt"), num_workers=1, overwrite=False, report=lambda *_: None,
    )  # fmt: skip
    config.data.dir = str(tmp_path / "data")
    config.init.checkpoint = str(finished[0])
    with without_graphs():
        lines = train(config, tmp_path / "second", with_evaluation=False)
        config.train.steps_per_loop = 1
        again = train(config, tmp_path / "second", with_evaluation=False)
    assert any("2 tokens are new" in line for line in lines)
    assert any(line.startswith("Starting at step 0 from the weights of") for line in lines)
    first, second = metrics_of(finished[0]), metrics_of(tmp_path / "second")
    assert second[0]["masked_lm_loss"] < first[0]["masked_lm_loss"]
    assert again[-1].startswith("Trained to step 4") and not any("tokens are new" in line for line in again)


@pytest.mark.parametrize("record", ["tokenizer_config.json", "config.json"])
def test_another_tokenizer_than_the_checkpoints_is_reported(tmp_path, source, record):
    start = shutil.copytree(source, tmp_path / "start")
    if record == "config.json":  # of older versions
        content = json.loads((start / record).read_text())
        (start / record).write_text(json.dumps({**content, "tokenizer": {"lower_case": False}}))
    else:
        (start / record).write_text('{"do_lower_case": true, "strip_accents": false}')
    (warning,) = [line for line in Target(TOKENS).start_from(start).lines if "Warning" in line]
    expected = "--lower_case=false" if record == "config.json" else "--strip_accents=false"
    assert "prepared with --lower_case=true" in warning and warning.endswith(f"prepare the data with {expected}")
    (start / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert not [line for line in Target(TOKENS).start_from(start).lines if "Warning" in line]
