"""What a command tells while it works: as lines for people, as JSON for programs, or not at all. No TensorFlow here."""

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

from electra_cli.errors import Interrupted, UserError

# Seconds between two events of progress, which comes several times a second.
_SECONDS_BETWEEN_PROGRESS = 10.0


class Reporter:
    """Takes what a run tells; a context manager, whose end takes away what is shown only for a while.

    This one keeps all to itself: what workers other than the first use.
    """

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, _: type | None, error: BaseException | None, __: TracebackType | None) -> None:
        """Ends what is shown."""

    def notice(self, text: str) -> None:
        """Tells something of interest, in a line."""

    def warning(self, text: str) -> None:
        """Tells something that the user should see, whatever else is left out."""

    @contextlib.contextmanager
    def status(self, text: str, *, in_lines: bool = False) -> Iterator[None]:
        """Tells what is being done, while it is; for what takes a while.

        Args:
          text: what is done, without a full stop.
          in_lines: whether reports in lines tell it too.
        """
        yield

    def progress(self, step: int, num_steps: int, seconds_left: float, phase: str = "") -> None:
        """Tells how far a run is; may be called often.

        Args:
          step: the last step that was made.
          num_steps: of the whole run.
          seconds_left: until its end; NaN when that is not known.
          phase: which of several, as 'phase 1 of 2'.
        """

    def metrics(self, split: str, step: int, values: Mapping[str, float], line: str) -> None:
        """Tells metrics.

        Args:
          split: train, validation or probe; epoch for those of a fine-tuning.
          step: the step that they are of.
          values: by the names of metrics.jsonl.
          line: the same for people.
        """

    def checkpoint(self, step: int, path: str) -> None:
        """Tells that a checkpoint is on the disk; may be called from another thread."""

    def result(self, event: str, values: Mapping[str, Any], text: str) -> None:
        """Tells what the command was called for.

        Args:
          event: what it is, such as evaluation.
          values: for programs.
          text: the same for people, of several lines.
        """

    def abandon(self, text: str) -> None:
        """Ends what is shown when the process ends at once; may be called in a signal handler.

        Args:
          text: why it ends.
        """


def print_at_once(line: str) -> None:
    """Prints a line so that it can be read at once, whatever standard output is.

    Where nobody reads any more, as behind `| head` or a `tee` that died, the work goes on in silence.
    """
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Lines(Reporter):
    """Lines for people.

    Args:
      write: takes a line, or several.
    """

    def __init__(self, write: Callable[[str], None] = print_at_once):
        self._write = write

    def notice(self, text: str) -> None:
        """See the base class."""
        self._write(text)

    def warning(self, text: str) -> None:
        """See the base class."""
        self._write(text)

    @contextlib.contextmanager
    def status(self, text: str, *, in_lines: bool = False) -> Iterator[None]:
        """See the base class."""
        if in_lines:
            self._write(f"{text}.")
        yield

    def metrics(self, split: str, step: int, values: Mapping[str, float], line: str) -> None:
        """See the base class."""
        self._write(line)

    def result(self, event: str, values: Mapping[str, Any], text: str) -> None:
        """See the base class."""
        self._write(text)


class JsonLines(Reporter):
    """A JSON object a line: `time` (ISO 8601, UTC), `event`, and what the event is made of.

    Events are notice, warning and status (`text`), progress (`step`, `num_steps`, `seconds_left`, `phase`), train,
    validation, probe and epoch (`step` and the metrics), checkpoint (`step`, `path`), what the command was called for
    (evaluation, probes, replay, dry_run, scores, predictions), and at last end: `outcome` is done, interrupted or
    error. Numbers that are infinite or NaN are null.

    Args:
      write: takes a line.
      clock: seconds, ever growing.
    """

    def __init__(self, write: Callable[[str], None] = print_at_once, clock: Callable[[], float] = time.monotonic):
        self._write, self._clock = write, clock
        self._last_progress = -math.inf

    def __exit__(self, _: type | None, error: BaseException | None, __: TracebackType | None) -> None:
        """Tells how the command ended."""
        if error is None:
            self._tell("end", outcome="done")
        elif isinstance(error, Interrupted):
            self._tell("end", outcome="interrupted", text=str(error))
        else:
            text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._tell("end", outcome="error", text=text)

    def notice(self, text: str) -> None:
        """See the base class."""
        self._tell("notice", text=text)

    def warning(self, text: str) -> None:
        """See the base class."""
        self._tell("warning", text=text)

    @contextlib.contextmanager
    def status(self, text: str, *, in_lines: bool = False) -> Iterator[None]:
        """See the base class."""
        self._tell("status", text=text)
        yield

    def progress(self, step: int, num_steps: int, seconds_left: float, phase: str = "") -> None:
        """See the base class; left out within ten seconds of the last."""
        now = self._clock()
        if now - self._last_progress >= _SECONDS_BETWEEN_PROGRESS:
            self._last_progress = now
            named = {"phase": phase} if phase else {}
            self._tell("progress", step=step, num_steps=num_steps, seconds_left=seconds_left, **named)

    def metrics(self, split: str, step: int, values: Mapping[str, float], line: str) -> None:
        """See the base class."""
        self._tell(split, **{"step": step, **values})

    def checkpoint(self, step: int, path: str) -> None:
        """See the base class."""
        self._tell("checkpoint", step=step, path=path)

    def result(self, event: str, values: Mapping[str, Any], text: str) -> None:
        """See the base class."""
        self._tell(event, **values)

    def abandon(self, text: str) -> None:
        """See the base class."""
        # Past `write`, within which the signal may have come.
        os.write(1, f"{_record('end', outcome='interrupted', text=text)}\n".encode())

    def _tell(self, event: str, **values: Any) -> None:
        self._write(_record(event, **values))


def _record(event: str, **values: Any) -> str:
    moment = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    record = {"time": moment.replace("+00:00", "Z"), "event": event}
    return json.dumps({**record, **_valid(values)})


def _valid(value: Any) -> Any:
    """Returns a value with None for each number that JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _valid(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Quiet(Reporter):
    """Passes on warnings and results only.

    Args:
      reporter: what they are passed to.
    """

    def __init__(self, reporter: Reporter):
        self._reporter = reporter

    def __enter__(self) -> "Quiet":
        self._reporter.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Ends the other."""
        self._reporter.__exit__(kind, error, traceback)

    def warning(self, text: str) -> None:
        """See the base class."""
        self._reporter.warning(text)

    def result(self, event: str, values: Mapping[str, Any], text: str) -> None:
        """See the base class."""
        self._reporter.result(event, values, text)

    def abandon(self, text: str) -> None:
        """See the base class."""
        self._reporter.abandon(text)


def report_in_lines(*, quiet: bool, log_format: str) -> Reporter:
    """Returns what writes lines to standard output.

    Args:
      quiet: whether to leave out all but warnings and results.
      log_format: text or json.
    """
    reporter = JsonLines() if log_format == "json" else Lines()
    return Quiet(reporter) if quiet else reporter


def format_duration(seconds: float) -> str:
    """Returns '2d 3h', '3h 5m', '5m 20s' or '20s'."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}h"
    if hours:
        return f"{hours}h {minute}m"
    return f"{minutes}m {second}s" if minutes else f"{second}s"
