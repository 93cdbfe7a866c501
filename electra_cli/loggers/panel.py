"""Progress on a terminal: a panel that is redrawn in place, and lines above it that remain."""

import contextlib
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from electra_cli.errors import printable
from electra_cli.loggers.lines import lines_logger
from electra_cli.loggers.logger import METRIC_DIGITS, Logger, format_duration

_DRAWINGS_PER_SECOND = 2
_BAR_WIDTH = 30
# Splits whose metrics are in the panel, with their titles; of others the line is printed above it.
_ROWS = {"train": "train", "validation": "held-out"}
# Metrics in the order in which they are dropped where there is no room for all.
_DROPPED_FIRST = ("total_loss", "selection_loss", "rtd_loss", "cloze_loss", "masked_lm_loss", "rtd_auc")
_NAME_WIDTH, _GAP = 10, 2


def choose_logger(title: str, *, quiet: bool, log_format: str) -> Logger:
    """Returns a command's logger to standard output, of text or json: for text on a terminal a panel, else lines."""
    console = Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal and not quiet and log_format == "text":
        return Panel(title, console)
    return lines_logger(quiet=quiet, log_format=log_format)


class Panel(Logger):
    """A panel on a terminal, which a thread draws twice a second from what was logged last."""

    def __init__(self, title: str, console: Console, clock: Callable[[], float] = time.monotonic):
        self._title, self._console, self._clock = title, console, clock
        self._start = clock()
        self._statuses: list[tuple[str, float]] = []
        self._position: tuple[int, int, float, str] | None = None
        self._metrics: dict[str, tuple[int, Mapping[str, float]]] = {}
        self._saved: tuple[str, float] | None = None
        self._last_line = ""
        self._live = Live(
            console=console,
            get_renderable=self.render,
            refresh_per_second=_DRAWINGS_PER_SECOND,
            transient=True,
            # Only what would be written over the panel; a standard error that goes to a file is left alone.
            redirect_stderr=sys.stderr.isatty(),
        )

    def __enter__(self) -> "Panel":
        self._live.start()
        # Live hides the cursor. A process that is killed could not bring it back.
        self._console.show_cursor(True)
        return self

    def __exit__(self, _: type | None, error: BaseException | None, __: TracebackType | None) -> None:
        """Removes the panel; the last metrics of an incomplete run remain."""
        self._live.stop()
        if error is not None and self._last_line:
            self._print(self._last_line)

    def notice(self, text: str) -> None:
        self._print(text)

    def warning(self, text: str) -> None:
        self._print(text, "yellow")

    @contextlib.contextmanager
    def status(self, text: str, *, in_lines: bool = False) -> Iterator[None]:
        self._statuses.append((text, self._clock()))
        try:
            yield
        finally:
            self._statuses.pop()

    def progress(self, step: int, num_steps: int, seconds_left: float, phase: str = "") -> None:
        self._position = (step, num_steps, seconds_left, phase)

    def metrics(self, split: str, step: int, values: Mapping[str, float], line: str) -> None:
        if split not in _ROWS:
            self._print(line)
            return
        self._metrics[split] = (step, values)
        self._last_line = line

    def checkpoint(self, step: int, path: str) -> None:
        # Of `seed-0/checkpoints/ckpt-33`, as each seed of a fine-tuning counts its own steps.
        run = os.path.basename(os.path.dirname(os.path.dirname(path)))
        self._saved = (f"step {step:,} in {run}" if run else f"step {step:,}", self._clock())

    def result(self, event: str, values: Mapping[str, Any], text: str) -> None:
        self._print(text)

    def abandon(self, text: str) -> None:
        os.write(self._console.file.fileno(), b"\r\n")

    def render(self) -> RenderableType:
        """Returns the panel as it is now."""
        elapsed = format_duration(self._clock() - self._start)
        parts: list[RenderableType] = [Rule(Text(f"{self._title}, {elapsed}"), align="left", style="dim")]
        if self._position is not None:
            parts.append(self._position_line(*self._position))
        if self._metrics:
            parts.append(_Fitting(functools.partial(_metrics_table, dict(self._metrics))))
        if "train" in self._metrics:
            parts.append(_Fitting(functools.partial(_speed_line, self._metrics["train"][1])))
        if self._saved is not None:
            step, time_saved = self._saved
            parts.append(_line("checkpoint", f"{step}, {format_duration(self._clock() - time_saved)} ago"))
        if self._statuses:
            text, begin = self._statuses[-1]
            parts.append(_line("now", f"{text[:1].lower()}{text[1:]}, {format_duration(self._clock() - begin)}"))
        return Group(*parts)

    def _position_line(self, step: int, num_steps: int, seconds_left: float, phase: str) -> RenderableType:
        left = "" if math.isnan(seconds_left) else f"{format_duration(seconds_left)} left"
        grid = Table.grid(padding=(0, 2))
        for _ in range(3):
            grid.add_column(no_wrap=True)
        grid.add_row(
            Text(f"step {step:,}/{num_steps:,}" + (f", {phase}" if phase else ""), style="bold"),
            ProgressBar(total=num_steps, completed=step, width=_BAR_WIDTH),
            f"{math.floor(100 * step / num_steps)} %  {left}",
        )
        return grid

    def _print(self, text: str, style: str = "") -> None:
        # As `Text`, in which [MASK] is no markup.
        self._console.print(Text(printable(text), style=style))


class _Fitting:
    """Something that depends on the width, in columns, which `build` takes."""

    def __init__(self, build: Callable[[int], RenderableType]):
        self._build = build

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._build(options.max_width)


def _metrics_table(metrics: Mapping[str, tuple[int, Mapping[str, float]]], width: int) -> RenderableType:
    """Returns the last metrics of each split, in as many columns as there is room for."""
    rows = {title: metrics[split] for split, title in _ROWS.items() if split in metrics}
    columns = {
        name: [name, *(f"{values[name]:.{digits}f}" if name in values else "" for _, values in rows.values())]
        for name, digits in METRIC_DIGITS.items()
        if any(name in values for _, values in rows.values())
    }
    columns["step"] = ["step", *(f"{step:,}" for step, _ in rows.values())]
    for name in _DROPPED_FIRST:
        if _NAME_WIDTH + sum(_GAP + max(map(len, cells)) for cells in columns.values()) > width:
            columns.pop(name, None)
    grid = Table.grid(padding=(0, _GAP))
    grid.add_column(min_width=_NAME_WIDTH, no_wrap=True)
    for _ in columns:
        grid.add_column(justify="right", no_wrap=True)
    grid.add_row("", *(Text(name, style="dim") for name in columns))
    for index, title in enumerate(rows, 1):
        grid.add_row(title, *(cells[index] for cells in columns.values()))
    return grid


def _line(name: str, text: str) -> Text:
    return Text(f"{name:<12}{printable(text)}", no_wrap=True, overflow="ellipsis")


def _speed_line(values: Mapping[str, float], width: int) -> Text:
    """Returns rates, in as many words as there is room for."""
    rate, used = f"{values['tokens_per_second']:,.0f} tokens/s", f"utilization {values['model_flops_utilization']:.0%}"
    waited = f"{values['input_wait_fraction']:.0%}"
    variants = (
        [rate, used, f"waiting for input {waited}"], [rate, used, f"input wait {waited}"], [rate, used], [rate]
    )  # fmt: skip
    lines = [_line("speed", "  ".join(parts)) for parts in variants]
    return next((line for line in lines if line.cell_len <= width), lines[-1])
