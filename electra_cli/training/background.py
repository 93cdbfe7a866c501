"""One piece of work at a time in a thread."""

import threading
from collections.abc import Callable


class Background:
    """Does one piece of work at a time in a thread; errors come out in `start`, `check` or `wait`, once."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], object]) -> None:
        """Begins a piece of work, after the end of the one before."""
        self.wait()

        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                self._error = error

        # No daemon: the process ends after the work.
        self._thread = threading.Thread(target=guarded, name="checkpoint")
        self._thread.start()

    def check(self) -> None:
        """Raises the error that the work ended with, if it did."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Returns at the end of the work; raises as `check`."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()
