"""Scores of texts by Electric: from Python, and as `--mode=score` prints them."""

import json
import math
import sys

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import ndtr

from electra_cli import api
from electra_cli.errors import UserError
from electra_cli.interop import exporting
from electra_cli.interop.model_card import run_card
from electra_cli.interop.runs import encode_texts
from tests import forking
from tests.interop.common import TOKENS, make_workdir

TEXTS = ["The quick fox jumps.", "two minute", "", "[MASK] lazy city", "of people " * 40, "it was"]
LONGEST = 40  # of the examples; the position table of `make_workdir` has 48 rows


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(
        tmp_path_factory.mktemp("score") / "run", **{"objective.name": "electric", "data.max_seq_length": LONGEST}
    )


@pytest.fixture(scope="module")
def electra(workdir):
    return api.load(str(workdir))


def energies_by_hand(electra, text):
    """Returns the energies of a text's words, of it alone."""
    inputs = encode_texts(electra.run.tokenizer, [text], LONGEST)
    model = electra.run.model
    state = model.discriminator_network(inputs)["sequence_output"].numpy()[0].astype(np.float64)
    projection, head = (layer.get_weights() for layer in (model.discriminator_projection, model.discriminator_head))
    hidden = state @ projection[0] + projection[1]
    energies = (hidden * ndtr(hidden)) @ head[0][:, 0] + head[1]
    tokens = [TOKENS[index] for index in inputs["input_word_ids"][0]]
    return [energy for energy, token in zip(energies, tokens, strict=True) if token not in ("[CLS]", "[SEP]", "[MASK]")]


def test_scores_are_sums_of_energies_whatever_the_batch(electra):
    expected = [energies_by_hand(electra, text) for text in TEXTS]
    for batch_size in (1, 4, 32):
        scores = electra.score(TEXTS, batch_size=batch_size)
        np.testing.assert_allclose([score.log_likelihood for score in scores], [-sum(e) for e in expected], atol=1e-3)
        assert [score.num_tokens for score in scores] == [len(energies) for energies in expected]
        assert [score.is_cut for score in scores] == [False] * 4 + [True, False]
    assert scores[4].num_tokens == LONGEST - 2 and scores[2] == api.Score(0.0, 0, False)
    assert math.copysign(1.0, scores[2].log_likelihood) == 1.0  # not printed as -0
    # A text that just fits is not cut.
    fits, longer = electra.score(["it " * (LONGEST - 2), "it " * (LONGEST - 1)])
    assert (fits.is_cut, longer.is_cut) == (False, True)
    assert fits.log_likelihood == pytest.approx(longer.log_likelihood, rel=1e-6)
    assert electra._logits.experimental_get_tracing_count() < 20


def test_energies_are_not_taken_for_probabilities(electra, tmp_path):
    with pytest.raises(UserError, match="has energies, which are no probabilities: see `score`"):
        electra.detect_replaced_tokens(TEXTS)
    card = run_card(electra.run, "discriminator")
    assert "logits  # energies" in card and "was replaced" not in card and "gives the energy of every token" in card
    exporting.export_run(electra.run, "saved_model", "discriminator", str(tmp_path / "saved"), overwrite=False)
    outputs = tf.saved_model.load(str(tmp_path / "saved")).signatures["energies"](text=tf.constant(TEXTS[1:2]))
    found = outputs["energy"].numpy()[0, 1:-1]
    np.testing.assert_allclose(found, energies_by_hand(electra, TEXTS[1]), atol=1e-4)
    with pytest.raises(UserError, match="has no generator; give --network=discriminator"):
        exporting.export_run(electra.run, "tfm", "generator", str(tmp_path / "tfm"), overwrite=False)


def test_other_objectives_have_no_scores(tmp_path):
    other = api.load(str(make_workdir(tmp_path / "run")))
    with pytest.raises(UserError, match=r"run is of config\.objective\.name=electra, which scores no texts"):
        other.score(TEXTS)


def call(*flags, **options):
    command = [sys.executable, "-m", "electra_cli.main", "--mode=score", *map(str, flags)]
    return forking.run(command, capture_output=True, text=True, timeout=300, **options)


@pytest.mark.slow
def test_the_command_prints_a_line_for_each(electra, workdir, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join([*TEXTS, "", ""]))  # a line each, also for a blank one at the end
    expected = electra.score(TEXTS)
    lines = [
        f"{score.log_likelihood:.4f}\t{score.num_tokens}" + ("\tcut" if score.is_cut else "") for score in expected
    ]
    lines.append("0.0000\t0")
    result = call(f"--workdir={workdir}", f"--input={file}")
    assert (result.returncode, result.stdout.splitlines()) == (0, lines), result.stderr
    with open(file) as stream:
        result = call(f"--workdir={workdir}", "--input=-", "--checkpoint=ckpt-7", "--log_format=json", stdin=stream)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["score"] * 7 + ["end"]
    last = {"line": 6, "log_likelihood": expected[5].log_likelihood, "num_tokens": 2, "is_cut": False}
    assert {name: value for name, value in events[5].items() if name not in ("time", "event")} == last


def test_mistakes_are_reported_before_tensorflow_is_imported(workdir, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    record = json.loads((workdir / "config.json").read_text())
    record["config"]["objective"]["name"] = "electra"
    (other / "config.json").write_text(json.dumps(record))
    (tmp_path / "bad.txt").write_bytes(b"good\nb\xe4d\n")
    (tmp_path / "good.txt").write_text("good\n")
    named, good = f"--workdir={workdir}", f"--input={tmp_path}/good.txt"
    for flags, message in (
        ([], "--workdir is missing: give the directory of the run"),
        ([named], "--input is missing: give a file of texts, one a line"),
        ([named, f"--input={tmp_path}/bad.txt"], "bad.txt:2: byte 0xe4 is not UTF-8: convert the file"),
        ([named, f"--input={tmp_path}/none.txt"], "none.txt: no such file"),
        ([f"--workdir={other}", good], "other is of config.objective.name=electra, which scores no texts: give a run"),
        ([named, good, "--config=tiny"], "--config is not read by --mode=score: leave it out"),
        ([named, good, "--config.train.seed=3"], "--config.train.seed=3 is not read by --mode=score: leave it out"),
        ([named, good, "--dry_run"], "--dry_run is not read by --mode=score: leave it out"),
        ([named, good, "--mode=eval"], "--input is read by --mode=score only: leave it out"),
    ):
        result = call(*flags)
        assert (result.returncode, result.stdout) == (2, ""), result.stderr
        assert message in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
