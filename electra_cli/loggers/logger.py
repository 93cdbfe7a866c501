"""The interface for the numbers, texts and events of a run; each writer is a class of its own."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import ml_collections

from electra_cli.loggers.sample_texts import Sample

# The metrics that a line or panel has room for, and their digits.
METRIC_DIGITS = {
    "total_loss": 3, "masked_lm_loss": 3, "cloze_loss": 3, "selection_loss": 3, "rtd_loss": 4, "rtd_auc": 3,
}  # fmt: skip
_Self = TypeVar("_Self", bound="Logger")


class Logger:
    """Writes what a run logs; a context manager, whose end removes what is displayed only for a while.

    Writers override what concerns them. This one discards everything, as all workers but the first do.
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
        """Displays what is being done, a text without a full stop; with `in_lines`, writers of lines do too."""
        yield

    def progress(self, step: int, num_steps: int, seconds_left: float, phase: str = "") -> None:
        """Reports progress, often: the last step, seconds to the end (NaN: unknown) and one of several phases."""

    def metrics(self, split: str, step: int, values: Mapping[str, float], line: str) -> None:
        """Logs metrics by the names of metrics.jsonl, and as a line for people.

        `split` is train, validation or probe; epoch for those of a fine-tuning.
        """

    def samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Logs held-out examples with the model's predictions."""

    def histograms(self, step: int, variables: Sequence[Any]) -> None:
        """Logs the distribution of the values of each `tf.Variable`."""

    def hparams(self, config: ml_collections.FrozenConfigDict) -> None:
        """Logs the resolved config, for tools that compare runs by it."""

    def event(self, event: str, step: int, **details: Any) -> None:
        """Records an event of the run (`run_files` lists them)."""

    def checkpoint(self, step: int, path: str) -> None:
        """Reports that a checkpoint is on the disk; may be called from another thread."""

    def result(self, event: str, values: Mapping[str, Any], text: str) -> None:
        """Logs the result of a command: values for programs, and the same as a text of several lines."""

    def abandon(self, text: str) -> None:
        """Ends the display when the process ends at once, with the reason; may be called in a signal handler."""


class Loggers(Logger):
    """Passes everything on to several loggers, in their order; it does not enter them."""

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
