"""Runs of electra-pretrain in forked processes that report what they are doing."""

import collections
import contextlib
import math
import os
import pathlib
import resource
import select
import signal
import sys
import time

from tests import forking

TIMEOUT = 300.0


class Run:
    """A process that is `electra-pretrain FLAGS`.

    Args:
      flags: its arguments.
      logs: a directory for its output.
      faults: called in the process before the program.
    """

    def __init__(self, flags, logs: pathlib.Path, *faults):
        number = len(list(logs.glob("*.out")))
        self._out, self._err = logs / f"{number}.out", logs / f"{number}.err"
        reader, writer = os.pipe()
        self._notes = open(reader, "rb", buffering=0)  # noqa: SIM115
        self._rest = b""
        self.noted: list[tuple[str, float]] = []
        self.started = time.monotonic()
        with self._out.open("wb") as out, self._err.open("wb") as err:
            files = [0, out.fileno(), err.fileno(), writer]
            self._process = forking.fork_program(_main, (flags, faults), files)
        self.ended = math.inf
        os.close(writer)

    def wait_for(self, begun: str, occurrence: int = 1, timeout: float = TIMEOUT) -> bool:
        """Waits until something has begun so many times; False when the process ended before."""
        end = time.monotonic() + timeout
        while sum(note == f"begin {begun}" for note, _ in self.noted) < occurrence:
            if not self._read(end - time.monotonic()):
                return False
        return True

    def let_pass(self, seconds: float, max_saved: int) -> None:
        """Waits, at most until so many more checkpoints are saved or the process has ended."""
        end, saved = time.monotonic() + seconds, len(self.saved)
        while (left := end - time.monotonic()) > 0 and len(self.saved) < saved + max_saved:
            if select.select([self._notes], [], [], left)[0] and not self._read(TIMEOUT):
                return

    def send(self, number: signal.Signals) -> float:
        """Sends a signal and returns the time."""
        os.kill(self._process.pid, number)
        return time.monotonic()

    def end(self, timeout: float = TIMEOUT) -> int:
        """Waits for the end; returns the exit code, or minus the number of the signal."""
        end = time.monotonic() + timeout
        try:
            while self._read(end - time.monotonic()):
                pass
        except AssertionError:
            self.send(signal.SIGKILL)
            raise
        finally:
            self.ended = time.monotonic()
        return os.waitstatus_to_exitcode(self._process.wait())

    @property
    def doing(self) -> set[str]:
        """What has begun and not ended."""
        return self.doing_at(math.inf)

    def doing_at(self, moment: float) -> set[str]:
        """What had begun and not ended at a time."""
        begun: collections.Counter[str] = collections.Counter()
        for note, _ in (noted for noted in self.noted if noted[1] <= moment):
            what, name = note.split(" ", 1)
            begun[name] += {"begin": 1, "end": -1, "saved": 0}[what]
        return {name for name, number in begun.items() if number > 0}

    def seconds(self, name: str) -> list[float]:
        """How long each of the occurrences of something took that ended."""
        begins = [when for note, when in self.noted if note == f"begin {name}"]
        ends = [when for note, when in self.noted if note == f"end {name}"]
        return [end - begin for begin, end in zip(begins, ends, strict=False)]

    @property
    def saved(self) -> list[int]:
        """The steps whose checkpoints were written to the end, those of the best left out."""
        return [int(note.split()[2]) for note, _ in self.noted if note.startswith("saved checkpoints ")]

    @property
    def output(self) -> str:
        """What it printed."""
        return self._out.read_text()

    @property
    def errors(self) -> str:
        """What it printed on standard error."""
        return self._err.read_text()

    def _read(self, seconds: float) -> bool:
        """Reads notes; returns False when the process has ended."""
        assert seconds > 0 and select.select([self._notes], [], [], seconds)[0], (
            f"nothing happens: {self.output[-2000:]} {self.errors[-2000:]}"
        )
        read = os.read(self._notes.fileno(), 1 << 16)
        *lines, self._rest = (self._rest + read).split(b"\n")
        notes = (line.decode().split(" ", 1) for line in lines)
        self.noted += [(note, float(when)) for when, note in notes]
        return bool(read)


def _main(flags, faults, notes) -> None:
    from electra_cli import main

    sys.argv = ["electra-pretrain", *flags]
    _take_notes(notes)
    for fault in faults:
        fault()
    main.main()


def _take_notes(descriptor: int) -> None:
    """Writes to a pipe what the program begins and ends: computing, saving, evaluating."""
    from electra_cli.training import evaluation, loop
    from electra_cli.workdir import checkpoint_files

    def write_note(text):
        os.write(descriptor, f"{time.monotonic()} {text}\n".encode())  # one clock for all processes

    @contextlib.contextmanager
    def noted(name):
        write_note(f"begin {name}")
        try:
            yield
        finally:
            write_note(f"end {name}")

    def note(owner, method, name):
        original = getattr(owner, method)

        def wrapped(*args, **kwargs):
            with noted(name):
                return original(*args, **kwargs)

        setattr(owner, method, wrapped)

    write = checkpoint_files.CheckpointFiles.write

    def write_noted(self, step, *args):
        with noted("saving"):
            write(self, step, *args)
        write_note(f"saved {os.path.basename(self.directory)} {step}")

    checkpoint_files.CheckpointFiles.write = write_noted
    note(evaluation.Evaluator, "run", "evaluating")
    build = loop.build_train_steps

    def build_noted(*args, **kwargs):
        train_steps = build(*args, **kwargs)

        def wrapped(*args, **kwargs):
            with noted("computing"):
                return train_steps(*args, **kwargs)

        return wrapped

    loop.build_train_steps = build_noted


def slow_disk(seconds: float = 0.01) -> None:
    """Every change of a directory and every wait for the disk takes so much longer."""
    import tensorflow as tf

    def slow(owner, name):
        original = getattr(owner, name)

        def wrapped(*args, **kwargs):
            time.sleep(seconds)
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)

    slow(os, "fsync")
    for name in ("rename", "remove", "rmtree", "makedirs"):
        slow(tf.io.gfile, name)


def without_coverage() -> None:
    """Coverage is not measured, of which a killed process would write nothing, and which slows it."""
    forking.drop_coverage()


def clock_set_back() -> None:
    """The clock is ten years late, and set back by an hour each time that it is looked at."""
    real, looks = time.time, [0]

    def wrong() -> float:
        looks[0] += 1
        return real() - 10 * 365 * 86_400 - 3600 * looks[0]

    time.time = wrong


def limit_files(size: int) -> None:
    """No file may grow beyond a size in bytes from the first checkpoint on: whoever tries is told so."""
    from electra_cli.workdir import checkpoint_files

    write = checkpoint_files.CheckpointFiles.write

    def write_limited(*args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # not before: the code that XLA compiles is kept, too
        write(*args)

    checkpoint_files.CheckpointFiles.write = write_limited
