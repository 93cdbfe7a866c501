"""A report as one HTML page that loads nothing. No TensorFlow here."""

import dataclasses
import datetime
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import jinja2
import numpy as np
from markupsafe import Markup

from electra_cli import __version__
from electra_cli.loggers.sample_texts import MEANINGS, SIGNS
from electra_cli.report import content, plots
from electra_cli.report.content import (
    GROUPS,
    KINDS,
    Metric,
    baseline_of,
    coinciding,
    history_of,
    marks_of,
    other_metrics,
)
from electra_cli.report.plots import Drawing, spread
from electra_cli.report.records import NO_METRICS, PROBE_SPLIT, RunRecord, RunSamples, probe_names

# Rows of a table of numbers, and of a history.
_MAX_ROWS, _MAX_EVENTS = 40, 60
_MAX_FIGURES = 30  # of metrics that no group names, and of probes: each takes a tenth of a second

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of the page: drawn over steps, and over tokens where these are known."""

    title: str
    name: str
    caption: str
    steps: Drawing
    tokens: Drawing | None


@dataclasses.dataclass(frozen=True)
class NumberTable:
    """Lines of metrics.jsonl; a line may lack some of the columns."""

    title: str
    names: list[str]
    rows: list[dict[str, Any]]


def to_html(runs: Sequence[RunRecord], samples: Sequence[RunSamples]) -> str:
    """Returns the page of some runs with their samples."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("electra_cli.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": _number, "svg": Markup}
    groups = list(_groups(runs))
    tokens = [token for taken in samples for sample in taken.samples for token in sample.tokens]
    return environment.get_template("page.html.jinja").render(
        version=__version__,
        time=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        runs=[_run_context(index, run, taken) for index, (run, taken) in enumerate(zip(runs, samples, strict=True))],
        groups=groups,
        has_tokens=any(figure.tokens for _, figures in groups for figure in figures),
        both_networks=plots.draw_both_networks(runs, "both-networks"),
        evaluation=_evaluation_rows(runs),
        probes=_probe_rows(runs),
        between=content.between_runs(runs),
        mark_kinds=_used_marks(runs),
        signs=SIGNS,
        meanings=MEANINGS,
        used_verdicts={token.verdict for token in tokens},
        judged=any(token.replaced_probability is not None for token in tokens),
    )


def _run_context(index: int, run: RunRecord, taken: RunSamples) -> dict[str, Any]:
    preset, differences = content.closest_preset(run.config) if run.config else ("", [])
    history = history_of(run)
    tokens = run.tokens_at(np.array([run.last_step])) if run.lines["train"] else None
    return {
        "index": index,
        "record": run,
        "model": content.describe_model(run.config) if run.config else "",
        "key": plots.draw_key(index, is_held_out=True, key=f"card-{index}"),
        "key_train": plots.draw_key(index, is_held_out=False, key=f"train-{index}"),
        "key_held_out": plots.draw_key(index, is_held_out=True, key=f"held-out-{index}"),
        "tokens": None if tokens is None else float(tokens[0]),
        "last": {name: _last(run, name) for name in ("masked_lm_loss", "rtd_auc", "rtd_accuracy")},
        "baseline": {
            name: _last_of(baseline_of(run, Metric(name, name))[1]) for name in ("masked_lm_loss", "rtd_accuracy")
        },
        "speed": _last_of(run.series("train", "tokens_per_second")[1]),
        "preset": preset,
        "differences": differences,
        "settings": content.all_settings(run.config) if run.config else [],
        "history": history[-_MAX_EVENTS:],
        "num_events": len(history),
        "tables": _tables(run),
        "taken": taken,
    }


def _last_of(values) -> float | None:
    return float(values[-1]) if len(values) else None


def _last(run: RunRecord, name: str) -> float | None:
    """Returns the last held-out value of a metric, or the last of training where nothing was evaluated."""
    held_out = _last_of(run.series("validation", name)[1])
    return _last_of(run.series("train", name)[1]) if held_out is None else held_out


def _groups(runs: Sequence[RunRecord]) -> Iterable[tuple[str, list[Figure]]]:
    """Yields (title, figures) of each group of metrics that some run has, and of probes."""
    others_title, others = _first_figures("Other metrics", other_metrics(runs))
    for title, metrics in (*GROUPS.items(), (others_title, others)):
        figures = [figure for metric in metrics if (figure := _metric_figure(runs, metric)) is not None]
        if figures:
            yield title, figures
    figures = []
    probes_title, names = _first_figures("Probes of the frozen encoder", probe_names(runs))
    for name in names:
        steps = plots.draw_probe(runs, name, over_tokens=False, key=f"{name}-steps")
        if steps is not None:
            tokens = plots.draw_probe(runs, name, over_tokens=True, key=f"{name}-tokens")
            caption = _caption("random weights", runs, name, (PROBE_SPLIT,))
            figures.append(Figure(name, name, caption, steps, tokens))
    if figures:
        yield probes_title, figures


def _first_figures(title: str, names: Sequence[_T]) -> tuple[str, Sequence[_T]]:
    """Returns those to draw of many, and the title of their group, which counts them where that is not all."""
    if len(names) <= _MAX_FIGURES:
        return title, names
    return f"{title}, the first {_MAX_FIGURES} of {len(names):,}", names[:_MAX_FIGURES]


def _metric_figure(runs: Sequence[RunRecord], metric: Metric) -> Figure | None:
    steps = plots.draw_metric(runs, metric, over_tokens=False, key=f"{metric.name}-steps")
    if steps is None:
        return None
    tokens = plots.draw_metric(runs, metric, over_tokens=True, key=f"{metric.name}-tokens")
    has_baseline = any(len(baseline_of(run, metric)[1]) for run in runs)
    caption = _caption(metric.baseline if has_baseline else "", runs, metric.name, ("train", "validation"))
    return Figure(metric.title, metric.name, caption, steps, tokens)


def _caption(dotted: str, runs: Sequence[RunRecord], name: str, splits: Sequence[str]) -> str:
    """Returns what the dotted curve is, and which curves coincide."""
    same = [f"The same curve: {', '.join(names)}" for names in coinciding(runs, name, splits)]
    return ". ".join([*([f"Dotted: {dotted}"] if dotted else []), *same])


def _evaluation_rows(runs: Sequence[RunRecord]) -> list[tuple[str, str, list[float | None]]]:
    """Returns (network, metric or baseline, last held-out value of each run), network by network."""
    last = [run.lines["validation"][-1] if run.lines["validation"] else {} for run in runs]
    rows = []
    for name in dict.fromkeys(name for run in runs for name in run.metric_names("validation")):
        values = [line.get(name) for line in last]
        if name == "unigram_masked_lm_loss":
            rows.append(("generator", "loss of guessing by frequency", values))
            continue
        network = "both" if name == "total_loss" else "discriminator" if name.startswith("rtd") else "generator"
        rows.append((network, name, values))
        if name == "replaced_fraction":
            all_original = [None if value is None else 1.0 - value for value in values]
            rows.append(("discriminator", "accuracy of calling all original", all_original))
    return sorted(rows, key=lambda row: ("both", "generator", "discriminator").index(row[0]))


def _probe_rows(runs: Sequence[RunRecord]) -> list[tuple[str, list[tuple[float | None, float | None]]]]:
    """Returns (probe, (last score, last score of random weights) of each run)."""
    return [
        (
            name,
            [
                (_last_of(run.series(PROBE_SPLIT, name)[1]), _last_of(run.series(PROBE_SPLIT, f"{name}_random")[1]))
                for run in runs
            ],
        )
        for name in probe_names(runs)
    ]


def _tables(run: RunRecord) -> list[NumberTable]:
    titles = {"validation": "Held-out evaluations", "train": "Training", PROBE_SPLIT: "Probes"}
    tables = []
    for split, title in titles.items():
        lines = run.lines.get(split, [])
        if lines:
            rows = [lines[index] for index in spread(len(lines), _MAX_ROWS)]
            shown = f", {len(rows)} of {len(lines):,} lines" if len(rows) < len(lines) else f", {len(lines)} lines"
            names = list(dict.fromkeys(name for line in rows for name in line if name not in NO_METRICS))
            tables.append(NumberTable(f"{title}{shown}", ["step", *names], rows))
    return tables


def _used_marks(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    used = {mark.kind for run in runs for mark in marks_of(run)}
    return [(sign, meaning) for kind, (sign, _, meaning) in KINDS.items() if kind in used]


def _number(value: float | None) -> Markup:
    """Returns a number as people read it, with all its digits as its machine-readable value."""
    if value is None:
        return Markup('<span class="none">-</span>')
    if not math.isfinite(value):
        shown = "infinite" if math.isinf(value) else "not a number"
    elif isinstance(value, int) or abs(value) >= 1000:
        shown = f"{value:,.0f}"
    else:
        shown = "0" if value == 0 else f"{value:.4f}" if abs(value) >= 0.01 else f"{value:.3g}"
    return Markup('<data value="{}">{}</data>').format(repr(value), shown)
