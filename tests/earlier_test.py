"""What earlier versions wrote keeps working: data, runs, fine-tunings, exports, imports, config files (`earlier/`)."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from electra_cli.api import load
from electra_cli.config.finetuning import default_config
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.data.input_pipeline import training_batches
from electra_cli.data.source import read_run
from electra_cli.finetuning.finetune import finetune
from electra_cli.loggers.lines import Lines
from electra_cli.training import loop
from electra_cli.training.distribution import build_runtime
from electra_cli.workdir.run_files import read_record
from tests.conftest import small_config
from tests.finetuning import synthetic

EARLIER = pathlib.Path(__file__).parent / "earlier"
TEXTS = ["the small cat sees the old dog.", "The river follows a song"]
# Measured in seconds, which no two machines share.
RATES = {"tokens_per_second", "model_flops_utilization", "input_wait_fraction"}


def lines_of(path: pathlib.Path) -> list[dict]:
    return [
        {name: value for name, value in json.loads(line).items() if name not in RATES}
        for line in path.read_text().splitlines()
    ]


def assert_same_lines(path: pathlib.Path, expected: pathlib.Path) -> None:
    """Other processors add in another order."""
    lines, expected_lines = lines_of(path), lines_of(expected)
    assert [list(line) for line in lines] == [list(line) for line in expected_lines]
    for line, expected_line in zip(lines, expected_lines, strict=True):
        assert line == {name: pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value
                        for name, value in expected_line.items()}  # fmt: skip


def settings_of(workdir: str):
    config = PRETRAINING.restore(read_record(str(EARLIER / workdir))["config"], workdir)
    config.data.dir = str(EARLIER / "data")
    return config


def test_batches_of_earlier_data_are_the_same():
    config = small_config(EARLIER / "data")
    phases = read_run(config).phases
    runtime = build_runtime(config.runtime, [(config.train.global_batch_size, 1)])
    batch = next(training_batches(phases[0], runtime.distribute, 3))
    expected = np.load(EARLIER / "expected.npz")
    for name, value in batch.items():
        np.testing.assert_array_equal(value.numpy(), expected[f"batch_{name}"])


def test_a_stopped_run_resumes_to_the_same_metrics(tmp_path):
    shutil.copytree(EARLIER / "run", tmp_path / "run")
    notices = []
    loop.train(settings_of("run"), str(tmp_path / "run"), with_evaluation=True, logger=Lines(notices.append))
    assert any("step 4" in line for line in notices)
    assert_same_lines(tmp_path / "run/metrics.jsonl", EARLIER / "whole/metrics.jsonl")


def test_a_stopped_fine_tuning_resumes_to_the_same_scores(tmp_path, monkeypatch):
    shutil.copytree(EARLIER / "finetuned", tmp_path / "finetuned")
    monkeypatch.chdir(EARLIER)
    record = json.loads((EARLIER / "finetuned/config.json").read_text())
    config = default_config()
    config.update(record["finetuning"])
    finetune(config, str(tmp_path / "finetuned"), synthetic.start_from("whole"), Lines(lambda _: None))
    assert_same_lines(tmp_path / "finetuned/seed-0/metrics.jsonl", EARLIER / "finetuned_whole/seed-0/metrics.jsonl")


def test_vectors_of_an_earlier_run_are_the_same():
    vectors = load(str(EARLIER / "whole")).encode(TEXTS)
    expected = np.load(EARLIER / "expected.npz")
    np.testing.assert_allclose(vectors.mean, expected["vectors"], atol=1e-5)
    np.testing.assert_allclose(vectors.first, expected["first"], atol=1e-5)
