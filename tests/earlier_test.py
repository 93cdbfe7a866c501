"""What earlier versions wrote keeps working: data, runs, fine-tunings, exports, imports, config files (`earlier/`)."""

import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from electra_cli.api import load
from electra_cli.config.finetuning import default_config
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.data.input_pipeline import training_batches
from electra_cli.data.source import read_run
from electra_cli.errors import UserError
from electra_cli.finetuning.finetune import finetune
from electra_cli.finetuning.model import load_fine_tuned
from electra_cli.interop.exporting import export_run
from electra_cli.interop.runs import load_run
from electra_cli.loggers.lines import Lines
from electra_cli.report.report import write_report
from electra_cli.training import initialization, loop
from electra_cli.training.distribution import build_runtime
from electra_cli.workdir.run_files import read_record
from tests import forking
from tests.conftest import small_config
from tests.finetuning import synthetic
from tests.graphs import without_graphs

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
    with without_graphs():
        loop.train(settings_of("run"), str(tmp_path / "run"), with_evaluation=True, logger=Lines(notices.append))
    assert any("step 4" in line for line in notices)
    assert any(line.startswith("Changed since the run began: dropout: its masks follow") for line in notices)
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


def with_size(workdir: pathlib.Path, section: str, name: str, value: int) -> str:
    """Changes a size in the record of a copied run."""
    record = json.loads((workdir / "config.json").read_text())
    (record["config"][section] if section in record.get("config", {}) else record[section])[name] = value
    (workdir / "config.json").write_text(json.dumps(record))
    return str(workdir)


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("electra_cli.main", ["--workdir={run}", "--mode=train"]),
        ("electra_cli.main", ["--workdir={run}", "--dry_run"]),
        ("electra_cli.main", ["--workdir={run}", "--mode=eval"]),
        (
            "electra_cli.main",
            ["--config=tiny", "--config.data.dir={data}", "--workdir={new}", "--config.{key}={value}"],
        ),
        ("electra_cli.commands.plan", ["--config=tiny", "--config.{key}={value}"]),
        ("electra_cli.commands.export_checkpoint", ["--workdir={run}", "--format=huggingface", "--output_dir={new}"]),
        (
            "electra_cli.commands.import_checkpoint",
            ["--source={run}", "--format=electra_pretrain", "--output_dir={new}"],
        ),
        ("electra_cli.commands.finetune", ["--config={tuning}", "--init={run}", "--workdir={new}"]),
    ],
    ids=lambda value: None if isinstance(value, str) else value[-1] if "--mode" in value[-1] else value[0],
)
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.hidden_size", 10**9, "config.model.hidden_size=1000000000: must be 65,536 at most"),
        ("train.global_batch_size", 10**8, "config.train.global_batch_size=100000000: must be 1,048,576 at most"),
        ("model.num_layers", 10**8, "config.model.num_layers=100000000: must be 1,000 at most"),
    ],
)
def test_runs_with_sizes_of_no_machine(tmp_path, command, flags, key, value, message):
    shutil.copytree(EARLIER / "whole", tmp_path / "run")
    with_size(tmp_path / "run", *key.split("."), value)
    names = {"run": tmp_path / "run", "new": tmp_path / "new", "data": EARLIER / "data", "key": key, "value": value}
    flags = [flag.format(**names, tuning=EARLIER / "finetune_config.py") for flag in flags]
    result = forking.run([sys.executable, "-m", command, *flags], capture_output=True, text=True, cwd=EARLIER)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert message in result.stderr
    assert not (tmp_path / "new").exists()


def test_a_report_of_such_a_run_is_one_without_samples(tmp_path):
    shutil.copytree(EARLIER / "whole", tmp_path / "run")
    run = with_size(tmp_path / "run", "model", "hidden_size", 2**16)
    command = [sys.executable, "-m", "electra_cli.commands.report", run, "--format=text"]
    result = forking.run(command, capture_output=True, text=True, cwd=EARLIER)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"{run}: no samples: config.model: a network of hidden_size=65536, num_layers=2, " in result.stdout


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("sizes", "hidden_size", 10**9, "damaged (hidden_size=1000000000: must be 65,536 at most)"),
        ("sizes", "vocab_size", "160", "is damaged ("),
        ("sizes", "num_layers", 2.0, "damaged (num_layers=2.0: must be a whole number)"),
        (
            "finetuning",
            "train",
            {"global_batch_size": 10**9},
            "/finetuned: config.train.global_batch_size=1000000000: must be 1,048,576 at most",
        ),
    ],
)
def test_fine_tunings_with_sizes_of_no_machine(tmp_path, section, name, value, message):
    shutil.copytree(EARLIER / "finetuned_whole", tmp_path / "finetuned")
    workdir = with_size(tmp_path / "finetuned", section, name, value)
    with pytest.raises(UserError) as error:
        load_fine_tuned(workdir)
    assert message in str(error.value)


@pytest.fixture
def pruned(tmp_path, monkeypatch):
    """A workdir with two checkpoints, and a function that lets them be removed once one was chosen and is read."""
    shutil.copytree(EARLIER / "whole", tmp_path / "run")
    shutil.copytree(EARLIER / "run/checkpoints", tmp_path / "run/checkpoints", dirs_exist_ok=True)
    monkeypatch.chdir(EARLIER)
    choose = initialization.find_checkpoint

    def remove(*steps):
        def choose_and_remove(path, warn):
            chosen = choose(path, warn)
            for step in steps:
                for file in (tmp_path / "run/checkpoints").glob(f"ckpt-{step}.*"):
                    file.unlink()
            return chosen

        monkeypatch.setattr(initialization, "find_checkpoint", choose_and_remove)
        return str(tmp_path / "run")

    return remove


def test_an_export_of_a_checkpoint_that_its_run_removes_is_of_the_next(pruned, tmp_path):
    notices = []
    run = load_run(pruned(8), notice=notices.append)
    assert (run.step, run.checkpoint) == (4, str(tmp_path / "run/checkpoints/ckpt-4"))
    output = str(tmp_path / "exported")
    export_run(run, "huggingface", "discriminator", output, overwrite=False, notice=notices.append)
    written = load_file(str(tmp_path / "exported/model.safetensors"))
    expected = load_run(str(EARLIER / "run")).network("discriminator").weights["embeddings/word_embeddings"]
    np.testing.assert_array_equal(written["electra.embeddings.word_embeddings.weight"], expected)
    assert not any("damaged" in notice for notice in notices)


def test_a_report_while_its_run_removes_checkpoints_is_written(pruned):
    notices = []
    message = write_report([pruned(8)], num_samples=1, logger=Lines(notices.append))
    assert message.startswith("Written: ") and not any("no samples" in notice for notice in notices)
    workdir = pruned(4)
    write_report([workdir], num_samples=1, logger=Lines(notices.append))
    assert any(f"{workdir}: no samples: " in notice and "holds no checkpoint" in notice for notice in notices)
    page = (pathlib.Path(workdir) / "report.html").read_text()
    assert "holds no checkpoint" in page and "</html>" in page
