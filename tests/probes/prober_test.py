import os
import random
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from electra_cli.data.source import read_run
from electra_cli.data.tokenization import tokenizer_of_data
from electra_cli.errors import Interrupted, UserError
from electra_cli.finetuning.scores import score_numbers
from electra_cli.loggers.lines import Lines
from electra_cli.probes import prober as probes
from electra_cli.probes.prober import probe_hooks
from electra_cli.training import loop, run
from electra_cli.training.distribution import Runtime
from electra_cli.training.evaluation import Evaluator
from electra_cli.training.initialization import restore_model
from tests.conftest import _ADJECTIVES, _NOUNS, _VERBS, MODERN, small_config
from tests.graphs import without_graphs
from tests.training import loop_test
from tests.training.loop_test import assert_same_run, metrics_of, weights_of


def train(config, workdir, with_evaluation=True):
    hooks = probe_hooks(config) if with_evaluation else []
    with without_graphs():
        return loop_test.train(config, workdir, with_evaluation, hooks=hooks)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Sentences whose class is their verb's, and pairs whose number is how many words they share."""
    directory, rng = tmp_path_factory.mktemp("probes"), random.Random(0)

    def sentence():
        adjective, noun = rng.choice(_ADJECTIVES), rng.choice(_NOUNS)
        return f"the {adjective} {noun} {rng.choice(_VERBS)}" + f" the {rng.choice(_NOUNS)}" * rng.randint(0, 12)

    sentences = [sentence() for _ in range(60)]
    classes = [f"{text}\t{_VERBS.index(text.split()[3]) % 2}" for text in sentences]
    (directory / "verbs.tsv").write_text("\n".join(["sentence\tlabel", *classes]) + "\n")
    pairs = [(sentence(), sentence()) for _ in range(70)]
    numbers = [f"{a},{b},{len({*a.split()} & {*b.split()}) + 0.25 * i}" for i, (a, b) in enumerate(pairs)]
    (directory / "overlap.csv").write_text("\n".join(["a,b,shared", *numbers]) + "\n")
    return str(directory / "verbs.tsv"), f"{directory}/overlap.csv:text=a,second_text=b,label=shared"


def config_with(data_dir, files, **changes):
    config = small_config(data_dir)
    config.model.num_layers = 1
    config.optimizer.ema_decay = 0.9
    config.eval.probes = files
    config.train.num_steps, config.eval.interval = 4, 2
    config.runtime.jit_compile = "false"  # it takes more time than all else
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def probed(data_dir, files, tmp_path_factory):
    """A run with dropout and moving averages, probed at steps 2 and 4."""
    workdir = tmp_path_factory.mktemp("probed")
    return workdir, train(config_with(data_dir, files), workdir)


def probe_lines(workdir):
    return [line for line in metrics_of(workdir) if line["split"] == "probe"]


@pytest.fixture(scope="module")
def plain(data_dir, tmp_path_factory):
    """The same run without probes."""
    workdir = tmp_path_factory.mktemp("plain")
    train(config_with(data_dir, ()), workdir)
    return workdir


def test_probes_change_nothing_of_the_run(probed, plain):
    assert [line for line in metrics_of(probed[0]) if line["split"] != "probe"] == metrics_of(plain)
    expected, found = weights_of(plain), weights_of(probed[0])
    assert any("optimizer" in name for name in expected) and expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(value, found[name], err_msg=name)


def test_lines_of_metrics_and_of_the_terminal(probed):
    workdir, said = probed
    first, last = probe_lines(workdir)
    assert (first["step"], last["step"]) == (2, 4)
    names = {f"verbs/{score}" for score in ("accuracy", "f1", "mcc")} | {"overlap/spearman", "overlap/pearson"}
    assert first.keys() == {"step", "split", *names, *(f"{name}_random" for name in names)}
    assert all(first[f"{name}_random"] == last[f"{name}_random"] for name in names)
    assert first != {**last, "step": 2}
    assert any((workdir / "tensorboard" / "probe").iterdir())
    shown = [
        f"{name} {last[name]:.3f} (random weights {last[f'{name}_random']:.3f})"
        for name in ("verbs/accuracy", "overlap/spearman")
    ]
    assert f"step 4 probes  {'  '.join(shown)}".replace("/", " ") in said


def test_scores_are_those_of_the_averaged_weights_computed_otherwise(probed, data_dir, files):
    resolved = read_run(config_with(data_dir, files)).resolved
    model, *_ = restore_model(resolved, str(probed[0]), print)
    tokenizer = tokenizer_of_data(str(data_dir))
    vocabulary, encoder = tokenizer.vocabulary, tokenizer.build()

    def means(text):
        ids = [vocabulary.cls_id, *encoder.encode(text)[:30], vocabulary.sep_id]
        ids = tf.constant([ids])
        inputs = {"input_word_ids": ids, "input_mask": tf.ones_like(ids), "input_type_ids": tf.zeros_like(ids)}
        outputs = model.discriminator_network(inputs, training=False)["encoder_outputs"]
        return np.concatenate([output.numpy()[0].mean(axis=0) for output in outputs])  # both layers

    with open(files[1].partition(":")[0]) as stream:
        rows = [line.rstrip().split(",") for line in stream][1:]
    gold = np.array([float(number) for _, _, number in rows])
    pairs = [(means(first), means(second)) for first, second, _ in rows]
    features = np.stack([np.concatenate([abs(u - v), u * v]) for u, v in pairs]).astype(np.float64)
    predictions = np.empty(len(rows))
    for fitted, held_out in KFold(5, shuffle=True, random_state=0).split(features):
        scaler = StandardScaler().fit(features[fitted])
        ridge = RidgeCV(np.logspace(1, 5, 9)).fit(scaler.transform(features[fitted]), gold[fitted])
        predictions[held_out] = ridge.predict(scaler.transform(features[held_out]))
    expected = score_numbers(predictions, gold)
    assert probe_lines(probed[0])[-1]["overlap/spearman"] == pytest.approx(expected["spearman"], abs=2e-3)
    assert probe_lines(probed[0])[-1]["overlap/pearson"] == pytest.approx(expected["pearson"], abs=1e-3)


def test_a_run_stopped_before_its_probes_are_made_makes_them(probed, data_dir, files, tmp_path, monkeypatch):
    def train_and_stop_in(owner, method, doing):
        original = getattr(owner, method)

        def stop(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGTERM)
            return original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(owner, method, stop)
            with pytest.raises(Interrupted, match=f"while {doing} step 2; saved"):
                train(config_with(data_dir, files), tmp_path)

    train_and_stop_in(Evaluator, "run", "evaluating")
    train_and_stop_in(probes.Prober, "_score", "probing")
    assert probe_lines(tmp_path) == []
    train(config_with(data_dir, files), tmp_path)
    assert_same_run(probed[0], tmp_path)


def test_a_finished_run_and_mode_eval_probe_too(probed, plain, data_dir, files, tmp_path):
    shutil.copytree(plain, tmp_path, dirs_exist_ok=True)
    config = config_with(data_dir, files[:1])
    lines = train(config, tmp_path, with_evaluation=False)
    assert "Note: config.eval.probes is not used: --mode=train evaluates nothing" in lines
    assert probe_lines(tmp_path) == []
    assert any(line.startswith("step 4 probes  verbs accuracy") for line in train(config, tmp_path))
    (line,) = probe_lines(tmp_path)
    assert line == {name: value for name, value in probe_lines(probed[0])[-1].items() if "overlap" not in name}
    assert not any("probes" in line for line in train(config, tmp_path))  # once is enough
    said = []
    with without_graphs():
        result = loop.evaluate(config, str(tmp_path), Lines(said.append), hooks=probe_hooks(config))
    assert result["verbs/accuracy"] == line["verbs/accuracy"] and said[-1].startswith("step 4 probes  verbs")
    assert probe_lines(tmp_path) == [line]


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"model.embedding_sharing": "gradient_disentangled"},
        {"model.embedding_sharing": "gradient_disentangled", "objective.frozen_generator": True},
        {"objective.name": "mlm"},
        {"model.num_layers": 2},
        MODERN,
    ],
    ids=["electra", "gradient_disentangled", "frozen", "mlm", "two layers", "modern"],
)
def test_what_is_probed_is_the_models_own_encoder(data_dir, files, overrides):
    config = config_with(data_dir, files, **{"optimizer.ema_decay": 0.0, **overrides})
    run_config = read_run(config)
    resolved, phases = run_config.resolved, run_config.phases
    runtime = Runtime(tf.distribute.get_strategy(), False, "")
    model, optimizer = run.build_model(resolved, runtime)
    prober = probes.Prober(resolved, phases, probes.read_probes(resolved), model, optimizer, runtime)
    before = prober.run()
    scores = {name for name in before if not name.endswith("_random")}
    assert all(before[name] == before[f"{name}_random"] for name in scores)  # these are the weights of step 0
    rng = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign_add(rng.normal(0, 0.1, variable.shape))
    after = prober.run()
    assert any(after[name] != before[name] for name in scores)
    assert all(after[f"{name}_random"] == before[name] for name in scores)
    ids = np.array([[2, 9, 8, 7, 3, 0, 0, 0]] * 2, np.int32)
    inputs = {"input_word_ids": ids, "input_mask": (ids > 0).astype(np.int32), "input_type_ids": np.zeros_like(ids)}
    encoder = model.checkpoint_items["encoder"]
    outputs = [output.numpy()[0, :5].mean(axis=0) for output in encoder(inputs, training=False)["encoder_outputs"]]
    np.testing.assert_allclose(prober._pool(inputs)[0], np.concatenate(outputs), atol=1e-5)


def test_mistakes_are_told_before_anything_is_written(data_dir, files, tmp_path):
    for name, message in (
        (f"{tmp_path}/none.tsv", r"none\.tsv: no such file"),
        (
            f"{files[0]}:label=topic",
            r"no column topic; it has sentence, label: name one with --config\.eval\.probes=FILE",
        ),
    ):
        with pytest.raises(UserError, match=message):
            train(config_with(data_dir, (name,)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
