"""Signals, and preemption notices from a metadata server on this machine, stop a run."""

import http.server
import os
import signal
import threading
import time

import pytest

from electra_cli.errors import Interrupted
from electra_cli.training import stopping
from electra_cli.training.stopping import StopRequest, watching_for_notice
from electra_cli.training.watch import NonFiniteSteps
from tests.training.loop_test import assert_same_run, train
from tests.training.survival_test import tiny_config, whole  # noqa: F401  (a fixture)


def test_a_signal_is_remembered_and_a_second_one_acts():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever other tests left
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested and stop.name == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.fixture
def metadata_server(monkeypatch):
    """Serves `instance/preempted`; its `answer` may be changed, None for a failure."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asks_rightly = self.path == "/computeMetadata/v1/instance/preempted"
            asks_rightly &= self.headers["Metadata-Flavor"] == "Google"
            server.num_asked += 1
            self.send_response(200 if asks_rightly and server.answer else 503)
            self.end_headers()
            if server.answer:
                self.wfile.write(server.answer.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answer, server.num_asked = "FALSE", 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
    monkeypatch.setattr(stopping, "_SECONDS_BETWEEN_LOOKS", 0.01)
    yield server
    server.shutdown()
    server.server_close()


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_the_notice_asks_for_a_stop(metadata_server):
    with StopRequest() as stop, watching_for_notice(stop):
        wait_until(lambda: metadata_server.num_asked > 2)
        assert not stop.requested
        metadata_server.answer = None
        wait_until(lambda: metadata_server.num_asked > 5)  # a failure is no notice, and no end of looking
        assert not stop.requested
        metadata_server.answer = "TRUE"
        wait_until(lambda: stop.requested)
        assert stop.name == "a preemption notice"


def test_elsewhere_nobody_is_asked(monkeypatch, tmp_path):
    monkeypatch.delenv("GCE_METADATA_IP", raising=False)
    product = tmp_path / "product_name"
    monkeypatch.setattr(stopping, "_PRODUCT_FILE", str(product))
    assert not stopping.is_google_cloud()
    product.write_text("Standard PC\n")
    assert not stopping.is_google_cloud()
    num_threads = threading.active_count()
    with StopRequest() as stop, watching_for_notice(stop):
        assert threading.active_count() == num_threads
    product.write_text("Google Compute Engine\n")
    assert stopping.is_google_cloud()


@pytest.mark.slow
def test_a_run_saves_itself_and_goes_on_to_the_bit(metadata_server, whole, data_dir, tmp_path, monkeypatch):  # noqa: F811
    config = tiny_config(data_dir)
    check = NonFiniteSteps.after_update

    def check_and_wait(self, run, update):
        check(self, run, update)
        if run.step == 2:
            metadata_server.answer = "TRUE"
            wait_until(lambda: run.stop.requested)

    with monkeypatch.context() as patch:
        patch.setattr(NonFiniteSteps, "after_update", check_and_wait)
        with pytest.raises(Interrupted, match="stopped by a preemption notice at step 2; saved"):
            train(config, tmp_path / "run", with_evaluation=False)
    metadata_server.answer = "FALSE"
    assert "Resuming from step 2." in train(config, tmp_path / "run", with_evaluation=False)
    assert_same_run(whole, tmp_path / "run")
