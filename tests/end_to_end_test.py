"""The whole road with the console commands: text, preparation, training stopped by SIGTERM, going on, evaluation."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import forking
from tests.conftest import MODERN, SEQ_LENGTH, VOCAB_SIZE, make_text
from tests.terminal import Terminal, screen, shows_cursor
from tests.training.loop_test import assert_same_run, weights_of

pytestmark = pytest.mark.slow

SMALL = [
    "--config=tiny",
    f"--config.data.max_seq_length={SEQ_LENGTH}",
    "--config.model.num_layers=1",
    "--config.model.embedding_size=16",
    "--config.model.hidden_size=16",
    "--config.model.intermediate_size=32",
    "--config.model.hidden_dropout=0.1",
    "--config.model.attention_dropout=0.1",
    "--config.train.num_steps=400",
    "--config.train.global_batch_size=8",
    "--config.train.steps_per_loop=4",
    "--config.train.log_interval=20",
    "--config.train.checkpoint_interval=100",
    "--config.eval.interval=200",
    "--config.eval.num_examples=16",
]


def command(module, *arguments):
    return [sys.executable, "-m", module, *map(str, arguments)]


def call(arguments, **options):
    return forking.run(arguments, capture_output=True, text=True, timeout=400, **options)


def run(module, *arguments):
    result = call(command(module, *arguments))
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("end_to_end")
    (root / "text").mkdir()
    for index in range(3):
        (root / "text" / f"{index}.txt").write_text(make_text(60, seed=index))
    result = run(
        "electra_cli.commands.prepare",
        f"--input={root / 'text'}",
        f"--output_dir={root / 'data'}",
        f"--learn_vocab={VOCAB_SIZE}",
        f"--max_seq_length={SEQ_LENGTH}",
        "--validation_fraction=0.15",
        "--num_workers=2",
    )
    assert "data of 180 documents" in result.stdout
    assert sorted(path.name for path in root.iterdir()) == ["data", "text"]
    return root


def pretrain(root, workdir, *more):
    flags = (*SMALL, f"--config.data.dir={root / 'data'}", f"--workdir={root / workdir}", *more)
    return command("electra_cli.main", *flags)


def stop_at(step, num_steps, arguments, **options):
    """Starts a run, sends it SIGTERM when it has logged a step, and returns the step at which it stopped."""
    process = forking.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    for line in process.stdout:
        if line.startswith(f"step {step}/{num_steps}"):
            process.send_signal(signal.SIGTERM)
            break
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 75, errors
    stopped = re.search(r"stopped by SIGTERM at step (\d+); saved", errors)
    assert stopped and step <= int(stopped[1]) < num_steps
    return int(stopped[1])


def test_stopped_by_sigterm_and_started_again_elsewhere_equals_never_stopped(prepared, tmp_path):
    """The run that is stopped is begun with relative paths and resumed from another directory."""
    whole = subprocess.run(pretrain(prepared, "whole"), capture_output=True, text=True, timeout=400)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert whole.stderr == ""
    assert "Held-out evaluation at step 400 on 16 examples" in whole.stdout

    begin = command("electra_cli.main", *SMALL, "--config.data.dir=data", "--workdir=run")
    stopped = stop_at(140, 400, begin, cwd=prepared)
    workdir = prepared / "run"
    assert json.loads((workdir / "config.json").read_text())["config"]["data"]["dir"] == "data"

    def elsewhere(module, *flags):
        return call(command(module, *flags), cwd=tmp_path)

    by_itself = elsewhere("electra_cli.main", f"--workdir={workdir}", "--config.train.checkpoint_interval=80")
    assert (by_itself.returncode, by_itself.stderr) == (0, "")
    assert f"Resuming from step {stopped}." in by_itself.stdout
    assert "Changed since the run began: train.checkpoint_interval: 100 -> 80" in by_itself.stdout
    table = whole.stdout[whole.stdout.index("Held-out evaluation") : whole.stdout.index("Trained to step")]
    assert table.strip() in by_itself.stdout
    assert_same_run(prepared / "whole", workdir)

    refused = elsewhere("electra_cli.main", f"--workdir={workdir}", "--config.train.num_steps=800")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "train.num_steps: 400 -> 800" in refused.stderr

    flags = ("--mode=eval", "--checkpoint=ckpt-320", "--config.eval.num_examples=8")
    evaluated = elsewhere("electra_cli.main", f"--workdir={workdir}", *flags)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "Held-out evaluation at step 320 on 8 examples" in evaluated.stdout

    reported = elsewhere("electra_cli.commands.report", str(workdir), "--format=text", "--samples=1")
    assert (reported.returncode, reported.stderr) == (0, "")
    assert "no samples" not in reported.stdout
    assert "✗ replaced, and taken for the original" in reported.stdout  # the legend of samples
    assert list(tmp_path.iterdir()) == []  # nothing was looked for, or written, here


def test_a_run_on_a_terminal_takes_less_than_a_screen_and_then_less(prepared):
    steps = ("--config.train.num_steps=40", "--config.eval.interval=20", "--config.train.checkpoint_interval=20")
    # No fork, in which TensorFlow starts before the panel is drawn.
    terminal = Terminal(pretrain(prepared, "shown", *steps), columns=80, rows=24, start=subprocess.Popen)
    assert terminal.end() == 0
    assert "starting TensorFlow, " in terminal.written and "building step 1; " in terminal.written
    assert "tokens/s  utilization " in terminal.written and "checkpoint  step 20 in shown, " in terminal.written
    shown = screen(terminal.written)
    assert len(shown) < 24 and shows_cursor(terminal.written)
    assert "Held-out evaluation at step 40 on 16 examples:" in shown
    assert any(line.startswith("Trained to step 40;") for line in shown[-3:])
    assert not any("━" in line or "─" in line for line in shown)

    result = call(pretrain(prepared, "shown", *steps, "--quiet"))
    assert (result.returncode, result.stderr) == (0, "")
    table = result.stdout.splitlines()  # without the note on the config, which the run began with
    assert "warmup_steps=200 is longer than the run of 40 steps" in " ".join(shown)
    assert table[0] == "Held-out evaluation at step 40 on 16 examples:" and len(table) == 12


@pytest.fixture(scope="module")
def single(prepared):
    """Flags of short runs, and one of them on one device that logs JSON: its workdir and what it logged."""
    flags = [
        *(f"--config.{key}={value}" for key, value in MODERN.items()),
        "--config.train.num_steps=20",
        "--config.train.checkpoint_interval=20",
        "--config.model.hidden_dropout=0.0",
        "--config.model.attention_dropout=0.0",
        "--config.eval.interval=0",
    ]
    workdir = prepared / "single"
    result = call(pretrain(prepared, workdir, *flags, "--log_format=json"))
    assert (result.returncode, result.stderr) == (0, "")
    return flags, workdir, result.stdout


def read_lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_json_tells_all_that_is_written(single):
    _, workdir, logged = single
    records = [json.loads(line) for line in logged.splitlines()]
    lines = read_lines(workdir)
    assert [line["split"] for line in lines] == ["train", "validation"]
    for line in lines:
        split = line.pop("split")
        (told,) = [record for record in records if record["event"] == split]
        assert {name: told[name] for name in line} == line
    assert [record["step"] for record in records if record["event"] == "checkpoint"] == [20]
    assert (records[-1]["event"], records[-1]["outcome"]) == ("end", "done")
    assert {"status", "notice", "warning", "progress", "evaluation"} < {record["event"] for record in records}


def test_two_replicas_in_two_parts_make_the_same_steps(prepared, single):
    """As whole steps compiled by XLA, and with probes."""
    flags, one, _ = single
    two = prepared / "replicated"
    words = [f"the {noun} {verb}.\t{verb}" for noun in ("cat", "dog", "farmer") for verb in ("sees", "likes")]
    (prepared / "words.tsv").write_text("\n".join(["sentence\tlabel", *words * 3]) + "\n")
    replicated = ["--config.runtime.logical_cpus=2", "--config.train.gradient_accumulation_steps=2",
                  "--config.runtime.jit_compile=true", f"--config.eval.probes={prepared / 'words.tsv'}",
                  "--config.eval.probe_interval=8"]  # fmt: skip
    result = call(pretrain(prepared, two, *flags, *replicated))
    assert (result.returncode, result.stderr) == (0, "")
    assert "2 logical CPUs, strategy mirrored (config.runtime.logical_cpus asks for several)" in result.stdout
    assert "step 20 probes  words accuracy" in result.stdout
    lines = read_lines(one), read_lines(two)
    assert [line["step"] for line in lines[1] if line["split"] == "probe"] == [8, 16, 20]
    lines = [[line for line in each if line["split"] != "probe"] for each in lines]
    assert [line["split"] for line in lines[0]] == ["train", "validation"]
    for first, second in zip(*lines, strict=True):
        for name in ("total_loss", "masked_lm_loss", "rtd_loss", "rtd_auc", "replaced_fraction"):
            assert second[name] == pytest.approx(first[name], rel=1e-5), name
    assert lines[1][0]["gradient_norm"] == pytest.approx(lines[0][0]["gradient_norm"], rel=1e-4)
    expected, found = weights_of(one), weights_of(two)
    names = [name for name in expected if name.startswith("model/")]
    assert len(names) > 12
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5, err_msg=name)


def test_a_checkpoint_that_is_not_there_is_told_in_one_line(prepared):
    flags = pretrain(prepared, "started", f"--checkpoint={prepared / 'nowhere'}")
    result = call(flags)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and "nowhere: no such checkpoint or directory; give a" in result.stderr
    assert not (prepared / "started" / "config.json").exists()


def test_batch_that_replicas_do_not_divide(prepared):
    flags = ["--config.runtime.logical_cpus=2", "--config.train.gradient_accumulation_steps=8"]
    result = call(pretrain(prepared, "three", *flags))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and "over 2 replicas, each in 8 parts" in result.stderr
    assert not (prepared / "three").exists()


def test_a_pipeline_stopped_by_sigterm_leaves_nothing(tmp_path):
    pytest.importorskip("apache_beam")
    (tmp_path / "text.txt").write_text("\n".join([make_text(1000)] * 60))
    flags = (
        f"--input={tmp_path / 'text.txt'}",
        f"--output_dir={tmp_path / 'data'}",
        "--learn_vocab=160",
        "--num_workers=1",
        "--runner=beam",
    )
    process = forking.Popen(command("electra_cli.commands.prepare", *flags), stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("running the pipeline"):
            break
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 75
    assert errors.count("\n") == 1
    assert errors.endswith("stopped by SIGTERM; nothing was written, the same command starts again\n")
    assert os.listdir(tmp_path) == ["text.txt"]


def test_a_preparation_stopped_by_sigterm_goes_on(tmp_path):
    text = make_text(1000)
    (tmp_path / "text.txt").write_text("\n".join([text] * 60))
    flags = (
        f"--input={tmp_path / 'text.txt'}",
        f"--output_dir={tmp_path / 'data'}",
        "--learn_vocab=160",
        "--num_workers=2",
    )
    process = forking.Popen(command("electra_cli.commands.prepare", *flags), stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("tokenizing"):
            break
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert errors.splitlines()[-1].endswith("stopped by SIGTERM; the same command resumes where it ended")
    assert "Traceback" not in errors
    assert sorted(os.listdir(tmp_path)) == ["data.partial", "text.txt"]
    again = call(command("electra_cli.commands.prepare", *flags), check=True)
    assert "resuming" in again.stderr
    assert sorted(os.listdir(tmp_path)) == ["data", "text.txt"]
