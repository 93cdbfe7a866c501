"""Requests to stop: signals, and Google Cloud's notice that a machine is about to be preempted.

The metadata of a spot or preemptible machine, TPU VMs among them, have the notice some 30 seconds before. One worker's
signal or notice stops all behind the same step.
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
    """A context manager that remembers that, and by which signal, a stop was requested.

    A second signal of the same kind ends the process at once.
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
    """Requests a stop when the notice comes, on Google Cloud.

    `tf.distribute.experimental.PreemptionCheckpointHandler` does nothing on TPUs and CPUs there, and saves by a manager
    of its own; only its function that asks the metadata server is used here.
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
