"""The command line of electra-finetune, as far as it ends before TensorFlow is imported."""

import dataclasses
import importlib
import json
import subprocess
import sys

import pytest

from electra_cli.commands import finetune
from electra_cli.config.finetuning import default_config
from electra_cli.errors import UserError
from electra_cli.finetuning.examples import LabelMap
from electra_cli.objectives.costs import EncoderSizes
from tests.cli.app_test import assert_user_error, call

MODULE = "electra_cli.commands.finetune"
CONFIG = ["--config=classification", "--config.data.train=t.tsv"]


def test_help_does_not_import_tensorflow():
    shown = call(MODULE, "--help").stdout
    assert "Usage: " in shown and "Preset (classification, glue" in shown and "seeds = (0,)" in shown
    code = f"import sys, {MODULE}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_mistake_is_one_line_and_exit_code_2():
    assert_user_error(call(MODULE, *CONFIG, "--workdir=w"), "--init is missing: give a workdir of electra-pretrain")
    forgotten = "--config is missing, and --config.data.train needs one: give a preset or a file"
    assert_user_error(call(MODULE, "--config.data.train=t.tsv", "--workdir=w", "--init=r"), forgotten)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (CONFIG, "--workdir is missing"),
        (["--workdir=w", "--init=r"], "--config is missing: give a file or a preset (classification, glue"),
        ([*CONFIG, "--workdir=w", "--init=random"], "--init=random needs --like=DIR: a workdir or export"),
        ([*CONFIG, "--workdir=w", "--init=r", "--like=l"], "--like=l is read with --init=random only: leave it out"),
        ([*CONFIG, "--workdir=w", "--init=r", "--output=o"], "--output is read with --predict only"),
        ([*CONFIG, "--workdir=w", "--init=r", "--seed=1"], "--seed is read with --predict only"),
        (["--workdir=w", "--predict=f"], "--output is missing: give the file for the predictions"),
        (["--workdir=w", "--predict=f", "--output=o", "--init=r"], "--init is not read with --predict"),
        (["--workdir=w", "--predict=f", "--output=o", *CONFIG], "--config is not read with --predict"),
        (["--workdir=w", "--predict=f:txt=a", "--output=o"], "'txt=a' is none of what may follow a file, each once"),
        (
            ["--workdir=w", "--predict=f:format=xls", "--output=o"],
            "format must be one of tsv, csv, jsonl, conll, conllu, squad",
        ),
        (["--config=small", "--workdir=w"], "no such file and no preset of that name; presets: classification, glue"),
        ([*CONFIG, "--config.train.num_epoch=3"], "has no key 'num_epoch'; did you mean config.train.num_epochs?"),
        ([*CONFIG, "--config.train.num_epochs=x"], "config.train.num_epochs takes a whole number"),
        (["--config=classification", "--workdir=w", "--init=r"], "config.data.train='': give the file"),
        ([*CONFIG, "--config.train.seeds=(1,1)", "--workdir=w", "--init=r"], "a seed is there twice"),
    ],
)
def test_mistakes_in_the_command_line(arguments, message):
    command = importlib.reload(finetune)  # flags keep what they were given
    with pytest.raises(UserError) as error:
        command.CONFIG.parse(["electra-finetune", *arguments])
        command._main(command.FLAGS)
    assert message in str(error.value)


def call_without_tensorflow(*arguments):
    code = f"import sys, runpy; sys.modules['tensorflow'] = None; runpy.run_module('{MODULE}', run_name='__main__')"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("content", "arguments", "part"),
    [
        (None, [], "/train.tsv: no such file"),
        (b"", [], "/train.tsv is empty: give a file"),
        (b"\x7fELF\0\0", [], "/train.tsv:1: a zero byte: this is no text file"),
        (b"review\tlabel\na\t1\n", [], "/train.tsv: no column sentence or text"),
        (b"text\tlabel\na\t1\nb\n", [], "/train.tsv:3: 1 column, where the header has 2: fix the line"),
        (b"text\tlabel\na\tgood\n", ["--config.task=regression"], "/train.tsv:2: the label 'good' is no number"),
        (
            b"",
            ["--config=glue", "--config.task=rte", "--config.data.dir={there}"],
            "no RTE/train.tsv for --config.task=rte",
        ),
    ],
)
def test_mistakes_in_the_training_file_are_told_before_tensorflow_is_imported(tmp_path, content, arguments, part):
    if content is not None:
        (tmp_path / "train.tsv").write_bytes(content)
    is_glue = "--config=glue" in arguments
    flags = [] if is_glue else ["--config=classification", f"--config.data.train={tmp_path}/train.tsv"]
    flags += [argument.format(there=tmp_path / "nowhere") for argument in arguments]
    result = call_without_tensorflow(*flags, f"--init={tmp_path}", f"--workdir={tmp_path}/tuned")
    assert_user_error(result, part)


@pytest.fixture
def tuned(tmp_path):
    """What is read of a fine-tuned workdir before its model."""
    workdir = tmp_path / "tuned"
    (workdir / "seed-3").mkdir(parents=True)
    record = {
        "finetuning": default_config().to_dict(), "kind": "classification", "source": "run",
        "sizes": dataclasses.asdict(EncoderSizes(8, 8, 8, 8, 8, 8, 8, 8)), "initializer_range": 0.02, "length": 8,
        "has_pairs": False, "lower_case": True, "data_fingerprint": "",
    }  # fmt: skip
    (workdir / "config.json").write_text(json.dumps(record))
    (workdir / "seed-3/scores.json").write_text("{}")
    summary = {"primary_score": "accuracy", "seeds": [3], "splits": {}}
    (workdir / "scores.json").write_text(json.dumps(summary))
    LabelMap("classification", ("bad", "good")).save(str(workdir / "labels.json"))
    return workdir


@pytest.mark.parametrize(
    ("content", "arguments", "part"),
    [
        (None, [], "/new.tsv: no such file"),
        ("review\na\n", [], "no column sentence or text or "),
        (
            "text\tlabel\na\tfine\n",
            [],
            "/new.tsv:2: label 'fine' does not occur in the training data, which has",
        ),
        ("sentence1\tsentence2\na\tb\n", [], "was read as pairs, and "),
        ("text\na\n", ["--seed=7"], "holds no fine-tuning with seed 7 that is done: give one of 3, or none"),
        ("text\na\n", ["--output=/nowhere/out"], "--output=/nowhere/out: there is no directory /nowhere; make it"),
        (
            "text\na\n",
            ["--workdir=/nowhere"],
            "--workdir=/nowhere: no such directory; give the workdir of electra-",
        ),
    ],
)
def test_mistakes_in_predicting_are_told_before_tensorflow_is_imported(tmp_path, tuned, content, arguments, part):
    if content is not None:
        (tmp_path / "new.tsv").write_text(content)
    flags = [f"--workdir={tuned}", f"--predict={tmp_path}/new.tsv", f"--output={tmp_path}/out.jsonl", *arguments]
    assert_user_error(call_without_tensorflow(*flags), part)
