"""How far the stages of a preparation are. TensorFlow is not imported here."""

import datetime
import math
import sys
import time

from electra_cli.loggers.logger import Logger


class StageProgress:
    """Tells how far each stage is, on standard error: a line that is rewritten on a terminal, else one in 10 seconds.

    Args:
      logger: is told the lines in place of standard error; None: none is.
    """

    def __init__(self, logger: Logger | None = None):
        self._logger = logger
        self._stage = ""
        self._first = (0.0, 0.0, 0)  # time, fraction and bytes when the stage was first told of
        self._said = 0.0
        self._is_terminal = logger is None and sys.stderr.isatty()

    def __call__(self, stage: str, fraction: float, num_bytes: int = 0) -> None:
        """Takes note of how far a stage is.

        Args:
          stage: its name.
          fraction: of it, that is done.
          num_bytes: of text that it has read; 0: it reads none.
        """
        now = time.monotonic()
        if stage != self._stage:
            self.end()
            self._stage, self._first, self._said = stage, (now, fraction, num_bytes), -math.inf
        if now - self._said < (0.2 if self._is_terminal else 10.0):
            return
        self._said = now
        line = stage + self._progress(now, fraction, num_bytes)
        if self._logger is not None:
            with self._logger.status(line):
                pass
        elif self._is_terminal:
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def _progress(self, now: float, fraction: float, num_bytes: int) -> str:
        start, first_fraction, first_bytes = self._first
        if now == start or fraction <= first_fraction:
            return ""
        rate = (num_bytes - first_bytes) / 1e6 / (now - start)
        text = f", {num_bytes / 1e6:,.0f} MB, {rate:.1f} MB/s" if num_bytes else ""
        left = round((now - start) * (1 - fraction) / (fraction - first_fraction))
        return f": {fraction:.0%}{text}, {datetime.timedelta(seconds=left)} left"

    def end(self) -> None:
        """Ends the line of the current stage, which is done."""
        if self._is_terminal and self._stage:
            taken = datetime.timedelta(seconds=round(time.monotonic() - self._first[0]))
            print(f"\r{self._stage}: done in {taken}\x1b[K", file=sys.stderr)
