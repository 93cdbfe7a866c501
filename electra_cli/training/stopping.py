"""Requests to stop: signals, and Google Cloud's notice that a machine is about to be taken away.

A spot or preemptible machine, TPU VMs among them, has the notice in its metadata some 30 seconds before. Several
workers agree on the step to stop behind, so it is enough that one of them gets a signal or the notice.
"""

import contextlib
import http.client
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from tensorflow.python.distribute.failure_handling import failure_handling_util


class StopRequest:
    """Remembers that a stop was requested, while used as a context manager.

    A second signal of the same kind acts as it would without us, for those who cannot wait.

    Attributes:
      requested: whether it was.
      name: the signal, or what else requested it.
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
        """Requests a stop."""
        self.name, self.requested = name, True

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.request(signal.Signals(number).name)
        signal.signal(number, self._previous[signal.Signals(number)])


_PRODUCT_FILE = "/sys/class/dmi/id/product_name"
# Names another metadata server than the usual one; TensorFlow reads it too.
_SERVER_VARIABLE = "GCE_METADATA_IP"
_SECONDS_BETWEEN_LOOKS = 1.0


def is_google_cloud() -> bool:
    """Returns whether this is a machine of Google Cloud, without using the network."""
    if os.environ.get(_SERVER_VARIABLE):
        return True
    try:
        with open(_PRODUCT_FILE) as stream:
            return "Google" in stream.read()
    except OSError:
        return False


@contextlib.contextmanager
def watching_for_notice(stop: StopRequest) -> Iterator[None]:
    """Requests a stop when the notice comes within it; does nothing elsewhere than on Google Cloud.

    `tf.distribute.experimental.PreemptionCheckpointHandler` watches for the same, but does nothing on TPUs and CPUs of
    Google Cloud, and saves by a manager of its own; what of it asks the metadata server is used here.
    """
    if not is_google_cloud():
        yield
        return
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(_SECONDS_BETWEEN_LOOKS):
            if _is_preempted():
                stop.request("a preemption notice")
                return

    watcher = threading.Thread(target=look, name="preemption-notice", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join(timeout=2.0)  # a daemon, whose question may never be answered


def _is_preempted() -> bool:
    try:
        return failure_handling_util.request_compute_metadata("instance/preempted") == "TRUE"
    except (OSError, http.client.HTTPException, ValueError):  # the server is away for a moment; asked again
        return False
