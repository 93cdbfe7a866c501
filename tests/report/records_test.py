import json

import numpy as np
import pytest

from electra_cli.errors import UserError
from electra_cli.report.records import read_runs
from tests.report.common import write_workdir


def read(path):
    return read_runs([str(path)])[0]


def test_a_workdir_is_read(tmp_path):
    run = read(write_workdir(tmp_path / "run"))
    assert (run.name, run.last_step, run.num_steps, run.devices, run.notes) == ("run", 40, 40, "2 GPUs", [])
    steps, values = run.series("train", "total_loss")
    assert steps.tolist() == [10, 20, 30, 40]
    assert values.tolist() == [20.0 + 100 / step for step in (10, 20, 30, 40)]
    assert run.series("validation", "unigram_masked_lm_loss")[1].tolist() == [6.5, 6.5]
    assert run.series("train", "no_such_metric")[0].tolist() == []
    assert run.metric_names("probe") == ["probe/trec/accuracy", "probe/trec/accuracy_random"]


def test_real_tokens_are_added_up(tmp_path):
    run = read(write_workdir(tmp_path / "run"))
    assert run.counts_real_tokens
    assert run.tokens_at(np.array([0, 10, 15, 40])).tolist() == [0.0, 2000.0, 3000.0, 8000.0]


def test_runs_that_do_not_count_real_tokens_have_those_of_their_phases_with_padding(tmp_path):
    lines = [{"step": step, "split": "train", "total_loss": 1.0} for step in (10, 40)]
    run = read(write_workdir(tmp_path / "run", lines=lines))
    assert not run.counts_real_tokens
    assert run.tokens_at(np.array([40])).tolist() == [40 * 8 * 32]
    phases = {"phases.num_steps": (30, 10), "phases.max_seq_length": (16, 32)}
    run = read(write_workdir(tmp_path / "phases", lines=lines, overrides=phases))
    assert run.phase_ends() == [30]
    assert run.tokens_at(np.array([30, 35, 40])).tolist() == [30 * 8 * 16, 30 * 8 * 16 + 5 * 256, 30 * 128 + 10 * 256]


@pytest.mark.parametrize(
    ("events", "num_steps", "status"),
    [
        ([], 60, "under way, or killed"),
        ([{"event": "stop", "step": 40, "reason": "SIGINT"}], 60, "stopped by SIGINT at step 40"),
        ([{"event": "error", "step": 44, "reason": "x"}], 60, "ended with an error at step 44"),
        ([{"event": "start", "step": 40}], 60, "under way, or killed"),
        ([], 40, "complete"),
    ],
)
def test_status(tmp_path, events, num_steps, status):
    path = write_workdir(tmp_path / "run", events=events, overrides={"train.num_steps": num_steps})
    assert read(path).status == status


def test_damage_is_noted_and_the_rest_is_read(tmp_path):
    path = write_workdir(tmp_path / "run")
    with open(path / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 50, "spl\n[1]\n')
        stream.write('{"step": "x", "split": "train"}\n{"step": 50, "split": "train", "a": []}\n')
        stream.write('{"step": 50, "split": "train", "total_loss": NaN}\n{"step": 60, "sp')
    (path / "config.json").write_text('{"config": {}}')
    with open(path / "events.jsonl", "a") as stream:
        stream.write("?\n")
    run = read(path)
    assert run.notes == [
        "2 lines are damaged in metrics.jsonl and left out, the first is line 9",
        "2 lines of metrics.jsonl are no metrics and are left out",
        "config.json is damaged (KeyError: 'train'): the config is not shown",
        "1 line is damaged in events.jsonl and left out, the first is line 8",
    ]
    assert run.last_step == 50 and run.series("train", "total_loss")[0].tolist() == [10, 20, 30, 40]
    (path / "config.json").unlink()
    assert "config.json is missing: the config is not shown" in read(path).notes


def test_a_line_written_twice_counts_once(tmp_path):
    line = {"step": 10, "split": "validation", "rtd_auc": 0.5}
    run = read(write_workdir(tmp_path / "run", lines=[line, {**line, "rtd_auc": 0.7}]))
    assert run.series("validation", "rtd_auc")[1].tolist() == [0.7]


def test_workdirs_that_will_not_do(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such directory; give the workdir"):
        read("nowhere")
    with pytest.raises(UserError, match=r"holds no metrics\.jsonl: it is no workdir of electra-pretrain, or a new one"):
        read(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "spl')
    with pytest.raises(UserError, match=r"holds no metrics yet: the first line comes after config\.train"):
        read(tmp_path)
    run = str(write_workdir(tmp_path / "run"))
    with pytest.raises(UserError, match="run is given twice"):
        read_runs([run, f"{run}/"])


def test_names_tell_runs_apart(tmp_path):
    paths = [write_workdir(tmp_path / name / "run") for name in ("a", "b")]
    assert [run.name for run in read_runs([str(path) for path in paths])] == ["a/run", "b/run"]
    assert [run.name for run in read_runs([str(paths[0]), str(write_workdir(tmp_path / "c"))])] == ["run", "c"]


def test_lines_of_a_million_steps_are_read_in_order(tmp_path):
    lines = [{"step": step, "split": "train", "total_loss": 1.0} for step in range(1_000_000, 0, -100)]
    run = read(write_workdir(tmp_path / "run", lines=lines))
    assert run.series("train", "total_loss")[0].tolist() == list(range(100, 1_000_001, 100))
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1_000_000
