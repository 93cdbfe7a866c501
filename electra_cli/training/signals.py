"""A polite end: SIGTERM, SIGINT and whatever else asks a run to save itself and stop after the current steps."""

import signal
from types import FrameType
from typing import Any


class StopRequest:
    """Remembers that a stop was asked for, while used as a context manager.

    A second signal of the same kind acts as it would without us, for those who cannot wait.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.requested = False
        self.name = ""
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._remember) for number in self._SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def request(self, name: str) -> None:
        """Asks for a stop, in the name of what stands behind it."""
        self.name, self.requested = name, True

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.request(signal.Signals(number).name)
        signal.signal(number, self._previous[signal.Signals(number)])
