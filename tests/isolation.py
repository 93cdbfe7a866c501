"""A plugin of pytest: tests run in forked processes that end before they have grown large.

The process that collects the tests imports what they import and computes nothing. A process forked from it runs them,
and is followed by a fresh one at the end of a module, or of a test, that finds it large. Fixtures, those of a session
too, live in that process and end with it; what all tests share is kept on the disk (`tests.conftest.made_once`).

`-p no:tests.isolation` runs all tests in one process, for debuggers; so do `--pdb` and `--trace`.
"""

import contextlib
import multiprocessing.connection
import os
import signal
import socket
import warnings

import pytest
from _pytest.runner import runtestprotocol

from tests import forking

_MAX_BYTES_BEHIND_MODULE = 1_600_000_000
_MAX_BYTES = 2_200_000_000
_plugin: "Isolation"  # where a forked process finds what it was forked with


def pytest_configure(config: pytest.Config) -> None:
    global _plugin
    wants_terminal = config.getoption("usepdb") or config.getoption("trace")
    is_controller = config.pluginmanager.hasplugin("dsession")  # xdist's workers come here, too
    if not wants_terminal and not is_controller:
        _plugin = Isolation(config)
        config.pluginmanager.register(_plugin, "isolation")


class Isolation:
    """Runs tests in forked processes, one after another."""

    def __init__(self, config: pytest.Config):
        self._config = config
        self._items: list[pytest.Item] = []
        self._numbers: dict[pytest.Item, int] = {}
        self._forked: forking.Forked | None = None
        self._connection: multiprocessing.connection.Connection | None = None
        self._is_forked = False

    def pytest_collection_finish(self, session):
        self._items = session.items
        self._numbers = {item: number for number, item in enumerate(session.items)}
        session.config._tmp_path_factory.getbasetemp()  # one for all

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtestloop(self):
        try:
            return (yield)
        finally:
            if self._forked:
                with contextlib.suppress(ConnectionError):
                    self._connection.send(None)
                self._end()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        if self._is_forked:
            return self._run(item, nextitem)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        if not self._forked:
            self._fork()
        try:
            self._connection.send((self._numbers[item], nextitem and self._numbers[nextitem]))
            while self._relay(item):
                pass
        except (EOFError, ConnectionError):
            self._report_crash(item, self._end())
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self, item, settings):
        """Leaves a test's time limit to the process that it runs in."""
        return None if self._is_forked else True

    # In the process that has collected the tests:

    def _fork(self) -> None:
        ours, theirs = socket.socketpair()
        self._forked = forking.fork(_run_tests, (), [theirs.fileno()])
        theirs.close()
        self._connection = multiprocessing.connection.Connection(ours.detach())

    def _end(self) -> int:
        """Waits for the end of the forked process and returns its status."""
        status = self._forked.wait()
        self._connection.close()
        self._forked = self._connection = None
        return status

    def _relay(self, item) -> bool:
        """Passes on what the forked process sends; returns whether more is to come about a test."""
        kind, content = self._connection.recv()
        if kind == "report":
            report = self._config.hook.pytest_report_from_serializable(config=self._config, data=content)
            item.ihook.pytest_runtest_logreport(report=report)
        elif kind == "warning":
            message, *place, more = content
            recorded = warnings.WarningMessage(message, *place)
            self._config.hook.pytest_warning_recorded.call_historic(kwargs={**more, "warning_message": recorded})
        elif kind == "exit":
            pytest.exit(content)
        elif content:  # the test is done, and so is the process
            self._end()
        return kind != "done"

    def _report_crash(self, item, status) -> None:
        code = os.waitstatus_to_exitcode(status)
        end = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        message = f"the process that ran this test ended with {end}"
        keywords = dict.fromkeys(item.keywords, 1)
        report = pytest.TestReport(item.nodeid, item.location, keywords, "failed", message, "call")
        item.ihook.pytest_runtest_logreport(report=report)

    # In a forked process:

    def serve(self, connection: multiprocessing.connection.Connection) -> None:
        """Runs the tests that it is sent."""
        self._is_forked, self._connection, self._is_last = True, connection, False
        while not self._is_last and (numbers := connection.recv()) is not None:
            item, nextitem = (number if number is None else self._items[number] for number in numbers)
            try:
                self._config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
            except pytest.exit.Exception as end:
                connection.send(("exit", str(end)))
                return
            connection.send(("done", self._is_last))
        if not self._is_last:
            self._items[0].session._setupstate.teardown_exact(None)

    def _run(self, item, nextitem) -> bool:
        ends_module = nextitem is None or nextitem.path != item.path
        self._is_last = _resident_bytes() > (_MAX_BYTES_BEHIND_MODULE if ends_module else _MAX_BYTES)
        for report in runtestprotocol(item, log=False, nextitem=None if self._is_last else nextitem):
            content = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
            self._connection.send(("report", content))
        return True

    @pytest.hookimpl
    def pytest_warning_recorded(self, warning_message, when, nodeid, location):
        if self._is_forked:
            message = warning_message
            kind = message.category if message.category.__module__ == "builtins" else UserWarning
            place = (kind, message.filename, message.lineno)
            more = {"when": when, "nodeid": nodeid, "location": location}
            self._connection.send(("warning", (kind(str(message.message)), *place, more)))


def _run_tests(file: int) -> None:
    _plugin.serve(multiprocessing.connection.Connection(file))


def _resident_bytes() -> int:
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGESIZE")
