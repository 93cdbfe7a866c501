"""Progress as lines: for people, as JSON for programs, or warnings and results only; stages of a preparation."""

import contextlib
import datetime
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

from electra_cli.errors import Interrupted, UserError, printable
from electra_cli.loggers.logger import Logger

# Seconds between two events of progress, which comes several times a second.
_SECONDS_BETWEEN_PROGRESS = 10.0


def print_line(line: str) -> None:
    """Prints a line and flushes; in silence where nobody reads, as behind `| head` or a `tee` that died."""
    try:
        print(printable(line), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Lines(Logger):
    """Lines for people."""

    def __init__(self, write: Callable[[str], None] = print_line):
        self._write = write

    def notice(self, text: str) -> None:
        self._write(text)

    def warning(self, text: str) -> None:
        self._write(text)

    @contextlib.contextmanager
    def status(self, text: str, *, in_lines: bool = False) -> Iterator[None]:
        if in_lines:
            self._write(f"{text}.")
        yield

    def metrics(self, split: str, step: int, values: Mapping[str, float], line: str) -> None:
        self._write(line)

    def result(self, event: str, values: Mapping[str, Any], text: str) -> None:
        self._write(text)


class JsonLines(Logger):
    """A JSON object a line: `time` (ISO 8601, UTC), `event`, and what the event is made of.

    Events are notice, warning and status (`text`), progress (`step`, `num_steps`, `seconds_left`, `phase`), train,
    validation, probe and epoch (`step` and the metrics), checkpoint (`step`, `path`), what the command was called for
    (evaluation, probes, replay, dry_run, scores, predictions), and at last end: `outcome` is done, interrupted or
    error. Numbers that are infinite or NaN are null. `clock` returns monotonic seconds.
    """

    def __init__(self, write: Callable[[str], None] = print_line, clock: Callable[[], float] = time.monotonic):
        self._write, self._clock = write, clock
        self._last_progress = -math.inf

    def __exit__(self, _: type | None, error: BaseException | None, __: TracebackType | None) -> None:
        if error is None:
            self._write_event("end", outcome="done")
        elif isinstance(error, Interrupted):
            self._write_event("end", outcome="interrupted", text=str(error))
        else:
            text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._write_event("end", outcome="error", text=text)

    def notice(self, text: str) -> None:
        self._write_event("notice", text=text)

    def warning(self, text: str) -> None:
        self._write_event("warning", text=text)

    @contextlib.contextmanager
    def status(self, text: str, *, in_lines: bool = False) -> Iterator[None]:
        self._write_event("status", text=text)
        yield

    def progress(self, step: int, num_steps: int, seconds_left: float, phase: str = "") -> None:
        now = self._clock()
        if now - self._last_progress >= _SECONDS_BETWEEN_PROGRESS:
            self._last_progress = now
            named = {"phase": phase} if phase else {}
            self._write_event("progress", step=step, num_steps=num_steps, seconds_left=seconds_left, **named)

    def metrics(self, split: str, step: int, values: Mapping[str, float], line: str) -> None:
        self._write_event(split, **{"step": step, **values})

    def checkpoint(self, step: int, path: str) -> None:
        self._write_event("checkpoint", step=step, path=path)

    def result(self, event: str, values: Mapping[str, Any], text: str) -> None:
        self._write_event(event, **values)

    def abandon(self, text: str) -> None:
        # Not by `write`, which the signal may have interrupted.
        os.write(1, f"{_record('end', outcome='interrupted', text=text)}\n".encode())

    def _write_event(self, event: str, **values: Any) -> None:
        self._write(_record(event, **values))


def _record(event: str, **values: Any) -> str:
    time_now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    record = {"time": time_now.replace("+00:00", "Z"), "event": event}
    return json.dumps({**record, **_valid(values)})


def _valid(value: Any) -> Any:
    """Replaces numbers that JSON does not have by None."""
    if isinstance(value, Mapping):
        return {name: _valid(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Quiet(Logger):
    """Passes on warnings and results only."""

    def __init__(self, logger: Logger):
        self._logger = logger

    def __enter__(self) -> "Quiet":
        self._logger.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._logger.__exit__(kind, error, traceback)

    def warning(self, text: str) -> None:
        self._logger.warning(text)

    def result(self, event: str, values: Mapping[str, Any], text: str) -> None:
        self._logger.result(event, values, text)

    def abandon(self, text: str) -> None:
        self._logger.abandon(text)


def lines_logger(*, quiet: bool, log_format: str) -> Logger:
    """Returns a logger to standard output, of text or json; `quiet`: warnings and results only."""
    logger = JsonLines() if log_format == "json" else Lines()
    return Quiet(logger) if quiet else logger


class StageProgress:
    """Reports the progress of stages: to a logger, by default to standard error; a terminal's line is rewritten."""

    def __init__(self, logger: Logger | None = None):
        self._logger = logger
        self._stage = ""
        self._first = (0.0, 0.0, 0)  # time, fraction and bytes when the stage was first reported
        self._last_time = 0.0
        self._is_terminal = logger is None and sys.stderr.isatty()

    def __call__(self, stage: str, fraction: float, num_bytes: int = 0) -> None:
        """Reports the fraction of a stage that is done, and the bytes of text that were read for it (0: none)."""
        now = time.monotonic()
        if stage != self._stage:
            self.end()
            self._stage, self._first, self._last_time = stage, (now, fraction, num_bytes), -math.inf
        if now - self._last_time < (0.2 if self._is_terminal else 10.0):
            return
        self._last_time = now
        line = stage + self._describe(now, fraction, num_bytes)
        if self._logger is not None:
            with self._logger.status(line):
                pass
        elif self._is_terminal:
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _describe(self, now: float, fraction: float, num_bytes: int) -> str:
        start, first_fraction, first_bytes = self._first
        if now == start or fraction <= first_fraction:
            return ""
        rate = (num_bytes - first_bytes) / 1e6 / (now - start)
        text = f", {num_bytes / 1e6:,.0f} MB, {rate:.1f} MB/s" if num_bytes else ""
        left = round((now - start) * (1 - fraction) / (fraction - first_fraction))
        return f": {fraction:.0%}{text}, {datetime.timedelta(seconds=left)} left"

    def end(self) -> None:
        """Ends the line of the current stage."""
        if self._is_terminal and self._stage:
            duration = datetime.timedelta(seconds=round(time.monotonic() - self._first[0]))
            print(f"\r{self._stage}: done in {duration}\x1b[K", file=sys.stderr)
