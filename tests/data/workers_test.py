"""Workers, and what they do when Ctrl-C reaches the whole group of processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from electra_cli.data.workers import Workers

# Each worker imports this anew: it is told to us, and goes on long enough for a signal to come.
_PROGRAM = """
import os, signal, sys, time
if __name__ == "__mp_main__":
    open(f"starting-{os.getpid()}", "w").close()
    time.sleep(1.0)
from electra_cli.data.workers import Workers
from electra_cli.errors import Interrupted

def stop(number, frame):
    raise Interrupted("stopped")

if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)
    try:
        with Workers(2) as workers:
            list(workers.map(abs, [-1, -2]))
    except Interrupted:
        sys.exit(75)
"""


def test_results_come_in_the_order_of_the_tasks():
    with Workers(2) as workers:
        assert list(workers.map(abs, range(-9, 0))) == [9, 8, 7, 6, 5, 4, 3, 2, 1]


def test_ctrl_c_while_workers_start_leaves_them_silent(tmp_path):
    (tmp_path / "program.py").write_text(_PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path, env=environment, text=True,
                               start_new_session=True, stderr=subprocess.PIPE)  # fmt: skip
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("starting-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (75, "")


def test_a_signal_that_comes_while_a_process_starts_is_handled_after_it(monkeypatch):
    with Workers(2) as workers:
        submit, finished = workers._pool.submit, []

        def interrupted(*arguments):
            os.kill(os.getpid(), signal.SIGINT)
            future = submit(*arguments)
            finished.append(future.result(timeout=60))
            return future

        monkeypatch.setattr(workers._pool, "submit", interrupted)
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                list(workers.map(abs, [-3, -4]))
            assert finished == [3]
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        finally:
            signal.signal(signal.SIGINT, previous)
