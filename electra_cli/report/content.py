"""What both page and text show of runs: metrics with their baselines, history, settings. No TensorFlow here."""

import dataclasses
import json
import runpy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from electra_cli.config import default_config
from electra_cli.config.fields import flatten
from electra_cli.config.pretraining import PRETRAINING
from electra_cli.objectives.costs import OUTLINES
from electra_cli.report.records import Line, RunRecord, is_drawable


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric that is drawn."""

    name: str
    title: str
    unit: str = ""  # '': a fraction from 0 to 1
    is_wide: bool = False  # values span orders of magnitude: the axis may be logarithmic
    baseline: str = ""  # in words; '': none


GROUPS: dict[str, tuple[Metric, ...]] = {
    "Losses": (
        Metric("total_loss", "Total loss", "nats", True),
        Metric("masked_lm_loss", "Masked LM loss (generator)", "nats", True, "unigram distribution"),
        Metric("cloze_loss", "Cloze loss (generator)", "nats", True),
        Metric("rtd_loss", "RTD loss (discriminator)", "nats", True),
        Metric("selection_loss", "Selection loss (discriminator)", "nats", True),
    ),
    "Generator": (
        Metric("masked_lm_accuracy", "Best guess is the original"),
        Metric("sampled_masked_lm_accuracy", "Sampled token is the original"),
        Metric("replaced_fraction", "Tokens replaced"),
    ),
    "Discriminator": (
        Metric("rtd_auc", "Area under the ROC curve", baseline="chance"),
        Metric("rtd_accuracy", "Accuracy", baseline="calling every token original"),
        Metric("rtd_precision", "Precision"),
        Metric("rtd_recall", "Recall"),
        Metric("selection_accuracy", "Original selected among candidates"),
    ),
    "Optimization": (
        Metric("learning_rate", "Learning rate", "rate"),
        Metric("mask_prob", "Fraction of tokens that is masked"),
        Metric("sampling_temperature", "Sampling temperature", "temperature"),
        Metric("generator_loss_weight", "Weight of the generator's loss", "weight"),
        Metric("discriminator_loss_weight", "Weight of the discriminator's loss", "weight"),
        Metric("gradient_norm", "Gradient norm before clipping", "norm", True),
        Metric("loss_scale", "Loss scale", "factor", True),
        Metric("skipped_updates", "Updates left out", "updates a line"),
    ),
    "Speed": (
        Metric("tokens_per_second", "Throughput", "real tokens a second"),
        Metric("model_flops_utilization", "Model FLOPs utilization"),
        Metric("input_wait_fraction", "Time that steps wait for data"),
    ),
}
# Drawn with others, or not at all: counts, and the baseline of masked_lm_loss.
_NOT_DRAWN = ("real_tokens", "unigram_masked_lm_loss")


def other_metrics(runs: Iterable[RunRecord]) -> tuple[Metric, ...]:
    """Returns the metrics of training and held-out lines that no group has, as of other versions."""
    known = {metric.name for group in GROUPS.values() for metric in group} | set(_NOT_DRAWN)
    names = (name for run in runs for split in ("train", "validation") for name in run.metric_names(split))
    return tuple(Metric(name, name, "value") for name in dict.fromkeys(names) if name not in known)


def baseline_of(run: RunRecord, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps and values of a metric's baseline; empty when there is none."""
    if metric.name == "masked_lm_loss":
        return run.series("validation", "unigram_masked_lm_loss")
    if metric.name == "rtd_auc":
        steps = np.concatenate([run.series(split, "rtd_auc")[0] for split in ("train", "validation")])
        return (np.array([steps.min(), steps.max()]), np.array([0.5, 0.5])) if len(steps) else (steps, steps * 0.0)
    if metric.name == "rtd_accuracy":
        split = "validation" if run.lines["validation"] else "train"
        steps, replaced = run.series(split, "replaced_fraction")
        return steps, 1.0 - replaced
    return np.array([], np.int64), np.array([])


def coinciding(runs: Sequence[RunRecord], name: str, splits: Sequence[str]) -> list[list[str]]:
    """Returns groups, of two or more, of runs whose curves of a metric are equal, so that only the last is visible."""
    groups: dict[tuple[bytes, ...], list[str]] = {}
    for run in runs:
        series = [run.series(split, name) for split in splits]
        if any(len(values) for _, values in series):
            points = tuple(array.tobytes() for steps_and_values in series for array in steps_and_values)
            groups.setdefault(points, []).append(run.name)
    return [names for names in groups.values() if len(names) > 1]


# By kind: its sign, matplotlib's marker of the same shape, and its meaning.
KINDS = {
    "resume": ("▶", ">", "went on after a stop"),
    "stop": ("■", "s", "stopped"),
    "rollback": ("◀", "<", "rolled back"),
    "skipped": ("✕", "x", "step left out"),
    "error": ("◆", "D", "ended with an error"),
    "phase": ("┊", "|", "next phase begins"),
}


@dataclasses.dataclass(frozen=True)
class Mark:
    """A step to mark on the curves of a run, and why: a key of `KINDS`."""

    step: int
    kind: str


def marks_of(run: RunRecord) -> list[Mark]:
    """Returns the marks of a run; a stop after which it resumed has only the mark of that."""
    marks = [Mark(step, "phase") for step in run.phase_ends()]
    for index, event in enumerate(run.events):
        name, step = event["event"], event["step"]
        if name == "start" and (index > 0 or step > 0):
            marks.append(Mark(step, "resume"))
        elif name in ("stop", "error") and not {later["event"] for later in run.events[index + 1 :]} & {"start", "end"}:
            marks.append(Mark(step, name))
        elif name == "rollback":
            marks.append(Mark(step, "rollback"))
        elif name == "nonfinite":
            marks.append(Mark(step, "skipped"))
    marks += [Mark(line["step"], "skipped") for line in _lines_with_skipped(run)]
    # The same steps computed again are marked once.
    return sorted(dict.fromkeys(marks), key=lambda mark: mark.step)


@dataclasses.dataclass(frozen=True)
class HistoryRow:
    """A row of the history."""

    time: str  # 'YYYY-MM-DD HH:MM:SS', UTC; '' where unknown
    step: int
    sign: str  # of `KINDS`, or ''
    text: str


def history_of(run: RunRecord) -> list[HistoryRow]:
    """Returns what happened to a run, oldest first."""
    rows = []
    for index, event in enumerate(run.events):
        kind, text = _describe(event, run.events[index - 1] if index else None)
        time = str(event["time"])[:19].replace("T", " ")
        rows.append(HistoryRow(time, event["step"], KINDS[kind][0] if kind else "", text))
    skipped = _lines_with_skipped(run)
    if skipped:
        number = round(sum(line["skipped_updates"] for line in skipped))
        text = f"{number:,} updates up to here left out, their gradients not finite"
        rows.append(HistoryRow("", skipped[-1]["step"], KINDS["skipped"][0], text))
    return rows


def _lines_with_skipped(run: RunRecord) -> list[Line]:
    """Returns training lines with skipped updates that have no event: those of loss scaling."""
    return [
        line
        for line in run.lines["train"]
        if line.get("skipped_updates")
        and is_drawable(line["skipped_updates"])
        and ("loss_scale" in line or not run.events)
    ]


def _describe(event: dict[str, Any], before: dict[str, Any] | None) -> tuple[str, str]:
    name, step = event["event"], event["step"]
    if name == "start":
        lost = event.get("lost_step", 0)
        again = f"; steps to {lost:,} are computed again" if lost > step else ""
        devices = f" on {event['devices']}" if event.get("devices") else ""
        if before is None and step == 0:
            return "", f"begins{devices}"
        cause = "" if before is None or before["event"] in ("stop", "error", "end") else ", after it was killed"
        return "resume", f"resumes from step {step:,}{devices}{cause}{again}"
    if name == "stop":
        return "stop", f"stopped by {event.get('reason', 'a signal')} and saved"
    if name == "error":
        return "error", f"ends with an error: {event.get('reason', 'unknown')}"
    if name == "rollback":
        loss, median = event.get("total_loss"), event.get("median")
        why = "" if loss is None or median is None else f": total_loss {loss:.3f} against a median of {median:.3f}"
        return "rollback", f"rolled back to step {event.get('restored_step', 0):,}{why}"
    if name == "nonfinite":
        replicas = ", ".join(map(str, event.get("replicas", [])))
        return "skipped", f"loss or gradient of replica {replicas} infinite or NaN: the update is left out"
    return "", "all steps are done" if name == "end" else str(name)


# Where data is, not what the run is.
_LOCATIONS = ("data.dir", "phases.data_dir", "init.checkpoint", "init.generator", "init.vocab_file")


@dataclasses.dataclass(frozen=True)
class Difference:
    """A key whose values differ."""

    key: str
    values: tuple[str, ...]  # as JSON; 'unset' where the config's version has no such key


def differences(configs: Sequence[dict[str, Any]]) -> list[Difference]:
    """Returns the keys, without derived ones, that differ between nested configs."""
    # A key that came with a later version had, in effect, its default.
    flat = [{**flatten(default_config()), **flatten(config)} for config in configs]
    rows = []
    for key in sorted({key for values in flat for key in values if not key.startswith("derived.")}):
        texts = tuple(_as_json(values, key) for values in flat)
        if len(set(texts)) > 1:
            rows.append(Difference(key, texts))
    return rows


def closest_preset(config: dict[str, Any]) -> tuple[str, list[Difference]]:
    """Returns the preset closest to a config, and the differences (preset's value, run's value), without locations."""
    rows = {}
    for name in PRETRAINING.names():
        preset = runpy.run_path(PRETRAINING.path(name))["get_config"]().to_dict()
        rows[name] = [row for row in differences([preset, config]) if row.key not in _LOCATIONS]
    closest = min(rows, key=lambda name: len(rows[name]))
    return closest, rows[closest]


def between_runs(runs: Sequence[RunRecord]) -> list[Difference]:
    """Returns the keys that differ between runs; '?' for a run whose config cannot be read."""
    known = [run.config for run in runs if run.config is not None]
    rows = []
    for row in differences(known) if len(known) > 1 else []:
        values = iter(row.values)
        rows.append(Difference(row.key, tuple("?" if run.config is None else next(values) for run in runs)))
    return rows


def all_settings(config: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns all keys with their values as JSON."""
    flat = flatten(config)
    return [(key, _as_json(flat, key)) for key in sorted(flat)]


def describe_model(config: dict[str, Any]) -> str:
    """Returns the objective and the sizes of a nested resolved config, in a line."""
    model, objective, derived = config["model"], config["objective"], config.get("derived", {})
    sizes = _layers(model.get("num_layers"), model.get("hidden_size"))
    if model.get("architecture", "electra") != "electra":  # a key that records of earlier versions lack
        sizes += f" ({model['architecture']})"
    outline = OUTLINES[objective["name"]]
    if not outline.has_generator:
        return f"{outline.title}, {sizes}"
    if objective.get("uniform_generator"):
        return f"discriminator {sizes}, no generator"
    if objective.get("tied_generator"):
        return f"one network for both, {sizes}"
    generator = _layers(derived.get("generator_num_layers"), derived.get("generator_hidden_size"))
    if outline.num_towers > 1:
        return f"{outline.title}, {sizes}, {outline.num_towers} towers, each {generator}"
    title = "" if objective["name"] == "electra" else f"{outline.title}, "
    frozen = ", frozen" if objective.get("frozen_generator") else ""
    return f"{title}discriminator {sizes}, generator {generator}{frozen}"


def _layers(number: int | None, width: int | None) -> str:
    return f"{number} layer{'' if number == 1 else 's'} of {width}"


def _as_json(flat: dict[str, Any], key: str) -> str:
    if key not in flat:
        return "unset"
    value = flat[key]
    return json.dumps(list(value) if isinstance(value, tuple) else value)
