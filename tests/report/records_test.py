import json
import shutil

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from electra_cli.errors import UserError
from electra_cli.report.records import RunSamples, read_runs
from electra_cli.report.text import to_text
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
        ([{"event": "stop", "step": 40, "reason": "SIGINT"}], 40, "complete"),  # evaluated since then
    ],
)
def test_status(tmp_path, events, num_steps, status):
    path = write_workdir(tmp_path / "run", events=events, overrides={"train.num_steps": num_steps})
    assert read(path).status == status


def test_a_run_that_lacks_its_last_evaluation_is_not_complete(tmp_path):
    lines = [{"step": step, "split": "train", "total_loss": 1.0} for step in (20, 40)]
    events = [{"event": "stop", "step": 40, "reason": "SIGTERM"}]
    path = write_workdir(tmp_path / "run", lines=lines, events=events)
    assert read(path).status == "stopped by SIGTERM after the last step, before its evaluation"


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


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([10**400, 2**63, -1, 1e30, 1e308, -1e308])
    | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=2) | st.dictionaries(st.text(max_size=5), children, max_size=2),
    max_leaves=4,
)  # fmt: skip
KEYS = ("step", "split", "event", "time", "lost_step", "restored_step", "replicas", "total_loss", "median", "reason",
        "rtd_auc", "masked_lm_loss", "real_tokens", "skipped_updates", "loss_scale", "phase", "a$b_$")  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
@given(st.data())
def test_any_values_in_a_workdir_are_shown_or_noted(tmp_path_factory, data):
    base, sound = (tmp_path_factory.getbasetemp() / name for name in ("fuzzed_report", "sound_report"))
    if not base.exists():
        write_workdir(base)
        shutil.copytree(base, sound)
    for name in ("metrics.jsonl", "events.jsonl"):
        good = [json.loads(line) for line in (sound / name).read_text().splitlines()]
        changes = st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3)
        changed = {**data.draw(st.sampled_from(good)), **data.draw(changes)}
        (base / name).write_text("".join(json.dumps(line) + "\n" for line in [*good, changed]))
    record = json.loads((sound / "config.json").read_text())
    section = data.draw(st.sampled_from(["train", "data", "model", "objective", "phases", "derived", "optimizer"]))
    name = data.draw(st.sampled_from([*record["config"][section]]))
    if data.draw(st.booleans()):
        record["config"][section][name] = data.draw(VALUES)
    else:
        record["config"][section] = data.draw(VALUES)
    (base / "config.json").write_text(json.dumps(record))
    run = read(base)
    assert len(run.lines["train"]) >= 3 and run.last_step >= 30
    assert to_text([run], [RunSamples()], is_terminal=False).startswith("fuzzed_report: ")


@pytest.mark.parametrize(
    ("line", "is_kept"),
    [({"step": "abc"}, False), ({"step": 1e30}, False), ({"step": 10**30}, False), ({"step": True}, False),
     ({"total_loss": 10**400}, False), ({"total_loss": 1e308}, True), ({"total_loss": float("inf")}, True)],
)  # fmt: skip
def test_lines_with_numbers_that_are_none_are_noted(tmp_path, line, is_kept):
    line = {"step": 50, "split": "train", **line}
    path = write_workdir(tmp_path / "run", lines=[{"step": 10, "split": "train", "total_loss": 3.0}, line])
    run = read(path)
    assert [line["step"] for line in run.lines["train"]] == ([10, 50] if is_kept else [10])
    assert any("1 lines of metrics.jsonl are no metrics" in note for note in run.notes) == (not is_kept)
    assert run.series("train", "total_loss")[1].tolist() == [3.0]


@pytest.mark.parametrize("event", [{"step": "abc"}, {"step": 1e30}, {"total_loss": "x"}, {"replicas": 3}])
def test_events_that_are_none_are_noted(tmp_path, event):
    path = write_workdir(
        tmp_path / "run", events=[{"event": "rollback", "step": 5, **event}, {"event": "end", "step": 40}]
    )
    run = read(path)
    assert [event["event"] for event in run.events] == ["end"]
    assert "1 lines of events.jsonl are no events and are left out" in run.notes
