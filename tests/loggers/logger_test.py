import contextlib

from electra_cli.loggers.logger import Logger, Loggers


class Recorder(Logger):
    """Notes each call with its arguments."""

    def __init__(self, calls):
        for name in METHODS:
            setattr(self, name, lambda *args, _name=name, **more: calls.append((self, _name, args, more)))
        self._calls = calls

    @contextlib.contextmanager
    def status(self, text, *, in_lines=False):
        self._calls.append((self, "status", (text,), {"in_lines": in_lines}))
        yield
        self._calls.append((self, "end", (), {}))


METHODS = {
    "notice": ("text",), "warning": ("text",), "progress": (1, 2, 3.0, "phase 1 of 2"),
    "metrics": ("train", 1, {"total_loss": 1.0}, "line"), "samples": (1, []), "histograms": (1, []),
    "hparams": (None,), "event": ("start", 0), "checkpoint": (1, "path"), "result": ("evaluation", {}, "text"),
    "abandon": ("text",),
}  # fmt: skip


def test_everything_is_passed_on_in_order():
    assert {name for name in vars(Logger) if not name.startswith("_")} == {*METHODS, "status"}
    calls = []
    first, second = Recorder(calls), Recorder(calls)
    logger = Loggers(first, second)
    for name, arguments in METHODS.items():
        getattr(logger, name)(*arguments)
    assert calls == [
        (recorder, name, arguments, {}) for name, arguments in METHODS.items() for recorder in (first, second)
    ]
    calls.clear()
    with logger.status("working", in_lines=True):
        assert [call[:2] for call in calls] == [(first, "status"), (second, "status")]
        assert all(call[2:] == (("working",), {"in_lines": True}) for call in calls)
    assert [call[:2] for call in calls[2:]] == [(second, "end"), (first, "end")]


def test_the_plain_logger_discards_everything(capsys):
    logger = Logger()
    with logger, logger.status("working"):
        for name, arguments in METHODS.items():
            getattr(logger, name)(*arguments)
    assert capsys.readouterr() == ("", "")
