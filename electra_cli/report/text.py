"""A report as text for a terminal: tables, and curves of block characters. No TensorFlow here."""

import io
import shutil
import textwrap
from collections.abc import Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from electra_cli.errors import printable
from electra_cli.loggers.sample_texts import MEANINGS, SIGNS, Sample
from electra_cli.report import content
from electra_cli.report.content import GROUPS, baseline_of, history_of, other_metrics
from electra_cli.report.records import PROBE_SPLIT, RunRecord, RunSamples, probe_names

_WIDTH = 100
_SPARK_WIDTH, _OTHER_COLUMNS = 32, 62
_NUM_EVENTS, _NUM_DIFFERENCES, _NUM_SAMPLES = 6, 10, 1
# Metrics of each of several runs.
_KEY_METRICS = ("total_loss", "masked_lm_loss", "rtd_loss", "rtd_auc", "rtd_accuracy", "tokens_per_second")


def to_text(runs: Sequence[RunRecord], samples: Sequence[RunSamples], *, is_terminal: bool) -> str:
    """Returns a report as text; `is_terminal`: with styles where standard output is a terminal."""
    stream = io.StringIO()
    is_styled = is_terminal and Console().is_terminal
    width = min(_WIDTH, shutil.get_terminal_size().columns) if is_styled else _WIDTH
    console = Console(
        file=stream,
        width=width,
        force_terminal=is_styled,
        highlight=False,
        markup=False,
        emoji=False,
        no_color=not is_styled,
    )
    for run in runs:
        _print_heading(console, run)
    # What the other columns leave: names of metrics, and three numbers.
    console.print(_metrics_table(runs, max(8, min(_SPARK_WIDTH, width - _OTHER_COLUMNS))))
    for run, taken in zip(runs, samples, strict=True):
        title = f"{run.name}: " if len(runs) > 1 else ""
        _print_history(console, run, title)
        if run.config:
            _print_config(console, run, title)
        for sample in taken.samples[:_NUM_SAMPLES]:
            console.print(Text(f"\n{title}held-out example, step {taken.step:,}", style="bold"))
            console.print(_sample_text(sample))
    used = {token.verdict for taken in samples for sample in taken.samples[:_NUM_SAMPLES] for token in sample.tokens}
    if used:
        console.print(
            Text("; ".join(f"{sign} {MEANINGS[name]}" for name, sign in SIGNS.items() if name in used), style="dim")
        )
    if len(runs) > 1:
        _print_between(console, runs)
    return stream.getvalue()


def _print_heading(console: Console, run: RunRecord) -> None:
    of = f" of {run.num_steps:,}" if run.num_steps else ""
    console.print(Text(f"{run.name}: {run.status}, step {run.last_step:,}{of}", style="bold"))
    if run.config:
        console.print(Text(f"  {content.describe_model(run.config)}", style="dim"))


def _metrics_table(runs: Sequence[RunRecord], spark_width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("metric", no_wrap=True)
    if len(runs) > 1:
        table.add_column("run", no_wrap=True)
    table.add_column("training", no_wrap=True, min_width=spark_width)
    for name in ("last", "held out", "baseline"):
        table.add_column(name, justify="right", no_wrap=True)
    metrics = [metric for group in GROUPS.values() for metric in group]
    metrics += other_metrics(runs)
    for metric in metrics:
        if len(runs) > 1 and metric.name not in _KEY_METRICS:
            continue
        for run in runs:
            _, train = run.series("train", metric.name)
            _, held_out = run.series("validation", metric.name)
            if not len(train) and not len(held_out):
                continue
            _, baseline = baseline_of(run, metric)
            cells = [spark(train if len(train) else held_out, spark_width), *map(_last, (train, held_out, baseline))]
            table.add_row(metric.name, *([run.name] if len(runs) > 1 else []), *cells)
    for run in runs:
        for name in probe_names([run]):
            _, values = run.series(PROBE_SPLIT, name)
            _, random = run.series(PROBE_SPLIT, f"{name}_random")
            cells = [spark(values, spark_width), "", _last(values), _last(random)]
            table.add_row(name, *([run.name] if len(runs) > 1 else []), *cells)
    return table


def _last(values) -> str:
    if not len(values):
        return ""
    value = float(values[-1])
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _print_history(console: Console, run: RunRecord, title: str) -> None:
    rows = history_of(run)
    if rows:
        left_out = f" (the last {_NUM_EVENTS} of {len(rows):,})" if len(rows) > _NUM_EVENTS else ""
        console.print(Text(f"\n{title}what happened{left_out}", style="bold"))
    table = Table.grid(padding=(0, 2))
    for row in rows[-_NUM_EVENTS:]:
        table.add_row(f"  {row.time}", f"step {row.step:,}", row.sign, Text(row.text))
    console.print(table)


def _print_config(console: Console, run: RunRecord, title: str) -> None:
    assert run.config is not None
    preset, rows = content.closest_preset(run.config)
    if not rows:
        console.print(Text(f"\n{title}config: the preset {preset}", style="bold"))
        return
    console.print(Text(f"\n{title}config: {len(rows)} keys differ from the preset {preset}", style="bold"))
    shown = ", ".join(f"{row.key}={row.values[1]}" for row in rows[:_NUM_DIFFERENCES])
    shown += ", ..." if len(rows) > _NUM_DIFFERENCES else ""
    console.print(Text(textwrap.fill(shown, console.width, initial_indent="  ", subsequent_indent="  ")))


def _print_between(console: Console, runs: Sequence[RunRecord]) -> None:
    rows = content.between_runs(runs)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("key", *(run.name for run in runs)):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(row.key, *row.values)
    console.print(Text(f"\n{len(rows)} keys differ between the runs", style="bold"))
    if rows:
        console.print(table)


def _sample_text(sample: Sample) -> Text:
    text = Text("  ")
    for token in sample.tokens:
        text.append("" if token.continues_word and token.verdict is None else " ")
        if token.is_replaced:
            text.append(printable(token.text), style="strike dim")
            text.append(
                f"→{printable(token.choice or '')}", style="bold green" if token.verdict == "caught" else "bold red"
            )
            text.append(f"({token.choice_probability:.2f})", style="dim")
        else:
            text.append(printable(token.text))
        text.append(SIGNS.get(token.verdict or "", ""))
    return text


def spark(values: Sequence[float] | np.ndarray, width: int) -> str:
    """Returns a curve of at most `width` block characters, each the mean of a part; '' without values."""
    if not len(values):
        return ""
    parts = [float(np.mean(part)) for part in np.array_split(np.asarray(values), min(width, len(values)))]
    low, high = min(parts), max(parts)
    blocks = "▁▂▃▄▅▆▇█"
    if high == low:
        return blocks[3] * len(parts)
    return "".join(blocks[round((part - low) / (high - low) * (len(blocks) - 1))] for part in parts)
