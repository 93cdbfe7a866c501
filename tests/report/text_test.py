import json

import pytest

from electra_cli.report.records import RunSamples, read_runs
from electra_cli.report.text import to_text
from tests.report.common import write_workdir
from tests.report.page_test import SAMPLES


def test_a_run(tmp_path):
    runs = read_runs([str(write_workdir(tmp_path / "run"))])
    lines = to_text(runs, [SAMPLES], is_terminal=False).splitlines()
    assert lines[0] == "run: complete, step 40 of 40"
    (head,) = (line for line in lines if line.startswith("metric "))
    assert head.split() == ["metric", "training", "last", "held", "out", "baseline"]
    rows = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert rows["masked_lm_loss"] == ["masked_lm_loss", "█▃▂▁", "7.5", "7.75", "6.5"]
    assert rows["rtd_auc"] == ["rtd_auc", "█▃▂▁", "0.625", "0.6275", "0.5"]
    assert rows["tokens_per_second"] == ["tokens_per_second", "▄▄▄▄", "50,000"]
    assert rows["probe/trec/accuracy"] == ["probe/trec/accuracy", "▁█", "0.7", "0.3"]
    text = "\n".join(lines)
    assert "stopped by SIGTERM and saved" in text and "the last 6 of 7" in text
    assert "train.num_steps=40" in text
    assert "the ch→<b>(0.25)✓ ef! ate→ran(0.12)✗ soup=" in text
    assert len(lines) < 60 and max(map(len, lines)) <= 100
    assert "\x1b" not in text


def test_several_runs(tmp_path):
    overrides = {"objective.name": "mlm"}
    paths = [write_workdir(tmp_path / "a"), write_workdir(tmp_path / "b", overrides=overrides)]
    text = to_text(read_runs([str(path) for path in paths]), [RunSamples()] * 2, is_terminal=False)
    assert text.count("masked_lm_loss ") == 2
    (row,) = [line.split() for line in text.splitlines() if line.startswith("objective.name")]
    assert row == ["objective.name", '"electra"', '"mlm"']


def test_all_differences_are_shown_whole(tmp_path):
    paths, keys = [tmp_path / f"run_of_a_long_name_{number}" for number in range(6)], [f"key_{n}" for n in range(30)]
    for value, path in enumerate(paths):
        config_file = write_workdir(path) / "config.json"
        record = json.loads(config_file.read_text())
        record["config"]["train"].update(dict.fromkeys(keys, value))
        config_file.write_text(json.dumps(record))
    text = to_text(read_runs(list(map(str, paths))), [RunSamples()] * 6, is_terminal=False)
    table = text[text.index("30 keys differ between the runs") :]
    assert "…" not in table
    first_column = "".join(line.split(" ")[0] for line in table.splitlines())
    assert all(f"train.{key}" in first_column for key in keys)


@pytest.mark.parametrize("name", ["gradient_norm", "odd [metric]"])
def test_metrics_of_one_value(tmp_path, name):
    lines = [{"step": 10, "split": "train", name: 12345.678}]
    text = to_text(read_runs([str(write_workdir(tmp_path / "run", lines=lines))]), [RunSamples()], is_terminal=False)
    assert any(name in line and "12,346" in line for line in text.splitlines())
