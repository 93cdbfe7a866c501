import numpy as np

from electra_cli.report.curves import GROUPS, baseline_of, other_metrics, spark, spread, thin
from electra_cli.report.records import read_runs
from tests.report.common import write_workdir

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
