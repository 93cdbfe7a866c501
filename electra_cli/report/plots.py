"""Draws curves as SVG whose colours are the page's CSS variables. No TensorFlow here."""

import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogFormatter, MaxNLocator

from electra_cli.report.content import KINDS, Metric, baseline_of, marks_of
from electra_cli.report.records import PROBE_SPLIT, RunRecord, is_drawable

# Colours that stand for the page's CSS variables: matplotlib takes none.
NUM_COLOURS = 6
_RUN_COLOURS = tuple(f"#0001{index:02x}" for index in range(NUM_COLOURS))
_GRID, _MUTED, _MARK = "#000201", "#000202", "#000203"
_VARIABLES = {_GRID: "grid", _MUTED: "muted", _MARK: "mark"} | {
    colour: f"run-{index}" for index, colour in enumerate(_RUN_COLOURS)
}
# So that runs can be distinguished without colour: dashes (points on, off) of lines, shapes of held-out points.
_DASHES: tuple[object, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (7, 1.5, 1.5, 1.5)), (0, (3, 3)), (0, (9, 2)))
_SHAPES = ("o", "s", "^", "D", "v", "P")
_MAX_POINTS, _MAX_MARKS = 400, 60  # of a curve; of a run and a kind
# A wide metric whose values span more than this factor is drawn on a logarithmic axis.
_LOGARITHMIC_FROM = 30.0
_TICKS = (1, 2, 2.5, 5, 10)  # between two ticks of an abscissa, times a power of 10
_SIZE = (4.7, 2.55)  # inches of 72 points
_FONT_SIZE = 9.0


@dataclasses.dataclass(frozen=True)
class Drawing:
    """An `svg` element, and a sentence for those who do not see it."""

    svg: str
    description: str


def draw_metric(runs: Sequence[RunRecord], metric: Metric, *, over_tokens: bool, key: str) -> Drawing | None:
    """Draws training and held-out curves of a metric; None where no run has it. `key` is unique on the page."""
    figure, axes = _new_axes()
    descriptions: list[str] = []
    drawn: list[np.ndarray] = []
    for index, run in enumerate(runs):
        series = {split: run.series(split, metric.name) for split in ("train", "validation")}
        if not any(len(values) for _, values in series.values()) or (
            over_tokens and run.tokens_at(np.zeros(1)) is None
        ):
            continue
        for split, (steps, values) in series.items():
            _draw_line(axes, run, steps, values, index, is_held_out=split == "validation", over_tokens=over_tokens)
            drawn.append(values)
        _draw_baseline(axes, run, metric, over_tokens)
        _draw_marks(axes, run, over_tokens, index if len(runs) > 1 else None)
        descriptions.append(_describe(run, series))
    if not descriptions:
        return None
    _scale(axes, metric, np.concatenate(drawn))
    axes.set_ylabel(metric.unit or "fraction")
    _label_abscissa(axes, runs, over_tokens)
    return Drawing(_to_svg(figure, key), f"{metric.title}. {' '.join(descriptions)}")


def draw_both_networks(runs: Sequence[RunRecord], key: str) -> Drawing | None:
    """Draws the discriminator's held-out AUC over the generator's held-out loss, a point an evaluation."""
    figure, axes = _new_axes()
    descriptions = []
    for index, run in enumerate(runs):
        pairs = [
            (line["masked_lm_loss"], line["rtd_auc"], line["step"])
            for line in run.lines["validation"]
            if is_drawable(line.get("rtd_auc")) and is_drawable(line.get("masked_lm_loss"))
        ]
        if not pairs:
            continue
        losses, areas, steps = (np.array(column) for column in zip(*pairs, strict=True))
        kept = thin(areas, 60)
        style = _style(index)
        axes.plot(losses[kept], areas[kept], lw=1.0, ms=3.5, **style)
        axes.plot(losses[-1:], areas[-1:], **{**style, "ms": 8, "ls": "none"})
        descriptions.append(
            f"{run.name}: from loss {losses[0]:.4g}, AUC {areas[0]:.4g} at step {steps[0]:,} to loss {losses[-1]:.4g}, "
            f"AUC {areas[-1]:.4g} at step {steps[-1]:,}."
        )
    if not descriptions:
        return None
    axes.invert_xaxis()
    axes.margins(0.12)
    axes.set_xlabel("generator: masked LM loss, nats (better to the right)")
    axes.set_ylabel("discriminator: AUC")
    return Drawing(_to_svg(figure, key), f"Discriminator over generator, held out. {' '.join(descriptions)}")


def draw_probe(runs: Sequence[RunRecord], name: str, *, over_tokens: bool, key: str) -> Drawing | None:
    """Draws the scores of a probe (`FILE/SCORE`), and dotted those of the same probe on random weights."""
    figure, axes = _new_axes()
    descriptions = []
    for index, run in enumerate(runs):
        steps, values = run.series(PROBE_SPLIT, name)
        if not len(values) or (over_tokens and run.tokens_at(steps) is None):
            continue
        _draw_line(axes, run, steps, values, index, is_held_out=True, over_tokens=over_tokens)
        random_steps, random_values = run.series(PROBE_SPLIT, f"{name}_random")
        if len(random_values):
            where = _abscissa(run, random_steps, over_tokens)
            axes.plot(where, random_values, lw=1.2, ls=":", marker=".", color=_MUTED)
        _draw_marks(axes, run, over_tokens, index if len(runs) > 1 else None)
        descriptions.append(f"{run.name}: {values[-1]:.4g} at step {steps[-1]:,}.")
    if not descriptions:
        return None
    axes.set_ylabel(name.rpartition("/")[2])
    _label_abscissa(axes, runs, over_tokens)
    return Drawing(_to_svg(figure, key), f"Probe {name}. {' '.join(descriptions)}")


def draw_key(index: int, *, is_held_out: bool, key: str) -> str:
    """Returns the line of a run as it is drawn, small, for a legend; `key` identifies it on the page."""
    figure = Figure(figsize=(0.5, 0.17))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    axes.set_xlim(-0.15, 1.15)
    style = _style(index)
    marker = {"marker": style["marker"], "markersize": 4.0, "markevery": [1]} if is_held_out else {}
    axes.plot([0, 0.5, 1], [0, 0, 0], color=style["color"], ls=style["ls"], lw=1.7 if is_held_out else 1.0, **marker)
    return _to_svg(figure, key)


def _new_axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(color=_GRID, lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.tick_params(which="both", colors=_MUTED, labelcolor=_MUTED, labelsize=_FONT_SIZE, length=0)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=_MUTED, fontsize=_FONT_SIZE, parse_math=False)  # a metric may be named with $
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=_TICKS))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return figure, axes


def _style(index: int) -> dict:
    index %= NUM_COLOURS
    return {"color": _RUN_COLOURS[index], "ls": _DASHES[index], "marker": _SHAPES[index]}


def _abscissa(run: RunRecord, steps: np.ndarray, over_tokens: bool) -> np.ndarray:
    tokens = run.tokens_at(steps) if over_tokens else None
    return steps if tokens is None else tokens


def _draw_line(
    axes: Axes,
    run: RunRecord,
    steps: np.ndarray,
    values: np.ndarray,
    index: int,
    *,
    is_held_out: bool,
    over_tokens: bool,
) -> None:
    if not len(values):
        return
    kept = thin(values, 60 if is_held_out else _MAX_POINTS)
    style, where = _style(index), _abscissa(run, steps, over_tokens)[kept]
    if is_held_out or len(kept) == 1:
        axes.plot(where, values[kept], lw=1.7, ms=3.5, color=style["color"], ls=style["ls"], marker=style["marker"],
                  zorder=4)  # fmt: skip
    else:
        axes.plot(where, values[kept], lw=1.1, alpha=0.85, color=style["color"], ls=style["ls"], zorder=3)


def _draw_baseline(axes: Axes, run: RunRecord, metric: Metric, over_tokens: bool) -> None:
    steps, values = baseline_of(run, metric)
    if len(values):
        kept = thin(values, 60)
        axes.plot(_abscissa(run, steps, over_tokens)[kept], values[kept], lw=1.2, ls=":", color=_MUTED, zorder=2)


def _draw_marks(axes: Axes, run: RunRecord, over_tokens: bool, index: int | None) -> None:
    """Draws what happened as thin lines with a shape at their foot, in the run's colour where there are several."""
    colour = _MARK if index is None else _style(index)["color"]
    marks = marks_of(run)
    for kind, (_, shape, _) in KINDS.items():
        steps = np.array([mark.step for mark in marks if mark.kind == kind], np.int64)
        where = _abscissa(run, steps, over_tokens)[spread(len(steps), _MAX_MARKS)]
        in_axes: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "color": colour}
        axes.vlines(where, 0.0, 1.0, lw=0.6, ls=(0, (1, 2)), zorder=1, **in_axes)
        axes.plot(where, 0.0 * where, ls="none", marker=shape, ms=5.0, mew=1.3, clip_on=False, zorder=5, **in_axes)


def _scale(axes: Axes, metric: Metric, values: np.ndarray) -> None:
    if metric.is_wide and values.min() > 0 and values.max() > _LOGARITHMIC_FROM * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.5)))
        return
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if np.abs(values).max() >= 1e4:
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    elif np.abs(values).max() < 1e-2:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))


def _describe(run: RunRecord, series: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    parts = []
    for split, name in (("train", "training"), ("validation", "held out")):
        steps, values = series[split]
        if len(values):
            begin = f"{values[0]:.4g} at step {steps[0]:,} to " if len(values) > 1 else ""
            parts.append(f"{name} {begin}{values[-1]:.4g} at step {steps[-1]:,}")
    return f"{run.name}: {'; '.join(parts)}."


def _label_abscissa(axes: Axes, runs: Sequence[RunRecord], over_tokens: bool) -> None:
    tokens = "real tokens" if all(run.counts_real_tokens for run in runs) else "tokens, with padding"
    axes.set_xlabel(tokens if over_tokens else "step")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=_TICKS, integer=True))  # there are no parts of a step


def _to_svg(figure: Figure, key: str) -> str:
    stream = io.StringIO()
    # Text stays text, of the page's font; ids follow from the key, so that no two drawings of a page share one.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>|<!--.*?-->", "", svg, flags=re.S)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r'(<svg)[^>]*?( viewBox="[^"]+")[^>]*>', r'\1\2 aria-hidden="true">', svg, count=1)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg.replace("xlink:href", "href"))
    svg = re.sub("|".join(_VARIABLES), lambda found: f"var(--{_VARIABLES[found[0]]})", svg)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()


def thin(values: np.ndarray, limit: int) -> np.ndarray:
    """Returns ascending indices of at most `limit` (4 or more) values through which a curve looks the same."""
    if len(values) <= limit:
        return np.arange(len(values))
    kept = {0, len(values) - 1}
    for part in np.array_split(np.arange(len(values)), (limit - 2) // 2):
        kept |= {int(part[np.argmin(values[part])]), int(part[np.argmax(values[part])])}
    return np.array(sorted(kept))


def spread(number: int, limit: int) -> list[int]:
    """Returns at most `limit` indices below `number`, the first and the last among them, at even distances."""
    return sorted({round(index) for index in np.linspace(0, number - 1, min(number, limit))}) if number else []
