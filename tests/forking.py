"""Processes forked from one that has imported everything: they start in no time, not in TensorFlow's ten seconds.

All are forked from one server: programs (`Popen` and `run` are called like those of `subprocess`) and, by
`tests.isolation`, the processes that tests run in. The server has imported what the process that began it had, and the
package before the first program.
"""

import atexit
import contextlib
import dataclasses
import faulthandler
import functools
import gc
import importlib
import logging
import multiprocessing.util
import os
import pickle
import pkgutil
import random
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Sequence

import electra_cli

_LENGTH = struct.Struct("<q")
_address = ""  # of the server, in the process that began it and in all forked ones
_coverage_is_dropped = False


@dataclasses.dataclass(frozen=True)
class _Request:
    """What a process is forked for.

    Attributes:
      function: called in it with `arguments` and the files that were sent, standard ones left out.
      is_program: whether it starts as a program of its own does, in `directory` and with `environment`.
    """

    function: Callable[..., None]
    arguments: tuple
    is_program: bool = False
    directory: str = ""
    environment: dict[str, str] | None = None
    start_new_session: bool = False


@contextlib.contextmanager
def server() -> Iterator[None]:
    """Forks the server, for as long as it is needed.

    Raises:
      RuntimeError: TensorFlow has computed something here: its threads are lost in a fork.
    """
    global _address
    if "tensorflow" in sys.modules:
        threads = sys.modules["tensorflow"].config.threading
        try:
            threads.set_inter_op_parallelism_threads(threads.get_inter_op_parallelism_threads())
        except RuntimeError as error:
            raise RuntimeError("a module of tests computes with TensorFlow when it is imported: let it wait") from error
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        _address = os.path.join(directory, "server")
        listener.bind(_address)
        listener.listen(64)
        _pause_coverage_in_tensorflow()
        gc.collect()
        gc.freeze()  # Collections in one process leave alone what all share, which is not copied then.
        parent = os.getpid()
        _fork(_serve, listener, parent)
        try:
            yield
        finally:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(_address)
                _send(connection, None, [])
                connection.recv(1)  # nothing, when it has ended


class Forked:
    """A process of the server's, and the connection that tells its end."""

    def __init__(self, request: _Request, files: Sequence[int]):
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(_address)
        _send(self.connection, request, files)
        self.pid = _receive_number(self.connection)

    def wait(self, *, is_blocking: bool = True) -> int | None:
        """Returns the status as of `os.waitpid`, or None where it has not ended."""
        if not select.select([self.connection], [], [], None if is_blocking else 0)[0]:
            return None
        return _receive_number(self.connection)


def fork(function: Callable[..., None], arguments: tuple, files: Sequence[int]) -> Forked:
    """Calls a function in a process of its own that goes on as the server is: streams, signals, and all state."""
    return Forked(_Request(function, arguments), [0, 1, 2, *files])


def fork_program(function: Callable[..., None], arguments: tuple, files: Sequence[int]) -> Forked:
    """Calls a function in a process of its own that starts as a program does; `files` begins with the standard ones."""
    return Forked(_Request(function, arguments, True, os.getcwd(), dict(os.environ)), files)


class Popen(subprocess.Popen):
    """Runs `python -m MODULE ...` or `python -c CODE ...` in a forked process that starts as a new one does."""

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags,
                       shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids, uid,
                       umask, start_new_session, *rest):  # fmt: skip
        """Replaces the one of `subprocess`, which all it does otherwise is based on."""
        assert args[0] == sys.executable and args[1] in ("-m", "-c") and not shell, "no Python program: use subprocess"
        environment = {key: str(value) for key, value in (os.environ if env is None else env).items()}
        arguments = (args[1], *map(str, args[2:]))
        request = _Request(_run_python, arguments, True, str(cwd or os.getcwd()), environment, start_new_session)
        files = [p2cread, c2pwrite, errwrite]
        self._forked = Forked(request, [number if file == -1 else file for number, file in enumerate(files)])
        self.pid = self._forked.pid
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    def _try_wait(self, wait_flags):
        status = self._forked.wait(is_blocking=not wait_flags & os.WNOHANG)
        return (0, 0) if status is None else (self.pid, status)

    def _internal_poll(self, _deadstate=None, **_):
        if self.returncode is None:
            with self._waitpid_lock:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)
        return self.returncode


def run(arguments: Sequence, *, capture_output=False, timeout=None, check=False, **options):
    """As `subprocess.run`, with `Popen` above."""
    if capture_output:
        options.update(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with Popen(arguments, **options) as process:
        try:
            out, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    result = subprocess.CompletedProcess(process.args, process.returncode, out, errors)
    if check:
        result.check_returncode()
    return result


def _fork(function: Callable[..., None], *arguments) -> int:
    """Calls a function in a process of its own, which ends with it, whatever it raises: the tests go on elsewhere."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        function(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _send(connection: socket.socket, request: _Request | None, files: Sequence[int]) -> None:
    content = pickle.dumps(request)
    socket.send_fds(connection, [_LENGTH.pack(len(content))], list(files))
    connection.sendall(content)


def _receive(connection: socket.socket) -> tuple[_Request | None, list[int]]:
    header, files, _, _ = socket.recv_fds(connection, _LENGTH.size, 16)
    content = b""
    while len(content) < _LENGTH.unpack(header)[0]:
        content += connection.recv(1 << 16)
    return pickle.loads(content), list(files)


def _receive_number(connection: socket.socket) -> int:
    content = connection.recv(_LENGTH.size, socket.MSG_WAITALL)
    if not content:
        raise RuntimeError("the process that forks others has ended, or could not start one")
    return _LENGTH.unpack(content)[0]


def _serve(listener: socket.socket, parent: int) -> None:
    """The server: forks a process for each request until it is to stop or whoever started it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # of the processes that wait for others
    while os.getppid() == parent:
        if not select.select([listener], [], [], 1.0)[0]:
            continue
        connection, _ = listener.accept()
        try:
            request, files = _receive(connection)
            if request is None:
                break
            if request.is_program:
                _import_package()
            _fork(_start_and_wait, listener, connection, request, files)
        except Exception:
            traceback.print_exc()
        connection.close()
        for file in files:
            os.close(file)
    save_coverage()


def _import_package() -> None:
    for module in pkgutil.walk_packages(electra_cli.__path__, "electra_cli."):
        importlib.import_module(module.name)


def _start_and_wait(listener: socket.socket, connection: socket.socket, request: _Request, files: list[int]) -> None:
    """Forks the process that was asked for, and tells its number and how it ended."""
    listener.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = _fork(_be, connection, request, files)
    for file in files:
        os.close(file)
    with contextlib.suppress(BrokenPipeError):  # whoever asked has ended
        connection.sendall(_LENGTH.pack(pid))
        connection.sendall(_LENGTH.pack(os.waitpid(pid, 0)[1]))


def _be(connection: socket.socket, request: _Request, files: list[int]) -> None:
    """Does what was asked for and ends the process as Python does."""
    connection.close()
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request.is_program:
        _forget_the_tests(request)
    code = 0
    try:
        request.function(*request.arguments, *files[3:])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code and code is not end.code:
            print(end.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()
    if request.is_program:
        atexit._run_exitfuncs()
    save_coverage()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            code = 120
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


def _forget_the_tests(request: _Request) -> None:
    """Makes a forked process what a new one is, but for the modules that it has imported."""
    if request.start_new_session:
        os.setsid()
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(request.directory)
    os.environ.clear()
    os.environ.update(request.environment or {})
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    errors = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = errors
    faulthandler.disable()
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    warnings.resetwarnings()
    for category in (ResourceWarning, ImportWarning, PendingDeprecationWarning, DeprecationWarning):
        warnings.simplefilter("ignore", category)
    warnings.filterwarnings("default", category=DeprecationWarning, module="__main__")
    atexit._clear()
    atexit.register(logging.shutdown)
    atexit.register(multiprocessing.util._exit_function)
    sys.modules["__main__"] = types.ModuleType("__main__")
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


def _run_python(option: str, program: str, *arguments: str) -> None:
    """`python -m MODULE` or `python -c CODE`."""
    if option == "-m":
        sys.argv = [program, *arguments]
        sys.modules.pop(program, None)  # As in a new process, where it is `__main__` first.
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *arguments]
        exec(compile(program, "<string>", "exec"), sys.modules["__main__"].__dict__)


def save_coverage() -> None:
    """Writes what coverage has seen in this process, unless it was dropped, to a file of its own."""
    current = _coverage()
    if current and not _coverage_is_dropped:
        current.stop()
        current.save()


def drop_coverage() -> None:
    """Measures coverage no longer in this process, which writes nothing of it."""
    global _coverage_is_dropped
    _coverage_is_dropped = True
    current = _coverage()
    if current:
        current.stop()


def _pause_coverage_in_tensorflow() -> None:
    """Measures no coverage where TensorFlow traces and calls none of our code, which otherwise takes twice the time."""
    if not _coverage() or "tensorflow" not in sys.modules:
        return
    from tensorflow.python.autograph.pyct.transpiler import PyToPy
    from tensorflow.python.framework import auto_control_deps, op_def_library, tensor_conversion_registry

    for owner, name in (
        (PyToPy, "transform_function"),
        (auto_control_deps.AutomaticControlDependencies, "__exit__"),
        (op_def_library, "_apply_op_helper"),
        (tensor_conversion_registry, "convert"),
    ):
        setattr(owner, name, _without_trace(getattr(owner, name)))


def _without_trace(function: Callable) -> Callable:
    """Returns a function during whose calls nothing is traced."""

    @functools.wraps(function)
    def call(*args, **options):
        trace = sys.gettrace()
        sys.settrace(None)
        try:
            return function(*args, **options)
        finally:
            sys.settrace(trace)

    return call


def _coverage():
    """What measures coverage in this process, or None."""
    coverage = sys.modules.get("coverage")
    return coverage and coverage.Coverage.current()
