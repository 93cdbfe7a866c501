"""The interface to which a run hands its numbers, texts and events; each writer is a class of its own."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import ml_collections

from electra_cli.loggers.sample_texts import Sample

_Self = TypeVar("_Self", bound="Logger")


class Logger:
    """Writes what a run hands to it; a context manager, whose end removes what is displayed only for a while.

    Writers override what concerns them. This one discards everything: it is what all workers but the first use.
    """

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, _: type | None, error: BaseException | None, __: TracebackType | None) -> None:
        pass

    def notice(self, text: str) -> None:
        """Logs something of interest, in a line."""

    def warning(self, text: str) -> None:
        """Logs what the user should see, whatever else is suppressed."""

    @contextlib.contextmanager
    def status(self, text: str, *, in_lines: bool = False) -> Iterator[None]:
        """Displays what is being done, a text without a full stop; `in_lines`: also by what writes lines."""
        yield

    def progress(self, step: int, num_steps: int, seconds_left: float, phase: str = "") -> None:
        """Reports how far a run is; may be called often.

        Args:
          step: the last step that was made.
          num_steps: of the run.
          seconds_left: until its end; NaN when that is not known.
          phase: which of several, as 'phase 1 of 2'.
        """

    def metrics(self, split: str, step: int, values: Mapping[str, float], line: str) -> None:
        """Logs metrics of a step.

        Args:
          split: train, validation or probe; epoch for those of a fine-tuning.
          step: the step.
          values: by the names of metrics.jsonl.
          line: the same for people.
        """

    def samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Logs held-out examples with what the model makes of them."""

    def histograms(self, step: int, variables: Sequence[Any]) -> None:
        """Logs the distribution of the values of each `tf.Variable`."""

    def hparams(self, config: ml_collections.FrozenConfigDict) -> None:
        """Logs the resolved config, for tools that compare runs by it."""

    def event(self, event: str, step: int, **details: Any) -> None:
        """Records an event of the run (`run_files` lists them)."""

    def checkpoint(self, step: int, path: str) -> None:
        """Reports that a checkpoint is on the disk; may be called from another thread."""

    def result(self, event: str, values: Mapping[str, Any], text: str) -> None:
        """Logs what the command was called for: values for programs, and the same as a text of several lines."""

    def abandon(self, text: str) -> None:
        """Ends what is displayed when the process ends at once, with the reason; may be called in a signal handler."""


class Loggers(Logger):
    """Passes everything on to several loggers, in their order. Who made them enters and leaves them."""

    def __init__(self, *loggers: Logger):
        self._loggers = loggers

    @contextlib.contextmanager
    def status(self, text: str, *, in_lines: bool = False) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for logger in self._loggers:
                stack.enter_context(logger.status(text, in_lines=in_lines))
            yield


def _passing_on(name: str) -> Callable[..., None]:
    def method(self: Loggers, *arguments: Any, **more: Any) -> None:
        for logger in self._loggers:
            getattr(logger, name)(*arguments, **more)

    return method


# All other methods, so that none can be forgotten.
for _name in [name for name in vars(Logger) if not name.startswith("_") and name != "status"]:
    setattr(Loggers, _name, _passing_on(_name))


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
