import json

import numpy as np
import pytest

from electra_cli.config import default_config
from electra_cli.config.resolution import resolve
from electra_cli.report.content import (
    GROUPS,
    Difference,
    Mark,
    baseline_of,
    between_runs,
    closest_preset,
    describe_model,
    differences,
    history_of,
    marks_of,
    other_metrics,
)
from electra_cli.report.plots import spread, thin
from electra_cli.report.records import read_runs
from electra_cli.report.text import spark
from tests.config.resolution_test import preset
from tests.report.common import electra_line, write_workdir

METRICS = {metric.name: metric for group in GROUPS.values() for metric in group}


def test_thinning_keeps_ends_and_extremes():
    values = np.random.default_rng(0).normal(size=10_000)
    values[1234], values[8765] = 50.0, -50.0
    kept = thin(values, 400)
    assert len(kept) <= 400 and kept[0] == 0 and kept[-1] == 9_999
    assert {1234, 8765} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all() and np.diff(kept).max() < 150
    assert thin(values[:400], 400).tolist() == list(range(400))
    assert thin(values[:0], 400).tolist() == []


def test_rows_at_even_distances():
    assert spread(5, 40) == [0, 1, 2, 3, 4]
    assert spread(101, 5) == [0, 25, 50, 75, 100]
    assert spread(0, 5) == []


def test_sparks():
    assert spark([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 20) == "▁▂▃▄▅▆▇█"
    assert spark([0.0, 0.0, 7.0, 7.0], 2) == "▁█"
    assert spark([3.0], 5) == "▄" and spark([], 5) == ""


def test_baselines(tmp_path):
    (run,) = read_runs([str(write_workdir(tmp_path / "run"))])
    assert baseline_of(run, METRICS["masked_lm_loss"])[1].tolist() == [6.5, 6.5]
    assert [column.tolist() for column in baseline_of(run, METRICS["rtd_auc"])] == [[10, 40], [0.5, 0.5]]
    assert baseline_of(run, METRICS["rtd_accuracy"])[1].tolist() == [0.87, 0.87]
    assert not len(baseline_of(run, METRICS["total_loss"])[0])


def test_metrics_that_no_group_names_are_not_lost(tmp_path):
    lines = [{"step": 1, "split": "train", "total_loss": 1.0, "new_metric": 2.0, "real_tokens": 5.0, "phase": 1}]
    runs = read_runs([str(write_workdir(tmp_path / "run", lines=lines))])
    assert [metric.name for metric in other_metrics(runs)] == ["new_metric"]


def read(path):
    return read_runs([str(path)])[0]


def test_marks(tmp_path):
    run = read(write_workdir(tmp_path / "run", overrides={"phases.num_steps": (35, 5)}))
    assert marks_of(run) == [
        Mark(7, "skipped"),
        Mark(15, "resume"),  # the stop before it is not marked apart
        Mark(20, "resume"),
        Mark(30, "rollback"),
        Mark(35, "phase"),
    ]


def test_the_last_stop_is_marked(tmp_path):
    events = [{"event": "start", "step": 0}, {"event": "stop", "step": 40, "reason": "SIGTERM"}]
    assert marks_of(read(write_workdir(tmp_path / "run", events=events))) == [Mark(40, "stop")]
    ended = [*events, {"event": "end", "step": 40}]  # in the last evaluation, which was made then
    assert marks_of(read(write_workdir(tmp_path / "ended", events=ended))) == []
    events = [{"event": "start", "step": 0}, {"event": "error", "step": 40, "reason": "no room"}]
    assert marks_of(read(write_workdir(tmp_path / "failed", events=events))) == [Mark(40, "error")]


def test_updates_that_loss_scaling_left_out_are_marked_and_counted(tmp_path):
    lines = [
        {"step": step, "split": "train", **electra_line(step, 1.0), "skipped_updates": float(step == 20) * 3}
        for step in (10, 20, 30)
    ]
    with_events = read(write_workdir(tmp_path / "told", lines=lines))
    assert Mark(20, "skipped") not in marks_of(with_events)  # the event tells the very step
    run = read(write_workdir(tmp_path / "run", lines=[{**line, "loss_scale": 4.0} for line in lines], events=[]))
    assert marks_of(run) == [Mark(20, "skipped")]
    (row,) = history_of(run)
    assert row.step == 20 and row.text.startswith("3 updates up to here left out")


def test_history_in_words(tmp_path):
    rows = history_of(read(write_workdir(tmp_path / "run")))
    assert [row.text for row in rows] == [
        "begins on 2 GPUs",
        "loss or gradient of replica 1 infinite or NaN: the update is left out",
        "stopped by SIGTERM and saved",
        "resumes from step 15 on 2 GPUs",
        "rolled back to step 20: total_loss 81.000 against a median of 25.500",
        "resumes from step 20 on 2 GPUs, after it was killed; steps to 30 are computed again",
        "all steps are done",
    ]
    assert (rows[2].time, rows[2].step, rows[2].sign) == ("2026-01-02 03:04:02", 15, "■")


def test_events_of_later_versions_are_shown_by_name(tmp_path):
    run = read(write_workdir(tmp_path / "run", events=[{"event": "migrated", "step": 3}]))
    assert history_of(run)[0].text == "migrated" and marks_of(run) == []


def test_the_closest_preset_and_what_differs():
    config = preset("tiny")
    config.data.dir, config.train.num_steps, config.eval.num_examples = "somewhere", 77, 99
    expected = [Difference("eval.num_examples", ("512", "99")), Difference("train.num_steps", ("1200", "77"))]
    assert closest_preset(resolve(config, 100).to_dict()) == ("tiny", expected)
    assert closest_preset(preset("base").to_dict()) == ("base", [])


def test_a_key_that_is_newer_than_the_run_had_its_default():
    config = preset("tiny").to_dict()
    del config["eval"]["num_samples"]
    assert closest_preset(config) == ("tiny", [])


def test_tuples_and_lists_are_the_same():
    first, second = default_config().to_dict(), default_config().to_dict()
    first["phases"]["num_steps"], second["phases"]["num_steps"] = (1, 2), [1, 2]
    second["old_section"] = {"old_key": 1}
    assert differences([first, second]) == [Difference("old_section.old_key", ("unset", "1"))]


def test_between_runs(tmp_path):
    paths = [
        write_workdir(tmp_path / "a"),
        write_workdir(tmp_path / "b", overrides={"objective.name": "mlm"}),
        write_workdir(tmp_path / "c"),
    ]
    (paths[2] / "config.json").unlink()
    runs = read_runs([str(path) for path in paths])
    assert between_runs(runs) == [Difference("objective.name", ('"electra"', '"mlm"', "?"))]
    assert between_runs(runs[:1]) == []


def test_paths_of_runs_are_compared_from_where_they_began(tmp_path):
    paths = []
    for name, directory, begun in (("a", "data", "/x"), ("b", "/x/data", "/y"), ("c", "../x/data", "/y")):
        path = write_workdir(tmp_path / name, overrides={"data.dir": directory})
        record = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**record, "directory": begun}))
        paths.append(str(path))
    assert between_runs(read_runs(paths)) == []
    (tmp_path / "c" / "config.json").write_text(json.dumps(record))  # as of earlier versions
    assert [row.key for row in between_runs(read_runs(paths))] == ["data.dir"]


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({}, "discriminator 12 layers of 256, generator 12 layers of 64"),
        (
            {"model.num_layers": 1, "model.generator_size": 0.5},
            "discriminator 1 layer of 256, generator 1 layer of 128",
        ),
        (
            {"objective.name": "electric", "model.generator_num_layers": 1},
            "Electric, 12 layers of 256, 2 towers, each 1 layer of 64",
        ),
        ({"objective.name": "mlm"}, "masked language modeling, 12 layers of 256"),
        ({"objective.tied_generator": True}, "one network for both, 12 layers of 256"),
        ({"objective.uniform_generator": True}, "discriminator 12 layers of 256, no generator"),
    ],
)
def test_the_model_in_a_line(overrides, text):
    config = default_config()
    config.update_from_flattened_dict({"data.dir": "data", **overrides})
    assert describe_model(resolve(config, 100).to_dict()) == text
