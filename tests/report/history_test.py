from electra_cli.report.records import Mark, history_of, marks_of, read_runs
from tests.report.common import electra_line, write_workdir


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
        "goes on from step 15 on 2 GPUs",
        "rolled back to step 20: total_loss 81.000 beside a median of 25.500",
        "goes on from step 20 on 2 GPUs, after it was killed; steps to 30 are computed again",
        "all steps are done",
    ]
    assert (rows[2].time, rows[2].step, rows[2].sign) == ("2026-01-02 03:04:02", 15, "■")


def test_events_of_later_versions_are_shown_by_name(tmp_path):
    run = read(write_workdir(tmp_path / "run", events=[{"event": "migrated", "step": 3}]))
    assert history_of(run)[0].text == "migrated" and marks_of(run) == []
